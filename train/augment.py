"""Augmentation: what a different microscope, stain, camera or slide position would have made of the same field.

What comes in is a batch of prepared pixels and a seeded source of chance; what goes out is the same batch, changed,
still pixels 0..255 (float), at the size asked for. It works on whole batches as tensors, on whatever device they are
on: a per-picture pipeline costs more than MobileNetV2's own step on a small machine. Labels are never touched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        turn: largest turn, as a share of the full circle.
        mirror: share of the pictures that are mirrored.
        scale: largest zoom in or out is a factor ``exp(scale)``.
        shift: largest move, share of the side.
        stain: standard deviation of the factor on each stain's optical density, and half of it as an offset's
            (Tellez et al. 2018).
        hue: largest turn of the hue, as a share of the full circle.
        saturation: largest relative change.
        brightness: largest relative change of each channel's white level.
        gamma: largest exponent is ``exp(gamma)``.
        blur_sigma: largest, pixels.
        noise: largest standard deviation of sensor noise, grey levels.
        jpeg: share of the pictures that are compressed again.
        blank: share of the pictures whose burnt-in mark is blanked.
        background: share of the single-cell pictures whose cell is put on another picture's background.
    """

    turn: float = 0.5
    mirror: float = 0.5
    scale: float = 0.22
    shift: float = 0.06
    stain: float = 0.15
    hue: float = 0.06
    saturation: float = 0.35
    brightness: float = 0.08
    gamma: float = 0.25
    blur_sigma: float = 1.5
    noise: float = 6.0
    jpeg: float = 0.2
    blank: float = 0.8
    background: float = 0.0


_NOTHING = Augmentation(**dict.fromkeys(Augmentation.__dataclass_fields__, 0.0))

AUGMENTATIONS: dict[str, Augmentation] = {
    "none": _NOTHING,
    "geometry": replace(_NOTHING, turn=0.5, mirror=0.5, scale=0.22, shift=0.06),
    "full": Augmentation(),
    "background": Augmentation(background=0.5),
    "strong": Augmentation(hue=0.12, saturation=0.5, blur_sigma=2.5, background=0.5),
}
"""By name, for the command line: nothing; position and size only; all but the background; all; all, with the colour and
sharpness of cameras further apart."""


class Chance:
    """Random numbers for a batch of which this process holds only some pictures.

    Every process draws for the whole batch and keeps its own rows, so a picture is changed in the same way however
    many processes share the batch.

    Args:
        seed: anything `numpy.random.default_rng` takes.
        batch: pictures in the whole batch.
        rows: which of them are held here.
        device: where the numbers are wanted.
    """

    def __init__(self, seed: Sequence[int], batch: int, rows: slice, device: torch.device) -> None:
        self.numpy = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(int(self.numpy.integers(2**62)))
        self.batch, self.rows, self.device = batch, rows, device

    def __call__(self, *shape: int) -> Tensor:
        """Return uniform numbers 0..1 per picture held here: (n, *shape)."""
        return torch.rand((self.batch, *shape), generator=self._generator)[self.rows].to(self.device)

    def around(self, size: float, *shape: int) -> Tensor:
        """Return uniform numbers -size..size per picture held here: (n, *shape)."""
        return (self(*shape) * 2 - 1) * size

    def normal(self, *shape: int) -> Tensor:
        """Return normal numbers, the same for every process: `shape`."""
        return torch.randn(shape, generator=self._generator).to(self.device)


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


def recompress(pixels: Pixels, share: float, chance: Chance) -> Pixels:
    """Send a share of the pictures through JPEG at quality 40 to 95.

    Args:
        pixels: (N, H, W, 3) uint8.
        share: 0..1.
        chance: of the batch.

    Returns:
        (N, H, W, 3) uint8, a copy.
    """
    from PIL import Image

    chosen, quality = chance().cpu().numpy() < share, 40 + (chance() * 56).int().cpu().numpy()
    out = np.array(pixels)
    for i in np.flatnonzero(chosen):
        stream = io.BytesIO()
        Image.fromarray(out[i]).save(stream, "JPEG", quality=int(quality[i]))
        out[i] = np.asarray(Image.open(stream))
    return out


def replace_background(pixels: Tensor, masks: Tensor, donors: Tensor, donor_masks: Tensor, chosen: Tensor) -> Tensor:
    """Put cells on the background of other pictures, so that the background says nothing about the class.

    Args:
        pixels: (N, H, W, 3) uint8, a cell in the middle of each.
        masks: (N, H, W) bool, true on the cell.
        donors: (N, H, W, 3) uint8, whose backgrounds are taken; the donor's own cell is filled with its background's
            mean colour.
        donor_masks: (N, H, W) bool, true on the donor's cell.
        chosen: (N,) bool, which pictures are changed.

    Returns:
        (N, H, W, 3) uint8; a picture without a cell or background, or whose donor has none, stays as it is.
    """
    usable = chosen & _split_in_two(masks) & _split_in_two(donor_masks)
    numbers = usable.nonzero()[:, 0]
    if not len(numbers):
        return pixels
    cell, donor = pixels[numbers].float(), donors[numbers].float()
    empty = (~donor_masks[numbers]).float().unsqueeze(3)
    mean = (donor * empty).sum((1, 2), keepdim=True) / empty.sum((1, 2), keepdim=True)
    field = donor * empty + mean * (1 - empty)
    soft = F.avg_pool2d(masks[numbers].float().unsqueeze(1), 5, stride=1, padding=2).permute(0, 2, 3, 1)
    changed = pixels.clone()
    changed[numbers] = (cell * soft + field * (1 - soft)).round().to(torch.uint8)
    return changed


def _split_in_two(masks: Tensor) -> Tensor:
    """Say which masks have both a cell and a background worth the name: (N,) bool."""
    share = masks.float().mean((1, 2))
    return (share > 0.03) & (share < 0.9)


def augment(pixels: Tensor, out_px: int, strength: Augmentation, chance: Chance) -> Tensor:
    """Change stain, light, geometry, sharpness and noise at random.

    Args:
        pixels: (N, H, W, 3) uint8.
        out_px: side of the result; geometry and resizing are one interpolation.
        strength: how much.
        chance: of the batch.

    Returns:
        (N, out_px, out_px, 3) float32, 0..255.
    """
    picture = pixels.permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W), 0..1
    picture = _move(picture, out_px, strength, chance)
    picture = _stain(picture, strength, chance)
    picture = _blur(picture, strength, chance)
    picture = _noise(picture, strength, chance)
    return (picture.clamp(0, 1) * 255).permute(0, 2, 3, 1)


def _move(picture: Tensor, out_px: int, strength: Augmentation, chance: Chance) -> Tensor:
    """Turn, mirror, zoom and shift; outside is a mirror image."""
    n = len(picture)
    angle = chance.around(strength.turn) * 2 * math.pi
    zoom = torch.exp(chance.around(strength.scale))
    mirror = (chance() >= strength.mirror).float() * 2 - 1
    move = chance.around(2 * strength.shift, 2)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = torch.stack([cos * mirror, -sin, move[:, 0], sin * mirror, cos, move[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(rows, [n, 3, out_px, out_px], align_corners=False)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _stain(picture: Tensor, strength: Augmentation, chance: Chance) -> Tensor:
    """Scale each stain's optical density, then turn hue, saturation, white level and gamma."""
    n = len(picture)
    stains = torch.tensor(STAINS, device=picture.device)
    stains = stains / stains.norm(dim=0, keepdim=True)
    density = -torch.log(picture.clamp(min=1 / 255))  # (N, 3, H, W)
    # uniform of half-width sqrt(3) s has standard deviation s
    factor = 1 + chance.around(math.sqrt(3) * strength.stain, 3)
    mixing = stains @ (factor.unsqueeze(2) * torch.linalg.inv(stains))  # (N, 3, 3)
    offset = (stains @ chance.around(math.sqrt(3) * strength.stain / 2, 3).unsqueeze(2)).view(n, 3, 1, 1) * 0.2
    gamma = torch.exp(chance.around(strength.gamma, 1)).view(n, 1, 1, 1)
    density = torch.einsum("nij,njhw->nihw", mixing, density) * gamma
    picture = torch.exp(-(density + offset).clamp(min=0))

    # hue and saturation as one linear map in YIQ
    turn = chance.around(strength.hue) * 2 * math.pi
    size = 1 + chance.around(strength.saturation)
    yiq = torch.tensor(
        ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)), device=picture.device
    )
    middle = torch.zeros(n, 3, 3, device=picture.device)
    middle[:, 0, 0] = 1
    middle[:, 1, 1] = middle[:, 2, 2] = torch.cos(turn) * size
    middle[:, 1, 2], middle[:, 2, 1] = -torch.sin(turn) * size, torch.sin(turn) * size
    colour = torch.linalg.inv(yiq) @ middle @ yiq
    picture = torch.einsum("nij,njhw->nihw", colour, picture)
    return (picture * (1 + chance.around(strength.brightness, 3)).view(n, 3, 1, 1)).clamp(0, 1)


def _blur(picture: Tensor, strength: Augmentation, chance: Chance) -> Tensor:
    """Blur a third of the pictures, each by its own sigma."""
    sigma = (chance() * 3 - 2) * strength.blur_sigma
    chosen = (sigma > 0.2).nonzero()[:, 0]
    if not len(chosen):
        return picture
    radius = math.ceil(2.5 * strength.blur_sigma)
    x = torch.arange(-radius, radius + 1, device=picture.device, dtype=picture.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma[chosen].unsqueeze(1) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None, None]  # (3 n, 1, 1, 2 radius + 1)
    channels = len(kernel)
    block = picture[chosen].reshape(1, channels, *picture.shape[2:])
    block = F.pad(block, (radius, radius, radius, radius), mode="reflect")
    block = F.conv2d(F.conv2d(block, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)
    return picture.index_copy(0, chosen, block.view(len(chosen), 3, *picture.shape[2:]))


_NOISE_MARGIN_PX = 64


def _noise(picture: Tensor, strength: Augmentation, chance: Chance) -> Tensor:
    """Add sensor noise: each picture gets its own window of one field of noise, its own sign and its own strength."""
    n, _, height, width = picture.shape
    field = chance.normal(3, height + _NOISE_MARGIN_PX, width + _NOISE_MARGIN_PX)
    corners = (chance(2) * (_NOISE_MARGIN_PX + 1)).int().tolist()
    windows = torch.stack([field[:, y : y + height, x : x + width] for y, x in corners])
    sign = (chance() < 0.5).float() * 2 - 1
    sigma = strength.noise / 255 * chance() ** 2 * sign
    return picture + sigma.view(n, 1, 1, 1) * windows
