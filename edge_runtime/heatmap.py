"""The heatmap: numbers that say where the model saw its answer. Class map in, values 0..1 out; pictures: ``overlay``.

The logits are the spatial mean of the class map, so ReLU of one class's map is Grad-CAM in closed form, up to scale
(Selvaraju et al. 2017, section 3): no gradient is needed, and the explanation cannot drift from the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.5
"""Of the heatmap's peak: what reaches it is inside the contour and the box."""


def heatmap(class_map: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.float32]:
    """Return where class `k` was seen.

    Args:
        class_map: (h, w, K) float, finite.
        k: index of the class.

    Returns:
        (h, w) float32, 0..1 with peak 1; all zeros where nothing speaks for the class.
    """
    positive = np.maximum(class_map[..., k], np.float32(0)).astype(np.float32)
    peak = positive.max(initial=np.float32(0))
    return np.asarray(positive / peak if peak > 0 else positive, dtype=np.float32)


def hot(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Say where values reach `LEVEL` of their peak: (...) float, 0 or more -> (...) bool, nowhere where all are 0."""
    found: npt.NDArray[np.bool_] = (values >= LEVEL * values.max()) & (values > 0)
    return found


@dataclass(frozen=True)
class Placement:
    """Where the cells of a class map lie in the picture that the model saw.

    A cell stands for the centre of what it looks at (its receptive field), and that is seldom the middle of the square
    that a grid of cells would give it: a halving convolution that pads both sides looks at every second pixel from the
    first. Five of them put cell i of MobileNetV2 at 32 i + 0.5 pixels, where the grid would have 32 i + 16.

    Attributes:
        first_px: centre of the first row and column, input pixels from the upper and left edge.
        step_px: from one cell to the next, input pixels.
        input_px: height and width of the model's input.
    """

    first_px: float
    step_px: float
    input_px: int

    @classmethod
    def grid(cls, cells: int, input_px: int) -> Placement:
        """Return the placement of cells that share the picture out evenly."""
        return cls(input_px / cells / 2, input_px / cells, input_px)

    def enlarge(self, values: npt.NDArray[np.float32], px: int) -> npt.NDArray[np.float32]:
        """Lay a map over the picture, bilinearly; beyond the outermost centres their values go on.

        Args:
            values: (h, w) float.
            px: wanted height and width; the picture's own or any other resolution.

        Returns:
            (px, px) float32.
        """
        rows, columns = (self._weights(cells, px) for cells in values.shape)
        return np.asarray(rows @ values.astype(np.float64) @ columns.T, dtype=np.float32)

    def _weights(self, cells: int, px: int) -> npt.NDArray[np.float64]:
        """Return how much each cell says about each pixel: (px, cells), rows sum to 1."""
        centres = (np.arange(px) + 0.5) * self.input_px / px
        places = ((centres - self.first_px) / self.step_px).clip(0, cells - 1)
        return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(cells)))
