"""Journal: what became of each file of a watched folder, in one SQLite file that survives the plug being pulled.

What comes in are files with their results; what goes out is what is known. The journal is the truth: a result and the
note that its file is done are one transaction, and lines on standard output, in files and at commands are made from it
afterwards (`outlet`, `delivery`). Writing goes to a log first (WAL) and is on the medium when `Journal.commit` returns
(``synchronous=FULL``). Memory does not grow with the number of files. One process writes (`claim`).

Tables, for whoever looks in with ``sqlite3``:

    results(sequence, sha256, line)      1, 2, 3, ... without gaps; line is the JSON as it was and will be told
    files(name, inode, size_bytes, mtime_ns, sequence)      name as it is now, bytes, and which result is its own
    deliveries(sequence, delivered, tries, due_s, outcome)  results that a command was to get
    about(key, value)                    folder: the watched one, seen from the journal; told: last sequence told
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .arrivals import Stamp
from .errors import JournalError, LeukoscopeError, OutputError
from .report import json_line

APPLICATION = 0x4C4B574A
"""Marks the file as a journal ("LKWJ"), in its ``application_id``."""

VERSION = 1
_BUSY_S = 30.0
_CACHE_KIB = 512
_ROOM_BYTES = 131_072
_CARRIERS = 1000
"""Files with the same content that are asked whether they are still there, at most."""

_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE results (sequence INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, line TEXT NOT NULL);
CREATE INDEX results_by_content ON results (sha256);
CREATE TABLE files (
    name BLOB PRIMARY KEY, inode INTEGER NOT NULL, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    sequence INTEGER NOT NULL REFERENCES results
) WITHOUT ROWID;
CREATE INDEX files_by_result ON files (sequence);
CREATE TABLE deliveries (
    sequence INTEGER PRIMARY KEY REFERENCES results, delivered INTEGER NOT NULL, tries INTEGER NOT NULL,
    due_s REAL NOT NULL, outcome TEXT
);
CREATE INDEX deliveries_ahead ON deliveries (due_s, sequence) WHERE NOT delivered;
"""


@dataclass(frozen=True)
class Carrier:
    """A file that has, or had, a certain content.

    Attributes:
        sequence: of the content's result.
        name: of the file when it was last seen; None where no file of the result is known any more.
        stamp: of the file when it was last seen, or None.
    """

    sequence: int
    name: str | None
    stamp: Stamp | None


def connect(path: str) -> sqlite3.Connection:
    """Open a journal's database for one thread.

    Raises:
        JournalError: it is none, or its disk cannot hold one.
    """
    try:
        database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    except sqlite3.Error as error:
        raise JournalError(f"{path}: cannot be opened", got=error, todo="--journal FILE on a local disk") from None
    try:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION and database.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise JournalError(f"{path}: not a journal", todo="another --journal")  # before anything is changed in it
        (mode,) = database.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise JournalError(f"{path}: no log on this disk", got=mode, todo="--journal FILE on a local disk")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        database.execute("PRAGMA journal_size_limit=4194304")
        return database
    except sqlite3.OperationalError as error:
        database.close()
        raise JournalError(f"{path}: cannot be used", got=error, todo="--journal FILE on a local disk") from None
    except sqlite3.DatabaseError as error:
        database.close()
        raise JournalError(f"{path}: not a journal, or damaged", got=error, todo="another --journal") from None
    except JournalError:
        database.close()
        raise


class Journal:
    """A journal that is open for writing.

    Every method that writes joins the running transaction or begins one; nothing counts before `commit`. A method
    that raises `OutputError` (the disk is full, say) has undone all since the last commit, and may be called again.
    """

    def __init__(self, path: str, folder: str) -> None:
        """Open a journal or make a new one.

        Args:
            path: of the file.
            folder: that is watched.

        Raises:
            JournalError: not a journal, damaged, too new, of another folder, or a disk that cannot hold one.
        """
        self.path = path
        self._database = connect(path)
        try:
            self._prepare(os.path.relpath(os.path.realpath(folder), os.path.dirname(os.path.realpath(path))))
            self._file = os.stat(path)
        except (sqlite3.Error, OSError) as error:
            self._database.close()
            raise JournalError(f"{path}: cannot be used", got=error) from None
        except LeukoscopeError:
            self._database.close()
            raise

    def _prepare(self, folder: str) -> None:
        execute = self._database.execute
        if not execute("SELECT 1 FROM sqlite_master").fetchone():
            execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                execute(statement)
            execute("INSERT INTO about VALUES ('folder', ?), ('told', 0)", (os.fsencode(folder),))
            execute(f"PRAGMA application_id={APPLICATION}")
            execute(f"PRAGMA user_version={VERSION}")
            execute("COMMIT")
            return
        (version,) = execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise JournalError(f"{self.path}: another version", got=version, expected=VERSION)
        (known,) = execute("SELECT value FROM about WHERE key = 'folder'").fetchone()
        if known != os.fsencode(folder):
            raise JournalError(
                f"{self.path}: is the journal of another folder",
                got=folder,
                expected=os.fsdecode(known),
                todo="another --journal",
            )

    def close(self) -> None:
        """Close it; what was not committed is undone."""
        self._database.close()

    @property
    def pending(self) -> bool:
        """Whether something waits for `commit`."""
        return self._database.in_transaction

    def commit(self) -> None:
        """Make all since the last commit last.

        Raises:
            OutputError: it cannot be written; all since the last commit is undone.
            JournalError: its name is another file's by now, or nobody's; all since the last commit is undone.
        """
        if self._database.in_transaction:
            with self._undone():
                self._require_name()
                self._database.execute("COMMIT")

    def _require_name(self) -> None:
        """Refuse to write what no later process will find: a removed file, or one below another disk's."""
        try:
            if os.path.samestat(os.stat(self.path), self._file):
                return
        except OSError as error:
            if not os.path.isdir(os.path.dirname(os.path.abspath(self.path))):  # a disk that is pulled may come back
                raise OutputError(f"{self.path}: cannot be written", got=error.strerror) from None
        raise JournalError(f"{self.path}: removed or replaced while it was in use", todo="start again")

    def stamp_of(self, name: str) -> Stamp | None:
        """Return the stamp that a file had when it was done; None where it is not."""
        with self._undone():
            row = self._database.execute(
                "SELECT inode, size_bytes, mtime_ns FROM files WHERE name = ?", (os.fsencode(name),)
            ).fetchone()
        return None if row is None else Stamp(*row)

    def carriers(self, sha256: str, name: str, inode: int) -> list[Carrier]:
        """Return the files that had a content, those first that are most likely the same file as one found now.

        Args:
            sha256: of the content.
            name: of the file that was found.
            inode: of the file that was found.
        """
        with self._undone():
            rows = self._database.execute(
                "SELECT r.sequence, f.name, f.inode, f.size_bytes, f.mtime_ns FROM results r "
                "LEFT JOIN files f ON f.sequence = r.sequence WHERE r.sha256 = ? "
                "ORDER BY f.name IS ? DESC, f.inode IS ? DESC, r.sequence LIMIT ?",
                (sha256, os.fsencode(name), inode, _CARRIERS),
            ).fetchall()
        return [
            Carrier(sequence, None, None) if known is None else Carrier(sequence, os.fsdecode(known), Stamp(*stamp))
            for sequence, known, *stamp in rows
        ]

    def record(self, name: str, stamp: Stamp, sha256: str, facts: Mapping[str, Any], deliver: bool) -> int:
        """Note the result of a file, and that the file is done.

        Args:
            name: of the file within the watched folder.
            stamp: of the file when it was read.
            sha256: of its content.
            facts: what the line says beside sequence and id.
            deliver: whether a command is to get it.

        Returns:
            The result's sequence.

        Raises:
            OutputError: it cannot be written.
        """
        with self._writing() as execute:
            (last,) = execute("SELECT max(sequence) FROM results").fetchone()
            sequence = (last or 0) + 1
            # Random: were it made from the sequence, a medium that lies about what it has written could give the id
            # of a lost result to another one, and readers would drop that.
            line = json_line({"sequence": sequence, "id": os.urandom(16).hex(), **facts})
            execute("INSERT INTO results VALUES (?, ?, ?)", (sequence, sha256, line))
            if deliver:
                execute("INSERT INTO deliveries VALUES (?, 0, 0, 0, NULL)", (sequence,))
            self._place(name, stamp, sequence)
        return sequence

    def carry(self, carrier: Carrier, name: str, stamp: Stamp) -> None:
        """Note that a file which is done has another name or stamp now.

        Raises:
            OutputError: it cannot be written.
        """
        with self._writing() as execute:
            if carrier.name is not None:
                execute("DELETE FROM files WHERE name = ?", (os.fsencode(carrier.name),))
            self._place(name, stamp, carrier.sequence)

    def _place(self, name: str, stamp: Stamp, sequence: int) -> None:
        row = (os.fsencode(name), stamp.inode, stamp.size_bytes, stamp.mtime_ns, sequence)
        self._database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", row)

    @property
    def told(self) -> int:
        """Return the sequence of the last result that is known to have been told."""
        with self._undone():
            (told,) = self._database.execute("SELECT value FROM about WHERE key = 'told'").fetchone()
        return int(told)

    def note_told(self, sequence: int) -> None:
        """Note that results up to a sequence have been told.

        Raises:
            OutputError: it cannot be written.
        """
        with self._writing() as execute:
            execute("UPDATE about SET value = ? WHERE key = 'told'", (sequence,))

    def try_room(self) -> None:
        """Find out whether the disk takes a fair amount of results: write something as large, and remove it.

        Raises:
            OutputError: it does not.
        """
        for statement in (
            f"INSERT OR REPLACE INTO about VALUES ('room', zeroblob({_ROOM_BYTES}))",
            "DELETE FROM about WHERE key = 'room'",
        ):
            with self._writing() as execute:
                execute(statement)
            self.commit()

    def lines(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Return (sequence, line) of the results after a sequence, `limit` of them at most."""
        with self._undone():
            return self._database.execute(
                "SELECT sequence, line FROM results WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit)
            ).fetchall()

    def renew_deliveries(self) -> None:
        """Let all that the command has not taken be tried at once and as often as ever: a new process begins.

        Raises:
            OutputError: it cannot be written.
        """
        with self._writing() as execute:
            execute("UPDATE deliveries SET tries = 0, due_s = 0 WHERE NOT delivered AND tries > 0")
        self.commit()

    def undelivered(self, tries: int | None = None) -> int:
        """Return how many results the command has not taken; `tries`: only those that it got less often than that."""
        with self._undone():
            (count,) = self._database.execute(
                "SELECT count(*) FROM deliveries WHERE NOT delivered AND (?1 IS NULL OR tries < ?1)", (tries,)
            ).fetchone()
        return int(count)

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        with self._undone():
            if not self._database.in_transaction:
                self._database.execute("BEGIN IMMEDIATE")
            yield self._database.execute

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Turn SQLite's errors into ours, with the transaction undone."""
        try:
            yield
        except (sqlite3.Error, LeukoscopeError) as error:
            if self._database.in_transaction:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
            if isinstance(error, LeukoscopeError):
                raise
            if isinstance(error, sqlite3.OperationalError):  # full, locked by somebody's shell, a failing disk
                raise OutputError(f"{self.path}: cannot be written", got=error) from None
            raise JournalError(f"{self.path}: damaged", got=error) from None


def now() -> str:
    """Return the time as lines have it: UTC, ISO 8601, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
