"""The command line: ``python -m edge_runtime COMMAND``; what a command takes and does is in its module of ``commands``.

Results go to standard output or ``--output``; errors and warnings, one line each, to standard error. Exit status: 0,
1 when something failed (a picture, a bundle, a verification), 2 when the command itself makes no sense. Nobody is shown
a traceback. Whatever is heavy (numpy, Pillow, an engine) is imported inside the command that needs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import __version__
from .commands import bench, camera, classify, doctor, info, models, scan, serve, verify, watch
from .guard import Parser, guarded

COMMANDS = (classify, scan, watch, camera, serve, models, info, verify, doctor, bench)
"""In the order of the help."""

EXAMPLES = (
    classify.EXAMPLES
    + """\
  python -m edge_runtime verify

Research decision support, not a diagnosis.
"""
)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m edge_runtime") -> int:
    """Run a command and return its exit status.

    Args:
        arguments: default: those of the process.
        prog: what help texts call the program.
    """
    return guarded(build_parser(prog), arguments)


def script() -> int:
    """Run the command ``leukoscope`` that the installed package has."""
    return main(prog="leukoscope")


def build_parser(prog: str = "python -m edge_runtime") -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog=prog,
        description="Classify blood-smear pictures and show what the answer rests on, offline.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"leukoscope {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
