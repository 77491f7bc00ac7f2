"""Patients by themselves: the surest failure first, and a mean in which each counts once."""

from __future__ import annotations

import numpy as np
import pytest

from train.per_group import per_group, wilson_interval

LABELS = ("blast", "lymphocyte")


def test_rows_and_mean() -> None:
    groups = ["big"] * 90 + ["small"] * 10 + ["lost"] * 20 + ["one"]
    targets = np.array([0] * 50 + [1] * 40 + [0] * 10 + [0] * 20 + [1])
    predicted = targets.copy()
    predicted[:9] = 1  # 9 of the 90
    predicted[100:118] = 1  # 18 of the 20
    predicted[-1] = 0
    found = per_group(predicted, targets, groups, LABELS, resamples=500)
    rows = {row["group"]: row for row in found["rows"]}
    assert [row["group"] for row in found["rows"]] == [
        "lost",
        "one",
        "big",
        "small",
    ]  # 0 of 1 is less sure than 2 of 20
    assert (
        rows["lost"]["right"] == 2
        and rows["lost"]["n"] == 20
        and rows["lost"]["mistakes"] == {"blast -> lymphocyte": 18}
    )
    assert rows["big"]["classes"] == {"blast": 50, "lymphocyte": 40} and rows["small"]["mistakes"] == {}
    assert found["mean_accuracy"]["value"] == pytest.approx((0.9 + 1 + 0.1 + 0) / 4)
    assert found["mean_accuracy"]["low"] < 0.5 < found["mean_accuracy"]["high"]
    assert found["interval"]["unit"] == "group" and found["interval"]["units"] == 4


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (81, 100), (1, 1)])
def test_wilson_interval_is_the_textbooks(right: int, n: int) -> None:
    z, share = 1.959964, right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    found = wilson_interval(right, n)
    assert found["value"] == share
    assert found["low"] == pytest.approx(middle - half, abs=1e-6)
    assert found["high"] == pytest.approx(middle + half, abs=1e-6)
