"""The overlay: a picture for people. A `Prediction` in; what the model saw, beside it with the heatmap laid over, out.

Left are the pixels, right the same with the heatmap in a perceptually uniform colour map (equal steps of value look
like equal steps) and a contour at a stated level, then a colour bar; where an explanation is given, a third panel shows
what speaks for the answer rather than for the runner-up. Below stand the answer, the model and what it is not for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .classifier import Prediction
from .errors import OutputError
from .files import write_whole
from .heatmap import LEVEL, hot
from .report import NOTE

if TYPE_CHECKING:
    from .explanation import Explanation

SIDE_PX = 448
_GAP_PX, _BAR_PX, _LINE_PX = 8, 16, 22
_STRENGTH = 0.5
"""Share of the colour in the blend, 0..1; constant, so that cold places are dimmed, not hidden."""

# Every 16th colour of matplotlib's "inferno" (van der Walt and Smith, CC0): lightness rises evenly from black to cream.
_INFERNO = (
    "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 "
    "d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4"
)

_BLUE_WHITE_RED = ((33, 102, 172), (247, 247, 247), (178, 24, 43))
"""Ends and middle of ColorBrewer's "RdBu" (Harrower and Brewer): equally dark ends."""


def colours(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Colour values from black (0) to cream (1).

    Args:
        values: (...) float, 0..1; clipped.

    Returns:
        (..., 3) uint8 RGB.
    """
    table = np.array([list(bytes.fromhex(word)) for word in _INFERNO.split()], dtype=np.float64)  # (17, 3)
    places = np.linspace(0.0, 1.0, len(table))
    clipped = np.clip(values, 0.0, 1.0)
    return np.stack([np.rint(np.interp(clipped, places, table[:, c])) for c in range(3)], axis=-1).astype(np.uint8)


def lay_over(seen: Image.Image, values: npt.NDArray[np.float32]) -> Image.Image:
    """Lay a heatmap over a picture.

    Args:
        seen: RGB.
        values: 0..1, at the picture's size.
    """
    return Image.blend(seen, Image.fromarray(colours(values)), _STRENGTH)


def write_line(draw: ImageDraw.ImageDraw, place: tuple[int, int], line: str, size: int = 14) -> None:
    """Write one line of black text; its left upper corner goes to `place`, (x, y)."""
    font = ImageFont.load_default(size)
    # Pillow built without FreeType draws Latin-1 only, and raises on the rest.
    latin = isinstance(font, ImageFont.ImageFont)
    draw.text(place, line.encode("latin-1", "replace").decode("latin-1") if latin else line, fill="black", font=font)


def contour(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return the rim, one pixel wide, of where values are `hot`; the picture's own edge is none.

    Args:
        values: (H, W) float32, 0 or more.

    Returns:
        (H, W) bool.
    """
    inside = hot(values)
    around = np.pad(inside, 1, mode="edge")
    core = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    rim: npt.NDArray[np.bool_] = inside & ~core
    return rim


def outlined(seen: Image.Image, values: npt.NDArray[np.float32]) -> Image.Image:
    """Lay a heatmap over a picture, with its contour: white within black, so that it shows on any ground.

    Args:
        seen: RGB.
        values: 0..1, at the picture's size.
    """
    picture, line = lay_over(seen, values), Image.fromarray(contour(values)).convert("L")
    for colour, width in (("black", 5), ("white", 3)):
        picture.paste(colour, mask=line.filter(ImageFilter.MaxFilter(width)))
    return picture


def diverging(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Colour values from blue (-1) over white (0) to red (1): (...) float -> (..., 3) uint8 RGB."""
    clipped = np.clip(values, -1.0, 1.0)
    channels = [np.interp(clipped, (-1.0, 0.0, 1.0), stops) for stops in zip(*_BLUE_WHITE_RED, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def overlay(prediction: Prediction, explanation: Explanation | None = None) -> Image.Image:
    """Draw a prediction: pixels, pixels under the heatmap, colour bar, text; and an explanation's contrast."""
    said = f"{prediction.label}   {100 * prediction.probability:.1f} %"
    refused = [f"NO ANSWER: {refusal.text}" for refusal in prediction.refusals]
    if refused:
        said = f"would have said: {said}"
    seen = Image.fromarray(prediction.pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    panel_px = SIDE_PX + 2 * _GAP_PX + _BAR_PX + 24
    width = SIDE_PX + 2 * _GAP_PX + panel_px * (1 if explanation is None else 2)
    canvas = Image.new("RGB", (width, SIDE_PX + 3 * _GAP_PX + (3 + len(refused)) * _LINE_PX), "white")
    canvas.paste(seen, (_GAP_PX, _GAP_PX))
    draw = ImageDraw.Draw(canvas)
    left = SIDE_PX + 2 * _GAP_PX
    heat = prediction.placement.enlarge(prediction.heatmap, SIDE_PX)
    _panel(canvas, draw, left, outlined(seen, heat), colours, (1.0, 0.5, 0.0))
    note = f"contour: {LEVEL:.0%} of the peak"
    if explanation is not None:
        contrast = Image.fromarray(diverging(prediction.placement.enlarge(explanation.contrast, SIDE_PX)))
        _panel(canvas, draw, left + panel_px, Image.blend(seen, contrast, _STRENGTH), diverging, (1.0, 0.0, -1.0))
        share = explanation.inside_cell
        inside = "" if share is None else f"; {share:.0%} of the heat on white cells"
        note += f"{inside}; right: {prediction.label} (red) against {explanation.runner_up} (blue)"

    lines = (
        *refused,
        f"{said}   {note}",
        f"{prediction.bundle_id}" + ("   DEGRADED: did not pass its parity gates" if prediction.degraded else ""),
        NOTE,
    )
    for row, line in enumerate(lines):
        write_line(draw, (_GAP_PX, SIDE_PX + 2 * _GAP_PX + row * _LINE_PX), line)
    return canvas


def _panel(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    left: int,
    picture: Image.Image,
    colour: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]],
    marks: tuple[float, float, float],
) -> None:
    """Put a picture and its colour bar on the canvas; `marks` are the bar's upper, middle and lower value."""
    canvas.paste(picture, (left, _GAP_PX))
    bar_x = left + SIDE_PX + _GAP_PX
    column = np.linspace(marks[0], marks[2], SIDE_PX, dtype=np.float32)[:, None].repeat(_BAR_PX, axis=1)
    canvas.paste(Image.fromarray(colour(column)), (bar_x, _GAP_PX))
    for value, y in zip(marks, (_GAP_PX, SIDE_PX // 2, SIDE_PX - _GAP_PX), strict=True):
        write_line(draw, (bar_x + _BAR_PX + 4, y), f"{value:g}")


def save_overlay(prediction: Prediction, path: Path, explanation: Explanation | None = None) -> None:
    """Write the overlay; the suffix says in which format.

    Raises:
        OutputError: unknown suffix, or the file cannot be written.
    """
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise OutputError(f"{path}: not a picture's name", got=path.suffix or "no suffix", expected=", ".join(kinds))
    picture = overlay(prediction, explanation)
    with write_whole(path) as stream:
        picture.save(stream, kind)
