"""Masks: numbered, filled, grown and measured as scipy does it, which the device does not have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from edge_runtime.masks import (
    cheapest_way,
    distance_to,
    filled,
    grown,
    highest_around,
    label_components,
    largest,
    opened,
    spans,
    spread,
    touching,
)


def blobs(seed: int, shape: tuple[int, int] = (60, 83), share: float = 0.5) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return noise > np.quantile(noise, 1 - share)


@pytest.mark.parametrize("density", [0.02, 0.3, 0.5, 0.6, 0.9])
def test_components_are_scipys(density: float) -> None:
    random = np.random.default_rng(int(density * 100))
    for shape in ((1, 1), (1, 30), (30, 1), (40, 53)):
        mask = random.random(shape) < density
        labels, count = label_components(mask)
        wanted, wanted_count = ndimage.label(mask)
        assert count == wanted_count
        assert np.array_equal(labels, wanted)


def test_a_spiral_is_one_component() -> None:
    """The longest way round: pointer jumping has to reach its first run."""
    mask = np.zeros((41, 41), bool)
    y = x = 20
    for length in range(1, 40):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[length % 4]
        for _ in range(2 * (length // 2)):
            y, x = y + dy, x + dx
            if 0 <= y < 41 and 0 <= x < 41:
                mask[y, x] = True
    labels, count = label_components(mask)
    assert count == ndimage.label(mask)[1]
    assert ((labels > 0) == mask).all()


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_euclidean_up_to_the_limit(seed: int) -> None:
    mask = blobs(seed, share=0.06)
    exact = ndimage.distance_transform_edt(~mask)
    for limit in (1, 5, 17, 200):
        np.testing.assert_allclose(distance_to(mask, limit), exact.clip(max=limit), atol=1e-5)


@pytest.mark.parametrize("limit", [1, 2, 126, 127, 128, 300])  # int16 has room for the squares up to 127
def test_distances_are_the_nearest_float32_whatever_holds_their_squares(limit: int) -> None:
    for shape in ((1, 1), (1, 400), (400, 1), (170, 230)):
        mask = np.zeros(shape, bool)
        mask[shape[0] // 3, shape[1] // 4] = True
        exact = ndimage.distance_transform_edt(~mask).clip(max=limit).astype(np.float32)
        found = distance_to(mask, limit)
        assert found.dtype == np.float32 and np.array_equal(found, exact)


def test_distance_to_nothing_is_the_limit() -> None:
    assert (distance_to(np.zeros((5, 7), bool), 9) == 9).all()
    assert distance_to(np.ones((1, 1), bool), 3) == 0


def test_growing_opening_and_filling_are_scipys() -> None:
    y, x = np.indices((7, 7)) - 3
    disc = x**2 + y**2 <= 9
    for seed in range(4):
        mask = np.pad(blobs(seed), 4)
        assert np.array_equal(grown(mask, 3), ndimage.binary_dilation(mask, disc))
        assert np.array_equal(opened(mask, 3), ndimage.binary_opening(mask, disc))
        assert np.array_equal(filled(mask), ndimage.binary_fill_holes(mask))


def test_touching_keeps_whole_components() -> None:
    mask = blobs(3)
    seed = np.zeros_like(mask)
    seed[30] = True
    labels, _ = ndimage.label(mask)
    wanted = np.isin(labels, np.setdiff1d(labels[30], 0))
    assert wanted.any() and (mask & ~wanted).any()
    assert np.array_equal(touching(mask, seed), wanted)


@pytest.mark.parametrize("seed", range(3))
def test_cheapest_way_is_dijkstras(seed: int) -> None:
    from skimage.graph import MCP

    random = np.random.default_rng(seed)
    cost = random.integers(1, 200, (25, 31))
    start = np.zeros(cost.shape, bool)
    start[12, 5] = start[3, 28] = True
    exact, _ = MCP(np.where(start, 0, cost), fully_connected=False).find_costs(np.argwhere(start))
    found = cheapest_way(cost, start, rounds=100)
    assert np.array_equal(found, exact)
    few = cheapest_way(cost, start, rounds=2)
    assert (few >= found).all() and (few > found).any()


@pytest.mark.parametrize("scale", [1, 10**6])  # int32 has room for the small costs only
def test_cheapest_way_has_the_same_numbers_in_little_memory(scale: int) -> None:
    random = np.random.default_rng(0)
    cost = scale * random.integers(1, 10_000, (70, 90))
    seed = random.random(cost.shape) < 0.01
    found = cheapest_way(cost, seed, 8)
    assert found.dtype == np.int64 and np.array_equal(found, accumulated_way(cost, seed, 8))


def accumulated_way(cost: np.ndarray, seed: np.ndarray, rounds: int) -> np.ndarray:
    """Do what `cheapest_way` does with numpy's ``accumulate``."""
    total = np.where(seed, 0, cost.sum() + 1)
    for _ in range(rounds):
        for axis in (0, 1):
            for way in (1, -1):
                flip = (slice(None, None, way),) if axis == 0 else (slice(None), slice(None, None, way))
                summed = np.cumsum(cost[flip], axis)
                total = (np.minimum.accumulate(total[flip] - summed, axis) + summed)[flip]
    return total


def test_highest_around_is_a_maximum_filter() -> None:
    values = np.random.default_rng(0).random((20, 33)).astype(np.float32)
    for reach in (1, 2, 5, 9):
        assert np.array_equal(highest_around(values, reach), ndimage.maximum_filter(values, 2 * reach + 1))


def test_labels_spread_over_the_mask_and_no_farther() -> None:
    mask = np.zeros((3, 9), bool)
    mask[1, :7] = True
    labels = np.zeros(mask.shape, np.int32)
    labels[1, 0], labels[1, 5] = 1, 2
    assert spread(labels, mask)[1].tolist() == [1, 1, 1, 2, 2, 2, 2, 0, 0]
    assert not spread(labels, mask)[[0, 2]].any()


def test_measures_of_regions() -> None:
    labels = np.zeros((6, 8), np.int32)
    labels[1:3, 2:7], labels[5, 0] = 1, 2
    values = np.arange(48, dtype=np.float32).reshape(6, 8)
    assert largest(labels, 2, values)[1:].tolist() == [22, 40]
    reach = spans(labels, 2, np.array([(1.0, 0.0), (0.0, 1.0), (0.6, 0.8)]))
    assert reach[1].tolist() == [[2, 6], [1, 2], [pytest.approx(2.0), pytest.approx(5.2)]]
    assert reach[2, :2].tolist() == [[0, 0], [5, 5]]
