"""Guard: runs a command line so that whoever types it meets one line of text, never a traceback.

Every ``main`` of the project goes through `guarded`: subcommands set ``run`` (a function of the parsed arguments) as a
parser default; `LeukoscopeError` becomes ``error: ...`` on standard error and its exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .errors import LeukoscopeError, UsageError

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + the signal's number, as shells have it."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and a hint, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        complain(f"{message} (see: {self.prog} --help)")
        raise SystemExit(UsageError.exit_status)


def guarded(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parse and run a command line.

    Args:
        parser: whose parsed result has ``run``: a function of the parsed arguments that returns an exit status or None.
        arguments: default: those of the process.

    Returns:
        0; 1 for a failure; 2 for wrong usage; 130 when interrupted.
    """
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # the name of a file need not exist in this encoding
    try:
        args = parser.parse_args(arguments)
        status = int(args.run(args) or 0)
        sys.stdout.flush()  # here: at exit nobody could catch that the pipe is closed
        return status
    except LeukoscopeError as error:
        complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        complain("out of memory")
        return LeukoscopeError.exit_status
    except BrokenPipeError:  # the reader of a pipe (head, say) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # the file system's own refusals, wherever they come from
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
        return LeukoscopeError.exit_status


def _open_standard_streams() -> None:
    """Let closed standard streams (``2>&-``) lead nowhere: else a file opened later gets number and text."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def complain(message: str, kind: str = "error") -> None:
    """Print one line on standard error."""
    print(f"{kind}: {plain(message)}", file=sys.stderr)


def plain(text: str) -> str:
    """Return a text as one line without control characters, which could redraw a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
