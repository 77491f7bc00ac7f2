"""Pictures of numbers: learning curves, confusion, reliability, intervals side by side; drawn without a display.

What comes in are numbers from ``run.json``; what goes out is a figure, and from it a PNG file, written whole or not at
all, or an SVG element for a page.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.files import write_bytes

from .resampling import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw training and validation loss, and validation macro-F1, over the epochs.

    Args:
        rows: one per epoch: ``epoch``, ``train_loss``, ``val_loss``, ``val_macro_f1``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    losses.plot(epochs, [row["train_loss"] for row in rows], label="train (augmented, smoothed labels)")
    losses.plot(epochs, [row["val_loss"] for row in rows], label="validation")
    losses.set(xlabel="epoch", ylabel="cross-entropy, nats")
    losses.legend()
    scores.plot(epochs, [row["val_macro_f1"] for row in rows], color="tab:green")
    scores.set(xlabel="epoch", ylabel="validation macro-F1")
    return figure


def confusion_picture(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts as text, shares of the true class as colour.

    Args:
        matrix: (K, K) counts, rows are the truth.
        labels: K names.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.62 * len(labels)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def reliability_picture(bins: Sequence[dict[str, Any]], ece: float) -> Figure:
    """Draw accuracy against confidence, and how many pictures each bin holds.

    Args:
        bins: rows as in `train.metrics.evaluate_predictions`'s ``reliability``.
        ece: expected calibration error, 0..1.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [row for row in bins if row["count"]]
    width = bins[0]["high"] - bins[0]["low"]
    upper.plot((0, 1), (0, 1), color="grey", linestyle="--", linewidth=1, label="calibrated")
    upper.bar([row["low"] for row in filled], [row["accuracy"] for row in filled], width, align="edge", alpha=0.5)
    upper.plot(
        [row["confidence"] for row in filled],
        [row["accuracy"] for row in filled],
        marker="o",
        markersize=4,
        color="tab:blue",
        label=f"test, ECE {ece:.3f}",
    )
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    upper.legend(loc="upper left")
    lower.bar([row["low"] for row in bins], [row["count"] for row in bins], width, align="edge", color="tab:grey")
    lower.set(xlabel="confidence (largest probability)", ylabel="pictures", yscale="symlog")
    return figure


@dataclass(frozen=True)
class Series:
    """What is drawn with one sign in `interval_picture`.

    Attributes:
        name: in the legend; "": not there.
        values: one per line, or None where there is nothing to draw.
        marker: matplotlib's.
        colour: matplotlib's.
    """

    name: str
    values: Sequence[Interval | None]
    marker: str = "o"
    colour: str = "tab:blue"


def interval_picture(names: Sequence[str], series: Sequence[Series], title: str, line: float | None = None) -> Figure:
    """Draw values with their intervals, one line each, the first on top.

    Args:
        names: N lines.
        series: each with N values; several share the lines, a little apart.
        title: of the value axis.
        line: value to draw across all lines, such as the untouched pictures'.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.1 + 0.24 * len(names) * max(1, 0.6 * len(series))), layout="constrained")
    axes = figure.subplots()
    if line is not None:
        axes.axvline(line, color="grey", linestyle="--", linewidth=1)
    for number, one in enumerate(series):
        apart = 0.6 * ((number + 0.5) / len(series) - 0.5)
        drawn = [(i + apart, value) for i, value in enumerate(one.values) if value is not None]
        places, values = [place for place, _ in drawn], [value["value"] for _, value in drawn]
        # a bootstrap interval may lie beside its value
        lows = [max(0.0, value["value"] - value["low"]) for _, value in drawn]
        highs = [max(0.0, value["high"] - value["value"]) for _, value in drawn]
        axes.errorbar(
            values,
            places,
            xerr=(lows, highs),
            fmt=one.marker,
            color=one.colour,
            markersize=5,
            elinewidth=1.2,
            label=one.name or None,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=title, ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="x", alpha=0.3)
    if any(one.name for one in series):
        figure.legend(loc="outside upper center", ncols=len(series), fontsize=8)
    return figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_bytes(path, stream.getvalue())


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an SVG element for an HTML page: text stays text, and the same figure gives the same bytes.

    Args:
        figure: to be drawn.
        name: unique on the page; put before every id within the element.
        alt: what a reader who cannot see it is told.
    """
    import matplotlib

    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata=nothing)
    element = stream.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)
    return element.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)
