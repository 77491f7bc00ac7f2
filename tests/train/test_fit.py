"""Fitting learns, can be killed and goes on to the same weights, and refuses what it cannot do in one line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from train import fit as fit_module
from train.cli import main
from train.errors import DataError
from train.fit import FitConfig
from train.run_folder import read_run

SHORT = ["--epochs", "3", "--batch", "16", "--small-px", "64", "--accelerator", "cpu", "--weights", "none"]


@pytest.fixture(scope="module")
def small_index(rendered_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "index"
    options = ["--task", "all-subtypes", "--data", str(rendered_data), "--limit", "14"]
    assert main(["index", *options, "--out", str(folder)]) == 0
    assert main(["split", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def straight(small_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "straight"
    assert main(["fit", str(small_index), *SHORT, "--out", str(folder)]) == 0
    return folder


def test_run_folder_is_whole(straight: Path, small_index: Path) -> None:
    run = read_run(straight)
    assert run.protocol == "grouped" and run.input_px == 224 and run.info["config"]["epochs"] == 3
    with (straight / "curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["px"] for row in rows] == ["64", "224", "224"]
    assert (straight / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (straight / "checkpoint").exists()


def test_stopped_run_resumes_to_the_same_weights(
    straight: Path, small_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCutError(Exception):
        pass

    train_epoch = fit_module._train_epoch

    def cut(*args: object) -> float:
        if args[7] == 2:  # the third epoch
            raise PowerCutError
        return train_epoch(*args)  # type: ignore[arg-type]

    folder = tmp_path / "resumed"
    monkeypatch.setattr(fit_module, "_train_epoch", cut)
    with pytest.raises(PowerCutError):
        main(["fit", str(small_index), *SHORT, "--out", str(folder)])
    assert not (folder / "weights.safetensors").exists()
    monkeypatch.undo()

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert main(["fit", str(small_index), *SHORT, "--out", str(folder)]) == 0
    wanted, found = (load_file(run / "weights.safetensors") for run in (straight, folder))
    assert all((wanted[name] == found[name]).all() for name in wanted)

    status = main(["fit", str(small_index), *SHORT, "--seed", "5", "--out", str(other)])
    assert status == 1, "a checkpoint of another run is not gone on with"


def test_weights_and_description_belong_together(straight: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"weights_sha256": "0" * 64}))
    with pytest.raises(DataError, match="do not belong together"):
        read_run(copy)
    (copy / "run.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_run(copy)


def test_nonsense_is_answered_in_one_line(
    small_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "x"), "--accelerator", "cpu"]
    assert main(["fit", str(small_index), "--epochs", "1", "--head-epochs", "1", *out]) == 2
    assert main(["fit", str(tmp_path / "no-index"), *out]) == 1
    assert main(["fit", str(small_index), "--weights", str(tmp_path / "none.safetensors"), *out]) == 1
    assert main(["fit", str(small_index), "--weights", "none", "--batch", "500", *out]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 4


def test_schedule() -> None:
    config = FitConfig(epochs=10, head_epochs=1, lr=1e-3, head_lr=2e-3, small_px=160)
    assert config.learning_rate(0.5) == 2e-3
    assert config.learning_rate(1.0) == pytest.approx(1e-4)
    assert config.learning_rate(2.0) == pytest.approx(0.97e-3, rel=0.01)
    assert config.learning_rate(9.99) < 1e-6
    assert [config.px(epoch, 224) for epoch in (0, 4, 5, 9)] == [160, 160, 224, 224]
