"""`python -m benchmarks.serve`: many clients at once against the real process of ``serve``: who gets what, and when.

What comes in are pictures of several sizes, rendered, and some that are too large; what goes out is
``results/serve.json``: how many requests got which status, how long the answered ones took, and what is left of the
bare classifier's throughput. Clients and service share this machine's cores, as the figures say. A status other than
200, 413 and 429, a wrong answer, or a connection that breaks is an error, and then there is no result.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from edge_runtime.classifier import Classifier
from edge_runtime.errors import EngineError, UsageError
from edge_runtime.files import write_text
from edge_runtime.guard import guarded
from train.render import render_field

from .cost import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "serve.json"
MODEL = "all-subtypes"
SIDES_PX = (224, 448, 1024, 2048)
MAX_MB = 8
PERIOD = 40
"""Of so many requests of a client one is too large in bytes, and one in pixels."""

EXPECTED = {200, 413, 429}


@dataclass(frozen=True)
class Question:
    """A picture, and what the classifier says about it; `label` is None where it is too large to be answered."""

    encoded: bytes
    label: str | None


@dataclass
class Tally:
    """What the clients got: statuses; seconds from the first byte sent to the last received, of status 200."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lasted_s: float = 0.0


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--clients", type=int, default=64, help="at once (default 64)")
    parser.add_argument("--seconds", type=float, default=30, help="of each kind of client (default 30)")
    parser.set_defaults(run=_measure)
    return guarded(parser)


def _measure(args: argparse.Namespace) -> None:
    if args.clients < 1 or args.seconds < 1:
        raise UsageError("clients and seconds", got=f"{args.clients} and {args.seconds}", expected="1 or more")
    classifier = Classifier.open(MODEL, threads=1)
    questions = make_questions(classifier)
    bare = [bare_throughput(classifier, questions, 5.0)]
    found: dict[str, Any] = {"machine": machine(), "load_before": os.getloadavg()[0]}
    found |= {"model": MODEL, "pictures_px": SIDES_PX, "clients": args.clients, "seconds_each": args.seconds}
    runs = {}
    with tempfile.TemporaryDirectory() as state, serving(state) as (process, host, port):
        runs["one_client"] = asyncio.run(load(host, port, questions, 1, 5.0, patient=True))
        rss = {"after_one_client": rss_mb(process.pid)}
        for name, patient in (("clients_that_wait_as_told", True), ("clients_that_do_not_wait", False)):
            runs[name] = asyncio.run(load(host, port, questions, args.clients, args.seconds, patient))
            rss[f"after_{name}"] = rss_mb(process.pid)
        rss["peak"] = rss_mb(process.pid, "VmHWM")
    bare.append(bare_throughput(classifier, questions, 5.0))  # others may use these cores: before and after
    found["bare_classifier_per_s"] = [round(value, 1) for value in bare]
    found |= {name: summary(tally, bare) for name, tally in runs.items()}
    found["service_rss_mb"] = rss
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201 - a program


def make_questions(classifier: Classifier) -> list[Question]:
    """Render pictures, ask the classifier itself about them, and add what is too large."""
    questions = []
    for side, label in itertools.product(SIDES_PX, ("Benign", "Early", "Pre", "Pro")):
        stream = io.BytesIO()
        pixels = render_field(label, np.random.default_rng([side, *label.encode()]), side).pixels
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        questions.append(Question(stream.getvalue(), classifier.classify(stream.getvalue()).label))
    too_large = [Question(bytes((MAX_MB + 1) * 2**20), None), Question(huge_png(60_000, 60_000), None)]
    return questions * (PERIOD // len(questions)) + too_large


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header says that it is huge."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    framed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def bare_throughput(classifier: Classifier, questions: list[Question], seconds: float) -> float:
    """Return how many of the pictures the classifier alone, one thread, answers per second."""
    answered, started = 0, time.perf_counter()
    for question in itertools.cycle(q for q in questions if q.label is not None):
        classifier.classify(question.encoded)
        answered += 1
        if time.perf_counter() - started >= seconds:
            break
    return answered / (time.perf_counter() - started)


@contextmanager
def serving(state: str) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """Run ``serve`` with a history on disk; it must end cleanly."""
    command = [sys.executable, "-m", "edge_runtime", "serve", "--port", "0", "--model", MODEL, "--threads", "1"]
    command += ["--max-mb", str(MAX_MB), "--state", state]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = urlsplit(process.stdout.readline().partition(" ")[0])
            yield process, address.hostname or "", address.port or 0
        finally:  # a measurement that fails must not wait for a service that goes on
            process.send_signal(signal.SIGTERM)
        if process.wait(30):
            raise EngineError("serve did not end cleanly", got=f"exit status {process.returncode}")


async def load(host: str, port: int, questions: list[Question], clients: int, seconds: float, patient: bool) -> Tally:
    """Let clients ask one question after the other, each on its own connection."""
    tally, started = Tally(), time.perf_counter()
    end = started + seconds
    await asyncio.gather(*(client(host, port, questions, 7 * n, end, patient, tally) for n in range(clients)))
    tally.lasted_s = time.perf_counter() - started
    return tally


async def client(
    host: str, port: int, questions: list[Question], start: int, end: float, patient: bool, tally: Tally
) -> None:
    """Ask until the end; patient ones wait as long as a 429 says."""
    reader, writer = await asyncio.open_connection(host, port)
    for number in itertools.count(start):
        if time.perf_counter() >= end:
            break
        question = questions[number % len(questions)]
        started = time.perf_counter()
        status, headers, body = await ask(reader, writer, host, question.encoded)
        tally.statuses[status] += 1
        if status not in EXPECTED or ((question.label is None) != (status == 413) and status != 429):
            raise EngineError("an answer that must not be", got=f"{status} {body[:200]!r}")
        if status == 200:
            tally.seconds.append(time.perf_counter() - started)
            if json.loads(body)["label"] != question.label:
                raise EngineError("a wrong answer", got=body[:200], expected=question.label)
        elif status == 429 and patient:
            await asyncio.sleep(float(headers["retry-after"]))
    writer.close()
    await writer.wait_closed()


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, encoded: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Send one picture and read the response: status, headers in lower case, body."""
    head = f"POST /v1/classify HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
    writer.write(f"{head}Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded)
    sent = asyncio.ensure_future(writer.drain())
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    await sent
    return int(lines[0].split()[1]), headers, body


def summary(tally: Tally, bare: list[float]) -> dict[str, Any]:
    """Return the figures of one run."""
    p50, p90, p99 = np.percentile(tally.seconds, (50, 90, 99)) * 1000
    answered = len(tally.seconds) / tally.lasted_s
    return {
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "p50_ms": round(p50, 1),
        "p90_ms": round(p90, 1),
        "p99_ms": round(p99, 1),
        "answered_per_s": round(answered, 1),
        "of_bare_classifier": round(answered / float(np.mean(bare)), 2),
    }


def rss_mb(pid: int, key: str = "VmRSS") -> float:
    """Return a process' resident set, MB, as Linux states it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise EngineError(f"the process does not state its {key}")


if __name__ == "__main__":
    raise SystemExit(main())
