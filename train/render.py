"""Render: stained smears made of numbers, for tests, demos and golden pictures.

What comes in is a class name and a numpy Generator; what goes out is an RGB picture with its nucleus and cell masks.
This module sets the scene - which cells, how many, where - from the tables of `train.smears` and writes pictures
to files; `train.paint` paints each cell. No pixel is taken from a real picture, and no medical claim can rest on one of
these: they show what the tables say, not what a microscope saw.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.errors import OutputError, UsageError

from .morphology import MORPHOLOGIES
from .paint import Canvas, RedCells, develop, paint_cell, paint_red_cell
from .smears import CELL_LABELS, CELL_MIXES, CELL_STAIN, CELL_UM, FIELD_UM, FIELDS, RED_CELL_UM, STAINS
from .tasks import TASKS

Mask = NDArray[np.bool_]
Progress = Callable[[Sequence[tuple[str, int]]], Iterable[tuple[str, int]]]

NUCLEUS_VALUE, CYTOPLASM_VALUE = 255, 128  # in mask files
PX_LIMITS = (64, 2048)
CROP_LABELS = (*CELL_LABELS, *CELL_MIXES)


@dataclass(frozen=True)
class Rendering:
    """One rendered picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, 0..255.
        nucleus: (H, W) bool, nuclei of leukocytes; in a crop only the central cell's. Empty for a platelet.
        cell: (H, W) bool, nuclei and cytoplasm of leukocytes; in a crop the central cell, platelets included.
    """

    pixels: NDArray[np.uint8]
    nucleus: Mask
    cell: Mask


def render_cell(label: str, rng: np.random.Generator, px: int = 256) -> Rendering:
    """Render one cell in the middle of a crop of 26 micrometres, with red cells around it.

    Args:
        label: one of `CELL_LABELS` or `CELL_MIXES`.
        rng: source of all variation; the same state gives the same bytes.
        px: side of the picture, 64..2048 pixels.

    Raises:
        UsageError: unknown label or side.
    """
    _check(label, CROP_LABELS, px)
    if label in CELL_MIXES:
        names, weights = list(CELL_MIXES[label]), np.array(list(CELL_MIXES[label].values()))
        label = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    canvas = Canvas(px, CELL_UM)
    row, middle = MORPHOLOGIES[label], CELL_UM / 2
    radius = rng.uniform(*row.diameter_um) / 2
    x, y = middle + rng.normal(0, 0.5, 2)
    _scatter_red_cells(
        canvas,
        rng,
        int(rng.integers(5, 14)),
        rng.uniform(0.0, 0.5),
        [(x, y, 0.8 * radius)],
        crenated=float(rng.choice((0.0, 0.0, 0.0, 0.0, 0.05))),
    )
    for _ in range(rng.poisson(0.5)):
        aside, down = middle + rng.uniform(0.6, 0.95, 2) * middle * rng.choice((-1.0, 1.0), 2)
        paint_cell(canvas, MORPHOLOGIES["platelet"], rng, aside, down, rng.uniform(0.8, 1.6), masked=False)
    for _ in range(rng.poisson(row.company)):
        turn, other = rng.uniform(0, 2 * np.pi), rng.uniform(*row.diameter_um) / 2
        reach = max(radius + 0.97 * other, middle + rng.uniform(0.0, 0.5) * other)
        paint_cell(canvas, row, rng, x + reach * np.cos(turn), y + reach * np.sin(turn), other, masked=False)
    paint_cell(canvas, row, rng, x, y, radius)
    pixels = develop(
        canvas, STAINS[CELL_STAIN], rng, blur_um=rng.uniform(0.05, 0.085), sharpen=rng.uniform(0.2, 0.8), noise=0.8
    )
    return Rendering(pixels, canvas.nucleus & canvas.cell, canvas.cell)


def render_field(label: str, rng: np.random.Generator, px: int = 448) -> Rendering:
    """Render one field, 110 micrometres high: many red cells, and leukocytes as the class has them.

    Args:
        label: one of `FIELDS`.
        rng: source of all variation; the same state gives the same bytes.
        px: side of the picture, 64..2048 pixels.

    Raises:
        UsageError: unknown label or side.
    """
    _check(label, tuple(FIELDS), px)
    row = FIELDS[label]
    canvas = Canvas(px, FIELD_UM, row.squeeze)
    names, weights = list(row.mix), np.array(list(row.mix.values()))
    scale = rng.uniform(*row.scale)
    cells: list[tuple[float, float, float]] = []
    kinds: list[str] = []
    for _ in range(int(rng.integers(row.leukocytes[0], row.leukocytes[1] + 1))):
        kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        radius = scale * rng.uniform(*MORPHOLOGIES[kind].diameter_um) / 2
        place = _place(rng, cells, radius, row.crowding, canvas.size_um)
        if place is not None:
            cells.append((*place, radius))
            kinds.append(kind)
    count = int(rng.integers(row.red_cells[0], row.red_cells[1] + 1))
    crenated = float(rng.choice((0.0, 0.0, 0.06)))
    _scatter_red_cells(canvas, rng, count, rng.uniform(*row.overlap), [(x, y, 0.85 * r) for x, y, r in cells], crenated)
    for _ in range(rng.poisson(3)):
        x, y = rng.uniform(0, 1, 2) * canvas.size_um
        paint_cell(canvas, MORPHOLOGIES["platelet"], rng, x, y, rng.uniform(0.7, 1.4), masked=False)
    for kind, (x, y, radius) in zip(kinds, cells, strict=True):
        paint_cell(canvas, MORPHOLOGIES[kind], rng, x, y, radius)
    pixels = develop(
        canvas, STAINS[row.stain], rng, blur_um=rng.uniform(0.2, 0.42), sharpen=rng.uniform(0.4, 1.1), noise=3.0
    )
    return Rendering(pixels, canvas.nucleus & canvas.cell, canvas.cell)


def _check(label: str, labels: tuple[str, ...], px: int) -> None:
    if label not in labels:
        raise UsageError("no morphology for this label", got=repr(label), expected="one of " + ", ".join(labels))
    if not PX_LIMITS[0] <= px <= PX_LIMITS[1]:
        raise UsageError("side of a rendered picture", got=px, expected=f"{PX_LIMITS[0]}..{PX_LIMITS[1]} pixels")


# ------------------------------------------------------------------------------------------------------ scene


def _place(
    rng: np.random.Generator,
    cells: list[tuple[float, float, float]],
    radius: float,
    crowding: float,
    size_um: NDArray[np.float64],
) -> tuple[float, float] | None:
    """Find a free place in a field, beside another cell with probability `crowding`; None if it is full."""
    for _ in range(30):
        if cells and rng.random() < crowding:
            ax, ay, ar = cells[int(rng.integers(len(cells)))]
            turn, reach = rng.uniform(0, 2 * np.pi), (ar + radius) * rng.uniform(0.93, 1.05)
            x, y = ax + reach * np.cos(turn), ay + reach * np.sin(turn)
        else:
            x, y = rng.uniform(-0.02, 1.02, 2) * size_um
        if all(np.hypot(x - ax, y - ay) > 0.92 * (radius + ar) for ax, ay, ar in cells):
            return float(x), float(y)
    return None


def _scatter_red_cells(
    canvas: Canvas,
    rng: np.random.Generator,
    count: int,
    overlap: float,
    taken: list[tuple[float, float, float]],
    crenated: float,
) -> None:
    """Paint red cells that keep off the discs `taken` and overlap each other by at most `overlap` of a diameter."""
    size, pallor, softness = canvas.size_um, rng.uniform(0.45, 1.0), rng.uniform(0.03, 0.1)
    look = RedCells(pallor, rng.uniform(0.28, 0.5), softness, crenated)
    discs = np.array(taken, np.float64).reshape(-1, 3)
    reds = np.zeros((0, 2))
    for _ in range(4 * count):
        if len(reds) == count:
            break
        radius = rng.uniform(*RED_CELL_UM) / 2
        if len(reds) and rng.random() < 0.5:  # red cells lie in clumps and rows
            turn = rng.uniform(0, 2 * np.pi)
            reach = 2 * radius * rng.uniform(1 - overlap, 1.1)
            place = reds[int(rng.integers(len(reds)))] + reach * np.array([np.cos(turn), np.sin(turn)])
        else:
            place = rng.uniform(-radius, size + radius)
        if (place < -radius).any() or (place > size + radius).any():
            continue
        if len(discs) and (np.hypot(*(discs[:, :2] - place).T) < discs[:, 2] + radius * 0.95).any():
            continue
        if len(reds) and (np.hypot(*(reds - place).T) < 2 * radius * (1 - overlap)).any():
            continue
        reds = np.vstack([reds, place])
        paint_red_cell(canvas, look, rng, place[0], place[1], radius)


# ------------------------------------------------------------------------------------------------------ files

RENDERERS: dict[str, tuple[Callable[[str, np.random.Generator, int], Rendering], tuple[str, ...], int]] = {
    "cell": (render_cell, CROP_LABELS, 256),
    "field": (render_field, tuple(FIELDS), 448),
}


def write_rendered(
    root: Path,
    labels: Sequence[str],
    per_label: int,
    seed: int,
    kind: str,
    px: int | None = None,
    progress: Progress = iter,
) -> None:
    """Write rendered pictures as ``<root>/<label>/<n>.png`` and masks as ``<root>/masks/<label>/<n>.png``.

    A mask is 255 in nuclei, 128 in cytoplasm, else 0. A picture depends on seed, label and number only, not on which
    other pictures are written.

    Args:
        root: folder; made if it is not there.
        labels: classes that `kind` can render.
        per_label: pictures of each class, 1 or more.
        seed: 0 or more.
        kind: "cell" or "field".
        px: side of a picture, pixels; None: 256 for cells, 448 for fields.
        progress: wraps the list of (label, number) that is worked through, as tqdm does.

    Raises:
        UsageError: `root` holds something, or an argument is out of range.
        OutputError: a file cannot be written.
    """
    if kind not in RENDERERS:
        raise UsageError("kind of picture", got=repr(kind), expected=" or ".join(RENDERERS))
    render, known, default_px = RENDERERS[kind]
    px = default_px if px is None else px
    for label in labels:
        _check(label, known, px)
    if per_label < 1 or seed < 0:
        raise UsageError(
            "pictures per class and seed", got=f"{per_label} and {seed}", expected="1 or more and 0 or more"
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError("output folder is not empty", got=root, todo="name a new folder or empty this one")
    try:
        for label, number in progress([(label, number) for label in labels for number in range(per_label)]):
            rendering = render(label, np.random.default_rng([seed, number, *label.encode()]), px)
            mask = np.where(rendering.nucleus, NUCLEUS_VALUE, np.where(rendering.cell, CYTOPLASM_VALUE, 0))
            for folder, array in ((root, rendering.pixels), (root / "masks", mask.astype(np.uint8))):
                path = folder / label / f"{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    except OSError as error:
        raise OutputError(f"cannot write rendered pictures to {root}", got=error) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``python -m train render``."""
    parser.add_argument("--task", required=True, choices=tuple(TASKS), help="whose classes to render")
    parser.add_argument("--per-class", type=int, default=20, metavar="N", help="pictures of each class (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default 0)")
    parser.add_argument("--px", type=int, default=None, help="side of a picture (default: 256 a cell, 448 a field)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")


def run(args: argparse.Namespace) -> None:
    """Write rendered pictures of a task's classes as the options say.

    Raises:
        UsageError: as `write_rendered`.
    """
    from tqdm import tqdm

    task = TASKS[args.task]

    def bar(work: Sequence[tuple[str, int]]) -> Any:
        return tqdm(work, desc=f"render {task.name}", unit="picture", disable=None)

    write_rendered(args.out, task.labels, args.per_class, args.seed, task.kind, args.px, bar)
