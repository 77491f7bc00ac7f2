"""External sets: the right pictures, the right classes, and none that the network has seen."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from train import external
from train.errors import DataError
from train.external import evaluate_external
from train.index import Index
from train.run_folder import Run, read_info
from train.tables import external_report

from .conftest import READS_CELL

Crops = Callable[..., Index]
ReadBy = Callable[..., Run]
THREE = ("blast", "lymphocyte", "monocyte")


class OneMore(nn.Module):
    """A `Reader` of two classes with a third that always stands between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = READS_CELL

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = self.reader(pixels)
        third = logits.max(1).values + torch.where(torch.arange(len(logits)) % 4 == 0, 1.0, -1.0)
        logits = torch.cat([logits, third[:, None]], 1)
        return logits, logits[:, None, None]


@pytest.fixture
def trained(crops: Crops, read_by: ReadBy) -> tuple[Run, Index]:
    index = crops("a")
    return read_by(index, READS_CELL), index


def test_other_pictures_of_the_same_classes(trained: tuple[Run, Index], crops: Crops) -> None:
    run, index = trained
    other = crops("b", count=5, seed=1)
    found = evaluate_external(run, index, other, resamples=50)
    assert found["n"] == 10 and found["split"] == "all" and found["test"]["macro_f1"]["value"] == 1
    assert found["sources"] == {"rendered": {"pictures": 10, "groups": 10, "trained_on": True}}
    assert found["shared_classes"] == ["blast", "lymphocyte"] and found["absent_classes"] == []
    (point,) = found["operating_points"]
    assert point["threshold"] == 0.5 and point["test"]["auroc"]["value"] == 1
    assert {row["name"] for row in found["controls"]} >= {"majority", "colour, LDA", "background ring, 1-NN"}
    assert found["controls"][1]["macro_f1"]["value"] == 1 and found["controls"][1]["n"] == 10  # colour tells these two
    assert len(found["per_group"]["rows"]) == 10
    key = f"b@{other.sha256[:12]}"
    assert read_info(run.folder)["external"] == {key: json.loads(json.dumps(found, allow_nan=False))}


def test_several_external_sets_stand_side_by_side(trained: tuple[Run, Index], crops: Crops) -> None:
    run, index = trained
    other = crops("b", seed=1)
    evaluate_external(run, index, other, resamples=20)
    again = dataclasses.replace(run, info=read_info(run.folder))
    part = evaluate_external(again, index, other, "test", resamples=20)
    assert part["n"] == 8 and part["split"] == "test"
    key = f"b@{other.sha256[:12]}"
    assert set(read_info(run.folder)["external"]) == {key, f"{key}:test"}


def test_classes_that_are_not_shared(crops: Crops, read_by: ReadBy, tmp_path: Path) -> None:
    """A third class competes, unless the view is restricted; a class the network does not have is left out."""
    data = crops("three", labels=("blast", "lymphocyte"))
    index = dataclasses.replace(data, task=crops_task(THREE))
    run = read_by(index, OneMore())
    other = crops("b", seed=1)
    rows = tuple(dataclasses.replace(row, label="basophil") if i == 0 else row for i, row in enumerate(other.rows))
    other = dataclasses.replace(other, rows=rows)
    found = evaluate_external(run, index, other, resamples=20)
    assert found["n"] == 15 and found["classes_left_out"] == {"basophil": 1}
    assert found["absent_classes"] == ["monocyte"]
    assert found["test"]["accuracy"]["value"] == pytest.approx(11 / 15)  # every fourth is called a monocyte
    assert found["restricted"]["accuracy"]["value"] == 1 and len(found["restricted"]["confusion"]) == 2
    assert found["test"]["per_class"]["monocyte"]["support"] == 0
    text = external_report(run.info, found)
    assert "absent, but competing: monocyte" in text and "basophil (1)" in text


def crops_task(labels: tuple[str, ...]):
    from train.tasks import TASKS

    return TASKS["blood-cells"].restricted(labels)


def test_pictures_that_were_trained_or_tuned_on_are_refused(trained: tuple[Run, Index]) -> None:
    run, index = trained
    with pytest.raises(DataError, match=r"not external.*8 of 16 pictures, first .*png.*--split"):
        evaluate_external(run, index, index)
    kept_out = evaluate_external(run, index, index, "test", resamples=20)  # nothing of it was seen
    assert kept_out["n"] == 8
    with pytest.raises(DataError, match=r"not external.*4 of 4"):
        evaluate_external(run, index, index, "val")


@pytest.mark.parametrize("sides", [("all_idb1", "all_idb2"), ("all_idb2", "all_idb1")])
def test_crops_of_what_was_trained_on_are_refused(
    trained: tuple[Run, Index], crops: Crops, sides: tuple[str, str]
) -> None:
    run, index = trained
    home, abroad = (
        dataclasses.replace(one, rows=tuple(dataclasses.replace(row, source=source) for row in one.rows))
        for one, source in zip((index, crops("b", seed=1)), sides, strict=True)
    )
    with pytest.raises(DataError, match="show the same cells"):
        evaluate_external(run, home, abroad, resamples=20)


def test_known_patients_and_near_duplicates_are_counted(trained: tuple[Run, Index], crops: Crops) -> None:
    run, index = trained
    other = crops("b", count=3, seed=1)
    seen = next(row for row in index.rows if row.grouped == "train")
    rows = [dataclasses.replace(row, phash=f"{i + 1:x}" * 64) for i, row in enumerate(other.rows)]
    rows[0] = dataclasses.replace(rows[0], group=seen.group, phash=seen.phash)
    index = dataclasses.replace(
        index,
        rows=tuple(row if row is seen else dataclasses.replace(row, phash="f0" * 32) for row in index.rows),
    )
    found = evaluate_external(run, index, dataclasses.replace(other, rows=tuple(rows)), resamples=20)
    assert found["known"] == {"near_duplicates": 1, "patients": 1}


def test_too_few_shared_classes(trained: tuple[Run, Index], crops: Crops) -> None:
    run, index = trained
    other = crops("b", seed=1)
    rows = tuple(dataclasses.replace(row, label="basophil") if row.label == "blast" else row for row in other.rows)
    with pytest.raises(DataError, match=r"too few classes.*got lymphocyte.*at least two of blast, lymphocyte"):
        evaluate_external(run, index, dataclasses.replace(other, rows=rows))


def test_command(rendered_run: Path, rendered_index: Path, tmp_path: Path, capsys) -> None:
    folder = shutil.copytree(rendered_run, tmp_path / "run")
    parser = argparse.ArgumentParser()
    external.add_arguments(parser)
    external.run(parser.parse_args([str(folder), str(rendered_index), "--split", "test"]))
    text = capsys.readouterr().out
    info = read_info(folder)
    (found,) = info["external"].values()
    assert found["test"] == info["metrics"]["test"]  # its own test split, by another way
    assert found["controls"] == info["metrics"]["controls"][: len(found["controls"])]
    for words in ("network, shared classes only", "fitted where the run was trained", "malignant: AUROC", "Benign"):
        assert words in text
    with pytest.raises(DataError, match="not external"):
        external.run(parser.parse_args([str(folder), str(rendered_index)]))
