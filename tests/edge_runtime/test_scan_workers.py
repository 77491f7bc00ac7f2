"""``scan`` with worker processes: the answers of one process in the same order, whatever becomes of the workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import BOUND_S, children, until

from edge_runtime import field_workers, machine
from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import EngineError, ImageError
from edge_runtime.field_workers import FieldWorkers, Handed, WorkersError
from edge_runtime.scan import FieldScan, Scanner
from edge_runtime.tiles import Tile
from train.render import render_field

ROOT = Path(__file__).resolve().parents[2]
FILES = ["cells.csv", "contact-sheet.jpg", "report.html", "scan.json"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: four fields, a wide picture, an empty one, and one that is damaged."""
    folder = tmp_path_factory.mktemp("fields")
    drawn = [render_field("Early", np.random.default_rng(seed), 320).pixels for seed in range(4)]
    for number, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    wide = np.full((700, 1500, 3), 240, np.uint8)
    for number, pixels in enumerate(drawn[:3]):
        wide[100:420, 200 + 320 * number : 520 + 320 * number] = pixels
    Image.fromarray(wide).save(folder / "1-wide.png")
    Image.new("RGB", (320, 240), (240, 238, 242)).save(folder / "empty.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(Classifier.open("blood-cells", threads=1))


@pytest.fixture
def started(scanner: Scanner) -> Iterator[Callable[[int], FieldWorkers]]:
    """Return a function that starts workers; they have ended with the test."""
    running: list[FieldWorkers] = []

    def call(count: int) -> FieldWorkers:
        running.append(FieldWorkers(scanner, count))
        return running[-1]

    before = children(os.getpid())
    yield call
    for workers in running:
        workers.close()
    assert children(os.getpid()) == before


def without_times(value: Any) -> Any:
    """The same object of JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key != "timings_ms"}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def written(folder: Path) -> dict[str, Any]:
    """What a scan wrote, but for its times."""
    assert sorted(path.name for path in folder.iterdir()) == FILES
    found: dict[str, Any] = {name: (folder / name).read_bytes() for name in FILES}
    found["report.html"] = re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", found["report.html"])
    found["scan.json"] = without_times(json.loads(found["scan.json"]))
    return found


def told(fields: Sequence[FieldScan]) -> list[Any]:
    return [without_times(field.to_dict()) for field in fields]


# --------------------------------------------------------------------------------------------------- the same answers


@pytest.mark.parametrize("ahead_bytes", [field_workers.AHEAD_BYTES, 1])
def test_the_report_is_that_of_one_process(
    run, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_bytes: int
) -> None:
    monkeypatch.setattr(field_workers, "AHEAD_BYTES", ahead_bytes)
    alone = run("scan", fields, "--out", tmp_path / "out", "--workers", 1)
    one = written(tmp_path / "out")
    shared = run("scan", fields, "--out", tmp_path / "out", "--workers", 3)
    assert shared == alone and alone[0] == 1 and len(alone[2]) == 1 and "broken.png: damaged" in alone[2][0]
    assert written(tmp_path / "out") == one
    names = [Path(row["field"]).name for row in one["scan.json"]["fields"]]
    assert names == ["0.png", "1-wide.png", "1.png", "2.png", "3.png", "broken.png", "empty.png"]
    assert one["scan.json"]["differential"]["found"] > 20 and one["scan.json"]["fields"][1]["parts"] > 1


def test_an_isolated_engine_is_isolated_in_each_worker(run, fields: Path) -> None:
    pictures = [fields / "0.png", fields / "1.png"]
    alone = run("scan", *pictures, "--json", "--workers", 1)
    shared = run("scan", *pictures, "--json", "--workers", 2, "--isolate")
    lines = [[without_times(json.loads(line)) for line in out.splitlines()] for _, out, _ in (alone, shared)]
    assert lines[0] == lines[1] and shared[0] == 0 and shared[2][0].startswith("note: the engine is isolated by")


def test_what_only_this_process_can_read_stays_here(fields: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    names = [str(fields / "0.png"), "-", str(fields / "1.png"), str(pipe), str(fields / "2.png"), "missing.png"]
    command = [sys.executable, "-m", "edge_runtime", "scan", "--json", "--workers", "2", *names]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write((fields / "3.png").read_bytes())
    process.stdin.close()
    process.stdin = None
    pipe.write_bytes((fields / "3.png").read_bytes())
    out, err = process.communicate(timeout=BOUND_S)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["field"] for line in lines] == ["stdin" if name == "-" else name for name in names]
    assert lines[1]["cells"] and [cell["label"] for cell in lines[1]["cells"]] == [
        cell["label"] for cell in lines[3]["cells"]
    ]
    assert process.returncode == 1 and err.decode().splitlines() == ["error: missing.png: no such file"]


def test_pictures_that_fit_only_one_by_one_stay_here(run, fields: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[str] = []

    class Heard(FieldWorkers):
        def hand(self, path: str, name: str) -> Handed:
            handed.append(Path(path).name)
            return super().hand(path, name)

    alone = run("scan", fields, "--workers", 1)
    monkeypatch.setattr(field_workers, "FREE_BYTES", 2_000_000)  # the wide one needs more
    monkeypatch.setattr(field_workers, "FieldWorkers", Heard)
    for free_bytes in (90_000_000, 75_000_000):
        monkeypatch.setattr(field_workers, "room_bytes", lambda free_bytes=free_bytes: free_bytes)
        assert run("scan", fields, "--workers", 2) == alone
    names = ["0.png", "1-wide.png", "1.png", "2.png", "3.png", "broken.png", "empty.png"]
    assert handed == names + [name for name in names if name != "1-wide.png"]


def test_tiles_are_shown_as_they_are_begun(
    started: Callable[[int], FieldWorkers], scanner: Scanner, fields: Path
) -> None:
    seen: list[list[Tile]] = []

    def progress(tiles: Sequence[Tile]) -> Iterator[Tile]:
        seen.append([])
        for tile in tiles:
            seen[-1].append(tile)
            yield tile

    wide = fields / "1-wide.png"
    here = told(list(scanner.looks(wide, "wide", progress)))
    workers = started(1)
    assert told(list(workers.take(workers.hand(str(wide), "wide"), progress))) == here
    assert len(seen[0]) > len(here) > 1 and seen[1] == seen[0]


def test_no_more_than_agreed_waits_for_its_turn(
    started: Callable[[int], FieldWorkers], fields: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_workers, "AHEAD_BYTES", 1)
    workers = started(2)
    first, second = (workers.hand(str(fields / "1-wide.png"), name) for name in "ab")
    until(lambda: first._said and second._said)
    time.sleep(0.3)
    assert len(first._said) == len(second._said) == 1
    assert told(list(workers.take(first)))[0]["field"] == "a" and told(list(workers.take(second)))[0]["field"] == "b"


def test_closed_before_all_is_taken_nobody_waits(
    started: Callable[[int], FieldWorkers], fields: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_workers, "AHEAD_BYTES", 1)
    workers = started(1)
    wide, next_one = (workers.hand(str(fields / "1-wide.png"), name) for name in "ab")
    until(lambda: wide._said)
    time.sleep(0.3)  # its leader waits for room
    closing = threading.Thread(target=workers.close, daemon=True)
    closing.start()
    closing.join(BOUND_S)
    assert not closing.is_alive() and len(next_one._said) <= 1


# -------------------------------------------------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("pictures", "options", "count"), [(3, (), None), (4, (), 3), (2, ("--workers", 9), 2), (4, ("--threads", 3), None)]
)
def test_as_many_as_there_are_cpus_and_none_for_few_pictures(
    run, fields: Path, monkeypatch: pytest.MonkeyPatch, pictures: int, options: tuple, count: int | None
) -> None:
    asked: list[int] = []

    class Counted(FieldWorkers):
        def __init__(self, scanner: Scanner, count: int) -> None:
            asked.append(count)
            super().__init__(scanner, 1)

    monkeypatch.setattr(machine, "usable_cpus", lambda: 3)
    monkeypatch.setattr(field_workers, "FieldWorkers", Counted)
    assert run("scan", *(fields / f"{number}.png" for number in range(pictures)), *options)[0] == 0
    assert asked == ([] if count is None else [count])


@pytest.mark.parametrize("workers", [0, -1, 1025])
def test_a_senseless_number_is_one_line(run, fields: Path, workers: int) -> None:
    status, _, err = run("scan", fields, "--workers", workers)
    assert status == 2 and err == [f"error: --workers: got {workers}, expected 1 to 1024"]


# ------------------------------------------------------------------------------------------------ workers that die


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe that can be opened and never says anything: a picture that takes for ever."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    kept = os.open(path, os.O_RDWR)
    yield path
    os.close(kept)


def holders(pipe: Path, parent: int) -> list[int]:
    """The children of a process that have a pipe open."""
    found = set()
    for pid in children(parent):
        with suppress(OSError):  # ended meanwhile
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    found |= {pid} if os.readlink(link) == str(pipe) else set()
    return sorted(found)


def test_a_picture_that_a_worker_dies_over_costs_itself(
    started: Callable[[int], FieldWorkers], scanner: Scanner, fields: Path, pipe: Path
) -> None:
    workers, pictures = started(1), [fields / "0.png", pipe, fields / "broken.png", fields / "1.png"]
    before, hung, bad, after = (workers.hand(str(picture), picture.name) for picture in pictures)
    (worker,) = until(lambda: holders(pipe, os.getpid()))
    os.kill(worker, signal.SIGSEGV)
    assert told(list(workers.take(before))) == told(list(scanner.looks(fields / "0.png", "0.png")))
    with pytest.raises(EngineError, match=r"^its worker process died: got SIGSEGV$"):
        list(workers.take(hung))
    with pytest.raises(ImageError, match=r"^broken.png: damaged or truncated"):
        list(workers.take(bad))
    assert told(list(workers.take(after))) == told(list(scanner.looks(fields / "1.png", "1.png")))


def test_workers_that_only_die_end_it(started: Callable[[int], FieldWorkers], fields: Path, pipe: Path) -> None:
    def die(handed: Handed) -> None:
        (worker,) = until(lambda: holders(pipe, os.getpid()))
        os.kill(worker, signal.SIGKILL)
        until(lambda: not runs(worker))
        list(workers.take(handed))

    workers, field = started(1), fields / "0.png"
    handed = [workers.hand(str(path), path.name) for path in (pipe, pipe, field, pipe, pipe, pipe)]
    for number, one in enumerate(handed[:5]):
        if number == 2:
            assert list(workers.take(one))  # they are not in a row
            continue
        with pytest.raises(EngineError, match=r"its worker process died: got SIGKILL \(is memory short\? fewer --w"):
            die(one)
    with pytest.raises(WorkersError, match=r"die again and again: got 3 in a row, the last by SIGKILL \(is memory"):
        die(handed[5])


def test_workers_that_cannot_start_are_one_line_and_no_report(
    run, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_workers, "START", "import os; os.abort()")
    status, out, err = run("scan", fields, "--workers", 2, "--out", tmp_path)
    said = "worker processes cannot be started: got SIGABRT, 3 times (is memory short? fewer --workers)"
    assert (status, out, err) == (1, "", [f"error: {said}"])
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_changed_meanwhile_is_refused(fields: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(open_bundle("blood-cells").root, folder)
    workers = FieldWorkers(Scanner(Classifier.open(folder, threads=1)), 1)
    for model in folder.glob("model.*"):
        model.write_bytes(model.read_bytes()[:-1] + b"?")
    try:
        with pytest.raises(WorkersError, match=r"cannot be started: got .*: altered or damaged"):
            list(workers.take(workers.hand(str(fields / "0.png"), "a")))
    finally:
        workers.close()


# ---------------------------------------------------------------------------------------------- the end of the parent


@pytest.fixture(scope="module")
def many(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of so many fields that a scan takes long."""
    folder = tmp_path_factory.mktemp("many")
    with Image.open(fields / "0.png") as picture:
        for number in range(120):
            picture.putpixel((0, 0), (number, 0, 0))  # a copy would be counted once
            picture.save(folder / f"{number:03}.png", compress_level=0)
    return folder


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, ["interrupted"]),
        (signal.SIGTERM, -signal.SIGTERM, []),
        (signal.SIGKILL, -signal.SIGKILL, []),
    ],
)
def test_asked_to_stop_all_stop_at_once(
    many: Path, tmp_path: Path, number: signal.Signals, status: int, said: list[str]
) -> None:
    command = [sys.executable, "-m", "edge_runtime", "scan", "--json", "--workers", "2", "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [*command, many],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()  # it is at work
    workers = children(process.pid)
    assert len(workers) == 2
    start = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    process.stdout.close()
    assert process.stderr.read().decode().splitlines() == said and process.wait(BOUND_S) == status
    process.stderr.close()
    until(lambda: not any(map(runs, workers)))
    assert time.monotonic() - start < 10
    assert not any((tmp_path / "out" / name).exists() for name in FILES)


def test_no_worker_outlives_who_started_it_over_a_picture_that_hangs(pipe: Path) -> None:
    program = (
        "import sys; from edge_runtime.classifier import Classifier; from edge_runtime.scan import Scanner; "
        "from edge_runtime.field_workers import FieldWorkers; "
        "workers = FieldWorkers(Scanner(Classifier.open('blood-cells', threads=1)), 1); "
        "list(workers.take(workers.hand(sys.argv[1], 'pipe')))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(pipe)], cwd=ROOT, stderr=subprocess.DEVNULL)
    until(lambda: holders(pipe, process.pid))
    (worker,) = children(process.pid)
    process.kill()
    process.wait(BOUND_S)
    until(lambda: not runs(worker))
