"""Shares: how many of some cells are of one kind, and how far chance can carry that. Counts in, shares out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Z_95 = 1.959963984540054
"""Of the normal distribution: 95 % lie within."""


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's score method.

    It keeps close to its level where cells are few and shares near 0 or 1, as those of a differential are. Source: E.
    B. Wilson, Probable inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22 (1927) 209.

    Args:
        count: cells of the class, 0 to `total`.
        total: all cells.

    Returns:
        Lower and upper end, 0..1; (0, 1) for no cells at all.
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = count / total, Z_95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    low = 0.0 if count == 0 else middle - half
    return low, 1.0 if count == total else middle + half


@dataclass(frozen=True)
class Share:
    """How many of some cells are of one kind.

    Attributes:
        name: of the kind.
        count: of that kind.
        total: of all.
    """

    name: str
    count: int
    total: int

    @property
    def share(self) -> float | None:
        """Of all, 0..1; None where there are none."""
        return self.count / self.total if self.total else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        low, high = wilson(self.count, self.total)
        share = None if self.share is None else round(self.share, 6)
        return {"name": self.name, "count": self.count, "of": self.total, "share": share, "low": low, "high": high}
