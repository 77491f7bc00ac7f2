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
    evaluate_labels,
    evaluate_operating_point,
    evaluate_predictions,
    fit_temperature,
    operating_point,
    paired_difference,
    probabilities,
)

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
    from train.metrics import _Resamples

    logits, targets = sample(60)
    clusters = np.repeat(np.arange(20), 3)
    resamples = _Resamples(60, clusters, seed=3, resamples=5)
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


def test_operating_point_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.75, 0.1, 0.3, 0.05])
    targets = np.array([1, 1, 2, 2, 0, 0, 0, 0])  # classes 1 and 2 are positive
    p = np.stack([1 - scores, scores * 0.25, scores * 0.75], axis=1)
    point = operating_point(p, targets, (1, 2), 0.75)
    assert point["threshold"] == pytest.approx(0.7)
    assert (point["sensitivity"], point["specificity"]) == (0.75, 0.75)
    assert operating_point(p, targets, (1, 2), 0.76)["threshold"] == pytest.approx(0.2)
    same = evaluate_operating_point(p, targets, (1, 2), point["threshold"], resamples=50)
    assert (same["sensitivity"]["value"], same["specificity"]["value"]) == (0.75, 0.75)  # a score at it means "yes"
    judged = evaluate_operating_point(p, targets, (1, 2), 0.5, resamples=50)
    assert judged["sensitivity"]["value"] == 0.75 and judged["specificity"]["value"] == 0.75
    assert judged["auroc"]["value"] == pytest.approx(sk.roc_auc_score(targets > 0, scores))


def test_operating_point_keeps_what_floating_point_would_lose() -> None:
    p = np.stack([1 - np.linspace(0.5, 0.99, 21), np.linspace(0.5, 0.99, 21)], axis=1)
    point = operating_point(p, np.array([0] + [1] * 20), (1,), 0.95)
    assert point["sensitivity"] == 0.95
    with pytest.raises(DataError, match="positive and negative"):
        operating_point(p, np.ones(21, int), (1,), 0.95)


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
