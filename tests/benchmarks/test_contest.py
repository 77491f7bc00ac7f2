"""Contests: ways in processes of their own take turns, and one that fails or changes its answer is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contender
from benchmarks import contest as contest_module
from benchmarks.contest import ContestError, Way, contest

WAYS = """
import os, sys, time

def sleeper(seconds):
    def run():
        time.sleep(seconds)
        return seconds
    print("this must not reach the pipe")
    return run, lambda found: {"slept": found}

def spinner(seconds, cpu):
    os.sched_setaffinity(0, {cpu})
    def run():
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
    return run, lambda found: "spun"

def counter():
    state = []
    def run():
        state.append(0)
        return len(state) > 12
    return run, bool

def broken():
    raise RuntimeError("no model here")

def restless(flag):
    # Like an engine's pool: a thread that goes on for a while after the answer.
    import hashlib, pathlib, threading
    def spin():
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 20000)  # does not hold the interpreter
        pathlib.Path(flag).unlink()
    def run():
        pathlib.Path(flag).touch()
        threading.Thread(target=spin).start()
    return run, lambda found: "went on"

def witness(flag):
    seen = []
    def run():
        seen.append("disturbed" if seen and os.path.exists(flag) else "alone")  # at first all load side by side
        return seen[-1]
    return run, str

def stuck():
    time.sleep(60)

def neighbour():
    import markdown
    return lambda: markdown.__name__, str

def dying():
    sys.stderr.write("last words\\n")
    sys.stderr.flush()
    os._exit(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of ways."""
    path = tmp_path / "ways.py"
    path.write_text(WAYS, encoding="utf-8")
    return path


def test_ways_are_timed_in_turns(file: Path) -> None:
    ways = [Way(name, file, "sleeper", {"seconds": s}) for name, s in (("short", 0.001), ("long", 0.004))]
    found = contest(ways, rounds=4, runs=3, not_counted=1, warmup=1)
    assert list(found) == ["short", "long"]
    for name, least_ms in (("short", 1.0), ("long", 4.0)):
        outcome = found[name]
        assert outcome.times_ms.shape == (4, 3)
        assert outcome.times_ms.min() >= least_ms and outcome.first_ms >= least_ms and outcome.load_ms > 0
        assert outcome.answer == {"slept": least_ms / 1000}
        assert 3 < outcome.peak_rss_mb < 100  # its own, not that of the process that started it
    assert found["short"].times_ms.min() < found["long"].times_ms.min()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this system does not tell who waits")
def test_what_is_waited_for_another_program_is_told_apart(file: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    rival = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", rival]) as process:
        try:
            way = Way("spinner", file, "spinner", {"seconds": 0.02, "cpu": cpu})
            found = contest([way], rounds=10, runs=3, not_counted=0, warmup=1)["spinner"]
        finally:
            process.kill()
    assert np.median(found.times_ms) > 1.3 * 20  # the rival gets its share
    own = np.median(found.times_ms - found.waited_ms)
    assert 0.99 * 20 <= own < 1.1 * 20


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not tell which threads run")
def test_a_turn_begins_when_the_last_ways_threads_have_come_to_rest(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest_module, "REST_S", 30.0)  # however busy the machine is
    flag = {"flag": str(tmp_path / "spinning")}
    ways = [Way(name, file, name, flag) for name in ("witness", "restless")]
    assert contest(ways, rounds=6, runs=1, not_counted=0, warmup=1)["witness"].answer == "alone"


def test_a_way_that_has_had_its_time_sits_out(file: Path) -> None:
    ways = [Way(name, file, "sleeper", {"seconds": s}) for name, s in (("short", 0.0), ("long", 0.05))]
    found = contest(ways, rounds=6, runs=2, not_counted=0, warmup=0, most_s=0.4)
    turns_ms = found["long"].times_ms.sum(axis=1)  # NaN: sat out
    taken = int((~np.isnan(turns_ms)).sum())
    assert 1 <= taken <= 4 and not np.isnan(turns_ms[:taken]).any()
    assert turns_ms[: taken - 1].sum() < 400 <= turns_ms[:taken].sum()
    assert not np.isnan(found["short"].times_ms).any()
    assert found["long"].answer == {"slept": 0.05}


def test_a_way_that_does_not_answer_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest_module, "PATIENCE_S", 0.3)
    with pytest.raises(ContestError, match=r"stuck: no answer for 0\.3 s"):
        contest([Way("stuck", file, "stuck")], rounds=1)


def test_what_lies_beside_a_contender_is_no_package(file: Path, tmp_path: Path) -> None:
    assert Path(contest_module.CONTENDER).with_name("markdown.py").exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "markdown.py").write_text("__name__ = 'the right one'\n", encoding="utf-8")
    path = {"PYTHONPATH": str(tmp_path / "elsewhere")}
    found = contest([Way("neighbour", file, "neighbour", environment=path)], rounds=1)
    assert found["neighbour"].answer == "the right one"


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("counter", "counter: ValueError: another answer: True, before False"),
        ("broken", "broken: RuntimeError: no model here"),
        ("dying", "dying: ended with status 3: last words"),
        ("absent", "absent: AttributeError"),
    ],
)
def test_a_way_that_fails_is_named(file: Path, function: str, says: str) -> None:
    with pytest.raises(ContestError, match=says):
        contest([Way(function, file, function)], rounds=5)


def test_an_environment_that_is_missing_is_named(file: Path) -> None:
    with pytest.raises(ContestError, match="other: cannot be started"):
        contest([Way("other", file, "sleeper", {"seconds": 0}, python="/no/such/python")], rounds=1)


@pytest.mark.parametrize("account", [b"0 0 0\n", b"", b"nonsense\n"])
def test_a_kernel_that_keeps_no_account_of_waits_is_no_kernel_without_waits(
    account: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contender.os, "pread", lambda *_: account)
    assert np.isnan(contender._waits()())
