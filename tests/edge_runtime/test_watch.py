"""The loop that watches: real files in a real folder, pictures decoded, no model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from bundle_maker import encoded, smear
from PIL import Image

from edge_runtime import claim as claim_module
from edge_runtime import journal as journal_module
from edge_runtime import outlet as outlet_module
from edge_runtime import settling
from edge_runtime import watch as watching
from edge_runtime.claim import DEATHS, Claim
from edge_runtime.errors import EngineError, EngineGoneError, OutputError
from edge_runtime.journal import Journal
from edge_runtime.outlet import ResultsFile
from edge_runtime.preprocess import decode
from edge_runtime.watch import Counts, Host, Pace, Watch

PACE = Pace(settle_s=0.05, patience_s=0.4, poll_s=0.05)


def picture(seed: int) -> bytes:
    return encoded(Image.fromarray(smear(48, seed)))


class World:
    """A folder with its journal and results; each `once` is the life of a process."""

    def __init__(self, root: Path) -> None:
        self.inbox, self.journal, self.output = root / "inbox", str(root / "journal.db"), root / "results.jsonl"
        self.inbox.mkdir()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.host = Host(self.answer, lambda: False, lambda: None, self.said.append)

    def answer(self, content: bytes, name: str) -> dict[str, Any]:
        self.asked.append(name)
        return {"width": decode(content, name).width}

    def once(
        self, change: Callable[[Watch, Journal], object] = lambda watch, journal: None, pace: Pace = PACE, **host: Any
    ) -> Counts:
        """Run until all is done; `change` gets the loop before it starts."""
        claim, journal = Claim(self.journal), Journal(self.journal, str(self.inbox))
        try:
            outlet = ResultsFile(str(self.output), journal)
            try:
                watch = Watch(str(self.inbox), journal, claim, outlet, replace(self.host, **host), pace)
                change(watch, journal)
                watch.run(once=True)
                return watch.counts
            finally:
                outlet.close()
        finally:
            journal.close()
            claim.close()

    def put(self, name: str, content: bytes | int) -> Path:
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(content) if isinstance(content, int) else content)
        return path

    @property
    def lines(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]
        assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
        assert len({line["id"] for line in lines}) == len(lines)
        return lines

    @property
    def names(self) -> list[str]:
        """Pictures as the lines name them."""
        return [os.path.relpath(line["picture"], self.inbox) for line in self.lines]

    def cut(self, root: Path) -> None:
        """Copy what a process that is killed now leaves behind into a folder that is not there yet."""
        root.mkdir()
        for path in (Path(self.journal), Path(f"{self.journal}-wal"), Path(f"{self.journal}.lock"), self.output):
            if path.exists():
                shutil.copyfile(path, root / path.name)

    def going_on(self, root: Path) -> World:
        """Return the world of the process that comes after such a cut, with the same files."""
        shutil.copytree(self.inbox, root / "inbox", copy_function=os.link)  # inodes and times, too
        after = World.__new__(World)
        after.__dict__.update(self.__dict__, inbox=root / "inbox", journal=str(root / Path(self.journal).name))
        after.output = root / self.output.name
        return after

    def current_names(self) -> dict[str, int]:
        """Names as the journal has them now -> sequence."""
        journal = Journal(self.journal, str(self.inbox))
        rows = journal._database.execute("SELECT name, sequence FROM files").fetchall()
        journal.close()
        return {os.fsdecode(name): sequence for name, sequence in rows}


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """What lies there is forced to the medium often."""
    return memory_path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_each_picture_is_answered_once_oldest_first(world: World) -> None:
    for number, name in enumerate(("c.png", "a.jpg", "sub/b.PNG")):
        os.utime(world.put(name, number), (1000 + number, 1000 + number))
    assert world.once() == Counts(answered=3)
    assert world.names == ["c.png", "a.jpg", "sub/b.PNG"]
    assert world.once() == Counts()
    world.put("d.png", 9)
    assert world.once() == Counts(answered=1)
    assert world.names[3:] == ["d.png"] and len(world.asked) == 4
    assert {"sequence", "id", "picture", "sha256", "time", "width"} == set(world.lines[0])


def test_a_renamed_file_is_the_same_file(world: World) -> None:
    world.put("a.png", 1)
    world.once()
    (world.inbox / "sub").mkdir()
    (world.inbox / "a.png").rename(world.inbox / "sub" / "z.png")
    assert world.once() == Counts(again=1)
    assert world.current_names() == {"sub/z.png": 1} and len(world.lines) == 1


def test_a_rename_that_changes_inode_and_time_is_understood(world: World) -> None:
    content = world.put("a.png", 1).read_bytes()
    world.once()
    (world.inbox / "a.png").unlink()
    os.utime(world.put("b.png", content), (5, 5))
    assert world.once() == Counts(again=1) and world.current_names() == {"b.png": 1}


def test_a_copy_is_another_file(world: World) -> None:
    for name in ("a.png", "b.png", "c.png"):
        world.put(name, 1)
    assert world.once() == Counts(answered=3)
    (world.inbox / "b.png").rename(world.inbox / "d.png")
    world.put("e.png", 1)
    assert world.once() == Counts(answered=1, again=1) and len(world.lines) == 4


def test_the_same_name_with_new_content_is_a_new_file(world: World) -> None:
    world.put("a.png", 1)
    world.once()
    world.put("a.png", 2)
    assert world.once() == Counts(answered=1)
    assert world.names == ["a.png", "a.png"] and world.lines[0]["sha256"] != world.lines[1]["sha256"]
    world.put("b.png", 1)  # what a was
    assert world.once() == Counts(again=1) and world.current_names() == {"a.png": 2, "b.png": 1}


def test_names_that_change_places_are_understood(world: World) -> None:
    first, second = world.put("a.png", 1), world.put("b.png", 2)
    world.once()
    first.rename(world.inbox / "c.png")
    second.rename(first)
    (world.inbox / "c.png").rename(second)
    world.once()
    assert len(world.lines) == 2 and set(world.current_names()) == {"a.png", "b.png"}
    assert world.once() == Counts()


def test_a_touched_file_is_the_same_and_so_is_one_that_comes_back(world: World) -> None:
    path = world.put("a.png", 1)
    content = path.read_bytes()
    world.once()
    os.utime(path, (7, 7))
    assert world.once() == Counts(again=1)
    path.unlink()
    assert world.once() == Counts()
    path.write_bytes(content)
    assert world.once() == Counts(again=1) and len(world.lines) == 1


def test_a_slow_writer_is_waited_for(world: World) -> None:
    content = picture(1)
    path = world.put("a.png", content[:100])

    def write() -> None:
        for start in range(100, len(content), (len(content) - 100) // 4 + 1):
            time.sleep(0.2)  # longer than the settling time, shorter than the patience
            with path.open("ab") as stream:
                stream.write(content[start : start + (len(content) - 100) // 4 + 1])

    writer = threading.Thread(target=write)
    writer.start()
    counts = world.once(pace=replace(PACE, patience_s=20.0))
    writer.join()
    assert counts == Counts(answered=1) and world.lines[0]["width"] == 48 and len(world.asked) > 1


def test_half_a_picture_is_bad_after_the_patience_and_new_when_it_is_whole(world: World) -> None:
    content = picture(1)
    path = world.put("a.png", content[:500])
    began = time.monotonic()
    assert world.once() == Counts(answered=1, bad=1)
    assert time.monotonic() - began >= PACE.patience_s
    assert "truncated" in world.lines[0]["error"] and len(world.asked) <= 2  # not read again and again
    assert world.once() == Counts()
    path.write_bytes(content)
    assert world.once() == Counts(answered=1) and world.lines[1]["width"] == 48


def test_bad_pictures_get_one_line_each(world: World) -> None:
    for name, content in (("empty.png", b""), ("text.jpg", b"hello"), ("good.png", picture(1))):
        world.put(name, content)
    assert world.once(pace=replace(PACE, patience_s=1.0)) == Counts(answered=3, bad=2)
    assert world.names[0] == "good.png" and sorted(world.names[1:]) == ["empty.png", "text.jpg"]
    assert all("error" in line and "width" not in line for line in world.lines[1:])
    assert world.once() == Counts()


def test_what_is_no_picture_is_left_alone(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(picture(5))
    for name in (".hidden.png", "~a.png", "a.png.part", "b.png~", "c.png.crdownload", "notes.txt", ".git/d.png"):
        world.put(name, 1)
    (world.inbox / "link.png").symlink_to(outside / "secret.png")
    (world.inbox / "folder").symlink_to(outside)
    (world.inbox / "folder.png").mkdir()
    os.mkfifo(world.inbox / "pipe.png")
    world.put("real.png", 2)
    (world.inbox / "inside.png").symlink_to(world.inbox / "real.png")
    assert world.once() == Counts(answered=1) and world.names == ["real.png"]
    (world.inbox / "a.png.part").rename(world.inbox / "a.png")
    assert world.once() == Counts(answered=1) and world.names[1:] == ["a.png"]


def test_a_file_that_becomes_a_link_is_not_followed(world: World, tmp_path: Path) -> None:
    path = world.put("a.png", 1)
    os.link(path, tmp_path / "secret.png")  # so that nothing but the link tells them apart
    stamp = watching.stamp_at(str(world.inbox), "a.png")
    path.unlink()
    path.symlink_to(tmp_path / "secret.png")
    assert stamp is not None and watching.read(str(world.inbox), "a.png", stamp, 10**6) is None


def test_a_folder_that_becomes_a_link_is_not_gone_through(world: World, tmp_path: Path) -> None:
    world.put("sub/deep/a.png", b"half a picture")
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "deep" / "a.png").write_bytes(picture(5))

    def swap(watch: Watch, _journal: Journal) -> None:
        honest = watch._settling.put

        def put(*arguments: Any, **more: Any) -> None:
            honest(*arguments, **more)
            if not (world.inbox / "sub").is_symlink():
                (world.inbox / "sub").rename(tmp_path / "before")
                (world.inbox / "sub").symlink_to(tmp_path / "outside")

        watch._settling.put = put  # type: ignore[method-assign]

    assert world.once(swap) == Counts() and world.asked == []


def test_a_file_that_is_written_to_while_it_is_read_is_not_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.put("a.png", 1)
    from edge_runtime import arrivals

    honest = arrivals.sha256_hex

    def late(content: bytes) -> str:
        with path.open("ab") as stream:
            stream.write(b"more")
        monkeypatch.setattr(arrivals, "sha256_hex", honest)
        return honest(content)

    monkeypatch.setattr(arrivals, "sha256_hex", late)
    world.once()
    assert len(world.lines) == 1 and world.lines[0]["sha256"] == honest(path.read_bytes())


def test_an_unreadable_file_gets_no_result_until_it_can_be_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.put("a.png", 1)
    world.put("b.png", 2)
    honest = os.open

    def closed(name: Any, *rest: Any, **more: Any) -> int:  # permissions do not stop root, who may run this
        if name == str(path):
            raise PermissionError(13, "Permission denied", name)
        return honest(name, *rest, **more)

    monkeypatch.setattr(os, "open", closed)
    counts = world.once()
    assert counts == Counts(answered=1, unreadable=1) and world.names == ["b.png"]
    assert len(world.said) == 1 and "a.png: cannot be read: Permission denied" in world.said[0]
    monkeypatch.undo()
    assert world.once() == Counts(answered=1) and world.names == ["b.png", "a.png"]


def test_what_vanishes_while_it_settles_is_forgotten(world: World) -> None:
    path = world.put("a.png", 1)
    world.put("b.png", 2)

    def vanish(watch: Watch, _journal: Journal) -> None:
        honest = watch._settling.put

        def put(name: str, *arguments: Any, **more: Any) -> None:
            honest(name, *arguments, **more)
            if name == "a.png":
                path.unlink()

        watch._settling.put = put  # type: ignore[method-assign]

    assert world.once(vanish) == Counts(answered=1) and world.names == ["b.png"]


def test_names_that_are_not_utf8(world: World) -> None:
    path = os.path.join(os.fsencode(world.inbox), b"\xff\n.png")
    with open(path, "wb") as stream:
        stream.write(picture(1))
    assert world.once() == Counts(answered=1)
    assert os.fsencode(world.lines[0]["picture"]) == path and world.once() == Counts()


def test_places_are_limited_and_all_get_their_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PLACES", 8)
    for number in range(50):
        world.put(f"{number:02}.png", number)
    for number in range(10):
        world.put(f"bad{number}.png", b"bad")
    most = 0

    def look(watch: Watch, _journal: Journal) -> None:
        honest = watch._settling.put

        def put(*arguments: Any, **more: Any) -> None:
            nonlocal most
            honest(*arguments, **more)
            most = max(most, watch.settling)

        watch._settling.put = put  # type: ignore[method-assign]

    assert world.once(look) == Counts(answered=60, bad=10)
    assert most == 8 and len({line["sha256"] for line in world.lines}) == 51


def test_a_full_disk_stops_it_once_and_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PAUSE_S", 0.1)
    for number in range(30):
        world.put(f"{number:02}.png", number)

    def fill(_watch: Watch, journal: Journal) -> None:
        pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
        journal._database.execute(f"PRAGMA max_page_count={pages + 1}")
        room = threading.Event()
        threading.Timer(0.6, room.set).start()
        honest = journal.try_room

        def try_room() -> None:
            if room.is_set():
                journal._database.execute("PRAGMA max_page_count=100000")
            honest()

        journal.try_room = try_room  # type: ignore[method-assign]

    assert world.once(fill) == Counts(answered=30)
    assert sorted(world.names) == [f"{number:02}.png" for number in range(30)]
    assert sum("full" in text for text in world.said) == 1 and world.said[-1] == "there is room again"


def test_an_outlet_that_is_full_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PAUSE_S", 0.1)
    for number in range(5):
        world.put(f"{number}.png", number)
    failures = [OutputError("results: cannot be written", got="No space left on device")] * 3

    def fill(watch: Watch, _journal: Journal) -> None:
        honest = watch._outlet.tell

        def tell(lines: Any) -> None:
            if failures:
                raise failures.pop()
            honest(lines)

        watch._outlet.tell = tell  # type: ignore[method-assign]

    assert world.once(fill) == Counts(answered=5)
    assert len(world.lines) == 5 and len(world.said) == 2 and not failures


@pytest.mark.parametrize("moment", ["before commit", "after commit", "after line"])
def test_death_around_a_commit_costs_and_doubles_nothing(world: World, moment: str) -> None:
    for number in range(5):
        world.put(f"{number}.png", number)

    def die(watch: Watch, journal: Journal) -> None:
        def dead(*_: Any) -> None:
            raise SystemExit  # nothing of ours catches it

        commit, tell = journal.commit, watch._outlet.tell
        if moment == "before commit":
            journal.commit = lambda: dead() if journal.pending else None  # type: ignore[method-assign]
        elif moment == "after commit":
            journal.commit = lambda: (commit(), dead()) if journal.pending else None  # type: ignore
        else:
            watch._outlet.tell = lambda lines: (tell(lines), dead())  # type: ignore

    with pytest.raises(SystemExit):
        world.once(die)
    counts = world.once()
    assert counts == Counts(answered=5 if moment == "before commit" else 0)
    assert sorted(world.names) == [f"{number}.png" for number in range(5)]


def test_after_a_power_cut_at_any_moment_each_file_has_one_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay on the medium when the power went, the end of the log torn off or not, is enough to go on."""
    monkeypatch.setattr(watching, "GROUP", 2)
    for number in range(6):
        world.put(f"{number}.png", number)
    monkeypatch.setattr(settling, "LEAST_S", 0.0)
    cuts: list[Path] = []

    def snap() -> None:
        cuts.append(tmp_path / f"cut-{len(cuts)}")
        world.cut(cuts[-1])

    def look(watch: Watch, journal: Journal) -> None:
        commit, tell = journal.commit, watch._outlet.tell
        journal.commit = lambda: (snap(), commit(), snap())[1]  # type: ignore[func-returns-value, method-assign]
        watch._outlet.tell = lambda lines: (tell(lines), snap())[0]  # type: ignore[func-returns-value, method-assign]

    world.once(look)
    assert len(cuts) >= 9
    answered = set()
    for root in cuts:
        for torn in (0, 700, 6000):
            again = tmp_path / f"{root.name}-{torn}"
            shutil.copytree(root, again)
            log = again / "journal.db-wal"
            os.truncate(log, max(0, log.stat().st_size - torn))
            after = world.going_on(again)
            try:
                answered.add(after.once(pace=replace(PACE, settle_s=0.0)).answered)
            except OutputError as error:  # a medium that lied and lost the whole journal: people must decide
                assert torn and "was not written from this journal" in str(error) and not after.current_names()
                continue
            assert sorted(os.path.basename(line["picture"]) for line in after.lines) == [f"{n}.png" for n in range(6)]
    assert {0, 2, 4, 6} <= answered  # some cuts cost nothing, others all the work, none a line


@pytest.mark.parametrize("renamed", [False, True])
def test_killed_at_any_line_of_the_program_each_file_has_one_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    monkeypatch.setattr(watching, "GROUP", 2)
    monkeypatch.setattr(settling, "LEAST_S", 0.0)
    pace = Pace(0.0, 0.0, 0.0)
    for number in range(4):
        world.put(f"{number}.png", number)
    world.put("copy.png", 0)
    if renamed:  # what is there is answered; then two change places, one moves, one is new
        world.once(pace=pace)
        for old, new in (("1.png", "x.png"), ("2.png", "1.png"), ("x.png", "2.png"), ("3.png", "4.png")):
            (world.inbox / old).rename(world.inbox / new)
        world.put("5.png", 5)
    ours = {module.__file__ for module in (watching, journal_module, outlet_module, claim_module)}
    cuts: list[Path] = []
    count = 0

    def line(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        if event == "line" and count % 29 == 0:
            sys.settrace(None)
            cuts.append(tmp_path / f"cut-{count}")
            world.cut(cuts[-1])
            sys.settrace(call)
        return line

    def call(frame: FrameType, _event: str, _argument: object) -> Any:
        return line if frame.f_code.co_filename in ours else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        world.once(pace=pace)
    finally:
        sys.settrace(before)
    assert len(cuts) >= 20
    for root in cuts:
        after = world.going_on(root)
        after.once(pace=pace)
        names = after.current_names()
        assert sorted(names) == sorted(os.listdir(world.inbox)) and len(set(names.values())) == len(names)
        assert len(after.lines) == 5 + renamed
        for name, sequence in names.items():
            content = (world.inbox / name).read_bytes()
            assert after.lines[sequence - 1]["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_name_that_changes_its_case_is_one_file_where_case_does_not_count(world: World) -> None:
    path = world.put("a.png", 1)
    world.once()
    os.link(path, world.inbox / "A.png")  # as a file system without case shows it: the old name is there, too
    assert world.once() == Counts(again=1)


@pytest.mark.parametrize("error", [EngineError("the engine failed"), MemoryError()])
def test_an_answer_that_fails_is_an_error_line(world: World, error: Exception) -> None:
    world.put("a.png", 1)

    def answer(content: bytes, name: str) -> dict[str, Any]:
        raise error

    assert world.once(answer=answer) == Counts(answered=1, bad=1)
    assert "engine" in world.lines[0]["error"] or "memory" in world.lines[0]["error"]


def test_an_engine_that_is_given_up_ends_the_watch_and_costs_no_further_picture(world: World) -> None:
    world.put("a.png", 1)

    def answer(content: bytes, name: str) -> dict[str, Any]:
        raise EngineGoneError("the engine died 3 times in a row and is not started again")

    with pytest.raises(EngineGoneError):
        world.once(answer=answer)
    assert world.once() == Counts(answered=1)
    assert world.lines[0]["width"] == 48


def test_a_file_that_is_too_large_is_bad_and_still_known_by_its_content(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MAX_FILE_BYTES", 1000)
    world.put("a.png", b"x" * 1001)
    assert world.once() == Counts(answered=1, bad=1) and world.asked == []
    assert world.lines[0]["error"] == f"{world.inbox}/a.png: file too large: expected at most 1000 bytes"
    (world.inbox / "a.png").rename(world.inbox / "b.png")
    assert world.once() == Counts(again=1)


def test_a_picture_that_kills_the_process_is_given_up(world: World) -> None:
    world.put("deadly.png", 1)
    world.put("good.png", 2)
    for _ in range(DEATHS):
        claim = Claim(world.journal)
        claim.hold("deadly.png")
        os.close(claim._descriptor)
    assert world.once() == Counts(answered=2, bad=1)
    assert [line["error"] for line in world.lines if "error" in line] == [
        f"{world.inbox}/deadly.png: given up: the program ended {DEATHS} times over it"
    ]


def test_a_folder_that_goes_away_is_waited_for(world: World) -> None:
    world.inbox.rename(world.inbox.with_name("away"))
    assert world.once().unreadable == 1 and "cannot be listed" in world.said[0]
    world.inbox.with_name("away").rename(world.inbox)
    world.put("a.png", 1)
    assert world.once() == Counts(answered=1)


def test_an_error_of_ours_over_a_picture_does_not_end_every_process_to_come(world: World) -> None:
    world.put("strange.png", 1)
    world.put("good.png", 2)

    def answer(content: bytes, name: str) -> dict[str, Any]:
        if "strange" in name:
            raise AssertionError("not one of the closed list")
        return {"width": 1}

    for _ in range(DEATHS):
        with pytest.raises(AssertionError):
            world.once(answer=answer)
    assert world.once(answer=answer).bad == 1
    assert sorted(world.names) == ["good.png", "strange.png"]


def test_a_full_disk_does_not_absolve_a_picture_that_kills(world: World) -> None:
    claim = Claim(world.journal)
    for _ in range(DEATHS):
        claim.hold("deadly.png")
        os.close(claim._descriptor)
        claim = Claim(world.journal)
    claim.close()
    world.put("deadly.png", 1)

    def fill(_watch: Watch, journal: Journal) -> None:
        def full(*_: Any) -> None:
            raise KeyboardInterrupt

        journal.record = full  # type: ignore[assignment, method-assign]

    with pytest.raises(KeyboardInterrupt):
        world.once(fill)
    assert world.once() == Counts(answered=1, bad=1) and world.asked == []


def test_without_a_settling_time_a_bad_file_keeps_nobody_waiting(world: World) -> None:
    world.put("bad.png", b"bad")
    looks = 0

    def look(watch: Watch, _journal: Journal) -> None:
        honest = watch._look

        def counted(wait: Any) -> None:
            nonlocal looks
            looks += 1
            honest(wait)

        watch._look = counted  # type: ignore[method-assign]

    assert world.once(look, replace(PACE, settle_s=0.0)) == Counts(answered=1, bad=1)
    assert looks < 20  # not as often as the processor can


def test_each_empty_file_has_a_line_and_a_renamed_one_no_second(world: World) -> None:
    world.put("a.png", b"")
    assert world.once() == Counts(answered=1, bad=1)
    (world.inbox / "a.png").rename(world.inbox / "b.png")
    assert world.once() == Counts(again=1)
    kept = (world.inbox / "b.png").rename(world.inbox.with_name("kept"))  # so that its inode is not given away again
    assert world.once() == Counts()
    world.put("c.png", b"")
    assert world.once() == Counts(answered=1, bad=1) and world.names == ["a.png", "c.png"]
    kept.unlink()
