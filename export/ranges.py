"""Ranges: how far an activation's eight bits should reach.

The widest range seen (min-max) clips nothing but spends its 255 steps on rare extremes; a moving average of it is
narrower by accident of the order. Here each tensor gets the range, within the widest one, whose squared error of
rounding and clipping together is least on the calibration set. Logits and class map keep the widest: clipping them
would change answers, not only precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 2048
SHARES = np.linspace(0.3, 1.0, 15)
"""Of the widest range, tried on either side of zero."""

STEPS = 255
SIDES = ("min", "max")

Range = tuple[float, float]
"""(low, high) of a tensor."""


def set_ranges(quantizers: dict[str, Any], ranges: dict[str, Range]) -> dict[str, Any]:
    """Put ranges in place of those the quantizer measured.

    Args:
        quantizers: tensor -> {"min", "max"}, arrays of one value.
        ranges: tensor -> (low, high).
    """
    changed = {
        name: {side: np.full_like(quantizers[name][side], value) for side, value in zip(SIDES, limits, strict=True)}
        for name, limits in ranges.items()
        if name in quantizers
    }
    return quantizers | changed


def least_squares_ranges(ranges: dict[str, Range], values: dict[str, npt.NDArray[np.float32]]) -> dict[str, Range]:
    """Narrow the widest ranges of the tensors of which there are values to those of least squared error."""
    return {name: least_squares_range(sample, *ranges[name]) for name, sample in values.items()}


def least_squares_range(values: npt.NDArray[np.float32], lowest: float, highest: float) -> Range:
    """Find the range of least squared error for values.

    Args:
        values: (M,).
        lowest: of the widest range.
        highest: of the widest range.

    Returns:
        low <= 0 <= high, between `lowest` and `highest`.
    """
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if lowest == highest:
        return lowest, highest
    counts, edges = np.histogram(values, BINS, (lowest, highest))
    centres = (edges[:-1] + edges[1:]) / 2
    # candidates (A, B): shares of either side; a side that is zero has one
    low = (SHARES if lowest < 0 else np.ones(1))[:, None] * lowest
    high = (SHARES if highest > 0 else np.ones(1))[None, :] * highest
    low, high = (side[..., None] for side in np.broadcast_arrays(low, high))
    step = (high - low) / STEPS
    rounded = np.rint((np.clip(centres, low, high) - low) / step) * step + low  # (A, B, BINS)
    error = ((rounded - centres) ** 2 * counts).sum(-1)
    best = np.unravel_index(error.argmin(), error.shape)
    return float(low[best][0]), float(high[best][0])
