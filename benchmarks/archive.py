"""`python -m benchmarks.archive`: how ``archive`` scales: by workers, by Ray's nodes, and by the length of its list.

What comes in are rendered cells under many names; what goes out is ``results/archive.json``. In each round the plain
classifier answers all of them with one thread, then the command does with one worker and two, and on a Ray cluster of
one node and then two, all on this machine: nodes share its cores as workers do, so this shows what is lost on the way,
not what more machines would win. Every archive made must hold each picture once, with the plain classifier's label.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_runtime.classifier import Classifier
from edge_runtime.errors import EngineError, UsageError
from edge_runtime.files import make_folder, write_text
from edge_runtime.guard import guarded
from train.render import render_cell

from .cost import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "archive.json"
MODEL = "blood-cells"
SIDE_PX = 256
SHARD_PICTURES = 50
LABELS = ("blast", "neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil", "erythroblast", "platelet")
PLANNED = 1_000_000
STORE_BYTES = 100 * 1024 * 1024

PLANNING = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from edge_runtime.archive.lists import listed, of_this_place
from edge_runtime.archive.plan import Settings, make_plan, read_plan

def peak_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

settings = Settings("classify", "m", "m@1", "litert", False, None, 1000, "/")
short, long = (Path(argument) for argument in sys.argv[1:])
make_plan(short.parent / "a", of_this_place(listed(str(short)), "/"), settings)
before, start = peak_kib(), time.perf_counter()
make_plan(long.parent / "b", of_this_place(listed(str(long)), "/"), settings)
made = time.perf_counter()
plan = read_plan(long.parent / "b")
jobs = [plan.job(shard) for shard in plan.missing()]
assert sum(job.count for job in jobs) == plan.pictures
print(json.dumps({
    "pictures": plan.pictures, "seconds": made - start, "read_s": time.perf_counter() - made,
    "peak_before_kib": before, "peak_after_kib": peak_kib(),
}))
"""
"""Makes a plan of a short list, then of a long one, in a process of its own whose peak is read in between."""


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.archive", description=__doc__)
    parser.add_argument("--pictures", type=int, default=1500, help="in the archive (default 1500)")
    parser.add_argument("--distinct", type=int, default=200, help="of them different (default 200)")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways in turn (default 3)")
    parser.add_argument("--without-ray", action="store_true", help="workers only")
    parser.set_defaults(run=_measure)
    return guarded(parser)


def _measure(args: argparse.Namespace) -> None:
    if args.pictures < 4 * SHARD_PICTURES or args.distinct < SHARD_PICTURES or args.rounds < 1:
        raise UsageError("too few", expected=f"{4 * SHARD_PICTURES} pictures, {SHARD_PICTURES} distinct ones, 1 round")
    found: dict[str, Any] = {"machine": machine(), "load_before": os.getloadavg()[0], "model": MODEL}
    found |= {"pictures": args.pictures, "distinct": args.distinct, "picture_px": SIDE_PX, "rounds": args.rounds}
    found["shard_pictures"] = SHARD_PICTURES
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _say("pictures ...")
        files = pictures(folder / "pictures", args.pictures, args.distinct)
        _say("list of a million ...")
        found["list"] = planning(folder)
        rounds: dict[str, list[dict[str, Any]]] = {}
        for number in range(args.rounds):
            _say(f"round {number + 1} of {args.rounds} ...")
            for name, one in a_round(folder, files, not args.without_ray).items():
                rounds.setdefault(name, []).append(one)
        found["ways"] = summary(rounds)
        found["bytes_per_row"] = sizes(folder / "out")
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    _say(json.dumps(found, indent=1))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def pictures(folder: Path, count: int, distinct: int) -> list[Path]:
    """Render cells, and put each under several names; neighbours are different."""
    make_folder(folder)
    rendered = []
    for number in range(distinct):
        stream = io.BytesIO()
        pixels = render_cell(LABELS[number % len(LABELS)], np.random.default_rng(number), SIDE_PX).pixels
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        rendered.append(stream.getvalue())
    files = [folder / f"{number:06}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(rendered[number % distinct])
    return files


def planning(folder: Path) -> dict[str, Any]:
    """Plan a list of `PLANNED` names, without pictures, and see how the memory grows over a list of a thousand."""
    for name, count in (("a", 1000), ("b", PLANNED)):
        make_folder(folder / name)
        with (folder / f"{name}.txt").open("w", encoding="utf-8") as stream:
            stream.write(f"{folder}/a.txt\n")  # one that is there
            stream.writelines(f"/archive/of/smears/slide-{n // 1000:05}/cell-{n:08}.jpg\n" for n in range(1, count))
    command = [sys.executable, "-c", PLANNING, str(folder / "a.txt"), str(folder / "b.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    growth = (said["peak_after_kib"] - said["peak_before_kib"]) / 1024
    return {
        "pictures": said["pictures"],
        "list_mb": round((folder / "b.txt").stat().st_size / 1e6, 1),
        "plan_s": round(said["seconds"], 2),
        "read_s": round(said["read_s"], 3),
        "peak_rss_mib": round(said["peak_after_kib"] / 1024, 1),
        "rss_growth_mib": round(growth, 2),
    }


def a_round(folder: Path, files: list[Path], with_ray: bool) -> dict[str, dict[str, Any]]:
    """Do all ways once.

    Returns:
        Way -> "pictures_per_s" from the start of workers to the end, "running_per_s" once all of them work, and peak
        resident sets, MiB.
    """
    classifier = replace(Classifier.open(MODEL, threads=1), aside=None)  # one thread, as a worker has
    start = time.perf_counter()
    labels = [classifier.classify(file).label for file in files]
    pace = len(files) / (time.perf_counter() - start)
    found: dict[str, dict[str, Any]] = {"classify, one thread": {"pictures_per_s": pace, "running_per_s": pace}}
    for workers in (1, 2):
        found[f"{workers} worker{'s' * (workers > 1)}"] = archive(folder, files, labels, workers)
    if with_ray:
        found |= on_ray(lambda workers, address: archive(folder, files, labels, workers, "--ray", address))
    return found


def on_ray(measure: Callable[[int, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Measure on a cluster of one node and one CPU, then on the same with a second such node."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(ROOT)
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(True, head_node_args=head)
    try:
        found = {"Ray, 1 node": measure(1, cluster.address)}
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        found["Ray, 2 nodes"] = measure(2, cluster.address)
        if len(found["Ray, 2 nodes"]["nodes"]) != 2:
            raise EngineError("one node did nothing")
    finally:
        cluster.shutdown()
    return found


def archive(folder: Path, files: list[Path], labels: list[str], workers: int, *more: str) -> dict[str, Any]:
    """Make an archive with the command, look at it, and say how fast that was and what it took."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    options = ["--model", MODEL, "--shard", str(SHARD_PICTURES), "--workers", str(workers), "--json", *more]
    command = [sys.executable, "-m", "edge_runtime", "archive", "--out", str(out), *options, str(files[0].parent)]
    peaks: dict[int, float] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            for pid in (process.pid, *_children(process.pid)):
                peaks[pid] = max(peaks.get(pid, 0.0), _peak_mib(pid))
            time.sleep(0.2)
        text = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise EngineError("archive failed", got=f"exit status {process.returncode}", expected="0")
    _require_right(out, files, labels)
    now = json.loads(text)["now"]
    lead = peaks.pop(process.pid)
    found = {"pictures_per_s": now["pictures_per_s"], "running_per_s": _running(out, workers)}
    found |= {"lead_peak_rss_mib": lead, "nodes": now.get("nodes", {})}
    return found if more else {**found, "worker_peak_rss_mib": max(peaks.values())}


def _running(out: Path, workers: int) -> float:
    """Return pictures per second from when each worker had finished a part on average to the end."""
    ends = sorted(part.stat().st_mtime for part in out.glob("part-*.parquet"))
    return SHARD_PICTURES * (len(ends) - workers) / (ends[-1] - ends[workers - 1])


def _require_right(out: Path, files: list[Path], labels: list[str]) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(sorted(out.glob("part-*.parquet")), columns=["path", "label"])
    if table.column("path").to_pylist() != list(map(str, files)) or table.column("label").to_pylist() != labels:
        raise EngineError("the archive is not what the plain classifier says")


def _children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:  # ended meanwhile
        return []


def _peak_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # ended meanwhile
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def summary(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return each way's medians, and its pace as a share of the plain classifier's in the same round."""
    plain, found = rounds["classify, one thread"], {}
    for name, ones in rounds.items():
        paces = [one["running_per_s"] for one in ones]
        shares = [one["running_per_s"] / base["running_per_s"] for one, base in zip(ones, plain, strict=True)]
        found[name] = {
            "pictures_per_s": round(statistics.median(one["pictures_per_s"] for one in ones), 1),
            "running_per_s": round(statistics.median(paces), 1),
            "running_per_s_least_most": [round(min(paces), 1), round(max(paces), 1)],
            "of_classify": round(statistics.median(shares), 3),
            "of_classify_least_most": [round(min(shares), 3), round(max(shares), 3)],
        }
        for key in ("lead_peak_rss_mib", "worker_peak_rss_mib"):
            if key in ones[0]:
                found[name][key] = round(max(one[key] for one in ones), 1)
    return found


def sizes(out: Path) -> dict[str, float]:
    """Return what a row takes in the parts, bytes, and what of that the heatmap does."""
    import pyarrow.parquet as pq

    rows, heat = 0, 0
    for part in out.glob("part-*.parquet"):
        end = pq.read_metadata(part)
        rows += end.num_rows
        for number in range(end.num_row_groups):
            columns = (end.row_group(number).column(place) for place in range(end.num_columns))
            heat += sum(one.total_compressed_size for one in columns if one.path_in_schema.startswith("heatmap."))
    total = sum(part.stat().st_size for part in out.glob("part-*.parquet"))
    return {"all": round(total / rows, 1), "heatmap": round(heat / rows, 1)}


if __name__ == "__main__":
    raise SystemExit(main())
