"""The scan's files: a folder with ``report.html``, ``cells.csv``, ``scan.json`` and ``contact-sheet.jpg``.

What comes in are `FieldScan`s, one after another; what goes out appears only when all of it is written. A scan that is
killed leaves the folder as it was; started again it begins anew, so nothing is lost that was there and nothing is
doubled. Cells are written as they come and not kept, so that a slide's scan needs no more memory than a field's.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .contact_sheet import ContactSheet, sheet_picture
from .differential import Tally
from .files import leftovers, make_folder, require_writable, write_whole
from .report import NOTE, json_line
from .scan import LEFT_OUT, SCALES, FieldScan
from .scan_page import scan_page

if TYPE_CHECKING:
    from .bundle import Bundle
    from .manifest import Manifest

PAGE, TABLE, DATA, SHEET = "report.html", "cells.csv", "scan.json", "contact-sheet.jpg"


class ScanFiles:
    """Takes the fields of a scan; keeps no cell but those that the contact sheet shows."""

    def __init__(self, bundle: Bundle, streams: dict[str, BinaryIO]) -> None:
        self._bundle, self._streams, self._sheet = bundle, streams, ContactSheet(bundle.manifest)
        self._data, table = (_text(streams[name]) for name in (DATA, TABLE))
        self._table = csv.writer(table, lineterminator="\n")
        self._texts, self._comma = (self._data, table), ""
        self._table.writerow(columns(bundle.manifest))
        head = {"note": NOTE, "bundle_id": bundle.id, "scales": SCALES, "left_out": LEFT_OUT}
        self._data.write(json_line(head)[:-1] + ', "scans": [')

    def add(self, scan: FieldScan) -> None:
        """Write a field, or a part of one."""
        self._sheet.add(scan)
        self._table.writerows(table_rows(scan))
        self._data.write(f"{self._comma}\n{json_line(scan.to_dict())}")
        self._comma = ","

    def finish(self, tally: Tally) -> None:
        """Write what can be said only at the end, and bring everything to the disk."""
        found, groups = tally.differential(), tuple(self._sheet.groups())
        tail = {"fields": [row.to_dict() for row in tally.rows], "differential": found.to_dict()}
        self._data.write("\n], " + json_line(tail)[1:] + "\n")
        for text in self._texts:
            text.flush()
            text.detach()
        written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        page = scan_page(found, tally.rows, groups, self._bundle.manifest, self._bundle.id, written)
        self._streams[PAGE].write(page.encode("utf-8"))
        sheet_picture(groups).save(self._streams[SHEET], "JPEG", quality=88)
        for stream in self._streams.values():  # all of them, before the first one takes its name
            stream.flush()
            os.fsync(stream.fileno())


@contextmanager
def scan_files(folder: Path, bundle: Bundle) -> Iterator[ScanFiles]:
    """Open the files of a scan; they take their names when the block ends without an exception.

    Args:
        folder: where to; made where it is missing. Files of the same names are replaced.
        bundle: that answers.

    Yields:
        What takes the fields; `ScanFiles.finish` must be called last.

    Raises:
        OutputError: the folder cannot be made, is read-only or full.
    """
    make_folder(folder)
    require_writable(folder)
    names = (PAGE, TABLE, DATA, SHEET)
    for left in (file for name in names for file in leftovers(folder / name)):
        left.unlink(missing_ok=True)  # of a scan that was killed; two into one folder at a time make no sense
    with ExitStack() as stack:
        streams = {name: stack.enter_context(write_whole(folder / name)) for name in names}
        yield ScanFiles(bundle, streams)


def _text(stream: BinaryIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")


def columns(manifest: Manifest) -> list[str]:
    """Return the columns of ``cells.csv``; all lengths are pixels of the picture."""
    labels = [f"p {label}" for label in manifest.task.labels]
    points = [point.name for point in manifest.operating_points]
    box = ["left", "top", "width", "height", "centre_x", "centre_y", "nucleus_px", "cell_px"]
    crop = ["cut", "crop_left", "crop_top", "crop_px", "filled", "red_cell_px", "scale"]
    return ["field", "cell", "left_out", "label", "probability", *labels, *points, *box, *crop, "refusals", "bundle_id"]


def table_rows(scan: FieldScan) -> Iterator[list[Any]]:
    """Return a field's cells as rows under `columns`."""
    for number, found in enumerate(scan.cells, scan.first):
        cell, prediction = found.cell, found.prediction
        refusals = (*scan.refusals, *prediction.refusals)
        yield [
            scan.name,
            number,
            scan.left_out(found) or "",
            prediction.label,
            f"{prediction.probability:.6f}",
            *(f"{value:.6f}" for value in prediction.probabilities.values()),
            *("yes" if flag.yes else "no" for flag in prediction.flags.values()),
            *cell.box,
            *(f"{place:.1f}" for place in cell.centre),
            round(cell.nucleus_px),
            round(cell.cell_px),
            "yes" if cell.cut else "no",
            *found.crop[:3],
            f"{found.filled:.4f}",
            "" if scan.red_cell_px is None else f"{scan.red_cell_px:.2f}",
            scan.scale,
            "; ".join(refusal.text for refusal in refusals),
            scan.bundle_id,
        ]
