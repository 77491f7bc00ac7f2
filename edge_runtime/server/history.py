"""The history: what was answered, in one SQLite file of bounded size that survives a restart and a power cut.

What comes in are answers with a small picture; what goes out are they again, newest first. Files' names are kept as
they were given, so the file may hold names of patients: it is the operator's, readable by nobody else, and what is
deleted is overwritten. Uploads themselves are not kept. The oldest entries make room for new ones.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..files import make_folder

FILE = "history.sqlite"
VERSION = 1
MAX_ID = 2**63 - 1

_TABLE = """
CREATE TABLE entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time TEXT NOT NULL,
  kind TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  summary TEXT NOT NULL,
  answer TEXT NOT NULL,
  picture BLOB NOT NULL,
  tiles BLOB
)
"""


@dataclass(frozen=True)
class Bounds:
    """How much is kept: entries, and bytes of them all."""

    entries: int = 5000
    size_bytes: int = 512 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """What is kept of an answer.

    Attributes:
        kind: "classify" or "scan".
        summary: what a list shows of it.
        answer: the answer itself, as JSON takes it.
        picture: JPEG of what the answer lies over.
        tiles: JPEG of a scan's cells side by side, or None.
    """

    kind: str
    summary: dict[str, Any]
    answer: dict[str, Any]
    picture: bytes
    tiles: bytes | None = None


class History:
    """The answers of one service. Calls from several threads take turns."""

    def __init__(self, folder: Path | None, bounds: Bounds = Bounds()) -> None:
        """Open the history in a folder, or one that lives as long as this object where there is none.

        Raises:
            OutputError: it cannot be written, is not a history, or is another process's.
        """
        self._bounds, self._turn = bounds, threading.Lock()
        self.path = None if folder is None else folder / FILE
        if folder is not None:
            make_folder(folder)
        try:
            if self.path is not None:  # made before SQLite does, so that it was never readable by others
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._base = sqlite3.connect(self.path or ":memory:", timeout=0.5, check_same_thread=False)
            self._open()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written", got=error.strerror) from None
        except sqlite3.Error as error:
            busy = "locked" in str(error)
            raise OutputError(
                f"{self.path}: " + ("in use by another process" if busy else "cannot be used as history"),
                got=str(error),
                todo="stop the other one, or choose another folder with --state" if busy else "move it away",
            ) from None

    def _open(self) -> None:
        base = self._base
        base.isolation_level = None  # transactions begin where this says so
        base.execute("PRAGMA locking_mode = EXCLUSIVE")  # one process; and no file of shared memory
        version = base.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise OutputError(
                f"{self.path}: a history of another version", got=version, expected=VERSION, todo="move it away"
            )
        if version == 0 and base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise OutputError(f"{self.path}: another program's database", todo="choose another folder with --state")
        # What is not ours is as it was up to here.
        base.execute("PRAGMA auto_vacuum = FULL")
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")  # what was answered is on the disk
        base.execute("PRAGMA secure_delete = ON")
        base.execute("BEGIN EXCLUSIVE")
        if version == 0:
            base.execute(_TABLE)
            base.execute(f"PRAGMA user_version = {VERSION}")
        base.execute("COMMIT")
        count, size_bytes = base.execute("SELECT count(*), coalesce(sum(size_bytes), 0) FROM entries").fetchone()
        self._count, self._size_bytes = int(count), int(size_bytes)

    @property
    def count(self) -> int:
        """Return how many entries there are."""
        return self._count

    @property
    def size_bytes(self) -> int:
        """Return what all entries take."""
        return self._size_bytes

    def add(self, entry: Entry) -> int:
        """Keep an answer; the oldest go where there are too many.

        Returns:
            Its number; numbers grow and are never given twice.

        Raises:
            OutputError: the disk is full or gone. Nothing of the answer is kept then.
        """
        summary, answer = json.dumps(entry.summary, allow_nan=False), json.dumps(entry.answer, allow_nan=False)
        tiles_bytes = len(entry.tiles or b"")
        size_bytes = len(summary) + len(answer) + len(entry.picture) + tiles_bytes
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        row = (time, entry.kind, size_bytes, summary, answer, entry.picture, entry.tiles)
        with self._turn:
            count, total = self._count, self._size_bytes
            try:
                self._base.execute("BEGIN IMMEDIATE")
                added = self._base.execute(
                    "INSERT INTO entries (time, kind, size_bytes, summary, answer, picture, tiles)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
                number, count, total = int(added.lastrowid or 0), count + 1, total + size_bytes
                while count > self._bounds.entries or (total > self._bounds.size_bytes and count > 1):
                    oldest, freed = self._base.execute("SELECT id, size_bytes FROM entries ORDER BY id").fetchone()
                    self._base.execute("DELETE FROM entries WHERE id = ?", (oldest,))
                    count, total = count - 1, total - int(freed)
                self._base.execute("COMMIT")
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    self._base.execute("ROLLBACK")
                raise OutputError(f"{self.path}: cannot be written", got=str(error)) from None
            self._count, self._size_bytes = count, total
        return number

    def page(self, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """Return summaries, newest first: at most `limit`, of entries older than number `before`."""
        rows = self._read(
            "SELECT id, time, kind, summary FROM entries WHERE id < ? ORDER BY id DESC LIMIT ?",
            (MAX_ID if before is None else before, limit),
        )
        return [{"id": row[0], "time": row[1], "kind": row[2], **json.loads(row[3])} for row in rows]

    def entry(self, number: int) -> dict[str, Any] | None:
        """Return an answer with its `id`, `time` and `kind`; None where there is none."""
        rows = self._read("SELECT id, time, kind, answer FROM entries WHERE id = ?", (number,))
        return next(({"id": r[0], "time": r[1], "kind": r[2], **json.loads(r[3])} for r in rows), None)

    def picture(self, number: int) -> bytes | None:
        """Return an entry's JPEG; None where there is no such entry."""
        return next((row[0] for row in self._read("SELECT picture FROM entries WHERE id = ?", (number,))), None)

    def tiles(self, number: int) -> bytes | None:
        """Return the JPEG of a scan's cells; None where there is no such entry, or it is no scan."""
        return next((row[0] for row in self._read("SELECT tiles FROM entries WHERE id = ?", (number,))), None)

    def delete(self, number: int | None = None) -> int:
        """Forget one entry, or all, and overwrite what was there.

        Returns:
            How many there were.

        Raises:
            OutputError: the disk is gone or read-only.
        """
        with self._turn:
            where, values = ("", ()) if number is None else (" WHERE id = ?", (number,))
            try:
                size_bytes = self._base.execute(f"SELECT sum(size_bytes) FROM entries{where}", values).fetchone()[0]
                gone = self._base.execute(f"DELETE FROM entries{where}", values).rowcount
                self._count, self._size_bytes = self._count - gone, self._size_bytes - int(size_bytes or 0)
                self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else the log would still have it
            except sqlite3.Error as error:
                raise OutputError(f"{self.path}: cannot be written", got=str(error)) from None
        return gone

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._base.close()

    def _read(self, query: str, values: tuple[int, ...]) -> list[Any]:
        with self._turn:
            try:
                return self._base.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise OutputError(f"{self.path}: cannot be read", got=str(error)) from None
