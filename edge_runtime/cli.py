"""The command line: ``python -m edge_runtime classify | models | info | verify``. The only file that prints.

Results go to standard output or ``--output``; errors and warnings, one line each, to standard error. Exit status: 0,
1 when something failed (a picture, a bundle, a verification), 2 when the command itself makes no sense. Nobody is shown
a traceback. Whatever is heavy (numpy, Pillow, an engine) is imported inside the command that needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

from . import DEFAULT_MODEL, TRUST_VARIABLE, __version__
from .errors import ImageError, LeukoscopeError, UsageError
from .guard import Parser, complain, guarded

if TYPE_CHECKING:
    from .classifier import Classifier, Prediction
    from .explanation import Explanation
    from .trust import Trust

_ENGINES = (
    "litert",
    "tflite-runtime",
    "onnxruntime",
    "openvino",
)  # as in engines.ENGINES, which needs numpy; a test compares
_FAILED = 1

_EXAMPLES = """\
examples:
  python -m edge_runtime classify smear.jpg
  python -m edge_runtime classify --explain --overlay out/ --json folder/ > answers.jsonl
  python -m edge_runtime classify --model blood-cells --csv --output cells.csv cells/
  cat smear.jpg | python -m edge_runtime classify -
  python -m edge_runtime verify

Research decision support, not a diagnosis.
"""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m edge_runtime") -> int:
    """Run a command and return its exit status.

    Args:
        arguments: default: those of the process.
        prog: what help texts call the program.
    """
    return guarded(_parser(prog), arguments)


def script() -> int:
    """Run the command ``leukoscope`` that the installed package has."""
    return main(prog="leukoscope")


def _parser(prog: str) -> argparse.ArgumentParser:
    plain_text = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog=prog,
        description="Classify blood-smear pictures and show what the answer rests on, offline.",
        epilog=_EXAMPLES,
        formatter_class=plain_text,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"leukoscope {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    classify = commands.add_parser(
        "classify",
        help="classify pictures",
        description="Classify pictures: JPEG, PNG, TIFF, BMP or WebP. A bad picture gets one line on standard error, "
        "the others go on, and the exit status is 1.",
        epilog=_EXAMPLES,
        formatter_class=plain_text,
        allow_abbrev=False,
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
    classify.add_argument("--model", default=DEFAULT_MODEL, metavar="MODEL", help="name or path; default: %(default)s")
    classify.add_argument("--top", type=int, default=3, metavar="N", help="labels in a line; default: %(default)s")
    _engine_options(classify)
    _trust_option(classify)
    classify.set_defaults(run=_classify)

    models = commands.add_parser("models", help="list the bundles that came with this package", allow_abbrev=False)
    models.add_argument("--json", action="store_true", help="one JSON object per bundle and line")
    models.set_defaults(run=_models)

    info = commands.add_parser("info", help="show what a bundle says about itself", allow_abbrev=False)
    info.add_argument("model", metavar="MODEL", help="name or path")
    info.add_argument("--json", action="store_true", help="its manifest")
    _trust_option(info)
    info.set_defaults(run=_info)

    verify = commands.add_parser(
        "verify",
        help="check a bundle on this device",
        description="Check the hashes of all files and run the golden pictures; exit status 1 when one fails.",
        allow_abbrev=False,
    )
    verify.add_argument("models", nargs="*", metavar="MODEL", help="names or paths; default: all that came along")
    verify.add_argument("--json", action="store_true", help="one JSON object per bundle and line")
    _engine_options(verify)
    _trust_option(verify)
    verify.set_defaults(run=_verify)
    return parser


def _engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=_ENGINES, help="default: the first that is installed and has a model")
    parser.add_argument("--threads", type=int, metavar="N", help="for one inference; default: the CPUs, at most 4")


def _trust_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        metavar="FILE",
        help=f"accept only bundles signed by a key of this file; default: ${TRUST_VARIABLE}, else any bundle",
    )


def _classify(options: argparse.Namespace) -> int:
    if options.top < 1:
        raise UsageError("--top", got=options.top, expected="at least 1")
    from . import report
    from .pictures import find_pictures, overlay_paths

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
    classifier = _open(options.model, options)
    manifest = classifier.bundle.manifest
    with ExitStack() as stack:
        write = stack.enter_context(_writer(options.output))
        if options.csv:
            write(report.csv_header(manifest, options.explain))
        bar = _Bar(len(pictures), silent=options.output is None and sys.stdout.isatty())
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
                bar.clear()
                complain(str(error))
                if options.json:
                    write(report.json_line({"picture": shown, "error": str(error)}))
                elif options.csv:
                    write(report.csv_error(shown, str(error), manifest, options.explain))
                continue
            if options.json:
                write(report.prediction_json(shown, prediction, explanation))
            elif options.csv:
                write(report.csv_row(shown, prediction, explanation))
            else:
                write(report.prediction_line(shown, prediction, options.top, explanation))
        if not (options.json or options.csv):
            write(report.NOTE)
    return _FAILED if failures else 0


def _one(classifier: Classifier, name: str) -> Prediction:
    if name != "-":
        return classifier.classify(name)
    from .preprocess import read_stream

    if sys.stdin is None or sys.stdin.isatty():
        raise ImageError("stdin: is a terminal", expected="a picture file")
    return classifier.classify(read_stream(sys.stdin.buffer, "stdin"), "stdin")


def _explain(prediction: Prediction, kind: str) -> Explanation:
    from .explanation import explain

    return explain(prediction, kind)


def _save_overlay(prediction: Prediction, path: os.PathLike[str], explanation: Explanation | None) -> None:
    from pathlib import Path

    from .files import make_folder
    from .overlay import save_overlay

    make_folder(Path(path).parent)
    save_overlay(prediction, Path(path), explanation)


def _models(options: argparse.Namespace) -> int:
    from . import report
    from .bundle import default_bundles, open_bundle

    facts, failures = [], 0
    for name in default_bundles():
        try:
            facts.append(report.bundle_facts(name, open_bundle(name)))
        except LeukoscopeError as error:
            failures += 1
            complain(str(error))
    if options.json:
        for fact in facts:
            print(report.json_line(fact))
    else:
        print(report.models_table(facts) if facts else "No bundles came with this package.")
    return _FAILED if failures else 0


def _info(options: argparse.Namespace) -> int:
    from . import report
    from .bundle import open_bundle

    bundle = open_bundle(options.model, _trust(options))
    print(report.json_line(bundle.manifest.raw) if options.json else report.info_text(bundle))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from . import report
    from .bundle import default_bundles
    from .golden import verify

    models = options.models or default_bundles()
    if not models:
        raise UsageError("no bundle to verify", expected="the path of a bundle")
    failures = 0
    for model in models:
        try:
            classifier = _open(model, options)
            found = verify(classifier)
        except UsageError:
            raise
        except LeukoscopeError as error:
            failures += 1
            complain(str(error))
            if options.json:
                print(report.json_line({"model": model, "passed": False, "error": str(error)}))
            continue
        failures += not found.passed
        signer = classifier.bundle.signer
        if options.json:
            print(report.json_line({"model": model, **found.to_dict(), **report.signer_facts(signer)}))
        else:
            print(report.verify_text(found, signer))
    return _FAILED if failures else 0


def _trust(options: argparse.Namespace) -> Trust | None:
    """Read the trust file that was asked for, by the option or the environment: a service cannot forget the latter."""
    path = os.environ.get(TRUST_VARIABLE) if options.trust is None else options.trust
    if path is None:
        return None
    from .trust import read_trust

    return read_trust(path)


def _open(model: str, options: argparse.Namespace) -> Classifier:
    import logging

    from .classifier import Classifier

    logging.getLogger("PIL").addHandler(logging.NullHandler())  # Pillow's remarks on odd files are not for users
    trust = _trust(options)
    with _quiet_engine():
        classifier = Classifier.open(model, options.engine, options.threads, trust)
    if not classifier.bundle.manifest.parity_passed:
        complain(f"{classifier.bundle.id} did not pass its parity gates: trust it less than its metrics", "warning")
    return classifier


@contextmanager
def _quiet_engine() -> Iterator[None]:
    """Keep the engines' own remarks ("INFO: Created ... delegate") off standard error while a model is loaded.

    They are written by C++ to file descriptor 2 and no setting silences them. Errors arrive as exceptions all the same.
    Only the command line does this: in a library it would mute the host program's other threads.
    """
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _writer(output: str | None) -> Iterator[_Write]:
    """Give a function that writes a line to a file, which appears when it is whole, or to standard output."""
    if output is None:
        yield _Write(sys.stdout)
        return
    import io
    from pathlib import Path

    from .files import write_whole

    with write_whole(Path(output)) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="\n")
        yield _Write(text)
        text.flush()
        text.detach()


class _Write:
    """Write lines to a stream, each at once: who reads a pipe wants answers when they are there."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __call__(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class _Bar:
    """A progress bar on standard error, for many pictures and a terminal only."""

    def __init__(self, total: int, silent: bool) -> None:
        self._total, self._shown = total, total > 1 and sys.stderr.isatty() and not silent

    def show(self, done: int) -> None:
        if self._shown:
            filled = 30 * done // self._total
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {done}/{self._total}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
