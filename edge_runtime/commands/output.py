"""Where a command's lines go: standard output or a file that appears whole; and a progress bar for terminals."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

FAILED = 1
"""Exit status when something failed: a picture, a bundle, a verification."""


@contextmanager
def writer(output: str | None) -> Iterator[Write]:
    """Give a function that writes a line to a file, which appears when it is whole, or to standard output."""
    if output is None:
        yield Write(sys.stdout)
        return
    import io
    from pathlib import Path

    from ..files import write_whole

    with write_whole(Path(output)) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="\n")
        yield Write(text)
        text.flush()
        text.detach()


class Write:
    """Write lines to a stream, each at once: who reads a pipe wants answers when they are there."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __call__(self, line: str) -> None:
        """Write a line."""
        print(line, file=self._stream, flush=True)


class TerminalLine:
    """A line on standard error that is drawn again and again; for terminals only."""

    def __init__(self, silent: bool) -> None:
        self._shown = sys.stderr.isatty() and not silent

    def draw(self, text: str) -> None:
        """Put `text` in the place of what stood there."""
        if self._shown:
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take it off the line, so that another text can stand there."""
        self.draw("")


class Bar(TerminalLine):
    """A progress bar, for many pictures."""

    def __init__(self, total: int, silent: bool) -> None:
        super().__init__(silent or total <= 1)
        self._total = total

    def show(self, done: int) -> None:
        """Draw it with `done` of the pictures behind."""
        if self._shown:
            self.draw(f"{self._boxes(done)} {done}/{self._total}")

    def _boxes(self, done: int) -> str:
        filled = 30 * done // self._total
        return f"[{'#' * filled}{'.' * (30 - filled)}]"


class Pace(Bar):
    """A progress bar for long work: with pictures per second and the time that is left."""

    def __init__(self, total: int, before: int, silent: bool) -> None:
        super().__init__(total, silent)
        self._before, self._start_s, self._last_s = before, time.monotonic(), 0.0

    def show(self, done: int) -> None:
        """Draw it with `done` of the pictures behind, `before` of which were so already; a few times a second."""
        now_s = time.monotonic()
        if not self._shown or now_s - self._last_s < 0.2:
            return
        self._last_s = now_s
        pace = (done - self._before) / max(now_s - self._start_s, 1e-9)
        left = f", {_duration((self._total - done) / pace)} left" if pace > 0 else ""
        self.draw(f"{self._boxes(done)} {done:,}/{self._total:,}, {pace:.0f}/s{left}")


def _duration(seconds: float) -> str:
    """Say a time for people: 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
