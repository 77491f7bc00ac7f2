"""Markdown: tables between ``<!-- table: NAME -->`` and ``<!-- end -->``. What stands in them is others' business."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def with_tables(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a page's text with every table made anew.

    Args:
        text: of the page.
        tables: name -> what writes it.

    Raises:
        ValueError: the page has no place for one of them.
    """
    for name, make in tables.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"no place for the table {name}")
        made = make()
        text = pattern.sub(lambda place, made=made: f"{place[1]}\n{made}\n\n{place[2]}", text)
    return text
