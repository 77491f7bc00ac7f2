"""Scan: a field in; every white cell of it with its class and explanation out.

    scanner = Scanner(Classifier.open("blood-cells"))
    field = scanner.scan("field.jpg")

White cells are found by their stain, the red cells' size gives the scale, and round each white cell a crop is cut that
shows as much of the smear as the crops that the network was trained on: so another objective or camera works. A picture
too wide for one look is walked in tiles. What was refused, what the border cuts and what got no answer stays in the
result and is named; who counts leaves it out. Nothing is printed or written here; sums over fields: ``differential``.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .cells import CROP_PX, CROP_RED_CELL_PX, Cell, FieldCells, find_cells
from .classifier import Classifier, Prediction, picture_of
from .errors import UsageError
from .preprocess import Box, Pixels
from .quality import judge_field
from .tiles import (
    GLASS_SHARE,
    LOOK_RED_CELLS,
    SAMPLE_PX,
    Once,
    Read,
    Tile,
    claims,
    measure_red_cells,
    plan_tiles,
    stained_share,
)

if TYPE_CHECKING:
    from PIL import Image

    from .classifier import AnyPicture
    from .refusal import Refusal

CROP_RED_CELLS = CROP_PX / CROP_RED_CELL_PX
"""Side of a crop, red cells."""

RED_CELL_UM = 7.5
"""Diameter of a red cell in a smear, micrometres."""

UM_PER_PX = (0.02, 1.0)
"""Micrometres per pixel that a microscope's camera can have and white cells be told apart."""

NUCLEUS_RED_CELLS = 1.25
"""Diameter of a white cell's nucleus, red cells: what is left to go by where there are too few of these."""

SCALES = {
    "given": f"from --um-per-px: a red cell is {RED_CELL_UM:g} micrometres",
    "measured": "measured from the red cells",
    "stated": f"from the micrometres per pixel that the file states: a red cell is {RED_CELL_UM:g} of them",
    "nuclei": f"assumed, for too few red cells: nuclei are {NUCLEUS_RED_CELLS:g} times as wide as red cells",
    "unknown": "not known: too few red cells, and no white one",
}
"""Where the size of a red cell comes from."""

OF_EMPTINESS = frozenset({"empty field", "no stain"})
"""Refusals that no part of a picture gets for being nearly empty: a smear ends somewhere, with cells alone on glass."""

LEFT_OUT = {
    "field refused": "the whole field was refused",
    "cut": "the picture's border cuts the cell",
    "no answer": "the model declined to answer",
}
"""Why a cell is not counted; the first that fits."""

Progress = Callable[[Sequence[Tile]], Iterable[Tile]]

Judge = Callable[[Pixels, "float | None"], Sequence["Refusal"]]
"""Says why a field must not be counted, nothing where it may: from (H, W, 3) uint8 and its `red_cell_px`."""


@dataclass(frozen=True)
class Scale:
    """How large red cells are: `red_cell_px`, pixels, or None where it is unknown; and its source, of `SCALES`."""

    red_cell_px: float | None
    source: str


@dataclass(frozen=True, eq=False)
class ScannedCell:
    """One white cell of a field and what the model says about it.

    Attributes:
        cell: place and size, pixels of the picture.
        crop: the square that the model saw, pixels of the picture; it may reach over the border.
        filled: share of the crop beyond the picture's border, 0..1; the picture is continued there by its mirror image.
        prediction: of the model.
    """

    cell: Cell
    crop: Box
    filled: float
    prediction: Prediction

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        cell = self.cell
        return {
            "box": list(cell.box),
            "centre": [round(cell.centre[0], 1), round(cell.centre[1], 1)],
            "nucleus_px": round(cell.nucleus_px),
            "cell_px": round(cell.cell_px),
            "cut": cell.cut,
            "crop": list(self.crop),
            "filled": round(self.filled, 4),
            **self.prediction.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class FieldScan:
    """The white cells of a field.

    Attributes:
        name: of the picture.
        width: of the picture, pixels.
        height: of the picture, pixels.
        region: the part of the picture that this is about: all of it, or a slide's tile.
        red_cell_px: diameter of a red cell, pixels of the picture; None where it is unknown.
        scale: where that comes from, of `SCALES`.
        cells: from the top left.
        refusals: why no cell of this field may be counted; none where they may.
        timings_ms: "decode", "find", "classify" and "total", milliseconds.
        bundle_id: of the bundle that answered.
        first: number of the first cell; cells of a picture are numbered on through its parts, from 1.
    """

    name: str
    width: int
    height: int
    region: Box
    red_cell_px: float | None
    scale: str
    cells: tuple[ScannedCell, ...]
    refusals: tuple[Refusal, ...]
    timings_ms: dict[str, float]
    bundle_id: str
    first: int = 1

    def left_out(self, cell: ScannedCell) -> str | None:
        """Say why one of the cells is not counted, by a key of `LEFT_OUT`; None where it is."""
        if self.refusals:
            return "field refused"
        if cell.cell.cut:
            return "cut"
        return "no answer" if cell.prediction.abstained else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but class maps and pixels, as JSON takes it; heatmaps as rows of numbers."""
        return {
            "field": self.name,
            "width": self.width,
            "height": self.height,
            "region": list(self.region),
            "red_cell_px": None if self.red_cell_px is None else round(self.red_cell_px, 2),
            "scale": self.scale,
            "refusals": [refusal.to_dict() for refusal in self.refusals],
            "cells": [
                {"number": number, "left_out": self.left_out(cell), **cell.to_dict()}
                for number, cell in enumerate(self.cells, self.first)
            ],
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "bundle_id": self.bundle_id,
        }


@dataclass(frozen=True)
class Scanner:
    """A classifier of single cells, and what finds them.

    Attributes:
        classifier: of a bundle for single cells.
        um_per_px: micrometres per pixel of all pictures; None: red cells are measured in each.
        judge: of fields and of the tiles of a wide picture, none of which is refused for being empty: a smear ends
            somewhere. None: every field may be counted.

    Raises:
        UsageError: the bundle is for whole fields, or `um_per_px` out of range.
    """

    classifier: Classifier
    um_per_px: float | None = None
    judge: Judge | None = judge_field

    def __post_init__(self) -> None:
        task = self.classifier.bundle.manifest.task
        if task.kind != "cell":
            raise UsageError(
                "scan needs a model for single cells",
                got=f"{self.classifier.bundle.id}, one {task.kind} a picture",
                todo="take another --model, such as blood-cells, or the command classify",
            )
        if self.um_per_px is not None and not UM_PER_PX[0] <= self.um_per_px <= UM_PER_PX[1]:
            raise UsageError("micrometres per pixel", got=self.um_per_px, expected="{} to {}".format(*UM_PER_PX))

    def scan(self, image: AnyPicture, name: str | None = None) -> FieldScan:
        """Find and classify the white cells of one picture.

        Args:
            image: a file's path, encoded bytes, a Pillow picture, or (H, W, 3) uint8 RGB of any size.
            name: what results and errors call it.

        Raises:
            ImageError: not a picture this program takes.
            EngineError: the engine failed, or returned a value that is not finite.
        """
        picture, name, decode_ms = _decoded(image, name)
        fields = list(replace(self, judge=None)._looks(picture, name, decode_ms, iter))
        field = fields[0] if len(fields) == 1 else _together(fields, picture, name, self.classifier.bundle.id)
        return self.judged(field, np.asarray(picture)) if self.judge else field

    def looks(self, image: AnyPicture, name: str | None = None, progress: Progress = iter) -> Iterator[FieldScan]:
        """Scan one picture as `scan` does, but give the parts of a wide one as they come: no two need be kept at once.

        Args:
            image: as of `scan`.
            name: as of `scan`.
            progress: is given the tiles of a wide picture and hands them on one by one.

        Yields:
            The picture's cells in one go; of a wide picture, one result per tile that is not bare glass.
        """
        yield from self._looks(*_decoded(image, name), progress)

    def _looks(self, picture: Image.Image, name: str, decode_ms: float, progress: Progress) -> Iterator[FieldScan]:
        def read(box: Box) -> Pixels:
            left, top, width, height = box
            return np.asarray(picture.crop((left, top, left + width, top + height)))

        start = time.perf_counter()
        area = (0, 0, picture.width, picture.height)
        found = find_cells(np.asarray(picture)) if max(area) <= SAMPLE_PX else None
        measured = found.red_cell_px if found else None
        if found is None and self.um_per_px is None:
            measured = measure_red_cells(read, area)
        scale = self.scale(measured)
        if scale.red_cell_px is not None and max(area) > LOOK_RED_CELLS * scale.red_cell_px:
            tiles = progress(plan_tiles(area, scale.red_cell_px))
            yield from self.walk(name, area, tiles, scale, read)  # windows only: an array would be a second copy
            return
        pixels = np.asarray(picture)
        found_ms = 1000 * (time.perf_counter() - start)
        field = self.look(name, area, Tile(area, area), pixels, scale, found)
        timings = field.timings_ms
        timings["decode"] = decode_ms
        timings["find"] += found_ms
        timings["total"] += decode_ms + found_ms
        yield self.judged(field, pixels)

    def scale(self, measured: float | None, stated_um_per_px: float | None = None) -> Scale:
        """Say how large red cells are: as given, else as measured, else as the file states."""
        if self.um_per_px is not None:
            return Scale(RED_CELL_UM / self.um_per_px, "given")
        if measured is not None:
            return Scale(measured, "measured")
        if stated_um_per_px is not None:
            return Scale(RED_CELL_UM / stated_um_per_px, "stated")
        return Scale(None, "unknown")

    def look(
        self, name: str, area: Box, tile: Tile, pixels: Pixels, scale: Scale, found: FieldCells | None = None
    ) -> FieldScan:
        """Find and classify the cells of one tile.

        Args:
            name: of the picture.
            area: all of the picture.
            tile: which part of it; cells beside its core are left to other tiles.
            pixels: (H, W, 3) uint8, of the tile's window.
            scale: of the picture; where it is unknown, the tile's own nuclei give one.
            found: the cells in the window, if they were looked for already.
        """
        start = time.perf_counter()
        if found is None:
            found = find_cells(pixels)
        if scale.red_cell_px is None and found.cells:
            scale = Scale(_nucleus_px(found) / NUCLEUS_RED_CELLS, "nuclei")
        located = time.perf_counter()
        cells = []
        for cell in found.cells:
            placed = _placed(cell, tile.window, area, found.scale)
            if scale.red_cell_px is None or not claims(tile, placed, scale.red_cell_px):
                continue
            crop = _crop_box(placed, scale.red_cell_px)
            seen, filled = _cut_out(pixels, _moved(crop, -tile.window[0], -tile.window[1]))
            cells.append(ScannedCell(placed, crop, filled, self.classifier.classify(seen, name)))
        end = time.perf_counter()
        timings = {"decode": 0.0, "find": located - start, "classify": end - located, "total": end - start}
        return FieldScan(
            name,
            area[2],
            area[3],
            tile.core,
            scale.red_cell_px,
            scale.source,
            tuple(cells),
            (),
            {key: 1000 * seconds for key, seconds in timings.items()},
            self.classifier.bundle.id,
        )

    def walk(
        self, name: str, area: Box, tiles: Iterable[Tile], scale: Scale, read: Read, glance: Read | None = None
    ) -> Iterator[FieldScan]:
        """Look at a picture tile by tile; bare glass is passed over, and every cell is met once.

        Args:
            name: of the picture.
            area: all of the picture.
            tiles: from `plan_tiles`, in its order.
            scale: of the picture.
            read: reads a window.
            glance: reads a window coarsely, to tell whether it is glass; default: `read`.

        Yields:
            One result per tile that is not glass.
        """
        once, first = Once(), 1
        for tile in tiles:
            start = time.perf_counter()
            seen = (glance or read)(tile.window)
            if stained_share(seen) < GLASS_SHARE:
                continue
            pixels = read(tile.window) if glance else seen
            decode_ms = 1000 * (time.perf_counter() - start)
            field = self.look(name, area, tile, pixels, scale)
            cells = tuple(cell for cell in field.cells if once.new(cell.cell, tile))
            timings = {**field.timings_ms, "decode": decode_ms, "total": decode_ms + field.timings_ms["total"]}
            yield self.judged(replace(field, cells=cells, timings_ms=timings, first=first), pixels)
            first += len(cells)

    def judged(self, field: FieldScan, pixels: Pixels) -> FieldScan:
        """Return the field with the judge's refusals: `pixels`, (H, W, 3) uint8, are its own."""
        if self.judge is None:
            return field
        part = field.region != (0, 0, field.width, field.height)
        found = tuple(self.judge(pixels, field.red_cell_px))
        if part and any(refusal.reason == "empty field" for refusal in found):
            found = tuple(refusal for refusal in found if refusal.reason not in OF_EMPTINESS)
        return replace(field, refusals=found)


def _decoded(image: AnyPicture, name: str | None) -> tuple[Image.Image, str, float]:
    """Return a picture, its name, and the milliseconds this took."""
    start = time.perf_counter()
    picture = picture_of(image, name)
    if name is None:
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else "picture"
    return picture, name, 1000 * (time.perf_counter() - start)


def _together(fields: Sequence[FieldScan], picture: Image.Image, name: str, bundle_id: str) -> FieldScan:
    """Put the tiles of a wide picture together; there is none where all of it is glass."""
    width, height = picture.size
    timings = {key: sum(field.timings_ms[key] for field in fields) for key in ("decode", "find", "classify", "total")}
    px, source = (fields[0].red_cell_px, fields[0].scale) if fields else (None, "unknown")
    cells = tuple(cell for field in fields for cell in field.cells)
    return FieldScan(name, width, height, (0, 0, width, height), px, source, cells, (), timings, bundle_id)


def _nucleus_px(found: FieldCells) -> float:
    """Return the median diameter of a disc as large as a nucleus."""
    return float(np.median([2 * math.sqrt(cell.nucleus_px / math.pi) for cell in found.cells]))


def _placed(cell: Cell, window: Box, area: Box, grain: float) -> Cell:
    """Return a window's cell in pixels of the picture; it is cut only by the picture's border, not by the window's.

    Args:
        cell: as it was found, pixels of the window.
        window: pixels of the picture.
        area: of the picture.
        grain: pixels of the picture per pixel of the search, to which boxes are rounded.
    """
    left, top, width, height = _moved(cell.box, window[0], window[1])
    x, y = left - area[0], top - area[1]
    gaps = (x, y, area[2] - x - width, area[3] - y - height)
    cut = cell.cut and min(gaps) <= grain
    return replace(
        cell,
        box=(left, top, width, height),
        centre=(cell.centre[0] + window[0], cell.centre[1] + window[1]),
        cut=cut,
    )


def _moved(box: Box, right: int, down: int) -> Box:
    return (box[0] + right, box[1] + down, box[2], box[3])


def _crop_box(cell: Cell, red_cell_px: float) -> Box:
    """Return the square round a cell's centre that shows as much of the smear as the network's crops do."""
    side = max(1, round(CROP_RED_CELLS * red_cell_px))
    return (round(cell.centre[0] - side / 2), round(cell.centre[1] - side / 2), side, side)


def _cut_out(pixels: Pixels, box: Box) -> tuple[Pixels, float]:
    """Cut a crop out; beyond the border the picture is continued by its mirror image.

    Of whole cells near the border, cut out once with what lay beyond and once with it continued, most keep their class
    this way; with black, or the colour of the empty field, more change it (see docs/scan.md).

    Args:
        pixels: (H, W, 3) uint8.
        box: pixels; its middle lies inside.

    Returns:
        (height, width, 3) uint8, and the share of it that lies beyond the border.
    """
    height, width = pixels.shape[:2]
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    kept = pixels[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    over = ((max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)), (0, 0))
    filled = 1 - kept.shape[0] * kept.shape[1] / (box[2] * box[3])
    return np.pad(kept, over, "symmetric") if filled else kept, filled
