"""Layout: a table as plain text, its columns aligned, or as Markdown. What is in it is the caller's business."""

from __future__ import annotations

from collections.abc import Sequence


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "", *, rule: bool = False) -> str:
    """Lay out a table for people.

    Args:
        head: what the columns are called.
        rows: their cells, as many as `head` has.
        indent: what every line begins with.
        rule: draw a line below the head.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    if rule:
        lines.insert(1, "-" * len(lines[0]))
    return "\n".join(indent + line.rstrip() for line in lines)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table as Markdown.

    Args:
        head: what the columns are called.
        rows: their cells, as many as `head` has.
    """
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
