"""Red cells: how large they are in a picture and which colour they have; the one gives a field its scale.

What comes in are optical densities and where the nuclei are; what goes out is a diameter, and the mask of what looks
like a red cell. Nothing is assumed about their hue, which is pink under one camera and blue under another.
"""

from __future__ import annotations

import numpy as np

from .masks import Mask, distance_to, grown, highest_around, label_components, largest, touching
from .stain import STAINED, Density, otsu

MIN_DIAMETER_PX = 6
"""Smaller discs are grain."""

LIKE_RED_CELLS = 2.0
"""Squared Mahalanobis distance from the colour of the picture's red cells up to which a pixel counts as one."""


def red_cell_diameter(density: Density, dark: Mask) -> float | None:
    """Measure the red cells by the discs that fit into what is stained and no nucleus.

    Overlapping cells still hold one disc each, at the local maxima of the distance to the edge. Half of the discs'
    summed diameters are on either side of the answer, very small ones left out.

    Args:
        density: (H, W, 3) int32.
        dark: (H, W) bool, nuclei.

    Returns:
        Diameter, pixels, or None where there are too few.
    """
    away = ~grown(dark, 6)
    mean = density.sum(axis=2, dtype=np.int32) // 3
    edge = 3 * otsu(mean[away].clip(0, 300)) // 4  # nearer to the field's: the rims of pale cells are thin
    stained = _without_pallor(mean > edge) & away
    depth = distance_to(~stained, 50)
    diameter, reach = 0.0, 3
    for _ in range(2):  # once with any window, then with one that fits the cells
        labels, count = label_components(stained & (depth == highest_around(depth, reach)))
        radii = np.sort(largest(labels, count, depth)[1:]).astype(np.float64)
        if not count:
            return None
        radii = radii[2 * radii > np.percentile(radii, 90)]
        weight = radii.cumsum()
        diameter = 2 * float(radii[np.searchsorted(weight, weight[-1] / 2)])
        reach = max(1, round(0.25 * diameter))
    return diameter if diameter >= MIN_DIAMETER_PX and len(radii) >= 3 else None


def like_red_cells(density: Density, dark: Mask, unit: float) -> Mask:
    """Learn the colour of the picture's red cells and say where it is found.

    Samples are stained parts that hold no nucleus; where there are few, all that is far from nuclei. Their colour is
    the shares of red and green in the density, as a normal distribution.

    Args:
        density: (H, W, 3) int32.
        dark: (H, W) bool, nuclei.
        unit: diameter of a red cell, about, pixels.

    Returns:
        (H, W) bool; all false where there is nothing to learn from.
    """
    stained = density[:, :, 1] > STAINED
    sample = stained & ~touching(stained, dark & stained)
    if sample.sum() < 150:
        far = round(1.2 * unit)
        sample = stained & (distance_to(dark, far + 1) > far)
    if sample.sum() < 60:
        return np.zeros_like(dark)
    whole = np.maximum(density.sum(axis=2, keepdims=True), 30)
    share = (density[:, :, :2] * 1000.0 / whole).astype(np.int32)
    off = share - np.median(share[sample], axis=0).astype(np.int32)
    distance = np.abs(off[sample]).sum(axis=1)
    usual = off[sample][distance <= np.percentile(distance, 75)]
    a, b, c = (int((usual[:, i] * usual[:, j]).sum()) / len(usual) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, c = a + 200, c + 200  # a picture with a single shade of red cells still has noise
    red, green = off[:, :, 0].astype(np.float64), off[:, :, 1].astype(np.float64)
    square = (c * red * red - 2 * b * red * green + a * green * green) / (a * c - b * b)
    alike: Mask = (square < LIKE_RED_CELLS) & (density[:, :, 1] > 2 * STAINED)
    return alike


def _without_pallor(stained: Mask) -> Mask:
    """Fill round holes: the pale middles of red cells; what is left between red cells is not round."""
    labels, count = label_components(~stained)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    round_ = np.pi * largest(labels, count, distance_to(stained, 50)) ** 2 > 0.3 * area
    round_ &= area < stained.size // 50
    round_[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
    round_[0] = False
    return stained | round_[labels]
