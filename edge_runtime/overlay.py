"""The overlay: a picture for people. A `Prediction` in; what the model saw, beside it with the heatmap laid over, out.

Left are the pixels, right the same with the heatmap in a perceptually uniform colour map (equal steps of value look
like equal steps), then a colour bar; below stand the answer, the model and what it is not for. Numbers: ``heatmap``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from .classifier import Prediction
from .errors import OutputError
from .files import write_whole
from .heatmap import upsample
from .report import NOTE

SIDE_PX = 448
_GAP_PX, _BAR_PX, _LINE_PX = 8, 16, 22
_STRENGTH = 0.5
"""Share of the colour in the blend, 0..1; constant, so that cold places are dimmed, not hidden."""

# Every 16th colour of matplotlib's "inferno" (van der Walt and Smith, CC0): lightness rises evenly from black to cream.
_INFERNO = (
    "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 "
    "d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4"
)


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
        seen: square, RGB.
        values: (h, w) float32, 0..1; any resolution.
    """
    return Image.blend(seen, Image.fromarray(colours(upsample(values, seen.width))), _STRENGTH)


def write_line(draw: ImageDraw.ImageDraw, place: tuple[int, int], line: str, size: int = 14) -> None:
    """Write one line of black text; its left upper corner goes to `place`, (x, y)."""
    font = ImageFont.load_default(size)
    # Pillow built without FreeType draws Latin-1 only, and raises on the rest.
    latin = isinstance(font, ImageFont.ImageFont)
    draw.text(place, line.encode("latin-1", "replace").decode("latin-1") if latin else line, fill="black", font=font)


def overlay(prediction: Prediction) -> Image.Image:
    """Draw a prediction: pixels, pixels under the heatmap, colour bar, and three lines of text."""
    seen = Image.fromarray(prediction.pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (2 * SIDE_PX + 5 * _GAP_PX + _BAR_PX + 24, SIDE_PX + 3 * _GAP_PX + 3 * _LINE_PX), "white")
    canvas.paste(seen, (_GAP_PX, _GAP_PX))
    canvas.paste(lay_over(seen, prediction.heatmap), (SIDE_PX + 2 * _GAP_PX, _GAP_PX))
    draw = ImageDraw.Draw(canvas)

    bar_x = 2 * SIDE_PX + 3 * _GAP_PX
    column = np.linspace(1.0, 0.0, SIDE_PX, dtype=np.float32)[:, None].repeat(_BAR_PX, axis=1)
    canvas.paste(Image.fromarray(colours(column)), (bar_x, _GAP_PX))
    for value, y in (("1", _GAP_PX), ("0.5", SIDE_PX // 2), ("0", SIDE_PX - _GAP_PX)):
        write_line(draw, (bar_x + _BAR_PX + 4, y), value)

    lines = (
        f"{prediction.label}   {100 * prediction.probability:.1f} %",
        f"{prediction.bundle_id}" + ("   DEGRADED: did not pass its parity gates" if prediction.degraded else ""),
        NOTE,
    )
    for row, line in enumerate(lines):
        write_line(draw, (_GAP_PX, SIDE_PX + 2 * _GAP_PX + row * _LINE_PX), line)
    return canvas


def save_overlay(prediction: Prediction, path: Path) -> None:
    """Write the overlay; the suffix says in which format.

    Raises:
        OutputError: unknown suffix, or the file cannot be written.
    """
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise OutputError(f"{path}: not a picture's name", got=path.suffix or "no suffix", expected=", ".join(kinds))
    picture = overlay(prediction)
    with write_whole(path) as stream:
        picture.save(stream, kind)
