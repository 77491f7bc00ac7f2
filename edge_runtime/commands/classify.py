"""``classify``: pictures in; a line, JSON object or CSV row for each out. A bad one gets its line, the rest go on."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..errors import EngineError, ImageError, LeukoscopeError, UsageError
from ..guard import complain
from .opening import add_command, engine_options, model_option, open_classifier, quiet_libraries, trust_option
from .output import FAILED, Bar, writer

if TYPE_CHECKING:
    from ..classifier import Classifier, Prediction
    from ..explanation import Explanation
    from .opening import Commands

EXAMPLES = """\
examples:
  python -m edge_runtime classify smear.jpg
  python -m edge_runtime classify --explain --overlay out/ --json folder/ > answers.jsonl
  python -m edge_runtime classify --model blood-cells --csv --output cells.csv cells/
  cat smear.jpg | python -m edge_runtime classify -
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    classify = add_command(
        commands,
        "classify",
        "classify pictures",
        "Classify pictures: JPEG, PNG, TIFF, BMP or WebP. A bad picture gets one line on standard error, the others go "
        "on, and the exit status is 1.",
        EXAMPLES,
    )
    classify.add_argument("pictures", nargs="+", metavar="PICTURE", help="file, folder (searched), or - for stdin")
    form = classify.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per picture and line")
    form.add_argument("--csv", action="store_true", help="a CSV table")
    classify.add_argument("--output", metavar="FILE", help="write there instead of standard output")
    classify.add_argument("--overlay", metavar="PATH", help="draw the heatmaps: a folder, or a file for one picture")
    classify.add_argument(
        "--explain",
        action="store_true",
        help="say where the heat lies: share on white cells, centre, box; overlays also show answer against runner-up",
    )
    classify.add_argument("--top", type=int, default=3, metavar="N", help="labels in a line; default: %(default)s")
    model_option(classify)
    engine_options(classify)
    trust_option(classify)
    classify.set_defaults(run=_classify)


def _classify(options: argparse.Namespace) -> int:
    if options.top < 1:
        raise UsageError("--top", got=options.top, expected="at least 1")
    from .. import report
    from ..pictures import find_pictures, overlay_paths

    failures = 0

    def unlisted(error: OSError) -> None:
        nonlocal failures
        failures += 1
        complain(f"{error.filename}: cannot be listed: {error.strerror}")

    pictures = find_pictures(options.pictures, unlisted)
    overlays: list[os.PathLike[str]] | None = None
    if options.overlay is not None:
        from pathlib import Path

        overlays = list(overlay_paths(pictures, Path(options.overlay)))
    if options.output is not None and os.path.realpath(options.output) in map(os.path.realpath, pictures):
        raise UsageError("--output would overwrite a picture", got=options.output)
    classifier = open_classifier(options.model, options)
    manifest = classifier.bundle.manifest
    with ExitStack() as stack:
        write = stack.enter_context(writer(options.output))
        if options.csv:
            write(report.csv_header(manifest, options.explain))
        stack.enter_context(quiet_libraries())
        bar = Bar(len(pictures), silent=options.output is None and sys.stdout.isatty())
        stack.callback(bar.clear)
        for place, name in enumerate(pictures):
            bar.show(place)
            shown = "stdin" if name == "-" else name
            try:
                prediction = _one(classifier, name)
                explanation = _explain(prediction, manifest.task.kind) if options.explain else None
                if overlays is not None:
                    _save_overlay(prediction, overlays[place], explanation)
            except LeukoscopeError as error:
                failures += 1
                said = f"{shown}: {error}" if isinstance(error, EngineError) else str(error)
                bar.clear()
                complain(said)
                if options.json:
                    write(report.json_line({"picture": shown, "error": said}))
                elif options.csv:
                    write(report.csv_error(shown, said, manifest, options.explain))
                continue
            if options.json:
                write(report.prediction_json(shown, prediction, explanation))
            elif options.csv:
                write(report.csv_row(shown, prediction, explanation))
            else:
                write(report.prediction_line(shown, prediction, options.top, explanation))
        if not (options.json or options.csv):
            write(report.NOTE)
    return FAILED if failures else 0


def _one(classifier: Classifier, name: str) -> Prediction:
    if name != "-":
        return classifier.classify(name)
    from ..preprocess import read_stream

    if sys.stdin is None or sys.stdin.isatty():
        raise ImageError("stdin: is a terminal", expected="a picture file")
    return classifier.classify(read_stream(sys.stdin.buffer, "stdin"), "stdin")


def _explain(prediction: Prediction, kind: str) -> Explanation:
    from ..explanation import explain

    return explain(prediction, kind)


def _save_overlay(prediction: Prediction, path: os.PathLike[str], explanation: Explanation | None) -> None:
    from pathlib import Path

    from ..files import make_folder
    from ..overlay import save_overlay

    make_folder(Path(path).parent)
    save_overlay(prediction, Path(path), explanation)
