"""Tiles: how a picture too wide for one look is walked, so that every cell is seen whole once and counted once.

What comes in are lengths and whatever reads a window; what goes out are windows, the size of the red cells in them, and
the word whether a cell was met before. Tiles overlap by more than a cell and its crop, and a cell belongs to the tile
whose core holds its centre. Two tiles may place that centre a little differently, so along the cores' edges both may
claim the cell, and `Once` keeps the first. Nothing is decoded and no cell is found here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .cells import Cell, find_cells
from .preprocess import Box, Pixels

Read = Callable[[Box], Pixels]
"""(left, top, width, height), inside the picture -> (height, width, 3) uint8."""

LOOK_RED_CELLS = 40
"""A picture at most this many red cells wide is searched in one go: `cells` then has 16 pixels for each of them."""

TILE_RED_CELLS = 20
"""Side of a tile's window: at `cells`' first resolution a red cell has 16 pixels in it."""

MARGIN_RED_CELLS = 2.5
"""From the core to the window's edge: half of a crop, 1.9 red cells, and `SLACK_RED_CELLS`."""

SLACK_RED_CELLS = 0.5
"""How far from its core a tile still claims a cell, lest one on the line is claimed by nobody."""

SAMPLE_PX = 1280
"""Side of the windows in which red cells are measured first; they are 15 to 150 pixels wide, as objectives have it."""

SAMPLES = 9
"""Windows in which red cells are measured, at most, and `CANDIDATES` that are looked at to choose them."""

CANDIDATES = 49

GLASS_SHARE = 0.002
"""With less than this share stained there is only glass: a lone lymphocyte covers 0.3 % of a tile."""


@dataclass(frozen=True)
class Tile:
    """One view of a picture.

    Attributes:
        window: what is looked at, pixels of the picture.
        core: what the tile answers for: cells whose centre lies here. Cores cover the picture without overlap.
    """

    window: Box
    core: Box


def plan_tiles(area: Box, red_cell_px: float) -> list[Tile]:
    """Cover an area with tiles, row by row.

    Args:
        area: of the picture.
        red_cell_px: diameter of its red cells, pixels.
    """
    left, top, width, height = area
    margin = math.ceil(MARGIN_RED_CELLS * red_cell_px)
    step = max(1, round(TILE_RED_CELLS * red_cell_px) - 2 * margin)
    tiles = []
    for y in range(top, top + height, step):
        for x in range(left, left + width, step):
            right, bottom = min(x + step, left + width), min(y + step, top + height)
            window = inside((x - margin, y - margin, right - x + 2 * margin, bottom - y + 2 * margin), area)
            tiles.append(Tile(window, (x, y, right - x, bottom - y)))
    return tiles


def inside(box: Box, area: Box) -> Box:
    """Return the part of a box that lies in an area."""
    left, top = max(box[0], area[0]), max(box[1], area[1])
    right = min(box[0] + box[2], area[0] + area[2])
    bottom = min(box[1] + box[3], area[1] + area[3])
    return (left, top, max(0, right - left), max(0, bottom - top))


def claims(tile: Tile, cell: Cell, red_cell_px: float) -> bool:
    """Say whether a cell, in pixels of the picture, lies in the tile's core or just beside it."""
    slack = SLACK_RED_CELLS * red_cell_px
    (left, top, width, height), (x, y) = tile.core, cell.centre
    return left - slack <= x < left + width + slack and top - slack <= y < top + height + slack


class Once:
    """Tells cells that were met before from new ones; remembers only those that a later tile could meet again."""

    def __init__(self) -> None:
        self._met: list[Cell] = []

    def new(self, cell: Cell, tile: Tile) -> bool:
        """Say whether a cell was not met in an earlier tile, and remember it.

        Args:
            cell: in pixels of the picture.
            tile: where it was found; tiles come in the order of `plan_tiles`.
        """
        above = tile.window[1]
        self._met = [met for met in self._met if met.box[1] + met.box[3] >= above]
        if any(_same(cell, met) for met in self._met):
            return False
        self._met.append(cell)
        return True


def _same(one: Cell, other: Cell) -> bool:
    """Two looks at one cell: either centre lies well inside the other's disc."""
    near = 0.5 * math.sqrt(min(one.cell_px, other.cell_px) / math.pi)
    return math.dist(one.centre, other.centre) < near


def measure_red_cells(read: Read, area: Box, usual_px: float | None = None) -> float | None:
    """Measure the red cells of a large picture in the windows where most is stained, up to a half of it.

    Args:
        read: reads a window.
        area: of the picture.
        usual_px: about how large they are, if that is known.

    Returns:
        Median diameter, pixels, or None where they cannot be measured anywhere.
    """
    side = SAMPLE_PX if usual_px is None else round(TILE_RED_CELLS * usual_px)
    left, top, width, height = area
    number = math.isqrt(CANDIDATES)
    columns = _spread(left, width, side, number)
    rows = _spread(top, height, side, number)
    spots = sorted({inside((x, y, side, side), area) for y in rows for x in columns}, key=lambda box: (box[1], box[0]))
    ranked = sorted(spots, key=lambda box: abs(0.4 - stained_share(read(box))))
    found = [find_cells(read(box)).red_cell_px for box in ranked[:SAMPLES]]
    measured = [px for px in found if px is not None]
    return float(np.median(measured)) if measured else None


def _spread(start: int, length: int, side: int, number: int) -> list[int]:
    last = max(0, length - side)
    count = min(number, 1 + math.ceil(last / side))
    return [start + round(last * i / max(1, count - 1)) for i in range(count)]


def stained_share(pixels: Pixels) -> float:
    """Return which share of a window is stained, 0..1, from every fourth pixel.

    Bare glass has no darker and no lighter places but the light's own slope; what absorbs a tenth more green than the
    window's light does not belong to it.
    """
    green = pixels[::4, ::4, 1].astype(np.float32)
    return float((green < 0.88 * np.percentile(green, 98)).mean())
