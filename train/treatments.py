"""Treatments: the same pictures with one thing changed - something that must not matter, or all that should matter.

What comes in is a block of prepared pixels with the masks of its white cells; what goes out is the block, changed, as
(N, H, W, 3) uint8. Nothing here is random and nothing is judged: `train.audit` asks the network. The table is the
documentation; a new question is a row. Some changes are of a kind that `train.augment` trains with (stains scaled, hue
turned, JPEG, blur, another background), at strengths of their own: of a network trained so, they say that it learnt
what it was shown.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter, uniform_filter

from edge_runtime.preprocess import Pixels

from .augment import STAINS, Boxes, blank_burnt_in

Masks = npt.NDArray[np.bool_]
"""(N, H, W) bool, true on white cells."""

Floats = npt.NDArray[np.float32]

MILD, STRONG = 1.2, 1.6
"""Factors on a stain's optical density: two batches of one laboratory; two laboratories."""

HUE_MILD, HUE_STRONG = 0.04, 0.10
"""Turns of the hue, shares of the full circle: 14 and 36 degrees."""

BRIGHTNESS = 1.2
"""Factor on all channels, and its inverse."""

JPEG_QUALITY = 40

SOFT_PX = 5
"""Width of the edge over which cell and background are blended."""


@dataclass(frozen=True)
class Block:
    """Some pictures and what is known of them.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        masks: (N, H, W) bool, true on the white cells; all false where none was found.
        donors: (N, H, W, 3) uint8, whose backgrounds are taken.
        donor_masks: (N, H, W) bool, true on the donors' white cells.
        stain: (N, 2, 3) float, mean and spread of the optical density of each picture's group, per channel.
        donor_stain: (N, 2, 3) float, the same of the donors' groups.
        marks: N boxes of burnt-in marks, or None.
        field_rgb: (3,) uint8, one background colour for all pictures.
    """

    pixels: Pixels
    masks: Masks
    donors: Pixels
    donor_masks: Masks
    stain: Floats
    donor_stain: Floats
    marks: Boxes
    field_rgb: npt.NDArray[np.uint8]


Change = Callable[[Block], Pixels]


@dataclass(frozen=True)
class Treatment:
    """One question to the network.

    Attributes:
        name: of the change.
        expected: "holds": the answer must stay; "falls": nothing is left to answer by, so skill that stays is a
            shortcut; "tells": how much rests on colour, which is evidence and shortcut at once.
        text: what is done to the picture.
        change: does it.
    """

    name: str
    expected: str
    text: str
    change: Change


def blend(inside: Pixels, outside: Pixels, masks: Masks) -> Pixels:
    """Put `inside` where the mask is and `outside` elsewhere, over a soft edge: (N, H, W, 3) uint8."""
    share = uniform_filter(masks.astype(np.float32), size=(1, SOFT_PX, SOFT_PX))[..., None]
    return _to_pixels(share * inside + (1 - share) * outside)


def without_cells(pixels: Pixels, masks: Masks, field_rgb: npt.NDArray[np.uint8]) -> Pixels:
    """Fill white cells with their own picture's background, so that not even their outline is left.

    The fill is the picture shifted by half its side both ways, corners to the middle: real background, red cells and
    all. Where that holds a white cell, too, it is the background's median colour. The mask is first grown by an
    eighteenth of a typical cell's diameter, for a rim of cytoplasm left over would be a cell's outline.

    Args:
        pixels: (N, H, W, 3) uint8.
        masks: (N, H, W) bool.
        field_rgb: (3,) uint8, for a picture that is nothing but cell.
    """
    height, width = pixels.shape[1:3]
    reach = 2 * max(1, height // 56) + 1
    grown = maximum_filter(masks, size=(1, reach, reach))
    move = (height // 2, width // 2)
    fill, taken = np.roll(pixels, move, axis=(1, 2)), np.roll(grown, move, axis=(1, 2))
    for picture, cell, filled, covered in zip(pixels, grown, fill, taken, strict=True):
        filled[covered] = field_rgb if cell.all() else np.median(picture[~cell], axis=0).round()
    return blend(fill, pixels, grown)


def _background_removed(block: Block) -> Pixels:
    return _where_found(block, blend(block.pixels, np.broadcast_to(block.field_rgb, block.pixels.shape), block.masks))


def _background_swapped(block: Block) -> Pixels:
    others = without_cells(block.donors, block.donor_masks, block.field_rgb)
    return _where_found(block, blend(block.pixels, others, block.masks))


def _where_found(block: Block, changed: Pixels) -> Pixels:
    """Keep pictures without a cell as they are: without its background nothing would be left of them."""
    return np.where(block.masks.any((1, 2))[:, None, None, None], changed, block.pixels)


def optical_density(pixels: Pixels) -> Floats:
    """Return how strongly each channel is absorbed: (..., 3) float32, -ln(pixel / 255), black as level 1."""
    density: Floats = -np.log(np.maximum(pixels, 1) / np.float32(255))
    return density


def _from_density(density: Floats) -> Pixels:
    return _to_pixels(255 * np.exp(-density.clip(0)))


def restained(pixels: Pixels, haematoxylin: float, eosin: float) -> Pixels:
    """Multiply the optical densities of both stains: (N, H, W, 3) uint8."""
    stains = np.array(STAINS) / np.linalg.norm(STAINS, axis=0)  # columns
    mixing = (stains * (haematoxylin, eosin, 1)) @ np.linalg.inv(stains)  # of optical densities
    return _from_density(optical_density(pixels) @ mixing.T.astype(np.float32))


def _stain(haematoxylin: float, eosin: float) -> Change:
    return lambda block: restained(block.pixels, haematoxylin, eosin)


def _stain_swapped(block: Block) -> Pixels:
    """Move colour and contrast; one factor for all channels, as factors of their own would make colours of no stain."""
    own, other = (stain[:, :, None, None] for stain in (block.stain, block.donor_stain))  # (N, 2, 1, 1, 3)
    contrast = other[:, 1].mean(-1, keepdims=True) / own[:, 1].mean(-1, keepdims=True)
    return _from_density((optical_density(block.pixels) - own[:, 0]) * contrast + other[:, 0])


def _hue(turn: float) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        hue, saturation, value = picture.convert("HSV").split()
        turned = hue.point([(level + round(256 * turn)) % 256 for level in range(256)])
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")

    return _one_by_one(change)


def _jpeg(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    return Image.open(stream)


def _one_by_one(change: Callable[[Image.Image], Image.Image]) -> Change:
    return lambda block: np.stack([np.asarray(change(Image.fromarray(picture))) for picture in block.pixels])


def _blurred(block: Block) -> Pixels:
    sigma = block.pixels.shape[1] / 112
    return _to_pixels(gaussian_filter(block.pixels.astype(np.float32), (0, sigma, sigma, 0)))


def _to_pixels(values: npt.NDArray[np.floating]) -> Pixels:
    return values.round().clip(0, 255).astype(np.uint8)


def _brightness(factor: float) -> Change:
    return lambda block: _to_pixels(block.pixels * np.float32(factor))


def _channels(order: Sequence[int]) -> Change:
    return lambda block: np.ascontiguousarray(block.pixels[..., list(order)])


STAINED = (
    (MILD, 1.0),
    (1 / MILD, 1.0),
    (1.0, MILD),
    (1.0, 1 / MILD),
    (STRONG, 1.0),
    (1 / STRONG, 1.0),
    (1.0, STRONG),
    (1.0, 1 / STRONG),
    (STRONG, 1 / STRONG),
    (1 / STRONG, STRONG),
)
"""Factors on haematoxylin and eosin: each alone, both ways, mild and strong; and strongly against each other."""


def _stain_name(haematoxylin: float, eosin: float) -> str:
    factors = (("haematoxylin", haematoxylin), ("eosin", eosin))
    return ", ".join(f"{name} x{factor:.2f}" for name, factor in factors if factor != 1)


TREATMENTS: tuple[Treatment, ...] = (
    Treatment("background removed", "holds", "all but the white cells is one colour", _background_removed),
    Treatment("background swapped", "holds", "cells on another class's background", _background_swapped),
    Treatment(
        "cell removed",
        "falls",
        "white cells are filled with their own background",
        lambda block: without_cells(block.pixels, block.masks, block.field_rgb),
    ),
    Treatment(
        "stain swapped",
        "holds",
        "optical densities get mean (by channel) and spread (over all) of a group (patient, or cluster) of another "
        "class instead of their own group's (after Reinhard et al. 2001)",
        _stain_swapped,
    ),
    *(
        Treatment(_stain_name(*pair), "holds", f"optical density: {_stain_name(*pair)}", _stain(*pair))
        for pair in STAINED
    ),
    *(
        Treatment(
            f"hue {360 * turn:+.0f} degrees", "holds", "every colour is turned round the colour circle", _hue(turn)
        )
        for turn in (HUE_MILD, -HUE_MILD, HUE_STRONG, -HUE_STRONG)
    ),
    Treatment("darker", "holds", f"every channel divided by {BRIGHTNESS}", _brightness(1 / BRIGHTNESS)),
    Treatment("brighter", "holds", f"every channel times {BRIGHTNESS}", _brightness(BRIGHTNESS)),
    Treatment("blurred", "holds", "Gaussian, sigma a 112th of the side (2 px of 224)", _blurred),
    Treatment("JPEG", "holds", f"compressed again at quality {JPEG_QUALITY}", _one_by_one(_jpeg)),
    Treatment(
        "burnt-in mark blanked",
        "holds",
        "covered with the field above it",
        lambda block: blank_burnt_in(block.pixels, block.marks),
    ),
    Treatment("channels BGR", "tells", "red and blue exchanged", _channels((2, 1, 0))),
    Treatment("channels GBR", "tells", "red, green and blue rotated", _channels((1, 2, 0))),
    Treatment(
        "grey",
        "tells",
        "brightness only",
        _one_by_one(lambda picture: picture.convert("L").convert("RGB")),
    ),
)
