"""Contact sheet: pictures for people, side by side - what a model saw, and where each method says that it saw it.

What comes in are rows - a picture, lines that say what was asked and answered, heatmaps; what goes out is one picture
with a row for each. Heatmaps are coloured as in `edge_runtime.overlay`; a thin line runs at half of the peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_runtime.guard import plain
from edge_runtime.preprocess import Pixels

if TYPE_CHECKING:
    from PIL import Image

TILE_PX = 224
NOTE = "Research software, not a diagnosis."
KEY = "Colours: 0 (black) to 1 (cream), each map's own peak; the line is at half of the peak."

_GAP_PX, _LINE_PX, _LABEL_CHARACTERS, _TITLE_CHARACTERS = 8, 22, 24, 32


@dataclass(frozen=True)
class Row:
    """One line of the sheet.

    Attributes:
        pixels: (H, H, 3) uint8, as the model saw them.
        lines: texts to the left of it.
        heats: (H, H) float32 each, 0..1, one per title.
    """

    pixels: Pixels
    lines: Sequence[str]
    heats: Sequence[npt.NDArray[np.float32]]


def contact_sheet(rows: Sequence[Row], titles: Sequence[str]) -> Image.Image:
    """Draw rows below each other.

    Args:
        rows: at least one.
        titles: of the columns behind the picture's.
    """
    from PIL import Image, ImageDraw

    from edge_runtime.overlay import outlined, write_line

    step = TILE_PX + _GAP_PX
    top, bottom = _LINE_PX + _GAP_PX, 2 * _LINE_PX + _GAP_PX
    size = (_GAP_PX + step * (2 + len(titles)), top + step * len(rows) + bottom)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(("picture", *titles), start=1):
        write_line(draw, (_GAP_PX + column * step, _GAP_PX), shortened(title, _TITLE_CHARACTERS), 13)
    for number, row in enumerate(rows):
        y = top + number * step
        for place, line in enumerate(row.lines):
            write_line(draw, (_GAP_PX, y + place * _LINE_PX), shortened(line, _LABEL_CHARACTERS))
        seen = Image.fromarray(row.pixels).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
        heats = [Image.fromarray(heat).resize(seen.size, Image.Resampling.BILINEAR) for heat in row.heats]
        tiles = [seen, *(outlined(seen, np.asarray(heat)) for heat in heats)]
        for column, tile in enumerate(tiles, start=1):
            canvas.paste(tile, (_GAP_PX + column * step, y))
    for place, line in enumerate((KEY, NOTE)):
        write_line(draw, (_GAP_PX, top + step * len(rows) + place * _LINE_PX), line)
    return canvas


def shortened(text: str, characters: int) -> str:
    """Return a text as one line, its middle left out where it is long: both ends of a name say something."""
    text = plain(text)
    if len(text) <= characters:
        return text
    tail = (characters - 3) // 2
    return text[: characters - 3 - tail] + "..." + text[-tail:]
