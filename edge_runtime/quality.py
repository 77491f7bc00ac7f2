"""Quality: is a picture good enough to be answered at all? Pixels in, numbers out; `quality_limits` judges them.

Nothing is known here of what the network makes of the picture, and one that passes may still be a bad one: limits
enclose what a model's own pictures were like, and say no more than that this one is as sharp, bright and stained.

How sharp a picture is must depend neither on how large or dark its cells are nor on grain. So it is asked how much of
the strongest rises over `RISE_PX` happens within a single pixel: between an edge's two sides lies the whole contrast,
whatever it is; grain and the blocks of a JPEG are small beside it; and the answer is about one over an edge's width.
Of four directions the one with the widest edges counts, for a stage that moves blurs one way only.

Numpy and Pillow only. Percentiles are whole numbers and shares single divisions, so that a picture has the same numbers
on every machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from .preprocess import Pixels
from .quality_limits import FIELD_LIMITS, Limits, refusals
from .stain import STAINED, density_of_levels

if TYPE_CHECKING:
    from .refusal import Refusal

WORK_PX = 112
"""Long side at which prepared pictures are looked at: half of 224, which halves the grain."""

FIELD_RED_CELL_PX = 15.0
"""Diameter of a red cell where whole fields are looked at: that of BCCD's fields at `WORK_PX`."""

RISE_PX = 6
"""Reach of the rises: a fifth of a red cell in a crop at `WORK_PX`, three quarters in a field."""

STEEPEST = 0.08
"""Share of the rises that count: the strongest."""

MIN_RISE = 8
"""Grey levels; smaller rises are grain or background."""

CLIPPED = 254
"""Grey level from which a channel counts as clipped: a JPEG seldom gives 255 back."""

NOISE_PX = 512
"""Side of the window in the middle in which grain is measured."""

Planes = npt.NDArray[np.uint8]
"""(3, H, W) uint8: pixels, channel by channel."""

Levels = npt.NDArray[np.int16]
"""(H, W) int16: the sums of a few grey levels that are taken here have room in it, and half of int32 is to be moved."""


@dataclass(frozen=True)
class Quality:
    """What a picture is like; the empty field is the 95th percentile of a channel, densities are against it.

    Attributes:
        brightness: of the empty field, its brightest channel, grey level, 0..255.
        white: share of the pixels that are saturated in all channels, 0..1.
        clipped: share of the pixels that are saturated in the channel where most are, 0..1.
        cast: darkest by brightest channel of the empty field, 0..1; 1: grey or white, 0: a channel is missing.
        noise: standard deviation of the grain in green, grey levels, 0..1020.
        stained: share of the pixels that absorb green, 0..1: cells of any kind.
        contrast: optical density of the darkest hundredth in green, 0..2.5.
        purple: the purple of nuclei (see `edge_runtime.stain`) in the hundredth that has most of it, 0..2.5.
        sharpness: share of the strongest rises that lies within one pixel, 0..1; 1: edges of one pixel.
    """

    brightness: float
    white: float
    clipped: float
    cast: float
    noise: float
    stained: float
    contrast: float
    purple: float
    sharpness: float


def judge(pixels: Pixels | None, limits: Limits) -> tuple[Refusal, ...]:
    """Say why a prepared picture is not good enough; nothing where it is, or where there is nothing to judge by.

    Args:
        pixels: (H, W, 3) uint8 RGB, not standardised; or None.
        limits: the bundle's, perhaps none.
    """
    return () if pixels is None or not limits else refusals(dataclasses.asdict(measure(pixels)), limits)


def judge_field(pixels: Pixels, red_cell_px: float | None) -> tuple[Refusal, ...]:
    """Say why a whole field of any size is not good enough to look for cells in, by `FIELD_LIMITS`.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        red_cell_px: diameter of its red cells, as `cells.find_cells` measured it; None where it could not.
    """
    return refusals(dataclasses.asdict(measure(pixels, field_scale(pixels, red_cell_px))), FIELD_LIMITS)


def field_scale(pixels: Pixels, red_cell_px: float | None) -> float:
    """Return the scale at which a field's red cells are `FIELD_RED_CELL_PX` wide, whatever the microscope.

    But no field is reduced further than a prepared picture: blurred red cells run together and are taken for larger
    ones, and the more a picture is reduced, the sharper it looks. Nor is one enlarged.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        red_cell_px: as `cells.find_cells` measured it; None where it could not.
    """
    furthest = float(max(pixels.shape[:2])) / WORK_PX
    return max(1.0, furthest if red_cell_px is None else min(furthest, red_cell_px / FIELD_RED_CELL_PX))


def measure(pixels: Pixels, scale: float | None = None) -> Quality:
    """Measure a picture.

    Args:
        pixels: (H, W, 3) uint8 RGB, not standardised.
        scale: how many of its pixels become one before edges and stains are looked at, at least 1; default: as many as
            make its long side `WORK_PX`.
    """
    height, width = pixels.shape[:2]
    scale = max(1.0, max(height, width) / WORK_PX if scale is None else scale)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    reduced = _reduced(Image.fromarray(pixels), size)
    planes = _planes(pixels)
    clipped = [np.count_nonzero(plane >= CLIPPED) for plane in planes]
    white = np.count_nonzero(planes.min(axis=0) >= CLIPPED) if min(clipped) else 0
    top, left = max(0, (height - NOISE_PX) // 2), max(0, (width - NOISE_PX) // 2)
    counts = np.array(reduced.histogram()).reshape(3, 256)  # of each grey level
    below = counts.cumsum(axis=1)
    field = [int(np.searchsorted(below[c], 0.95 * below[c, -1])) for c in range(3)]
    densities = [density_of_levels(level) for level in field]
    small = _planes(np.asarray(reduced))
    return Quality(
        brightness=float(max(field)),
        white=white / (height * width),
        clipped=max(clipped) / (height * width),
        cast=min(field) / max(1, *field),
        noise=noise(planes[1][top : top + NOISE_PX, left : left + NOISE_PX]),
        stained=int(counts[1][densities[1] > STAINED].sum()) / (size[0] * size[1]),
        contrast=int(densities[1][_darkest(counts[1], 0.99)]) / 1000,
        purple=_percentile(_purple(small, densities), 0.99) / 1000,
        sharpness=_sharpness(small),
    )


def _planes(pixels: Pixels) -> Planes:
    """Lay each channel out by itself: what follows takes a fraction of the time so."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _reduced(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Reduce by areas, as ``resize`` does with its box filter: in one direction, rounded, then in the other.

    For halving a square, which is what a prepared picture of 224 pixels needs, Pillow has another way that gives the
    same bits in half of the time.
    """
    if picture.width == picture.height == 2 * size[0]:
        return picture.reduce((2, 1)).reduce((1, 2))
    return picture.resize(size, Image.Resampling.BOX)


def _darkest(counts: npt.NDArray[np.int64], share: float) -> int:
    """Return the brightest grey level that at least `share` of the values reach, from how many have each: (256,)."""
    above = counts[::-1].cumsum()
    return 255 - int(np.searchsorted(above, share * above[-1]))


def _purple(planes: Planes, densities: Sequence[npt.NDArray[np.int32]]) -> Levels:
    """Return `stain.purple` of pixels from the densities of their grey levels, which have room in int16."""
    red, green, blue = (table.astype(np.int16) for table in densities)
    found: Levels = green.take(planes[1])
    found -= blue.take(planes[2])
    found -= (red // 4).take(planes[0])
    return np.maximum(found, 0, out=found)


def sharpness(pixels: Pixels) -> float:
    """Return how much of the strongest rises lies within one pixel, 0..1; 0 where nothing rises.

    Args:
        pixels: (H, W, 3) uint8.
    """
    return _sharpness(_planes(pixels))


def _sharpness(planes: Planes) -> float:
    grey = planes[1].astype(np.int16)  # 0..1020
    grey += grey
    grey += planes[0]
    grey += planes[2]
    across = round(RISE_PX / math.sqrt(2))
    return min(
        _steepness(grey, 0, 1, RISE_PX),
        _steepness(grey, 1, 0, RISE_PX),
        _steepness(grey, 1, 1, across) / math.sqrt(2),  # one step across is that much longer
        _steepness(grey, 1, -1, across) / math.sqrt(2),
    )


def _steepness(grey: Levels, down: int, right: int, steps: int) -> float:
    """Look in one direction: `down` rows and `right` columns a step, `steps` of them a rise."""
    if grey.shape[0] <= down * steps or grey.shape[1] <= abs(right) * steps:
        return 0.0
    rise = np.subtract(*_apart(grey, down * steps, right * steps))
    np.abs(rise, out=rise)
    steepest = np.subtract(*_apart(grey, down, right))
    np.abs(steepest, out=steepest)
    seen = 1
    while seen < steps:  # of each step and those that follow it, twice as many each time
        more = min(seen, steps - seen)
        steepest = np.maximum(*_apart(steepest, more * down, more * right))
        seen += more
    strong = rise >= max(_percentile(rise, 1 - STEEPEST), 4 * MIN_RISE)
    whole = int(rise[strong].sum())
    return min(1.0, int(steepest[strong].sum()) / whole) if whole else 0.0


def _apart(values: Levels, down: int, right: int) -> tuple[Levels, Levels]:
    """Return all pairs of values that are `down` rows, 0 or more, and `right` columns apart, as two views."""
    bottom, left, width = values.shape[0] - down, max(0, -right), values.shape[1] - abs(right)
    return values[:bottom, left : left + width], values[down:, left + right : left + right + width]


def noise(channel: npt.NDArray[np.uint8]) -> float:
    """Return the standard deviation of a channel's grain, grey levels (after Immerkaer 1996, by the median).

    The mask is blind to slopes and straight edges, the median to the few places where more than grain is.

    Args:
        channel: (H, W) uint8.
    """
    if min(channel.shape) < 3:
        return 0.0
    rows = _bent(channel.astype(np.int16))
    both = _bent(rows.T).T  # second differences twice: at most 2040
    return _percentile(np.abs(both, out=both), 0.5) / (6 * 0.6745)


def _bent(levels: Levels) -> Levels:
    """Return the second differences along the columns, in little memory: new pages would cost more than the sums."""
    bent: Levels = levels[2:] + levels[:-2]
    bent -= levels[1:-1]
    bent -= levels[1:-1]
    return bent


def _percentile(values: npt.NDArray[np.int16], share: float) -> int:
    """Return the smallest whole number that at least `share` of the values, 0 or more, do not exceed.

    By halving the interval that holds it: ten rounds of comparing and counting cost no more than a histogram of a few
    thousand values, and of many small ones a half.
    """
    wanted = share * values.size
    low, high = -1, int(values.max())
    while high - low > 1:
        middle = (low + high) // 2
        if np.count_nonzero(values <= middle) < wanted:
            low = middle
        else:
            high = middle
    return high
