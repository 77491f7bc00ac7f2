"""Quality limits of a bundle: how far from its own validation pictures a picture may be before it gets no answer.

What comes in are the validation pictures' pixels, as they came; what goes out is the manifest's ``quality``. A limit is
the end of what they hold - source by source, for one may be sharper than the other, and all but one in two hundred, for
a bad one may be among them - moved some way towards the value at which nothing is left to see. How far is in `RULES`,
and the same for every bundle: where the top-1 accuracy of the two shipped ones had not yet suffered on corrupted
validation pictures (``docs/abstention.md``). No test picture was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.quality import Quality, measure
from edge_runtime.quality_limits import MEASURES

if TYPE_CHECKING:
    from .pipeline import Source

OUTLIERS = 0.005
"""Share of a source's pictures that do not count on either side."""


class Rule(NamedTuple):
    """Where a limit lies.

    Attributes:
        worthless: value at which a picture shows nothing.
        way: from the validation pictures' end to there, 0..1.
    """

    worthless: float
    way: float


RULES = {
    "brightness": Rule(0.0, 0.4),
    "white": Rule(1.0, 0.2),
    "clipped": Rule(1.0, 0.35),
    "cast": Rule(0.0, 0.5),
    "noise": Rule(40.0, 0.3),
    "stained": Rule(0.0, 0.5),
    "contrast": Rule(0.0, 0.3),
    "purple": Rule(0.0, 0.6),
    "sharpness": Rule(0.0, 0.15),
}
"""Row of `edge_runtime.quality_limits.MEASURES` -> where its limit lies."""


def fit_limits(measured: Sequence[Quality], sources: Sequence[str]) -> dict[str, float]:
    """Return the limits that a set of good pictures sets.

    Args:
        measured: N of them.
        sources: N names of where they came from.
    """
    limits = {}
    for name, rule in RULES.items():
        values: dict[str, list[float]] = {}
        for found, source in zip(measured, sources, strict=True):
            values.setdefault(source, []).append(getattr(found, name))
        low = MEASURES[name].side == "low"
        ends = [sorted(part, reverse=not low)[int(OUTLIERS * len(part))] for part in values.values()]
        end = min(ends) if low else max(ends)
        limits[name] = float(f"{end + rule.way * (rule.worthless - end):.4g}")
    return limits


def quality(source: Source) -> dict[str, dict[str, float]]:
    """Return the manifest's ``quality``, from the validation pictures of a run."""
    from train.pixels import load_pixels

    index, preprocess = source.index, source.run.preprocess
    pixels = load_pixels(index, preprocess.plain) if preprocess.standardises else source.pixels
    numbers = index.select(source.run.protocol, "val")
    limits = fit_limits([measure(pixels[i]) for i in numbers], [index.rows[i].source for i in numbers])
    return {name: {MEASURES[name].side: limit} for name, limit in limits.items()}
