"""The command line: ``python -m edge_runtime COMMAND``; what a command takes and does is in its module of ``commands``.

Results go to standard output or ``--output``; errors and warnings, one line each, to standard error. Exit status: 0,
1 when something failed (a picture, a bundle, a verification), 2 when the command itself makes no sense. Nobody is shown
a traceback. Whatever is heavy (numpy, Pillow, an engine) is imported inside the command that needs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .guard import Parser, guarded

COMMANDS = ("classify", "scan", "archive", "watch", "camera", "serve", "models", "info", "verify", "doctor", "bench")
"""Modules of ``commands``, in the order of the help."""

EXAMPLES = """\
examples:
  python -m edge_runtime classify smear.jpg
  python -m edge_runtime classify --model blood-cells --csv --output cells.csv cells/
  python -m edge_runtime scan fields/ --out report/
  python -m edge_runtime watch --output results.jsonl smears/
  python -m edge_runtime verify

Research decision support, not a diagnosis.
"""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m edge_runtime") -> int:
    """Run a command and return its exit status.

    Args:
        arguments: default: those of the process.
        prog: what help texts call the program.
    """
    given = sys.argv[1:] if arguments is None else arguments
    # A command that is named is the only one whose module is imported: each start would pay for all.
    return guarded(build_parser(prog, given[:1] if given and given[0] in COMMANDS else COMMANDS), arguments)


def script() -> int:
    """Run the command ``leukoscope`` that the installed package has."""
    return main(prog="leukoscope")


def build_parser(prog: str = "python -m edge_runtime", names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of commands.

    Args:
        prog: what help texts call the program.
        names: of `COMMANDS`.
    """
    parser = Parser(
        prog=prog,
        description="Classify blood-smear pictures and show what the answer rests on, offline.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"leukoscope {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in names:
        import_module(f".commands.{name}", __package__).add(commands)
    return parser
