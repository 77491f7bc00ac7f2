"""Pictures of numbers: learning curves and the like, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.files import write_bytes


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
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_bytes(path, stream.getvalue())
