"""Declining: margins, distances, and what a bundle that states them does with pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import LABELS, replace_file, smear, spoil

from edge_runtime.abstention import plausible, refusals
from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError
from edge_runtime.familiarity import Familiarity, describe, feature_names, parse_familiarity
from edge_runtime.manifest import AbstentionLimits
from edge_runtime.refusal import REASONS, Refusal
from edge_runtime.report import info_text

RNG = np.random.default_rng(3)
MAP = RNG.normal(size=(7, 7, len(LABELS))).astype(np.float32)


def test_a_label_is_plausible_within_its_own_margin() -> None:
    logits = np.array([2.0, 1.0, 0.0, 1.9, -5.0], np.float32)
    found = plausible(logits, 0.5, (0.0, 2.0, 3.9, 0.1, 99.0))  # nats: 0, 2, 4, 0.2, 14
    assert found.tolist() == [True, True, False, False, True]
    assert plausible(np.stack([logits, -logits]), 0.5, (0.0,) * 5).tolist() == [
        [True, False, False, False, False],
        [False, False, False, False, True],
    ]


def test_every_refusal_names_its_reason_and_its_number() -> None:
    limits = AbstentionLimits(0.95, (0.0, 0.0), "familiarity.json", 2.0)
    assert refusals(limits, 1, 2.0) == ()
    far, unsure = refusals(limits, 2, 2.5)
    assert (far.reason, far.value, far.high) == ("unfamiliar", 2.5, 2.0)
    assert (unsure.reason, unsure.value, unsure.high) == ("ambiguous", 2.0, 1.0)
    assert "2.5, expected at most 2" in far.text and REASONS["unfamiliar"] in far.text
    assert refusals(limits, 1, None) == ()
    both = Refusal("too dark", "brightness", 0.1, low=0.2, high=0.9).to_dict()
    assert both["text"].startswith("too dark: brightness 0.1, expected at least 0.2 and at most 0.9")


def test_pixels_are_described_by_the_numbers_that_are_named() -> None:
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[:, :112] = (200, 100, 50)
    found = dict(zip(feature_names(LABELS), describe(pixels, MAP), strict=True))
    assert len(found) == 2 * len(LABELS) + 23
    assert found["red: mean"] == 100 and found["red: spread"] == 100 and found["blue: mean"] == 25
    assert (found["red: 5 %"], found["red: 95 %"], found["green: 95 %"]) == (0, 200, 100)
    assert found["correlation of red and blue"] == pytest.approx(1)
    assert found["share of black"] == pytest.approx(np.log(0.501), abs=1e-3)
    assert found["share of white"] == pytest.approx(np.log(1e-3))
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert found["texture at 1/1"] == pytest.approx(np.log(0.1 + grey / 223), abs=0.01)
    assert found[f"class map: mean of {LABELS[2]}"] == pytest.approx(MAP[..., 2].mean(), abs=1e-6)
    assert found[f"class map: spread of {LABELS[0]}"] == pytest.approx(MAP[..., 0].std(), abs=1e-6)


@pytest.mark.parametrize("side", [16, 17, 55, 56, 113, 224, 300])
def test_any_input_size_is_described(side: int) -> None:
    assert np.isfinite(describe(smear(side), MAP)).all()


def test_one_colour_is_described() -> None:
    for level in (0, 128, 255):
        assert np.isfinite(describe(np.full((64, 64, 3), level, np.uint8), MAP)).all()


def test_distance_is_mahalanobis_to_the_nearest_class() -> None:
    from scipy.spatial.distance import mahalanobis

    root = RNG.normal(size=(6, 6))
    precision = root @ root.T + np.eye(6)
    means = RNG.normal(size=(3, 6))
    known = Familiarity(means, np.linalg.cholesky(precision).T)
    for point in RNG.normal(size=(20, 6)):
        nearest = min(mahalanobis(point, mean, precision) for mean in means)
        assert known.distance(point) == pytest.approx(nearest / np.sqrt(6))


def familiar(folder: Path, limit: float) -> Path:
    """Make a bundle decline: every label keeps a margin of 0, and pictures like `smear(seed=1)` are familiar."""
    classifier = Classifier.open(folder)
    seen = classifier.classify(smear(seed=1))
    described = describe(seen.pixels, seen.class_map)
    known = Familiarity(np.tile(described, (len(LABELS), 1)), np.diag(1 / (1 + 0.1 * np.abs(described))))
    content = json.dumps(known.to_dict(LABELS)).encode()
    stated = {
        "coverage": 0.95,
        "margins": dict.fromkeys(LABELS, 0.0),
        "familiarity": {"file": "familiarity.json", "limit": limit},
    }
    replace_file(folder, "familiarity.json", content)
    return spoil(folder, lambda manifest: manifest.update(abstention=stated))


def test_a_bundle_declines_what_it_does_not_know(bundle_folder: Path) -> None:
    classifier = Classifier.open(familiar(bundle_folder, 0.5))
    known, strange = classifier.classify(smear(seed=1)), classifier.classify(smear(seed=2) // 4)
    assert not known.abstained and known.plausible == (known.label,)
    assert strange.abstained and strange.refusals[0].reason == "unfamiliar"
    assert strange.label in LABELS  # what it would have said is there for people who look
    shown = strange.to_dict()
    assert shown["abstained"] is True and shown["refusals"][0]["reason"] == "unfamiliar"
    json.dumps(shown, allow_nan=False)


def test_wide_margins_leave_several_labels(bundle_folder: Path) -> None:
    familiar(bundle_folder, 1e9)
    spoil(bundle_folder, lambda stated: stated["abstention"].update(margins=dict.fromkeys(LABELS, 1e6)))
    found = Classifier.open(bundle_folder).classify(smear(seed=1))
    assert found.plausible == LABELS and [refusal.reason for refusal in found.refusals] == ["ambiguous"]


def test_info_says_when_a_bundle_declines(bundle_folder: Path) -> None:
    assert "ambiguous" not in info_text(open_bundle(bundle_folder))
    familiar(bundle_folder, 2.5)
    shown = info_text(open_bundle(bundle_folder))
    assert "unfamiliar: distance from the training pictures above 2.5" in shown
    assert "ambiguous: several labels plausible, of which the true one is in 0.9" in shown


def test_a_value_beyond_its_limit_looks_so() -> None:
    assert Refusal("unfamiliar", "distance", 1.23004, high=1.23).text.startswith("unfamiliar: distance 1.23004, ")
    assert "distance 9, expected at most 3.51" in Refusal("unfamiliar", "distance", 9.0, high=3.50697).text


def test_what_is_exactly_at_the_margin_is_plausible_however_it_was_written() -> None:
    step = 0.17148048
    logits = np.array([[2 * step, step, 0]], np.float32)
    assert plausible(logits, 1.0, (0.0, 0.17148, 0.34296)).all()


def test_a_bundle_that_states_nothing_never_declines(bundle_folder: Path) -> None:
    found = Classifier.open(bundle_folder).classify(np.full((96, 96, 3), 7, np.uint8))
    assert not found.abstained and found.plausible == LABELS


def test_familiarity_survives_its_file(tmp_path: Path) -> None:
    count = len(feature_names(LABELS))
    known = Familiarity(RNG.normal(size=(len(LABELS), count)), RNG.normal(size=(count, count)))
    read = parse_familiarity(json.dumps(known.to_dict(LABELS)).encode(), "f", LABELS)
    point = RNG.normal(size=count)
    assert read.distance(point) == pytest.approx(known.distance(point), rel=1e-5)


def test_an_altered_file_is_refused_before_it_is_believed(bundle_folder: Path) -> None:
    familiar(bundle_folder, 0.5)
    file = bundle_folder / "familiarity.json"
    file.write_bytes(file.read_bytes().replace(b"leukoscope", b"leukoscopy"))
    with pytest.raises(BundleError, match="altered or damaged"):
        Classifier.open(bundle_folder)
