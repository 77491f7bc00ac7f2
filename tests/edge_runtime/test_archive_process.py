"""``archive`` as processes that die: all at once, one of them, over a picture, over a full disk; nothing is lost."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_maker import smears
from processes import BOUND_S, children, until

from edge_runtime.archive.crew import Crew
from edge_runtime.archive.plan import Plan, Settings, make_plan
from edge_runtime.archive.shard import Done
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import EngineError, OutputError

pq = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).resolve().parents[2]
PICTURES = 60
MANY = 300

Start = Callable[..., "subprocess.Popen[bytes]"]


def answers(out: Path) -> list[dict[str, Any]]:
    """All rows of an archive but for their times."""
    parts = sorted(out.glob("part-*.parquet"))
    return [{**row, "total_ms": None} for part in parts for row in pq.read_table(part).to_pylist()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `PICTURES` pictures, of which one is bad."""
    return smears(tmp_path_factory.mktemp("pictures"), PICTURES)


@pytest.fixture
def start(valid_bundle: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts ``archive``; what still runs at the end of the test is killed."""
    running = []

    def call(*arguments: object, before: str = "", out: Path = tmp_path / "out") -> subprocess.Popen[bytes]:
        options = ["--model", valid_bundle, "--out", out, "--shard", 4, "--workers", 2]
        command = [sys.executable, "-m", "edge_runtime", "archive", *map(str, options), *map(str, arguments)]
        if before:
            command = ["sh", "-c", f'{before}; exec "$@"', "sh", *command]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        running.append(process)
        return process

    yield call
    for process in running:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str, list[str]]:
    """Return exit status, standard output and lines of standard error."""
    out, err = process.communicate(timeout=BOUND_S)
    assert b"Traceback" not in err
    return process.returncode, out.decode(), err.decode().splitlines()


def test_killed_at_random_each_picture_has_one_row(start: Start, pictures: Path, tmp_path: Path) -> None:
    rng, out, pipe, names = random.Random(5), tmp_path / "out", tmp_path / "last.png", tmp_path / "list.txt"
    paths = [str(path) for path in sorted(pictures.iterdir())]
    names.write_text("\n".join([*(paths[n % PICTURES] for n in range(MANY - 1)), str(pipe)]), encoding="utf-8")
    pipe.write_bytes((pictures / "000.png").read_bytes())
    status, _, _ = finished(start("--list", names, out=tmp_path / "whole"))
    assert status == 1  # of the bad picture
    whole = answers(tmp_path / "whole")
    assert [row["row"] for row in whole] == list(range(MANY))
    pipe.unlink()
    os.mkfifo(pipe)  # so that no process comes to the end before it is killed
    survived, orphans = [], []
    for kill in range(4):
        process, done = start("--list", names), len(list(out.glob("part-*.parquet")))
        if kill == 0:
            time.sleep(rng.uniform(0.1, 0.6))  # before, while or after it plans
        else:
            until(lambda done=done: len(list(out.glob("part-*.parquet"))) > done or done == MANY / 4 - 1)
            time.sleep(rng.uniform(0, 0.05))
        orphans += children(process.pid)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        survived.append({path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")})
    assert 0 < len(survived[-1]) < MANY / 4  # some were done, some are to do
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in orphans))  # workers end when nobody listens
    pipe.unlink()
    pipe.write_bytes((pictures / "000.png").read_bytes())
    status, text, err = finished(start("--list", names))
    assert status == 1 and f"{MANY} pictures, {MANY} rows, {MANY // PICTURES} pictures with an error" in text
    assert re.fullmatch(rf"note: [0-9]+ of {MANY} pictures were done before", err[0]) and len(err) == 1
    assert answers(out) == whole and not list(out.glob(".*.part"))
    for parts in survived:  # what was done was done once
        assert all(path.stat().st_mtime_ns == written for path, written in parts.items())


def test_a_killed_worker_is_started_again(start: Start, pictures: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    names = listing(tmp_path, pictures, 17, pipe)
    process = start("--json", "--shard", 30, "--workers", 1, "--list", names)
    writer = opened(pipe)  # the worker has number 17 in hand
    (worker,) = children(process.pid)
    os.kill(worker, signal.SIGKILL)
    until(lambda: children(process.pid) not in ([worker], []))
    os.close(writer)
    writer = opened(pipe)  # so has the next one, and gets something to read
    os.write(writer, (pictures / "000.png").read_bytes())
    os.close(writer)
    status, text, err = finished(process)
    facts = json.loads(text)
    assert status == 1 and err == [] and facts["now"]["deaths"] == 1 and facts["errors"] == 1
    found = answers(tmp_path / "out")
    assert [row["row"] for row in found] == list(range(PICTURES))
    assert [row["row"] for row in found if row["error"]] == [41]


def listing(tmp_path: Path, pictures: Path, place: int, path: Path) -> Path:
    """Write a list of the pictures with another one in the place of one of them."""
    names = [str(name) for name in sorted(pictures.iterdir())]
    names[place] = str(path)
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    return tmp_path / "list.txt"


def opened(pipe: Path) -> int:
    """Open a pipe for writing as soon as somebody reads it, who waits from then on."""
    descriptors: list[int] = []

    def there() -> bool:
        try:
            descriptors.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads it
            return False
        return True

    until(there)
    return descriptors[0]


def test_no_worker_outlives_who_started_it(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    process = start(tmp_path / "pipe.png")
    writer = opened(tmp_path / "pipe.png")
    (worker,) = children(process.pid)
    process.kill()
    process.wait()
    killed_s = time.monotonic()
    until(lambda: not os.path.exists(f"/proc/{worker}"))  # although its picture hangs
    assert time.monotonic() - killed_s < 5
    os.close(writer)


def test_asked_to_stop_it_says_how_to_go_on(start: Start, pictures: Path, tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe.png", tmp_path / "out"
    os.mkfifo(pipe)
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start("--list", listing(tmp_path, pictures, 50, pipe))
        writer = opened(pipe)
        until(lambda: len(list(out.glob("part-*.parquet"))) == 14)
        workers = children(process.pid)
        process.send_signal(number)
        got, text, err = finished(process)
        os.close(writer)
        assert workers and not any(os.path.exists(f"/proc/{pid}") for pid in workers)
        assert (got, text) == (status, "") and not list(out.glob(".*.part"))
        said = "note: stopped with 14 of 15 shards done; go on: python -m edge_runtime archive --out"
        assert err[-1] == f"{said} {out}"
    pipe.unlink()
    pipe.write_bytes((pictures / "000.png").read_bytes())
    status, _, err = finished(start())
    assert status == 1 and len(answers(out)) == PICTURES


def test_a_full_disk_is_one_line_and_tears_nothing(start: Start, pictures: Path, tmp_path: Path) -> None:
    status, text, err = finished(start("--shard", 60, pictures, before="ulimit -f 9"))  # the list fits, a part does not
    assert (status, text, len(err)) == (1, "", 1)
    assert "part-00000.parquet: cannot be written" in err[0] and "run again" in err[0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", "_list.jsonl", "_plan.json"}
    status, _, _ = finished(start("--shard", 60, pictures))
    assert status == 1 and len(answers(tmp_path / "out")) == PICTURES


# -------------------------------------------------------------------------------------------------------- the crew


@pytest.fixture
def plan(pictures: Path, tmp_path: Path, valid_bundle: Path) -> Plan:
    """A plan of twelve pictures in shards of four, of which number 5 is a pipe that nobody writes to."""
    names = [str(path) for path in sorted(pictures.iterdir())[:12]]
    names[5] = str(tmp_path / "pipe.png")
    os.mkfifo(names[5])
    (tmp_path / "out").mkdir()
    bundle = open_bundle(valid_bundle)
    return make_plan(
        tmp_path / "out",
        names,
        Settings("classify", str(valid_bundle), bundle.id, "litert", False, None, 4, str(tmp_path)),
    )


def driven(crew: Crew, plan: Plan, look: Callable[[Crew], None] = lambda crew: None) -> list[Done]:
    """Do all shards; look in between."""
    done = []
    try:
        for found in crew.run(map(plan.job, range(3))):
            if found is None:
                look(crew)
            else:
                done.append(found)
    finally:
        crew.close()
    return done


def test_a_picture_that_kills_its_process_is_given_up(plan: Plan) -> None:
    killed = []

    def kill(crew: Crew) -> None:
        for worker in crew._workers:
            if worker.hand == 5 and worker._process.pid not in killed:
                killed.append(worker._process.pid)
                os.kill(worker._process.pid, signal.SIGSEGV)

    crew = Crew(plan, 1, 60.0)
    done = driven(crew, plan, kill)
    assert len(killed) == crew.deaths == 2
    assert sorted((one.shard, one.pictures, one.rows, one.errors) for one in done) == [
        (0, 4, 4, 0),
        (1, 4, 4, 1),
        (2, 4, 4, 0),
    ]
    found = answers(plan.out)
    assert [row["row"] for row in found] == list(range(12)) and not list(plan.out.glob(".*.part"))
    assert {row["row"]: row["error"] for row in found if row["error"]} == {
        5: f"{found[5]['path']}: given up after 2 tries, ended by SIGSEGV"
    }


def test_a_picture_that_takes_too_long_is_given_up(plan: Plan) -> None:
    crew = Crew(plan, 2, 0.7)
    assert sum(one.errors for one in driven(crew, plan)) == 1 and crew.deaths == 2
    found = answers(plan.out)
    assert [row["row"] for row in found] == list(range(12))
    assert found[5]["error"].endswith("pipe.png: given up after 2 tries, ended by the limit of 0.7 seconds")


def test_time_for_which_all_were_stopped_is_not_counted(
    plan: Plan, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipes: list[int] = []

    def look(crew: Crew) -> None:
        if pipes and pipes[0]:
            os.write(pipes[0], (pictures / "000.png").read_bytes())
            os.close(pipes[0])
            pipes[0] = 0
        elif not pipes and any(worker.hand == 5 for worker in crew._workers):
            pipes.append(opened(tmp_path / "pipe.png"))
            time.sleep(3.5)

    monkeypatch.setattr("edge_runtime.archive.crew.AWAY_S", 2.0)
    crew = Crew(plan, 1, 3.0)
    assert sum(one.errors for one in driven(crew, plan, look)) == 0 and crew.deaths == 0


def test_a_worker_that_hangs_while_it_starts_is_ended(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    start = [sys.executable, "-c", "import time; time.sleep(1000)"]
    monkeypatch.setattr("edge_runtime.archive.crew.command", lambda note: start)
    monkeypatch.setattr("edge_runtime.archive.crew.IDLE_S", 0.3)
    with pytest.raises(EngineError, match=r"die again and again: got ended by the limit of 0\.3 seconds"):
        driven(Crew(plan, 1, 0.1), plan)


def test_workers_that_only_die_end_it(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    start = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"]
    monkeypatch.setattr("edge_runtime.archive.crew.command", lambda note: start)
    with pytest.raises(EngineError, match=r"die again and again: got ended by SIGABRT .*fewer --workers"):
        driven(Crew(plan, 2, 60.0), plan)
    assert not list(plan.out.glob("part-*"))


def test_a_folder_whose_name_is_no_text_is_named(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(OutputError, match=r"\\udcff.*cannot be written"):
        driven(Crew(Plan(**{**vars(plan), "out": out}), 1, 60.0), plan)


def test_a_worker_refuses_another_bundle(plan: Plan, bundle_folder: Path) -> None:
    manifest = json.loads((bundle_folder / "manifest.json").read_text(encoding="utf-8"))
    (bundle_folder / "manifest.json").write_text(json.dumps(manifest, indent=3), encoding="utf-8")
    settings = Settings(**{**vars(plan.settings), "model": str(bundle_folder)})
    with pytest.raises(OutputError, match="another bundle here: got test-tiny-int8@"):
        driven(Crew(Plan(**{**vars(plan), "settings": settings}), 1, 60.0), plan)


def test_jobs_are_taken_as_workers_become_free(plan: Plan) -> None:
    taken = itertools.count()
    jobs = (plan.job(0) for _ in range(4) if next(taken) >= 0)
    crew = Crew(plan, 2, 60.0)
    events = crew.run(jobs)
    next(events)
    assert next(taken) == 2  # two were taken, two are to come
    crew.close()
