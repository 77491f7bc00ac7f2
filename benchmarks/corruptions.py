"""Corruptions: what goes wrong between a smear and a file - out of focus, too dark, no stain - each by a known amount.

What comes in is one clean picture; what goes out is one of the same size, spoilt. Light is spoilt as light: blur and
exposure work on linear intensities, where lenses and shutters do, and only then are there 256 grey levels again. How
large a blur is, is said in red-cell diameters, so that one table serves crops and fields of any magnification. The
table is the documentation; whoever judges a gate or an abstention iterates over it. Nothing is judged here: which
severity makes a picture unusable is measured by ``benchmarks.quality`` from what a network's answers are still worth,
except for the rows of `HOLDS_NOTHING`, in which no cell is left to be classified.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from edge_runtime.masks import distance_to
from edge_runtime.preprocess import Pixels
from edge_runtime.stain import STAINED, optical_density

Floats = npt.NDArray[np.float32]

RED_CELL_PX = {"cell": 60.0, "field": 16.0}
"""Task kind -> diameter of a red cell in the prepared pictures of its shipped bundle, at 224 px: medians of 60 training
pictures by `edge_runtime.cells`, rounded."""

_LINEAR = np.array([v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in range(256)], np.float32)
"""Grey level of sRGB -> light, 0..1."""


@dataclass(frozen=True)
class Corruption:
    """One way to spoil a picture.

    Attributes:
        reason: row of `edge_runtime.refusal.REASONS` that a gate should give, or one of them.
        unit: of the severity.
        severities: tried, from mild to strong; ``(0,)`` where there is only one.
        text: what is done.
        apply: (pixels (H, W, 3) uint8, severity, generator, diameter of a red cell in pixels) -> (H, W, 3) uint8.
    """

    reason: str
    unit: str
    severities: tuple[float, ...]
    text: str
    apply: Callable[[Pixels, float, np.random.Generator, float], Pixels]


def linear(pixels: Pixels) -> Floats:
    """Return light, 0..1 float32, of sRGB pixels."""
    light: Floats = _LINEAR[pixels]
    return light


def to_pixels(light: Floats) -> Pixels:
    """Return sRGB pixels of light; what is more than 1 is clipped."""
    light = light.clip(0, 1)
    return _rounded(255 * np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light))


def _rounded(levels: npt.NDArray[np.floating]) -> Pixels:
    return levels.round().clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------- blur


def disc_blur(pixels: Pixels, radius: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Put a picture out of focus: every point becomes a disc; what lies beyond the border mirrors what lies within."""
    radius *= red_cell_px
    reach, fine = int(np.ceil(radius)), 5
    at = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5  # sub-pixels, so that small discs are discs
    disc = (at[:, None] ** 2 + at**2 <= radius**2).reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    return _convolved(pixels, disc)


def gaussian_blur(pixels: Pixels, sigma: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Blur by a Gaussian, as an enlarged or over-compressed picture is."""
    sigma *= red_cell_px
    return to_pixels(gaussian_filter(linear(pixels), (sigma, sigma, 0)))


def motion_blur(pixels: Pixels, length: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Move the stage while the shutter is open: along a straight line of any direction."""
    length *= red_cell_px
    angle, reach = rng.uniform(0, np.pi), int(np.ceil(length / 2)) + 1
    along = np.linspace(-length / 2, length / 2, max(3, 8 * reach))
    line = np.zeros((2 * reach + 1, 2 * reach + 1))
    y, x = along * np.sin(angle) + reach, along * np.cos(angle) + reach
    for dy in (0, 1):
        for dx in (0, 1):  # each point of the way falls on the four pixels around it
            row, column = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            np.add.at(line, (row, column), (1 - abs(y - row)) * (1 - abs(x - column)))
    return _convolved(pixels, line)


def _convolved(pixels: Pixels, kernel: npt.NDArray[np.floating]) -> Pixels:
    reach = kernel.shape[0] // 2
    padded = np.pad(linear(pixels), ((reach, reach), (reach, reach), (0, 0)), "symmetric")
    kernel = (kernel / kernel.sum()).astype(np.float32)[:, :, None]
    return to_pixels(fftconvolve(padded, kernel, mode="valid", axes=(0, 1)))


def noisy_disc_blur(pixels: Pixels, radius: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Put a picture out of focus, then add a cheap sensor's noise, which has edges of its own."""
    return sensor_noise(disc_blur(pixels, radius, rng, red_cell_px), 5, rng, red_cell_px)


def compressed_disc_blur(pixels: Pixels, radius: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Put a picture out of focus, then compress it, so that its blocks have edges."""
    return jpeg(disc_blur(pixels, radius, rng, red_cell_px), 50, rng, red_cell_px)


# ------------------------------------------------------------------------------------------------ exposure, stain


def exposure(pixels: Pixels, gain: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Multiply the light of all channels."""
    return to_pixels(linear(pixels) * np.float32(gain))


def clipped_channel(pixels: Pixels, gain: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Multiply the light of one channel, any of the three."""
    factors = np.ones(3, np.float32)
    factors[rng.integers(3)] = gain
    return to_pixels(linear(pixels) * factors)


def faded(pixels: Pixels, share: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Take away a share of every optical density: stain that was washed out, against the picture's own background."""
    white = np.maximum(linear(np.percentile(pixels, 95, axis=(0, 1)).astype(np.uint8)), 1e-3)
    light = np.maximum(linear(pixels), 1e-4)
    return to_pixels(white * (light / white) ** np.float32(1 - share))


def greyed(pixels: Pixels, share: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Take away a share of all colour: a grey camera, or a wrong filter."""
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    return _rounded(pixels + np.float32(share) * (grey[:, :, None] - pixels))


# ------------------------------------------------------------------------------------------- noise, nothing there


def sensor_noise(pixels: Pixels, sigma: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Add noise to every pixel and channel by itself, normal, in grey levels."""
    return _rounded(pixels + rng.normal(0, sigma, pixels.shape))


def jpeg(pixels: Pixels, quality: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Compress and decompress."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=int(quality))
    return np.asarray(Image.open(stream))


def empty_field(pixels: Pixels, severity: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Leave the background alone: the picture's largest square without stain, mirrored until it fills the picture.

    Where there is no such square, pixels without stain are drawn one by one, a little blurred.
    """
    height, width = pixels.shape[:2]
    stained = optical_density(pixels)[:, :, 1] > STAINED // 2
    depth = distance_to(stained, 64)
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    half = int(0.6 * depth[y, x])
    patch = pixels[max(0, y - half) : y + half, max(0, x - half) : x + half]
    if half >= 6 and min(patch.shape[:2]) >= 6:
        rows, columns = (
            np.pad(np.arange(side), (0, full), "symmetric")
            for side, full in zip(patch.shape[:2], (height, width), strict=True)
        )
        return np.ascontiguousarray(patch[rows[:height]][:, columns[:width]])
    bare = pixels[~stained]
    drawn = bare[rng.integers(len(bare), size=(height, width))].astype(np.float32)
    return _rounded(gaussian_filter(drawn, (1, 1, 0)))


def uniform_noise(pixels: Pixels, severity: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Draw every level of every pixel and channel."""
    return rng.integers(256, size=pixels.shape, dtype=np.uint8)


def constant_colour(pixels: Pixels, severity: float, rng: np.random.Generator, red_cell_px: float) -> Pixels:
    """Draw one colour for the whole picture: a closed shutter, a covered lens, a blue screen."""
    return np.broadcast_to(rng.integers(256, size=3, dtype=np.uint8), pixels.shape).copy()


_BLURS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)

CORRUPTIONS: dict[str, Corruption] = {
    "disc blur": Corruption("blurred", "radius, red-cell diameters", _BLURS, "out of focus", disc_blur),
    "gaussian blur": Corruption("blurred", "sigma, red-cell diameters", _BLURS, "blurred by a Gaussian", gaussian_blur),
    "motion blur": Corruption(
        "blurred", "length, red-cell diameters", (0.05, 0.1, 0.2, 0.3, 0.5, 0.8), "the stage moves", motion_blur
    ),
    "disc blur, noise": Corruption(
        "blurred", "radius, red-cell diameters", _BLURS, "out of focus, then noise of 5 grey levels", noisy_disc_blur
    ),
    "disc blur, JPEG": Corruption(
        "blurred", "radius, red-cell diameters", _BLURS, "out of focus, then JPEG of quality 50", compressed_disc_blur
    ),
    "under-exposure": Corruption("too dark", "gain", (0.7, 0.5, 0.35, 0.25, 0.12, 0.06, 0.03), "less light", exposure),
    "over-exposure": Corruption("too bright", "gain", (1.2, 1.5, 2.0, 3.0, 5.0, 8.0), "more light, clipped", exposure),
    "clipped channel": Corruption(
        "clipped", "gain", (1.2, 1.5, 2.0, 4.0, 8.0, 1000.0), "more light in one channel, clipped", clipped_channel
    ),
    "dark channel": Corruption("clipped", "gain", (0.5, 0.25, 0.1, 0.0), "less light in one channel", clipped_channel),
    "faded stain": Corruption(
        "no stain", "share of the optical density", (0.3, 0.5, 0.7, 0.8, 0.9, 0.95), "stain washed out", faded
    ),
    "grey": Corruption("no stain", "share of the colour", (0.5, 0.8, 1.0), "colour lost", greyed),
    "sensor noise": Corruption("blurred", "sigma, grey levels", (3, 6, 12, 24, 48, 96), "noise added", sensor_noise),
    "JPEG": Corruption("blurred", "quality", (75, 50, 30, 10, 5), "compressed", jpeg),
    "empty field": Corruption("empty field", "", (0,), "background alone", empty_field),
    "uniform noise": Corruption("empty field", "", (0,), "every level drawn", uniform_noise),
    "constant colour": Corruption("empty field", "", (0,), "one colour", constant_colour),
}

HOLDS_NOTHING = ("empty field", "uniform noise", "constant colour")
"""Unusable by definition: there is no cell in them, so that no answer can be right."""


def corrupted(pixels: Pixels, name: str, severity: float, seed: int, red_cell_px: float) -> Pixels:
    """Spoil one picture; the same arguments give the same bytes.

    Args:
        pixels: (H, W, 3) uint8, clean.
        name: row of `CORRUPTIONS`.
        severity: in that row's unit.
        seed: such as the picture's number. All severities draw alike: the same channel is clipped, more and more.
        red_cell_px: diameter of a red cell in this picture, pixels.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    return CORRUPTIONS[name].apply(pixels, severity, rng, red_cell_px)
