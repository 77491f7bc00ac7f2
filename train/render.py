"""Render: stained smears made of numbers, for tests, demos and golden pictures.

What comes in is a class name and a numpy Generator; what goes out is an RGB picture with its nucleus and cell masks.
A picture is four maps of dye amounts (DNA, RNA, eosin, red cells) in which cells are painted from the rows of
`train.morphology`; one Beer-Lambert step turns them into light, then come lens and sensor. No pixel is taken from a
real picture, and no medical claim can rest on one of these: they show what the tables say, not what a microscope saw.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from edge_runtime.errors import OutputError, UsageError

from .morphology import (
    CELL_LABELS,
    CELL_STAIN,
    CELL_UM,
    FIELD_UM,
    FIELDS,
    MORPHOLOGIES,
    RED_CELL_UM,
    STAINS,
    Granules,
    Morphology,
    Nucleus,
    Stain,
)
from .tasks import TASKS

FloatMap = NDArray[np.float32]
Mask = NDArray[np.bool_]
Progress = Callable[[Sequence[tuple[str, int]]], Iterable[tuple[str, int]]]

DNA, RNA, EOSIN, RED = range(4)  # rows of the dye maps
NUCLEUS_VALUE, CYTOPLASM_VALUE = 255, 128  # in mask files
PX_LIMITS = (64, 2048)


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
        label: one of `CELL_LABELS`.
        rng: source of all variation; the same state gives the same bytes.
        px: side of the picture, 64..2048 pixels.

    Raises:
        UsageError: unknown label or side.
    """
    _check(label, CELL_LABELS, px)
    canvas = _Canvas(px, CELL_UM)
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
        _paint_cell(canvas, MORPHOLOGIES["platelet"], rng, aside, down, rng.uniform(0.8, 1.6), masked=False)
    _paint_cell(canvas, row, rng, x, y, radius)
    return _develop(
        canvas, STAINS[CELL_STAIN], rng, blur_um=rng.uniform(0.05, 0.085), sharpen=rng.uniform(0.2, 0.8), noise=0.8
    )


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
    canvas = _Canvas(px, FIELD_UM, row.squeeze)
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
        _paint_cell(canvas, MORPHOLOGIES["platelet"], rng, x, y, rng.uniform(0.7, 1.4), masked=False)
    for kind, (x, y, radius) in zip(kinds, cells, strict=True):
        _paint_cell(canvas, MORPHOLOGIES[kind], rng, x, y, radius)
    return _develop(
        canvas, STAINS[row.stain], rng, blur_um=rng.uniform(0.2, 0.42), sharpen=rng.uniform(0.4, 1.1), noise=3.0
    )


def _check(label: str, labels: tuple[str, ...], px: int) -> None:
    if label not in labels:
        raise UsageError("no morphology for this label", got=repr(label), expected="one of " + ", ".join(labels))
    if not PX_LIMITS[0] <= px <= PX_LIMITS[1]:
        raise UsageError("side of a rendered picture", got=px, expected=f"{PX_LIMITS[0]}..{PX_LIMITS[1]} pixels")


# ------------------------------------------------------------------------------------------------------ scene


@dataclass
class _Canvas:
    """Dye maps under construction; `px` pixels show `side_um` micrometres down and `squeeze` times as many across."""

    px: int
    side_um: float
    squeeze: float = 1.0

    def __post_init__(self) -> None:
        self.per_um = self.px / self.side_um  # down
        self.size_um = np.array([self.side_um * self.squeeze, self.side_um])  # across, down
        self.dyes = np.zeros((4, self.px, self.px), np.float32)  # optical density, rows DNA, RNA, EOSIN, RED
        self.nucleus = np.zeros((self.px, self.px), bool)
        self.cell = np.zeros((self.px, self.px), bool)

    def window(self, x: float, y: float, half_um: float) -> tuple[tuple[slice, slice], FloatMap, FloatMap] | None:
        """Return the pixels around (x, y) and their offsets from it, (h, w) float32 micrometres; None if off-canvas."""
        scale = self.px / self.size_um
        low = [max(0, int((c - half_um) * s)) for c, s in zip((x, y), scale, strict=True)]
        high = [min(self.px, int((c + half_um) * s) + 2) for c, s in zip((x, y), scale, strict=True)]
        if low[0] >= high[0] or low[1] >= high[1]:
            return None
        dx = ((np.arange(low[0], high[0], dtype=np.float32) + 0.5) / scale[0] - x).astype(np.float32)
        dy = ((np.arange(low[1], high[1], dtype=np.float32) + 0.5) / scale[1] - y).astype(np.float32)
        gx, gy = np.meshgrid(dx, dy)
        return (slice(low[1], high[1]), slice(low[0], high[0])), gx, gy


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
    canvas: _Canvas,
    rng: np.random.Generator,
    count: int,
    overlap: float,
    taken: list[tuple[float, float, float]],
    crenated: float,
) -> None:
    """Paint red cells that keep off the discs `taken` and overlap each other by at most `overlap` of a diameter."""
    size, pallor, softness = canvas.size_um, rng.uniform(0.45, 1.0), rng.uniform(0.03, 0.1)
    hollow = rng.uniform(0.28, 0.5)
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
        window = canvas.window(place[0], place[1], radius * 1.35)
        if window is None:
            continue
        at, x, y = window
        level = _outline(x, y, radius, 0.03, rng, aspect=rng.uniform(1.0, 1.22), crenated=crenated)
        inside = _edge(level, max(1.5 / canvas.per_um, 0.3))
        t = np.clip(1 + level / radius, 0, 1)  # 0 centre .. 1 edge
        # a biconcave disc, dried: pale middle, thickest near the edge
        depth, middle = pallor * rng.uniform(0.6, 1.0), hollow * rng.uniform(0.8, 1.2)
        dip = depth * (0.85 / (1 + np.exp((t - middle) / softness)) + 0.25 * (1 - t * t))
        disc = inside * np.clip(1 - dip + 0.12 * t**8, 0, None) * np.float32(rng.uniform(0.9, 1.1))
        below = canvas.dyes[RED][at]  # where two overlap, the stack is flattened: less than the sum
        canvas.dyes[RED][at] = np.maximum(below, disc) + 0.22 * np.minimum(below, disc)


# ------------------------------------------------------------------------------------------------------ one cell


def _paint_cell(
    canvas: _Canvas,
    row: Morphology,
    rng: np.random.Generator,
    cx: float,
    cy: float,
    radius: float,
    masked: bool = True,
) -> None:
    """Paint one cell of the table at (cx, cy), radius in micrometres, over what is there."""
    window = canvas.window(cx, cy, radius * 1.6 + 3.0 if row.smeared else radius * 1.35 + 0.5)
    if window is None:
        return
    at, x, y = window
    pixel = 1 / canvas.per_um
    aspect = rng.uniform(*row.aspect)
    level = _outline(x, y, radius, row.wobble, rng, aspect=aspect)  # micrometres, negative inside
    for _ in range(rng.integers(row.flattened[0], row.flattened[1] + 1)):
        turn = rng.uniform(0, 2 * np.pi)
        side = np.cos(turn) * x + np.sin(turn) * y - radius * rng.uniform(0.72, 0.92)
        level = _smooth_max(level, side, 0.12 * radius)
    level = level + row.ragged_um * _noise(rng, x.shape, rng.uniform(0.3, 0.9) * canvas.per_um)
    body = _edge(level, max(1.2 * pixel, 0.8 * row.ragged_um * row.smeared))
    dyes = canvas.dyes[(slice(None), *at)]
    nucleus = np.zeros(x.shape, np.float32)
    if row.smeared:
        nucleus = _paint_smear(dyes, row, rng, x, y, level, body, radius, canvas.per_um)
        body = nucleus
    else:
        dyes *= 1 - 0.93 * body
        fine = _noise(rng, x.shape, 0.22 * canvas.per_um)
        coarse = _noise(rng, x.shape, 0.8 * canvas.per_um)
        near_edge = np.exp(np.minimum(level, 0) / 0.9)
        dyes[RNA] += (
            body * rng.uniform(*row.rna) * np.clip(1 + row.rim * near_edge + 0.26 * fine + 0.16 * coarse, 0, None)
        )
        dyes[EOSIN] += body * rng.uniform(*row.eosin) * np.clip(1 + 0.25 * fine, 0, None)
        for _ in range(rng.integers(row.vacuoles[0], row.vacuoles[1] + 1)):
            turn, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.5, 0.85)
            hole = np.hypot(x - reach * np.cos(turn), y - reach * np.sin(turn)) - rng.uniform(0.3, 0.8)
            dyes *= 1 - 0.75 * body * _edge(hole, 2 * pixel)
        if row.nuclei:
            kind = row.nuclei[int(rng.integers(len(row.nuclei)))]
            nucleus = body * _paint_nucleus(dyes, kind, rng, x, y, level, radius, canvas.per_um)
        for granules in row.granules:
            _paint_granules(dyes, granules, rng, body, nucleus, canvas.per_um)
    if masked:
        canvas.nucleus[at] = np.where(body > 0.5, nucleus > 0.5, canvas.nucleus[at])
        canvas.cell[at] |= body > 0.5


def _paint_nucleus(
    dyes: FloatMap,
    kind: Nucleus,
    rng: np.random.Generator,
    x: FloatMap,
    y: FloatMap,
    cell_level: FloatMap,
    radius: float,
    per_um: float,
) -> FloatMap:
    """Paint a nucleus into a cell's window; return its coverage, (h, w) float32 0..1."""
    area = np.pi * radius**2 * rng.uniform(*kind.share)
    pixel_um2 = float(np.ptp(x) * np.ptp(y)) / max(1, (x.shape[0] - 1) * (x.shape[1] - 1))
    room = max(0.0, radius - np.sqrt(area / np.pi))
    turn, off = rng.uniform(0, 2 * np.pi), room * rng.uniform(*kind.off_centre)
    x, y = x - off * np.cos(turn), y - off * np.sin(turn)
    if kind.wobble:  # bend the plane, so that lobes are no circles
        size = np.sqrt(area)
        for _ in range(2):
            a, b, c, d = rng.normal(0, 3.0 / size, 4)
            p, q = rng.uniform(0, 2 * np.pi, 2)
            x = x + kind.wobble * size * 0.5 * np.sin(a * x + b * y + p)
            y = y + kind.wobble * size * 0.5 * np.sin(c * x + d * y + q)
    lobes = _lobes(kind, rng)
    step = 3  # find the scale that gives the wanted area on a coarse grid
    unit = np.sqrt(area / (np.pi * len(lobes)))
    for _ in range(2):
        coarse = _chain(x[::step, ::step], y[::step, ::step], lobes * unit, kind)
        got = float((np.maximum(coarse, cell_level[::step, ::step] + 0.15) < 0).sum()) * pixel_um2 * step**2
        unit *= float(np.clip(np.sqrt(area / max(got, 1e-3)), 0.7, 1.5))
    level = _chain(x, y, lobes * unit, kind)
    level = _smooth_max(level, cell_level + 0.12, 0.25)
    level = level + 0.07 * _noise(rng, x.shape, 0.35 * per_um)
    cover = _edge(level, 1.3 / per_um)
    dyes[RNA] *= 1 - 0.75 * cover
    dyes[EOSIN] *= 1 - 0.75 * cover
    clumps = _noise(rng, x.shape, kind.grain_um * per_um)
    specks = np.clip(clumps + 1.0, -1.0, 0)  # light gaps in dark chromatin
    wide = _noise(rng, x.shape, 4 * kind.grain_um * per_um)
    texture = kind.contrast * (0.5 * np.clip(clumps, -1.5, 1.2) + 0.8 * specks + 0.25 * wide + 0.15)
    border = kind.border * np.exp(-((level + 0.15) ** 2) / 0.3**2 / 2)
    amount = rng.uniform(*kind.dna) * (1 + texture + border)
    for _ in range(rng.integers(kind.nucleoli[0], kind.nucleoli[1] + 1)):
        turn, reach, size = rng.uniform(0, 2 * np.pi), np.sqrt(area) * rng.uniform(0.0, 0.3), rng.uniform(0.5, 1.0)
        spot = _edge(np.hypot(x - reach * np.cos(turn), y - reach * np.sin(turn)) - size, 0.5)
        amount = amount * (1 - 0.3 * spot)
        dyes[RNA] += 0.08 * spot * cover
    dyes[DNA] += cover * np.clip(amount, 0.05, None)
    return cover


def _lobes(kind: Nucleus, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the lobes of a nucleus, (n, 3): centre x, y and radius, in units of the mean lobe radius."""
    n = int(rng.integers(kind.lobes[0], kind.lobes[1] + 1))
    heading = rng.uniform(0, 2 * np.pi)
    turn = np.deg2rad(rng.uniform(*kind.bend_deg)) / max(1, n - 1) * rng.choice((-1.0, 1.0))
    jitter = 0.35 if kind.waist[0] < 0.5 else 0.08
    place, rows = np.zeros(2), []
    for _ in range(n):
        rows.append([*place, 1 + rng.normal(0, 0.1)])
        heading += turn + rng.normal(0, jitter)
        place = place + rng.uniform(*kind.spacing) * np.array([np.cos(heading), np.sin(heading)])
    lobes = np.array(rows)
    lobes[:, :2] -= lobes[:, :2].mean(0)
    return lobes


def _chain(x: FloatMap, y: FloatMap, lobes: NDArray[np.float64], kind: Nucleus) -> FloatMap:
    """Return the signed distance to lobes and the bridges between them, (h, w) micrometres, negative inside."""
    radius = float(lobes[:, 2].mean())
    waist = (kind.waist[0] + kind.waist[1]) / 2
    rounding = radius * (0.08 if waist < 0.6 else 0.35)
    level = np.full(x.shape, 1e3, np.float32)
    for i, (lx, ly, lr) in enumerate(lobes):
        lobe = np.hypot(x - np.float32(lx), y - np.float32(ly)) - np.float32(lr)
        level = _smooth_max(level, lobe, rounding, sign=-1.0)
        if i:
            ax, ay, ar = lobes[i - 1]
            bx, by = lx - ax, ly - ay
            along = np.clip(((x - ax) * bx + (y - ay) * by) / (bx * bx + by * by + 1e-9), 0, 1)
            bridge = np.hypot(x - ax - along * bx, y - ay - along * by) - waist * min(ar, lr)
            level = _smooth_max(level, bridge, 0.25 * waist * radius, sign=-1.0)
    return level.astype(np.float32)


def _paint_granules(
    dyes: FloatMap, row: Granules, rng: np.random.Generator, body: FloatMap, nucleus: FloatMap, per_um: float
) -> None:
    """Paint one kind of granule into the cytoplasm, and thinner over the nucleus."""
    h, w = body.shape
    spots = np.zeros((h, w), np.float32)
    count = rng.poisson(rng.uniform(*row.per_um2) * h * w / per_um**2)
    ys, xs = rng.integers(0, h, count), rng.integers(0, w, count)
    density = 1 + row.patchy * _noise(rng, (h, w), 1.2 * per_um)
    keep = rng.random(count) < np.clip(0.75 * density[ys, xs], 0, 1)
    np.add.at(spots, (ys[keep], xs[keep]), 1.0)
    sigma = max(0.5, 0.6 * row.radius_um * per_um)
    spots = ndimage.gaussian_filter(spots, sigma, truncate=3.0) * (2 * np.pi * sigma**2)  # a lone granule peaks at 1
    spots = np.clip((spots - 0.15) / 0.7, 0, 1.5) * body * (1 - (1 - row.over_nucleus) * nucleus)
    for dye, amount in ((DNA, row.dna), (RNA, row.rna), (EOSIN, row.eosin)):
        if amount:
            dyes[dye] += amount * spots


def _paint_smear(
    dyes: FloatMap,
    row: Morphology,
    rng: np.random.Generator,
    x: FloatMap,
    y: FloatMap,
    level: FloatMap,
    body: FloatMap,
    radius: float,
    per_um: float,
) -> FloatMap:
    """Paint a burst cell: a net of chromatin without a border, with strands; return its coverage 0..1."""
    kind = row.nuclei[0]
    level = level + 0.10 * radius * _noise(rng, x.shape, rng.uniform(0.1, 0.25) * radius * per_um)
    body = _edge(level, radius * rng.choice((0.03, 0.05, 0.15)))
    net = _noise(rng, x.shape, kind.grain_um * per_um)
    wide = _noise(rng, x.shape, 2.2 * per_um)
    border = kind.border * np.exp(-((level + 0.2) ** 2) / 0.3**2 / 2)
    amount = rng.uniform(*kind.dna) * np.clip(1 + kind.contrast * net + 0.15 * wide + border, 0.1, None)
    dyes *= 1 - 0.8 * body
    dyes[DNA] += body * amount
    dyes[EOSIN] += body * rng.uniform(*row.eosin) * np.clip(1 + 0.3 * wide + 0.15 * net, 0, None)
    if rng.random() < 0.6:  # strands, drawn out to one side
        turn = rng.uniform(0, 2 * np.pi)
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        phase = across / (1.0 + 0.04 * along) + 0.5 * _noise(rng, x.shape, 1.5 * per_um)
        lines = np.clip(np.sin(phase * rng.uniform(3.0, 5.0)) + 0.2 * net, 0, 1) ** 4
        reach = np.exp(-np.clip(level, 0, None) / rng.uniform(0.8, 2.5)) * np.clip(along / radius + 0.2, 0, 1)
        dyes[DNA] += 0.5 * (1 - body) * lines * reach * amount
    return body


# ------------------------------------------------------------------------------------------------------ geometry


def _outline(
    x: FloatMap,
    y: FloatMap,
    radius: float,
    wobble: float,
    rng: np.random.Generator,
    aspect: float = 1.0,
    crenated: float = 0.0,
) -> FloatMap:
    """Return about the signed distance to a roundish outline, (h, w) float32 micrometres, negative inside."""
    turn, stretch = rng.uniform(0, np.pi), np.sqrt(aspect)
    u = ((x * np.cos(turn) + y * np.sin(turn)) / stretch).astype(np.float32)
    v = ((y * np.cos(turn) - x * np.sin(turn)) * stretch).astype(np.float32)
    rho = np.hypot(u, v) + np.float32(1e-6)
    z = (u + 1j * v) / rho  # powers of z are the harmonics of the angle
    power, bulge = z, np.ones_like(rho)
    for order in range(2, 6):
        power = power * z
        amplitude = rng.normal(0, 1.6 * wobble / order)
        shift = np.exp(1j * rng.uniform(0, 2 * np.pi)).astype(np.complex64)
        bulge = bulge + np.float32(amplitude) * (power * shift).real
    if crenated:
        rise = np.minimum(rho / np.float32(radius), 1) ** 4  # only the rim is scalloped
        bulge = bulge + np.float32(crenated * rng.uniform(0, 1)) * rise * (power * power * z ** rng.integers(0, 4)).real
    level: FloatMap = (rho - np.float32(radius) * bulge).astype(np.float32)
    return level


def _edge(level: FloatMap, width: float) -> FloatMap:
    """Return the coverage 0..1 of the inside of a signed distance, soft over `width`."""
    t = np.clip(0.5 - level / np.float32(width), 0, 1)
    cover: FloatMap = (t * t * (3 - 2 * t)).astype(np.float32)
    return cover


def _smooth_max(a: FloatMap, b: FloatMap, width: float, sign: float = 1.0) -> FloatMap:
    """Return the maximum (sign -1: minimum) of two distances with the corner rounded over `width`."""
    blend = np.clip(width - np.abs(a - b), 0, None) ** 2 / (4 * width)
    rounded: FloatMap = np.float32(1) * (np.maximum(a, b) + blend) if sign > 0 else (np.minimum(a, b) - blend)
    return rounded


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> FloatMap:
    """Return band-pass noise of unit deviation whose blobs have a radius of about `sigma` pixels, (h, w) float32."""
    step = max(1, int(sigma / 1.2))
    low = tuple(-(-n // step) + 2 for n in shape)
    sigma = max(0.5, sigma / step)
    white = rng.standard_normal(low, dtype=np.float32)
    near = ndimage.gaussian_filter(white, sigma, truncate=2.5)
    band = near - ndimage.uniform_filter(near, max(3, int(5 * sigma) | 1))
    band /= band.std() + 1e-6
    if step > 1:
        band = ndimage.zoom(band, step, order=1, grid_mode=True, mode="nearest")
    noise: FloatMap = band[: shape[0], : shape[1]]
    return noise


# ------------------------------------------------------------------------------------------------------ light


def _develop(
    canvas: _Canvas, stain: Stain, rng: np.random.Generator, blur_um: float, sharpen: float, noise: float
) -> Rendering:
    """Turn dye amounts into a picture: stain, light, lens, sensor."""
    vectors = np.array([stain.dna, stain.rna, stain.eosin, stain.red], np.float32)  # (4, 3)
    vectors *= np.exp(rng.normal(0, stain.variation, (4, 1)) + rng.normal(0, stain.variation / 2, (4, 3)))
    vectors[RED] *= rng.uniform(*stain.red_amount)
    px = canvas.px
    grid = np.linspace(-1, 1, px, dtype=np.float32)
    turn, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    shade = (grid[None] ** 2 + grid[:, None] ** 2) / 2 * rng.uniform(0.3, 1)
    shade = shade + tilt * (1 + grid[None] * np.cos(turn) + grid[:, None] * np.sin(turn)) / 2
    density = np.tensordot(vectors.T, canvas.dyes, 1)  # (3, H, W)
    density += np.array(stain.shade, np.float32)[:, None, None] * shade
    a, b = rng.integers(len(stain.lights), size=2)
    mix = rng.uniform(0, 0.4)
    light = (1 - mix) * np.array(stain.lights[a]) + mix * np.array(stain.lights[b]) + rng.normal(0, 1.5, 3)
    glare = 0.015  # light that never passed the smear
    image = (glare + (1 - glare) * np.exp(-np.log(10.0) * density, dtype=np.float32)) * light[:, None, None].astype(
        np.float32
    )
    sigma = blur_um * canvas.per_um
    grey = noise * rng.standard_normal((px, px), dtype=np.float32)
    for channel in image:
        ndimage.gaussian_filter(channel, sigma, output=channel, truncate=3.0)
        if sharpen:
            channel += sharpen * (channel - ndimage.gaussian_filter(channel, 2.0 * sigma + 0.6, truncate=2.5))
        channel += grey + 0.5 * noise * rng.standard_normal((px, px), dtype=np.float32)
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Rendering(np.ascontiguousarray(pixels), canvas.nucleus & canvas.cell, canvas.cell)


# ------------------------------------------------------------------------------------------------------ files

RENDERERS: dict[str, tuple[Callable[[str, np.random.Generator, int], Rendering], tuple[str, ...], int]] = {
    "cell": (render_cell, CELL_LABELS, 256),
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
        return tqdm(work, desc=f"render {task.name}", unit="picture", file=sys.stderr)

    write_rendered(args.out, task.labels, args.per_class, args.seed, task.kind, args.px, bar)
