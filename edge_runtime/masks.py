"""Masks: the shapes in a picture - numbered, filled, grown, measured and parted; numpy and Pillow only.

What comes in are boolean arrays and costs; what goes out are arrays of the same height and width. Which colours make a
mask is known to `edge_runtime.stain`, what a shape means to `edge_runtime.cells`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Mask = npt.NDArray[np.bool_]
"""(H, W) bool."""

Map = npt.NDArray[np.float32]
"""(H, W) float32."""

Labels = npt.NDArray[np.int32]
"""(H, W) int32, 0 outside and 1..n inside n regions."""


def label_components(mask: Mask) -> tuple[Labels, int]:
    """Number the connected parts of a mask; pixels that touch at an edge are connected.

    Works on runs of pixels, row by row: two runs of neighbouring rows that overlap belong together.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) int32, 0 outside and 1..n inside, numbered from the top left; and n.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    row, start = np.nonzero(steps == 1)
    _, end = np.nonzero(steps == -1)
    labels = np.zeros((height, width), np.int32)
    if not len(row):
        return labels, 0
    # runs are sorted by row and start; those of the row above that end behind our start and start before our end
    stride = width + 2
    first = np.searchsorted(row * stride + end, (row - 1) * stride + start, side="right")
    last = np.searchsorted(row * stride + start, (row - 1) * stride + end, side="left")
    count = (last - first).clip(0)
    below = np.repeat(np.arange(len(row)), count)
    above = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + np.repeat(first, count)
    root = np.arange(len(row))
    while True:  # every round at least halves the longest way to a component's first run
        smallest = np.minimum(root[below], root[above])
        joined = root.copy()
        for runs in (root[below], root[above], below, above):
            np.minimum.at(joined, runs, smallest)
        joined = joined[joined]
        if np.array_equal(joined, root):
            break
        root = joined
    _, number = np.unique(root, return_inverse=True)
    # paint the runs: +n where one starts, -n behind its end, then add up along the row
    delta = np.zeros((height, width + 1), np.int32)
    delta[row, start] = number + 1
    np.subtract.at(delta, (row, end), (number + 1).astype(np.int32))
    np.cumsum(delta[:, :-1], axis=1, out=labels)
    return labels, int(number.max()) + 1


def touching(mask: Mask, seed: Mask) -> Mask:
    """Return the connected parts of a mask that hold a pixel of `seed`."""
    labels, count = label_components(mask)
    chosen = np.zeros(count + 1, np.bool_)
    chosen[labels[seed]] = True
    chosen[0] = False
    return chosen[labels]


def filled(mask: Mask) -> Mask:
    """Fill the holes: the parts of the outside that do not reach the border."""
    rim = np.zeros_like(mask)
    rim[0] = rim[-1] = True
    rim[:, 0] = rim[:, -1] = True
    return ~touching(~mask, rim & ~mask)


def distance_to(mask: Mask, limit: int) -> Map:
    """Return how far each pixel is from the nearest true one.

    Args:
        mask: (H, W) bool.
        limit: distances from this on need not be told apart, pixels.

    Returns:
        (H, W) float32, Euclidean distance of pixel centres where it is below `limit`, else `limit`.
    """
    height, width = mask.shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    far = np.float32(2 * limit + 1)
    last = np.maximum.accumulate(np.where(mask, rows, -far), axis=0)
    following = np.minimum.accumulate(np.where(mask, rows, height + far)[::-1], axis=0)[::-1]
    along = np.minimum(rows - last, following - rows).clip(0, limit) ** 2  # squared distance within the column
    nearest = along.copy()
    for step in range(1, min(limit, width - 1) + 1):  # and then the nearest column
        square = np.float32(step * step)
        if step % 8 == 0 and square >= nearest.max():
            break  # no column so far away can be nearer
        np.minimum(nearest[:, step:], along[:, :-step] + square, out=nearest[:, step:])
        np.minimum(nearest[:, :-step], along[:, step:] + square, out=nearest[:, :-step])
    distance: Map = np.sqrt(nearest).clip(0, limit)
    return distance


def grown(mask: Mask, radius: int) -> Mask:
    """Grow a mask by a disc of `radius` pixels."""
    return distance_to(mask, radius + 1) <= radius


def opened(mask: Mask, radius: int) -> Mask:
    """Take away what is narrower than a disc of `radius` pixels; the picture's border is no edge."""
    return grown(distance_to(~mask, radius + 1) > radius, radius) & mask


def smoothed(mask: Mask, reach: int) -> Mask:
    """Go with the majority of the pixels at most `reach` rows and columns away: no specks, no pinholes."""
    return np.asarray(_picture(mask).filter(ImageFilter.BoxBlur(reach))) > 127


def resized(mask: Mask, width: int, height: int) -> Mask:
    """Resize a mask; its outline is interpolated."""
    return np.asarray(_picture(mask).resize((width, height), Image.Resampling.BILINEAR)) > 127


def _picture(mask: Mask) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def cheapest_way(cost: npt.NDArray[np.int64], seed: Mask, rounds: int) -> npt.NDArray[np.int64]:
    """Return the cost of the cheapest way from the seed to each pixel, in steps along rows and columns.

    Dynamic programming along whole rows and columns, forth and back: with ``C`` the running sum of the cost,
    ``T[i] = min over j <= i of T[j] + C[i] - C[j]`` is one running minimum. Each round adds two corners to the ways.

    Args:
        cost: (H, W) int64, of stepping onto a pixel, 1 or more.
        seed: (H, W) bool, where ways begin.
        rounds: at most so many.

    Returns:
        (H, W) int64, 0 on the seed.
    """
    total = np.where(seed, 0, cost.sum() + 1)
    sums = [np.cumsum(np.flip(cost, axis) if back else cost, axis) for axis in (0, 1) for back in (False, True)]
    for _ in range(rounds):
        before = total
        for number, summed in enumerate(sums):
            axis, back = divmod(number, 2)
            ways = np.minimum.accumulate((np.flip(total, axis) if back else total) - summed, axis) + summed
            total = np.flip(ways, axis) if back else ways
        if np.array_equal(before, total):
            break
    return total


def highest_around(values: Map, reach: int) -> Map:
    """Return the largest value among the pixels at most `reach` rows and columns away: (H, W)."""
    found = values
    for axis in (0, 1):
        padding = [(reach, reach) if axis == a else (0, 0) for a in (0, 1)]
        row = np.moveaxis(np.pad(found, padding, constant_values=-np.inf), axis, 0)
        seen = 1
        while seen < 2 * reach + 1:  # of each pixel and those that follow it, twice as many each time
            more = min(seen, 2 * reach + 1 - seen)
            row = np.maximum(row[: len(row) - more], row[more:])
            seen += more
        found = np.moveaxis(row, 0, axis)
    return found


def spread(labels: Labels, mask: Mask) -> Labels:
    """Let labels grow over a mask, one pixel all round at a time, until nothing of it can be reached any more."""
    labels = labels.copy()
    while True:
        free = mask & (labels == 0)
        before = labels.copy()
        for mine, neighbour in (
            (np.s_[1:], np.s_[:-1]),
            (np.s_[:-1], np.s_[1:]),
            (np.s_[:, 1:], np.s_[:, :-1]),
            (np.s_[:, :-1], np.s_[:, 1:]),
        ):
            np.copyto(labels[mine], before[neighbour], where=free[mine] & (labels[mine] == 0))
        if np.array_equal(before, labels):
            return labels


def largest(labels: npt.NDArray[np.integer], count: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the largest value, 0 or more, in each region: (count + 1,); entry 0 is the outside's."""
    found = np.zeros(count + 1, values.dtype)
    np.maximum.at(found, labels.ravel(), values.ravel())
    return found


def spans(labels: Labels, count: int, directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far each region reaches, both ways, in some directions.

    Args:
        labels: (H, W) int32.
        count: regions.
        directions: (D, 2) unit vectors, x and y.

    Returns:
        (count + 1, D, 2): smallest and largest coordinate of its pixels' centres; entry 0 is meaningless.
    """
    y, x = np.nonzero(labels)
    owner = labels[y, x]
    reach = np.empty((count + 1, len(directions), 2))
    reach[:] = np.inf, -np.inf
    for d, (along_x, along_y) in enumerate(directions.tolist()):
        place = x * along_x + y * along_y
        np.minimum.at(reach[:, d, 0], owner, place)
        np.maximum.at(reach[:, d, 1], owner, place)
    return reach
