"""Masks: the shapes in a picture - numbered, filled, grown, measured and parted; numpy and Pillow only.

What comes in are boolean arrays and costs; what goes out are arrays of the same height and width. Which colours make a
mask is known to `edge_runtime.stain`, what a shape means to `edge_runtime.cells`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

MAX_INT16_LIMIT = 127
"""Distances up to this have squares, and sums of two, that int16 has room for."""

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
    stride = width + 1  # of the flat mask, in which a column of nothing parts the rows
    padded = np.zeros(1 + height * stride, np.bool_)
    padded[1:].reshape(height, stride)[:, :width] = mask
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    start, end = edges[::2], edges[1::2]
    # runs are sorted by their place; those of the row above that end behind our start and start before our end
    first = np.searchsorted(end, start - stride, side="right")
    last = np.searchsorted(start, end - stride, side="left")
    count = (last - first).clip(0)
    below = np.repeat(np.arange(len(start)), count)
    above = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + np.repeat(first, count)
    run = root = np.arange(len(start))
    while True:  # every round at least halves the longest way to a component's first run
        smallest = np.minimum(root[below], root[above])
        joined = root.copy()
        for runs in (root[below], root[above], below, above):
            np.minimum.at(joined, runs, smallest)
        joined = joined[joined]
        if np.array_equal(joined, root):
            break
        root = joined
    number = (root == run).cumsum()
    # paint the runs: nothing up to the first, the first, nothing up to the second ...
    colours = np.zeros(len(edges) + 1, np.int32)
    colours[1::2] = number[root]
    flat = np.repeat(colours, np.diff(edges, prepend=0, append=height * stride))
    return np.ascontiguousarray(flat.reshape(height, stride)[:, :width]), int(number[-1]) if len(number) else 0


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
    # the distance within the column: to what is 1 away, then to what is up to 2 away from there, then 4 ...
    kind = np.int16 if limit <= MAX_INT16_LIMIT else np.int32
    along: npt.NDArray[Any] = np.where(mask, 0, limit).astype(kind)
    step = 1
    while step < min(limit, len(along)):
        _lower(along, along + kind(step), step)
        step *= 2
    # and then the nearest column: squares grow by 1, 3, 5 ... from one to the next (Huang and Mitchell 1994)
    nearest = np.ascontiguousarray((along * along).T)
    for step in range(1, min(limit, len(nearest) - 1) + 1):
        if step % 4 == 0 and step * step >= nearest.max():
            break  # no column so far away can be nearer
        _lower(nearest, nearest + kind(2 * step - 1), 1)
    distance: Map = np.sqrt(np.ascontiguousarray(nearest.T), dtype=np.float32)
    return distance


def _lower(values: npt.NDArray[Any], others: npt.NDArray[Any], rows: int) -> None:
    """Lower values, in place, to the others that lie so many rows above and below."""
    np.minimum(values[rows:], others[:-rows], out=values[rows:])
    np.minimum(values[:-rows], others[rows:], out=values[:-rows])


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
    highest = int(cost.sum()) + 1
    kind = np.int32 if 2 * highest < 2**31 else np.int64  # half of the memory to move, wherever it has room
    total = np.where(seed, 0, highest).astype(kind)
    sums = [tuple(_sums(np.ascontiguousarray(way), kind)) for way in (cost, cost.T)]
    for _ in range(rounds):
        before = total
        for summed in sums:  # along columns, then along rows: what is contiguous is what lies side by side
            for back, along in enumerate(summed):
                total = _lowest_so_far(total - along, bool(back)) + along
            total = np.ascontiguousarray(total.T)
        if np.array_equal(before, total):
            break
    return total.astype(np.int64)


def _sums(cost: npt.NDArray[np.int64], kind: type[np.signedinteger[Any]]) -> Iterator[npt.NDArray[Any]]:
    """Return the running sums of the cost down the columns, and up."""
    yield np.cumsum(cost, 0, kind)
    yield np.cumsum(cost[::-1], 0, kind)[::-1]


def _lowest_so_far(values: npt.NDArray[Any], back: bool) -> npt.NDArray[Any]:
    """Return the smallest value in each column down to each row, or up to it: of 2 rows, then of 4, then of 8 ...

    numpy's own ``accumulate`` takes one value after the other and several times as long.
    """
    rows = 1
    while rows < len(values):
        lower = np.empty_like(values)
        kept = np.s_[-rows:] if back else np.s_[:rows]
        lowered = np.s_[:-rows] if back else np.s_[rows:]
        lower[kept] = values[kept]
        np.minimum(values[rows:], values[:-rows], out=lower[lowered])
        values = lower
        rows *= 2
    return values


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
    """Return the largest value, 0 or more, in each region: (count + 1,); entry 0, the outside's, is 0."""
    found = np.zeros(count + 1, values.dtype)
    inside = np.flatnonzero(labels)
    np.maximum.at(found, labels.ravel()[inside], values.ravel()[inside])
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
