"""Metrics agree with scikit-learn to the last digits, and their intervals mean what they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from edge_runtime.classifier import softmax
from train.errors import DataError
from train.metrics import (
    SCORE_CLIP,
    evaluate_labels,
    evaluate_operating_point,
    evaluate_predictions,
    fit_temperature,
    operating_point,
    paired_difference,
    positive_scores,
    probabilities,
)
from train.resampling import Resamples

K = 5
LABELS = [f"class {k}" for k in range(K)]


def sample(n: int = 400, seed: int = 0, signal: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, K, n)
    logits = rng.normal(size=(n, K))
    logits[np.arange(n), targets] += signal
    return np.round(logits, 1), targets  # rounded: ties must count half


def test_values_equal_scikit_learn() -> None:
    logits, targets = sample()
    found = evaluate_predictions(logits, targets, LABELS, temperature=1.7, resamples=20)
    p, predicted = probabilities(logits, 1.7), logits.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(targets, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(targets, predicted),
        "macro_f1": sk.f1_score(targets, predicted, average="macro"),
        "macro_auroc": sk.roc_auc_score(targets, p, multi_class="ovr", average="macro"),
        "nll": sk.log_loss(targets, p),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9), name
    assert np.array_equal(found["confusion"], sk.confusion_matrix(targets, predicted))
    precision, recall, f1, support = sk.precision_recall_fscore_support(targets, predicted)
    for k, label in enumerate(LABELS):
        row = found["per_class"][label]
        yes, said = targets == k, predicted == k
        assert row["support"] == support[k]
        assert row["sensitivity"]["value"] == pytest.approx(recall[k], abs=1e-9)
        assert row["precision"]["value"] == pytest.approx(precision[k], abs=1e-9)
        assert row["f1"]["value"] == pytest.approx(f1[k], abs=1e-9)
        assert row["specificity"]["value"] == pytest.approx(sk.recall_score(~yes, ~said), abs=1e-9)
        assert row["auroc"]["value"] == pytest.approx(sk.roc_auc_score(yes, p[:, k]), abs=1e-9)
    json.dumps(found, allow_nan=False)


def test_auroc_of_a_resample_equals_scikit_learn_on_the_repeated_pictures() -> None:
    logits, targets = sample(60)
    clusters = np.repeat(np.arange(20), 3)
    resamples = Resamples(60, clusters, seed=3, resamples=5)
    found = resamples.auroc(logits[:, 0], targets == 0)
    for weights, value in zip(resamples.weights, found, strict=True):
        repeated = np.repeat(np.arange(60), weights[clusters].astype(int))
        assert weights.sum() == 20
        assert value == pytest.approx(sk.roc_auc_score(targets[repeated] == 0, logits[repeated, 0]), abs=1e-9)


def test_ece_by_hand() -> None:
    # two pictures of confidence 0.9 (one right), two of 0.6 (both right): |0.5-0.9|/2 + |1-0.6|/2 = 0.4
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    found = evaluate_predictions(np.log(p), np.array([0, 1, 0, 0]), ["a", "b"], resamples=10)
    assert found["ece"]["value"] == pytest.approx(0.4)
    assert {row["count"] for row in found["reliability"]} == {0, 2}


def test_probabilities_are_the_runtimes() -> None:
    logits, _ = sample(5)
    for row, p in zip(logits, probabilities(logits, 0.6), strict=True):
        assert np.allclose(p, softmax(row.astype(np.float32), 0.6), atol=1e-7)


def test_absent_class_is_left_out_not_counted_as_zero() -> None:
    logits, targets = sample()
    kept = targets != 2
    found = evaluate_predictions(logits[kept], targets[kept], LABELS, resamples=20)
    present = [k for k in range(K) if k != 2]
    expected = sk.f1_score(targets[kept], logits[kept].argmax(1), average="macro", labels=present)
    assert found["macro_f1"]["value"] == pytest.approx(expected, abs=1e-9)
    row = found["per_class"]["class 2"]
    assert row["support"] == 0 and row["sensitivity"] is None and row["f1"] is None and row["auroc"] is None
    json.dumps(found, allow_nan=False)


def test_interval_covers_the_truth() -> None:
    """A decision right with probability 0.8: about 95 of 100 intervals must hold 0.8."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        right = rng.random(300) < 0.8
        found = evaluate_labels(np.where(right, 0, 1), np.zeros(300, int), 2, seed=trial, resamples=400)["accuracy"]
        held += found["low"] <= 0.8 <= found["high"]
    assert 180 <= held < 200


def test_interval_width_is_the_binomial_one() -> None:
    found = evaluate_labels(np.repeat([0, 1], (800, 200)), np.zeros(1000, int), 2)["accuracy"]
    width = 2 * 1.96 * math.sqrt(0.8 * 0.2 / 1000)
    assert found["high"] - found["low"] == pytest.approx(width, rel=0.1)


def test_clusters_widen_the_interval() -> None:
    """40 patients of 25 cells, each patient all right or all wrong: 40 facts, not 1000."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(40), 25)
    predicted = (rng.random(40) < 0.3).astype(int)[patients]
    widths = {}
    for unit, clusters in (("picture", None), ("group", patients)):
        found = evaluate_labels(predicted, np.zeros(1000, int), 2, clusters)
        assert found["interval"]["unit"] == unit
        widths[unit] = found["accuracy"]["high"] - found["accuracy"]["low"]
    assert widths["group"] == pytest.approx(5 * widths["picture"], rel=0.2)  # sqrt(25)


def test_same_seed_same_interval() -> None:
    logits, targets = sample()
    first, second, other = (evaluate_predictions(logits, targets, LABELS, seed=s, resamples=200) for s in (0, 0, 1))
    assert first == second
    assert first["macro_f1"] != other["macro_f1"]


def middle(low: float, high: float) -> float:
    return 1 / (1 + math.sqrt((1 - low) / low * (1 - high) / high))  # halfway in logits


def two_sided(positives: list[float], negatives: list[float]) -> tuple[np.ndarray, np.ndarray]:
    scores = np.array([*positives, *negatives])
    return np.stack([1 - scores, scores], axis=1), np.repeat([1, 0], (len(positives), len(negatives)))


def highest_threshold(p: np.ndarray, targets: np.ndarray, min_sensitivity: float) -> float:
    """By trial: the highest score of a positive that keeps the sensitivity."""
    scores, truth = p[:, 1], targets == 1
    return max(t for t in scores[truth] if (scores[truth] >= t).mean() >= min_sensitivity - 1e-12)


def test_operating_point_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.75, 0.1, 0.3, 0.05])
    targets = np.array([1, 1, 2, 2, 0, 0, 0, 0])  # classes 1 and 2 are positive
    p = np.stack([1 - scores, scores * 0.25, scores * 0.75], axis=1)
    point = operating_point(p, targets, (1, 2), 0.75)
    assert point["threshold"] == pytest.approx(middle(0.3, 0.7))
    assert (point["sensitivity"], point["specificity"]) == (0.75, 0.75)
    assert operating_point(p, targets, (1, 2), 0.76)["threshold"] == pytest.approx(middle(0.1, 0.2))
    same = evaluate_operating_point(p, targets, (1, 2), point["threshold"], resamples=50)
    assert (same["sensitivity"]["value"], same["specificity"]["value"]) == (0.75, 0.75)  # a score at it means "yes"
    judged = evaluate_operating_point(p, targets, (1, 2), 0.5, resamples=50)
    assert judged["sensitivity"]["value"] == 0.75 and judged["specificity"]["value"] == 0.75
    assert judged["auroc"]["value"] == pytest.approx(sk.roc_auc_score(targets > 0, scores))


def test_operating_point_keeps_what_floating_point_would_lose() -> None:
    p = np.stack([1 - np.linspace(0.5, 0.99, 21), np.linspace(0.5, 0.99, 21)], axis=1)
    targets = np.array([1, 0] + [1] * 19)  # the lowest positive lies below the negative: 19 of 20 are kept, no more
    point = operating_point(p, targets, (1,), 0.95)
    assert (point["sensitivity"], point["specificity"]) == (0.95, 1)
    with pytest.raises(DataError, match="positive and negative"):
        operating_point(p, np.ones(21, int), (1,), 0.95)


def test_operating_point_of_separated_scores_is_the_middle_of_the_gap() -> None:
    """20 positives, one of them at 0.6: a sensitivity of 0.95 may lose it, but nothing is won by that."""
    p, targets = two_sided([0.6] + [0.999] * 19, [0.001] * 10 + [0.1])
    assert highest_threshold(p, targets, 0.95) == 0.999
    point = operating_point(p, targets, (1,), 0.95)
    assert point["threshold"] == pytest.approx(middle(0.1, 0.6))
    assert (point["sensitivity"], point["specificity"]) == (1, 1)
    logit = math.log(point["threshold"] / (1 - point["threshold"]))
    assert logit - math.log(0.1 / 0.9) == pytest.approx(math.log(0.6 / 0.4) - logit)  # as much room above as below


@pytest.mark.parametrize(
    ("positives", "negatives", "expected", "sensitivity", "specificity"),
    [
        # 0.8 keeps three of four at specificity 2/3; 0.5 is free, 0.2 would admit the negative at 0.3
        ([0.9, 0.85, 0.8, 0.2], [0.95, 0.3, 0.1], middle(0.3, 0.8), 0.75, 2 / 3),
        ([0.9, 0.8, 0.5, 0.2], [0.95, 0.3, 0.1], middle(0.3, 0.5), 0.75, 2 / 3),
        # a positive tied with a negative below is not free; tied at the threshold, the negative is admitted anyway
        ([0.9, 0.8, 0.3], [0.3, 0.3], middle(0.3, 0.8), 2 / 3, 1),
        ([0.9, 0.7], [0.7, 0.2], middle(0.2, 0.7), 1, 0.5),
        # no negative below: 0 stands for it
        ([0.9, 0.4], [0.95, 0.99], middle(SCORE_CLIP, 0.4), 1, 0),
        ([0.5, 0.5], [0.5, 0.5], middle(SCORE_CLIP, 0.5), 1, 0),
        ([0.0, 0.0], [0.0], 0.0, 1, 0),
        ([1.0, 1.0], [1.0], middle(SCORE_CLIP, 1 - SCORE_CLIP), 1, 0),
        # certain on both sides; then so certain that the clip leaves no middle; then neighbours in floating point
        ([1.0, 1.0], [0.0], 0.5, 1, 1),
        ([1 - 1e-9, 1.0], [1 - 1e-8], 1 - 1e-9, 1, 1),
        ([2e-9, 1.0], [1e-9], 2e-9, 1, 1),
        ([np.nextafter(0.3, 1), 1.0], [0.3], np.nextafter(0.3, 1), 1, 1),
    ],
)
def test_operating_point_of_overlapping_tied_and_saturated_scores(
    positives: list[float], negatives: list[float], expected: float, sensitivity: float, specificity: float
) -> None:
    p, targets = two_sided(positives, negatives)
    point = operating_point(p, targets, (1,), 0.6)
    assert point["threshold"] == pytest.approx(expected, rel=1e-10, abs=0)
    assert (point["sensitivity"], point["specificity"]) == pytest.approx((sensitivity, specificity))
    old = highest_threshold(p, targets, 0.6)
    assert point["specificity"] == (p[targets == 0, 1] < old).mean()


@pytest.mark.parametrize("digits", [1, 2, 16])
def test_operating_point_never_pays_for_its_margin(digits: int) -> None:
    """Random scores, rounded so that they tie and saturate: the old threshold's specificity, never less sensitivity."""
    rng = np.random.default_rng(digits)
    for _ in range(300):
        n, signal, kept = rng.integers(2, 60), rng.uniform(0, 12), rng.choice([0.0, 0.5, 0.9, 0.95, 1.0])
        targets = rng.permutation(np.arange(n) % int(rng.integers(2, 5)) == 0).astype(int)
        scores = np.round(1 / (1 + np.exp(-rng.normal(signal * (targets - 0.5), 2))), digits)
        p = np.stack([1 - scores, scores], axis=1)
        truth, scores = targets == 1, positive_scores(p, (1,))
        point, old = operating_point(p, targets, (1,), kept), highest_threshold(p, targets, kept)
        assert point["specificity"] == (scores[~truth] < old).mean()
        assert point["sensitivity"] >= max(kept, (scores[truth] >= old).mean())
        assert 0 <= point["threshold"] <= old
        # and no higher sensitivity is to be had at this specificity
        assert all(
            (scores[truth] >= t).mean() <= point["sensitivity"]
            for t in scores
            if (scores[~truth] < t).mean() == point["specificity"]
        )


def test_operating_point_without_positives_has_no_sensitivity() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    judged = evaluate_operating_point(p, np.zeros(3, int), (1,), 0.5, resamples=20)
    assert judged["sensitivity"] is None and judged["auroc"] is None
    assert judged["specificity"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_temperature_is_recovered(true: float) -> None:
    rng = np.random.default_rng(2)
    calibrated = rng.normal(size=(20_000, 4)) * 2
    p = probabilities(calibrated)
    targets = (rng.random((len(p), 1)) > p.cumsum(1)).sum(1).clip(max=3)
    assert fit_temperature(calibrated * true, targets) == pytest.approx(true, rel=0.03)


def test_paired_difference_of_equal_models_is_zero() -> None:
    logits, targets = sample()
    found = paired_difference(logits, logits * 1.1, targets, None, LABELS)
    assert found["macro_f1_difference_pp"] == {"value": 0, "low": 0, "high": 0}
    assert found["top1_agreement"]["value"] == 1
    assert found["largest_recall_drop_pp"]["value"] == 0


def test_paired_difference_sees_damage_and_names_the_class() -> None:
    logits, targets = sample(signal=4)
    damaged = logits.copy()
    damaged[:, 3] -= 3
    found = paired_difference(logits, damaged, targets, None, LABELS)
    difference = found["macro_f1_difference_pp"]
    expected = sk.f1_score(targets, damaged.argmax(1), average="macro") - sk.f1_score(
        targets, logits.argmax(1), average="macro"
    )
    assert difference["value"] == pytest.approx(100 * expected, abs=1e-9)
    assert difference["high"] < 0
    assert found["largest_recall_drop_pp"]["label"] == "class 3"
    assert found["largest_recall_drop_pp"]["value"] > 20
    agreement = (logits.argmax(1) == damaged.argmax(1)).mean()
    assert found["top1_agreement"]["value"] == pytest.approx(agreement)


def test_pairing_narrows_the_interval() -> None:
    logits, targets = sample()
    other = logits + np.random.default_rng(5).normal(scale=0.05, size=logits.shape)
    found = paired_difference(logits, other, targets, None, LABELS)
    alone, paired = found["macro_f1_reference"], found["macro_f1_difference_pp"]
    assert 0 < paired["high"] - paired["low"] < 0.6 * 100 * (alone["high"] - alone["low"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_refused_not_masked(bad: float) -> None:
    logits, targets = sample(20)
    broken = logits.copy()
    broken[3, 1] = bad
    with pytest.raises(DataError, match="finite"):
        evaluate_predictions(broken, targets, LABELS)
    with pytest.raises(DataError, match="finite"):
        paired_difference(logits, broken, targets, None, LABELS)


def test_sizes_that_do_not_fit_are_refused() -> None:
    logits, targets = sample(20)
    with pytest.raises(DataError, match="do not fit"):
        evaluate_predictions(logits, targets[:-1], LABELS)
    with pytest.raises(DataError, match="out of range"):
        evaluate_predictions(logits, targets + 1, LABELS)
    with pytest.raises(DataError, match="per picture"):
        evaluate_predictions(logits, targets, LABELS, clusters=[1, 2])
