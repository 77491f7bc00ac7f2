"""Outlets: where the journal's lines are told, standard output or a file, and up to which line that has been done.

What comes in are lines in the order of their sequence; what goes out are the same bytes. A file is made to agree with
the journal when it is opened: a torn last line is cut, missing lines follow, so that each stands there exactly once. A
pipe cannot be asked what its reader has got: there, lines since the last noted one come again, with the same id.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from .errors import LeukoscopeError, OutputError
from .journal import Journal

_TAILS_BYTES = (65_536, 1_048_576, 67_108_864)
"""How much of a file's end is searched for a line that the journal has, in turn."""


class Outlet(Protocol):
    """Where lines go."""

    told: int
    """Sequence of the last line that is there."""

    def tell(self, lines: Sequence[tuple[int, str]]) -> None:
        """Write (sequence, line) pairs that follow `told`; it rises with them, to the last one unless it was stopped.

        Raises:
            OutputError: not all could be written; those after `told` may be given again.
        """

    def close(self) -> None:
        """Let go."""


_LOOK_MS = 200


class Stream:
    """A descriptor, such as standard output's: each line at least once."""

    def __init__(self, descriptor: int, told: int, patient: Callable[[], bool] = lambda: True) -> None:
        """Write to `descriptor` what follows the sequence `told`.

        Args:
            descriptor: open for writing.
            told: sequence of the last line that is there.
            patient: asked while the reader of a pipe is slow: whether to go on waiting for it.
        """
        self._descriptor, self.told, self._patient = descriptor, told, patient
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)
        self._begun_bytes = 0  # of the line after `told`: on a disk that is full, half of it may stand there already

    def tell(self, lines: Sequence[tuple[int, str]]) -> None:
        """Write lines, as `Outlet.tell`; a reader that has gone is a `BrokenPipeError`."""
        for sequence, line in lines:
            encoded = line.encode() + b"\n"
            try:
                while self._begun_bytes < len(encoded):
                    while not self._ready.poll(_LOOK_MS):
                        if not self._patient():
                            return
                    # A pipe that is ready has room for so many bytes: nobody waits in here for a reader that hangs.
                    piece = encoded[self._begun_bytes : self._begun_bytes + select.PIPE_BUF]
                    self._begun_bytes += os.write(self._descriptor, piece)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError("standard output: cannot be written", got=error.strerror) from None
            self.told, self._begun_bytes = sequence, 0

    def close(self) -> None:
        """Leave it open: it is not ours."""


class ResultsFile:
    """A file of JSON lines: each result exactly once."""

    def __init__(self, path: str, journal: Journal) -> None:
        """Open or make the file, and let it agree with the journal.

        Raises:
            OutputError: it cannot be written, another process writes it, or it is not this journal's.
        """
        self._path, self._journal = path, journal
        self._descriptor, self.told, self._size_bytes = self._open()

    def _open(self) -> tuple[int, int, int]:
        """Open the file and let it agree: descriptor, sequence of its last line, and its size, bytes."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written", got=error.strerror) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            told, size_bytes = self._agreed(descriptor)
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
            self._keep_name()
            return descriptor, told, size_bytes
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(f"{self._path}: another process writes it", todo="another --output") from None
        except OSError as error:
            os.close(descriptor)
            raise OutputError(f"{self._path}: cannot be written", got=error.strerror) from None
        except LeukoscopeError:
            os.close(descriptor)
            raise

    def _keep_name(self) -> None:
        """Bring the file's name to the medium: a new file is lost with its folder's entry."""
        folder = os.open(os.path.dirname(os.path.abspath(self._path)), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _agreed(self, descriptor: int) -> tuple[int, int]:
        """Return the sequence of the last line that the journal has, too, and where it ends, bytes."""
        size_bytes = os.fstat(descriptor).st_size
        for tail_bytes in _TAILS_BYTES:
            start = max(0, size_bytes - tail_bytes)
            tail = os.pread(descriptor, size_bytes - start, start)
            end = tail.rfind(b"\n")
            while end >= 0:
                begin = tail.rfind(b"\n", 0, end) + 1
                sequence = _sequence(tail[begin:end])
                if sequence and self._line(sequence) == tail[begin : end + 1]:
                    return sequence, start + end + 1
                end = begin - 1
            if start == 0:
                break
        # No line is whole: it may be the first one that was torn; after a power cut, zeros can stand for its end.
        if start == 0 and self._line(1).startswith(tail.rstrip(b"\0")):
            return 0, 0
        raise OutputError(
            f"{self._path}: was not written from this journal",
            got=f"no line of {self._journal.path} at its end",
            todo="another --output, or move the file away: it is written again from the journal",
        )

    def _line(self, sequence: int) -> bytes:
        for _, line in self._journal.lines(sequence - 1, 1):
            return line.encode() + b"\n"
        return b""

    def tell(self, lines: Sequence[tuple[int, str]]) -> None:
        """Append lines and wait until they are on the medium, as `Outlet.tell`."""
        if self._moved():
            before = self._descriptor  # kept until there is another: where there is none yet, it is asked for again
            self._descriptor, self.told, self._size_bytes = self._open()
            os.close(before)
            lines = self._journal.lines(self.told, len(lines))
            if not lines:
                return
        encoded = b"".join(line.encode() + b"\n" for _, line in lines)
        try:
            done = 0
            while done < len(encoded):
                done += os.pwrite(self._descriptor, encoded[done:], self._size_bytes + done)
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):  # on a medium that is gone; what is torn is written over, or cut at the next start
                os.ftruncate(self._descriptor, self._size_bytes)
            raise OutputError(f"{self._path}: cannot be written", got=error.strerror) from None
        self._size_bytes += len(encoded)
        self.told = lines[-1][0]

    def _moved(self) -> bool:
        """Whether another file, or none, has the name now: then all of it is written again."""
        try:
            there = os.stat(self._path)
        except OSError:
            return True
        return not os.path.samestat(there, os.fstat(self._descriptor))

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


def _sequence(line: bytes) -> int | None:
    try:
        sequence = json.loads(line)["sequence"]
    except (ValueError, KeyError, TypeError):
        return None
    return sequence if isinstance(sequence, int) and 0 < sequence < 2**63 else None  # as SQLite takes it
