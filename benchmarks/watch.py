"""Watch: is each file of a watched folder answered once when the process is killed again and again, and does it grow?

What comes in are rendered fields; what goes out are plain dictionaries for ``results/watch.json``. `killed` lets files
arrive in every way files arrive - at once, in pieces with pauses longer than the settling time, under a temporary
name, and renamed after they were answered - while the process is killed (SIGKILL) at random moments, then counts lines.
`steady` gives one process a full folder and reads its memory and pace. ``python -m benchmarks.watch`` does both.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_runtime import DEFAULT_MODEL
from edge_runtime.classifier import Classifier
from edge_runtime.files import make_folder, write_text
from edge_runtime.guard import guarded
from train.render import render_field

RESULTS = Path(__file__).parent / "results" / "watch.json"
ROOT = Path(__file__).resolve().parent.parent
WAYS = ("at once", "in pieces", "temporary name", "renamed later")
SETTLE_S, GAP_S = 0.2, 1.5
KILL_S = (0.3, 2.0)
"""A process lives between these, seconds; its start-up takes the first third of one."""

WARM_UP = 500


def pictures(count: int, seed: int, fields: int = 12) -> list[bytes]:
    """Return `count` JPEG files, all different: a few rendered fields, each time with some other pixels."""
    rng = np.random.default_rng(seed)
    labels = ("Benign", "Early", "Pre", "Pro")
    rendered = [render_field(labels[n % len(labels)], rng, 256).pixels for n in range(fields)]
    found = []
    for number in range(count):
        pixels = rendered[number % fields].copy()
        pixels[:8, :] = rng.integers(0, 256, (8, 256, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def command(folder: Path, output: Path, model: str, *more: str) -> list[str]:
    """Return the command that watches `folder`."""
    options = ["--model", model, "--output", str(output), "--settle", str(SETTLE_S), *more]
    return [sys.executable, "-m", "edge_runtime", "watch", str(folder), *options]


def killed(folder: Path, files: int, kills: int, seed: int, model: str = DEFAULT_MODEL) -> dict[str, Any]:
    """Let files arrive while the process is killed at random moments; count results.

    Args:
        folder: empty; the watched folder and the results are made there.
        files: how many arrive.
        kills: how often the process is killed before the last one may finish.
        seed: of pictures, ways and moments.
        model: that answers.
    """
    rng = np.random.default_rng(seed)
    inbox, output, taken = folder / "inbox", folder / "results.jsonl", folder / "taken.jsonl"
    make_folder(inbox / "below")
    lives_s = rng.uniform(*KILL_S, kills)
    contents, names = pictures(files, seed), []
    actions: list[tuple[float, Callable[[], object]]] = []
    for number, encoded in enumerate(contents):
        path = inbox / ("below" if number % 5 == 0 else "") / f"{number:05}.jpg"
        way, moment_s = WAYS[int(rng.integers(len(WAYS)))], float(rng.uniform(0, 0.95 * lives_s.sum()))
        names.append(path.with_suffix(".moved.jpg") if way == "renamed later" else path)
        actions += _arrival(way, path, encoded, moment_s)
    arrivals = threading.Thread(target=_act, args=(sorted(actions, key=lambda one: one[0]),))
    run = command(inbox, output, model, "--on-result", f"tee -a {taken}")
    arrivals.start()
    before = []
    for number, life_s in enumerate(lives_s, start=1):
        with subprocess.Popen(run, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            time.sleep(life_s)
            while number == kills and not _lines(output) and process.poll() is None:  # a very slow machine
                time.sleep(0.1)
            process.kill()
            before.append(process.wait() == -signal.SIGKILL)
    arrivals.join()
    done_before = len(_lines(output))
    last = subprocess.run([*run, "--once"], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    lines = _lines(output)
    counts = collections.Counter(line["sha256"] for line in lines)
    expected = [hashlib.sha256(encoded).hexdigest() for encoded in contents]
    shown = {line["picture"] for line in lines}
    ids = collections.Counter(line["id"] for line in _lines(taken))
    return {
        "files": len(set(expected)),
        "kills": sum(before),
        "answered_before_the_last_process": done_before,
        "last_exit_status": last.returncode,
        "results": len(lines),
        "lost": sum(counts[sha256] == 0 for sha256 in expected),
        "twice": sum(counts[sha256] > 1 for sha256 in expected),
        "errors": sum("error" in line for line in lines),
        "sequences_without_gaps": [line["sequence"] for line in lines] == list(range(1, len(lines) + 1)),
        "renamed_after_they_were_answered": sum(
            path.name.endswith(".moved.jpg") and (str(path.with_name(path.name.replace(".moved", ""))) in shown)
            for path in names
        ),
        "names_there": all(path.is_file() for path in names),
        "delivered": len(ids),
        "delivered_again": sum(ids.values()) - len(ids),
        "never_delivered": sum(line["id"] not in ids for line in lines),
    }


def _arrival(way: str, path: Path, encoded: bytes, moment_s: float) -> list[tuple[float, Callable[[], object]]]:
    half = len(encoded) // 2
    if way == "in pieces":
        return [
            (moment_s, lambda: path.write_bytes(encoded[:half])),
            (moment_s + GAP_S, lambda: _append(path, encoded[half:])),
        ]
    if way == "temporary name":
        part = path.with_suffix(".jpg.part")
        return [(moment_s, lambda: part.write_bytes(encoded)), (moment_s + GAP_S, lambda: part.rename(path))]
    if way == "renamed later":
        moved = path.with_suffix(".moved.jpg")
        return [(moment_s, lambda: path.write_bytes(encoded)), (moment_s + GAP_S, lambda: path.rename(moved))]
    return [(moment_s, lambda: path.write_bytes(encoded))]


def _append(path: Path, more: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(more)


def _act(actions: list[tuple[float, Callable[[], object]]]) -> None:
    began_s = time.monotonic()
    for moment_s, action in actions:
        time.sleep(max(0.0, began_s + moment_s - time.monotonic()))
        action()


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file; only the last one may be torn."""
    whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


def steady(folder: Path, files: int, seed: int, model: str = DEFAULT_MODEL) -> dict[str, Any]:
    """Give one process a full folder; read its memory while it works, and its pace beside bare `classify`.

    Memory is the resident set and its proportional share (Rss and Pss of ``/proc/PID/smaps_rollup``), read about five
    times a second; the start is the first reading after `WARM_UP` results.
    """
    inbox, output = folder / "inbox", folder / "results.jsonl"
    make_folder(inbox)
    for number, encoded in enumerate(pictures(min(files, 1000), seed)):
        for again in range(number, files, 1000):  # bytes after a JPEG's end are not looked at
            (inbox / f"{again:06}.jpg").write_bytes(encoded + again.to_bytes(4, "big"))
    bare = [_bare_pace(sorted(inbox.iterdir())[:1000], model)]
    readings: list[tuple[int, int, int]] = []
    with subprocess.Popen(command(inbox, output, model), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        done = 0
        position = 0
        while done < files:
            time.sleep(0.2)
            if process.poll() is not None:
                raise SystemExit(f"watch ended with {process.returncode}")
            if output.exists():
                with output.open("rb") as stream:
                    stream.seek(position)
                    new = stream.read()
                position += len(new)
                done += new.count(b"\n")
            readings.append((done, *_memory(process.pid)))
        time.sleep(2.0)
        readings.append((done, *_memory(process.pid)))
        process.terminate()
        status = process.wait()
    bare.append(_bare_pace(sorted(inbox.glob("*.jpg"))[:1000], model))
    lines = _lines(output)
    return {
        "files": files,
        "results": len({line["sha256"] for line in lines}),
        "errors": sum("error" in line for line in lines),
        "exit_status": status,
        "warm_up_results": WARM_UP,
        **_growth([one for one in readings if one[0] >= WARM_UP]),
        "files_per_s": round(_pace(lines), 1),
        "bare_classify_files_per_s_before_and_after": [round(pace, 1) for pace in bare],
        "journal_bytes_per_file": round((inbox / ".leukoscope.db").stat().st_size / files),
    }


def _growth(readings: list[tuple[int, int, int]]) -> dict[str, Any]:
    start, end = readings[0], readings[-1]
    found: dict[str, Any] = {"readings": len(readings), "first_reading_after_results": start[0]}
    for place, name in ((1, "rss"), (2, "pss")):
        values = [one[place] for one in readings]
        found[f"{name}_start_kib"], found[f"{name}_end_kib"] = start[place], end[place]
        found[f"{name}_median_kib"], found[f"{name}_max_kib"] = round(statistics.median(values)), max(values)
        found[f"{name}_growth_mib"] = round((end[place] - start[place]) / 1024, 3)
        found[f"{name}_largest_growth_mib"] = round((max(values) - start[place]) / 1024, 3)
    return found


def _memory(pid: int) -> tuple[int, int]:
    """Return Rss and Pss of a process, KiB."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    values = {row.split(":")[0]: int(row.split()[1]) for row in rows[1:]}
    return values["Rss"], values["Pss"]


def _pace(lines: list[dict[str, Any]]) -> float:
    from datetime import datetime

    first, last = (datetime.fromisoformat(lines[n]["time"].replace("Z", "+00:00")) for n in (0, -1))
    return (len(lines) - 1) / (last - first).total_seconds()


def _bare_pace(paths: list[Path], model: str) -> float:
    classifier = Classifier.open(model)
    for path in paths[:50]:
        classifier.classify(path)
    began_s = time.perf_counter()
    for path in paths:
        classifier.classify(path)
    return len(paths) / (time.perf_counter() - began_s)


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch", description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="that arrive while it is killed (default 1000)")
    parser.add_argument("--kills", type=int, default=20, help="default 20")
    parser.add_argument("--images", type=int, default=10_000, help="of the memory's measurement (default 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_measure)
    return guarded(parser)


def _measure(args: argparse.Namespace) -> int:
    from .cost import machine

    found: dict[str, Any] = {"machine": machine(), "seed": args.seed}
    with tempfile.TemporaryDirectory() as folder:
        sys.stderr.write("killed ...\n")
        found["killed"] = killed(Path(folder) / "killed", args.files, args.kills, args.seed)
        sys.stderr.write("steady ...\n")
        found["steady"] = steady(Path(folder) / "steady", args.images, args.seed)
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    sys.stderr.write(json.dumps(found, indent=1) + "\n")
    right = found["killed"]["lost"] == found["killed"]["twice"] == 0
    return 0 if right and found["steady"]["rss_growth_mib"] <= 2.0 else 1


if __name__ == "__main__":
    sys.exit(main())
