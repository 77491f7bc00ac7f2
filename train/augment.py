"""Augmentation: what a different microscope, stain, camera or slide position would have made of the same field.

What comes in is a batch of prepared pixels and a seeded generator; what goes out is the same batch, changed, still
pixels 0..255 (float), at the size asked for. It works on whole batches as tensors, on whatever device they are on: a
per-picture pipeline costs more than MobileNetV2's own step on a small machine. Labels are never touched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_runtime.preprocess import Pixels

# Columns: optical density (R, G, B) of haematoxylin, eosin and a residual, Ruifrok & Johnston 2001.
STAINS = ((0.65, 0.07, 0.27), (0.70, 0.99, 0.57), (0.29, 0.11, 0.78))


@dataclass(frozen=True)
class Augmentation:
    """Strengths; 0 switches a part off.

    Attributes:
        stain: standard deviation of the factor on each stain's optical density, and half of it as an offset's
            (Tellez et al. 2018).
        hue: largest turn of the hue, as a share of the full circle.
        saturation: largest relative change.
        brightness: largest relative change of each channel's white level.
        gamma: largest exponent is ``exp(gamma)``.
        scale: largest zoom in or out is a factor ``exp(scale)``.
        shift: largest move, share of the side.
        blur_sigma: largest, pixels.
        noise: largest standard deviation of sensor noise, grey levels.
        jpeg: share of the pictures that are compressed again.
        blank: share of the pictures whose burnt-in mark is blanked.
    """

    stain: float = 0.15
    hue: float = 0.06
    saturation: float = 0.35
    brightness: float = 0.08
    gamma: float = 0.25
    scale: float = 0.22
    shift: float = 0.06
    blur_sigma: float = 1.5
    noise: float = 6.0
    jpeg: float = 0.2
    blank: float = 0.8


Chance = Callable[..., Tensor]
"""Uniform random numbers 0..1 of the given shape."""

Boxes = Sequence[tuple[float, float, float, float] | None]
"""Per picture: (left, top, width, height) of a burnt-in mark as shares of the side, or None."""


def blank_burnt_in(pixels: Pixels, boxes: Boxes) -> Pixels:
    """Cover burnt-in marks with the strip of field right above them.

    Args:
        pixels: (N, H, W, 3) uint8.
        boxes: N boxes.

    Returns:
        (N, H, W, 3) uint8, a copy.
    """
    blanked = np.array(pixels)
    side = blanked.shape[1]
    for picture, box in zip(blanked, boxes, strict=True):
        if box is not None:
            left, top, width, height = (round(side * share) for share in box)
            picture[top : top + height, left : left + width] = picture[top - height : top, left : left + width].copy()
    return blanked


def recompress(pixels: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """Send a share of the pictures through JPEG at quality 40 to 95.

    Args:
        pixels: (N, H, W, 3) uint8.
        share: 0..1.
        random: source of chance.

    Returns:
        (N, H, W, 3) uint8, a copy.
    """
    from PIL import Image

    out = np.array(pixels)
    for i in np.flatnonzero(random.random(len(out)) < share):
        stream = io.BytesIO()
        Image.fromarray(out[i]).save(stream, "JPEG", quality=int(random.integers(40, 96)))
        out[i] = np.asarray(Image.open(stream))
    return out


def augment(pixels: Tensor, out_px: int, strength: Augmentation, generator: torch.Generator) -> Tensor:
    """Change stain, light, geometry, sharpness and noise at random.

    Args:
        pixels: (N, H, W, 3) uint8.
        out_px: side of the result; geometry and resizing are one interpolation.
        strength: how much.
        generator: on the CPU, seeded by the caller.

    Returns:
        (N, out_px, out_px, 3) float32, 0..255.
    """

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(pixels.device)

    picture = pixels.permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W), 0..1
    picture = _move(picture, out_px, strength, chance)
    picture = _stain(picture, strength, chance)
    picture = _blur(picture, strength, chance)
    sigma = strength.noise / 255 * chance(len(picture), 1, 1, 1) ** 2
    noise = torch.randn(picture.shape, generator=generator).to(pixels.device)
    return ((picture + sigma * noise).clamp(0, 1) * 255).permute(0, 2, 3, 1)


def resize(pixels: Tensor, out_px: int) -> Tensor:
    """Resize without augmenting: (N, H, W, 3) uint8 -> (N, out_px, out_px, 3) float32, 0..255."""
    if pixels.shape[1] == out_px:
        return pixels.float()
    picture = pixels.permute(0, 3, 1, 2).float()
    resized = F.interpolate(picture, size=(out_px, out_px), mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1)


def _move(picture: Tensor, out_px: int, strength: Augmentation, chance: Chance) -> Tensor:
    """Turn by any angle, mirror, zoom and shift; outside is a mirror image."""
    n = len(picture)
    angle = chance(n) * 2 * math.pi
    zoom = torch.exp((chance(n) * 2 - 1) * strength.scale)
    mirror = (chance(n) < 0.5).float() * 2 - 1
    move = (chance(n, 2) * 2 - 1) * 2 * strength.shift
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = torch.stack([cos * mirror, -sin, move[:, 0], sin * mirror, cos, move[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(rows, [n, 3, out_px, out_px], align_corners=False)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _stain(picture: Tensor, strength: Augmentation, chance: Chance) -> Tensor:
    """Scale each stain's optical density, then turn hue, saturation, white level and gamma."""
    n = len(picture)

    def around(size: float, channels: int) -> Tensor:
        return (chance(n, channels) * 2 - 1) * size

    stains = torch.tensor(STAINS, device=picture.device)
    stains = stains / stains.norm(dim=0, keepdim=True)
    density = -torch.log(picture.clamp(min=1 / 255))  # (N, 3, H, W)
    # uniform of half-width sqrt(3) s has standard deviation s
    factor = 1 + around(math.sqrt(3) * strength.stain, 3)
    mixing = stains @ (factor.unsqueeze(2) * torch.linalg.inv(stains))  # (N, 3, 3)
    offset = (stains @ around(math.sqrt(3) * strength.stain / 2, 3).unsqueeze(2)).view(n, 3, 1, 1) * 0.2
    density = torch.einsum("nij,njhw->nihw", mixing, density) * torch.exp(around(strength.gamma, 1)).view(n, 1, 1, 1)
    picture = torch.exp(-(density + offset).clamp(min=0))

    # hue and saturation as one linear map in YIQ
    turn = around(strength.hue, 1)[:, 0] * 2 * math.pi
    size = 1 + around(strength.saturation, 1)[:, 0]
    yiq = torch.tensor(
        ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)), device=picture.device
    )
    middle = torch.zeros(n, 3, 3, device=picture.device)
    middle[:, 0, 0] = 1
    middle[:, 1, 1] = middle[:, 2, 2] = torch.cos(turn) * size
    middle[:, 1, 2], middle[:, 2, 1] = -torch.sin(turn) * size, torch.sin(turn) * size
    colour = torch.linalg.inv(yiq) @ middle @ yiq
    picture = torch.einsum("nij,njhw->nihw", colour, picture)
    return (picture * (1 + around(strength.brightness, 3)).view(n, 3, 1, 1)).clamp(0, 1)


def _blur(picture: Tensor, strength: Augmentation, chance: Chance) -> Tensor:
    """Blur a third of the pictures, one sigma for each block of eight (one convolution per block)."""
    blurred = []
    for block in picture.split(8):
        sigma = float(chance(1)) * strength.blur_sigma * 3 - 2 * strength.blur_sigma
        if sigma > 0.2:
            radius = math.ceil(2.5 * sigma)
            x = torch.arange(-radius, radius + 1, device=block.device, dtype=block.dtype)
            kernel = torch.exp(-(x**2) / (2 * sigma**2))
            kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
            block = F.pad(block, (radius, radius, radius, radius), mode="reflect")
            block = F.conv2d(F.conv2d(block, kernel, groups=3), kernel.transpose(2, 3), groups=3)
        blurred.append(block)
    return torch.cat(blurred)
