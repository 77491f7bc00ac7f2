"""Speed tables: the figures of ``docs/speed.md``, written from ``results/speed.json`` and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.layout import markdown

RESULTS = Path(__file__).parent / "results" / "speed.json"


def _read() -> Any:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def answer_table() -> str:
    """What an answer adds to the bare engine."""
    found = _read()
    rows = []
    for name, ways in found["answer"].items():
        for way, one in ways.items():
            ratio = one["ratio"]
            interval = f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
            rows.append((f"{name}: {way}", f"{one['p50_ms']:.2f}", f"{one['p90_ms']:.2f}", interval))
    machine = found["machine"]
    head = ("prepared pixels to answer, 1 engine thread", "p50 ms", "p90 ms", "ratio of medians")
    where = f"{machine['cores']} cores of {machine['cpu']}, load {found['load_before']:.1f} before"
    return f"{where}:\n\n{markdown(head, rows)}"


def decoding_table() -> str:
    """What a JPEG decoded at a half of its size changes, beside the least change there can be."""
    rows = []
    for name, heights in _read()["decoding"].items():
        for height, one in heights.items():
            times = f"{one['whole_ms']:.1f} / {one['half_ms']:.1f}" if "half_ms" in one else ""
            way = f"half of {height} px, {one['margin']:.2f} x the input" if times else "whole, a tenth of values +-1"
            rows.append(
                (
                    f"{name}: {way}",
                    f"{one['grey_levels_mean']:.2f} / {one['grey_levels_max']:.0f}",
                    f"{100 * one['top1_agreement']:.1f} %",
                    f"{one['logits_share_of_span']:.3f}",
                    f"{one['spearman']:.4f}",
                    f"{100 * one['peak_equal']:.0f} %",
                    f"{one['refusals_changed']} of {one['pictures']}",
                    times,
                )
            )
    head = (
        "decoded",
        "grey levels off, mean / most",
        "top-1 agreement",
        "logits off, share of span",
        "heatmap's Spearman",
        "peak cell equal",
        "refusals changed",
        "decode and prepare, ms, whole / half",
    )
    return markdown(head, rows)


TABLES = {"answer": answer_table, "decoding": decoding_table}
