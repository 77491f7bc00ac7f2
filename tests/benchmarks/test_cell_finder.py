"""The judge counts rightly; the light finder is good on real fields, and no worse than the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import cell_finder
from benchmarks.cell_finder import Field, Found, judge_boxes, judge_masks, overlap, pairs
from edge_runtime.errors import UsageError


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (10, 10, 5, 5)) == 0
    assert overlap((0, 0, 10, 10), (20, 0, 5, 5)) == 0


def test_pairs_are_one_to_one_and_the_best_first() -> None:
    assert pairs([[0.9, 0.6], [0.8, 0.0]], 0.5) == {
        0: 0
    }  # the best pair leaves the second box to nobody who is good enough
    assert pairs([[0.9, 0.0], [0.8, 0.7]], 0.5) == {0: 0, 1: 1}
    assert pairs([[0.5]], 0.5) == {}
    assert pairs([], 0.5) == {}


def test_boxes_are_counted_once() -> None:
    field = Field(np.zeros((100, 100, 3), np.uint8), ((0, 0, 40, 40), (50, 50, 40, 40)), 20.0)
    cells: Found = [((0, 0, 40, 40), (20, 20)), ((5, 5, 10, 10), (10, 10)), ((90, 0, 5, 5), (92, 2))]
    found = judge_boxes([field], lambda field: cells)
    assert found["centre_hit"] == {"recall": 0.5, "precision": 1 / 3, "found": 1, "missed": 1, "extra": 2}
    assert found["iou_0.5"]["found"] == 1
    nothing = judge_boxes([field], lambda field: [])
    assert nothing["centre_hit"] == {"recall": 0, "precision": 0, "found": 0, "missed": 2, "extra": 0}


def test_masks_are_judged_by_dice() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:4], mask[4:8] = 255, 128
    whole = np.ones((10, 10), bool)
    found = judge_masks([(np.zeros((10, 10, 3), np.uint8), mask)], lambda pixels: (mask > 200, whole))
    assert found["nucleus"]["dice"]["median"] == found["nucleus"]["iou"]["median"] == 1
    assert found["cell"]["dice"]["p10"] == pytest.approx(2 * 80 / 180)
    assert found["cell"]["iou"]["p10"] == pytest.approx(0.8)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data sets to measure on"):
        cell_finder.measure(tmp_path)


@pytest.mark.slow
def test_white_cells_of_real_fields_are_found(shared_data: Path) -> None:
    fields = cell_finder.read_fields(shared_data)
    assert len(fields) == 288 and sum(len(field.boxes) for field in fields) == 294
    found = judge_boxes(fields, cell_finder.light_boxes)
    assert found["centre_hit"]["recall"] >= 0.98 and found["centre_hit"]["precision"] >= 0.96
    assert found["iou_0.5"]["recall"] >= 0.96
    some = fields[::8]
    reference = judge_boxes(some, cell_finder.reference_boxes)
    light = judge_boxes(some, cell_finder.light_boxes)
    for measure in ("centre_hit", "iou_0.5"):
        assert light[measure]["precision"] >= reference[measure]["precision"]
    assert reference["centre_hit"]["recall"] > 0.9, "the reference is worth the comparison"
