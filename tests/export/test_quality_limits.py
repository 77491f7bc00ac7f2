"""Limits: from what validation pictures are like to what other pictures may be like."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edge_runtime.quality import Quality, measure
from edge_runtime.quality_limits import MEASURES
from export.pipeline import open_source
from export.quality_limits import RULES, fit_limits, quality
from train.run_folder import read_run

GOOD = Quality(
    brightness=250, white=0.0, clipped=0.2, cast=0.8, noise=1.0, stained=0.5, contrast=0.9, purple=0.6, sharpness=0.5
)


def test_limits_go_source_by_source_and_leave_outliers_out() -> None:
    sharp = [dataclasses.replace(GOOD, sharpness=0.5)] * 400
    soft = [dataclasses.replace(GOOD, sharpness=0.4)] * 400
    bad = [dataclasses.replace(GOOD, sharpness=0.1)] * 2  # of 402: fewer than one in two hundred
    found = fit_limits([*sharp, *soft, *bad], ["a"] * 400 + ["b"] * 402)
    assert found["sharpness"] == pytest.approx(0.4 * (1 - RULES["sharpness"].way))
    assert found["noise"] == pytest.approx(1 + RULES["noise"].way * 39)


def test_every_measure_has_a_rule_that_leaves_room_and_stays_in_range() -> None:
    assert list(RULES) == list(MEASURES)
    found = fit_limits([GOOD], ["a"])
    for name, meaning in MEASURES.items():
        value = getattr(GOOD, name)
        assert 0 < found[name] < value if meaning.side == "low" else value < found[name] < meaning.greatest


def test_validation_pictures_alone_set_them(rendered_run: Path) -> None:
    source = open_source(read_run(rendered_run), images=8)
    stated = quality(source)
    numbers = source.index.select(source.run.protocol, "val")
    wanted = fit_limits([measure(source.pixels[i]) for i in numbers], ["rendered"] * len(numbers))
    assert {name: next(iter(entry.values())) for name, entry in stated.items()} == wanted
    darker = dataclasses.replace(source, pixels=source.pixels.copy())
    darker.pixels[source.index.select(source.run.protocol, "test")] //= 4
    assert quality(darker) == stated
    darker.pixels[numbers] //= 4
    assert quality(darker)["brightness"]["low"] < 0.3 * stated["brightness"]["low"]
