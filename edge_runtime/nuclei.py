"""Nuclei: which dark parts are one nucleus - the touching ones cut apart, the lobes of one put together.

What comes in is the mask of what is stained like a nucleus, and the diameter of a red cell (about 7.2 micrometres), in
which all lengths are given; what goes out are numbered nuclei. Nuclei touch at narrow places; lobes are narrow
themselves, lie close together, and have cytoplasm all round. Clumps of platelets are small and ragged.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .masks import Labels, Map, Mask, distance_to, label_components, largest, spans, spread

MIN_DIAMETER = 0.5
"""Smallest diameter of a disc of the nucleus' area; platelets are smaller."""

FULLNESS = 0.8
"""Smallest diameter of the largest disc that fits into it, as a share of that; clumps of platelets are ragged."""

LOBE = 0.9
"""Of two lobes of one nucleus at least one is narrower than this: wider ones are nuclei themselves ..."""

LOBE_IN_BODY = 1.3
"""... unless there is as much cell between them as around them; then they may be as wide as this."""

LOBE_GAP = 0.45
"""Largest gap between two lobes of one nucleus."""

LOBE_SPAN = 2.7
"""Longest nucleus that is put together from lobes ..."""

LOBE_SPAN_IN_BODY = 3.3
"""... and with as much cell between them as around them."""

NECK = 0.75
"""Touching nuclei are parted where the way between them is narrower than this share of the narrower one."""

IN_BODY = 0.9
"""As much cell: its half width there is at least this share of that at the lobe."""


def find_nuclei(dark: Mask, body: Mask, unit: float, smallest: float) -> tuple[Labels, int]:
    """Tell nuclei apart: part those that touch, put lobes together, leave platelets out.

    Args:
        dark: (H, W) bool, what is stained like a nucleus.
        body: (H, W) bool, what is stained, and not like a red cell.
        unit: diameter of a red cell, pixels.
        smallest: diameter of a disc of the area that a nucleus has at least, red-cell diameters.

    Returns:
        (H, W) int32, 0 outside and 1..n on nuclei; and n.
    """
    numbers = np.zeros(dark.shape, np.int32)
    if not dark.any():
        return numbers, 0
    rows, columns = (np.flatnonzero(dark.any(axis=axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    limit = round(1.5 * unit) + 1
    depth, body_depth = distance_to(~dark, limit)[window], distance_to(~body, limit)[window]
    parts, count = _parted(dark[window], depth)
    owner = _joined(parts, count, depth, body_depth, unit)[parts]
    area = np.bincount(owner.ravel(), minlength=count + 1)
    width = 2 * largest(owner, count, depth)
    large = (area >= np.pi / 4 * (smallest * unit) ** 2) & (width >= FULLNESS * smallest * unit)
    large[0] = False
    numbers[window] = np.where(large, large.cumsum(), 0)[owner]
    return numbers, int(large.sum())


def _parted(dark: Mask, depth: Map) -> tuple[Labels, int]:
    """Return the parts of nuclei, cut where they are narrow, and their number; `depth` is the distance to the edge."""
    cores, count = label_components(dark)
    for level in range(1, int(depth.max()) + 1):
        inner, inner_count = label_components(depth > level)
        inside = inner > 0
        parent = np.zeros(inner_count + 1, np.int32)
        parent[inner[inside]] = cores[inside]
        wide = (NECK * largest(inner, inner_count, depth) >= level) & (parent > 0)
        several = np.bincount(parent[wide], minlength=count + 1) > 1
        new = wide & several[parent]
        if new.any():  # cores with several wide parts make way for these
            number = np.where(new, count + new.cumsum(), 0).astype(np.int32)
            cores = np.where(several[cores], number[inner], cores)
            count += int(new.sum())
    _, parts = np.unique(spread(cores, dark), return_inverse=True)
    return parts.reshape(dark.shape).astype(np.int32), int(parts.max())


_QUARTER = np.array([(1, 0), (0.92388, 0.38268), (0.70711, 0.70711), (0.38268, 0.92388)])
_DIRECTIONS = np.concatenate([_QUARTER, _QUARTER[:, ::-1] * (-1, 1)])  # x first, y in fifth place


def _joined(parts: Labels, count: int, depth: Map, body_depth: Map, unit: float) -> npt.NDArray[np.int64]:
    """Return for each part the smallest number of a part of the same nucleus: (count + 1,)."""
    owner = np.arange(count + 1)
    reach = spans(parts, count, _DIRECTIONS)
    width = 2 * largest(parts, count, depth)
    middle = _deepest(parts, count, depth)
    for _, one, other in _gaps(parts, count, reach, round(LOBE_GAP * unit) + 1):
        a, b = sorted((owner[one], owner[other]))
        both = np.stack([np.minimum(reach[a, :, 0], reach[b, :, 0]), np.maximum(reach[a, :, 1], reach[b, :, 1])], 1)
        span = (both[:, 1] - both[:, 0]).max()
        ends = middle[one], middle[other]
        between = (ends[0] + ends[1]) // 2
        narrowest = min(body_depth[tuple(end)] for end in ends)
        in_body = body_depth[tuple(between)] >= IN_BODY * narrowest
        widest, longest = (LOBE_IN_BODY, LOBE_SPAN_IN_BODY) if in_body else (LOBE, LOBE_SPAN)
        if a != b and min(width[a], width[b]) < widest * unit and span < longest * unit:
            reach[a], width[a] = both, max(width[a], width[b])
            owner[owner == b] = a
    return owner


def _deepest(parts: Labels, count: int, depth: Map) -> npt.NDArray[np.int64]:
    """Return row and column of each part's pixel farthest from the edge: (count + 1, 2)."""
    order = np.argsort(depth, axis=None, kind="stable")
    found = np.zeros(count + 1, np.int64)
    found[parts.ravel()[order]] = order  # of several for one part the last, the deepest, stays
    return np.stack(np.divmod(found, depth.shape[1]), axis=1)


def _gaps(parts: Labels, count: int, reach: npt.NDArray[np.float64], limit: int) -> list[tuple[float, int, int]]:
    """Return (gap, part, part) of all pairs that are at most `limit` pixels apart, the nearest first."""
    pairs = []
    for one in range(1, count + 1):
        (left, right), (top, bottom) = reach[one, 0].astype(int), reach[one, 4].astype(int)
        window = np.s_[max(0, top - limit) : bottom + limit + 1, max(0, left - limit) : right + limit + 1]
        near = parts[window]
        others = np.unique(near[near > one])
        if len(others):
            gap = distance_to(near == one, limit + 1)
            pairs += [(float(gap[near == other].min()), one, int(other)) for other in others]
    return sorted(pair for pair in pairs if pair[0] <= limit)
