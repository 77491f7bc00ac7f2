"""Guard: runs a command line so that whoever types it meets one line of text, never a traceback.

Every ``main`` of the project goes through `guarded`: subcommands set ``run`` (a function of the parsed arguments) as a
parser default; `LeukoscopeError` becomes ``error: ...`` on standard error and its exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .errors import LeukoscopeError


def guarded(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parse and run a command line.

    Args:
        parser: whose parsed result has ``run``: a function of the parsed arguments that returns an exit status or None.
        arguments: default: those of the process.

    Returns:
        0; 1 for a failure; 2 for wrong usage; 130 when interrupted.
    """
    try:
        args = parser.parse_args(arguments)
        return int(args.run(args) or 0)
    except LeukoscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe (head, say) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
