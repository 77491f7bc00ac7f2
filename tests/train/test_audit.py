"""The audit finds the network that reads the background, and clears the one that reads the cell."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.preprocess import Preprocess
from train import audit
from train.audit import audit_run, background_colour, choose_donors, stain_of_groups, white_cells
from train.errors import DataError
from train.index import Index
from train.pixels import load_pixels
from train.run_folder import Run, read_info
from train.tables import audit_report
from train.treatments import TREATMENTS, optical_density

from .conftest import READS_BACKGROUND, READS_CELL, TWO

Crops = Callable[..., Index]
ReadBy = Callable[..., Run]


def by_name(found: dict) -> dict[str, dict]:
    return {row["name"]: row for row in found["rows"]}


def test_network_that_reads_the_cell(crops: Crops, read_by: ReadBy) -> None:
    index = crops("a")
    found = audit_run(read_by(index, READS_CELL), index, resamples=50)
    rows = by_name(found)
    assert found["n"] == found["cells_found"] == 8 and found["as_is"]["macro_f1"]["value"] == 1
    for name in ("background removed", "background swapped"):
        assert rows[name]["macro_f1"]["value"] == 1 and rows[name]["changed"] == 8
        assert rows[name]["macro_f1_difference_pp"] == {"value": 0, "low": 0, "high": 0}
    assert rows["cell removed"]["macro_f1"]["value"] == pytest.approx(1 / 3)  # one class for all
    assert rows["haematoxylin x1.60"]["macro_f1"]["value"] < 1  # it reads a grey level


def test_network_that_reads_the_background(crops: Crops, read_by: ReadBy) -> None:
    index = crops("a")
    found = audit_run(read_by(index, READS_BACKGROUND), index, resamples=50)
    rows = by_name(found)
    assert found["as_is"]["macro_f1"]["value"] == 1
    assert rows["background removed"]["macro_f1"]["value"] == pytest.approx(1 / 3)
    assert rows["background swapped"]["macro_f1"]["value"] == 0  # it follows the donor, of the other class
    assert rows["background swapped"]["macro_f1_difference_pp"]["value"] == -100
    assert rows["background swapped"]["operating_points"][0]["test"]["auroc"]["value"] == 0
    assert rows["cell removed"]["macro_f1"]["value"] == 1
    assert found["worst"]["name"] == "background swapped"
    assert found["without_effect"] == ["burnt-in mark blanked"]
    assert {row["name"] for row in found["rows"]} | set(found["without_effect"]) == {t.name for t in TREATMENTS}


def test_result_goes_into_the_run_and_is_the_same_again(crops: Crops, read_by: ReadBy) -> None:
    index = crops("a")
    run = read_by(index, READS_CELL)
    found = audit_run(run, index, resamples=20)
    assert read_info(run.folder)["audit"] == json.loads(json.dumps(found, allow_nan=False))
    assert read_info(run.folder)["metrics"] == run.info["metrics"]
    assert audit_run(run, index, resamples=20) == found
    text = audit_report(run.info, found)
    assert "worst case of what should hold" in text and "8 of 8 pictures" in text
    for row in found["rows"]:
        assert row["name"] in text


def test_recipes_are_chosen_on_the_validation_split(crops: Crops, read_by: ReadBy) -> None:
    index = crops("a")
    run = read_by(index, READS_CELL)
    found = audit_run(run, index, "val", resamples=20)
    info = read_info(run.folder)
    assert "audit" not in info and info["audit_val"]["n"] == found["n"] == len(index.select("grouped", "val")) == 4
    assert "4 val pictures of 4 groups" in audit_report(run.info, found)


def test_pictures_are_treated_before_they_are_standardised(crops: Crops, read_by: ReadBy) -> None:
    index = crops("a")
    neutral = Preprocess(224, background="neutral-cell")
    found = audit_run(read_by(index, READS_BACKGROUND, neutral), index, resamples=20)
    rows = by_name(found)
    assert rows["background swapped"]["changed"] == 8 and rows["channels GBR"]["changed"] == 8
    # whatever background comes, the network sees the neutral one: one answer for all
    for name in ("background swapped", "brighter"):
        assert rows[name]["macro_f1"]["value"] == pytest.approx(1 / 3)


def test_real_network_on_rendered_fields(rendered_run: Path, tmp_path: Path, capsys) -> None:
    folder = shutil.copytree(rendered_run, tmp_path / "run")
    parser = argparse.ArgumentParser()
    audit.add_arguments(parser)
    audit.run(parser.parse_args([str(folder), "--json"]))
    found, info = json.loads(capsys.readouterr().out), read_info(folder)
    assert found == info["audit"]
    assert found["as_is"]["macro_f1"] == info["metrics"]["test"]["macro_f1"]
    assert found["as_is"]["operating_points"] == info["metrics"]["operating_points"]
    worst = min(row["macro_f1"]["value"] for row in found["rows"] if row["expected"] == "holds")
    assert found["worst"]["macro_f1"]["value"] == worst
    for row in found["rows"]:
        difference = 100 * (row["macro_f1"]["value"] - found["as_is"]["macro_f1"]["value"])
        assert row["macro_f1_difference_pp"]["value"] == pytest.approx(difference)


def test_cells_are_found_and_the_common_background_is_between_the_two(crops: Crops) -> None:
    index = crops("a")
    pixels, test = load_pixels(index), index.select("grouped", "test")
    masks = white_cells("cell", pixels, test)
    assert masks.shape == (8, 224, 224) and masks[:, 112, 112].all() and not masks[:, :40].any()
    two = np.concatenate([pixels[test[0]], pixels[test[1]]], axis=1)[None, ::2, ::2]
    fields = white_cells("field", two, [0])
    assert fields.shape == (1, 112, 224) and fields[0, 56, 56] and fields[0, 56, 168] and not fields[0, :, 112].any()
    colour = background_colour(pixels, test, masks)
    assert np.abs(colour.astype(int) - (225, 222, 228)).max() <= 12


def test_donors_are_of_another_class_and_another_source_where_there_are_two(crops: Crops) -> None:
    index = crops("a")
    test = index.select("grouped", "test")
    masks = np.zeros((8, 4, 4), bool)
    masks[:, 1:3, 1:3] = True
    label = np.array([index.rows[i].label for i in test])
    donors = choose_donors(index, test, masks)
    assert (label[donors] != label).all()
    assert np.array_equal(donors, choose_donors(index, test, masks))
    numbers = {number: "pbc" if place % 2 else "deepapl" for place, number in enumerate(test)}
    rows = tuple(dataclasses.replace(row, source=numbers.get(i, row.source)) for i, row in enumerate(index.rows))
    pooled = dataclasses.replace(index, rows=rows)
    source = np.array([pooled.rows[i].source for i in test])
    donors = choose_donors(pooled, test, masks)
    assert (source[donors] != source).all() and (label[donors] != label).all()
    masks[label == TWO[1]] = False  # no cell: nobody's donor
    donors = choose_donors(index, test, masks)
    assert np.array_equal(donors[label == TWO[0]], np.flatnonzero(label == TWO[0]))
    assert (label[donors[label == TWO[1]]] == TWO[0]).all()


def test_stain_is_that_of_the_whole_group(crops: Crops) -> None:
    index = crops("a")
    pixels, test = load_pixels(index), index.select("grouped", "test")
    rows = tuple(dataclasses.replace(row, group="pair") if i in test[:2] else row for i, row in enumerate(index.rows))
    found = stain_of_groups(dataclasses.replace(index, rows=rows), pixels, test)
    both = optical_density(pixels[test[:2]]).reshape(-1, 3)
    assert np.allclose(found[0], [both.mean(0), both.std(0)], atol=1e-4) and np.array_equal(found[0], found[1])
    third = optical_density(pixels[test[2]]).reshape(-1, 3)
    assert np.allclose(found[2], [third.mean(0), third.std(0)], atol=1e-4)


def test_run_must_be_evaluated(crops: Crops, read_by: ReadBy) -> None:
    index = crops("a")
    run = read_by(index, READS_CELL)
    del run.info["metrics"]
    with pytest.raises(DataError, match=r"not evaluated.*python -m train evaluate"):
        audit_run(run, index)
