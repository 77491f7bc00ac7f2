"""`python -m benchmarks.scan`: what `scan` finds in real fields, at other magnifications, how fast, in how much memory.

What comes in are BCCD's fields beside the checkout and a slide that is rendered here; what goes out is
``results/scan.json``. Whole `Scanner.scan` is measured, decoding and classification included. The finder's constants
were set on these very fields, and nobody has named the types of BCCD's cells: recall and precision say what it can do
on such smears, and of classes only whether they stay the same. Times are process times of one core, but for those of
the command with and without worker processes, which are wall-clock.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from edge_runtime.classifier import Classifier
from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.guard import guarded
from edge_runtime.machine import usable_cpus
from edge_runtime.preprocess import Box
from edge_runtime.scan import FieldScan, Scanner
from export.interleave import interleave
from train.render import render_field
from train.smears import FIELDS

from .cell_finder import DATA, Field, Found, centre_pairs, overlap, pairs, read_fields
from .cost import machine

RESULTS = Path(__file__).parent / "results" / "scan.json"
MODEL = "blood-cells"
FACTORS = (0.7, 1.5, 2.0)
"""Magnifications, of the fields as they are."""

SLIDES_PX = ((10_000, 7_500), (20_000, 15_000), (40_000, 30_000))
"""Width and height of the rendered slides: the first is decoded whole, with the others memory must not grow."""

FIELD_PX, SMEAR_SHARE, SLIDE_FIELDS = 448, 0.25, 24


def scan_all(scanner: Scanner, fields: Sequence[Field], factor: float = 1.0) -> tuple[list[FieldScan], list[float]]:
    """Scan fields, enlarged by a factor, from encoded bytes; return results and milliseconds of process time."""
    scans, times = [], []
    for field in tqdm(fields, desc=f"scan x{factor:g}", unit="field", leave=False, disable=None):
        picture = Image.fromarray(field.pixels)
        if factor != 1.0:
            size = (round(picture.width * factor), round(picture.height * factor))
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        encoded = io.BytesIO()
        picture.save(encoded, "PNG", compress_level=1)  # lossless: the pixels are what is compared
        start = time.process_time()
        scans.append(scanner.scan(encoded.getvalue(), field.name))
        times.append(1000 * (time.process_time() - start))
    return scans, times


def found_in(scan: FieldScan) -> Found:
    """Return the cells of a field as the finder's judge takes them."""
    return [(cell.cell.box, cell.cell.centre) for cell in scan.cells]


def judge(fields: Sequence[Field], scans: Sequence[FieldScan]) -> dict[str, Any]:
    """Compare cells with drawn boxes; list what was missed and what has no box, each with the kind of it."""
    hits: Counter[str] = Counter()
    misses, extras = [], []
    for field, scan in zip(fields, scans, strict=True):
        cells = found_in(scan)
        paired = centre_pairs(cells, field.boxes)
        hits["centre_hit"] += len(paired)
        hits["iou_0.5"] += len(pairs([[overlap(box, drawn) for drawn in field.boxes] for box, _ in cells], 0.5))
        for number in sorted(set(range(len(field.boxes))) - set(paired.values())):
            box = field.boxes[number]
            kind = _kind_of_miss(box, [cell for cell, _ in cells], field)
            misses.append({"file": field.name, "box": list(box), "kind": kind})
        for number in sorted(set(range(len(cells))) - set(paired)):
            kind = _kind_of_extra(cells[number][0], field)
            extras.append({"file": field.name, "box": list(cells[number][0]), "kind": kind})
    wanted, found = sum(len(field.boxes) for field in fields), sum(len(scan.cells) for scan in scans)
    summary: dict[str, Any] = {"fields": len(fields), "boxes": wanted, "cells": found}
    for name in ("centre_hit", "iou_0.5"):
        summary[name] = {"recall": hits[name] / wanted, "precision": hits[name] / found, "found": hits[name]}
    return {**summary, "misses": misses, "extras": extras}


def _at_border(box: Box, field: Field) -> bool:
    height, width = field.pixels.shape[:2]
    return min(box[0], box[1], width - box[0] - box[2], height - box[1] - box[3]) <= 3


def _kind_of_miss(box: Box, cells: Sequence[Box], field: Field) -> str:
    where = "cut by the border" if _at_border(box, field) else "whole"
    if any(overlap(box, cell) > 0.1 for cell in cells):
        return f"{where}; found together with its neighbour, or beside the box"
    return f"{where}; nothing found there"


def _kind_of_extra(box: Box, field: Field) -> str:
    where = "cut by the border" if _at_border(box, field) else "whole"
    if any(overlap(box, drawn) > 0.1 for drawn in field.boxes):
        return f"{where}; a second cell in a box"
    return f"{where}; nothing drawn there"


def compare(base: Sequence[FieldScan], other: Sequence[FieldScan], factor: float) -> dict[str, Any]:
    """Compare the cells of fields with those of the same fields enlarged.

    Returns:
        ``found_again`` and ``new``: shares of cells; ``same_class``: of cells found in both and cut in neither, also
        ``same_class_sure`` of those with a probability of 0.8 or more; ``red_cell``: measured size over expected size,
        median and 5th and 95th percentile.
    """
    matched = same = sure = same_sure = cells = others = whole = 0
    ratios = []
    for one, two in zip(base, other, strict=True):
        cells, others = cells + len(one.cells), others + len(two.cells)
        if one.red_cell_px and two.red_cell_px:
            ratios.append(two.red_cell_px / (factor * one.red_cell_px))
        scores = []
        for found in two.cells:
            x, y = (place / factor for place in found.cell.centre)
            near = 0.5 * (one.red_cell_px or 1.0)
            scores.append([near - float(np.hypot(x - c.cell.centre[0], y - c.cell.centre[1])) for c in one.cells])
        for number, place in pairs(scores, 0).items():
            new, old = two.cells[number], one.cells[place]
            matched += 1
            if new.cell.cut or old.cell.cut:
                continue
            whole += 1
            alike = new.prediction.label == old.prediction.label
            same += alike
            if old.prediction.probability >= 0.8:
                sure, same_sure = sure + 1, same_sure + alike
    return {
        "cells": others,
        "found_again": matched / cells,
        "new": (others - matched) / others,
        "whole_in_both": whole,
        "same_class": same / whole,
        "sure_in_base": sure,
        "same_class_sure": same_sure / sure,
        "red_cell": dict(zip(("p5", "median", "p95"), map(float, np.percentile(ratios, (5, 50, 95))), strict=True)),
    }


def border_fills(scanner: Scanner, fields: Sequence[Field], scans: Sequence[FieldScan]) -> dict[str, Any]:
    """Compare ways to continue a picture beyond its border, on crops that need none.

    Each crop loses what lies left of its cell, as if the border were there, and gets it back in each way.

    Returns:
        Number of ``crops``, and by way the share that keeps its class and the mean change of that class's probability.
    """
    kept: dict[str, list[tuple[bool, float]]] = {"mirror image": [], "field's colour": [], "black": []}
    for field, scan in zip(fields, scans, strict=True):
        white = np.percentile(field.pixels.reshape(-1, 3), 95, axis=0).astype(np.uint8)
        for cell in scan.cells:
            if cell.filled or cell.cell.cut:
                continue
            left, top, side, _ = cell.crop
            crop = field.pixels[top : top + side, left : left + side]
            gap = max(2, cell.cell.box[0] - left - 3)
            over = ((0, 0), (gap, 0), (0, 0))
            ways = {"mirror image": np.pad(crop[:, gap:], over, "symmetric"), "black": np.pad(crop[:, gap:], over)}
            ways["field's colour"] = ways["black"].copy()
            ways["field's colour"][:, :gap] = white
            truth = cell.prediction
            for way, pixels in ways.items():
                answer = scanner.classifier.classify(pixels)
                change = abs(answer.probabilities[truth.label] - truth.probability)
                kept[way].append((answer.label == truth.label, change))
    means = {way: np.array(pairs_, float).mean(axis=0) for way, pairs_ in kept.items()}
    return {
        "crops": len(kept["black"]),
        **{
            way: {"same_class": float(same), "probability_change": float(change)}
            for way, (same, change) in means.items()
        },
    }


def classification_ways(model: str, fields: Sequence[Field], rounds: int = 7) -> dict[str, float]:
    """Time one crop's classification, wall-clock milliseconds, by turns; the best round of each way."""
    one, two, spare = (Classifier.open(model, threads=threads) for threads in (1, 2, 1))
    crops = [np.ascontiguousarray(field.pixels[:360, :360]) for field in fields[:60]]
    best: dict[str, float] = {}
    with ThreadPoolExecutor(2) as pool:
        ways = {
            "one engine, 1 thread": lambda: [one.classify(crop) for crop in crops],
            "one engine, 2 threads": lambda: [two.classify(crop) for crop in crops],
            "two engines, 1 thread each": lambda: list(
                pool.map(lambda job: (one, spare)[job[0] % 2].classify(job[1]), enumerate(crops))
            ),
        }
        for _ in range(rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                ms = 1000 * (time.perf_counter() - start) / len(crops)
                best[name] = min(ms, best.get(name, ms))
    return best


def write_slide(path: Path, width: int, height: int) -> int:
    """Write a tiled TIFF of rendered fields, a quarter of it smear, and return how many fields are in it."""
    import tifffile

    rng = np.random.default_rng(0)
    blocks = [zlib.compress(bytes([238]) * (3 * FIELD_PX**2))]
    row = replace(FIELDS["Benign"], leukocytes=(1, 3))
    usual, FIELDS["Benign"] = FIELDS["Benign"], row
    try:
        blocks += [zlib.compress(render_field("Benign", rng, FIELD_PX).pixels.tobytes()) for _ in range(SLIDE_FIELDS)]
    finally:
        FIELDS["Benign"] = usual
    columns, rows = -(-width // FIELD_PX), -(-height // FIELD_PX)
    smear = [row_ < SMEAR_SHARE * rows for row_ in range(rows) for _ in range(columns)]
    picks = [int(rng.integers(1, len(blocks))) if stained else 0 for stained in smear]

    def tiles() -> Iterator[bytes]:
        for pick in picks:
            yield blocks[pick]

    options = {"photometric": "rgb", "compression": "zlib", "bigtiff": True}
    tifffile.imwrite(path, tiles(), shape=(height, width, 3), dtype=np.uint8, tile=(FIELD_PX, FIELD_PX), **options)
    return sum(smear)


SCAN_PROGRAM = """
import sys, time
from edge_runtime.cli import main
assert main(["scan", *sys.argv[1:]]) == 0
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(time.process_time(), peak)
"""
"""Scans, and says what it took itself: what the system says of a child counts its parent's memory too."""


def measure_slides(model: str) -> list[dict[str, Any]]:
    """Scan rendered slides, each in a process of its own: seconds, peak memory, cells."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for width, height in SLIDES_PX:
            slide, out = Path(folder) / f"{width}.tif", Path(folder) / f"out-{width}"
            fields = write_slide(slide, width, height)
            command = [sys.executable, "-c", SCAN_PROGRAM, str(slide), "--out", str(out), "--model", model]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds, peak_kb = done.stdout.splitlines()[-1].split()
            (row,) = json.loads((out / "scan.json").read_text())["fields"]
            found.append(
                {
                    "width": width,
                    "height": height,
                    "rgb_bytes": 3 * width * height,
                    "file_bytes": slide.stat().st_size,
                    "rendered_fields": fields,
                    "tiles_with_smear": row["parts"],
                    "cells": row["found"],
                    "red_cell_px": row["red_cell_px"],
                    "seconds": float(seconds),
                    "peak_rss_mb": int(peak_kb) / 1024,
                }
            )
    return found


def refusals_of(scans: Sequence[FieldScan]) -> dict[str, Any]:
    """Count fields that were refused, cells that were counted, and why the model declined to answer for the others."""
    whole = [cell for scan in scans for cell in scan.cells if not scan.refusals and not cell.cell.cut]
    return {
        "fields_refused": sum(bool(scan.refusals) for scan in scans),
        "whole_cells": len(whole),
        "answered": sum(not cell.prediction.abstained for cell in whole),
        "declined": dict(Counter(reason.reason for cell in whole for reason in cell.prediction.refusals).most_common()),
    }


def side_by_side(pictures: Path, model: str, rounds: int = 3) -> dict[str, Any]:
    """Time the command, start and report included, with one process and with as many workers as CPUs, in turns.

    Args:
        pictures: a folder of fields.
        model: name or path of the bundle.
        rounds: of each.

    Returns:
        Number of ``fields`` and ``cpus``; ``ways``: by number of workers the ``seconds`` of each round, median
        ``fields_per_second``, and peak RSS of the command and of a worker, MB; ``times_as_fast``: median over rounds.
    """
    counts = sorted({1, usable_cpus()})
    peaks: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        outs = {count: Path(folder) / str(count) for count in counts}

        def scan(count: int) -> None:
            command = [sys.executable, "-m", "edge_runtime", "scan", str(pictures), "--model", model]
            peaks[count].append(watched([*command, "--out", str(outs[count]), "--workers", str(count)]))

        ways = {str(count): partial(scan, count) for count in counts}
        seconds = {way: times / 1000 for way, times in interleave(ways, rounds, warmup=0).items()}
        tables = {count: (out / "cells.csv").read_bytes() for count, out in outs.items()}
        if len(set(tables.values())) > 1:
            raise RuntimeError("workers give other cells than one process")
        fields = len(json.loads((outs[1] / "scan.json").read_text(encoding="utf-8"))["fields"])
    return {
        "fields": fields,
        "cpus": counts[-1],
        "ways": {
            str(count): {
                "seconds": seconds[str(count)].tolist(),
                "fields_per_second": fields / float(np.median(seconds[str(count)])),
                "peak_rss_mb": max(own for own, _ in peaks[count]),
                "worker_peak_rss_mb": max(worker for _, worker in peaks[count]),
            }
            for count in counts
        },
        "times_as_fast": float(np.median(seconds["1"] / seconds[str(counts[-1])])),
    }


def watched(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its own peak RSS and the largest one of its children, MB: as last seen, all 20 ms."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own = worker = 0.0
    while process.poll() is None:
        with suppress(OSError, StopIteration):  # ended while it was looked at
            own = max(own, _peak_mb(process.pid))
            for children in Path(f"/proc/{process.pid}/task").glob("*/children"):
                worker = max(worker, *map(_peak_mb, map(int, children.read_text().split())), 0.0)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return own, worker


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure(data: Path, model: str = MODEL, slides: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Measure everything.

    Args:
        data: the data sets' folder.
        model: name or path of the bundle.
        slides: measured before, of `measure_slides`; default: they are measured.

    Raises:
        UsageError: the data set is not there.
    """
    if not (data / "bccd").is_dir():
        raise UsageError("no data set to measure on", got=data, expected="a folder with bccd")
    slides = measure_slides(model) if slides is None else slides
    fields = read_fields(data)
    scanner = Scanner(Classifier.open(model, threads=1))
    scans, times = scan_all(scanner, fields)
    spent = {key: sum(scan.timings_ms[key] for scan in scans) for key in ("decode", "find", "classify", "total")}
    cells = sum(len(scan.cells) for scan in scans)
    return {
        "machine": machine(),
        "model": scanner.classifier.bundle.id,
        "bccd": judge(fields, scans),
        "speed": {
            "ms": float(np.median(times)),
            "fields_per_second": 1000 / float(np.mean(times)),
            "shares": {key: spent[key] / spent["total"] for key in ("decode", "find", "classify")},
            "classify_ms_per_cell": spent["classify"] / cells,
        },
        "refusals": refusals_of(scans),
        "would_have_said": dict(Counter(c.prediction.label for scan in scans for c in scan.cells if not c.cell.cut)),
        "cut": sum(cell.cell.cut for scan in scans for cell in scan.cells),
        "magnifications": {
            f"{factor:g}": compare(scans, scan_all(scanner, fields, factor)[0], factor) for factor in FACTORS
        },
        "border_fills": border_fills(scanner, fields, scans),
        "classification_ms": classification_ways(model, fields),
        "side_by_side": side_by_side(data / "bccd", model),
        "slides": slides,
    }


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help=f"the data sets' folder (default {DATA.name})")
    parser.add_argument("--model", default=MODEL, help="name or folder of the bundle (default %(default)s)")
    parser.add_argument(
        "--keep-slides", action="store_true", help="keep the slides' figures that are there: minutes less"
    )
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    slides = json.loads(RESULTS.read_text(encoding="utf-8"))["slides"] if args.keep_slides else None
    write_text(RESULTS, json.dumps(measure(args.data, args.model, slides), indent=1) + "\n")
    sys.stderr.write(f"{RESULTS} is written\n")


if __name__ == "__main__":
    sys.exit(main())
