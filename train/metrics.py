"""Metrics: from logits and truth to the numbers that are reported, each with its 95 % interval.

What comes in are logits (N, K), class numbers (N,) and, where pictures belong together, their groups (N,); what goes
out are JSON-safe dicts, in which an undefined number (the sensitivity of a class that is not there) is None, never NaN.
Pure functions: no torch, no files, no pictures. The resampling itself is `train.resampling`.

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
from .resampling import RESAMPLES, Floats, Resamples, confusion_rates, mean_of_present, percentile_interval

ECE_BINS = 15
"""Equal-width bins of the confidence, as in Guo et al. 2017."""

SCORE_CLIP = 1e-6
"""Scores nearer to 0 or 1 count as this near when the middle between two is taken: their logits have no end."""


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
    sample = Resamples(len(targets), clusters, seed, resamples)

    rates = confusion_rates(sample.confusions(targets, predicted, len(labels)))
    aurocs = np.stack([sample.auroc(p[:, k], targets == k) for k in range(len(labels))], axis=1)
    gaps, reliability = _reliability(p.max(1), predicted == targets)
    totals = sample.sums(np.ones((len(targets), 1)))[:, 0]
    result = _headline(sample, rates) | {
        "temperature": float(temperature),
        "macro_auroc": percentile_interval(mean_of_present(aurocs)),
        "ece": percentile_interval(np.abs(sample.sums(gaps)).sum(1) / totals),
        "nll": percentile_interval(sample.sums(-log_p[rows, targets][:, None])[:, 0] / totals),
    }
    per_class = rates | {"auroc": aurocs}
    result["per_class"] = {
        label: {
            "support": int((targets == k).sum()),
            "groups": len(np.unique(sample.cluster[targets == k])),
            **{
                name: percentile_interval(per_class[name][:, k])
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
    sample = Resamples(len(targets), clusters, seed, resamples)
    return _headline(sample, confusion_rates(sample.confusions(np.asarray(targets), np.asarray(predicted), classes)))


def positive_scores(p: Floats, positive: Sequence[int]) -> Floats:
    """Add up the probabilities of the positive classes, as `edge_runtime.classifier` does: (N,), 0..1."""
    scores: Floats = np.minimum(1.0, p[:, list(positive)].sum(1))
    return scores


def operating_point(
    p: Floats, targets: npt.NDArray[Any], positive: Sequence[int], min_sensitivity: float
) -> dict[str, float]:
    """Choose a threshold that keeps a sensitivity, with room on both sides; on the validation split, never on test.

    The highest threshold that keeps `min_sensitivity` fixes the specificity. From there down to the next negative score
    every threshold has that same specificity, so all positives above that negative are admitted: their sensitivity is
    free. The threshold stands in the middle between that negative (0 where there is none) and the lowest positive above
    it, in logits and with both scores clipped to 1e-6..1 - 1e-6. A threshold on a score would flip that picture at the
    first rounding, and INT8 shifts every score; in the middle, equal shifts of the logit either way are harmless.
    Where the clip leaves no middle, the threshold is that lowest positive itself.

    Args:
        p: (N, K) probabilities.
        targets: (N,) class numbers.
        positive: class numbers that mean "yes".
        min_sensitivity: share of the true positives that must be found, 0..1.

    Returns:
        ``threshold`` ("yes" when the summed probability is >= it) and its ``sensitivity`` and ``specificity`` here:
        the sensitivity is at least `min_sensitivity`.

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
    highest = np.sort(scores[truth])[::-1][kept - 1]
    below = scores[~truth & (scores < highest)].max(initial=-np.inf)
    admitted = scores[truth & (scores > below)].min()
    ends = np.clip([below, admitted], SCORE_CLIP, 1 - SCORE_CLIP)
    threshold = 1 / (1 + np.exp(-np.log(ends / (1 - ends)).mean()))
    if not below < threshold <= admitted:  # both beyond the clip, or neighbours in floating point
        threshold = admitted
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
    sample = Resamples(len(targets), clusters, seed, resamples)
    truth = np.isin(targets, list(positive))
    scores = positive_scores(p, positive)
    rates = confusion_rates(sample.confusions(truth.astype(np.int64), (scores >= threshold).astype(np.int64), 2))
    return {
        "threshold": float(threshold),
        "n": len(truth),
        "positives": int(truth.sum()),
        "sensitivity": percentile_interval(rates["sensitivity"][:, 1]),
        "specificity": percentile_interval(rates["sensitivity"][:, 0]),
        "auroc": percentile_interval(sample.auroc(scores, truth)),
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
    sample = Resamples(len(targets), clusters, seed, resamples)
    top_reference, top_candidate = np.argmax(logits_reference, 1), np.argmax(logits_candidate, 1)
    reference = confusion_rates(sample.confusions(targets, top_reference, len(labels)))
    candidate = confusion_rates(sample.confusions(targets, top_candidate, len(labels)))
    drops = 100 * (reference["sensitivity"] - candidate["sensitivity"])  # (1 + resamples, K)
    worst = int(np.nanargmax(drops[0]))
    agreement = sample.sums(np.stack([top_reference == top_candidate, np.ones(len(targets))], 1).astype(np.float64))
    return {
        "n": len(targets),
        "interval": sample.description,
        "macro_f1_reference": percentile_interval(reference["macro_f1"]),
        "macro_f1_candidate": percentile_interval(candidate["macro_f1"]),
        "macro_f1_difference_pp": percentile_interval(100 * (candidate["macro_f1"] - reference["macro_f1"])),
        "top1_agreement": percentile_interval(agreement[:, 0] / agreement[:, 1]),
        "largest_recall_drop_pp": {"label": labels[worst], **(percentile_interval(drops[:, worst]) or {})},
    }


def _headline(sample: Resamples, rates: dict[str, Floats]) -> dict[str, Any]:
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    return {"n": sample.n, "interval": sample.description} | {name: percentile_interval(rates[name]) for name in names}


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
