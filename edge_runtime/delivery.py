"""Delivery: results at a command, each until the command has taken it.

What comes in are rows of the journal's table ``deliveries``; what goes out is, per try, one process that finds the
result's line on its standard input and says by exit status 0 that it has it. The table is the queue: results wait
there while the command fails, hangs or the program is off. At least once: a process that was killed after it did its
work gets the line again, with the same id. No shell is involved, and no name of a file stands on a command line.

It runs in a thread of its own with a connection of its own, so that a slow command does not hold up the pictures.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from .errors import JournalError
from .journal import connect

T = TypeVar("T")

TRIES = 300
"""So often is a result tried while one process lives, about a day; the next process tries again."""

TIMEOUT_S = 60.0
"""A command that runs longer is ended, with what it has started, and counts as failed."""

LONGEST_PAUSE_S = 300.0
"""After a failure a result waits one second, then two, four and so on up to this."""

_GRACE_S = 5.0
_LOOK_S = 0.1
_IDLE_S = 1.0
_DELIVERED = "exit status 0"


class Delivery:
    """The thread that runs the command."""

    def __init__(
        self, journal: str, command: Sequence[str], say: Callable[[str], None], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Get ready; `start` begins.

        Args:
            journal: path of the journal.
            command: program and arguments.
            say: gets a line for people when the command fails.
            timeout_s: what a command may take.
        """
        self._journal, self._command, self._say, self._timeout_s = journal, list(command), say, timeout_s
        self._awake, self._stopping = threading.Event(), threading.Event()
        self._stopped_at = 0.0
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be something to deliver."""
        self._awake.set()

    @property
    def works(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End: a command that runs gets a few seconds more; what it has not taken waits in the journal."""
        self._stopped_at = time.monotonic()
        self._stopping.set()
        self._awake.set()
        try:
            self._thread.join()
        except KeyboardInterrupt:  # a second Ctrl-C: at once, and nothing that was started stays behind
            self._stopped_at = float("-inf")
            self._thread.join(2 * _LOOK_S + 1.0)
            raise

    def _work(self) -> None:
        try:
            database = connect(self._journal)
        except JournalError as error:
            self._say(f"{error}; nothing is delivered")
            return
        failed = False
        try:
            while not self._stopping.is_set():
                row = self._patiently(lambda: _next(database))
                if row is None:
                    self._awake.wait(_IDLE_S)  # something that failed may be due again by then
                    self._awake.clear()
                    continue
                sequence, line = row
                outcome = self._try(line)
                if outcome is None:  # stopped in the middle
                    return
                self._patiently(partial(_note, database, sequence, outcome))
                if outcome != _DELIVERED and not failed:
                    self._say(f"{self._command[0]}: {outcome}; results wait in the journal and are tried again")
                failed = outcome != _DELIVERED
        finally:
            database.close()

    def _patiently(self, use: Callable[[], T]) -> T | None:
        """Use the journal, again and again while its disk is full: the command must not run twice for that."""
        while True:
            try:
                return use()
            except sqlite3.Error as error:
                if self._stopping.wait(_IDLE_S):
                    self._say(f"{self._journal}: {error}; what was delivered last may be delivered again")
                    return None

    def _try(self, line: str) -> str | None:
        """Run the command once; say how it went, or None where the program stops and the command did not end."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=2,  # standard output is for the results
                start_new_session=True,  # so that all it starts can be ended, and Ctrl-C is not meant for it
            )
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        until, fed = time.monotonic() + self._timeout_s, False
        while True:
            try:
                # What was given to the first call is kept for the next ones.
                process.communicate(None if fed else line.encode() + b"\n", timeout=_LOOK_S)
            except subprocess.TimeoutExpired:
                fed = True
                stopping = self._stopping.is_set() and time.monotonic() > self._stopped_at + _GRACE_S
                if not stopping and time.monotonic() < until:
                    continue
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if process.stdin is not None:
                    with suppress(OSError):
                        process.stdin.close()
                return None if stopping else f"ended after {self._timeout_s:g} s"
            if process.returncode < 0:
                return f"ended by signal {-process.returncode}"
            return f"exit status {process.returncode}"  # 0: `_DELIVERED`


def _next(database: sqlite3.Connection) -> tuple[int, str] | None:
    # A time far ahead was written under a clock that has been set back since.
    row: tuple[int, str] | None = database.execute(
        "SELECT d.sequence, r.line FROM deliveries d JOIN results r ON r.sequence = d.sequence "
        "WHERE NOT d.delivered AND d.tries < ? AND d.due_s NOT BETWEEN ? AND ? ORDER BY d.due_s, d.sequence LIMIT 1",
        (TRIES, time.time(), time.time() + 2 * LONGEST_PAUSE_S),
    ).fetchone()
    return row


def _note(database: sqlite3.Connection, sequence: int, outcome: str) -> None:
    (tries,) = database.execute("SELECT tries FROM deliveries WHERE sequence = ?", (sequence,)).fetchone()
    due_s = time.time() + min(LONGEST_PAUSE_S, 2.0 ** min(tries, 30))
    database.execute(
        "UPDATE deliveries SET delivered = ?, tries = ?, due_s = ?, outcome = ? WHERE sequence = ?",
        (outcome == _DELIVERED, tries + 1, due_s, outcome, sequence),
    )
