"""Speed tables: the figures of ``docs/speed.md``, written from ``results/speed.json`` and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from train.layout import markdown

RESULTS = Path(__file__).parent / "results" / "speed.json"


def decoding_table() -> str:
    """What a JPEG decoded at a half of its size changes, beside the least change there can be."""
    rows = []
    for name, heights in json.loads(RESULTS.read_text(encoding="utf-8"))["decoding"].items():
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


TABLES = {"decoding": decoding_table}
