"""Resampling: the bootstrap behind every interval.

What comes in are counts and scores per picture and, where pictures belong together, their clusters; what goes out are
statistics whose row 0 is the sample itself and whose other rows are resamples, (1 + resamples, ...), and the interval
read off them. An undefined number is NaN in the rows and None as an interval. What the metrics mean is not said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError

Floats = npt.NDArray[np.float64]
Interval = dict[str, float]
"""{"value", "low", "high"}: a number and its 95 % interval."""

RESAMPLES = 2000

_BLOCK = 256  # resamples at a time where a (resamples, N) array is needed


class Resamples:
    """How often each cluster counts in each resample; row 0 is the sample itself, every cluster once.

    Attributes:
        cluster: (N,) cluster number of each picture.
        weights: (1 + resamples, C) counts.
    """

    def __init__(self, n: int, clusters: Sequence[Any] | npt.NDArray[Any] | None, seed: int, resamples: int) -> None:
        if n == 0:
            raise DataError("no pictures to measure on")
        if clusters is None:
            self.cluster, count = np.arange(n), n
        elif len(clusters) != n:
            raise DataError("a group is needed per picture", got=len(clusters), expected=n)
        else:
            names, self.cluster = np.unique(np.asarray(clusters), return_inverse=True)
            count = len(names)
        drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
        places = drawn + count * np.arange(resamples)[:, None]
        draws = np.bincount(places.ravel(), minlength=resamples * count).reshape(resamples, count)
        self.weights = np.concatenate([np.ones((1, count)), draws]).astype(np.float64)
        self.n = n
        self.description = {
            "level": 0.95,
            "method": "percentile bootstrap",
            "unit": "picture" if clusters is None else "group",
            "units": count,
            "resamples": resamples,
            "seed": seed,
        }

    def sums(self, columns: Floats) -> Floats:
        """Sum (N, M) columns over the pictures of every resample: (1 + resamples, M)."""
        by_cluster = np.zeros((self.weights.shape[1], columns.shape[1]))
        np.add.at(by_cluster, self.cluster, columns)
        return self.weights @ by_cluster

    def confusions(self, targets: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: int) -> Floats:
        """Count truth (rows) against prediction: (1 + resamples, K, K)."""
        cells = classes * classes
        places = self.cluster * cells + targets * classes + predicted
        by_cluster = np.bincount(places, minlength=self.weights.shape[1] * cells).reshape(-1, cells)
        return (self.weights @ by_cluster).reshape(-1, classes, classes)

    def auroc(self, scores: Floats, positive: npt.NDArray[np.bool_]) -> Floats:
        """Share of (positive, negative) pairs in the right order, ties half: (1 + resamples,), NaN where no pair is.

        The Mann-Whitney form: with negatives sorted by score, a positive beats as many as stand below it.
        """
        order = np.argsort(scores[~positive], kind="stable")
        sorted_scores, negatives = scores[~positive][order], self.cluster[~positive][order]
        below = np.searchsorted(sorted_scores, scores[positive], side="left")
        up_to = np.searchsorted(sorted_scores, scores[positive], side="right")
        shares = []
        for start in range(0, len(self.weights), _BLOCK):
            weights = self.weights[start : start + _BLOCK]
            counts = np.zeros((len(weights), len(negatives) + 1))
            np.cumsum(weights[:, negatives], axis=1, out=counts[:, 1:])
            weight = weights[:, self.cluster[positive]]
            wins = (weight * (counts[:, below] + counts[:, up_to])).sum(1) / 2
            shares.append(_ratio(wins, weight.sum(1) * counts[:, -1]))
        return np.concatenate(shares)


def confusion_rates(counts: Floats) -> dict[str, Floats]:
    """Turn confusion counts (B, K, K), rows are the truth, into rates (B, K) and means (B,); NaN where undefined."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    support, predicted = counts.sum(2), counts.sum(1)
    total = support.sum(1, keepdims=True)
    sensitivity = _ratio(hits, support)
    f1 = np.where(support > 0, _ratio(2 * hits, support + predicted), np.nan)
    return {
        "sensitivity": sensitivity,
        "specificity": _ratio(total - support - predicted + hits, total - support),
        "precision": _ratio(hits, predicted),
        "f1": f1,
        "accuracy": hits.sum(1) / total[:, 0],
        "balanced_accuracy": mean_of_present(sensitivity),
        "macro_f1": mean_of_present(f1),
    }


def percentile_interval(samples: Floats) -> Interval | None:
    """Return the value (first of `samples`) and the 2.5 and 97.5 percentiles of the others; None where undefined."""
    if np.isnan(samples[0]):
        return None
    drawn = samples[1:][~np.isnan(samples[1:])]
    low, high = np.percentile(drawn, (2.5, 97.5)) if len(drawn) else (samples[0], samples[0])
    return {"value": float(samples[0]), "low": float(low), "high": float(high)}


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def mean_of_present(values: Floats) -> Floats:
    """Average (B, K) over the K that are not NaN; NaN where none is."""
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0).sum(1), present.sum(1))
