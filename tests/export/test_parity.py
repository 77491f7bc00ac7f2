"""The ladder's arithmetic, by hand: what a row says for outputs whose differences are known."""

from __future__ import annotations

import numpy as np
import pytest

from export.comparison import Outputs, compare, heatmap_agreement
from export.parity import FINITE, GATES, Row, calibration_row, compare_fp32, compare_quantized, finite_row, format_table

LABELS = ("a", "b", "c")


def _outputs(n: int = 300, seed: int = 0) -> tuple[Outputs, np.ndarray]:
    """Outputs of a model that is right, and the truth."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 3
    class_map = rng.normal(0, 1, (n, 4, 4, 3)).astype(np.float32)
    class_map[np.arange(n), ..., targets] += 3
    return Outputs(class_map.mean((1, 2)), class_map), targets


def _rows(reference: Outputs, candidate: Outputs, targets: np.ndarray) -> dict[str, Row]:
    found = compare(reference, candidate, targets, [str(i) for i in range(len(targets))], LABELS)
    return {row.measure: row for row in compare_quantized("step", reference, candidate, found, targets, LABELS)}


def test_equal_models_pass_everything() -> None:
    reference, targets = _outputs()
    assert all(row.passed for row in compare_fp32("step", reference, reference))
    rows = _rows(reference, reference, targets)
    assert all(row.passed for row in rows.values())
    assert rows["top-1 agreement"].value == 1.0 and rows["macro-F1 drop, pp"].value == 0.0
    assert "-0" not in format_table(list(rows.values())).replace("1e-0", "")


def test_nan_is_counted_first_and_nothing_is_averaged_over_it() -> None:
    reference, _ = _outputs()
    class_map = reference.class_map.copy()
    class_map[7, 1, 1, 2] = np.nan
    broken = Outputs(reference.logits, class_map, "class_map: 1 of 48 values are NaN or infinite")
    for rows in (compare_fp32("step", reference, broken), [finite_row("step", broken)]):
        (row,) = rows
        assert row.measure == FINITE and row.value == 299 and not row.passed and "NaN" in row.note


def test_logits_just_over_the_limit_fail() -> None:
    reference, _ = _outputs()
    near, far = (Outputs(reference.logits + np.float32(by), reference.class_map) for by in (5e-5, 2e-4))
    assert all(row.passed for row in compare_fp32("step", reference, near))
    failed = [row.measure for row in compare_fp32("step", reference, far) if not row.passed]
    assert failed == ["largest logit difference"]


def test_logits_cut_off_and_logits_that_all_move_fail() -> None:
    """Neither need change an answer: the highest stays the highest."""
    reference, targets = _outputs()
    highest = np.float32(np.quantile(reference.logits, 0.9))
    cut_off = _rows(reference, Outputs(np.minimum(reference.logits, highest), reference.class_map), targets)
    assert not cut_off[GATES["logit_error"].measure].passed
    moved = _rows(reference, Outputs(reference.logits + np.float32(0.2), reference.class_map), targets)
    assert not moved[GATES["logit_shift"].measure].passed
    assert moved[GATES["logit_error"].measure].passed and moved["top-1 agreement"].value == 1.0


def test_lost_class_is_named() -> None:
    reference, targets = _outputs()
    logits = reference.logits.copy()
    wrong = np.flatnonzero(targets == 1)[:20]
    logits[wrong, 0] += 10
    rows = _rows(reference, Outputs(logits, reference.class_map), targets)
    recall = rows["largest class recall drop, pp"]
    assert not recall.passed and recall.value == pytest.approx(20.0) and recall.note.startswith("b: 20 lost")
    assert not rows["top-1 agreement"].passed and not rows["macro-F1 drop, pp"].passed


def test_heatmap_that_points_elsewhere_fails() -> None:
    reference, targets = _outputs()
    moved = Outputs(reference.logits, reference.class_map[:, ::-1].copy())
    failed = {name for name, row in _rows(reference, moved, targets).items() if not row.passed}
    assert {GATES["spearman"].measure, GATES["peak"].measure} <= failed


def test_heatmaps_are_those_of_the_references_class_and_ties_count() -> None:
    class_map = np.zeros((1, 2, 2, 2), np.float32)
    class_map[0, ..., 0] = [[4, 1], [2, 3]]
    reference = Outputs(np.array([[2.5, 0.0]], np.float32), class_map)
    tied = class_map.copy()
    tied[0, ..., 0] = [[3, 1], [2, 3]]
    candidate = Outputs(np.array([[0.0, 9.0]], np.float32), tied)  # another class on top: still compared on the first
    rank, kept, same = heatmap_agreement(reference, candidate)
    assert rank[0] == pytest.approx(0.9487, abs=1e-4) and kept[0] == 1.0 and same[0]
    flat = Outputs(candidate.logits, np.ones_like(class_map))
    assert heatmap_agreement(reference, flat)[0][0] == 0.0, "a flat map explains nothing"


def test_map_of_one_cell_has_nothing_to_rank() -> None:
    one = Outputs(np.array([[1.0, 0.0]], np.float32), np.ones((1, 1, 1, 2), np.float32))
    rank, kept, same = heatmap_agreement(one, Outputs(one.logits, 0.5 * one.class_map))
    assert rank[0] == kept[0] == 1.0 and same[0]


def test_calibration_row_counts_classes() -> None:
    from export.calibration import CalibrationSet

    row = calibration_row(CalibrationSet((1, 2), {"a": 2, "b": 0}, "", 0, 0))
    assert not row.passed and row.value == 1 and row.limit == "all 2"
