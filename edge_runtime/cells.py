"""Cells: where the white cells of a field or crop are, found by their stain; numpy and Pillow only, for the device.

What comes in are RGB pixels; what goes out are masks and measures. Nuclei are what is purple. Touching nuclei are
parted where the way between them is narrow, lobes that lie close together are one cell, and each nucleus is grown into
the cytoplasm: over what is stained around it, up to the field, and against the red cells that touch it. What a red cell
looks like is learnt from the picture itself, and so is how large it is, which gives every other length its scale.
Nothing is classified here. The arithmetic is that of integers and of single IEEE operations, in a fixed order, so a
mask has the same bits in training and on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from .masks import (
    Labels,
    Mask,
    cheapest_way,
    distance_to,
    filled,
    label_components,
    opened,
    resized,
    smoothed,
    touching,
)
from .nuclei import MIN_DIAMETER, find_nuclei
from .preprocess import Box, Pixels
from .red_cells import like_red_cells, red_cell_diameter
from .stain import STAINED, Density, optical_density, otsu, purple

FINDER = 3
"""Number of this way to find cells; it changes when any mask may change, and caches of masks carry it."""

FIELD_PX = (320, 640)
"""Long side at which fields are searched first, and again where red cells are smaller than `SMALL_RED_CELL_PX`."""

SMALL_RED_CELL_PX = 14

CROP_PX = 112
"""Side at which crops are searched: a cell of 26 micrometres' crop has a nucleus of some 40 pixels there."""

CROP_RED_CELL_PX = 30.0
"""What a red cell measures in such a crop; there are too few in it to measure them."""

CROP_MIN_DIAMETER = 0.2
"""As `nuclei.MIN_DIAMETER`, in crops: whoever cut one meant something in it, if only a platelet."""

MIN_PURPLE = 50
"""No picture's threshold for nuclei is lower, thousandths of optical density: an empty field has no cell."""

# Lengths of cytoplasm, in radii of a disc of the nucleus' area.
RIM = 0.15
"""Cytoplasm that is always assumed."""

NEAR = 0.35
"""What looks like a red cell is taken for cytoplasm up to here: granules may be as red."""

REACH = 2.2
"""Farthest that cytoplasm can be from the nucleus."""

FLAT_COST, EMPTY_COST = 10, 10_000
"""Of a way's step where nothing changes, and where nothing is stained; thousandths of optical density add to it."""

ROUNDS = 8
"""Of `masks.cheapest_way`; cells are too round for ways with more corners."""


@dataclass(frozen=True)
class CellMasks:
    """The white cell in the middle of a crop.

    Attributes:
        nucleus: (H, W) bool.
        cell: (H, W) bool, nucleus and cytoplasm; both are empty where nothing in the crop is stained like a nucleus.
    """

    nucleus: Mask
    cell: Mask


@dataclass(frozen=True)
class Cell:
    """One white cell of a field.

    Attributes:
        box: around nucleus and cytoplasm, pixels of the picture.
        centre: x and y of the cell's centre of gravity, pixels of the picture.
        nucleus_px: area of the nucleus, pixels of the picture.
        cell_px: area of nucleus and cytoplasm, pixels of the picture.
        cut: the picture's border cuts it.
    """

    box: Box
    centre: tuple[float, float]
    nucleus_px: float
    cell_px: float
    cut: bool


@dataclass(frozen=True)
class FieldCells:
    """The white cells of a field.

    Attributes:
        cells: from the top left.
        labels: (h, w) int32 at the resolution of the search, i + 1 where ``cells[i]`` is, else 0.
        nuclei: (h, w) int32, the same for nuclei.
        red_cell_px: diameter of the red cells, pixels of the picture; None where there are too few to tell.
        scale: pixels of the picture per pixel of `labels`.
    """

    cells: tuple[Cell, ...]
    labels: Labels
    nuclei: Labels
    red_cell_px: float | None
    scale: float


def find_cells(pixels: Pixels) -> FieldCells:
    """Find the white cells of a field.

    Args:
        pixels: (H, W, 3) uint8, of any size.

    Returns:
        The cells, none where nothing is stained like a nucleus.
    """
    found = _search(pixels, FIELD_PX[0])
    small = found.red_cell_px is not None and found.red_cell_px < SMALL_RED_CELL_PX * found.scale
    return _search(pixels, FIELD_PX[1]) if small and found.scale > 1 else found


def central_cell(pixels: Pixels) -> CellMasks:
    """Find the white cell in the middle of a single-cell crop.

    Args:
        pixels: (H, W, 3) uint8, the cell's crop; searched at `CROP_PX`.

    Returns:
        Masks of the crop's size.
    """
    height, width = pixels.shape[:2]
    picture = _look(Image.fromarray(pixels).resize((CROP_PX, CROP_PX), Image.Resampling.BOX), CROP_RED_CELL_PX)
    nuclei, count = find_nuclei(picture.dark, picture.body, CROP_RED_CELL_PX, CROP_MIN_DIAMETER)
    y, x = np.indices(nuclei.shape) * 2 - (CROP_PX - 1)
    weight = (CROP_PX**2 - x**2 - y**2).clip(0) ** 2  # in the middle and large
    score = [int(weight[nuclei == number].sum()) for number in range(1, count + 1)]
    number = 1 + int(np.argmax(score)) if count else -1
    nucleus, cell = nuclei == number, np.zeros(nuclei.shape, np.bool_)
    if count:
        window, grown = _grow(picture, nuclei, number)
        cell[window] = grown
    return CellMasks(resized(nucleus, width, height), resized(cell, width, height))


@dataclass(frozen=True)
class _Picture:
    """What is known of a picture before its cells are.

    Attributes:
        density: (H, W, 3) int32.
        dark: (H, W) bool, what is stained like a nucleus.
        red: (H, W) bool, what looks like a red cell.
        red_cell_px: measured diameter of a red cell, or None.
        unit: diameter of a red cell in any case: where none can be measured, what it usually is beside such nuclei.
    """

    density: Density
    dark: Mask
    red: Mask
    red_cell_px: float | None
    unit: float

    @property
    def body(self) -> Mask:
        """What is stained, and not like a red cell."""
        return smoothed(self.dark | (self.density[:, :, 1] > STAINED) & ~self.red, 2)


def _look(picture: Image.Image, unit: float | None = None) -> _Picture:
    """Learn what a picture's nuclei and red cells look like; `unit` where it is known."""
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(1)))
    # Channel by channel in memory: what follows takes a fraction of the time so.
    density = optical_density(np.ascontiguousarray(blurred.transpose(2, 0, 1)).transpose(1, 2, 0))
    stain = purple(density)
    dark = smoothed(stain > max(otsu(stain), MIN_PURPLE), 1)
    red_cell_px = red_cell_diameter(density, dark) if unit is None else None
    if unit is None:
        labels, _ = label_components(dark)
        areas = np.bincount(labels.ravel())[1:]
        unit = red_cell_px or 0.8 * float(2 * np.sqrt(areas.max(initial=1) / np.pi))
    return _Picture(density, dark, like_red_cells(density, dark, unit), red_cell_px, unit)


def _search(pixels: Pixels, long_side: int) -> FieldCells:
    height, width = pixels.shape[:2]
    scale = max(1.0, max(height, width) / long_side)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    image = Image.fromarray(pixels)
    picture = _look(image if scale == 1.0 else image.resize(size, Image.Resampling.BOX))
    nuclei, count = find_nuclei(picture.dark, picture.body, picture.unit, MIN_DIAMETER)
    labels = nuclei.copy()
    for number in range(1, count + 1):
        window, cell = _grow(picture, nuclei, number)
        labels[window][cell & (labels[window] == 0)] = number
    cells = tuple(_measure(labels, nuclei, number, scale) for number in range(1, count + 1))
    red_cell_px = None if picture.red_cell_px is None else picture.red_cell_px * scale
    return FieldCells(cells, labels, nuclei, red_cell_px, scale)


def _measure(labels: Labels, nuclei: Labels, number: int, scale: float) -> Cell:
    y, x = np.nonzero(labels == number)
    left, top, right, bottom = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
    sides = (left, top, right - left, bottom - top)
    return Cell(
        box=(round(sides[0] * scale), round(sides[1] * scale), round(sides[2] * scale), round(sides[3] * scale)),
        centre=((float(x.mean()) + 0.5) * scale, (float(y.mean()) + 0.5) * scale),
        nucleus_px=int((nuclei == number).sum()) * scale**2,
        cell_px=len(x) * scale**2,
        cut=left == 0 or top == 0 or right == labels.shape[1] or bottom == labels.shape[0],
    )


def _grow(picture: _Picture, nuclei: Labels, number: int) -> tuple[tuple[slice, slice], Mask]:
    """Grow a nucleus into its cytoplasm: to where the way from it costs as much as that from what is not its cell.

    Args:
        picture: what is known of it.
        nuclei: (H, W) int32.
        number: of the nucleus.

    Returns:
        A window of the picture, rows and columns; and (h, w) bool, the cell in it.
    """
    y, x = np.nonzero(nuclei == number)
    radius = float(np.sqrt(len(y) / np.pi))
    reach = round(REACH * radius) + 4
    top, left = max(0, int(y.min()) - reach), max(0, int(x.min()) - reach)
    window = (slice(top, int(y.max()) + reach + 1), slice(left, int(x.max()) + reach + 1))
    density, nucleus = picture.density[window], nuclei[window] == number
    distance = distance_to(nucleus, reach + 1)
    others = (nuclei[window] > 0) & ~nucleus
    rim = (distance <= max(2.0, RIM * radius)) & ~others
    stained = (density[:, :, 1] > STAINED) | rim
    outside = stained & ~rim & (picture.red[window] & (distance > NEAR * radius) | others | (distance > reach))
    cost = np.where(stained, FLAT_COST + _steepness(density), EMPTY_COST)
    cell = stained & (cheapest_way(cost, rim, ROUNDS) < cheapest_way(cost, outside, ROUNDS))
    return window, filled(touching(opened(cell, 2) | rim, nucleus)) & ~others


def _steepness(density: Density) -> npt.NDArray[np.int64]:
    """Return how steeply the density changes: (H, W) int64, thousandths per pixel."""
    square = np.zeros(density.shape[:2], np.int32)  # at most 3.5e7; the border counts as flat
    for after, before, inner in (
        (density[2:], density[:-2], np.s_[1:-1]),
        (density[:, 2:], density[:, :-2], np.s_[:, 1:-1]),
    ):
        square[inner] += ((after - before) ** 2).sum(axis=2)
    return np.sqrt(square.astype(np.float64)).astype(np.int64) // 2
