"""Endings: how a process that ended did so, in words. Its wait status in, a few words out."""

from __future__ import annotations

import signal


def ending(status: int) -> str:
    """Say how a process ended.

    Args:
        status: as ``subprocess.Popen.returncode`` has it: the exit status, or less than 0 for a signal.

    Returns:
        "SIGSEGV", say, or "exit status 3".
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {-status}"
