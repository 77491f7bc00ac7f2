"""Standardise: take out of prepared pixels what the laboratory put in - its stain, and what lies around the cells.

What comes in are pixels at the network's input size; what goes out are pixels of the same size. `preprocess.prepare`
calls this last, in training and on the device, where the preprocessing asks for it. Which cells are kept is decided on
the pixels as they came, by `edge_runtime.cells`, in integers: the same bits on every machine. Stains are moved in
float64, whose last bits may differ between machines; that changes a rounded grey level about once in 10^10 pixels.

The stain is moved as a whole (Reinhard). Unmixing two stains (Macenko et al. 2009) was tried and left out: a smear has
azure, eosin and haemoglobin, and with two of them an eosinophil's granules come out as blue as a basophil's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .cells import central_cell, find_cells
from .masks import Mask, distance_to, resized
from .preprocess import Pixels, Preprocess

NEUTRAL_RGB = (240, 240, 240)
"""What stands for the background. The colour of an empty field, not the network's zero (128): a cell cut out too widely
still looks like one on an empty field, there is no seam that pretrained filters would see, and a change of stain, which
scales optical densities, leaves it alone."""

MARGIN, FADE = 2 / 224, 6 / 224
"""Kept around a cell, and then faded into the background, as shares of the side: outlines are a pixel or two off."""

Float = npt.NDArray[np.float64]


def standardise(pixels: Pixels, preprocess: Preprocess) -> Pixels:
    """Move the stain and blank the background, as the preprocessing asks for.

    Args:
        pixels: (H, W, 3) uint8, prepared, as they came.
        preprocess: the bundle's or run's.

    Returns:
        (H, W, 3) uint8; `pixels` itself where both are kept.
    """
    kept = KEPT[preprocess.background](pixels)
    moved = MOVED[preprocess.stain](pixels)
    return moved if kept is None else neutralised(moved, kept)


def neutralised(pixels: Pixels, kept: Mask) -> Pixels:
    """Make everything outside a mask `NEUTRAL_RGB`, with a soft margin.

    Args:
        pixels: (H, W, 3) uint8.
        kept: (H, W) bool; nothing is kept where it is empty.

    Returns:
        (H, W, 3) uint8.
    """
    side = max(kept.shape)
    margin, fade = MARGIN * side, max(1.0, FADE * side)
    distance = distance_to(kept, int(margin + fade) + 2)
    share = (256 * ((margin + fade - distance) / fade).clip(0, 1)).astype(np.int32)[:, :, None]  # of 256
    blended: Pixels = ((pixels * share + np.array(NEUTRAL_RGB, np.int32) * (256 - share) + 128) >> 8).astype(np.uint8)
    return blended


def _white_cells(pixels: Pixels) -> Mask:
    return resized(find_cells(pixels).labels > 0, pixels.shape[1], pixels.shape[0])


# ------------------------------------------------------------------------------------------------------ Reinhard

REINHARD_MEAN, REINHARD_DEVIATION = (75.0, 13.5, 3.0), (20.0, 11.5, 19.0)
"""L, a and b that `reinhard` moves to: medians of 300 crops of healthy donors' cells (Acevedo et al. 2020), rounded."""

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_RGB = (
    (3.24048134, -1.53715152, -0.49853633),
    (-0.96925495, 1.87599, 0.04155593),
    (0.05564664, -0.20404134, 1.05731107),
)
_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees
_LINEAR = np.array([v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in range(256)])


def reinhard(pixels: Pixels) -> Pixels:
    """Give L, a and b the reference's mean and standard deviation (Reinhard et al. 2001, in CIELAB).

    Args:
        pixels: (H, W, 3) uint8 sRGB.

    Returns:
        (H, W, 3) uint8.
    """
    lab = []
    for channel, mean, deviation in zip(_to_lab(pixels), REINHARD_MEAN, REINHARD_DEVIATION, strict=True):
        spread = channel.std()
        scale = deviation / spread if spread > 1e-6 else 1.0  # an empty field has nothing to spread
        lab.append((channel - channel.mean()) * scale + mean)
    return _from_lab(*lab)


def _mixed(rows: tuple[tuple[float, ...], ...], channels: list[Float]) -> list[Float]:
    """Multiply by a 3 x 3 matrix, pixel by pixel: single operations, where a library's product may be any."""
    return [a * channels[0] + b * channels[1] + c * channels[2] for a, b, c in rows]


def _to_lab(pixels: Pixels) -> list[Float]:
    """Return L (0..100), a and b of sRGB pixels: three (H, W) float64."""
    linear = [_LINEAR[pixels[:, :, c]] for c in range(3)]
    x, y, z = (channel / white for channel, white in zip(_mixed(_XYZ, linear), _WHITE, strict=True))
    x, y, z = (np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116) for t in (x, y, z))
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def _from_lab(lightness: Float, a: Float, b: Float) -> Pixels:
    y = (lightness + 16) / 116
    xyz = []
    for t, white in zip((y + a / 500, y, y - b / 200), _WHITE, strict=True):
        xyz.append(np.where(t > 0.2068966, t * t * t, (t - 16 / 116) / 7.787) * white)
    out = np.empty((*lightness.shape, 3), np.uint8)
    for c, linear in enumerate(_mixed(_RGB, xyz)):
        linear = linear.clip(0, 1)
        out[:, :, c] = np.rint(255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear))
    return out


# -------------------------------------------------------------------------------------------------------- tables

KEPT: dict[str, Callable[[Pixels], Mask | None]] = {
    "keep": lambda pixels: None,
    "neutral-cell": lambda pixels: central_cell(pixels).cell,
    "neutral-field": _white_cells,
}
"""Row of `preprocess.BACKGROUNDS` -> what is kept of the picture; None: all."""

MOVED: dict[str, Callable[[Pixels], Pixels]] = {
    "keep": lambda pixels: pixels,
    "reinhard": reinhard,
}
"""Row of `preprocess.STAINS` -> what moves a picture's stain."""
