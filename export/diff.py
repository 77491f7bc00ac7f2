"""Diff: what two bundles say differently, in the manifest's own words.

What comes in are two open bundles; what goes out is a `Comparison`: every value that is not the same in both, grouped
as the manifest groups them, measures with their difference and whether their intervals overlap. Both manifests are
walked to their ends, so a key that this file has never heard of is compared, too. What is compared is what the bundles
say: whether their files are what they say is for ``python -m edge_runtime verify``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import BundleError
from edge_runtime.guard import plain
from edge_runtime.json_reader import is_number

SECTIONS = {
    "task": "task",
    "input": "input",
    "preprocess": "preprocess",
    "outputs": "outputs",
    "operating_points": "operating points",
    "quantization": "recipe and calibration",
    "training": "training",
    "metrics.this": "metrics",
    "metrics.reference": "metrics of the reference",
    "metrics.parity": "parity",
    "metrics.parity.rows": "parity",
    "limits": "limits",
    "golden": "golden",
    "files": "files",
}
"""Where a value stands in the manifest -> what its differences stand under, in the order they are shown."""

OTHER = "bundle"
"""Everything else: name, version, temperature, and keys of a later day."""

MEASURED = ("metrics", "metrics of the reference", "parity")
"""Sections whose numbers are measured, so that b - a means something."""

NAMES = (("name",), ("step", "measure"), ("picture",))
"""By which of its keys an object in a list is recognised in the other bundle."""

EXAMPLES = """examples:
  python -m export diff all-subtypes work/bundle
  python -m export diff work/int8 work/fp32 --json

exit status: 0 compared, whatever was found; 1 a bundle cannot be opened; 2 wrong usage.
"""

_WIDTH = 44
_HUGE = 1e300
_SHA256 = re.compile(r"[0-9a-f]{64}")
_Path = tuple[str, ...]


class _Absent:
    """The value of a key that a manifest does not have; null is a value."""


ABSENT = _Absent()


@dataclass(frozen=True)
class Change:
    """One value that is not the same.

    Attributes:
        section: of `SECTIONS`, or `OTHER`.
        path: in the manifest.
        a: what the first bundle says, as JSON has it, or `ABSENT`.
        b: what the second says.
    """

    section: str
    path: _Path
    a: Any
    b: Any

    @property
    def difference(self) -> float | None:
        """Return b - a where both are measured numbers."""
        a, b = _number(self.a), _number(self.b)
        return b - a if self.section in MEASURED and a is not None and b is not None else None

    @property
    def intervals_overlap(self) -> bool | None:
        """Return whether the 95 % intervals have a value in common; None where one has no interval."""
        if not (_is_measure(self.a) and _is_measure(self.b)):
            return None
        return bool(self.a["low"] <= self.b["high"] and self.b["low"] <= self.a["high"])

    def to_dict(self) -> dict[str, Any]:
        """Return the change as JSON takes it: what is absent in a bundle is absent here."""
        sides = {side: value for side, value in (("a", self.a), ("b", self.b)) if value is not ABSENT}
        found = {"difference": self.difference, "intervals_overlap": self.intervals_overlap}
        return {
            "section": self.section,
            "key": ".".join(self.path),
            **sides,
            **{key: value for key, value in found.items() if value is not None},
        }


@dataclass(frozen=True)
class Comparison:
    """Two bundles by their ids, and all that they say differently, in the order of `SECTIONS`."""

    a: str
    b: str
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON takes it."""
        return {
            "a": self.a,
            "b": self.b,
            "same_id": self.a == self.b,
            "equal": not self.changes,
            "differences": [change.to_dict() for change in self.changes],
        }


def compare(a: Bundle, b: Bundle) -> Comparison:
    """Compare what two bundles say.

    Raises:
        BundleError: a key that no reader needs is nested too deeply to be compared.
    """
    try:
        old, new = dict(_leaves(a.manifest.raw)), dict(_leaves(b.manifest.raw))
    except RecursionError:
        raise BundleError(f"{a.id}, {b.id}: nested too deeply to be compared") from None
    changes = []
    for path in [*old, *(path for path in new if path not in old)]:
        sides = old.get(path, ABSENT), new.get(path, ABSENT)
        if not _same(*sides) and not _opened(path, sides, old, new):
            changes.append(Change(_section(path)[0], path, *sides))
    order = [OTHER, *dict.fromkeys(SECTIONS.values())]
    changes.sort(key=lambda change: (order.index(change.section), len(change.path)))  # what sums up comes first
    return Comparison(a.id, b.id, tuple(changes))


def comparison_text(found: Comparison) -> str:
    """Return a comparison as a table for people: what differs and nothing else."""
    same_id, count = found.a == found.b, len(found.changes)
    verdict = f"{count} difference{'s' if count > 1 else ''}" if count else "no difference"
    lines = [f"a  {found.a}", f"b  {found.b}", f"{'same' if same_id else 'another'} id, {verdict}"]
    for section in dict.fromkeys(change.section for change in found.changes):
        rows = [_row(change) for change in found.changes if change.section == section]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += ["", section]
        for row in rows:
            lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return "\n".join(lines)


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Add ``diff`` to the subcommands of a parser."""
    diff = commands.add_parser(
        "diff",
        help="show what two bundles say differently",
        description="Show what two bundles say differently: labels, preprocessing, thresholds, recipe, provenance, "
        "metrics, parity, files. Whether their files are what they say: python -m edge_runtime verify.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    diff.add_argument("a", metavar="A", help="name or path of a bundle: the old one")
    diff.add_argument("b", metavar="B", help="of the new one")
    diff.add_argument("--json", action="store_true", help="one JSON object")
    diff.set_defaults(run=_diff)


def _diff(args: argparse.Namespace) -> None:
    found = compare(open_bundle(args.a), open_bundle(args.b))
    text = json.dumps(found.to_dict(), indent=2) if args.json else comparison_text(found)
    sys.stdout.write(text + "\n")


def _leaves(node: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Yield all that is compared as one: values, measures, rows of the parity ladder, entries of files."""
    if isinstance(node, dict) and node and not _is_measure(node) and path[:1] != ("files",):
        for key, value in node.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(node, dict) and path == ("files",):
        yield from (((*path, name), entry) for name, entry in node.items())
    elif isinstance(node, list) and node and all(isinstance(item, dict) for item in node):
        for name, item in zip(_names(node), node, strict=True):
            yield from [((*path, name), item)] if _is_row(item) else _leaves(item, (*path, name))
    else:
        yield path, node


def _names(items: list[dict[str, Any]]) -> list[str]:
    """Name the objects of a list by what they are, or by their places where that is not one name each."""
    for keys in NAMES:
        names = [": ".join(str(item.get(key)) for key in keys) for item in items]
        if all(key in item for key in keys for item in items) and len(set(names)) == len(names):
            return names
    return [f"[{place}]" for place in range(len(items))]


def _same(a: Any, b: Any) -> bool:
    """Return whether two values are the same: 32 and 32.0 are, 1 and true are not."""
    if is_number(a) and is_number(b):
        return bool(a == b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _opened(path: _Path, sides: tuple[Any, Any], old: dict[_Path, Any], new: dict[_Path, Any]) -> bool:
    """Return whether nothing (null, {} or []) on one side is an object on the other, whose values are shown anyway."""
    for value, other, others in ((*sides, new), (*sides[::-1], old)):
        if not value and not isinstance(value, str | int | float) and other is ABSENT:
            return any(key[: len(path)] == path for key in others)
    return False


def _section(path: _Path) -> tuple[str, int]:
    """Return a value's section, and how many of its path's steps that says already."""
    for steps in (3, 2, 1):
        title = SECTIONS.get(".".join(path[:steps])) if len(path) > steps else None
        if title:
            return title, steps
    return OTHER, 0


def _is_measure(value: Any) -> bool:
    return isinstance(value, dict) and all(_number(value.get(key)) is not None for key in ("value", "low", "high"))


def _is_row(value: dict[str, Any]) -> bool:
    return {"step", "measure", "value", "limit", "passed"} <= value.keys()


def _number(value: Any) -> float | None:
    if isinstance(value, dict):
        value = value.get("value")
    return float(value) if is_number(value) and abs(value) < _HUGE else None


def _row(change: Change) -> tuple[str, str, str, str]:
    key = ".".join(change.path[_section(change.path)[1] :])
    return (plain(key), *_cells(change.a, change.b), _note(change))


def _cells(a: Any, b: Any) -> tuple[str, str]:
    """Return both values as short texts that are not the same; long ones are cut around the place where they part."""
    texts = [plain(_text(value)) for value in (a, b)]
    if texts[0] == texts[1]:  # too short to tell them apart
        texts = [json.dumps(value) for value in (a, b)]
    parted = (place for place, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1])
    start = max(0, next(parted, min(map(len, texts))) - _WIDTH // 4)
    first, second = (
        text if len(text) <= _WIDTH else ("..." if start else "") + text[start : start + _WIDTH] + "..."
        for text in texts
    )
    return first, second


def _text(value: Any) -> str:
    if value is ABSENT:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value[:12] if _SHA256.fullmatch(value) else value
    if _is_measure(value):
        return f"{value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f})"
    if isinstance(value, dict) and _is_row(value):
        return f"{_text(value['value'])} (limit {value['limit']}) {'passed' if value['passed'] else 'FAILED'}"
    if isinstance(value, dict) and {"sha256", "bytes"} <= value.keys():
        return f"{value['bytes']} bytes, {value['sha256'][:12]}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def _note(change: Change) -> str:
    if change.section == "files" and ABSENT not in (change.a, change.b):
        grown = change.b["bytes"] - change.a["bytes"]
        return f"{grown:+d} bytes" if grown else "same size, other bytes"
    parts = [] if change.difference is None else [f"{change.difference:+.4g}"]
    if change.intervals_overlap is not None:
        parts.append("intervals overlap" if change.intervals_overlap else "intervals APART")
    return ", ".join(parts)
