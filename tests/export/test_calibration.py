"""The calibration set: balanced, repeatable, from the training split, and never a held-out picture's twin."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from export.calibration import check, choose_calibration, describe, overlap
from export.errors import ExportError
from train.index import Index, Row
from train.tasks import TASKS

TASK = TASKS["all-subtypes"]


def _row(number: int, label: str, split: str, phash: str | None = None) -> Row:
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return Row(f"{number}.png", None, "rendered", label, label, "", "", sha256, phash or sha256, split, split)


@pytest.fixture
def index() -> Index:
    """40 training, 4 validation and 4 test pictures; the fourth class has only 4 for training."""
    rows = [_row(n, TASK.labels[n % 3], "train") for n in range(36)]
    rows += [_row(100 + n, TASK.labels[3], "train") for n in range(4)]
    rows += [_row(200 + n, TASK.labels[n % 4], ("val", "test")[n // 4]) for n in range(8)]
    return Index(Path("index"), Path("data"), TASK, tuple(rows), {})


def test_classes_take_turns_and_a_rare_one_gives_all_it_has(index: Index) -> None:
    chosen = choose_calibration(index, "grouped", 24)
    assert sum(chosen.per_class.values()) == 24 and chosen.per_class[TASK.labels[3]] == 4
    assert max(chosen.per_class.values()) - min(list(chosen.per_class.values())[:3]) <= 1
    assert choose_calibration(index, "grouped", 24) == chosen
    assert choose_calibration(index, "grouped", 24, seed=1).sha256 != chosen.sha256
    check(index, "grouped", chosen)


def test_hash_names_the_set_whatever_the_order_of_rows(index: Index) -> None:
    chosen = choose_calibration(index, "grouped", 12)
    turned = dataclasses.replace(index, rows=index.rows[::-1])
    assert choose_calibration(turned, "grouped", 12).sha256 == chosen.sha256


def test_twins_of_held_out_pictures_are_passed_over(index: Index) -> None:
    held_out = next(row for row in index.rows if row.grouped == "test")
    near = f"{int(held_out.phash, 16) ^ 0b1011:064x}"  # three of 256 bits away
    rows = (*index.rows, _row(300, TASK.labels[0], "train", near))
    wider = dataclasses.replace(index, rows=rows)
    chosen = choose_calibration(wider, "grouped", 200)
    assert len(rows) - 1 not in chosen.numbers and chosen.too_close == 1
    forced = describe(wider, [*chosen.numbers, len(rows) - 1], 0)
    assert overlap(wider, "grouped", forced) == 1
    with pytest.raises(ExportError, match="touches validation or test: got 1 of 41 pictures"):
        check(wider, "grouped", forced)


def test_same_file_under_two_names_is_found(index: Index) -> None:
    held_out = next(i for i, row in enumerate(index.rows) if row.grouped == "val")
    far = f"{int(index.rows[held_out].phash, 16) ^ (2**256 - 1):064x}"
    copy = dataclasses.replace(index.rows[held_out], path="copy.png", grouped="train", phash=far)
    wider = dataclasses.replace(index, rows=(*index.rows, copy))
    assert overlap(wider, "grouped", describe(wider, [len(index.rows)], 0)) == 1


def test_class_without_a_free_picture_and_too_few_images_are_refused(index: Index) -> None:
    with pytest.raises(ExportError, match="at least one per class, 4"):
        choose_calibration(index, "grouped", 3)
    twins = tuple(
        dataclasses.replace(row, phash=index.rows[-1].phash) if row.label == TASK.labels[3] else row
        for row in index.rows
    )
    with pytest.raises(ExportError, match=f"no calibration images of {TASK.labels[3]}"):
        choose_calibration(dataclasses.replace(index, rows=twins), "grouped", 12)
