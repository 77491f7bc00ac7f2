"""Metrics: from logits and truth to the numbers that are reported, each with its 95 % interval.

What comes in are logits (N, K), class numbers (N,) and, where pictures belong together, their groups (N,); what goes
out are JSON-safe dicts, in which an undefined number (the sensitivity of a class that is not there) is None, never NaN.
Pure functions: no torch, no files, no pictures.

Every interval is a percentile bootstrap (Efron 1979) over whole groups where groups are given: cells of one patient
share stain and disease, and resampling them one by one would promise too much. Two limits to know: an interval of width
zero says that no error was seen, not that none will come, and one that rests on a handful of groups is rough, which is
why the number of groups stands beside it. A macro mean is taken over the classes that are present.
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
ECE_BINS = 15
"""Equal-width bins of the confidence, as in Guo et al. 2017."""

_BLOCK = 256  # resamples at a time where a (resamples, N) array is needed


def probabilities(logits: npt.NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return softmax(logits / temperature), (N, K) float64.

    Raises:
        DataError: a logit is not finite.
    """
    p: Floats = np.exp(_log_probabilities(logits, temperature))
    return p


def evaluate_predictions(
    logits: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    labels: Sequence[str],
    temperature: float = 1.0,
    clusters: Sequence[Any] | npt.NDArray[Any] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Measure a classifier.

    Args:
        logits: (N, K), finite.
        targets: (N,) class numbers, 0..K-1.
        labels: K names.
        temperature: of the probabilities, > 0.
        clusters: (N,) what is resampled as a whole; None: pictures.
        seed: of the resampling.
        resamples: how many.

    Returns:
        ``n``, ``temperature``, ``interval`` (how the intervals were made); intervals ``accuracy``,
        ``balanced_accuracy``, ``macro_f1``, ``macro_auroc`` (one class against the rest), ``ece`` (Guo et al. 2017, eq.
        3; resampling biases it upwards, so its interval may lie above it) and ``nll`` (nats); ``per_class``: label ->
        ``support``, ``groups`` and intervals ``sensitivity``, ``specificity``, ``precision``, ``f1``, ``auroc``;
        ``confusion`` (K, K), rows are the truth; ``reliability``: a row per bin.

    Raises:
        DataError: a logit is not finite, or the sizes do not fit.
    """
    targets = _checked_targets(logits, targets, len(labels))
    log_p = _log_probabilities(logits, temperature)
    p = np.exp(log_p)
    rows = np.arange(len(targets))
    predicted = np.asarray(logits).argmax(1)
    sample = _Resamples(len(targets), clusters, seed, resamples)

    rates = _rates(sample.confusions(targets, predicted, len(labels)))
    aurocs = np.stack([sample.auroc(p[:, k], targets == k) for k in range(len(labels))], axis=1)
    gaps, reliability = _reliability(p.max(1), predicted == targets)
    totals = sample.sums(np.ones((len(targets), 1)))[:, 0]
    result = _headline(sample, rates) | {
        "temperature": float(temperature),
        "macro_auroc": _interval(_mean_of_present(aurocs)),
        "ece": _interval(np.abs(sample.sums(gaps)).sum(1) / totals),
        "nll": _interval(sample.sums(-log_p[rows, targets][:, None])[:, 0] / totals),
    }
    per_class = rates | {"auroc": aurocs}
    result["per_class"] = {
        label: {
            "support": int((targets == k).sum()),
            "groups": len(np.unique(sample.cluster[targets == k])),
            **{
                name: _interval(per_class[name][:, k])
                for name in ("sensitivity", "specificity", "precision", "f1", "auroc")
            },
        }
        for k, label in enumerate(labels)
    }
    confusion = np.bincount(targets * len(labels) + predicted, minlength=len(labels) ** 2)
    result["confusion"] = confusion.reshape(len(labels), len(labels)).tolist()
    result["reliability"] = reliability
    return result


def evaluate_labels(
    predicted: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    classes: int,
    clusters: Sequence[Any] | npt.NDArray[Any] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Measure bare decisions, as a control makes them: ``n``, ``interval``, accuracy, balanced accuracy, macro-F1.

    Args:
        predicted: (N,) class numbers.
        targets: (N,) class numbers.
        classes: K.
        clusters: as in `evaluate_predictions`.
        seed: of the resampling.
        resamples: how many.
    """
    sample = _Resamples(len(targets), clusters, seed, resamples)
    return _headline(sample, _rates(sample.confusions(np.asarray(targets), np.asarray(predicted), classes)))


def positive_scores(p: Floats, positive: Sequence[int]) -> Floats:
    """Add up the probabilities of the positive classes, as `edge_runtime.classifier` does: (N,), 0..1."""
    scores: Floats = np.minimum(1.0, p[:, list(positive)].sum(1))
    return scores


def operating_point(
    p: Floats, targets: npt.NDArray[Any], positive: Sequence[int], min_sensitivity: float
) -> dict[str, float]:
    """Choose the highest threshold that keeps a sensitivity; on the validation split, never on test.

    Args:
        p: (N, K) probabilities.
        targets: (N,) class numbers.
        positive: class numbers that mean "yes".
        min_sensitivity: share of the true positives that must be found, 0..1.

    Returns:
        ``threshold`` ("yes" when the summed probability is >= it) and its ``sensitivity`` and ``specificity`` here.

    Raises:
        DataError: no true positives, or nothing else.
    """
    truth = np.isin(targets, list(positive))
    if truth.all() or not truth.any():
        raise DataError(
            "an operating point needs positive and negative pictures", got=f"{int(truth.sum())} of {len(truth)}"
        )
    scores = positive_scores(p, positive)
    kept = max(1, int(np.ceil(min_sensitivity * truth.sum() - 1e-9)))  # 0.95 of 20 is 19, also in floating point
    threshold = np.sort(scores[truth])[::-1][kept - 1]
    yes = scores >= threshold
    return {
        "threshold": float(threshold),
        "sensitivity": float(yes[truth].mean()),
        "specificity": float((~yes)[~truth].mean()),
    }


def evaluate_operating_point(
    p: Floats,
    targets: npt.NDArray[Any],
    positive: Sequence[int],
    threshold: float,
    clusters: Sequence[Any] | npt.NDArray[Any] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Measure a stored threshold.

    Args:
        p: (N, K) probabilities.
        targets: (N,) class numbers.
        positive: class numbers that mean "yes".
        threshold: 0..1.
        clusters: as in `evaluate_predictions`.
        seed: of the resampling.
        resamples: how many.

    Returns:
        ``threshold``, ``n``, ``positives``, intervals ``sensitivity``, ``specificity``, ``auroc`` (of the summed
        probability), each None where its side is empty.
    """
    sample = _Resamples(len(targets), clusters, seed, resamples)
    truth = np.isin(targets, list(positive))
    scores = positive_scores(p, positive)
    rates = _rates(sample.confusions(truth.astype(np.int64), (scores >= threshold).astype(np.int64), 2))
    return {
        "threshold": float(threshold),
        "n": len(truth),
        "positives": int(truth.sum()),
        "sensitivity": _interval(rates["sensitivity"][:, 1]),
        "specificity": _interval(rates["sensitivity"][:, 0]),
        "auroc": _interval(sample.auroc(scores, truth)),
    }


def fit_temperature(logits: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """Find the temperature, 0.05..20, of the least negative log-likelihood (Guo et al. 2017, section 4.2).

    Args:
        logits: (N, K) of the validation split.
        targets: (N,) class numbers.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(targets))

    def nll(log_temperature: float) -> float:
        return float(-_log_probabilities(logits, float(np.exp(log_temperature)))[rows, targets].mean())

    bounds = (float(np.log(0.05)), float(np.log(20)))
    return float(np.exp(minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def paired_difference(
    logits_reference: npt.NDArray[Any],
    logits_candidate: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    clusters: Sequence[Any] | npt.NDArray[Any] | None,
    labels: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compare two models on the same pictures; every resample draws the same pictures for both.

    Args:
        logits_reference: (N, K).
        logits_candidate: (N, K).
        targets: (N,) class numbers.
        clusters: as in `evaluate_predictions`.
        labels: K names.
        seed: of the resampling.
        resamples: how many.

    Returns:
        ``n``, ``interval``; intervals ``macro_f1_reference``, ``macro_f1_candidate``, ``macro_f1_difference_pp``
        (candidate minus reference, percentage points), ``top1_agreement`` (0..1); ``largest_recall_drop_pp``: an
        interval with its ``label``, reference minus candidate, positive where the candidate loses.

    Raises:
        DataError: a logit is not finite, or the sizes do not fit.
    """
    _log_probabilities(logits_reference, 1.0), _log_probabilities(logits_candidate, 1.0)  # finite, or an error
    if np.shape(logits_reference) != np.shape(logits_candidate):
        raise DataError("logits of two models differ in shape", got=np.shape(logits_candidate))
    targets = _checked_targets(logits_reference, targets, len(labels))
    sample = _Resamples(len(targets), clusters, seed, resamples)
    top_reference, top_candidate = np.argmax(logits_reference, 1), np.argmax(logits_candidate, 1)
    reference = _rates(sample.confusions(targets, top_reference, len(labels)))
    candidate = _rates(sample.confusions(targets, top_candidate, len(labels)))
    drops = 100 * (reference["sensitivity"] - candidate["sensitivity"])  # (1 + resamples, K)
    worst = int(np.nanargmax(drops[0]))
    agreement = sample.sums(np.stack([top_reference == top_candidate, np.ones(len(targets))], 1).astype(np.float64))
    return {
        "n": len(targets),
        "interval": sample.description,
        "macro_f1_reference": _interval(reference["macro_f1"]),
        "macro_f1_candidate": _interval(candidate["macro_f1"]),
        "macro_f1_difference_pp": _interval(100 * (candidate["macro_f1"] - reference["macro_f1"])),
        "top1_agreement": _interval(agreement[:, 0] / agreement[:, 1]),
        "largest_recall_drop_pp": {"label": labels[worst], **(_interval(drops[:, worst]) or {})},
    }


class _Resamples:
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


def _rates(counts: Floats) -> dict[str, Floats]:
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
        "balanced_accuracy": _mean_of_present(sensitivity),
        "macro_f1": _mean_of_present(f1),
    }


def _headline(sample: _Resamples, rates: dict[str, Floats]) -> dict[str, Any]:
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    return {"n": sample.n, "interval": sample.description} | {name: _interval(rates[name]) for name in names}


def _reliability(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[Floats, list[dict[str, Any]]]:
    """Bin by confidence, (m-1)/M < c <= m/M.

    Returns:
        (N, M): right minus confidence in the picture's own bin, else 0, whose absolute column sums over N are the ECE;
        and per bin ``low``, ``high``, ``count``, mean ``confidence`` and ``accuracy``.
    """
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gaps = np.zeros((len(bins), ECE_BINS))
    gaps[np.arange(len(bins)), bins] = right - confidence
    rows: list[dict[str, Any]] = []
    for m in range(ECE_BINS):
        inside = bins == m
        filled = bool(inside.any())
        rows.append(
            {
                "low": m / ECE_BINS,
                "high": (m + 1) / ECE_BINS,
                "count": int(inside.sum()),
                "confidence": float(confidence[inside].mean()) if filled else None,
                "accuracy": float(right[inside].mean()) if filled else None,
            }
        )
    return gaps, rows


def _interval(samples: Floats) -> Interval | None:
    """Return the value (first of `samples`) and the 2.5 and 97.5 percentiles of the others; None where undefined."""
    if np.isnan(samples[0]):
        return None
    drawn = samples[1:][~np.isnan(samples[1:])]
    low, high = np.percentile(drawn, (2.5, 97.5)) if len(drawn) else (samples[0], samples[0])
    return {"value": float(samples[0]), "low": float(low), "high": float(high)}


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _mean_of_present(values: Floats) -> Floats:
    """Average (B, K) over the K that are not NaN; NaN where none is."""
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0).sum(1), present.sum(1))


def _log_probabilities(logits: npt.NDArray[Any], temperature: float) -> Floats:
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if scaled.ndim != 2 or not np.isfinite(scaled).all():
        raise DataError(
            "logits are not finite (N, K)", got=f"{int((~np.isfinite(scaled)).sum())} not finite, {scaled.shape}"
        )
    scaled = scaled - scaled.max(1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(1, keepdims=True)), dtype=np.float64)


def _checked_targets(logits: npt.NDArray[Any], targets: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    numbers = np.asarray(targets, dtype=np.int64)
    if np.shape(logits) != (len(numbers), classes):
        raise DataError("logits, targets and labels do not fit", got=np.shape(logits), expected=(len(numbers), classes))
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= classes):
        raise DataError("a class number is out of range", got=int(numbers.max()), expected=f"0..{classes - 1}")
    return numbers
