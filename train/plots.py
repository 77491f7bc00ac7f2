"""Pictures of numbers: learning curves, confusion, reliability; written whole or not at all, without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training and validation loss, and validation macro-F1, over the epochs.

    Args:
        rows: one per epoch: ``epoch``, ``train_loss``, ``val_loss``, ``val_macro_f1``.
        path: PNG to write.
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
    _save(figure, path)


def confusion_picture(matrix: Sequence[Sequence[int]], labels: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix: counts as text, shares of the true class as colour.

    Args:
        matrix: (K, K) counts, rows are the truth.
        labels: K names.
        path: PNG to write.
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
    _save(figure, path)


def reliability_picture(bins: Sequence[dict[str, Any]], ece: float, path: Path) -> None:
    """Draw accuracy against confidence, and how many pictures each bin holds.

    Args:
        bins: rows as in `train.metrics.evaluate_predictions`'s ``reliability``.
        ece: expected calibration error, 0..1.
        path: PNG to write.
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
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_bytes(path, stream.getvalue())
