"""Per group: how a network does on each patient, or cluster, of a split by itself.

What comes in are decisions, truth and groups; what goes out is a row per group, the worst first, and the mean over
groups, in which a patient with three cells counts as much as one with three hundred. An average over pictures can look
well while one patient is lost altogether; here that patient has a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .resampling import RESAMPLES, Interval, Resamples, percentile_interval


def per_group(
    predicted: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    groups: Sequence[str],
    labels: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Measure accuracy group by group.

    Args:
        predicted: (N,) class numbers.
        targets: (N,) class numbers.
        groups: N names.
        labels: of the classes.
        seed: of the resampling.
        resamples: how many.

    Returns:
        ``mean_accuracy``: mean over groups, with its interval; ``interval``: how that was made; ``rows``, ordered by
        the upper end of their interval, so that the surest failures stand first: ``group``, ``n``, ``right``,
        ``accuracy`` (see `wilson_interval`), ``classes`` (label -> pictures) and ``mistakes`` ("truth -> said" ->
        pictures, the most frequent first).
    """
    names = np.asarray(groups)
    rows: list[dict[str, Any]] = []
    for name in sorted(set(groups)):
        truth, said = targets[names == name], predicted[names == name]
        right = int((truth == said).sum())
        wrong = Counter(
            f"{labels[t]} -> {labels[s]}" for t, s in zip(truth.tolist(), said.tolist(), strict=True) if t != s
        )
        rows.append(
            {
                "group": name,
                "n": len(truth),
                "right": right,
                "accuracy": wilson_interval(right, len(truth)),
                "classes": {labels[k]: n for k, n in sorted(Counter(truth.tolist()).items())},
                "mistakes": dict(wrong.most_common()),
            }
        )
    rows.sort(key=lambda row: (row["accuracy"]["high"], row["group"]))
    sample = Resamples(len(rows), None, seed, resamples)
    accuracy = np.array([row["accuracy"]["value"] for row in rows])
    means = sample.sums(accuracy[:, None])[:, 0] / len(rows)
    return {
        "mean_accuracy": percentile_interval(means),
        "interval": sample.description | {"unit": "group"},
        "rows": rows,
    }


def wilson_interval(right: int, n: int) -> Interval:
    """Return a share and its 95 % Wilson score interval, which keeps a width where nothing, or everything, is right.

    Pictures of one group resemble each other, so the interval is narrower than the truth: take it for a ranking.
    """
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return {"value": right / n, "low": float(found.low), "high": float(found.high)}
