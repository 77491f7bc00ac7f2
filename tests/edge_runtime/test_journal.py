"""The journal, the claim and the outlets: what is written is there, once, whatever came in between."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from edge_runtime.arrivals import Stamp
from edge_runtime.claim import DEATHS, Claim
from edge_runtime.errors import JournalError, OutputError
from edge_runtime.journal import VERSION, Journal
from edge_runtime.outlet import ResultsFile, Stream

STAMP = Stamp(7, 100, 12345)


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """What lies there is forced to the medium often."""
    return memory_path


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.db")


@pytest.fixture
def journal(path: str, tmp_path: Path):
    journal = Journal(path, str(tmp_path))
    yield journal
    journal.close()


def fill(journal: Journal, count: int, start: int = 0) -> None:
    """Record and commit `count` results."""
    for number in range(start, start + count):
        journal.record(f"{number}.png", STAMP, f"{number:064}", {"picture": f"{number}.png", "label": "é"}, False)
    journal.commit()


def test_a_result_is_there_after_commit_and_not_before(journal: Journal, path: str, tmp_path: Path) -> None:
    assert journal.record("a.png", STAMP, "0" * 64, {"label": "Pro"}, True) == 1
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM results").fetchone() == (0,)
    journal.commit()
    ((line,),) = other.execute("SELECT line FROM results").fetchall()
    other.close()
    assert json.loads(line)["sequence"] == 1 and json.loads(line)["label"] == "Pro"
    assert len(json.loads(line)["id"]) == 32
    journal.record("b.png", STAMP, "1" * 64, {}, False)
    journal.close()  # without commit
    again = Journal(path, str(tmp_path))
    assert again.stamp_of("a.png") == STAMP and again.stamp_of("b.png") is None and not again.pending
    assert again.record("b.png", STAMP, "1" * 64, {}, False) == 2  # no gap
    again.close()


def test_it_forces_each_commit_to_the_medium(journal: Journal) -> None:
    settings = [journal._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]


def test_names_need_not_be_utf8(journal: Journal) -> None:
    name = os.fsdecode(b"\xff\xfe \n.png")
    journal.record(name, STAMP, "0" * 64, {"picture": name}, False)
    journal.commit()
    ((_, line),) = journal.lines(0, 10)
    assert journal.stamp_of(name) == STAMP and os.fsencode(json.loads(line)["picture"]) == b"\xff\xfe \n.png"


def test_carriers_come_with_the_likeliest_first(journal: Journal) -> None:
    for name, inode in (("a", 1), ("b", 2), ("c", 3)):
        journal.record(name, Stamp(inode, 5, 5), "5" * 64, {}, False)
    assert [one.name for one in journal.carriers("5" * 64, "d", 2)] == ["b", "a", "c"]
    assert [one.name for one in journal.carriers("5" * 64, "c", 2)] == ["c", "b", "a"]
    (first, *_) = journal.carriers("5" * 64, "d", 2)
    journal.carry(first, "d", Stamp(2, 5, 6))
    assert journal.stamp_of("b") is None and journal.stamp_of("d") == Stamp(2, 5, 6)
    journal.record("d", Stamp(9, 9, 9), "6" * 64, {}, False)  # d was written over
    free = [one for one in journal.carriers("5" * 64, "e", 0) if one.name is None]
    assert [one.sequence for one in free] == [2] and journal.carriers("7" * 64, "e", 0) == []


def test_a_full_disk_undoes_the_transaction_and_nothing_else(journal: Journal) -> None:
    fill(journal, 3)
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(OutputError, match="full"):
        for number in range(3, 100):
            journal.record(f"{number}.png", STAMP, f"{number:064}", {"text": "x" * 3000}, False)
    assert not journal.pending and [sequence for sequence, _ in journal.lines(0, 10)] == [1, 2, 3]
    journal._database.execute("PRAGMA max_page_count=100000")
    fill(journal, 3, start=3)
    assert [sequence for sequence, _ in journal.lines(0, 10)] == [1, 2, 3, 4, 5, 6]


def test_a_statement_that_fails_takes_its_transaction_with_it(journal: Journal) -> None:
    fill(journal, 1)
    journal._database.execute("CREATE TEMP TRIGGER no BEFORE INSERT ON files BEGIN SELECT RAISE(ABORT, 'damaged'); END")
    with pytest.raises(JournalError, match="damaged"):
        journal.record("b.png", STAMP, "b" * 64, {}, False)
    assert not journal.pending and len(journal.lines(0, 10)) == 1


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at" * 40, b"SQLite format 3\0rest"]
)
def test_what_is_no_journal_is_one_error_and_stays_as_it_is(path: str, tmp_path: Path, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(JournalError, match="journal"):
        Journal(path, str(tmp_path))
    assert Path(path).read_bytes() == content


def test_somebody_elses_database_another_version_and_another_folder_are_refused(path: str, tmp_path: Path) -> None:
    foreign = sqlite3.connect(tmp_path / "foreign.db")
    foreign.execute("CREATE TABLE mine (a)")
    foreign.close()
    with pytest.raises(JournalError, match="not a journal"):
        Journal(str(tmp_path / "foreign.db"), str(tmp_path))
    Journal(path, str(tmp_path)).close()
    (tmp_path / "other").mkdir()
    with pytest.raises(JournalError, match="another folder"):
        Journal(path, str(tmp_path / "other"))
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version={VERSION + 1}")
    newer.close()
    with pytest.raises(JournalError, match=f"got {VERSION + 1}, expected {VERSION}"):
        Journal(path, str(tmp_path))


def test_a_journal_moves_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    journal = Journal(str(tmp_path / "before" / ".j.db"), str(tmp_path / "before"))
    fill(journal, 1)
    journal.close()
    (tmp_path / "before").rename(tmp_path / "after")
    moved = Journal(str(tmp_path / "after" / ".j.db"), str(tmp_path / "after"))
    assert moved.stamp_of("0.png") == STAMP
    moved.close()


def test_a_power_cut_at_any_moment_leaves_a_prefix(journal: Journal, path: str, tmp_path: Path) -> None:
    """Copies of the files taken between commits, with the log's end torn off anywhere, open and go on."""
    known = 0
    for step in range(12):
        fill(journal, 2, start=2 * step)
        journal.record("open.png", STAMP, "f" * 64, {}, False)  # not committed
        log = Path(f"{path}-wal").read_bytes()
        for cut in (0, 1, 1000, 4096, len(log) // 2, len(log) - 1):
            copy = tmp_path / f"cut-{step}-{cut}" / "journal.db"
            copy.parent.mkdir()
            shutil.copyfile(path, copy)
            Path(f"{copy}-wal").write_bytes(log[: len(log) - cut])
            opened = _reopened(copy, tmp_path)
            sequences = [sequence for sequence, _ in opened.lines(0, 1000)]
            assert sequences == list(range(1, len(sequences) + 1)) and len(sequences) % 2 == 0
            if cut == 0:
                assert len(sequences) == 2 * (step + 1)  # all that was committed
            known = max(known, len(sequences))
            assert all(opened.stamp_of(f"{n}.png") == STAMP for n in range(len(sequences)))
            assert opened.stamp_of("open.png") is None
            assert opened.record("next.png", STAMP, "e" * 64, {}, False) == len(sequences) + 1
            opened.commit()
            opened.close()
        journal._database.execute("ROLLBACK")
    assert known == 24


def _reopened(copy: Path, tmp_path: Path) -> Journal:
    """Open a copy; what folder it speaks of is seen from where the copy lies."""
    database = sqlite3.connect(copy)
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
        database.execute("UPDATE about SET value = ? WHERE key = 'folder'", (b"..",))
        database.commit()
    database.close()
    return Journal(str(copy), str(tmp_path))


def test_one_process_has_the_claim(path: str) -> None:
    claim = Claim(path)
    with pytest.raises(JournalError, match="in use by another watch"):
        Claim(path)
    claim.close()
    Claim(path).close()


def test_a_picture_that_kills_is_given_up_after_some_deaths(path: str) -> None:
    for _ in range(DEATHS):
        claim = Claim(path)
        assert not claim.deadly("bad.png")
        claim.hold("good.png")
        claim.release("good.png")
        claim.hold("bad.png")
        os.close(claim._descriptor)  # as the kernel does when the process dies
    claim = Claim(path)
    assert claim.deadly("bad.png") and not claim.deadly("good.png")
    claim.release("bad.png")
    claim.close()
    assert not Claim(path).deadly("bad.png")
    Path(f"{path}.lock").write_bytes(b'{"held": "bad.p')  # torn
    assert not Claim(path + "2").deadly("bad.png")


def lines_of(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "torn", [b"", b'{"sequence": 4, "i', b"\0" * 50, b'{"sequence": 4}\n{"seq', b'{"sequence": 99}\n']
)
@pytest.mark.parametrize("whole", [0, 1, 3])
def test_a_file_is_made_to_agree(journal: Journal, tmp_path: Path, torn: bytes, whole: int) -> None:
    fill(journal, 5)
    expected = "".join(line + "\n" for _, line in journal.lines(0, 10)).encode()
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in expected.splitlines()[:whole]) + torn)
    if whole == 0 and torn not in (b"", b"\0" * 50):  # nothing says that it is ours
        before = path.read_bytes()
        with pytest.raises(OutputError, match="was not written from this journal"):
            ResultsFile(str(path), journal)
        assert path.read_bytes() == before
        return
    outlet = ResultsFile(str(path), journal)
    assert outlet.told == whole
    outlet.tell(journal.lines(outlet.told, 10))
    outlet.close()
    assert path.read_bytes() == expected


def test_a_torn_first_line_is_ours(journal: Journal, tmp_path: Path) -> None:
    fill(journal, 1)
    path = tmp_path / "results.jsonl"
    path.write_bytes(journal.lines(0, 1)[0][1].encode()[:20] + b"\0" * 9)
    outlet = ResultsFile(str(path), journal)
    outlet.tell(journal.lines(outlet.told, 10))
    outlet.close()
    assert lines_of(path) == [1]


def test_a_long_last_line_is_found(journal: Journal, tmp_path: Path) -> None:
    fill(journal, 1)
    journal.record("b.png", STAMP, "b" * 64, {"text": "x" * 200_000}, False)
    journal.commit()
    path = tmp_path / "results.jsonl"
    outlet = ResultsFile(str(path), journal)
    outlet.tell(journal.lines(0, 10))
    outlet.close()
    with path.open("ab") as stream:
        stream.write(b"torn")
    outlet = ResultsFile(str(path), journal)
    assert outlet.told == 2
    outlet.close()
    assert lines_of(path) == [1, 2]


def test_a_file_that_was_moved_away_is_written_again(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    outlet = ResultsFile(str(path), journal)
    fill(journal, 2)
    outlet.tell(journal.lines(0, 10))
    path.rename(tmp_path / "old.jsonl")
    fill(journal, 2, start=2)
    while lines := journal.lines(outlet.told, 1):
        outlet.tell(lines)
    outlet.close()
    assert lines_of(path) == [1, 2, 3, 4] and lines_of(tmp_path / "old.jsonl") == [1, 2]


def test_two_processes_do_not_share_a_file(journal: Journal, tmp_path: Path) -> None:
    outlet = ResultsFile(str(tmp_path / "results.jsonl"), journal)
    with pytest.raises(OutputError, match="another process writes it"):
        ResultsFile(str(tmp_path / "results.jsonl"), journal)
    outlet.close()


def test_half_a_line_in_a_stream_is_completed(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(journal, 2)
    written = bytearray()

    def write(_descriptor: int, content: bytes, room: list[int] = [10]) -> int:  # noqa: B006
        if room[0] == 0:
            room[0] = 10_000
            raise OSError(28, "No space left on device")
        taken = content[: room[0]]
        room[0] -= len(taken)
        written.extend(taken)
        return len(taken)

    monkeypatch.setattr(os, "write", write)
    outlet = Stream(1, 0)
    lines = journal.lines(0, 10)
    with pytest.raises(OutputError, match="No space left"):
        outlet.tell(lines)
    assert outlet.told == 0
    outlet.tell(lines)
    monkeypatch.undo()
    assert outlet.told == 2 and written.decode() == "".join(line + "\n" for _, line in lines)


def test_a_file_whose_folder_went_away_is_written_again_when_it_is_back(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    path = tmp_path / "stick" / "results.jsonl"
    outlet = ResultsFile(str(path), journal)
    fill(journal, 2)
    outlet.tell(journal.lines(0, 10))
    shutil.rmtree(tmp_path / "stick")
    fill(journal, 1, start=2)
    for _ in range(3):  # the second time nothing may be closed twice: its number can be another file's by now
        with pytest.raises(OutputError, match="cannot be written"):
            outlet.tell(journal.lines(outlet.told, 10))
    (tmp_path / "stick").mkdir()
    while lines := journal.lines(outlet.told, 10):
        outlet.tell(lines)
    outlet.close()
    assert lines_of(path) == [1, 2, 3]


def test_a_medium_that_cannot_even_be_cut_is_still_one_error(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.jsonl"
    outlet = ResultsFile(str(path), journal)
    fill(journal, 2)

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    monkeypatch.setattr(os, "ftruncate", broken)
    with pytest.raises(OutputError, match="Input/output error"):
        outlet.tell(journal.lines(0, 10))
    monkeypatch.undo()
    outlet.tell(journal.lines(0, 10))
    outlet.close()
    assert lines_of(path) == [1, 2]


def test_a_reader_that_hangs_is_waited_for_only_while_there_is_patience(journal: Journal) -> None:
    journal.record("a.png", STAMP, "a" * 64, {"text": "x" * 200_000}, False)  # longer than a pipe holds
    journal.commit()
    ((_, line),) = lines = journal.lines(0, 10)
    reader, writer = os.pipe()
    asked: list[int] = []
    outlet = Stream(writer, 0, lambda: len(asked) < 2 and not asked.append(1))  # type: ignore[func-returns-value]
    outlet.tell(lines)
    assert outlet.told == 0 and len(asked) == 2
    read = threading.Thread(target=lambda: taken.append(_all_of(reader)))
    taken: list[bytes] = []
    read.start()
    Stream.tell(outlet, lines)  # goes on where it was
    os.close(writer)
    read.join()
    assert outlet.told == 1 and taken == [line.encode() + b"\n"]


def _all_of(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


def test_nothing_is_written_to_a_journal_that_nobody_would_find(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    journal = Journal(str(stick / ".j.db"), str(stick))
    fill(journal, 1)
    stick.rename(tmp_path / "away")  # pulled ...
    with pytest.raises(OutputError, match="cannot be written"):
        fill(journal, 1, start=1)
    assert not journal.pending
    (tmp_path / "away").rename(stick)  # ... and back
    journal.try_room()
    fill(journal, 1, start=1)
    assert len(journal.lines(0, 10)) == 2
    stick.rename(tmp_path / "away")
    stick.mkdir()
    for replaced in (False, True):
        if replaced:
            Journal(str(stick / ".j.db"), str(stick)).close()
        with pytest.raises(JournalError, match="removed or replaced while it was in use"):
            fill(journal, 1, start=2)
        assert not journal.pending and len(journal.lines(0, 10)) == 2
    journal.close()
