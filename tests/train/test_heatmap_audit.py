"""A run's explanations are measured on its test pictures, and the report shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from train.cli import main
from train.heatmap_audit import by_turns
from train.index import read_index
from train.report import build_report
from train.run_folder import read_info


def test_measured_written_and_reported(
    rendered_run: Path, rendered_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(rendered_run, run)
    assert main(["audit-heatmaps", str(run), "--index", str(rendered_index), "--pictures", "6", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = read_info(run)["heatmaps"]
    assert said == found and 2 <= found["n"] <= 6
    own, *_ = found["ways"].values()
    assert {"stain darkness", "centre Gaussian", "random"} == set(list(found["ways"])[1:])
    assert own["spearman"]["value"] == pytest.approx(1) and own["overlap"]["value"] == pytest.approx(1)
    assert found["ways"]["stain darkness"]["beats_darkness"]["value"] == 0
    assert found["ways"]["stain darkness"]["top_share"]["value"] > found["ways"]["random"]["top_share"]["value"]
    assert own["spearman"]["n"] == found["n"]
    for row in found["ways"].values():
        assert all(-1 <= row[key]["low"] <= row[key]["value"] <= row[key]["high"] <= 1.001 for key in row if key != "n")
    all_anew = list(found["sanity"].values())[-1]
    assert 0 <= all_anew["flat"] < 1
    own, dark = all_anew["spearman"].values()
    assert dark["value"] == pytest.approx(1) and own["value"] < 0.8
    assert own["n"] == round((1 - all_anew["flat"]) * found["n"])
    page = build_report({str(run): read_info(run)}, [rendered_index])
    assert "Where the heat lies, beside maps that ask no network" in page and "classifier and the last 25%" in page
    assert f"python -m train audit-heatmaps {run}" in page


def test_what_is_refused(rendered_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit-heatmaps", str(rendered_run), "--pictures", "1"]) == 2
    assert main(["audit-heatmaps", str(rendered_run / "nothing")]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["audit-heatmaps", str(rendered_run), "--method", "tea-leaves"])
    assert "invalid choice" in capsys.readouterr().err


def test_classes_come_by_turns(rendered_index: Path) -> None:
    index = read_index(rendered_index)
    numbers = by_turns(index, range(len(index.rows)))
    assert sorted(numbers) == list(range(len(index.rows)))
    first = [index.rows[number].label for number in numbers[: len(index.task.labels)]]
    assert first == list(index.task.labels)
