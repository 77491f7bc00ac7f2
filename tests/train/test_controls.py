"""Controls find a shortcut that is there, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from train.controls import Features, burnt_in_control, control_features, controls
from train.index import Index, Row
from train.sources import SOURCES
from train.tasks import TASKS

PX = 56


def make_index(
    count: int, sources: tuple[str, ...] = ("taleqani",), task: str = "all-subtypes", seed: int = 0
) -> Index:
    """Rows without files: classes by turns, sources by halves, groups of two, splits 60/20/20 dealt at random."""
    rng = np.random.default_rng(seed)
    labels = TASKS[task].labels
    splits = rng.permutation(np.resize(["train", "train", "train", "val", "test"], count))
    rows = []
    for i in range(count):
        source = sources[i * len(sources) // count]
        group = f"{source}:{i // 2}"
        split = str(splits[i])
        label = labels[i % len(labels)]
        rows.append(Row(f"{i}.png", None, source, label, label, "", group, f"{i:064x}", "0" * 64, split, split))
    return Index(Path("nowhere"), Path("nowhere"), TASKS[task], tuple(rows), {})


def noise(count: int, seed: int = 1) -> np.ndarray:
    """Pictures that share every statistic but chance: (count, PX, PX, 3) uint8."""
    return np.random.default_rng(seed).integers(90, 160, (count, PX, PX, 3), dtype=np.uint8)


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {row["name"]: row for row in rows}


CLASS_CONTROLS = ("colour, 1-NN", "colour, LDA", "background ring, 1-NN", "background ring, LDA")


def test_colour_shortcut_is_found_by_every_control() -> None:
    index, pixels = make_index(200), noise(200)
    pixels += (5 * index.targets(range(200))[:, None, None, None]).astype(np.uint8)
    found = by_name(controls(index, control_features(pixels), "grouped", resamples=50))
    for name in CLASS_CONTROLS:
        assert found[name]["balanced_accuracy"]["value"] == 1.0, name
        assert found[name]["n"] == 40
    assert found["colour, LDA"]["operating_points"][0]["test"]["auroc"]["value"] == 1.0


def test_without_a_shortcut_controls_stay_near_chance() -> None:
    index = make_index(400)
    found = by_name(controls(index, control_features(noise(400)), "grouped", resamples=200))
    for name in CLASS_CONTROLS:
        row = found[name]["balanced_accuracy"]
        assert row["value"] < 0.45, name  # chance 0.25, 80 test pictures
        assert row["low"] < 0.3, name
    assert 0.3 < found["colour, LDA"]["operating_points"][0]["test"]["auroc"]["value"] < 0.7


def test_ring_control_does_not_look_at_the_middle() -> None:
    index, pixels = make_index(200), noise(200)
    middle = slice(PX // 8, -(PX // 8))
    pixels[:, middle, middle] += (5 * index.targets(range(200))[:, None, None, None]).astype(np.uint8)
    found = by_name(controls(index, control_features(pixels), "grouped", resamples=20))
    assert found["colour, 1-NN"]["balanced_accuracy"]["value"] == 1.0
    assert found["background ring, 1-NN"]["balanced_accuracy"]["value"] < 0.5
    assert found["background ring, LDA"]["balanced_accuracy"]["value"] < 0.5


def test_majority_is_the_training_majority() -> None:
    index = make_index(200)
    train, test = index.targets(index.select("grouped", "train")), index.targets(index.select("grouped", "test"))
    row = controls(index, control_features(noise(200)), "grouped", resamples=20)[0]
    assert row["name"] == "majority"
    assert row["accuracy"]["value"] == (test == np.bincount(train).argmax()).mean()
    assert row["balanced_accuracy"]["value"] == 0.25


def test_controls_are_fitted_on_train_alone() -> None:
    """Each test picture's twin, labelled alike, is in val: whoever looked at val would score 1."""
    index, rng = make_index(400), np.random.default_rng(3)
    x = rng.normal(size=(400, 21)).astype(np.float32)
    y = index.targets(range(400))
    test, val = (np.array(index.select("grouped", split)) for split in ("test", "val"))
    for k in range(4):
        a, b = test[y[test] == k], val[y[val] == k]
        x[b[: len(a)]] = x[a[: len(b)]]
    found = by_name(controls(index, Features(x, x), "grouped", resamples=20))
    assert found["colour, 1-NN"]["accuracy"]["value"] < 0.5


def test_source_controls_appear_only_where_sources_are_pooled() -> None:
    assert not any(row["asks"] == "source" for row in controls(make_index(80), _random(80), "grouped", resamples=20))


def test_source_in_the_ring_is_found_also_within_shared_classes() -> None:
    count = 400
    index = make_index(count, ("deepapl", "pbc"), "blood-cells")
    rows = tuple(row for row in index.rows if not (row.source == "pbc" and row.label == "blast"))
    index = Index(index.folder, index.data, index.task, rows, {})
    features = _random(len(rows))
    features.ring[:] += 9 * np.array([row.source == "pbc" for row in rows])[:, None]
    found = by_name(controls(index, features, "grouped", resamples=20))
    for how in ("1-NN", "LDA"):
        everything, shared = found[f"source from ring, {how}"], found[f"source from ring, {how}, shared classes only"]
        assert everything["classes"] == shared["classes"] == 2
        assert everything["balanced_accuracy"]["value"] == shared["balanced_accuracy"]["value"] == 1.0
        blasts = sum(row.label == "blast" for row in rows if row.grouped == "test")
        assert blasts > 0 and shared["n"] == everything["n"] - blasts
    per_source = found["colour, LDA"]["operating_points"][0]["per_source"]
    assert per_source["pbc"]["auroc"] is None and per_source["deepapl"]["auroc"] is not None


def test_burnt_in_mark_is_covered_and_missed() -> None:
    """A network that reads only the mark must fall to chance once it is covered."""
    index, pixels = make_index(100), noise(100)
    left, top, _, _ = SOURCES["taleqani"].burnt_in
    y, x = round(top * PX) + 1, round(left * PX) + 1
    pixels[:, y : y + 4, x : x + 4] = (60 * index.targets(range(100))[:, None, None, None]).astype(np.uint8)

    def reader(chosen: np.ndarray) -> np.ndarray:
        level = chosen[:, y : y + 4, x : x + 4].mean((1, 2, 3))
        return -np.abs(level[:, None] - 60 * np.arange(4)[None]).astype(np.float32)

    test = index.select("grouped", "test")
    logits = reader(pixels[test])
    row = burnt_in_control(reader, logits, index, pixels, test, resamples=100)
    assert row is not None and row["name"] == "network, burnt-in mark blanked"
    assert row["macro_f1"]["value"] < 0.4
    assert row["macro_f1_difference_pp"]["high"] < -40
    blind = burnt_in_control(lambda chosen: logits, logits, index, pixels, test, resamples=20)
    assert blind is not None and blind["macro_f1_difference_pp"]["value"] == 0


def test_sources_without_a_mark_have_no_such_control() -> None:
    index = make_index(40, ("deepapl",), "blood-cells")
    test = index.select("grouped", "test")
    logits = np.zeros((len(test), 10), np.float32)
    assert burnt_in_control(lambda x: pytest.fail("not needed"), logits, index, noise(40), test) is None


def _random(count: int) -> Features:
    x = np.random.default_rng(7).normal(size=(2, count, 21)).astype(np.float32)
    return Features(x[0], x[1])
