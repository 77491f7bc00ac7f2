"""Contact sheet: the cells of a scan as small pictures, by class and probability, each beside its heatmap.

What comes in are `FieldScan`s, one after another; what goes out are groups of thumbnails, and a picture of them all.
Flagged cells stand first, then each label, then what was left out. Of a large group chance picks which cells are shown,
the same ones every time, and the group says how many there are: so a sheet of ten thousand cells needs no more memory
than one of some hundred, and is no choice of the best.
"""

from __future__ import annotations

import heapq
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from .overlay import outlined, write_line
from .report import NOTE
from .scan import LEFT_OUT, FieldScan, ScannedCell

if TYPE_CHECKING:
    from .manifest import Manifest

THUMB_PX = 88
"""Side of a cell's picture; its heatmap is as large."""

SHOWN = 60
"""Cells of a group that are shown, at most."""

SHEET_NOTE = "Right of each cell: where the model saw its answer. (In brackets: declined; what it would have said.)"

_COLUMNS, _GAP_PX, _LINE_PX, _TITLE_PX = 10, 8, 16, 30
_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A cell of the sheet.

    Attributes:
        field: name of its picture.
        number: of the cell in that picture.
        label: the most probable one.
        probability: of it, 0..1.
        answered: whether the model stands by it; else it is only what it would have said.
        flags: operating points that say yes.
        jpeg: the crop and, right of it, the same under its heatmap: 2 `THUMB_PX` x `THUMB_PX`.
    """

    field: str
    number: int
    label: str
    probability: float
    answered: bool
    flags: tuple[str, ...]
    jpeg: bytes


@dataclass(frozen=True)
class Group:
    """Cells that belong together: a title, how many there are, and those shown, the most probable first."""

    title: str
    total: int
    shown: tuple[Thumbnail, ...]


class ContactSheet:
    """Collects the cells of a scan."""

    def __init__(self, manifest: Manifest) -> None:
        flagged = (f"flagged: {point.name}" for point in manifest.operating_points)
        left_out = (f"left out: {reason}" for reason in LEFT_OUT.values())
        self._picked: dict[str, list[tuple[int, int, Thumbnail]]] = {
            title: [] for title in (*flagged, *manifest.task.labels, *left_out)
        }
        self._totals = dict.fromkeys(self._picked, 0)

    def add(self, scan: FieldScan) -> None:
        """Add the cells of a field."""
        for number, cell in enumerate(scan.cells, scan.first):
            title = _title(scan, cell)
            picked = self._picked[title]
            self._totals[title] += 1
            lot = -zlib.crc32(f"{number}:{scan.name}".encode("utf-8", "surrogateescape"))
            if len(picked) < SHOWN:
                heapq.heappush(picked, (lot, number, _thumbnail(scan, number, cell)))
            elif lot > picked[0][0]:
                heapq.heapreplace(picked, (lot, number, _thumbnail(scan, number, cell)))

    def groups(self) -> Iterator[Group]:
        """Return the groups that have cells, in order."""
        for title, picked in self._picked.items():
            if picked:
                thumbnails = sorted((entry[2] for entry in picked), key=lambda t: (-t.probability, t.field, t.number))
                yield Group(title, self._totals[title], tuple(thumbnails))


def _title(scan: FieldScan, cell: ScannedCell) -> str:
    reason = scan.left_out(cell)
    if reason is not None:
        return f"left out: {LEFT_OUT[reason]}"
    flags = _flags(cell)
    return f"flagged: {flags[0]}" if flags else cell.prediction.label


def _flags(cell: ScannedCell) -> tuple[str, ...]:
    if cell.prediction.abstained:  # nor are the questions answered
        return ()
    return tuple(name for name, flag in cell.prediction.flags.items() if flag.yes)


def _thumbnail(scan: FieldScan, number: int, cell: ScannedCell) -> Thumbnail:
    prediction = cell.prediction
    crop = Image.fromarray(prediction.pixels).resize((2 * THUMB_PX, 2 * THUMB_PX), Image.Resampling.BILINEAR)
    heat = outlined(crop, prediction.placement.enlarge(prediction.heatmap, 2 * THUMB_PX))
    both = Image.new("RGB", (2 * THUMB_PX, THUMB_PX))
    for place, picture in enumerate((crop, heat)):
        both.paste(picture.resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX), (place * THUMB_PX, 0))
    stream = io.BytesIO()
    both.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    said = (prediction.label, prediction.probability, not prediction.abstained)
    return Thumbnail(scan.name, number, *said, _flags(cell), stream.getvalue())


def sheet_picture(groups: Sequence[Group]) -> Image.Image:
    """Draw the groups below each other.

    Args:
        groups: in order.

    Returns:
        RGB; its height grows with the cells.
    """
    width, height = 2 * THUMB_PX + _GAP_PX, THUMB_PX + _LINE_PX + _GAP_PX
    rows = [-(-len(group.shown) // _COLUMNS) for group in groups]
    size = (_COLUMNS * width + _GAP_PX, 2 * _TITLE_PX + sum(_TITLE_PX + height * count for count in rows))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    write_line(draw, (_GAP_PX, _GAP_PX), f"{NOTE} {SHEET_NOTE}")
    top = _TITLE_PX
    for group, count in zip(groups, rows, strict=True):
        write_line(draw, (_GAP_PX, top + _GAP_PX), heading(group), 18)
        top += _TITLE_PX
        for place, thumbnail in enumerate(group.shown):
            left, down = _GAP_PX + place % _COLUMNS * width, top + place // _COLUMNS * height
            sheet.paste(Image.open(io.BytesIO(thumbnail.jpeg)), (left, down))
            text = f"{thumbnail.label} {100 * thumbnail.probability:.0f} %"
            write_line(draw, (left, down + THUMB_PX), text if thumbnail.answered else f"({text})", 12)
        top += height * count
    return sheet


def heading(group: Group) -> str:
    """Return a group's title with its number of cells, and how many of them are shown if not all are."""
    cells = "1 cell" if group.total == 1 else f"{group.total} cells"
    shown = "" if len(group.shown) == group.total else f", {len(group.shown)} of them shown, picked by chance"
    return f"{group.title} ({cells}{shown})"
