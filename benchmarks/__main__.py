"""`python -m benchmarks COMMAND`: `cost` and `side-by-side` write their ``results``, and all pages' tables anew."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from edge_runtime.guard import Parser, guarded

COMMANDS = ("cost", "side-by-side", "compare", "peer-models")
"""Modules of this package, hyphens for underscores, each with ``add(commands)``, in the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status.

    Args:
        arguments: default: those of the process.
    """
    parser = Parser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f".{name.replace('-', '_')}", __package__).add(commands)
    return guarded(parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
