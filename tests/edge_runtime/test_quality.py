"""What is measured of a picture follows what was done to it, and each reason is given with its number."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import LABELS, spoil
from PIL import Image, ImageFilter

from benchmarks.corruptions import corrupted
from edge_runtime.classifier import Classifier
from edge_runtime.preprocess import Pixels
from edge_runtime.quality import Quality, field_scale, judge, judge_field, measure, noise, sharpness
from edge_runtime.quality_limits import FIELD_LIMITS, MEASURES, refusals
from edge_runtime.refusal import REASONS, Refusal
from edge_runtime.report import csv_header, csv_row, prediction_line
from edge_runtime.stain import optical_density, purple
from export.quality_limits import fit_limits
from train.render import render_cell, render_field

RNG = np.random.default_rng(0)


def edges(width: float, low: float = 60, high: float = 220, side: int = 112) -> Pixels:
    """Draw a disc whose edge rises linearly over `width` pixels."""
    y, x = np.indices((side, side)) - (side - 1) / 2
    rise = ((np.hypot(x, y) - side / 4) / width + 0.5).clip(0, 1)
    return (low + (high - low) * rise).round().astype(np.uint8)[:, :, None].repeat(3, axis=2)


@pytest.fixture(scope="module")
def crops() -> list[Pixels]:
    """Rendered crops of five kinds, photographed a little out of focus and a little noisy, as crops are."""
    found = []
    for label in ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "platelet"):
        for seed in range(4):
            sharp = Image.fromarray(render_cell(label, np.random.default_rng(seed), 224).pixels)
            soft = np.asarray(sharp.filter(ImageFilter.GaussianBlur(1.5)))
            found.append((soft + np.random.default_rng(seed).normal(0, 1, soft.shape)).round().clip(0, 255))
    return [picture.astype(np.uint8) for picture in found]


@pytest.fixture(scope="module")
def limits(crops: list[Pixels]) -> dict[str, float]:
    """Limits that the crops set, by the rule of every bundle."""
    return fit_limits([measure(picture) for picture in crops], ["rendered"] * len(crops))


def reasons(picture: Pixels, limits: dict[str, float]) -> set[str]:
    """Return why a picture is refused."""
    return {refusal.reason for refusal in judge(picture, limits)}


def test_every_number_has_a_meaning_and_a_reason() -> None:
    assert [field.name for field in dataclasses.fields(Quality)] == list(MEASURES)
    assert {meaning.reason for meaning in MEASURES.values()} <= set(REASONS)
    assert set(FIELD_LIMITS) == set(MEASURES) - {"purple"}


def test_sharpness_falls_as_edges_widen() -> None:
    found = [sharpness(edges(width)) for width in (1, 2, 3, 4, 6, 8, 12, 20)]
    assert found == sorted(found, reverse=True)
    assert found[1:3] == [pytest.approx(1 / 2, rel=0.15), pytest.approx(1 / 3, rel=0.15)]
    assert found[-1] < 0.25


def test_sharpness_asks_neither_for_contrast_nor_for_size() -> None:
    assert sharpness(edges(4, 60, 220)) == pytest.approx(sharpness(edges(4, 180, 220)), rel=0.1)
    assert sharpness(edges(4, side=112)) == pytest.approx(sharpness(edges(4, side=224)), rel=0.1)


def test_sharpness_is_not_taken_in_by_grain_nor_by_blocks() -> None:
    blurred = edges(6)
    grainy = (blurred + RNG.normal(0, 4, blurred.shape)).round().clip(0, 255).astype(np.uint8)
    blocky = corrupted(blurred, "JPEG", 30, 0, 28.0)
    assert sharpness(grainy) < 1.35 * sharpness(blurred) < sharpness(edges(3))
    assert sharpness(blocky) < 1.35 * sharpness(blurred)


def test_a_move_in_any_direction_is_a_blur(crops: list[Pixels]) -> None:
    for seed, picture in enumerate(crops):  # a direction each
        moved = corrupted(picture, "motion blur", 0.3, seed, 60.0)
        assert measure(moved).sharpness < 0.8 * measure(picture).sharpness


def test_nothing_is_sharp_where_nothing_is() -> None:
    assert sharpness(np.full((112, 112, 3), 128, np.uint8)) == 0
    for size in ((1, 1), (1, 300), (300, 1), (3, 3), (5, 200)):
        found = measure(np.zeros((*size, 3), np.uint8))
        assert all(np.isfinite(value) for value in dataclasses.astuple(found))


@pytest.mark.parametrize("sigma", [3, 6, 12, 24])
def test_noise_is_the_standard_deviation_of_the_grain(sigma: float, crops: list[Pixels]) -> None:
    grey = np.full((224, 224), 128.0) + RNG.normal(0, sigma, (224, 224))
    assert noise(grey.round().clip(0, 255).astype(np.uint8)) == pytest.approx(sigma, rel=0.1)
    assert noise(corrupted(crops[0], "sensor noise", sigma, 0, 60.0)[:, :, 1]) == pytest.approx(sigma, rel=0.2)


def test_light_is_measured_where_nothing_is_stained() -> None:
    picture = edges(2, 60, 200)
    picture[:, :, 2] //= 2
    found = measure(picture)
    assert (found.brightness, found.cast, found.white, found.clipped) == (200, 0.5, 0, 0)
    picture[:56, :, 0] = 255
    assert (measure(picture).clipped, measure(picture).white) == (0.5, 0)
    picture[:28] = 255
    assert measure(picture).white == 0.25


@pytest.mark.parametrize(
    ("name", "severity", "reason"),
    [
        ("disc blur", 0.2, "blurred"),
        ("gaussian blur", 0.1, "blurred"),
        ("motion blur", 0.8, "blurred"),
        ("disc blur, noise", 0.2, "blurred"),
        ("disc blur, JPEG", 0.2, "blurred"),
        ("under-exposure", 0.06, "too dark"),
        ("over-exposure", 5.0, "too bright"),
        ("clipped channel", 1000.0, "clipped"),
        ("dark channel", 0.0, "colour cast"),
        ("faded stain", 0.9, "no stain"),
        ("grey", 1.0, "no stain"),
        ("sensor noise", 48, "noisy"),
        ("empty field", 0, "empty field"),
        ("uniform noise", 0, "noisy"),
        ("constant colour", 0, "empty field"),
    ],
)
def test_what_is_wrong_is_what_is_said(
    name: str, severity: float, reason: str, crops: list[Pixels], limits: dict[str, float]
) -> None:
    for seed, picture in enumerate(crops):
        assert reason in reasons(corrupted(picture, name, severity, seed, 60.0), limits)


def test_good_pictures_and_mildly_spoilt_ones_pass(crops: list[Pixels], limits: dict[str, float]) -> None:
    for name, severity in (("under-exposure", 0.7), ("sensor noise", 3), ("faded stain", 0.1), ("JPEG", 75)):
        for seed, picture in enumerate(crops):
            assert not judge(picture, limits)
            assert not judge(corrupted(picture, name, severity, seed, 60.0), limits)


def test_a_refusal_has_its_number_and_one_line() -> None:
    (refusal,) = refusals({"sharpness": 0.21}, {"sharpness": 0.3})
    assert refusal.text == "blurred: sharpness 0.21, expected at least 0.3 (focus again)"
    assert not refusals({"sharpness": 0.3}, {"sharpness": 0.3})
    assert not refusals({"sharpness": 0.1}, {})


def test_one_line_a_reason_with_the_worst_number_and_no_blur_where_nothing_is() -> None:
    values = {"stained": 0.0, "contrast": 0.19, "purple": 0.0, "sharpness": 0.0}
    limits = {"stained": 0.1, "contrast": 0.2, "purple": 0.1, "sharpness": 0.3}
    found = refusals(values, limits)
    assert [(refusal.reason, refusal.measure) for refusal in found] == [
        ("empty field", "stained"),
        ("no stain", "purple"),
    ]


def test_a_field_is_measured_at_the_scale_of_its_cells() -> None:
    sharp = render_field("Early", np.random.default_rng(3), 448).pixels
    large = np.asarray(Image.fromarray(sharp).resize((896, 896), Image.Resampling.BICUBIC))
    one, other = (measure(p, field_scale(p, d)) for p, d in ((sharp, 30.0), (large, 60.0)))
    assert one.sharpness == pytest.approx(other.sharpness, rel=0.2)
    assert field_scale(sharp, 10.0) == 1
    assert field_scale(sharp, None) == field_scale(sharp, 500.0) == 4
    assert {refusal.reason for refusal in judge_field(np.full((480, 640, 3), 230, np.uint8), None)} >= {"empty field"}


def test_the_classifier_answers_all_the_same_and_says_why_not_to_trust_it(bundle_folder: Path) -> None:
    picture = edges(2)
    plain = Classifier.open(bundle_folder).classify(picture)
    assert not plain.abstained and plain.refusals == ()

    spoil(bundle_folder, lambda stated: stated.update(quality={"sharpness": {"low": 0.99}, "brightness": {"low": 10}}))
    classifier = Classifier.open(bundle_folder)
    refused = classifier.classify(picture)
    assert refused.abstained and refused.label == plain.label and refused.probabilities == plain.probabilities
    (refusal,) = refused.refusals
    assert (refusal.reason, refusal.measure, refusal.low, refusal.high) == ("blurred", "sharpness", 0.99, None)
    assert classifier.classify_pixels(refused.pixels).refusals == refused.refusals
    assert json.loads(json.dumps(refused.to_dict()))["refusals"][0]["reason"] == "blurred"

    line = prediction_line("a.png", refused, 1)
    said = f"would have said {plain.label} {100 * plain.probability:.1f} %"
    assert line.startswith(f"a.png: no answer: {refusal.text}; {said}; ") and "malignant" not in line
    row = dict(
        zip(csv_header(classifier.bundle.manifest).split(","), csv_row("a.png", refused).split(","), strict=False)
    )
    assert (row["abstained"], row["plausible"]) == ("yes", "; ".join(LABELS))


def test_pixels_that_were_standardised_are_not_judged(bundle_folder: Path) -> None:
    def standardise(stated: dict) -> None:
        stated["version"] = 2
        stated["preprocess"] |= {"background": "keep", "stain": "reinhard"}
        stated["quality"] = {"sharpness": {"low": 1.0}}

    spoil(bundle_folder, standardise)
    classifier = Classifier.open(bundle_folder)
    prediction = classifier.classify(edges(2))
    assert prediction.abstained  # judged as it came
    assert not classifier.classify_pixels(prediction.pixels).abstained


def test_labels_that_are_not_excluded_are_named_where_they_are_some(valid_bundle: Path) -> None:
    prediction = Classifier.open(valid_bundle).classify(edges(2))
    assert "not excluded" not in prediction_line("a.png", prediction, 1)
    two = dataclasses.replace(prediction, plausible=LABELS[:2])
    assert f"; not excluded: {LABELS[0]}, {LABELS[1]}; " in prediction_line("a.png", two, 1)
    unsure = dataclasses.replace(prediction, refusals=(Refusal("ambiguous", "labels", float(len(LABELS)), high=1.0),))
    assert "; no label excluded; " in prediction_line("a.png", unsure, 1)
    one = dataclasses.replace(prediction, plausible=LABELS[:1])
    assert "not excluded" not in prediction_line("a.png", one, 1)


def test_the_strongest_grain_and_rise_there_can_be_are_no_overflow() -> None:
    board = (255 * (np.indices((40, 40)).sum(0) % 2)).astype(np.uint8)
    assert noise(board) == 16 * 255 / 2 / (6 * 0.6745)
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[(np.indices((40, 40)) // 20).sum(0) == 1] = 255  # an edge of one pixel in every direction
    assert 0.7 < sharpness(halves) <= 1.0
    found = measure(np.where(halves > 0, halves, np.uint8(253)))
    assert found.white == found.clipped == 0.5


def plainly(pixels: Pixels, scale: float | None) -> dict[str, float]:
    """Measure a picture as `Quality` describes it, by sorting and with no thought of time."""
    height, width = pixels.shape[:2]
    scale = max(1.0, max(height, width) / 112 if scale is None else scale)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    density = optical_density(small)

    def percentile(values: np.ndarray, share: float) -> int:
        counts = np.bincount(values.ravel()).cumsum()
        return int(np.searchsorted(counts, share * counts[-1]))

    def steepness(grey: np.ndarray, down: int, right: int, steps: int) -> float:
        ways = [grey[down * i :, right * i :] for i in range(steps + 1)]
        rows, columns = ways[-1].shape
        if not rows or not columns:
            return 0.0
        way = np.stack([part[:rows, :columns] for part in ways])
        rise, steepest = np.abs(way[-1] - way[0]), np.abs(np.diff(way, axis=0)).max(axis=0)
        strong = rise >= max(percentile(rise, 0.92), 32)
        return min(1.0, int(steepest[strong].sum()) / int(rise[strong].sum())) if strong.any() else 0.0

    field = [percentile(small[:, :, c], 0.95) for c in range(3)]
    saturated = (pixels >= 254).reshape(-1, 3)
    grey = small.astype(np.int64) @ (1, 2, 1)
    green = pixels[:, :, 1].astype(np.int64)
    green = green[max(0, (height - 512) // 2) :][:512, max(0, (width - 512) // 2) :][:, :512]
    grain = np.abs(np.diff(np.diff(green, 2, axis=0), 2, axis=1)) if min(green.shape) >= 3 else np.zeros(1, int)
    across = [steepness(grey, 1, 1, 4) / math.sqrt(2), steepness(grey[:, ::-1], 1, 1, 4) / math.sqrt(2)]
    return {
        "brightness": max(field),
        "white": saturated.all(axis=1).mean(),
        "clipped": saturated.mean(axis=0).max(),
        "cast": min(field) / max(1, *field),
        "noise": percentile(grain, 0.5) / (6 * 0.6745),
        "stained": (density[:, :, 1] > 50).mean(),
        "contrast": percentile(density[:, :, 1], 0.99) / 1000,
        "purple": percentile(purple(density), 0.99) / 1000,
        "sharpness": min(steepness(grey, 0, 1, 6), steepness(grey, 1, 0, 6), *across),
    }


def test_the_fast_way_measures_what_the_plain_way_does(crops: list[Pixels]) -> None:
    rng = np.random.default_rng(1)
    sizes = [(1, 1), (1, 300), (300, 1), (224, 2), (2, 224), (7, 6), (225, 224), (224, 224), (112, 224), (640, 530)]
    pictures = [*crops[:6], render_field("Benign", np.random.default_rng(0), 300).pixels]
    pictures += [
        rng.integers(*levels, (*size, 3), dtype=np.uint8) for size in sizes for levels in ((0, 256), (252, 256))
    ]
    pictures += [np.full((224, 224, 3), level, np.uint8) for level in (0, 128, 253, 254, 255)]
    pictures.append((255 * (np.indices((224, 224, 3)).sum(0) % 2)).astype(np.uint8))
    for picture in pictures:
        for scale in (None, 1.0, 1.5, 2.0):
            assert dataclasses.asdict(measure(picture, scale)) == plainly(picture, scale), (picture.shape, scale)
