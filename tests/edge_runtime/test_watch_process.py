"""``watch`` as a process of its own: killed, stopped, started twice, cut off from its reader; and its command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_maker import encoded, smear
from PIL import Image
from processes import BOUND_S, until

from benchmarks.watch import killed
from edge_runtime import cli
from edge_runtime import delivery as delivery_module
from edge_runtime.arrivals import Stamp
from edge_runtime.delivery import Delivery
from edge_runtime.journal import Journal, connect
from train.render import render_field

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """What lies there is forced to the medium often."""
    return memory_path


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A folder with five pictures."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(encoded(Image.fromarray(smear(48, number))))
    return folder


@pytest.fixture
def start(valid_bundle: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts ``watch``; what still runs at the end of the test is killed."""
    running = []

    def call(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edge_runtime", "watch", "--model", str(valid_bundle), "--settle", "0.1"]
        if redirect := options.pop("redirect", ""):
            command = ["sh", "-c", f'exec "$@" {redirect}', "sh", *command]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, **options}
        running.append(subprocess.Popen([*command, *map(str, arguments)], **options))  # type: ignore[call-overload]
        return running[-1]

    yield call
    for process in running:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen[bytes]) -> tuple[int, list[dict[str, object]], list[str]]:
    """Return exit status, lines on standard output and on standard error."""
    out, err = process.communicate(timeout=BOUND_S)
    assert b"Traceback" not in err
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode().splitlines()


def test_killed_at_random_each_file_has_one_result(tmp_path: Path, valid_bundle: Path) -> None:
    found = killed(tmp_path, files=60, kills=3, seed=3, model=str(valid_bundle))
    assert found["kills"] == 3 and found["answered_before_the_last_process"] > 0
    assert found["results"] == found["files"] == 60 and found["lost"] == found["twice"] == found["errors"] == 0
    assert found["sequences_without_gaps"] and found["names_there"] and found["never_delivered"] == 0


def test_once_prints_a_line_per_picture_and_nothing_again(inbox: Path, start: Callable[..., object]) -> None:
    status, lines, err = finished(start("--once", inbox))
    assert status == 0 and err == ["note: 5 answered, 0 of them bad; 0 known already"]
    assert [line["picture"] for line in lines] == [f"{inbox}/{n}.png" for n in range(5)]
    first = lines[0]
    assert list(first)[:6] == ["sequence", "id", "picture", "sha256", "time", "label"] and "heatmap" in first
    (inbox / "bad.png").write_bytes(b"bad")
    status, lines, err = finished(start("--once", "--patience", 0, inbox))
    assert status == 1 and [line["picture"] for line in lines] == [f"{inbox}/bad.png"] and "error" in lines[0]
    assert finished(start("--once", inbox))[:2] == (0, [])


def test_scan_tells_the_cells_of_each_field(tmp_path: Path, start: Callable[..., object]) -> None:
    field = render_field("Early", np.random.default_rng(0), 512).pixels
    (tmp_path / "field.png").write_bytes(encoded(Image.fromarray(field)))
    status, (line,), _ = finished(start("--once", "--scan", "--model", "blood-cells", tmp_path))
    assert status == 0 and line["picture"] == f"{tmp_path}/field.png" and "field" not in line
    assert line["width"] == 512 and len(line["cells"]) > 2 and all("label" in cell for cell in line["cells"])
    status, lines, err = finished(start("--once", "--scan", "--model", "all-subtypes", tmp_path))
    assert status == 2 and lines == [] and len(err) == 1 and "single cells" in err[0]


def test_it_leaves_cleanly_when_asked(inbox: Path, tmp_path: Path, start: Callable[..., Any]) -> None:
    """By Ctrl-C; other tests here use SIGTERM and ask for exit status 0."""
    output = tmp_path / "results.jsonl"
    process = start(inbox, "--output", output)
    until(lambda: output.exists() and output.read_bytes().count(b"\n") == 5)
    (inbox / "later.png").write_bytes(encoded(Image.fromarray(smear(48, 9))))
    until(lambda: output.read_bytes().count(b"\n") == 6)
    process.send_signal(signal.SIGINT)
    status, _, err = finished(process)
    assert status == 130 and err[0].startswith("note: watching ") and err[0].endswith("not a diagnosis.")
    assert err[1:] == ["note: 6 answered, 0 of them bad; 0 known already"]
    assert sqlite3.connect(inbox / ".leukoscope.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_second_watch_gets_one_line(inbox: Path, tmp_path: Path, start: Callable[..., object]) -> None:
    output = tmp_path / "results.jsonl"
    start(inbox, "--output", output)
    until(lambda: output.exists() and output.read_bytes().count(b"\n") == 5)
    status, lines, err = finished(start(inbox))
    assert status == 1 and lines == [] and len(err) == 1 and "in use by another watch" in err[0]


def test_a_reader_that_has_gone_costs_no_line(inbox: Path, start: Callable[..., object]) -> None:
    process = start(inbox)
    first = json.loads(process.stdout.readline())
    process.stdout.close()
    (inbox / "later.png").write_bytes(encoded(Image.fromarray(smear(48, 9))))
    process.stdout = None
    assert finished_err(process) == 0
    status, lines, _ = finished(start("--once", inbox))
    assert status == 0 and lines[-1]["picture"] == f"{inbox}/later.png"
    assert first["sequence"] == 1 and [line["sequence"] for line in lines] == list(
        range(7 - len(lines), 7)  # at least the one that was not printed, none left out
    )


def finished_err(process: subprocess.Popen[bytes]) -> int:
    _, err = process.communicate(timeout=BOUND_S)
    assert b"Traceback" not in err
    return process.returncode


def test_a_killed_process_prints_the_rest_later(inbox: Path, start: Callable[..., object]) -> None:
    process = start(inbox)
    seen = [json.loads(process.stdout.readline())["id"]]
    process.kill()
    seen += [json.loads(line)["id"] for line in process.stdout.read().splitlines()]
    _, lines, _ = finished(start("--once", inbox))
    again = [line["id"] for line in lines]
    assert len({*seen, *again}) == 5


def test_a_reader_that_hangs_does_not_hold_up_the_end(inbox: Path, start: Callable[..., object]) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):  # full, and nobody reads
            pass
    os.set_blocking(writer, True)
    process = start(inbox, stdout=writer)
    assert process.stderr.readline().startswith(b"note: watching")
    until(lambda: sqlite3.connect(inbox / ".leukoscope.db").execute("SELECT max(sequence) FROM results").fetchone()[0])
    process.terminate()
    assert finished_err(process) == 0
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_get_no_file_of_ours(
    inbox: Path, tmp_path: Path, start: Callable[..., Any], closed: str
) -> None:
    process = start("--once", "--output", tmp_path / "results.jsonl", inbox, redirect=closed)
    out, err = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0 and out == err == b""
    assert json.loads((inbox / ".leukoscope.db.lock").read_text())["held"] is None
    assert len([json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]) == 5


def test_systemd_is_told(inbox: Path, tmp_path: Path, start: Callable[..., object]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(BOUND_S)
        variables = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "10000000"}
        process = start(inbox, env=variables, stdout=subprocess.DEVNULL)
        heard = [listener.recv(100), listener.recv(100)]
        process.terminate()
        while heard[-1] != b"STOPPING=1":
            heard.append(listener.recv(100))
    assert heard[:2] == [b"READY=1", b"WATCHDOG=1"] and process.wait(BOUND_S) == 0


def test_a_tiny_disk_that_runs_full(inbox: Path, tmp_path: Path, start: Callable[..., object]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("a disk can be mounted by root only")
    try:
        (small / "ballast").write_bytes(b"\0" * 90_000)
        for number in range(100, 250):
            shutil.copy(inbox / "0.png", inbox / f"{number}.png")
        process = start(inbox, "--journal", small / "j.db", "--output", small / "results.jsonl")
        heard = process.stderr.readline(), process.stderr.readline()
        assert b"no more files are taken" in heard[1] and process.poll() is None
        subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
        output = small / "results.jsonl"
        until(lambda: output.read_bytes().count(b"\n") == 155)
        process.terminate()
        assert finished_err(process) == 0
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        assert len({line["picture"] for line in lines}) == 155 and not any("error" in line for line in lines)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "no such folder"),
        ([".", "--settle", "-1"], "--settle: got -1.0, expected 0 to 86400 seconds"),
        ([".", "--patience", "nan"], "--patience"),
        ([".", "--output", "lines.PNG"], "--output: got lines.PNG, expected a name that is no picture's"),
        ([".", "--journal", "journal.jpg"], "--journal: got journal.jpg"),
        ([".", "--on-result", "no-such-program-anywhere x"], "expected a program that is there"),
        ([".", "--on-result", "'"], "--on-result"),
        ([".", "--on-result", ""], "--on-result"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["watch", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and expected in err and os.listdir(tmp_path) == []


# --- the command that gets the results


class Deliveries:
    """A journal with results to deliver, and commands in sh."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.said = root, str(root / "journal.db"), []
        self.taken = root / "taken"
        self.taken.touch()

    def fill(self, count: int) -> None:
        journal = Journal(self.path, str(self.root))
        for number in range(count):
            name = f"$(touch {self.root}/pwned);`id` '{number}.png"
            journal.record(name, Stamp(number, 1, 1), f"{number:064}", {"picture": name}, True)
        journal.commit()
        journal.close()

    def deliver(self, script: str, timeout_s: float = 60.0) -> Delivery:
        delivery = Delivery(self.path, ["sh", "-c", script], self.said.append, timeout_s)
        delivery.start()
        return delivery

    def rows(self) -> list[tuple[int, int, str]]:
        database = connect(self.path)
        rows = database.execute("SELECT delivered, tries, outcome FROM deliveries ORDER BY sequence").fetchall()
        database.close()
        return rows

    @property
    def sequences(self) -> list[int]:
        return [json.loads(line)["sequence"] for line in self.taken.read_text().splitlines()]


@pytest.fixture
def deliveries(tmp_path: Path) -> Deliveries:
    return Deliveries(tmp_path)


def test_results_reach_the_command_in_order_and_no_shell_sees_a_name(deliveries: Deliveries, tmp_path: Path) -> None:
    deliveries.fill(4)
    delivery = deliveries.deliver(f"cat >> {deliveries.taken}")
    until(lambda: all(row[0] for row in deliveries.rows()))
    delivery.stop()
    assert deliveries.sequences == [1, 2, 3, 4] and not (tmp_path / "pwned").exists()
    assert deliveries.rows() == [(1, 1, "exit status 0")] * 4 and deliveries.said == []


def test_a_command_that_fails_gets_it_again_and_holds_up_no_other(deliveries: Deliveries, tmp_path: Path) -> None:
    deliveries.fill(3)
    script = f"""read line; case "$line" in *'"sequence": 1,'*)
        test -e {tmp_path}/second || {{ touch {tmp_path}/second; exit 3; }};; esac
        printf '%s\\n' "$line" >> {deliveries.taken}"""
    delivery = deliveries.deliver(script)
    until(lambda: all(row[0] for row in deliveries.rows()))
    delivery.stop()
    assert deliveries.sequences == [2, 3, 1] and deliveries.rows()[0] == (1, 2, "exit status 0")
    assert len(deliveries.said) == 1 and "exit status 3" in deliveries.said[0]


def test_a_command_that_hangs_is_ended_with_its_children(deliveries: Deliveries, tmp_path: Path) -> None:
    deliveries.fill(1)
    delivery = deliveries.deliver(f"sleep 60 & echo $! > {tmp_path}/child; wait", timeout_s=1.5)
    until(lambda: deliveries.rows()[0][1])
    delivery.stop()
    assert deliveries.rows()[0][::2] == (0, "ended after 1.5 s")
    child = int((tmp_path / "child").read_text())
    until(lambda: not os.path.exists(f"/proc/{child}") or " Z " in Path(f"/proc/{child}/stat").read_text())


def test_a_second_ctrl_c_ends_the_command_too(
    deliveries: Deliveries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries.fill(1)
    delivery = deliveries.deliver(f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/child; exec sleep 60")
    until((tmp_path / "child").exists)
    honest, presses = delivery._thread.join, [KeyboardInterrupt()]

    def join(timeout: float | None = None) -> None:
        if presses:
            raise presses.pop()
        honest(timeout)

    monkeypatch.setattr(delivery._thread, "join", join)
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        delivery.stop()
    until(lambda: not os.path.exists(f"/proc/{(tmp_path / 'child').read_text().strip()}"))
    assert time.monotonic() - began_s < delivery_module._GRACE_S - 0.5


def test_what_was_not_taken_waits_for_the_next_process(deliveries: Deliveries) -> None:
    deliveries.fill(2)
    delivery = deliveries.deliver("exit 1")
    until(lambda: all(row[1] for row in deliveries.rows()))
    delivery.stop()
    journal = Journal(deliveries.path, str(deliveries.root))
    assert journal.undelivered() == 2 and journal.undelivered(tries=1) == 0
    journal.renew_deliveries()
    assert journal.undelivered(tries=1) == 2
    journal.close()
    delivery = deliveries.deliver(f"cat >> {deliveries.taken}")
    until(lambda: all(row[0] for row in deliveries.rows()))
    delivery.stop()
    assert deliveries.sequences == [1, 2]


def test_a_full_disk_does_not_make_the_command_run_again(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries.fill(1)
    honest, failures = delivery_module._note, [sqlite3.OperationalError("database or disk is full")] * 2

    def note(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        honest(*arguments)

    monkeypatch.setattr(delivery_module, "_note", note)
    monkeypatch.setattr(delivery_module, "_IDLE_S", 0.1)
    delivery = deliveries.deliver(f"cat >> {deliveries.taken}")
    until(lambda: deliveries.rows()[0][0])
    delivery.stop()
    assert deliveries.sequences == [1] and not failures and deliveries.said == []


def test_a_failing_command_does_not_stop_the_pictures(
    inbox: Path, tmp_path: Path, start: Callable[..., object]
) -> None:
    output = tmp_path / "results.jsonl"
    process = start(inbox, "--output", output, "--on-result", "false")
    until(lambda: output.exists() and output.read_bytes().count(b"\n") == 5)
    process.terminate()
    status, _, err = finished(process)
    assert status == 0 and "false: exit status 1" in "".join(err) and err[-1].endswith("; 5 wait for false")
    taken = tmp_path / "taken"
    status, _, _ = finished(start(inbox, "--once", "--output", output, "--on-result", f"tee -a {taken}"))
    assert status == 0 and taken.read_bytes() == output.read_bytes()
