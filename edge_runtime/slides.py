"""Slides: pictures larger than memory, read a window at a time through OpenSlide (extra ``slides``).

What comes in is the path of a slide (SVS, NDPI, MRXS, SCN, BIF, tiled TIFF); what goes out are the scans of its tiles,
cells in pixels of the full resolution. No more than a window is held, and OpenSlide's cache of some decoded blocks.
Whether a tile is bare glass is seen on a coarser level where the file has one. How a picture is walked: ``tiles``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import ImageError
from .preprocess import MAX_FILE_BYTES, MAX_PICTURE_PIXELS, Box, Pixels
from .scan import RED_CELL_UM, UM_PER_PX, FieldScan, Progress, Scanner
from .tiles import inside, measure_red_cells, plan_tiles

if TYPE_CHECKING:
    from openslide import OpenSlide

SLIDE_SUFFIXES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide"})
"""Always slides. Other pictures are read like one where they are too large to be decoded whole."""

CONVERT = "make a tiled TIFF of it: vips tiffsave PICTURE slide.tif --tile --compression jpeg --bigtiff"

UNSCANNED = (250, 250, 250, 255)
"""Of what the scanner passed over: as light as glass but not saturated, lest the smear beside it be "too bright"."""

SIDES = ("x", "y", "width", "height")

GLANCE_RED_CELL_PX = 8
"""What a red cell should measure at least on the level where glass is told from smear."""


def is_slide(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is to be read as a slide: by its suffix, or because it is too large to be decoded whole."""
    path = Path(path)
    if path.suffix.lower() in SLIDE_SUFFIXES:
        return True
    try:
        if not path.is_file():  # a pipe can be read only once
            return False
        if path.stat().st_size > MAX_FILE_BYTES:
            return True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning
            with Image.open(path) as picture:
                return picture.width * picture.height > MAX_PICTURE_PIXELS
    except Image.DecompressionBombError:
        return True
    except Exception:  # noqa: BLE001 - whatever is wrong with it, who decodes it says so better
        return False


def scan_slide(scanner: Scanner, path: str | os.PathLike[str], progress: Progress = iter) -> Iterator[FieldScan]:
    """Find and classify the white cells of a slide.

    Args:
        scanner: with its model.
        path: of the slide.
        progress: is given all tiles and hands them on one by one.

    Yields:
        The cells of each tile that is not bare glass; every cell is met once.

    Raises:
        ImageError: not a slide, damaged, OpenSlide is not installed, or nothing gives the scale.
        EngineError: the engine failed, or returned a value that is not finite.
    """
    name = os.fspath(path)
    with _open(name) as slide:
        area = _area(slide)

        def read(box: Box) -> Pixels:
            return _read(slide, name, box, 0)

        stated = _stated_um_per_px(slide)
        usual_px = None if stated is None else RED_CELL_UM / stated
        measured = measure_red_cells(read, area, usual_px) if scanner.um_per_px is None else None
        scale = scanner.scale(measured, stated)
        if scale.red_cell_px is None:
            raise ImageError(f"{name}: found no red cells that could be measured", todo="say --um-per-px")
        level = slide.get_best_level_for_downsample(max(1.0, scale.red_cell_px / GLANCE_RED_CELL_PX))

        def glance(box: Box) -> Pixels:
            return _read(slide, name, box, level)

        tiles = progress(plan_tiles(area, scale.red_cell_px))
        yield from scanner.walk(name, area, tiles, scale, read, glance if level else None)


def _open(name: str) -> OpenSlide:
    try:
        import openslide
    except (ImportError, OSError) as error:  # OSError: the library itself is missing
        missing = "OpenSlide is not installed" if isinstance(error, ImportError) else str(error)
        raise ImageError(f"{name}: {missing}", todo='pip install "leukoscope[slides]"') from None
    if not os.path.exists(name):
        raise ImageError(f"{name}: no such file")
    try:
        return openslide.OpenSlide(name)
    except openslide.OpenSlideUnsupportedFormatError:
        raise ImageError(f"{name}: too large to decode, and no slide that can be read in parts", todo=CONVERT) from None
    except openslide.OpenSlideError as error:
        raise ImageError(f"{name}: damaged or truncated", got=error) from None


def _area(slide: OpenSlide) -> Box:
    """Return the part of the slide that was scanned: some scanners state its bounds."""
    whole = (0, 0, *slide.dimensions)
    with suppress(KeyError, ValueError):  # none, or no numbers
        left, top, width, height = (int(slide.properties[f"openslide.bounds-{side}"]) for side in SIDES)
        stated = inside((left, top, width, height), whole)
        return stated if stated[2] and stated[3] else whole
    return whole


def _stated_um_per_px(slide: OpenSlide) -> float | None:
    """Return what the file states, unless no microscope has it: plain TIFFs often state a screen's resolution."""
    with suppress(KeyError, ValueError):
        stated = float(slide.properties["openslide.mpp-x"])
        if UM_PER_PX[0] <= stated <= UM_PER_PX[1]:
            return stated
    return None


def _read(slide: OpenSlide, name: str, box: Box, level: int) -> Pixels:
    """Read a window on a level: (height, width, 3) uint8; what was not scanned is as light as an empty field."""
    import openslide

    factor = slide.level_downsamples[level]
    size = (max(1, round(box[2] / factor)), max(1, round(box[3] / factor)))
    try:
        region = slide.read_region((box[0], box[1]), level, size)
    except openslide.OpenSlideError as error:
        raise ImageError(f"{name}: damaged or truncated", got=error) from None
    ground = Image.new("RGBA", region.size, UNSCANNED)
    return np.asarray(Image.alpha_composite(ground, region).convert("RGB"))
