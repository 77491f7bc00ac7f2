"""When a model declines is fitted as stated: quantiles by hand, coverage by simulation, and through a whole export."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_runtime.abstention import plausible
from export.abstention import _short, conformal_margins, fit_familiarity, measure_abstention

RNG = np.random.default_rng(5)


def drawn(n: int, classes: int = 4, sharp: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits and truths that fit each other."""
    targets = RNG.integers(classes, size=n)
    logits = RNG.normal(size=(n, classes))
    logits[np.arange(n), targets] += sharp
    return logits.astype(np.float32), targets


def test_the_margin_is_the_quantile_of_split_conformal_prediction() -> None:
    logits = np.zeros((99, 2), np.float32)
    logits[:, 1] = np.arange(99) / 10  # truth is class 0, and lags behind by 0, 0.1, ... 9.8
    margins = conformal_margins(logits, np.zeros(99, np.int64), 0.5, 0.95)
    assert margins[0] == pytest.approx(9.4 / 0.5)  # the 95th of 99


def test_limits_are_never_written_smaller_than_what_was_seen() -> None:
    values = [0.17148048, 3.506974999, 0.0, 1e-7 / 3, 123456.74, *np.random.default_rng(1).exponential(size=500)]
    assert all(value <= _short(value) <= value * (1 + 2e-5) for value in values)


def test_a_class_of_few_pictures_takes_the_margin_of_all() -> None:
    logits, targets = drawn(400)
    rare = np.flatnonzero(targets == 3)[18:]
    keep = np.setdiff1d(np.arange(400), rare)
    margins = conformal_margins(logits[keep], targets[keep], 1.0, 0.95)
    scores = np.sort((logits.max(1) - logits[np.arange(400), targets])[keep])
    assert margins[3] == pytest.approx(scores[int(np.ceil((len(keep) + 1) * 0.95)) - 1])
    assert len(set(margins.tolist())) == 4


def test_with_next_to_nothing_to_learn_from_no_label_is_excluded() -> None:
    logits, targets = drawn(5)
    assert plausible(logits, 1.0, tuple(conformal_margins(logits, targets, 1.0, 0.95))).all()


def test_coverage_holds_class_by_class_on_pictures_that_were_not_seen() -> None:
    margins = conformal_margins(*drawn(4000), 1.3, 0.95)
    logits, targets = drawn(20000)
    covered = plausible(logits, 1.3, tuple(margins))[np.arange(20000), targets]
    for k in range(4):
        assert covered[targets == k].mean() == pytest.approx(0.95, abs=0.02)  # sd 0.007, of what 1000 pictures teach


def test_what_is_far_from_every_class_is_far() -> None:
    targets = RNG.integers(3, size=600)
    centres = 4 * RNG.normal(size=(3, 8))
    scale = np.array([1e-3, 1, 1, 1, 1, 1, 1, 1e4])  # shrinking must not drown the small ones
    known = fit_familiarity((centres[targets] + RNG.normal(size=(600, 8))) * scale, targets, 3)
    near = [known.distance((centres[k % 3] + RNG.normal(size=8)) * scale) for k in range(300)]
    assert np.mean(near) == pytest.approx(0.95, abs=0.15) and max(near) < 2.5
    for place in (0, 7):
        away = centres[0] * scale
        away[place] += 40 * scale[place]
        assert known.distance(away) > 5


def test_measures_are_shares_of_what_they_say() -> None:
    logits = np.array([[3, 0], [3, 0], [0, 3], [1, 0.5]], np.float32)
    found = measure_abstention(
        logits,
        np.array([0, 1, 1, 1]),
        list("abcd"),
        ("yes", "no"),
        1.0,
        np.array([1.0, 1.0]),
        np.array([False, False, True, False]),
        resamples=50,
    )
    assert found["coverage"]["value"] == 0.75  # the second is wrong and sure of itself
    assert found["answered"]["value"] == 0.5  # the third is unfamiliar, the fourth has two plausible labels
    assert found["accuracy"]["value"] == 0.5 and found["unfamiliar"]["value"] == 0.25
    assert found["per_class"]["no"]["coverage"]["value"] == pytest.approx(2 / 3)
    json.dumps(found, allow_nan=False)


def test_nothing_answered_is_no_number() -> None:
    logits, targets = drawn(10, 2)
    everything = np.ones(10, np.bool_)
    found = measure_abstention(logits, targets, ["a"] * 10, ("x", "y"), 1.0, np.zeros(2), everything, resamples=5)
    assert found["accuracy"] is None and "ece" not in found
