"""Quality limits: what is measured of a picture, what each number may be, and what it means when it is not.

What comes in are numbers that `edge_runtime.quality` measured, and limits (a bundle's, or `FIELD_LIMITS`); what goes
out are refusals. Neither numpy nor Pillow is imported: a manifest is read, and printed, with what stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .refusal import Refusal


@dataclass(frozen=True)
class Meaning:
    """What a measure says.

    Attributes:
        greatest: it lies from 0 to this.
        side: of the limit: "low": smaller is refused, "high": greater is.
        reason: row of `refusal.REASONS`, for what is refused.
    """

    greatest: float
    side: str
    reason: str


MEASURES: Mapping[str, Meaning] = MappingProxyType(
    {
        "brightness": Meaning(255.0, "low", "too dark"),
        "white": Meaning(1.0, "high", "too bright"),
        "clipped": Meaning(1.0, "high", "clipped"),
        "cast": Meaning(1.0, "low", "colour cast"),
        "noise": Meaning(1020.0, "high", "noisy"),
        "stained": Meaning(1.0, "low", "empty field"),
        "contrast": Meaning(2.5, "low", "no stain"),
        "purple": Meaning(2.5, "low", "no stain"),
        "sharpness": Meaning(1.0, "low", "blurred"),
    }
)
"""Number of a `quality.Quality` -> what it means; in the order of the refusals: light, then what the light shows."""

Limits = Mapping[str, float]
"""Row of `MEASURES` -> the last value that is accepted; what is not there is not judged."""

FIELD_LIMITS: Limits = MappingProxyType(
    {
        "brightness": 115.8,
        "white": 0.2795,
        "clipped": 0.6332,
        "cast": 0.4608,
        "noise": 13.21,
        "stained": 0.1227,
        "contrast": 0.112,
        "sharpness": 0.2632,
    }
)
"""For whole microscope fields of any size, measured at `quality.field_scale`: a bundle of single cells can know none.

By the rule of ``export.quality_limits``, from two laboratories that the shipped bundle of single cells did not learn
from: half of BCCD's fields and the validation fields of Taleqani; ``benchmarks.quality`` fits them again and judges the
others by them. The purple of nuclei has no limit: a field without a white cell is a good picture of no white cell.
"""


def refusals(values: Mapping[str, float], limits: Limits) -> tuple[Refusal, ...]:
    """Return a refusal for each reason that a number gives; of two with the same, the one farther from its limit.

    An empty field is not called blurred: nothing in it could be sharp.

    Args:
        values: row of `MEASURES` -> number; all that have a limit.
        limits: of these.
    """
    found: dict[str, tuple[float, Refusal]] = {}
    for name, meaning in MEASURES.items():
        if name not in limits or (name == "sharpness" and "empty field" in found):
            continue
        value, limit = values[name], limits[name]
        low = meaning.side == "low"
        beyond = (limit - value if low else value - limit) / meaning.greatest
        if beyond > found.get(meaning.reason, (0.0,))[0]:
            bounds = {"low": limit} if low else {"high": limit}
            found[meaning.reason] = (beyond, Refusal(meaning.reason, name, value, **bounds))
    return tuple(refusal for _, refusal in found.values())
