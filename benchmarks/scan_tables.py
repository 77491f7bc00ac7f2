"""Scan tables: the figures of ``docs/scan.md``, written from ``results/scan.json`` and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.layout import markdown

RESULTS = Path(__file__).parent / "results" / "scan.json"


def _read() -> Any:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def finding_table() -> str:
    """Recall and precision on BCCD, and the kinds of misses and extras."""
    found = _read()["bccd"]
    rows = []
    for name, title in (("centre_hit", "centre in the box"), ("iou_0.5", "boxes overlap, IoU over 0.5")):
        score = found[name]
        rows.append((title, f"{score['recall']:.3f}", f"{score['precision']:.3f}", str(score["found"])))
    head = (f"{found['boxes']} boxes, {found['cells']} cells found", "recall", "precision", "pairs")
    listed = [
        (kind, entry["file"], ", ".join(map(str, entry["box"])), entry["kind"])
        for kind, entries in (("missed", found["misses"]), ("extra", found["extras"]))
        for entry in entries
    ]
    return "\n\n".join((markdown(head, rows), markdown(("", "file", "left, top, width, height", "kind"), listed)))


def magnification_table() -> str:
    """The same fields enlarged and reduced: the same cells, the same classes."""
    rows = [
        (
            f"x {factor}",
            f"{found['found_again']:.3f}",
            f"{found['new']:.3f}",
            f"{found['red_cell']['median']:.3f} ({found['red_cell']['p5']:.2f} to {found['red_cell']['p95']:.2f})",
            f"{found['same_class']:.3f} of {found['whole_in_both']}",
            f"{found['same_class_sure']:.3f} of {found['sure_in_base']}",
        )
        for factor, found in _read()["magnifications"].items()
    ]
    head = (
        "magnification",
        "cells found again",
        "cells that are new",
        "red cell, measured / expected",
        "same class, answered or not",
        "same, where its probability was 0.8 or more",
    )
    return markdown(head, rows)


def declined_table() -> str:
    """What the model declined to answer on BCCD, and what it would have said."""
    found = _read()
    refusals = found["refusals"]
    head = (f"{refusals['whole_cells']} whole cells, {refusals['answered']} answered", "cells")
    rows = [(f"no answer: {reason}", str(count)) for reason, count in refusals["declined"].items()]
    rows += [(f"would have said {label}", str(count)) for label, count in _by_count(found["would_have_said"])]
    return markdown(head, rows)


def _by_count(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def speed_table() -> str:
    """What a field costs, and where the time goes."""
    found = _read()
    speed, machine = found["speed"], found["machine"]
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in speed["shares"].items())
    ways = [(way, f"{ms:.2f}") for way, ms in found["classification_ms"].items()]
    shared = found["side_by_side"]
    processes = [
        (
            "one process" if count == "1" else f"{count} workers",
            f"{way['fields_per_second']:.1f}",
            f"{way['peak_rss_mb']:.0f}",
            "-" if count == "1" else f"{way['worker_peak_rss_mb']:.0f}",
        )
        for count, way in shared["ways"].items()
    ]
    head = (f"scan of {shared['fields']} fields, {shared['cpus']} CPUs", "fields/s, wall clock", "peak RSS, MB")
    return "\n\n".join(
        (
            f"{speed['fields_per_second']:.1f} fields of 640 x 480 pixels a second on one core of {machine['cpu']} "
            f"(process time; median field {speed['ms']:.0f} ms): {shares}. A cell's classification and heatmap take "
            f"{speed['classify_ms_per_cell']:.1f} ms, crop and preparation included.",
            markdown((*head, "of a worker, MB"), processes),
            f"The whole command, start and report included, in turns: {shared['times_as_fast']:.2f} times as fast.",
            markdown(("one crop's classification, wall clock, by turns", "ms"), ways),
        )
    )


def slide_table() -> str:
    """Rendered slides: memory and time."""
    rows = [
        (
            f"{slide['width']} x {slide['height']}",
            f"{slide['rgb_bytes'] / 1e6:.0f}",
            str(slide["tiles_with_smear"]),
            str(slide["cells"]),
            f"{slide['seconds']:.0f}",
            f"{slide['peak_rss_mb']:.0f}",
        )
        for slide in _read()["slides"]
    ]
    head = ("slide, pixels", "decoded, MB", "tiles that are no glass", "cells", "seconds", "peak RSS, MB")
    return markdown(head, rows)


def border_table() -> str:
    """How to continue a picture beyond its border."""
    found = _read()["border_fills"]
    rows = [
        (way, f"{score['same_class']:.3f}", f"{score['probability_change']:.3f}")
        for way, score in found.items()
        if way != "crops"
    ]
    return markdown((f"{found['crops']} crops, continued by", "same class", "mean change of its probability"), rows)


TABLES = {
    "finding": finding_table,
    "declined": declined_table,
    "magnification": magnification_table,
    "speed": speed_table,
    "slides": slide_table,
    "borders": border_table,
}
"""Of the page."""
