"""``scan``: fields and slides in; their white cells, classified and counted, out: a summary, JSON lines, a report."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ..errors import EngineError, ImageError
from ..guard import complain, plain
from .opening import add_command, engine_options, model_option, open_classifier, quiet_libraries, trust_option
from .output import FAILED, Bar, Write

if TYPE_CHECKING:
    from ..scan import FieldScan, Progress, Scanner
    from .opening import Commands

T = TypeVar("T")

MODEL = "blood-cells"
"""The bundle for single cells."""

EXAMPLES = """\
examples:
  python -m edge_runtime scan field.jpg
  python -m edge_runtime scan fields/ --out report/
  python -m edge_runtime scan slide.svs --out report/ --um-per-px 0.25
  python -m edge_runtime scan --json fields/ > fields.jsonl
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    scan = add_command(
        commands,
        "scan",
        "find, classify and count the white cells of fields and slides",
        "Find the white cells of fields and slides, classify each, and count. Pictures as for classify; slides (SVS, "
        "NDPI, MRXS, tiled TIFF and others) with OpenSlide. A bad picture gets one line on standard error, the others "
        "go on, and the exit status is 1. A scan that was stopped has written no report; start it again.",
        EXAMPLES,
    )
    scan.add_argument("pictures", nargs="+", metavar="PICTURE", help="file, folder (searched), or - for stdin")
    scan.add_argument(
        "--out", metavar="DIR", help="write report.html, cells.csv, scan.json and contact-sheet.jpg there"
    )
    scan.add_argument("--json", action="store_true", help="one JSON object per field (or tile) and line, as they come")
    scan.add_argument(
        "--um-per-px",
        type=float,
        metavar="X",
        help="micrometres per pixel of all pictures; default: red cells are measured in each",
    )
    model_option(scan, MODEL)
    engine_options(scan, threads=1)
    trust_option(scan)
    scan.set_defaults(run=_scan)


def _scan(options: argparse.Namespace) -> int:
    from pathlib import Path

    from .. import report
    from ..differential import Tally
    from ..pictures import find_pictures
    from ..preprocess import PICTURE_SUFFIXES
    from ..scan import Scanner
    from ..scan_files import scan_files
    from ..scan_text import differential_text
    from ..slides import SLIDE_SUFFIXES

    unlisted: list[OSError] = []
    named = find_pictures(options.pictures, unlisted.append, options.out, PICTURE_SUFFIXES | SLIDE_SUFFIXES)
    pictures = _once(named)
    for error in unlisted:
        complain(f"{error.filename}: cannot be listed: {error.strerror}")
    classifier = open_classifier(options.model, options)
    scanner = Scanner(classifier, options.um_per_px)
    tally, write = Tally(classifier.bundle.manifest), Write(sys.stdout)
    with ExitStack() as stack:
        files = None if options.out is None else stack.enter_context(scan_files(Path(options.out), classifier.bundle))
        stack.enter_context(quiet_libraries())
        silent = options.json and sys.stdout.isatty()
        bar = Bar(len(pictures), silent)
        stack.callback(bar.clear)
        for place, picture in enumerate(pictures):
            bar.show(place)
            name = "stdin" if picture == "-" else picture
            try:
                for field in _fields(scanner, picture, name, partial(_tiles, silent=silent)):
                    tally.add(field)
                    if files:
                        files.add(field)
                    if options.json:
                        write(report.json_line(field.to_dict()))
            except (ImageError, EngineError) as error:  # the others go on
                said = str(error) if isinstance(error, ImageError) else f"{name}: {error}"
                bar.clear()
                complain(said)
                tally.fail(name, said)
                if options.json:
                    write(report.json_line({"field": name, "error": said}))
        if files:
            files.finish(tally)
    found = tally.differential()
    if not options.json:
        write(differential_text(found))
        if options.out is not None:
            write(f"written to {plain(options.out)}")
        write(report.NOTE)
    return FAILED if found.failed or unlisted else 0


def _once(named: Sequence[str]) -> list[str]:
    """Leave out what is named twice, and say which files are copies of others: every cell is counted once."""
    from ..digest import sha256_hex_of_stream
    from ..pictures import STDIN

    places: dict[str, str] = {}
    for name in named:
        places.setdefault(STDIN if name == STDIN else os.path.realpath(name), name)
    sizes = {name: os.path.getsize(name) for name in places.values() if name != STDIN and os.path.isfile(name)}
    alike = Counter(sizes.values())
    met: dict[str, str] = {}
    pictures = []
    for name in places.values():
        if alike[sizes.get(name, -1)] > 1:  # only these can be copies
            with suppress(OSError), open(name, "rb") as stream:
                other = met.setdefault(sha256_hex_of_stream(stream), name)
                if other != name:
                    complain(f"{name}: the same bytes as {other}, which is counted; left out")
                    continue
        pictures.append(name)
    return pictures


def _fields(scanner: Scanner, picture: str, name: str, progress: Progress) -> Iterator[FieldScan]:
    """Scan one picture of the command line, whatever it is; a wide one comes in parts."""
    from ..preprocess import read_stream
    from ..slides import is_slide, scan_slide

    if picture == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ImageError("stdin: is a terminal", expected="a picture file")
        yield from scanner.looks(read_stream(sys.stdin.buffer, name), name, progress)
    elif is_slide(picture):
        yield from scan_slide(scanner, picture, progress)
    else:
        yield from scanner.looks(picture, name, progress)


def _tiles(tiles: Sequence[T], silent: bool) -> Iterator[T]:
    """Show a bar while tiles are worked on."""
    bar = Bar(len(tiles), silent)
    try:
        for place, tile in enumerate(tiles):
            bar.show(place)
            yield tile
    finally:
        bar.clear()
