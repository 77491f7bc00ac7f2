"""Refusals: why a picture gets no answer, each with the number that decided and what it should have been.

What comes in are the numbers of whoever measured: ``quality`` the picture, ``familiarity`` what the network makes of
it, ``abstention`` its probabilities. What goes out is one line for people and one object for programs. Nothing is
measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REASONS = {
    "blurred": "focus again",
    "too dark": "more light or longer exposure",
    "too bright": "less light or shorter exposure",
    "clipped": "less light or lower gain: parts of a colour channel are saturated",
    "colour cast": "check filter and white balance: a colour channel is missing",
    "noisy": "more light or lower gain",
    "no stain": "check stain, filter and white balance",
    "empty field": "move to where cells lie side by side",
    "unfamiliar": "unlike what the model was trained on: look yourself",
    "ambiguous": "several labels are possible: look yourself",
}
"""Reason -> what to do about it. The first eight are the picture's fault, the others the model's."""


@dataclass(frozen=True)
class Refusal:
    """Why a picture gets no answer.

    Attributes:
        reason: of `REASONS`.
        measure: what was measured, such as "sharpness".
        value: what it was; finite.
        low: the smallest value that is accepted, or None.
        high: the largest value that is accepted, or None.
    """

    reason: str
    measure: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """Say it in one line."""
        bounds = (("at least", self.low), ("at most", self.high))
        limits = [(words, bound) for words, bound in bounds if bound is not None]
        digits = 3
        while digits < 9 and any(f"{self.value:.{digits}g}" == f"{bound:.{digits}g}" for _, bound in limits):
            digits += 1  # a value beyond its limit must look so
        expected = " and ".join(f"{words} {bound:.{digits}g}" for words, bound in limits)
        said = f"{self.reason}: {self.measure} {self.value:.{digits}g}"
        return f"{said}, expected {expected} ({REASONS[self.reason]})"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            "reason": self.reason,
            "measure": self.measure,
            "value": round(self.value, 6),
            "low": self.low,
            "high": self.high,
            "text": self.text,
        }
