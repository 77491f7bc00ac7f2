"""The gate's benchmark: what counts as unusable, how shares are counted, and that the page shows what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.corruptions import CORRUPTIONS, HOLDS_NOTHING
from benchmarks.quality import (
    PAGE,
    RESULTS,
    clean_table,
    judge_steps,
    missed_table,
    share,
    steps,
    steps_table,
    summary_table,
    verdict,
)
from edge_runtime.quality import judge
from edge_runtime.quality_limits import FIELD_LIMITS, MEASURES
from train.render import render_cell


def test_unusable_is_what_costs_answers_or_holds_no_cell() -> None:
    assert verdict(("disc blur", 0.2), 20.1) == "unusable"
    assert verdict(("disc blur", 0.2), 20.0) == "between"
    assert verdict(("disc blur", 0.2), 2.0) == "harmless"
    assert {verdict((name, 0), -5.0) for name in HOLDS_NOTHING} == {"unusable"}


def test_a_share_knows_its_groups() -> None:
    found = share([True, True, False, False], ["a", "a", "b", "b"])
    assert (found["pictures"], found["groups"], found["value"]) == (4, 2, 0.5)
    assert (found["low"], found["high"]) == (0.0, 1.0)  # both groups may be of one kind
    assert share([True] * 3, ["a", "b", "c"])["low"] == 1.0


def test_steps_are_judged_and_summed_up() -> None:
    pictures = [render_cell("neutrophil", np.random.default_rng(seed), 224).pixels for seed in range(3)]
    falls = {("under-exposure", 0.7): 0.0, ("under-exposure", 0.03): 80.0, ("faded stain", 0.3): 9.0}
    found = judge_steps(
        falls, pictures, ["a", "b", "c"], [60.0] * 3, lambda picture: judge(picture, {"brightness": 90})
    )
    assert [row["verdict"] for row in found["steps"]] == ["harmless", "unusable", "between"]
    assert [row["rejected"]["value"] for row in found["steps"]] == [0, 1, 0]
    assert found["steps"][1]["by"] == {"too dark: brightness": 3} and found["steps"][1]["named"] == 1
    assert (found["harmless"]["value"], found["unusable"]["value"], found["unusable"]["pictures"]) == (0, 1, 3)


@pytest.fixture(scope="module")
def found() -> dict:
    """What was measured last."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_shows_what_was_measured(found: dict) -> None:
    page = PAGE.read_text(encoding="utf-8")
    tables = [clean_table(found), summary_table(found), missed_table(found)]
    for table in tables + [steps_table(rows["steps"]) for rows in found["tasks"].values()]:
        assert table in page


def test_every_step_was_measured_and_the_limits_for_fields_are_those_that_were_fitted(found: dict) -> None:
    for rows in found["tasks"].values():
        assert {(row["corruption"], row["severity"]) for row in rows["steps"]} == set(steps())
        assert set(rows["limits"]) == set(MEASURES)
    fields = found["fields"]
    assert fields["limits"] == dict(FIELD_LIMITS)
    assert {name: fields["fitted"][name] for name in FIELD_LIMITS} == dict(FIELD_LIMITS)
    assert {row["corruption"] for row in fields["steps"]} <= set(CORRUPTIONS)
