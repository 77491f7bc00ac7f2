"""Outline: the geometry of a smear: shapes as signed distances, and the noise that roughens them.

What comes in are pixel offsets in micrometres and a numpy Generator; what goes out are float32 maps, negative inside a
shape, or the soft coverage of its inside. No dye and no colour here: `train.paint` fills the shapes.
"""

from __future__ import annotations

from math import cos, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .morphology import Nucleus

FloatMap = NDArray[np.float32]


def outline(
    x: FloatMap,
    y: FloatMap,
    radius: float,
    wobble: float,
    rng: np.random.Generator,
    aspect: float = 1.0,
    crenated: float = 0.0,
) -> FloatMap:
    """Return about the signed distance to a roundish outline, (h, w) float32 micrometres, negative inside."""
    turn, stretch = rng.uniform(0, pi), sqrt(aspect)
    u = (x * cos(turn) + y * sin(turn)) / stretch
    v = (y * cos(turn) - x * sin(turn)) * stretch
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


def edge(level: FloatMap, width: float) -> FloatMap:
    """Return the coverage 0..1 of the inside of a signed distance, soft over `width`."""
    t = np.clip(0.5 - level / np.float32(width), 0, 1)
    cover: FloatMap = (t * t * (3 - 2 * t)).astype(np.float32)
    return cover


def smooth_max(a: FloatMap, b: FloatMap, width: float, sign: float = 1.0) -> FloatMap:
    """Return the maximum (sign -1: minimum) of two distances with the corner rounded over `width`."""
    blend = np.clip(width - np.abs(a - b), 0, None) ** 2 / (4 * width)
    rounded: FloatMap = np.float32(1) * (np.maximum(a, b) + blend) if sign > 0 else (np.minimum(a, b) - blend)
    return rounded


def place_lobes(kind: Nucleus, rng: np.random.Generator) -> NDArray[np.float64]:
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


def lobes_level(x: FloatMap, y: FloatMap, lobes: NDArray[np.float64], kind: Nucleus) -> FloatMap:
    """Return the signed distance to lobes and the bridges between them, (h, w) micrometres, negative inside."""
    radius = float(lobes[:, 2].mean())
    waist = (kind.waist[0] + kind.waist[1]) / 2
    rounding = radius * (0.08 if waist < 0.6 else 0.2)
    level = np.full(x.shape, 1e3, np.float32)
    places = lobes.tolist()  # Python numbers keep the maps float32
    for i, (lx, ly, lr) in enumerate(places):
        lobe = np.sqrt((x - lx) ** 2 + (y - ly) ** 2) - lr
        level = smooth_max(level, lobe, rounding, sign=-1.0)
        if i:
            ax, ay, ar = places[i - 1]
            bx, by = lx - ax, ly - ay
            along = np.clip(((x - ax) * bx + (y - ay) * by) / (bx * bx + by * by + 1e-9), 0, 1)
            bridge = np.sqrt((x - ax - along * bx) ** 2 + (y - ay - along * by) ** 2) - waist * min(ar, lr)
            level = smooth_max(level, bridge, 0.25 * waist * radius, sign=-1.0)
    return level.astype(np.float32)


def blobs(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> FloatMap:
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


def streaks(rng: np.random.Generator, along: FloatMap, across: FloatMap, width: float, length: float) -> FloatMap:
    """Return noise of about unit deviation drawn out along one axis, (h, w) float32: fibres `width` by `length`."""
    tile = blobs(rng, (96, 96), 1.2)
    at = np.stack([across / np.float32(width) + 48, along / np.float32(length) + 48])
    fibres: FloatMap = ndimage.map_coordinates(tile, at, order=1, mode="grid-wrap")
    return fibres
