"""What commands have in common: how they are added to the parser, and how they open the model they were told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, TypeAlias

from .. import DEFAULT_MODEL, TRUST_VARIABLE
from ..guard import Parser, complain

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..classifier import Classifier
    from ..isolation import Layer
    from ..trust import Trust

if TYPE_CHECKING:
    Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # what add_subparsers returns; it has no public name

ENGINE_NAMES = (
    "litert",
    "tflite-runtime",
    "onnxruntime",
    "openvino",
)  # as in engines.ENGINES, which needs numpy; a test compares


def add_command(
    commands: Commands, name: str, summary: str, description: str | None = None, examples: str | None = None
) -> Parser:
    """Add a command to the parser.

    Args:
        commands: of the parser.
        name: what is typed.
        summary: its line in the list of commands.
        description: what its own help says; default: the summary.
        examples: shown below its help.
    """
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=description or summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter if examples else argparse.HelpFormatter,
        allow_abbrev=False,
    )
    return parser


def model_option(parser: argparse.ArgumentParser, default: str = DEFAULT_MODEL) -> None:
    """Add ``--model``."""
    parser.add_argument("--model", default=default, metavar="MODEL", help="name or path; default: %(default)s")


def engine_options(parser: argparse.ArgumentParser, threads: int | None = None) -> None:
    """Add ``--engine``, ``--threads``, with a default for it, and ``--isolate``."""
    parser.add_argument(
        "--engine", choices=ENGINE_NAMES, help="default: as bench chose here, else the first that is installed"
    )
    usual = "likewise, else all CPUs but one, at most 4" if threads is None else threads
    parser.add_argument(
        "--threads", type=int, default=threads, metavar="N", help=f"for one inference; default: {usual}"
    )
    isolate_option(parser)


def isolate_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--isolate``."""
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="for bundles of untrusted authors: run the engine in a process that can neither reach files nor network",
    )


def trust_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``."""
    parser.add_argument(
        "--trust",
        metavar="FILE",
        help=f"accept only bundles signed by a key of this file; default: ${TRUST_VARIABLE}, else any bundle",
    )


def read_trust_option(options: argparse.Namespace) -> Trust | None:
    """Read the trust file that was asked for, by the option or the environment: a service cannot forget the latter."""
    path = os.environ.get(TRUST_VARIABLE) if options.trust is None else options.trust
    if path is None:
        return None
    from ..trust import read_trust

    return read_trust(path)


def open_classifier(model: str, options: argparse.Namespace) -> Classifier:
    """Open a model as the options of `engine_options` and `trust_option` say, and warn where it is degraded.

    Where neither engine nor threads are asked for, they are what ``bench`` found best on this device.
    """
    import logging

    from ..bundle import open_bundle
    from ..classifier import Classifier

    logging.getLogger("PIL").addHandler(logging.NullHandler())  # Pillow's remarks on odd files are not for users
    bundle = open_bundle(model, read_trust_option(options))
    engine, threads = options.engine, options.threads
    if engine is None and threads is None:
        engine, threads = _remembered(bundle)
    with quiet_libraries():
        classifier = Classifier.open(bundle, engine, threads, isolate=options.isolate)
    if classifier.engine.layers is not None:
        _tell(classifier.engine.layers)
    if not classifier.bundle.manifest.parity_passed:
        complain(f"{classifier.bundle.id} did not pass its parity gates: trust it less than its metrics", "warning")
    return classifier


def _tell(layers: tuple[Layer, ...]) -> None:
    """Say what holds an isolated engine in, and warn of what does not."""
    held = ", ".join(layer.name + (f" ({layer.detail})" if layer.detail else "") for layer in layers if layer.held)
    complain(f"the engine is isolated by: {held or 'a process of its own alone'}", "note")
    for layer in layers:
        if not layer.held:
            complain(f"isolation without {layer.name}: {layer.detail}", "warning")


def _remembered(bundle: Bundle) -> tuple[str | None, int | None]:
    """Return the engine and threads that ``bench`` chose for a bundle, or nothing; a wrong file is a warning."""
    from ..device_settings import SettingsError, recall, settings_path

    try:
        choice = recall(bundle.id, settings_path())
    except SettingsError as error:
        complain(str(error), "warning")
        return None, None
    return (None, None) if choice is None else (choice.engine, choice.threads)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what C and C++ libraries write to file descriptor 2 off standard error; what Python writes there stays.

    Engines remark ("INFO: Created ... delegate") and libtiff complains ("LZWDecode: Not enough data"), and no setting
    silences them; errors arrive as exceptions all the same. Only the command line does this: in a library it would mute
    the host program's other threads.
    """
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    nowhere, stream = os.open(os.devnull, os.O_WRONLY), sys.stderr
    try:
        if _leads_to(stream, 2):
            sys.stderr = os.fdopen(kept, "w", 1, stream.encoding, stream.errors, closefd=False)
        os.dup2(nowhere, 2)
        yield
    finally:
        if sys.stderr is not stream:
            sys.stderr.flush()
            sys.stderr = stream
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _leads_to(stream: TextIO | None, descriptor: int) -> bool:
    try:
        return stream is not None and stream.fileno() == descriptor
    except (OSError, ValueError):  # a stream without one, or closed
        return False
