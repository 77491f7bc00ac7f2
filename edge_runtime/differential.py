"""Differential: from scanned fields to counts and shares of classes with their intervals, and to what was left out.

What comes in are `FieldScan`s, one after another; what goes out is a row per picture and the
`Differential` of all. Shares are of leukocytes; erythroblasts, platelets and smudge cells are counted beside them, per
100 leukocytes, as laboratories do. Intervals say how far chance alone can carry a share of so few cells; they know
nothing of the model's own errors. Pictures are not kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .shares import Share

if TYPE_CHECKING:
    from .manifest import Manifest
    from .scan import FieldScan

BESIDE = frozenset({"erythroblast", "platelet", "smudge cell"})
"""Labels that are no leukocytes, or no whole ones."""


@dataclass
class Row:
    """What was found in one picture; it grows with every part of it.

    Attributes:
        name: of the picture.
        width: pixels; 0 where it could not be read.
        height: pixels.
        red_cell_px: diameter of a red cell, pixels.
        scale: where that comes from, of `scan.SCALES`.
        parts: of the picture that were looked at: 1, or the tiles of a wide one.
        refused_parts: how many of them must not be counted.
        refused: reason -> parts that were refused for it; one part may have several.
        counted: label -> cells.
        flagged: operating point -> counted cells for which it says yes.
        left_out: reason, of `scan.LEFT_OUT` -> cells.
        declined: reason, of `refusal.REASONS` -> cells left out for no answer; one cell may have several.
        would_have_said: label -> cells left out for no answer; no result.
        error: why the picture could not be scanned to its end, or "".
    """

    name: str
    width: int = 0
    height: int = 0
    red_cell_px: float | None = None
    scale: str = "unknown"
    parts: int = 0
    refused_parts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    declined: Counter[str] = field(default_factory=Counter)
    would_have_said: Counter[str] = field(default_factory=Counter)
    error: str = ""

    def add(self, scan: FieldScan) -> None:
        """Add a part of the picture."""
        self.width, self.height = scan.width, scan.height
        if scan.red_cell_px is not None:
            self.red_cell_px, self.scale = scan.red_cell_px, scan.scale
        self.parts += 1
        self.refused_parts += bool(scan.refusals)
        self.refused.update({refusal.reason for refusal in scan.refusals})
        for cell in scan.cells:
            reason = scan.left_out(cell)
            if reason is not None:
                self.left_out[reason] += 1
                if reason == "no answer":
                    self.declined.update({refusal.reason for refusal in cell.prediction.refusals})
                    self.would_have_said[cell.prediction.label] += 1
                continue
            self.counted[cell.prediction.label] += 1
            self.flagged.update(name for name, flag in cell.prediction.flags.items() if flag.yes)

    @property
    def found(self) -> int:
        """Cells found."""
        return self.counted.total() + self.left_out.total()

    @property
    def wholly_refused(self) -> bool:
        """Whether no part of the picture may be counted."""
        return 0 < self.parts == self.refused_parts

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            "field": self.name,
            "width": self.width,
            "height": self.height,
            "red_cell_px": None if self.red_cell_px is None else round(self.red_cell_px, 2),
            "scale": self.scale,
            "parts": self.parts,
            "refused_parts": self.refused_parts,
            "refused": dict(self.refused),
            "found": self.found,
            "counted": dict(self.counted),
            "flagged": dict(self.flagged),
            "left_out": dict(self.left_out),
            "declined": dict(self.declined),
            "would_have_said": dict(self.would_have_said),
            "error": self.error or None,
        }


@dataclass(frozen=True)
class Point:
    """What an operating point says of the counted cells, and what its bundle says of it.

    Attributes:
        share: of leukocytes and what is counted beside them: cells for which it says yes.
        threshold: summed probability from which it does.
        sensitivity: on validation pictures, 0..1.
        specificity: on validation pictures, 0..1.
    """

    share: Share
    threshold: float
    sensitivity: float
    specificity: float

    @property
    def false_alarms(self) -> float:
        """Cells for which it would say yes if it never should, at the specificity that was measured."""
        return self.share.total * (1 - self.specificity)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            **self.share.to_dict(),
            "threshold": self.threshold,
            "sensitivity": self.sensitivity,
            "specificity": self.specificity,
            "false_alarms_expected": round(self.false_alarms, 2),
        }


@dataclass(frozen=True)
class Differential:
    """All fields together.

    Attributes:
        fields: pictures, those with an error included.
        failed: pictures with an error.
        refused: pictures of which no part may be counted.
        found: cells, those left out included.
        leukocytes: shares of each label among the leukocytes that were counted.
        beside: the other labels, counts per leukocytes; they may exceed them.
        points: the bundle's operating points.
        left_out: reason -> cells.
        declined: reason, of `refusal.REASONS` -> cells left out for no answer, most first; one may have several.
        would_have_said: label -> cells left out for no answer, most first; no result.
    """

    fields: int
    failed: int
    refused: int
    found: int
    leukocytes: tuple[Share, ...]
    beside: tuple[Share, ...]
    points: tuple[Point, ...]
    left_out: Mapping[str, int]
    declined: Mapping[str, int]
    would_have_said: Mapping[str, int]

    @property
    def answered(self) -> int:
        """Cells that were counted, those beside the leukocytes included."""
        return sum(share.count for share in (*self.leukocytes, *self.beside))

    @property
    def counted(self) -> int:
        """Leukocytes that were counted: the denominator of the shares."""
        return sum(share.count for share in self.leukocytes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            "fields": self.fields,
            "failed": self.failed,
            "refused": self.refused,
            "found": self.found,
            "leukocytes_counted": self.counted,
            "leukocytes": [share.to_dict() for share in self.leukocytes],
            "beside": [
                {
                    "name": share.name,
                    "count": share.count,
                    "per_100_leukocytes": None if share.share is None else round(100 * share.share, 3),
                }
                for share in self.beside
            ],
            "operating_points": [point.to_dict() for point in self.points],
            "left_out": dict(self.left_out),
            "declined": dict(self.declined),
            "would_have_said": dict(self.would_have_said),
            "interval": "Wilson score, 95 %: chance of sampling only, not the model's errors",
        }


class Tally:
    """Adds up a scan, field after field."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._rows: dict[str, Row] = {}

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of the pictures so far, in the order they came."""
        return tuple(self._rows.values())

    def add(self, scan: FieldScan) -> None:
        """Add a field, or a part of one."""
        self._rows.setdefault(scan.name, Row(scan.name)).add(scan)

    def fail(self, name: str, error: str) -> None:
        """Note that a picture could not be scanned to its end; cells that it gave until then stay."""
        self._rows.setdefault(name, Row(name)).error = error

    def differential(self) -> Differential:
        """Return the sum of everything so far."""
        counted: Counter[str] = Counter()
        flagged: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        declined: Counter[str] = Counter()
        would_have_said: Counter[str] = Counter()
        for row in self.rows:
            counted.update(row.counted)
            flagged.update(row.flagged)
            left_out.update(row.left_out)
            declined.update(row.declined)
            would_have_said.update(row.would_have_said)
        labels = self._manifest.task.labels
        total = sum(counted[label] for label in labels if label not in BESIDE)
        return Differential(
            fields=len(self.rows),
            failed=sum(bool(row.error) for row in self.rows),
            refused=sum(row.wholly_refused for row in self.rows),
            found=sum(row.found for row in self.rows),
            leukocytes=tuple(Share(label, counted[label], total) for label in labels if label not in BESIDE),
            beside=tuple(Share(label, counted[label], total) for label in labels if label in BESIDE),
            points=tuple(
                Point(
                    Share(point.name, flagged[point.name], counted.total()),
                    point.threshold,
                    point.sensitivity,
                    point.specificity,
                )
                for point in self._manifest.operating_points
            ),
            left_out=dict(left_out),
            declined=dict(declined.most_common()),
            would_have_said=dict(would_have_said.most_common()),
        )
