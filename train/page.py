"""Page: sections of text, tables and pictures, laid out as one HTML file that needs nothing else.

What comes in are blocks that hold ready text; what goes out is the page, with everything but the pictures escaped. What
the numbers are is not known here; how they look is `page.html.jinja`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Text:
    """Paragraphs, or the points of a list.

    Attributes:
        lines: one each.
        points: show them as a list.
    """

    kind: ClassVar[str] = "text"
    lines: Sequence[str]
    points: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what it shows: also on which split, how many pictures, and what the intervals are.
        head: of every column.
        rows: cells, as many as the head has.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture of numbers.

    Attributes:
        svg: element, from `train.plots.to_svg`; put into the page as it is.
        caption: as a table's.
    """

    kind: ClassVar[str] = "picture"
    svg: str
    caption: str


@dataclass(frozen=True)
class Commands:
    """Lines to be typed, or text whose line breaks count."""

    kind: ClassVar[str] = "commands"
    lines: Sequence[str]


Block = Text | Table | Picture | Commands


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: heading.
        blocks: in order.
        level: of the heading, 2 or 3; one of level 2 stands in the table of contents.
    """

    title: str
    blocks: Sequence[Block]
    level: int = 2


def render_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Lay out a page.

    Args:
        title: of the page.
        lead: one sentence below it.
        sections: in order.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(title=title, lead=lead, sections=sections)
