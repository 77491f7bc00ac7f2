"""Cells: where the white cell of a crop is, found by its stain; numpy and Pillow only, so that the device can do it.

What comes in are prepared pixels; what goes out are masks. The azure of a Romanowsky stain, which nuclei take up,
absorbs red light more than blue; haemoglobin and eosin do the contrary. So red density less most of the blue density
leaves nuclei, a little cytoplasm, and no red cells; Otsu's threshold splits it. The cytoplasm is what is still so
stained around a nucleus. Nothing is learnt here and nothing is classified.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from .preprocess import Pixels

Mask = npt.NDArray[np.bool_]
"""(H, W) bool."""

WORKING_PX = 112
"""Side at which crops are searched: a cell of 26 micrometres' crop has a nucleus of some 40 pixels there."""

BLUE_SHARE = 0.75
"""Share of the blue density that is taken off the red one: red cells absorb blue at least as much as red."""

RED_CELL_BLUE = 0.8
"""A red cell's density in blue is at least this share of the red one ..."""

RED_CELL_GREEN = 0.14
"""... and its density in green at least this; pale pink cytoplasm has less."""

RIM = 0.15
"""Cytoplasm that is always assumed, as a share of the nucleus' radius."""

NEAR = 0.4
"""How far whatever is stained is taken for cytoplasm, as a share of the nucleus' radius."""

REACH = 0.8
"""How far cytoplasm is looked for, as a share of the nucleus' radius."""


@dataclass(frozen=True)
class CellMasks:
    """The white cell in the middle of a crop.

    Attributes:
        nucleus: (H, W) bool.
        cell: (H, W) bool, nucleus and cytoplasm; both are empty where nothing in the crop is stained like a nucleus.
    """

    nucleus: Mask
    cell: Mask


def optical_density(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return how strongly each channel is absorbed, against the picture's own empty field.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (H, W, 3) float32, -log10(pixel / white), 0 or more; white is the channel's 95th percentile.
    """
    white = np.percentile(pixels.reshape(-1, 3), 95, axis=0).astype(np.float32)
    density: npt.NDArray[np.float32] = -np.log10((pixels.astype(np.float32) + 1) / (white + 1))
    return density.clip(0)


def azure(density: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the density of the azure stain: (H, W) float32, 0 or more; nuclei have about 0.3, red cells below 0.05."""
    return (density[:, :, 0] - BLUE_SHARE * density[:, :, 2]).clip(0)


def otsu(values: npt.NDArray[np.float32], bins: int = 128) -> float:
    """Return the threshold that splits `values` into the two classes of largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * centres).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[int(np.nan_to_num(between).argmax())])


def label_components(mask: Mask) -> tuple[npt.NDArray[np.int32], int]:
    """Number the connected parts of a mask; pixels that touch at an edge are connected.

    Works on runs of pixels, row by row: two runs of neighbouring rows that overlap belong together.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) int32, 0 outside and 1..n inside, numbered from the top left; and n.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    row, start = np.nonzero(steps == 1)
    _, end = np.nonzero(steps == -1)
    labels = np.zeros((height, width), np.int32)
    if not len(row):
        return labels, 0
    # runs are sorted by row and start; those of the row above that end behind our start and start before our end
    stride = width + 2
    first = np.searchsorted(row * stride + end, (row - 1) * stride + start, side="right")
    last = np.searchsorted(row * stride + start, (row - 1) * stride + end, side="left")
    count = (last - first).clip(0)
    below = np.repeat(np.arange(len(row)), count)
    above = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + np.repeat(first, count)
    root = np.arange(len(row))
    while True:  # every round at least halves the longest way to a component's first run
        smallest = np.minimum(root[below], root[above])
        joined = root.copy()
        for runs in (root[below], root[above], below, above):
            np.minimum.at(joined, runs, smallest)
        joined = joined[joined]
        if np.array_equal(joined, root):
            break
        root = joined
    _, number = np.unique(root, return_inverse=True)
    # paint the runs: +n where one starts, -n behind its end, then add up along the row
    delta = np.zeros((height, width + 1), np.int32)
    delta[row, start] = number + 1
    np.subtract.at(delta, (row, end), (number + 1).astype(np.int32))
    np.cumsum(delta[:, :-1], axis=1, out=labels)
    return labels, int(number.max()) + 1


def central_cell(pixels: Pixels) -> CellMasks:
    """Find the white cell in the middle of a single-cell crop.

    Args:
        pixels: (H, W, 3) uint8, the cell's crop; searched at `WORKING_PX`.

    Returns:
        Masks of the crop's size.
    """
    height, width = pixels.shape[:2]
    small = np.asarray(Image.fromarray(pixels).resize((WORKING_PX, WORKING_PX), Image.Resampling.BOX))
    density = optical_density(small)
    stain = azure(density)
    threshold = max(otsu(stain), 0.06)
    nucleus = _central_nucleus(stain > threshold)
    red, green, blue = (density[:, :, c] for c in range(3))
    haemoglobin = (blue > RED_CELL_BLUE * red) & (green > RED_CELL_GREEN)
    cell = _grow(nucleus, green > 0.05, (stain > max(0.25 * threshold, 0.025)) | (green > 0.05) & ~haemoglobin)
    return CellMasks(*(_resized(mask, width, height) for mask in (nucleus, cell)))


def _central_nucleus(dark: Mask) -> Mask:
    """Return the parts of the nucleus nearest to the middle: (WORKING_PX, WORKING_PX) bool."""
    dark = _filtered(dark, ImageFilter.MedianFilter(3))  # no specks, no pinholes
    labels, count = label_components(_dilated(dark, 3))  # lobes of one nucleus are one part
    if not count:
        return np.zeros_like(dark)
    y, x = np.indices(dark.shape) - (WORKING_PX - 1) / 2
    weight = np.exp(-(x**2 + y**2) / (2 * (0.22 * WORKING_PX) ** 2)) * dark
    score = np.bincount(labels.ravel(), weight.ravel(), minlength=count + 1)
    score[0] = 0
    return _filled(dark & (labels == int(score.argmax())))


def _grow(nucleus: Mask, stained: Mask, unlike_red_cells: Mask) -> Mask:
    """Add the cytoplasm: a rim in any case, what is stained near the nucleus, and farther off what is no red cell."""
    area = int(nucleus.sum())
    if not area:
        return nucleus
    radius = np.sqrt(area / np.pi)
    rim = _dilated(nucleus, max(2, round(RIM * radius)))
    reach = _dilated(nucleus, round(REACH * radius + 4))
    near = _dilated(nucleus, round(NEAR * radius))  # an eosinophil's granules are as red as a red cell
    wanted = (near & stained) | (reach & unlike_red_cells)
    together = rim | _filtered(wanted, ImageFilter.MedianFilter(5))
    opened = _filtered(_filtered(together, ImageFilter.MinFilter(5)), ImageFilter.MaxFilter(5)) | rim
    labels, _ = label_components(opened)
    return _filled(np.isin(labels, np.unique(labels[nucleus])))


def _filled(mask: Mask) -> Mask:
    """Fill the holes: parts of the outside that do not reach the border."""
    labels, _ = label_components(~mask)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return mask | ~np.isin(labels, rim[rim > 0]) & (labels > 0)


def _dilated(mask: Mask, radius: int) -> Mask:
    """Grow a mask by `radius` pixels all round, corners rounded."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    for step in range(radius):  # squares and crosses in turn: an octagon
        grown = picture.filter(ImageFilter.MaxFilter(3))
        if step % 2:
            old, new = np.asarray(picture), np.asarray(grown).copy()
            cross = old.copy()
            cross[1:] |= old[:-1]
            cross[:-1] |= old[1:]
            cross[:, 1:] |= old[:, :-1]
            cross[:, :-1] |= old[:, 1:]
            grown = Image.fromarray(np.minimum(new, cross))
        picture = grown
    return np.asarray(picture) > 127


def _filtered(mask: Mask, kernel: ImageFilter.Filter) -> Mask:
    picture = Image.fromarray(mask.astype(np.uint8) * 255).filter(kernel)
    return np.asarray(picture) > 127


def _resized(mask: Mask, width: int, height: int) -> Mask:
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture) > 127
