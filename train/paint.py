"""Paint: one cell at a time into maps of dye amounts (DNA, RNA, eosin, red cells), and the maps into light.

What comes in are rows of `train.morphology`, places and sizes in micrometres and a numpy Generator; what goes out are
changes of a `Canvas` and, at last, its pixels: one Beer-Lambert step, then lens and sensor. Where cells lie and which
there are is for `train.render` to say; the shapes are those of `train.outline`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .morphology import Granules, Morphology, Nucleus
from .outline import FloatMap, blobs, edge, lobes_level, outline, place_lobes, smooth_max, streaks
from .smears import Stain

DNA, RNA, EOSIN, RED = range(4)  # rows of the dye maps


@dataclass
class Canvas:
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


@dataclass(frozen=True)
class RedCells:
    """What the red cells of one picture share: how they dried.

    Attributes:
        pallor: depth of the pale middle, relative.
        hollow: radius of the pale middle / radius of the cell.
        softness: width of its border, relative.
        crenated: height of the scallops of the rim, relative; 0 smooth.
    """

    pallor: float
    hollow: float
    softness: float
    crenated: float = 0.0


def paint_red_cell(
    canvas: Canvas, look: RedCells, rng: np.random.Generator, cx: float, cy: float, radius: float
) -> None:
    """Paint one red cell at (cx, cy), radius in micrometres, over what is there."""
    window = canvas.window(cx, cy, radius * 1.35)
    if window is None:
        return
    at, x, y = window
    level = outline(x, y, radius, 0.03, rng, aspect=rng.uniform(1.0, 1.22), crenated=look.crenated)
    inside = edge(level, max(1.5 / canvas.per_um, 0.3))
    t = np.clip(1 + level / radius, 0, 1)  # 0 centre .. 1 edge
    # a biconcave disc, dried: pale middle, thickest near the edge
    depth, middle = look.pallor * rng.uniform(0.6, 1.0), look.hollow * rng.uniform(0.8, 1.2)
    dip = depth * (0.85 / (1 + np.exp((t - middle) / look.softness)) + 0.25 * (1 - t * t))
    disc = inside * np.clip(1 - dip + 0.12 * t**8, 0, None) * np.float32(rng.uniform(0.9, 1.1))
    below = canvas.dyes[RED][at]  # where two overlap, the stack is flattened: less than the sum
    canvas.dyes[RED][at] = np.maximum(below, disc) + 0.22 * np.minimum(below, disc)


def paint_cell(
    canvas: Canvas,
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
    level = outline(x, y, radius, row.wobble, rng, aspect=aspect)  # micrometres, negative inside
    for _ in range(rng.integers(row.flattened[0], row.flattened[1] + 1)):
        turn = rng.uniform(0, 2 * pi)
        side = cos(turn) * x + sin(turn) * y - radius * rng.uniform(0.72, 0.92)
        level = smooth_max(level, side, 0.12 * radius)
    level = level + row.ragged_um * blobs(rng, x.shape, rng.uniform(0.3, 0.9) * canvas.per_um)
    dyes = canvas.dyes[(slice(None), *at)]
    nucleus = np.zeros(x.shape, np.float32)
    if row.smeared:
        body = nucleus = _paint_smear(dyes, row, rng, x, y, level, radius, canvas.per_um)
    else:
        body = edge(level, 1.2 * pixel)
        dyes *= 1 - 0.93 * body
        fine = blobs(rng, x.shape, 0.22 * canvas.per_um)
        coarse = blobs(rng, x.shape, 0.8 * canvas.per_um)
        near_edge = np.exp(np.minimum(level, 0) / 0.9)
        dyes[RNA] += (
            body * rng.uniform(*row.rna) * np.clip(1 + row.rim * near_edge + 0.17 * fine + 0.14 * coarse, 0, None)
        )
        dyes[EOSIN] += body * rng.uniform(*row.eosin) * np.clip(1 + 0.25 * fine, 0, None)
        for _ in range(rng.integers(row.vacuoles[0], row.vacuoles[1] + 1)):
            turn, reach = rng.uniform(0, 2 * pi), radius * rng.uniform(0.5, 0.85)
            hole = np.hypot(x - reach * cos(turn), y - reach * sin(turn)) - rng.uniform(0.3, 0.8)
            dyes *= 1 - 0.75 * body * edge(hole, 2 * pixel)
        if row.nuclei:
            kind = row.nuclei[int(rng.integers(len(row.nuclei)))]
            nucleus = body * _paint_nucleus(dyes, kind, rng, x, y, level, radius, canvas.per_um)
        for granules in row.granules:
            _paint_granules(dyes, granules, rng, body, nucleus, canvas.per_um)
        if row.rods[1]:  # a cell type without rods draws nothing for them: older pictures keep their bytes
            for _ in range(rng.integers(row.rods[0], row.rods[1] + 1)):
                _paint_rod(dyes, rng, x, y, body * (1 - nucleus), radius)
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
    area = pi * radius**2 * rng.uniform(*kind.share)
    pixel_um2 = float(np.ptp(x) * np.ptp(y)) / max(1, (x.shape[0] - 1) * (x.shape[1] - 1))
    room = max(0.0, radius - sqrt(area / pi))
    turn, off = rng.uniform(0, 2 * pi), room * rng.uniform(*kind.off_centre)
    x, y = x - off * cos(turn), y - off * sin(turn)
    if kind.wobble:  # bend the plane, so that lobes are no circles
        size = sqrt(area)
        for _ in range(2):
            a, b, c, d = rng.normal(0, 3.0 / size, 4).tolist()
            p, q = rng.uniform(0, 2 * pi, 2).tolist()
            x = x + kind.wobble * size * 0.5 * np.sin(a * x + b * y + p)
            y = y + kind.wobble * size * 0.5 * np.sin(c * x + d * y + q)
    lobes = place_lobes(kind, rng)
    step = 3  # find the scale that gives the wanted area on a coarse grid
    unit = sqrt(area / (pi * len(lobes)))
    for _ in range(2):
        coarse = lobes_level(x[::step, ::step], y[::step, ::step], lobes * unit, kind)
        got = float((np.maximum(coarse, cell_level[::step, ::step] + 0.15) < 0).sum()) * pixel_um2 * step**2
        unit *= float(np.clip(sqrt(area / max(got, 1e-3)), 0.7, 1.5))
    level = lobes_level(x, y, lobes * unit, kind)
    level = smooth_max(level, cell_level + 0.12, 0.25)
    level = level + 0.07 * blobs(rng, x.shape, 0.35 * per_um)
    cover = edge(level, 1.3 / per_um)
    dyes[RNA] *= 1 - 0.75 * cover
    dyes[EOSIN] *= 1 - 0.75 * cover
    clumps = blobs(rng, x.shape, kind.grain_um * per_um)
    specks = np.clip(clumps + 1.0, -1.0, 0)  # light gaps in dark chromatin
    wide = blobs(rng, x.shape, 4 * kind.grain_um * per_um)
    texture = kind.contrast * (0.5 * np.clip(clumps, -1.5, 1.2) + 0.8 * specks + 0.25 * wide + 0.15)
    border = kind.border * np.exp(-((level + 0.15) ** 2) / 0.3**2 / 2)
    amount = rng.uniform(*kind.dna) * (1 + texture + border)
    for _ in range(rng.integers(kind.nucleoli[0], kind.nucleoli[1] + 1)):
        turn, reach, size = rng.uniform(0, 2 * pi), sqrt(area) * rng.uniform(0.0, 0.3), rng.uniform(0.5, 1.0)
        spot = edge(np.hypot(x - reach * cos(turn), y - reach * sin(turn)) - size, 0.5)
        amount = amount * (1 - 0.3 * spot)
        dyes[RNA] += 0.08 * spot * cover
    dyes[DNA] += cover * np.clip(amount, 0.05, None)
    return cover


def _paint_granules(
    dyes: FloatMap, row: Granules, rng: np.random.Generator, body: FloatMap, nucleus: FloatMap, per_um: float
) -> None:
    """Paint one kind of granule into the cytoplasm, and thinner over the nucleus."""
    h, w = body.shape
    spots = np.zeros((h, w), np.float32)
    count = rng.poisson(rng.uniform(*row.per_um2) * h * w / per_um**2)
    ys, xs = rng.integers(0, h, count), rng.integers(0, w, count)
    density = 1 + row.patchy * blobs(rng, (h, w), 1.2 * per_um)
    keep = rng.random(count) < np.clip(0.75 * density[ys, xs], 0, 1)
    np.add.at(spots, (ys[keep], xs[keep]), 1.0)
    sigma = max(0.5, 0.6 * row.radius_um * per_um)
    spots = ndimage.gaussian_filter(spots, sigma, truncate=3.0) * (2 * pi * sigma**2)  # a lone granule peaks at 1
    spots = np.clip((spots - 0.15) / 0.7, 0, 1.5) * body * (1 - (1 - row.over_nucleus) * nucleus)
    for dye, amount in ((DNA, row.dna), (RNA, row.rna), (EOSIN, row.eosin)):
        if amount:
            dyes[dye] += amount * spots


def _paint_rod(
    dyes: FloatMap, rng: np.random.Generator, x: FloatMap, y: FloatMap, cytoplasm: FloatMap, radius: float
) -> None:
    """Paint an Auer rod, a thin red needle of 3 to 6 micrometres, where it lies in the cytoplasm."""
    turn, reach, heading = rng.uniform(0, 2 * pi), radius * rng.uniform(0.6, 0.85), rng.uniform(0, pi)
    u, v = x - reach * cos(turn), y - reach * sin(turn)
    along, across = u * cos(heading) + v * sin(heading), v * cos(heading) - u * sin(heading)
    beyond = np.clip(np.abs(along) - rng.uniform(1.5, 3.0), 0, None)
    needle = cytoplasm * edge(np.hypot(beyond, across) - 0.2, 0.3)
    dyes[DNA] += 0.3 * needle
    dyes[EOSIN] += 0.25 * needle


def _paint_smear(
    dyes: FloatMap,
    row: Morphology,
    rng: np.random.Generator,
    x: FloatMap,
    y: FloatMap,
    level: FloatMap,
    radius: float,
    per_um: float,
) -> FloatMap:
    """Paint a burst cell: a net of chromatin without a border, with strands; return its coverage 0..1."""
    kind, turn = row.nuclei[0], rng.uniform(0, 2 * pi)
    along, across = x * cos(turn) + y * sin(turn), y * cos(turn) - x * sin(turn)
    drawn = float(rng.choice((0.0, 0.3, 1.0, 1.0)))  # how far one side is drawn out
    pull = drawn * np.clip(along / radius + 0.3, 0, 1.5)
    fan = across / np.clip(1 + 0.35 * along / radius, 0.5, None) + 0.4 * blobs(rng, x.shape, 1.5 * per_um)
    fibres = streaks(rng, along, fan, rng.uniform(0.16, 0.26), rng.uniform(2.5, 5.0))
    level = level + 0.06 * radius * blobs(rng, x.shape, rng.uniform(0.2, 0.35) * radius * per_um)
    level = level - 0.35 * pull * np.clip(fibres, -1.5, 2)  # the drawn-out side frays
    softness = radius * (float(rng.choice((0.05, 0.12, 0.3))) + 0.25 * pull)
    body = edge(level / softness, 1.0)
    net = blobs(rng, x.shape, kind.grain_um * per_um)
    wide = blobs(rng, x.shape, 1.6 * per_um)
    border = kind.border * np.exp(-((level + 0.2) ** 2) / 0.3**2 / 2)
    texture = kind.contrast * (net + (0.1 + 0.7 * pull) * fibres) + 0.2 * wide + border
    amount = rng.uniform(*kind.dna) * np.clip(1 + texture, 0.1, None)
    dyes *= 1 - 0.8 * body
    # chromatin that ran out: a haze on all sides, strands on one
    out = np.clip(level, 0, None)
    haze = rng.uniform(0.03, 0.15) * np.exp(-out / (0.25 * radius)) * np.clip(1 + 0.5 * wide, 0, None)
    strands = 0.8 * np.clip(fibres - 0.2, 0, 1.2) * np.exp(-out / (0.1 + rng.uniform(0.2, 0.5) * radius * pull))
    dyes[DNA] += (body + (1 - body) * (haze + np.minimum(pull, 1) * strands)) * amount
    pink = rng.uniform(*row.eosin) * np.clip(1 + 0.3 * wide + 0.2 * fibres, 0, None)
    dyes[EOSIN] += (body + (1 - body) * haze) * pink
    return body


def develop(
    canvas: Canvas, stain: Stain, rng: np.random.Generator, blur_um: float, sharpen: float, noise: float
) -> NDArray[np.uint8]:
    """Turn dye amounts into RGB pixels, (H, W, 3): stain, light, lens, sensor."""
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
    return np.ascontiguousarray(pixels)
