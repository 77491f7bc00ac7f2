"""Numbers of an explanation are right on maps whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.classifier import Prediction
from edge_runtime.explanation import explain
from edge_runtime.heatmap import Placement, heatmap
from edge_runtime.overlay import contour


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
        seen,
        {},
        tuple(labels),
        (),
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


def test_of_equals_the_first_is_the_answer_and_another_the_runner_up() -> None:
    class_map = np.zeros((4, 4, 3), np.float32)
    class_map[0, 0] = (1, 8, 0)
    class_map[3, 3] = (0, 0, 8)
    prediction = _prediction(class_map)
    assert prediction.logits[1] == prediction.logits[2] and prediction.label == "class 1"
    found = explain(prediction, "cell")
    assert found.runner_up == "class 2"
    assert found.contrast[0, 0] == 1 and found.contrast[3, 3] == -1


def test_without_heat_nothing_is_made_up() -> None:
    found = explain(_prediction(np.full((4, 4, 2), -1, np.float32)), "cell")
    assert (found.inside_cell, found.centroid, found.box) == (None, None, None)
    assert not found.contrast.any()
    json.dumps(found.to_dict(), allow_nan=False)


def _nucleus() -> np.ndarray:
    """Draw a round purple nucleus in the middle of a pale field."""
    y, x = np.mgrid[:224, :224] - 111.5
    nucleus = (x**2 + y**2 < 45**2)[..., None]
    return np.where(nucleus, (110, 60, 150), (235, 220, 225)).astype(np.uint8)


def _spot(row: int, column: int) -> np.ndarray:
    class_map = np.zeros((7, 7, 2), np.float32)
    class_map[row, column, 0] = 49
    return class_map


def test_heat_on_a_cell_is_told_from_heat_beside_it() -> None:
    on, off = (explain(_prediction(_spot(at, at), _nucleus()), "cell").inside_cell for at in (3, 0))
    assert on is not None and off is not None and on > 0.95 and off < 0.01


def test_cells_are_found_on_the_pixels_as_they_came() -> None:
    """A network may see a picture whose stain has been moved, or of which nothing was kept."""
    seen = np.full((224, 224, 3), 240, np.uint8)
    prediction = replace(_prediction(_spot(3, 3), _nucleus()), pixels=seen)
    for kind in ("cell", "field"):
        inside = explain(prediction, kind).inside_cell
        assert inside is not None and inside > 0.95
    unknown = explain(replace(prediction, plain=None), "cell")
    assert unknown.inside_cell is None and unknown.centroid is not None


def test_contour_and_box_are_of_the_same_places() -> None:
    """A plateau of exactly half of the peak counts for both."""
    class_map = np.zeros((4, 4, 2), np.float32)
    class_map[1, 1, 0], class_map[1, 2, 0] = 64, 32
    placement = Placement(0.5, 1.0, 4)
    prediction = replace(_prediction(class_map, np.full((4, 4, 3), 230, np.uint8)), placement=placement)
    rim = contour(placement.enlarge(prediction.heatmap, 4))
    assert rim.nonzero()[0].tolist() == [1, 1] and rim.nonzero()[1].tolist() == [1, 2]
    assert explain(prediction, "cell").box == (0.25, 0.25, 0.5, 0.25)
