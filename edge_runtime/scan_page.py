"""The scan's page: one HTML file for people, with everything inside it; it opens without a network and prints.

What comes in are the differential, the rows of all pictures and the groups of the contact sheet; what goes out is the
page's text. It needs no script. Every text passes `html.escape`: a picture's name may be anything.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from .contact_sheet import THUMB_PX, Group, Thumbnail, heading
from .differential import Differential, Row
from .guard import plain
from .report import NOTE
from .scan import LEFT_OUT, SCALES
from .scan_text import declined_advice, declined_rows, share_text
from .shares import wilson

if TYPE_CHECKING:
    from .manifest import Manifest

ROWS_SHOWN = 1000
"""Rows of the table of fields; all are in the JSON file."""

STYLE = """\
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 66rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { line-height: 1.2; margin-bottom: 0.3rem; }
h2 { margin-top: 2.5rem; padding-top: 0.4rem; border-top: 2px solid #1a1a1a; }
h3 { margin: 1.5rem 0 0.5rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; padding: 0; list-style: none; }
a { color: #0b4f8a; }
.lead { margin-top: 0; font-size: 1.1rem; }
.note { padding: 0.6rem 0.8rem; border-left: 4px solid #8a5a00; background: #fdf6e7; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; min-width: min(100%, 30rem); }
caption { text-align: left; padding: 0.2rem 0; color: #444; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid #ccc; }
thead th { overflow-wrap: normal; border-bottom: 2px solid #666; vertical-align: bottom; }
tbody th { font-weight: normal; min-width: 7rem; }
td { white-space: nowrap; }
td.text { white-space: normal; min-width: 9rem; }
tbody tr:nth-child(even) { background: #f6f6f6; }
svg.bar { display: block; width: 12rem; height: 1.2rem; }
ul.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(SIDE_px, 46%), 1fr)); gap: 0.6rem;
  padding: 0; margin: 0; list-style: none; }
ul.cells li { font-size: 0.75rem; line-height: 1.25; break-inside: avoid; }
ul.cells img { display: block; width: SIDE_px; max-width: 100%; height: auto; }
ul.cells span { color: #444; }
@media print {
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2.page { break-before: page; }
  h2, h3, caption { break-after: avoid; }
  tr, svg { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  nav { display: none; }
  ul.cells { grid-template-columns: repeat(5, 1fr); gap: 3mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
""".replace("SIDE_px", f"{2 * THUMB_PX}px")


def scan_page(
    found: Differential, rows: Sequence[Row], groups: Sequence[Group], manifest: Manifest, bundle_id: str, written: str
) -> str:
    """Lay out the page.

    Args:
        found: all fields together.
        rows: of the pictures.
        groups: of the contact sheet.
        manifest: of the bundle that answered.
        bundle_id: of the same.
        written: when the page was, for people.
    """
    folder = _folder(rows)
    title = "Scan of 1 field" if found.fields == 1 else f"Scan of {found.fields} fields"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead"><strong>{escape(NOTE)}</strong> {escape(bundle_id)}, {escape(written)}.</p>',
        '<nav aria-label="Contents"><ul>',
        *(f'<li><a href="#{key}">{text}</a></li>' for key, text in SECTIONS.items()),
        "</ul></nav>\n</header>\n<main>",
        *_differential(found, manifest),
        *_left_out(found, rows, folder),
        *_fields(rows, manifest, folder),
        *_sheet(groups, folder),
        *_limits(manifest),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


SECTIONS = {
    "differential": "Differential count",
    "left-out": "Left out",
    "fields": "Fields",
    "cells": "Cells",
    "limits": "What this rests on",
}


def _folder(rows: Sequence[Row]) -> str:
    """Return the folder that all pictures lie in, with its separator; "" where there is none."""
    folders = {os.path.dirname(row.name) for row in rows}
    try:
        return os.path.join(os.path.commonpath(folders), "") if all(folders) else ""
    except ValueError:  # no row, or paths that have nothing in common
        return ""


def _head(key: str, page: bool = False) -> str:
    return f'<h2 id="{key}"{" class=page" if page else ""}>{SECTIONS[key]}</h2>'


def _differential(found: Differential, manifest: Manifest) -> list[str]:
    rows = []
    for share in found.leukocytes:
        low, high = wilson(share.count, share.total)
        rows.append((escape(share.name), str(share.count), *share_text(share), _bar(share.share or 0.0, low, high)))
    lines = [
        _head("differential"),
        f"<p>{found.found} white cells were found, {found.counted} leukocytes among them were counted."
        + (WHAT_INTERVALS_SAY if found.answered else "")
        + "</p>",
    ]
    advice = declined_advice(found)
    if advice:
        declined = found.left_out["no answer"]
        lines.append(
            f'<p class="note"><strong>The model declined to answer for {declined} cell{"s" * (declined != 1)}.'
            f"</strong> {escape(advice)}</p>"
        )
    if found.answered:
        columns = ("class", "cells", "share", "95 % interval", "drawn")
        lines.append(_table("Of the leukocytes that were counted", columns, rows))
    elif found.found:
        lines.append("<p>No cell was counted: there are no shares.</p>")
    if not manifest.parity_passed:
        lines.insert(
            1, '<p class="note">This bundle did not pass its parity gates: trust it less than its metrics.</p>'
        )
    if found.beside and found.answered:
        beside = [
            (escape(share.name), str(share.count), "-" if share.share is None else f"{100 * share.share:.1f}")
            for share in found.beside
        ]
        lines.append(_table("Counted beside them", ("class", "cells", "per 100 leukocytes"), beside))
    for point in found.points if found.answered else ():
        name, share = escape(point.share.name), point.share
        interval = share_text(share)
        lines.append(
            f'<p class="note"><strong>Flagged: {name}</strong>: {share.count} of {share.total} counted cells '
            f"({interval[0]}; {interval[1]}), at the bundle&#x27;s threshold of {point.threshold:.3f}. "
            f"On its validation pictures that had a sensitivity of {point.sensitivity:.3f} and a specificity of "
            f"{point.specificity:.3f}: about {point.false_alarms:.0f} of {share.total} cells would be flagged where "
            f"there is no {name} at all.</p>"
        )
    return lines


WHAT_INTERVALS_SAY = (
    " The intervals (95 %, Wilson) say how far chance can carry a share of so few cells. They know nothing of the "
    "model&#x27;s own errors."
)


def _bar(share: float, low: float, high: float) -> str:
    """Draw a share with its interval; the numbers stand beside it."""
    return (
        '<svg class="bar" viewBox="0 0 200 20" preserveAspectRatio="none" aria-hidden="true">'
        '<rect x="0" y="3" width="200" height="14" fill="#e9e9e9"/>'
        f'<rect x="0" y="3" width="{200 * share:.1f}" height="14" fill="#7b3294"/>'
        f'<path d="M{200 * low:.1f} 10H{200 * high:.1f}" stroke="#1a1a1a" stroke-width="2"/></svg>'
    )


def _left_out(found: Differential, rows: Sequence[Row], folder: str) -> list[str]:
    lines = [_head("left-out")]
    if found.left_out:
        cells = [(escape(LEFT_OUT[reason]), str(count)) for reason, count in found.left_out.items()]
        lines.append(_table("Cells that were found and not counted", ("why", "cells"), cells))
    if found.declined:
        why = [(escape(reason), str(count), escape(todo)) for reason, count, todo in declined_rows(found)]
        said = [(escape(label), str(count)) for label, count in found.would_have_said.items()]
        lines.append(_table("Why the model declined to answer", ("why", "cells", "what to do"), why))
        lines.append(_table("What it would have said of these: no result", ("class", "cells"), said))
    bad = [
        (
            escape(plain(row.name.removeprefix(folder))),
            "" if row.error else f"{row.refused_parts} of {row.parts}",
            _why(row),
        )
        for row in rows
        if row.error or row.refused_parts
    ]
    if bad:
        lines.append(_table("Fields that were refused or failed", ("field", "parts", "why"), bad[:ROWS_SHOWN]))
        if len(bad) > ROWS_SHOWN:
            lines.append(f"<p>The first {ROWS_SHOWN} of {len(bad)}; scan.json has them all.</p>")
    if len(lines) == 1:
        lines.append("<p>Nothing: every field was taken, and every cell found in them was counted.</p>")
    return lines


def _why(row: Row) -> str:
    return escape("; ".join((*((plain(row.error),) if row.error else ()), *row.refused)))


def _fields(rows: Sequence[Row], manifest: Manifest, folder: str) -> list[str]:
    points = [point.name for point in manifest.operating_points]
    head = (
        "field",
        "cells found",
        "counted",
        "no answer",
        *(f"flagged: {name}" for name in points),
        "most are",
        "red cell, px",
    )
    body = [
        (
            escape(plain(row.name.removeprefix(folder))),
            str(row.found),
            str(row.counted.total()),
            str(row.left_out["no answer"]),
            *(str(row.flagged[name]) for name in points),
            escape(", ".join(f"{label} {count}" for label, count in row.counted.most_common(3))),
            "-" if row.red_cell_px is None else f"{row.red_cell_px:.1f} ({row.scale})",
        )
        for row in rows[:ROWS_SHOWN]
    ]
    caption = f"Each picture, in {plain(folder)}" if folder else "Each picture"
    lines = [_head("fields", page=True), _table(caption, tuple(map(escape, head)), body)]
    if len(rows) > ROWS_SHOWN:
        lines.append(f"<p>The first {ROWS_SHOWN} of {len(rows)} fields; scan.json has them all.</p>")
    sources = sorted({row.scale for row in rows if not row.error})
    lines.append(
        "<p>How large a red cell is: " + escape("; ".join(f"{key}: {SCALES[key]}" for key in sources)) + ".</p>"
    )
    return lines


def _sheet(groups: Sequence[Group], folder: str) -> list[str]:
    lines = [
        _head("cells", page=True),
        "<p>Each cell as the model saw it and, right of it, where it saw its answer; the line is at half of the "
        "peak. In each group the most probable stand first.</p>",
    ]
    if not groups:
        lines.append("<p>No cell was found.</p>")
    for group in groups:
        lines += [
            f"<h3>{escape(heading(group))}</h3>",
            '<ul class="cells">',
            *(_cell(cell, folder) for cell in group.shown),
            "</ul>",
        ]
    return lines


def _cell(cell: Thumbnail, folder: str) -> str:
    answer = escape(("" if cell.answered else "would have said ") + f"{cell.label} {100 * cell.probability:.0f} %")
    flags = escape("".join(f", {name}?" for name in cell.flags if name != cell.label))
    place = escape(f"{plain(cell.field.removeprefix(folder))}, cell {cell.number}")
    data = base64.b64encode(cell.jpeg).decode("ascii")
    return (
        f'<li><img src="data:image/jpeg;base64,{data}" width="{2 * THUMB_PX}" height="{THUMB_PX}" loading="lazy" '
        f'alt="{answer}: the cell, and its heatmap">{answer}{flags}<br><span>{place}</span></li>'
    )


def _limits(manifest: Manifest) -> list[str]:
    limits = manifest.raw["limits"]
    notes = "".join(f"<li>{escape(note)}</li>" for note in limits["notes"])
    return [
        _head("limits", page=True),
        f"<p><strong>{escape(NOTE)}</strong> A class is the model&#x27;s answer, not a finding; look at the cells.</p>",
        f"<p>Intended: {escape(limits['intended'])}</p>\n<p>Not for: {escape(limits['not_for'])}</p>",
        f"<ul>{notes}</ul>" if notes else "",
    ]


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table; its cells are HTML already, the first of each row names it."""
    lines = [
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>',
        f"<caption>{escape(caption)}</caption>",
        "<thead><tr>" + "".join(f'<th scope="col">{text}</th>' for text in head) + "</tr></thead>\n<tbody>",
    ]
    for first, *others in rows:
        cells = "".join(f"<td{' class=text' if len(c) > 30 and '<' not in c else ''}>{c}</td>" for c in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])
