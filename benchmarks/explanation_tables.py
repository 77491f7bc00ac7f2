"""Explanation tables: what `benchmarks.explanations` measured, laid out for ``docs/explanations.md``."""

from __future__ import annotations

import json
from typing import Any

from train.layout import markdown
from train.tables import interval_text, sanity_rows

from .explanations import RESULTS

SETS = {
    "expert masks": "cells with nucleus and cytoplasm drawn by experts (segmentation_WBC), blood-cells",
    "rendered masks": "rendered cells, masks exact, blood-cells",
    "threshold masks": "fields with their authors' threshold pictures of nuclei (Taleqani, weak), all-subtypes",
}
"""Pictures with masks, as they are called in the results."""


def localisation_table() -> str:
    """Where the heat lies, by set, model and way."""
    found = _results()
    parts = []
    for name, title in SETS.items():
        rows = []
        for model in [key.removeprefix(f"{name}, ") for key in found if key.startswith(f"{name}, ")]:
            for way, row in found[f"{name}, {model}"].items():
                if way in _BASELINES and model != "fp32":
                    continue  # they stand there once
                cells = [interval_text(row[key], 2) for key in ("pointing", "top_share")]
                cells += [interval_text(row["beats_darkness"], 2)]
                cells += [interval_text(row[key], 2) for key in ("nucleus_top_share", "heat_share")]
                rows.append([model if way not in _BASELINES else "none", way, str(row["n"]), *cells])
        first = next(iter(found[f"{name}, fp32"].values()))
        ceiling = first["top_ceiling"]
        parts.append(
            f"{first['n']} {title}; the most that the top 20 % could have inside is {ceiling['value']:.2f} on average:"
            "\n\n" + markdown(_HEAD, rows)
        )
    return "\n\n".join(parts)


_BASELINES = ("centre Gaussian", "stain darkness", "random")
_HEAD = (
    "model",
    "way",
    "pictures",
    "pointing game",
    "top 20 % on the cell",
    "less stain darkness",
    "top 20 % on the nucleus",
    "heat on the cell",
)


def faithfulness_table() -> str:
    """Whether the answer goes with the hot places, and how far maps agree with the class map."""
    rows = []
    for way, row in _results()["expert masks, fp32"].items():
        keys = ("deletion", "insertion", "spearman", "overlap")
        rows.append([way, str(row["n"]), *(interval_text(row[key], 2) for key in keys)])
    head = ("way", "pictures", "deletion AUC, low is good", "insertion AUC, high is good")
    return markdown((*head, "Spearman with the class map", "overlap of the top 20 %"), rows)


def stability_table() -> str:
    """Spearman between the heatmaps of a picture and of the same picture changed."""
    found, rows = _results(), []
    for model in ("fp32", "INT8"):
        for way, row in found[f"expert masks, {model}"].items():
            if "stable: shift" in row and way not in _BASELINES:
                rows.append([model, way, *(interval_text(row[f"stable: {key}"], 3) for key in _CHANGES)])
    lime = found["LIME between seeds"]
    head = ("model", "way", "moved by 8 px", "JPEG, quality 60", "another stain")
    return (
        f"{markdown(head, rows)}\n\nLIME agrees with itself, on the very same picture under {lime['seeds']} seeds "
        f"({lime['n']} pictures), to a Spearman of {interval_text(lime['spearman'], 2)} and an overlap of the top 20 % "
        f"of {interval_text(lime['overlap'], 2)}."
    )


_CHANGES = ("shift", "JPEG", "stain")


def sanity_table() -> str:
    """Spearman of the trained network's heatmap with that of the same network spoilt."""
    return markdown(*sanity_rows(_results()["sanity"]))


def quantization_table() -> str:
    """The device's heatmap against autograd Grad-CAM of the full-precision network, by class."""
    if (found := _results().get("INT8 against fp32")) is None:
        return "Not measured: `python -m benchmarks.explanations` was run without `--index`."
    rows = [
        [name, str(row["n"]), f"{row['median']:.3f}", f"{row['p5']:.3f}", f"{row['same_peak']:.3f}"]
        for name, row in found.items()
    ]
    return markdown(("answer", "test pictures", "Spearman, median", "5th percentile", "same peak cell"), rows)


def cost_table() -> str:
    """Milliseconds, ratios and passes of every way, from one run."""
    found: dict[str, Any] = _results()["cost"]
    rows = []
    for name, row in found["ways"].items():
        quantiles = (f"{row[f'{q}_ms']:.2f}" for q in ("p50", "p90", "p99"))
        rows.append([name, *quantiles, interval_text(row["ratio"], 3)])
    rows += [
        [f"fp32: {name}", f"{row['p50_ms']:.0f}", "", "", f"{row['ratio']:.0f}"] for name, row in found["slow"].items()
    ]
    head = (f"way, {found['threads']} thread, {found['rounds']} rounds", "p50 ms", "p90 ms", "p99 ms")
    return markdown((*head, "ratio to classification alone"), rows)


def _results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


TABLES = {
    "localisation": localisation_table,
    "faithfulness": faithfulness_table,
    "stability": stability_table,
    "sanity": sanity_table,
    "quantization": quantization_table,
    "explanation-cost": cost_table,
}
"""Name in ``docs/explanations.md`` -> what writes it."""
