"""Stain: how much light each pixel absorbs, and how much of that is the purple of a nucleus; numpy only.

What comes in are RGB pixels; what goes out are optical densities in whole thousandths. A Romanowsky stain makes nuclei
purple: they absorb green most and blue least, whatever the hue of the rest. Red cells absorb blue as much as green
(brown, pink) or red more than green (grey, blue, under another camera); so green less blue less a quarter of red leaves
nuclei in either. Measured against expert and weak masks on two laboratories' pictures, no other fixed mixture of the
channels did better on both. Everything is integer arithmetic from a rounded table, so that a mask has the same bits on
every machine.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .preprocess import Pixels

Density = npt.NDArray[np.int32]
"""(H, W, 3) int32, optical density of the red, green and blue channel in thousandths, 0 or more."""

DensityMap = npt.NDArray[np.int32]
"""(H, W) int32, thousandths of optical density."""

STAINED = 50
"""What absorbs more green than this is no empty field."""

_TABLE = np.array([round(-1000 * math.log10((value + 1) / 256)) for value in range(256)], np.int32)


def optical_density(pixels: Pixels) -> Density:
    """Return how strongly each channel is absorbed, against the picture's own empty field.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (H, W, 3) int32, 1000 x -log10(pixel / white), 0 or more; white is the channel's 95th percentile.
    """
    density: Density = np.empty_like(pixels, np.int32)  # channel by channel where the pixels are
    for c in range(3):
        darker = np.bincount(pixels[:, :, c].ravel(), minlength=256).cumsum()
        white = int(np.searchsorted(darker, 0.95 * darker[-1]))
        density[:, :, c] = density_of_levels(white)[pixels[:, :, c]]
    return density


def density_of_levels(white: int) -> npt.NDArray[np.int32]:
    """Return the density of each grey level of a channel whose empty field has the level `white`: (256,) int32."""
    density: npt.NDArray[np.int32] = (_TABLE - _TABLE[white]).clip(0)
    return density


def purple(density: Density) -> DensityMap:
    """Return the purple of nuclei: (H, W) int32, 0 or more; nuclei have about 200 to 500, red cells below 100."""
    red, green, blue = (density[:, :, c] for c in range(3))
    stained: DensityMap = (green - blue - red // 4).clip(0)
    return stained


def otsu(values: npt.NDArray[np.int32], step: int = 8) -> int:
    """Return the threshold that splits `values` into the two classes of largest variance between them (Otsu 1979).

    Args:
        values: 0 or more, of any shape.
        step: width of the histogram's bins.

    Returns:
        The upper end of the lower class: values above it belong to the upper one; 0 where all values are alike.
    """
    if not values.size:
        return 0
    counts = np.bincount(values.ravel() // step)
    below = counts.cumsum()
    sums = (counts * np.arange(len(counts))).cumsum()
    above = below[-1] - below
    usable = (below > 0) & (above > 0)
    if not usable.any():
        return 0
    between = np.zeros(len(counts))
    lower, upper = sums[usable] / below[usable], (sums[-1] - sums[usable]) / above[usable]
    between[usable] = below[usable] * above[usable] * (lower - upper) ** 2
    return int(between.argmax() + 1) * step - 1
