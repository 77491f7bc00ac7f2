"""Settling: the files that are kept in mind until they have stood still long enough to be looked at.

What comes in are names with stamps; what goes out is each of them one settling time later, in the order in which they
came. How many may be kept is for the caller to say; nothing here looks at a file.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from .arrivals import Stamp

LEAST_S = 0.05
"""A file is never looked at sooner again: without a pause, one that does not decode would keep the program busy."""


@dataclass(frozen=True)
class Wait:
    """A file that is kept in mind.

    Attributes:
        name: within the watched folder.
        stamp: that it had when it was last looked at.
        since_s: since when it has that stamp, by the monotonic clock.
        due_s: when to look again, by the same clock.
        failed: whether it did not decode with that stamp.
    """

    name: str
    stamp: Stamp
    since_s: float
    due_s: float
    failed: bool

    @property
    def still_s(self) -> float:
        """Return how long it has stood still, seconds."""
        return time.monotonic() - self.since_s


class Settling:
    """Files in the order in which they become due: each goes to the end when it is put."""

    def __init__(self, settle_s: float) -> None:
        """Begin empty; each file becomes due `settle_s` after it was put, `LEAST_S` at least."""
        self._settle_s = max(settle_s, LEAST_S)
        self._waits: dict[str, Wait] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, name: str) -> bool:
        return name in self._waits

    def put(self, name: str, stamp: Stamp, since_s: float | None = None, failed: bool = False) -> None:
        """Keep a file that was not kept.

        Args:
            name: within the watched folder.
            stamp: that it has now.
            since_s: since when; default: now.
            failed: whether it did not decode with that stamp.
        """
        moment_s = time.monotonic()
        self._waits[name] = Wait(
            name, stamp, moment_s if since_s is None else since_s, moment_s + self._settle_s, failed
        )

    def take_due(self) -> Wait | None:
        """Return the first file and forget it, if it is due."""
        if self.due_in_s > 0:
            return None
        return self._waits.pop(next(iter(self._waits)))

    @property
    def due_in_s(self) -> float:
        """Return in how many seconds the first file is due; infinity where none is kept."""
        for wait in self._waits.values():
            return max(0.0, wait.due_s - time.monotonic())
        return float("inf")
