"""Sweep table: what sweeps have found, as a table, as a picture, and as the state of every backbone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.layout import markdown

from .errors import ExportError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATED = ("backbone", "task", "targets")

JSON, TABLE, PICTURE = "sweep.json", "sweep.md", "sweep.png"

HEAD = (
    "target",
    "gates",
    "MB",
    "of fp32",
    "macro-F1",
    "difference, pp",
    "top-1 agreement",
    "heatmap Spearman",
    "p50, ms",
    "times faster than PyTorch",
)


def read_sweep(file: Path) -> dict[str, Any]:
    """Read a ``sweep.json``.

    Raises:
        ExportError: it is not one, or damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if [key for key in STATED if key not in found] or not all(
            {"recipe", "state"} <= entry.keys() for entry in found["targets"]
        ):
            raise ValueError(f"without {', '.join(STATED)}")
    except (ValueError, TypeError, AttributeError) as error:
        todo = "make it again: python -m export sweep"
        raise ExportError(f"{file}: not what a sweep found", got=str(error), todo=todo) from None
    return dict(found)


def sweep_report(found: dict[str, Any]) -> str:
    """Lay a sweep out in Markdown: a heading, a table, and below it why what failed has failed.

    Args:
        found: content of ``sweep.json``.
    """
    timed = found["latency"]
    reference = (
        "PyTorch fp32",
        "",
        f"{found['weights_bytes'] / 1e6:.2f}",
        "1.00",
        _interval(found["macro_f1"]),
        *[""] * 3,
        f"{timed['latency_ms']['p50']:.2f}",
        "1",
    )
    rows = [reference, *(_cells(entry) for entry in found["targets"])]
    title = (
        f"**{found['backbone']}, {found['task']}, {found['input_px']} px**: {found['test_pictures']} test pictures, "
    )
    title += f"{found['protocol']}; latency of one picture, {timed['threads']} thread(s), all by turns in one process."
    reasons = [
        f"- `{entry['recipe']}`, {entry['state']}: {entry['reason']}" for entry in found["targets"] if entry["reason"]
    ]
    return "\n\n".join(part for part in (title, markdown(HEAD, rows), "\n".join(reasons)) if part)


def _cells(entry: dict[str, Any]) -> list[str]:
    name = f"`{entry['recipe']}`"
    if "model_bytes" not in entry:
        return [name, entry["state"], *[""] * (len(HEAD) - 2)]
    change = entry["macro_f1_difference_pp"]
    return [
        name,
        entry["state"],
        f"{entry['model_bytes'] / 1e6:.2f}",
        f"{entry['size_ratio']:.2f}",
        _interval(entry["macro_f1"]),
        f"{change['value'] + 0.0:+.2f} [{change['low'] + 0.0:+.2f}, {change['high'] + 0.0:+.2f}]",
        f"{entry['top1_agreement']['value']:.4f}",
        f"{entry['heatmap_spearman_median']:.4f}",
        f"{entry['latency_ms']['p50']:.2f}",
        f"{entry['speedup']['value']:.2f} [{entry['speedup']['low']:.2f}, {entry['speedup']['high']:.2f}]",
    ]


def _interval(stated: dict[str, float]) -> str:
    return f"{stated['value']:.4f} [{stated['low']:.3f}, {stated['high']:.3f}]"


def pareto(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return the recipes that no other one equals in macro-F1, size and latency, or beats, unless it equals all three.

    Args:
        entries: ``targets`` of a sweep; those that were not made are passed over.
    """
    made = [entry for entry in entries if "speedup" in entry]
    marks = {
        entry["recipe"]: (-entry["macro_f1"]["value"], entry["model_bytes"], -entry["speedup"]["value"])
        for entry in made
    }
    return [
        name
        for name, mine in marks.items()
        if not any(other != mine and all(o <= m for o, m in zip(other, mine, strict=True)) for other in marks.values())
    ]


def pareto_picture(found: dict[str, Any]) -> Figure:
    """Draw a sweep: speed-up over PyTorch across, macro-F1 upwards, size as area; the Pareto front is filled.

    Args:
        found: content of ``sweep.json``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    front = pareto(found["targets"])
    made = sorted(
        (entry for entry in found["targets"] if "speedup" in entry), key=lambda entry: entry["speedup"]["value"]
    )
    for number, entry in enumerate(made):
        across, up = entry["speedup"]["value"], entry["macro_f1"]["value"]
        colour = "tab:green" if entry["state"] == "passed" else "tab:red"
        filled = colour if entry["recipe"] in front else "none"
        axes.scatter(across, up, s=20 + 900 * entry["size_ratio"], edgecolors=colour, facecolors=filled, alpha=0.6)
        below = 14 + 9 * (number % 4)  # neighbours' names on lines of their own
        axes.annotate(entry["recipe"], (across, up), fontsize=7, xytext=(0, -below), textcoords="offset points")
    axes.axhline(found["macro_f1"]["value"], color="grey", linestyle="--", linewidth=1)
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    axes.margins(x=0.15, y=0.3)
    axes.set(
        xscale="log",
        xlabel=f"times faster than PyTorch fp32, {found['latency']['threads']} thread(s), batch 1",
        ylabel=f"macro-F1, {found['test_pictures']} test pictures",
        title=f"{found['task']}, {found['backbone']}, {found['input_px']} px: area is size, filled is the Pareto "
        "front, red failed a gate",
    )
    axes.title.set_fontsize(9)
    return figure


def state_table(sweeps: Sequence[dict[str, Any]], targets: Sequence[str]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return head and rows of a table: what became of every backbone and target; MB, with "!" where a gate failed.

    Args:
        sweeps: contents of ``sweep.json``, of one task.
        targets: names, in the order of the rows.
    """
    head = ["target", *(f"{found['backbone']} {found['input_px']} px" for found in sweeps)]
    rows: list[Sequence[str]] = []
    for target in targets:
        cells = []
        for found in sweeps:
            entry = next((entry for entry in found["targets"] if entry["recipe"] == target), None)
            if entry is None:
                cells.append("-")
            elif "model_bytes" in entry:
                mark = "" if entry["state"] == "passed" else " !"
                cells.append(f"{entry['model_bytes'] / 1e6:.2f}{mark}")
            else:
                cells.append(entry["state"])
        rows.append([target, *cells])
    return head, rows
