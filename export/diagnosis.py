"""Diagnosis: where a quantized model loses what it loses - layers, classes, pictures - and what to do about it.

What comes in are the outputs of reference and candidate on the test split, both graphs, pixels to run them on, and the
result of `suggestion.suggest`; what goes out is a `Diagnosis`, as text for people or as a dictionary for JSON. It
explains a gate that failed and decides nothing: the gates are ``parity``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .comparison import Outputs
from .layer_noise import LayerNoise, noise_table, worst_first
from .parity import Row
from .suggestion import Suggestion

SHOWN = 8
"""Layers and pictures in the text; the dictionary has all."""


@dataclass(frozen=True)
class Flip:
    """A picture that the two models answer differently.

    Attributes:
        picture: its path.
        label: what it is.
        before: the reference's answer.
        after: the candidate's.
        margin_before: by how much the reference's logit of `before` is above that of `after`; small: on the fence.
        margin_after: by how much the candidate's logit of `after` is above that of `before`.
    """

    picture: str
    label: str
    before: str
    after: str
    margin_before: float
    margin_after: float

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        margins = {"margin_before": round(self.margin_before, 4), "margin_after": round(self.margin_after, 4)}
        return {"picture": self.picture, "label": self.label, "before": self.before, "after": self.after} | margins


@dataclass(frozen=True)
class ClassFlips:
    """One class's share of the flips.

    Attributes:
        label: of the pictures.
        pictures: of this class.
        lost: right before, wrong after.
        won: wrong before, right after.
        other: wrong both times, in different ways.
    """

    label: str
    pictures: int
    lost: int
    won: int
    other: int

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        counts = {"pictures": self.pictures, "lost": self.lost, "won": self.won, "other": self.other}
        return {"label": self.label, **counts}


@dataclass(frozen=True)
class Diagnosis:
    """Where a candidate loses.

    Attributes:
        failed: gates that failed, as ``measure: value, limit``.
        layers: worst own loss first.
        flips: the reference's surest answers first.
        classes: with flips, the one that lost most first.
        suggestion: None where none was asked for.
    """

    failed: tuple[str, ...]
    layers: tuple[LayerNoise, ...]
    flips: tuple[Flip, ...]
    classes: tuple[ClassFlips, ...]
    suggestion: Suggestion | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "failed": list(self.failed),
            "layers": [layer.to_dict() for layer in self.layers],
            "flips": [flip.to_dict() for flip in self.flips],
            "classes": [row.to_dict() for row in self.classes],
            "suggestion": self.suggestion.to_dict() if self.suggestion else None,
        }

    def text(self) -> str:
        """Lay it out for people."""
        parts = ["gates that failed:", *(f"  {line}" for line in self.failed)] if self.failed else ["all gates passed"]
        title = "worst layers, signal to quantization noise in dB (own: added by the layer itself; -: nothing lost):"
        layers = [title, noise_table(self.layers[:SHOWN])] if self.layers else ["layers: none could be measured"]
        parts += ["", *layers, ""]
        if not self.flips:
            parts.append("no picture changed its answer")
        for row in self.classes:
            parts.append(f"{row.label}: {row.lost} lost, {row.won} won, {row.other} wrong both times of {row.pictures}")
        for flip in self.flips[:SHOWN]:
            margins = f"margin {flip.margin_before:.2f} -> {-flip.margin_after:.2f}"
            parts.append(f"  {flip.picture}: {flip.label}; {flip.before} -> {flip.after}, {margins}")
        if len(self.flips) > SHOWN:
            parts.append(f"  and {len(self.flips) - SHOWN} more")
        return "\n".join([*parts, *(["", self.suggestion.text()] if self.suggestion else [])])


def diagnose(
    layers: Sequence[LayerNoise],
    rows: Sequence[Row],
    reference: Outputs,
    candidate: Outputs,
    targets: npt.NDArray[np.int64],
    labels: Sequence[str],
    pictures: Sequence[str],
    suggestion: Suggestion | None = None,
) -> Diagnosis:
    """Put a diagnosis together.

    Args:
        layers: of `layer_noise.tflite_noise` or `onnx_noise.onnx_noise`.
        rows: the ladder's.
        reference: full precision, N pictures.
        candidate: quantized.
        targets: (N,) class numbers.
        labels: K names.
        pictures: N paths.
        suggestion: of `suggestion.suggest`.
    """
    failed = tuple(f"{row.step}: {row.measure} {row.value:g}, limit {row.limit}" for row in rows if not row.passed)
    flips = find_flips(reference, candidate, targets, labels, pictures)
    classes = count_flips(reference, candidate, targets, labels)
    return Diagnosis(failed, tuple(worst_first(layers)), flips, classes, suggestion)


def find_flips(
    reference: Outputs,
    candidate: Outputs,
    targets: npt.NDArray[np.int64],
    labels: Sequence[str],
    pictures: Sequence[str],
) -> tuple[Flip, ...]:
    """Return the pictures whose answer changed, those first of which the reference was surest."""
    before, after = _answers(reference), _answers(candidate)
    flips = []
    for i in _changed(before, after):
        j, k = int(before[i]), int(after[i])
        margin_before = float(reference.logits[i, j] - reference.logits[i, k])
        margin_after = float(candidate.logits[i, k] - candidate.logits[i, j])
        flips.append(Flip(pictures[i], labels[targets[i]], labels[j], labels[k], margin_before, margin_after))
    return tuple(sorted(flips, key=lambda flip: -flip.margin_before))


def count_flips(
    reference: Outputs, candidate: Outputs, targets: npt.NDArray[np.int64], labels: Sequence[str]
) -> tuple[ClassFlips, ...]:
    """Count flips per class, where there are any; the class that lost most, net, first."""
    before, after = _answers(reference), _answers(candidate)
    changed = np.zeros(len(targets), dtype=bool)
    changed[_changed(before, after)] = True
    rows = []
    for k, label in enumerate(labels):
        mine = targets == k
        lost = int((mine & changed & (before == targets)).sum())
        won = int((mine & changed & (after == targets)).sum())
        flipped = int((mine & changed).sum())
        if flipped:
            rows.append(ClassFlips(label, int(mine.sum()), lost, won, flipped - lost - won))
    return tuple(sorted(rows, key=lambda row: row.won - row.lost))


def _answers(outputs: Outputs) -> npt.NDArray[np.int64]:
    """Return the classes, -1 where the outputs are not finite: no answer is no flip."""
    finite = np.asarray(np.isfinite(outputs.logits).all(1))
    found: npt.NDArray[np.int64] = np.where(finite, np.nan_to_num(outputs.logits).argmax(1), -1)
    return found


def _changed(before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]) -> list[int]:
    return [int(i) for i in np.flatnonzero((before != after) & (before >= 0) & (after >= 0))]
