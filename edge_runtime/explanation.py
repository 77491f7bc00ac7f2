"""The explanation: numbers that a machine can use, read off a `Prediction`'s class map; no further inference.

What comes in is a prediction and the kind of its picture; what goes out says how much of the heat lies on white cells,
where its centre and its bounds are, and what speaks for the answer rather than for the runner-up. Places are shares of
the square that the model saw, from its left upper corner, so they hold at any resolution. Pictures: ``overlay``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .classifier import Prediction
from .heatmap import LEVEL, hot


@dataclass(frozen=True, eq=False)
class Explanation:
    """What an answer rests on.

    Attributes:
        runner_up: the second most probable label.
        contrast: (h, w) float32, -1..1: evidence for the answer less that for the runner-up, scaled to a largest
            absolute value of 1; all zeros where they are equal.
        inside_cell: share of the heat on white cells, 0..1; None where no cell was found or there is no heat, and
            where the prediction does not hold its pixels as they came.
        centroid: (x, y) of the heat; None where there is none.
        box: (left, top, width, height) around all heat that reaches `LEVEL`; None where there is none.
    """

    runner_up: str
    contrast: npt.NDArray[np.float32]
    inside_cell: float | None
    centroid: tuple[float, float] | None
    box: tuple[float, float, float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it, the contrast as rows of numbers."""

        def rounded(values: tuple[float, ...] | None) -> list[float] | None:
            return None if values is None else [round(value, 4) for value in values]

        return {
            "runner_up": self.runner_up,
            "inside_cell": None if self.inside_cell is None else round(self.inside_cell, 4),
            "centroid": rounded(self.centroid),
            "box": rounded(self.box),
            "level": LEVEL,
            "contrast": [[round(float(value), 4) for value in row] for row in self.contrast],
        }


def explain(prediction: Prediction, kind: str) -> Explanation:
    """Read off a prediction what it rests on.

    Args:
        prediction: the answer.
        kind: of its picture, as the manifest's task has it: "cell" or "field".
    """
    from .standardise import KEPT  # nobody else who reads explanations needs to find cells

    first = int(np.argmax(prediction.logits))  # of equals the first, as the classifier has it
    second = int(np.argmax(np.where(np.arange(len(prediction.logits)) == first, -np.inf, prediction.logits)))
    labels = list(prediction.probabilities)
    difference = prediction.class_map[..., first] - prediction.class_map[..., second]
    largest = np.abs(difference).max()
    contrast = np.asarray(difference / largest if largest > 0 else difference, dtype=np.float32)
    side = len(prediction.pixels)
    heat = prediction.placement.enlarge(prediction.heatmap, side).astype(np.float64)
    total = heat.sum()
    if total == 0:
        return Explanation(labels[second], contrast, None, None, None)
    cells = None if prediction.plain is None else KEPT[f"neutral-{kind}"](prediction.plain)
    inside = float(heat[cells].sum() / total) if cells is not None and cells.any() else None
    places = (np.arange(side) + 0.5) / side
    centroid = (float(heat.sum(0) @ places / total), float(heat.sum(1) @ places / total))
    inner = hot(heat)
    columns, rows = np.flatnonzero(inner.any(0)), np.flatnonzero(inner.any(1))
    left, top, right, bottom = (int(edge) / side for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return Explanation(labels[second], contrast, inside, centroid, (left, top, right - left, bottom - top))
