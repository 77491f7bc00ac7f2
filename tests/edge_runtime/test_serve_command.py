"""The command ``serve``: what it refuses before it listens, and how its process begins and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edge_runtime.cli import main
from edge_runtime.golden import VerifyReport

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def nobody_s_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LEUKOSCOPE_TOKEN", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run ``serve``, which must not begin; return its status and its line."""
    status = main(["serve", "--port", "0", *map(str, arguments)])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and not out and "Traceback" not in err
    return status, lines[0]


def test_others_need_a_token(capsys: pytest.CaptureFixture[str], valid_bundle: Path, tmp_path: Path) -> None:
    for options in (["--host", "0.0.0.0"], ["--host", "::"], ["--allow-host", "lab.example"]):
        status, line = refused(capsys, "--model", valid_bundle, *options)
        assert status == 2 and "there is no token" in line and "secrets.token_urlsafe" in line
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("token", ["", "short", "x" * 2000, "with a space in the middle", "ümläüt-ümläüt-ümläüt"])
def test_bad_tokens_are_refused_and_not_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    file = tmp_path / "token.txt"
    file.write_text(token, encoding="utf-8")
    file.chmod(0o600)
    status, line = refused(capsys, "--token-file", file)
    assert status == 2 and "token.txt: not a token" in line and (not token or token not in line)
    monkeypatch.setenv("LEUKOSCOPE_TOKEN", token)
    assert "$LEUKOSCOPE_TOKEN: not a token" in refused(capsys)[1]
    assert "cannot be read" in refused(capsys, "--token-file", tmp_path / "none")[1]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--port", "70000"], 2, "--port: got 70000, expected 0 to 65535"),
        (["--max-mb", "0"], 2, "--max-mb"),
        (["--max-megapixels", "500"], 2, "--max-megapixels"),
        (["--host", ""], 2, "--host"),
        (["--model", "nothing-like-it"], 1, "nothing-like-it"),
        (["--model", "blood-cells", "--model", "blood-cells"], 2, "--model twice"),
        (["--model", "blood-cells", "--state", "/dev/null/state"], 1, "/dev/null/state"),
        (["--host", "192.0.2.1", "--token-file", "TOKEN"], 1, "cannot listen on 192.0.2.1"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], status: int, words: str
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    found, line = refused(capsys, *(str(file) if option == "TOKEN" else option for option in options))
    assert found == status and words in line


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        status, line = refused(capsys, "--port", other.getsockname()[1])
    assert status == 1 and "cannot listen" in line and "in use" in line


def test_a_missing_extra_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    status, line = refused(capsys)
    assert status == 2 and 'pip install "leukoscope[serve]"' in line


def test_a_device_that_computes_something_else_does_not_serve(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, valid_bundle: Path
) -> None:
    monkeypatch.setattr("edge_runtime.golden.verify", lambda c: VerifyReport(c.bundle.id, "litert", 0.1, 0.1, ()))
    status, line = refused(capsys, "--model", valid_bundle)
    assert status == 1 and "does not compute what the bundle states" in line


def test_a_token_that_others_can_read_is_warned_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    main(["serve", "--port", "0", "--token-file", str(file), "--model", "nothing-like-it"])
    assert "warning: " in (err := capsys.readouterr().err) and "chmod 600" in err


@contextmanager
def process(*options: object, before: str = "pass") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``serve`` as a process; give it and its address. It must end cleanly when it is asked to."""
    program = f"import sys; from edge_runtime.cli import main; {before}; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--threads", "1", *map(str, options)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as found:
        assert found.stdout is not None and found.stderr is not None
        line = found.stdout.readline()
        try:
            assert line.startswith("http://127.0.0.1:"), found.stderr.read()
            yield found, line.split()[0].rstrip("/")
        finally:
            found.send_signal(signal.SIGTERM)
            assert (found.stderr.read(), found.wait(30)) in (("", 0), ("", -signal.SIGKILL))


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=10) as response:
        found: bytes = response.read()
        return found


def test_systemd_is_told_when_it_answers(valid_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with process("--model", valid_bundle, "--no-history") as (_, address):
            assert supervisor.recv(100) == b"READY=1"
            assert json.loads(get(f"{address}/healthz"))


def test_it_keeps_its_history_over_a_restart_and_has_one_process(
    capsys: pytest.CaptureFixture[str], valid_bundle: Path, picture_file: Path
) -> None:
    def ask(address: str) -> int:
        head = {"Content-Type": "image/png"}
        request = urllib.request.Request(f"{address}/v1/classify", picture_file.read_bytes(), head)
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(json.load(response)["id"])

    with process("--model", valid_bundle) as (_, address):
        first = ask(address)
        status, line = refused(capsys, "--model", valid_bundle)
        assert status == 1 and "in use by another process" in line
    history = Path(os.environ["XDG_STATE_HOME"]) / "leukoscope" / "history.sqlite"
    assert history.exists()
    with process("--model", valid_bundle) as (killed, address):
        assert ask(address) == first + 1
        assert json.loads(get(f"{address}/v1/history"))["count"] == 2
        number = ask(address)
        killed.kill()
        assert killed.wait(10) == -signal.SIGKILL
    with process("--model", valid_bundle) as (_, address):
        assert json.loads(get(f"{address}/v1/history/{number}"))["label"]


def test_what_is_in_work_is_finished_before_the_end(valid_bundle: Path, picture_file: Path) -> None:
    slow = (
        "import time; from edge_runtime.classifier import Classifier; classify = Classifier.classify; "
        "Classifier.classify = lambda *a: (time.sleep(1), classify(*a))[1]"
    )
    with process("--model", valid_bundle, "--no-history", before=slow) as (running, address):
        statuses: list[int] = []

        def ask() -> None:
            head = {"Content-Type": "image/png"}
            request = urllib.request.Request(f"{address}/v1/classify", picture_file.read_bytes(), head)
            with urllib.request.urlopen(request, timeout=20) as response:
                statuses.append(response.status)

        thread = threading.Thread(target=ask)
        thread.start()
        until_taken(address)
        running.send_signal(signal.SIGTERM)
        thread.join()
    assert statuses == [200]
    assert not (Path(os.environ["XDG_STATE_HOME"]) / "leukoscope").exists()


def test_connections_that_wait_for_nothing_are_closed(valid_bundle: Path) -> None:
    impatient = "import edge_runtime.server.process as p; p.HEAD_S = p.SEND_S = 0.5; p.KEEP_ALIVE_S = 60"
    with process("--model", valid_bundle, "--no-history", before=impatient) as (_, address):
        place = urlsplit(address)

        def connect() -> socket.socket:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect((place.hostname, place.port))
            return connection

        def response(connection: socket.socket) -> bytes:
            found = b""
            while not found.endswith(b"}"):
                found += connection.recv(1000)
            return found

        host = b"Host: 127.0.0.1\r\n"
        with connect() as silent, connect() as half, connect() as later:
            half.sendall(b"GET / HTTP/1.1\r\nX: ")
            later.sendall(b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n")  # a head, and half of another
            assert b"ok" in response(later)
            later.sendall(b"GET /healthz")
            for connection in (silent, half, later):
                assert connection.recv(100) == b""
        with connect() as connection:  # a body that nobody reads, byte by byte
            connection.sendall(b"POST /nothing HTTP/1.1\r\n" + host + b"Content-Length: 100000\r\n\r\n")
            assert b"404" in response(connection)
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    connection.sendall(b"x")
                    time.sleep(0.02)
        with connect() as connection, pytest.raises(ConnectionError):  # responses that are not taken
            while True:
                connection.sendall(b"GET /page.js HTTP/1.1\r\n" + host + b"\r\n")
        assert b"leukoscope" in get(f"{address}/")


def test_an_engine_that_hangs_does_not_hold_the_end(valid_bundle: Path, picture_file: Path) -> None:
    hanging = (
        "import time; from edge_runtime.server.service import Service; Service.classify = lambda *a: time.sleep(60); "
        "import edge_runtime.server.process as p; p.GRACE_S = 0.3; p.CLOSING_S = 1"
    )
    program = f"import sys; from edge_runtime.cli import main; {hanging}; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--no-history", "--model", str(valid_bundle)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        place = urlsplit(running.stdout.readline().split()[0])
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=20) as connection:
            body = picture_file.read_bytes()
            head = ("POST /v1/classify HTTP/1.1", "Host: 127.0.0.1", "Content-Type: image/png")
            connection.sendall("\r\n".join((*head, f"Content-Length: {len(body)}", "", "")).encode() + body)
            until_taken(f"http://{place.netloc}")
            running.send_signal(signal.SIGTERM)
            assert b"503" in connection.recv(100)
        said = running.stderr.read()
        assert running.wait(20) == 1 and "comes to no end" in said and "Traceback" not in said, said


def until_taken(address: str) -> None:
    """Wait until a picture is in work."""
    end = time.monotonic() + 20
    while b"places_taken 1.0" not in get(f"{address}/metrics"):
        assert time.monotonic() < end
        time.sleep(0.02)
