"""``scan``: fields and slides in; their white cells, classified and counted, out: a summary, JSON lines, a report."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ..errors import EngineError, ImageError, UsageError
from ..guard import complain, plain
from .opening import add_command, engine_options, model_option, open_classifier, quiet_libraries, trust_option
from .output import FAILED, Bar, Write

if TYPE_CHECKING:
    from ..field_workers import FieldWorkers
    from ..scan import FieldScan, Progress, Scanner
    from .opening import Commands

    Looks = Callable[[Progress], Iterator[FieldScan]]
    """Looks at one picture."""

T = TypeVar("T")

MODEL = "blood-cells"
"""The bundle for single cells."""

MIN_PICTURES = 4
"""With fewer, to start workers takes longer than they save."""

MAX_WORKERS = 1024

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
    scan.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes that share the pictures; default: the CPUs, 1 for fewer than {MIN_PICTURES} pictures",
    )
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

    if options.workers is not None and not 1 <= options.workers <= MAX_WORKERS:
        raise UsageError("--workers", got=options.workers, expected=f"1 to {MAX_WORKERS}")
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
        workers = _workers(options.workers, pictures, scanner, stack)
        bar, tiles = Bar(len(pictures), silent), partial(_tiles, silent=silent)
        stack.callback(bar.clear)
        for place, (name, looks) in enumerate(_in_turn(pictures, scanner, workers)):
            bar.show(place)
            try:
                for field in looks(tiles):
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


def _workers(asked: int | None, pictures: Sequence[str], scanner: Scanner, stack: ExitStack) -> FieldWorkers | None:
    """Return worker processes, which end with the stack; None where this process does best alone."""
    from ..machine import usable_cpus

    shared = sum(map(_may_be_handed, pictures))
    if asked is None and (shared < MIN_PICTURES or os.name != "posix"):
        return None
    count = min(asked or usable_cpus() // scanner.classifier.engine.threads, shared)
    if count <= 1:
        return None
    from ..field_workers import FieldWorkers

    workers = FieldWorkers(scanner, count)
    stack.callback(workers.close)
    return workers


def _may_be_handed(picture: str) -> bool:
    """Say whether a worker can look at it; not at pipes, which may be this process's own, and slides are not shared."""
    from pathlib import Path

    from ..slides import SLIDE_SUFFIXES

    return picture != "-" and os.path.isfile(picture) and Path(picture).suffix.lower() not in SLIDE_SUFFIXES


def _in_turn(pictures: Sequence[str], scanner: Scanner, workers: FieldWorkers | None) -> Iterator[tuple[str, Looks]]:
    """Give the pictures' names in order, and what looks at each; workers are handed theirs before its turn comes.

    While this process itself looks at one, workers rest: what that needs may be all the memory there is.
    """
    from ..slides import is_slide

    ahead: deque[tuple[str, Looks]] = deque()
    for picture in pictures:
        name = "stdin" if picture == "-" else picture
        if workers and _may_be_handed(picture) and not is_slide(picture) and workers.has_room(picture):
            handed = workers.hand(os.path.realpath(picture), name)  # /dev/stdin is another one there
            ahead.append((name, partial(workers.take, handed)))
            if len(ahead) >= workers.ahead:
                yield ahead.popleft()
        else:
            while ahead:
                yield ahead.popleft()
            yield name, partial(_fields, scanner, picture, name)
    yield from ahead


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
