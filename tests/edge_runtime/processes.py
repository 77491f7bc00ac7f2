"""Processes, for tests of commands that start some: which run, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

BOUND_S = 60.0
"""Waiting longer than this is in vain."""


def until(true: Callable[[], T]) -> T:
    """Wait for something to become true, and return it."""
    bound = time.monotonic() + BOUND_S
    while not (found := true()):
        assert time.monotonic() < bound, "waited in vain"
        time.sleep(0.01)
    return found


def children(pid: int) -> list[int]:
    """The processes that a process started and that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(place.parent.name))
    return found
