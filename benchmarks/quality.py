"""`python -m benchmarks.quality`: what the image-quality gate rejects - of good pictures, and of spoilt ones.

What comes in are index folders and the data sets; what goes out is ``results/quality.json`` and the tables of
``docs/abstention.md``. Limits are fitted on the validation split, as `export` does it. What is unusable is not said by
the gate, but by what a shipped bundle still knows: validation pictures are spoilt, and where its top-1 accuracy falls
by more than `UNUSABLE_POINTS`, that corruption at that severity is unusable; where it falls by no more than
`HARMLESS_POINTS`, a rejection is one without need. Only then are the test pictures judged, clean and spoilt, and of
BCCD's fields those that the limits for fields were not fitted on. Intervals resample whole groups.
"""

from __future__ import annotations

import argparse
import json
import sys
import timeit
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edge_runtime.cells import find_cells
from edge_runtime.classifier import Classifier
from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.guard import guarded
from edge_runtime.preprocess import Pixels, Preprocess, from_array, prepare
from edge_runtime.quality import field_scale, judge, judge_field, measure
from edge_runtime.quality_limits import FIELD_LIMITS, Limits
from edge_runtime.refusal import Refusal
from export.quality_limits import fit_limits
from train.index import Index, read_index
from train.pixels import load_pixels
from train.resampling import RESAMPLES, Resamples, percentile_interval

from .cell_finder import DATA, Field, read_fields
from .corruptions import CORRUPTIONS, HOLDS_NOTHING, RED_CELL_PX, corrupted
from .cost import machine
from .markdown import with_tables

RESULTS = Path(__file__).parent / "results" / "quality.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "abstention.md"
PROTOCOL = "grouped"
UNUSABLE_POINTS, HARMLESS_POINTS = 20.0, 2.0
"""Falls of top-1 accuracy, percentage points."""

HARM_PICTURES, TEST_PICTURES, SPOILT_FIELDS = 200, 400, 40
"""Pictures that are spoilt: validation, test (all are judged clean), fields of BCCD; drawn with `SEED`."""

SEED = 0
CROP_PX, CROP_RED_CELL_PX = 224, RED_CELL_PX["cell"]

Judge = Callable[[Pixels], tuple[Refusal, ...]]
Step = tuple[str, float]
"""Row of `CORRUPTIONS` and severity."""


def steps() -> Iterator[Step]:
    """Return every corruption at every severity."""
    return ((name, severity) for name, row in CORRUPTIONS.items() for severity in row.severities)


def share(flags: Sequence[bool], groups: Sequence[str]) -> dict[str, Any]:
    """Return a share with its interval, over whole groups."""
    sample = Resamples(len(flags), list(groups), SEED, RESAMPLES)
    sums = sample.sums(np.stack([np.array(flags, float), np.ones(len(flags))], axis=1))
    return {"pictures": len(flags), "groups": len(set(groups)), **(percentile_interval(sums[:, 0] / sums[:, 1]) or {})}


def judged(found: Sequence[tuple[Refusal, ...]], groups: Sequence[str]) -> dict[str, Any]:
    """Return the rejected share, and how often each number decided."""
    decided = Counter(f"{refusal.reason}: {refusal.measure}" for one in found for refusal in one)
    return {"rejected": share([bool(one) for one in found], groups), "by": dict(decided.most_common())}


def harm(index: Index, pixels: Pixels, numbers: Sequence[int], kind: str) -> tuple[float, dict[Step, float]]:
    """Return a shipped bundle's top-1 accuracy on clean pictures, and by how many points each step lowers it."""
    classifier = Classifier.open(index.task.name, threads=1)

    def accuracy(spoil: Callable[[int], Pixels]) -> float:
        right = (classifier.classify_pixels(spoil(i)).label == index.rows[i].label for i in numbers)
        return 100 * sum(right) / len(numbers)

    clean = accuracy(lambda i: np.asarray(pixels[i]))
    falls = {}
    for name, severity in tqdm(list(steps()), desc="harm", unit="step", leave=False, disable=None):

        def spoil(i: int, name: str = name, severity: float = severity) -> Pixels:
            return corrupted(np.asarray(pixels[i]), name, severity, i, RED_CELL_PX[kind])

        falls[name, severity] = clean - accuracy(spoil)
    return clean, falls


def verdict(step: Step, fall: float) -> str:
    """Say what a step does to a picture: "unusable", "harmless", or "between"."""
    if step[0] in HOLDS_NOTHING or fall > UNUSABLE_POINTS:
        return "unusable"
    return "harmless" if fall <= HARMLESS_POINTS else "between"


def judge_task(folder: Path) -> dict[str, Any]:
    """Judge the gate of one task's shipped bundle.

    Args:
        folder: its index.

    Returns:
        ``limits``; ``clean``: source -> rejected test pictures; ``top1_clean``; ``steps``: for each corruption and
        severity the fall of top-1 (points), verdict, and rejected share; ``unusable``, ``harmless``: over all such.
    """
    index = read_index(folder)
    kind, pixels = index.task.kind, load_pixels(index)
    numbers = {split: index.select(PROTOCOL, split) for split in ("val", "test")}
    sources = [row.source for row in index.rows]
    limits = fit_limits([measure(pixels[i]) for i in numbers["val"]], [sources[i] for i in numbers["val"]])
    rng = np.random.default_rng(SEED)
    top1, falls = harm(index, pixels, _drawn(rng, numbers["val"], HARM_PICTURES), kind)

    clean = {}
    for source in sorted(set(sources)):
        own = [i for i in numbers["test"] if sources[i] == source]
        clean[source] = judged([judge(pixels[i], limits) for i in own], [index.rows[i].group for i in own])
    drawn = _drawn(rng, numbers["test"], TEST_PICTURES)
    rows = judge_steps(
        falls,
        [np.asarray(pixels[i]) for i in drawn],
        [index.rows[i].group for i in drawn],
        [RED_CELL_PX[kind]] * len(drawn),
        lambda picture: judge(picture, limits),
    )
    return {"kind": kind, "limits": limits, "clean": clean, "top1_clean": top1, **rows}


def judge_steps(
    falls: dict[Step, float],
    pictures: Sequence[Pixels],
    groups: Sequence[str],
    red_cell_px: Sequence[float],
    gate: Judge,
) -> dict[str, Any]:
    """Spoil pictures step by step and judge them.

    Args:
        falls: step -> fall of top-1, points.
        pictures: N of (H, W, 3) uint8, clean.
        groups: N names.
        red_cell_px: N diameters of red cells.
        gate: picture -> refusals.
    """
    rows, flags = [], {"unusable": ([], []), "harmless": ([], [])}
    for step, fall in tqdm(falls.items(), desc="judge", unit="step", leave=False, disable=None):
        found = [
            gate(corrupted(picture, *step, seed, diameter))
            for seed, (picture, diameter) in enumerate(zip(pictures, red_cell_px, strict=True))
        ]
        named = CORRUPTIONS[step[0]].reason
        row = {"corruption": step[0], "severity": step[1], "fall": fall, "verdict": verdict(step, fall)}
        rows.append(
            row | judged(found, groups) | {"named": float(np.mean([named in {r.reason for r in one} for one in found]))}
        )
        if row["verdict"] in flags:
            flags[row["verdict"]][0].extend(bool(one) for one in found)
            flags[row["verdict"]][1].extend(groups)
    return {"steps": rows} | {name: share(*pair) for name, pair in flags.items() if pair[0]}


def judge_fields(data: Path, index: Index, falls: dict[Step, float]) -> dict[str, Any]:
    """Judge the limits for whole fields.

    Args:
        data: the data sets' folder.
        index: of the task on Taleqani's fields.
        falls: of single cells, for they are cut out of such fields.

    Returns:
        ``fitted``: the rule's limits, anew; ``clean``: source -> rejected, of fields not fitted on; of BCCD's spoilt
        fields ``steps`` and ``unusable``; ``crops``: source -> rejected of BCCD's white cells, by the limits in force
        for single cells.
    """
    fields, pixels = read_fields(data), load_pixels(index)
    half = len(fields) // 2
    own, others = fields[:half], fields[half:]
    val, test = (index.select(PROTOCOL, split) for split in ("val", "test"))
    pictures = [field.pixels for field in own] + [np.asarray(pixels[i]) for i in val]
    scales = [field_scale(picture, find_cells(picture).red_cell_px) for picture in pictures]
    sources = ["bccd"] * half + ["taleqani"] * len(val)
    fitted = fit_limits([measure(p, scale) for p, scale in zip(pictures, scales, strict=True)], sources)

    def gate(picture: Pixels) -> tuple[Refusal, ...]:
        return judge_field(picture, find_cells(picture).red_cell_px)  # as a scan does: in the spoilt picture

    names = [f"bccd-{number}" for number in range(len(others))]  # no patient is known
    clean = {
        "bccd": judged([gate(field.pixels) for field in others], names),
        "taleqani": judged([gate(np.asarray(pixels[i])) for i in test], [index.rows[i].group for i in test]),
    }
    drawn = _drawn(np.random.default_rng(SEED), range(len(others)), SPOILT_FIELDS)
    unusable = {step: fall for step, fall in falls.items() if verdict(step, fall) == "unusable"}
    rows = judge_steps(
        unusable,
        [others[i].pixels for i in drawn],
        [names[i] for i in drawn],
        [others[i].red_cell_px for i in drawn],
        gate,
    )
    return {"limits": dict(FIELD_LIMITS), "fitted": fitted, "clean": clean, **rows}


def judge_foreign_crops(fields: Sequence[Field], limits: Limits) -> dict[str, Any]:
    """Judge another laboratory's white cells by a bundle's limits, cut out at the scale of its crops."""
    found, names = [], []
    for number, field in enumerate(fields):
        side = round(CROP_PX * field.red_cell_px / CROP_RED_CELL_PX)
        picture = from_array(field.pixels)
        for left, top, width, height in field.boxes:
            x, y = left + (width - side) // 2, top + (height - side) // 2
            if x < 0 or y < 0 or x + side > picture.width or y + side > picture.height:
                continue  # the border cuts the crop
            found.append(judge(prepare(picture, Preprocess(CROP_PX), (x, y, side, side)), limits))
            names.append(str(number))
    return judged(found, names)


def cost(crop: Pixels, field: Pixels) -> dict[str, float]:
    """Return the median time of a measurement, milliseconds, without finding cells."""

    def ms(call: Callable[[], object]) -> float:
        return 1000 * float(np.median(timeit.repeat(call, number=1, repeat=200)))

    return {"crop_ms": ms(lambda: measure(crop)), "field_ms": ms(lambda: measure(field, field_scale(field, 88.0)))}


def measure_all(indexes: Sequence[Path], data: Path) -> dict[str, Any]:
    """Measure everything.

    Raises:
        UsageError: a task or data set is missing.
    """
    by_kind: dict[str, Path] = {}
    for folder in indexes:
        by_kind[read_index(folder).task.kind] = folder
    if set(by_kind) != {"cell", "field"} or not (data / "bccd").is_dir():
        raise UsageError("not all is there", expected="an index of single cells, one of fields, and the folder of bccd")
    tasks = {read_index(folder).task.name: judge_task(folder) for folder in by_kind.values()}
    cells = next(found for found in tasks.values() if found["kind"] == "cell")
    falls = {(row["corruption"], row["severity"]): row["fall"] for row in cells["steps"]}
    index = read_index(by_kind["field"])
    fields = read_fields(data)
    return {
        "machine": machine(),
        "protocol": PROTOCOL,
        "unusable_points": UNUSABLE_POINTS,
        "harmless_points": HARMLESS_POINTS,
        "tasks": tasks,
        "fields": judge_fields(data, index, falls),
        "foreign_crops": judge_foreign_crops(fields, cells["limits"]),
        "cost": cost(np.asarray(load_pixels(index)[0]), fields[0].pixels),
    }


def _drawn(rng: np.random.Generator, numbers: Sequence[int], count: int) -> list[int]:
    return sorted(int(i) for i in rng.permutation(list(numbers))[:count])


# -------------------------------------------------------------------------------------------------------- tables


def percent(found: dict[str, Any]) -> str:
    """Write a share and its interval, percent."""
    return f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def clean_table(found: dict[str, Any]) -> str:
    """Return the table of good pictures."""
    lines = ["| limits of | pictures | rejected, % | by |", "| --- | --- | --- | --- |"]
    parts = [(task, source, row) for task, rows in found["tasks"].items() for source, row in rows["clean"].items()]
    parts += [("whole fields", source, row) for source, row in found["fields"]["clean"].items()]
    parts += [("blood-cells", "bccd, white cells cut out: a laboratory it never saw", found["foreign_crops"])]
    for task, source, row in parts:
        count = row["rejected"]
        by = ", ".join(f"{name} {times}" for name, times in row["by"].items()) or "-"
        lines.append(
            f"| {task} | {source}: {count['pictures']} of {count['groups']} groups | {percent(count)} | {by} |"
        )
    return "\n".join(lines)


def summary_table(found: dict[str, Any]) -> str:
    """Return the table of all that is unusable, and of all that is harmless."""
    lines = [
        "| limits of | of unusable pictures rejected, % | but JPEG's, % (worst severity) | of harmless ones, % |",
        "| --- " * 4 + "|",
    ]
    for name, rows in [*found["tasks"].items(), ("whole fields (BCCD)", found["fields"])]:
        others = [
            step["rejected"]["value"]  # of equally many pictures each
            for step in rows["steps"]
            if step["verdict"] == "unusable" and step["corruption"] != "JPEG"
        ]
        but_jpeg = f"{100 * np.mean(others):.2f} ({100 * min(others):.1f})"
        harmless = percent(rows["harmless"]) if "harmless" in rows else "-"
        lines.append(f"| {name} | {percent(rows['unusable'])} | {but_jpeg} | {harmless} |")
    return "\n".join(lines)


def steps_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of one task's steps: a corruption a line, its severities from mild to strong."""
    marks = {"unusable": "**", "harmless": "", "between": "_"}
    lines = ["| corruption (severity) | severity: rejected, % (fall of top-1, points) |", "| --- | --- |"]
    for name, row in CORRUPTIONS.items():
        cells = []
        for step in (step for step in rows if step["corruption"] == name):
            mark = marks[step["verdict"]]
            severity = f"{step['severity']:g}: " if row.unit else ""
            rejected = f"{100 * step['rejected']['value']:.1f}"
            cells.append(f"{severity}{mark}{rejected}{mark} ({step['fall']:.0f})")
        lines.append(f"| {name}{f' ({row.unit})' if row.unit else ''} | {', '.join(cells)} |")
    return "\n".join(lines)


def missed_table(found: dict[str, Any]) -> str:
    """Return the table of unusable steps of which less than 99 % are rejected."""
    lines = ["| limits of | corruption | severity | fall of top-1, points | rejected, % |", "| --- " * 5 + "|"]
    for name, rows in [*found["tasks"].items(), ("whole fields (BCCD)", found["fields"])]:
        for step in rows["steps"]:
            if step["verdict"] == "unusable" and step["rejected"]["value"] < 0.99:
                fall, rejected = f"{step['fall']:.0f}", percent(step["rejected"])
                lines.append(f"| {name} | {step['corruption']} | {step['severity']:g} | {fall} | {rejected} |")
    return "\n".join(lines)


def write_page(found: dict[str, Any]) -> None:
    """Make the page's tables anew."""
    tables: dict[str, Callable[[], str]] = {
        "quality-clean": lambda: clean_table(found),
        "quality-summary": lambda: summary_table(found),
        "quality-missed": lambda: missed_table(found),
    }
    for name, rows in found["tasks"].items():
        tables[f"quality-{name}"] = lambda rows=rows: steps_table(rows["steps"])
    write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8"), tables))


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--index", type=Path, nargs=2, metavar="FOLDER", help="of blood-cells and of all-subtypes; measures anew"
    )
    parser.add_argument("--data", type=Path, default=DATA, help=f"the data sets' folder (default {DATA.name})")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    if args.index:
        write_text(RESULTS, json.dumps(measure_all(args.index, args.data), indent=1) + "\n")
        sys.stderr.write(f"{RESULTS} is written\n")
    elif not RESULTS.is_file():
        raise UsageError("nothing was measured yet", todo="give --index")
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
