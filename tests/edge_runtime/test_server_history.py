"""The service's history: bounded, kept over restarts and power cuts, and forgotten when that is asked."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from edge_runtime.errors import OutputError
from edge_runtime.server.history import FILE, Bounds, Entry, History


def entry(name: str, picture: bytes = b"jpeg") -> Entry:
    return Entry("classify", {"picture": name}, {"picture": name, "label": "Early"}, picture)


def names(history: History) -> list[str]:
    return [one["picture"] for one in history.page(100)]


def test_what_was_added_is_there_after_a_restart(tmp_path: Path) -> None:
    history = History(tmp_path / "deep" / "state")
    number = history.add(Entry("scan", {"picture": "a"}, {"field": "a"}, b"field", b"tiles"))
    history.close()
    again = History(tmp_path / "deep" / "state")
    found = again.entry(number)
    assert found is not None and found["field"] == "a" and found["kind"] == "scan" and found["id"] == number
    assert (again.picture(number), again.tiles(number), again.count) == (b"field", b"tiles", 1)
    assert again.entry(number + 1) is None and again.picture(number + 1) is None
    assert stat.S_IMODE((tmp_path / "deep" / "state" / FILE).stat().st_mode) == 0o600
    again.close()


def test_pages_go_back_in_time(tmp_path: Path) -> None:
    history = History(None)
    for number in range(7):
        history.add(entry(str(number)))
    first = history.page(3)
    assert [one["picture"] for one in first] == ["6", "5", "4"]
    assert [one["picture"] for one in history.page(10, first[-1]["id"])] == ["3", "2", "1", "0"]


def test_the_oldest_make_room_by_number_and_by_bytes() -> None:
    history = History(None, Bounds(entries=3, size_bytes=10_000))
    for number in range(5):
        history.add(entry(str(number)))
    assert names(history) == ["4", "3", "2"] and history.count == 3
    history.add(entry("large", bytes(9_900)))
    assert names(history) == ["large"] and history.size_bytes <= 10_000
    history.add(entry("larger than all", bytes(20_000)))  # the newest answer is kept in any case
    assert names(history) == ["larger than all"]


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    history = History(tmp_path)
    first = history.add(entry("a"))
    history.delete()
    history.close()
    again = History(tmp_path)
    assert again.add(entry("b")) > first
    again.close()


def test_what_is_forgotten_is_not_in_the_files(tmp_path: Path) -> None:
    history = History(tmp_path)
    number = history.add(entry("Doe, Jane.png", b"SECRET-PIXELS" * 500))
    history.add(entry("other"))
    assert any(b"Doe, Jane" in file.read_bytes() for file in tmp_path.iterdir())
    assert history.delete(number) == 1 and history.delete(number) == 0 and names(history) == ["other"]
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert b"Doe, Jane" not in content and b"SECRET-PIXELS" not in content, file
    history.close()


def test_files_copied_while_it_runs_open_again(tmp_path: Path) -> None:
    """What a power cut leaves: database and log as they are at some moment, the log's end torn."""
    history = History(tmp_path / "a")
    for number in range(20):
        history.add(entry(str(number), bytes(3000)))
    for torn, kept in ((0, 20), (1000, 19)):
        copy = tmp_path / f"cut-{torn}"
        shutil.copytree(tmp_path / "a", copy)
        log = copy / (FILE + "-wal")
        log.write_bytes(log.read_bytes()[: log.stat().st_size - torn])
        again = History(copy)
        assert names(again) == [str(number) for number in reversed(range(kept))]
        again.add(entry("after"))
        assert again.count == kept + 1
        again.close()
    history.close()


def test_a_second_process_gets_one_line(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add(entry("a"))
    with pytest.raises(OutputError, match=r"in use by another process.*--state"):
        History(tmp_path)
    history.close()


def test_what_is_no_history_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"something else" * 100)
    with pytest.raises(OutputError, match="cannot be used as history"):
        History(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"something else" * 100
    newer = tmp_path / "newer"
    newer.mkdir()
    with sqlite3.connect(newer / FILE) as base:
        base.execute("PRAGMA user_version = 99")
    before = (newer / FILE).read_bytes()
    with pytest.raises(OutputError, match="another version: got 99, expected 1"):
        History(newer)
    assert (newer / FILE).read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    with sqlite3.connect(other / FILE) as base:
        base.execute("CREATE TABLE urls (id INTEGER)")
    with pytest.raises(OutputError, match=r"another program's database.*--state"):
        History(other)


def test_what_is_gone_is_gone_from_the_count_even_where_the_log_cannot_be_emptied(tmp_path: Path) -> None:
    history = History(tmp_path, Bounds(entries=10, size_bytes=5000))
    base = history._base
    for number in range(3):
        history.add(entry(str(number), bytes(1000)))

    class Stubborn:
        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            if "wal_checkpoint" in statement:
                raise sqlite3.OperationalError("disk I/O error")
            return base.execute(statement, *values)

    history._base = Stubborn()  # type: ignore[assignment]
    with pytest.raises(OutputError, match="disk I/O error"):
        history.delete()
    history._base = base
    assert (history.count, history.size_bytes) == (0, 0)
    history.add(entry("large", bytes(4900)))
    assert names(history) == ["large"]
    history.close()


def test_a_full_disk_is_an_error_and_costs_nothing_that_was_kept(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add(entry("a"))
    pages = history._base.execute("PRAGMA page_count").fetchone()[0]
    history._base.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutputError, match="full"):
        history.add(entry("b", bytes(100_000)))
    assert names(history) == ["a"] and history.count == 1
    history._base.execute("PRAGMA max_page_count = 100000")
    history.add(entry("c", bytes(100_000)))
    assert names(history) == ["c", "a"]
    history.close()
