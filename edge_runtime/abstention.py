"""Abstention: which labels cannot be excluded, and whether the picture is one the model may answer at all.

What comes in are logits and a picture's distance from the training pictures; what goes out are the plausible labels
and refusals. A label is plausible when its logit is within the class's margin of the largest. Each margin was chosen on
the validation split so that the true label is plausible in the stated share of its class's pictures: split conformal
prediction, class by class (Vovk 2012, arXiv:1209.2673), with log p_max - log p as the score, which always leaves the
top label in. More than one plausible label is no answer. Whether a picture is sharp and well lit, ``quality`` says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .manifest import AbstentionLimits
from .refusal import Refusal

SLACK_NATS = 1e-4
"""Quantized logits lie on a grid, and so do the margins learnt from them: many pictures are exactly at the margin, and
neither its last written digit nor the last bit of a division may decide about them."""


def plausible(
    logits: npt.NDArray[np.floating], temperature: float, margins: tuple[float, ...]
) -> npt.NDArray[np.bool_]:
    """Say which labels cannot be excluded.

    Args:
        logits: (..., K) float, finite.
        temperature: of the probabilities, > 0.
        margins: (K), nats, as `manifest.AbstentionLimits` has them.

    Returns:
        (..., K) bool, at least the top label.
    """
    values = np.asarray(logits, np.float64)
    found: npt.NDArray[np.bool_] = (values.max(axis=-1, keepdims=True) - values) / temperature <= np.array(
        margins
    ) + SLACK_NATS
    return found


def refusals(limits: AbstentionLimits, labels: int, distance: float | None) -> tuple[Refusal, ...]:
    """Say why there is no answer.

    Args:
        limits: of the bundle.
        labels: how many are plausible.
        distance: from the training pictures, or None where nobody knows.
    """
    found = []
    if distance is not None and limits.distance_limit is not None and distance > limits.distance_limit:
        measure = "distance from the training pictures"
        found.append(Refusal("unfamiliar", measure, distance, high=limits.distance_limit))
    if labels > 1:
        found.append(Refusal("ambiguous", "labels that cannot be excluded", float(labels), high=1.0))
    return tuple(found)
