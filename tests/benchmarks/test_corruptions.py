"""Corruptions: each spoils a picture by as much as it says, and the same arguments give the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.corruptions import CORRUPTIONS, HOLDS_NOTHING, corrupted, linear, to_pixels
from edge_runtime.preprocess import Pixels
from edge_runtime.refusal import REASONS
from train.render import render_cell


@pytest.fixture(scope="module")
def crop() -> Pixels:
    """A rendered neutrophil, 224 px."""
    return render_cell("neutrophil", np.random.default_rng(5), 224).pixels


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_same_size_and_same_bytes_again(name: str, crop: Pixels) -> None:
    for severity in CORRUPTIONS[name].severities:
        spoilt = corrupted(crop, name, severity, 3, 60.0)
        assert spoilt.shape == crop.shape
        assert spoilt.dtype == np.uint8
        assert not np.array_equal(spoilt, crop)
        assert np.array_equal(spoilt, corrupted(crop, name, severity, 3, 60.0))


@pytest.mark.parametrize("name", [name for name, row in CORRUPTIONS.items() if len(row.severities) > 1])
def test_severities_go_from_mild_to_strong(name: str, crop: Pixels) -> None:
    distances = []
    for severity in CORRUPTIONS[name].severities:
        seeds = [corrupted(crop, name, severity, seed, 60.0) for seed in range(6)]
        distances.append(np.mean([np.abs(spoilt.astype(float) - crop).mean() for spoilt in seeds]))
    assert distances == sorted(distances)


def test_every_reason_is_one_that_a_gate_can_give() -> None:
    assert {row.reason for row in CORRUPTIONS.values()} <= set(REASONS)
    assert set(HOLDS_NOTHING) <= set(CORRUPTIONS)


def test_light_comes_back_as_it_was() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(to_pixels(linear(levels)), levels)


def test_a_stop_less_light_is_half_the_light(crop: Pixels) -> None:
    light = linear(corrupted(crop, "under-exposure", 0.5, 0, 60.0))
    assert np.allclose(light, linear(crop) / 2, atol=0.005)


def test_blur_keeps_light_and_spreads_a_point_over_a_disc() -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    spread = linear(corrupted(point, "disc blur", 0.1, 0, 50.0))[:, :, 0]
    y, x = np.nonzero(spread)
    assert np.hypot(y - 20, x - 20).max() <= 5.8
    assert spread.sum() == pytest.approx(1.0, rel=0.1)  # 256 levels are coarse for a point's light


def test_an_empty_field_is_the_picture_without_its_cells(crop: Pixels) -> None:
    empty = corrupted(crop, "empty field", 0, 0, 60.0)
    white = np.percentile(crop, 95, axis=(0, 1))
    assert np.abs(empty.astype(float) - white).max() < 40
