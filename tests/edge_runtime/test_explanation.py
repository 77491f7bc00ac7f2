"""Numbers of an explanation are right on maps whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_runtime.classifier import Prediction
from edge_runtime.explanation import explain
from edge_runtime.heatmap import Placement, heatmap


def _prediction(class_map: np.ndarray, pixels: np.ndarray | None = None) -> Prediction:
    logits = class_map.mean((0, 1)).astype(np.float32)
    labels = [f"class {k}" for k in range(len(logits))]
    best = int(logits.argmax())
    seen = np.full((64, 64, 3), 230, np.uint8) if pixels is None else pixels
    return Prediction(
        labels[best],
        0.9,
        dict.fromkeys(labels, 0.1),
        logits,
        class_map,
        heatmap(class_map, best),
        Placement.grid(class_map.shape[0], len(seen)),
        seen,
        {},
        {"total": 1.0},
        "test@000000000000",
        False,
    )


def test_centre_and_box_are_where_the_heat_is() -> None:
    class_map = np.zeros((8, 8, 3), np.float32)
    class_map[2, 5, 1] = 64  # centre at x = 5.5 / 8, y = 2.5 / 8
    found = explain(_prediction(class_map), "cell")
    assert found.centroid == pytest.approx((5.5 / 8, 2.5 / 8), abs=0.01)
    assert found.box is not None
    left, top, width, height = found.box
    assert (left + width / 2, top + height / 2) == pytest.approx((5.5 / 8, 2.5 / 8), abs=0.02)
    assert 0.08 < width < 0.2 and 0.08 < height < 0.2
    assert found.inside_cell is None  # an empty field holds no cell


def test_contrast_is_the_answer_less_the_runner_up() -> None:
    class_map = np.zeros((4, 4, 3), np.float32)
    class_map[0, 0] = (8, 4, 0)
    class_map[3, 3] = (0, 2, 0)
    found = explain(_prediction(class_map), "cell")
    assert found.runner_up == "class 1"
    assert found.contrast[0, 0] == 1 and found.contrast[3, 3] == pytest.approx(-0.5)
    assert np.count_nonzero(found.contrast) == 2


def test_without_heat_nothing_is_made_up() -> None:
    found = explain(_prediction(np.full((4, 4, 2), -1, np.float32)), "cell")
    assert (found.inside_cell, found.centroid, found.box) == (None, None, None)
    assert not found.contrast.any()
    json.dumps(found.to_dict(), allow_nan=False)


def test_heat_on_a_cell_is_told_from_heat_beside_it() -> None:
    """A round purple nucleus in the middle of a pale field."""
    y, x = np.mgrid[:224, :224] - 111.5
    nucleus = (x**2 + y**2 < 45**2)[..., None]
    pixels = np.where(nucleus, (110, 60, 150), (235, 220, 225)).astype(np.uint8)
    inside, beside = np.zeros((7, 7, 2), np.float32), np.zeros((7, 7, 2), np.float32)
    inside[3, 3, 0] = beside[0, 0, 0] = 49
    on, off = (explain(_prediction(class_map, pixels), "cell").inside_cell for class_map in (inside, beside))
    assert on is not None and off is not None and on > 0.95 and off < 0.01
