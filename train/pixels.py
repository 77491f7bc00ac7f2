"""Pixels: every picture of an index, decoded and prepared once, exactly as the device will prepare it.

What comes in are picture files; what goes out is one memory-mapped ``(N, H, W, 3)`` uint8 array beside the index.
Nothing is scaled or augmented here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edge_runtime.cells import FINDER, central_cell
from edge_runtime.errors import ImageError
from edge_runtime.files import make_folder, temporary_name, write_whole
from edge_runtime.masks import Mask
from edge_runtime.preprocess import Box, Pixels, Preprocess, decode, prepare
from edge_runtime.standardise import standardise

from .errors import DataError

if TYPE_CHECKING:
    from .index import Index

DEFAULT = Preprocess(224)
"""What an index is hashed and grouped by, and most networks are trained on."""


def prepare_picture(path: Path, box: Box | None, central_px: int | None, preprocess: Preprocess) -> Pixels:
    """Decode one picture of a data set and prepare it with the runtime's own code.

    Args:
        path: picture file.
        box: part of it, or None.
        central_px: cut larger pictures to their central square of this side first; None: do not.
        preprocess: the network's.

    Returns:
        (input_px, input_px, 3) uint8.

    Raises:
        ImageError: unreadable.
    """
    picture = decode(path)
    if box is None and central_px is not None and min(picture.size) > central_px:
        box = ((picture.width - central_px) // 2, (picture.height - central_px) // 2, central_px, central_px)
    return prepare(picture, preprocess, box)


@dataclass
class Prepared:
    """Pictures prepared but not yet published as an index's cache.

    Attributes:
        pixels: (M, H, W, 3) uint8, memory-mapped.
        numbers: (M,) which of the given pictures each is.
        sha256: (M,) of the files.
        unreadable: one line per picture that could not be read.
        file: temporary file behind `pixels`.
    """

    pixels: Pixels
    numbers: list[int]
    sha256: list[str]
    unreadable: list[str]
    file: Path = field(repr=False)

    def keep(self, positions: Sequence[int]) -> Pixels:
        """Return the pixels at `positions`, memory-mapped where all are kept in order."""
        return self.pixels[list(positions)] if len(positions) != len(self.pixels) else self.pixels

    def publish(self, index: Index, positions: Sequence[int], preprocess: Preprocess = DEFAULT) -> None:
        """Make the pixels at `positions` the cache of `index` under `preprocess`."""
        with write_whole(_cache_file(index, preprocess)) as stream:
            np.save(stream, self.keep(positions))
        self.file.unlink(missing_ok=True)


def prepare_all(
    pictures: Sequence[tuple[Path, Box | None, int | None]], folder: Path, preprocess: Preprocess = DEFAULT
) -> Prepared:
    """Prepare pictures, with a progress bar; unreadable ones are named and left out.

    Raises:
        DataError: not one picture could be read.
    """
    make_folder(folder)
    px = preprocess.input_px
    file = temporary_name(folder / f"pixels-{px}.npy")
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(max(len(pictures), 1), px, px, 3))
    numbers: list[int] = []
    sha256: list[str] = []
    unreadable: list[str] = []
    for number, (path, box, central_px) in enumerate(tqdm(pictures, desc="prepare", unit="picture", disable=None)):
        try:
            array[len(numbers)] = prepare_picture(path, box, central_px, preprocess)
            sha256.append(hashlib.sha256(path.read_bytes()).hexdigest())
            numbers.append(number)
        except ImageError as error:
            unreadable.append(str(error))
    if not numbers:
        raise DataError("not one picture could be read", got=unreadable[0] if unreadable else "no pictures")
    return Prepared(array[: len(numbers)], numbers, sha256, unreadable, file)


def _cache_file(index: Index, preprocess: Preprocess = DEFAULT, what: str = "pixels") -> Path:
    """Return where a cache lies; its name says how the pixels were prepared."""
    identity = hashlib.sha256("\n".join(row.key for row in index.rows).encode()).hexdigest()[:12]
    done = "" if preprocess.background == "keep" else f"-{preprocess.background}{FINDER}"
    done += "" if preprocess.stain == "keep" else f"-{preprocess.stain}"
    return index.folder / f"{what}-{preprocess.input_px}{done}-{identity}.npy"


def load_pixels(index: Index, preprocess: Preprocess = DEFAULT) -> Pixels:
    """Return the prepared pixels of all rows, preparing them again where the cache is gone or damaged.

    Returns:
        (N, input_px, input_px, 3) uint8, read-only and memory-mapped; row i belongs to ``index.rows[i]``.

    Raises:
        DataError: a picture of the index has gone or changed.
    """
    file, px = _cache_file(index, preprocess), preprocess.input_px

    def make() -> None:
        if preprocess.standardises:
            plain = load_pixels(index, preprocess.plain)  # nothing needs to be decoded a second time
            _write_cache(file, plain, lambda pixels: standardise(pixels, preprocess), "standardise")
        else:
            _prepare_again(index, preprocess)

    return _cached(file, (len(index.rows), px, px, 3), np.uint8, make)


def _cached(file: Path, shape: tuple[int, ...], dtype: type, make: Callable[[], None]) -> npt.NDArray[Any]:
    """Open a cache, read-only and memory-mapped; make it first where it is missing or not what it should be."""
    try:
        found = np.lib.format.open_memmap(file, mode="r")
        if found.shape == shape and found.dtype == dtype:
            return found
    except (FileNotFoundError, ValueError, TypeError, OverflowError, SyntaxError, TokenError):  # missing; damaged
        pass
    make()
    return np.lib.format.open_memmap(file, mode="r")


def _prepare_again(index: Index, preprocess: Preprocess) -> None:
    from .sources import SOURCES

    pictures = [(index.data / r.path, r.box, SOURCES[r.source].central_px) for r in index.rows]
    prepared = prepare_all(pictures, index.folder, preprocess)
    changed = [r.path for r, now in zip(index.rows, prepared.sha256, strict=False) if r.sha256 != now]
    if prepared.unreadable or changed:
        raise DataError(
            f"{index.folder}: the data has changed since it was indexed",
            got=(prepared.unreadable + changed)[0],
            todo="run python -m train index again",
        )
    prepared.publish(index, range(len(index.rows)), preprocess)


def load_cell_masks(index: Index, preprocess: Preprocess = DEFAULT) -> Mask:
    """Return where the white cell in the middle of each prepared picture is, finding it again where need be.

    Args:
        index: of crops.
        preprocess: only its size matters: cells are looked for before anything is standardised.

    Returns:
        (N, input_px, input_px) bool, read-only and memory-mapped; all false where no cell was found.
    """
    file, px = _cache_file(index, preprocess.plain, f"cells{FINDER}"), preprocess.input_px

    def make() -> None:
        plain = load_pixels(index, preprocess.plain)
        _write_cache(file, plain, lambda pixels: central_cell(pixels).cell, "find cells")

    return _cached(file, (len(index.rows), px, px), np.bool_, make)


def _write_cache(file: Path, pixels: Pixels, change: Callable[[Pixels], npt.NDArray[Any]], title: str) -> None:
    """Write what `change` makes of each picture, under a temporary name first."""
    partial, like = temporary_name(file), change(np.ascontiguousarray(pixels[0]))
    cache = np.lib.format.open_memmap(partial, mode="w+", dtype=like.dtype, shape=(len(pixels), *like.shape))
    for i, picture in enumerate(tqdm(pixels, desc=title, unit="picture", disable=None)):
        cache[i] = change(np.ascontiguousarray(picture))
    cache.flush()
    partial.replace(file)
