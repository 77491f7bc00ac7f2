"""Sweep: every target as a bundle, resumed after a kill, the same bytes again, and a table that hides nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime.bundle import open_bundle
from export.cli import main
from export.errors import ExportError
from export.recipes import TARGETS, Recipe, parse_recipe
from export.sweep import DEGRADED, NOT_MADE, PASSED, Settings, _drawn, _kept, sweep
from export.sweep_table import HEAD, pareto, read_sweep, state_table, sweep_report
from export.to_tflite import CONVERTERS
from train.run_folder import Run, read_run

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["onnx-fp32", "tflite-int8", "onnx-int8-trt", "openvino-int8"]
SETTINGS = Settings(None, 24, 0, 1, 5, False)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def killed(rendered_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that was killed when its second bundle had appeared."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    command = [sys.executable, "-m", "export", "sweep", str(rendered_run), "--out", str(out), "--recipes", *NAMES]
    started = subprocess.Popen(
        [*command, "--calibration-images", "24", "--rounds", "5"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while not (out / NAMES[1] / "manifest.json").exists() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert (out / NAMES[1] / "manifest.json").exists() and not (out / "sweep.json").exists()
    (out / ".tflite-int8.left").mkdir()  # what a kill in the middle of writing leaves
    (out / ".openvino-int8.left").mkdir()
    return out


@pytest.fixture(scope="module")
def found(killed: Path, rendered_run: Path) -> dict[str, object]:
    """The result of the same sweep, gone on with."""
    before = {name: _files(killed / name) for name in NAMES[:2]}
    lines: list[str] = []
    recipes = [parse_recipe(name) for name in NAMES]
    result = sweep(read_run(rendered_run), recipes, killed, SETTINGS, lines.append)
    assert [line.split(": ")[1].split(",")[0] for line in lines] == ["there already"] * 2 + ["made"] * 2
    assert before == {name: _files(killed / name) for name in NAMES[:2]}
    return result


def test_killed_sweep_goes_on(found: dict[str, object], killed: Path) -> None:
    assert [entry["recipe"] for entry in found["targets"]] == NAMES  # type: ignore[attr-defined]
    assert {entry.name for entry in killed.iterdir()} == {
        *NAMES, "sweep.json", "sweep.md", "sweep.png", ".tflite-int8.left"
    }  # fmt: skip
    assert json.loads((killed / "sweep.json").read_text()) == found
    for entry in found["targets"]:  # type: ignore[attr-defined]
        assert entry["state"] in (PASSED, DEGRADED) and entry["latency_ms"]["p50"] > 0 and entry["size_ratio"] > 0
        bundle = open_bundle((killed / entry["recipe"]).resolve())
        assert bundle.id == entry["bundle"] and bundle.manifest.recipe == entry["recipe"]
        assert bundle.manifest.parity_passed == (entry["state"] == PASSED) == (not entry["reason"])


def test_recipe_is_recorded_whole(found: dict[str, object], killed: Path) -> None:
    stated = open_bundle((killed / "tflite-int8").resolve()).manifest.raw["quantization"]
    assert parse_recipe(stated["recipe"]).options == stated["options"] and stated["target"] == "tflite-int8"
    assert "unknown" not in stated["tools"].values() and {"onnx2tf", "ai-edge-quantizer"} <= set(stated["tools"])


def test_made_again_in_another_process_it_is_the_same_bytes(
    found: dict[str, object], killed: Path, rendered_run: Path, tmp_path: Path
) -> None:
    """The first two were made in a process of their own, the others in this one, after them."""
    recipes = [parse_recipe(name) for name in (NAMES[3], NAMES[1])]
    sweep(read_run(rendered_run), recipes, tmp_path / "again", SETTINGS)
    for recipe in recipes:
        assert _files(tmp_path / "again" / recipe.slug) == _files(killed / recipe.slug), recipe.name


def test_other_settings_make_it_again(
    found: dict[str, object], killed: Path, rendered_run: Path, tmp_path: Path
) -> None:
    run, recipe = read_run(rendered_run), parse_recipe("tflite-int8")

    def kept(run: Run = run, recipe: Recipe = recipe, folder: Path = killed / "tflite-int8", **other: int) -> bool:
        settings = dataclasses.replace(SETTINGS, **other)
        return _kept(folder, run, recipe, lambda: _drawn(run, settings)) is not None

    assert kept()
    assert not kept(recipe=parse_recipe("tflite-int8:rounding=nearest"))
    assert not kept(seed=1) and not kept(images=12)
    assert not kept(images=36), "fewer pictures than were asked for and are there"
    for key, value in (("weights_sha256", "0" * 64), ("temperature", 9.0), ("operating_points", [])):
        assert not kept(dataclasses.replace(run, info=run.info | {key: value})), key
    damaged = tmp_path / "damaged"
    shutil.copytree(killed / "tflite-int8", damaged)
    model = bytearray((damaged / "model.tflite").read_bytes())
    model[len(model) // 2] ^= 1
    (damaged / "model.tflite").write_bytes(model)
    assert not kept(folder=damaged), "as large as it should be, and another file"


def test_what_cannot_be_made_is_a_row_and_the_others_go_on(
    rendered_run: Path, killed: Path, found: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        CONVERTERS, "litert-torch", dataclasses.replace(CONVERTERS["litert-torch"], version=lambda: None)
    )
    recipes = [parse_recipe("tflite-fp32:converter=litert-torch"), parse_recipe("onnx-fp32")]
    result = sweep(read_run(rendered_run), recipes, killed, SETTINGS)
    options = ["--out", str(killed), "--rounds", "2", "--calibration-images", "24", "--recipes", recipes[0].name]
    assert main(["sweep", str(rendered_run), *options]) == 1, "and the exit status says so"
    missing, made = result["targets"]
    assert missing["state"] == NOT_MADE and "not installed" in missing["reason"] and made["state"] == PASSED
    report = sweep_report(result)
    assert "- `tflite-fp32:converter=litert-torch`, not made: the converter litert-torch is not installed" in report
    rows = [line for line in report.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 1 + 2 and all(line.count("|") == len(HEAD) + 1 for line in rows)


def test_sweep_into_something_else_is_refused(rendered_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(rendered_run), "--out", str(rendered_run)]) == 2
    assert "is a bundle or a run" in capsys.readouterr().err
    assert main(["sweep", str(rendered_run), "--out", "x", "--recipes", "tflite-int4"]) == 2
    assert "no such target: got 'tflite-int4', expected tflite-int8" in capsys.readouterr().err


def test_what_cannot_work_is_told_before_anything_is_measured(
    rendered_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object, **__: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("export.pipeline.open_source", late)
    monkeypatch.setattr("export.sweep.open_source", late)
    lost = "tflite-int8:keep=classifer"
    for arguments in (
        ["sweep", str(rendered_run), "--out", str(tmp_path / "s"), "--recipes", "onnx-fp32", lost],
        ["pack", str(rendered_run), "--out", str(tmp_path / "b"), "--recipe", lost],
        ["debug", str(rendered_run), "--recipe", lost],
    ):
        assert main(arguments) == 2
        assert "no such layer: got classifer, expected such as classifier" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "out")
    assert main(["sweep", str(rendered_run), "--out", inside]) == 1
    assert "cannot be made" in capsys.readouterr().err
    (tmp_path / "full" / "onnx-fp32").mkdir(parents=True)
    (tmp_path / "full" / "onnx-fp32" / "thesis.tex").write_text("years of work")
    assert main(["sweep", str(rendered_run), "--out", str(tmp_path / "full")]) == 1
    assert "is not a bundle and will not be replaced" in capsys.readouterr().err
    assert main(["pack", str(rendered_run), "--out", inside, "--recipe", "tflite-int8"]) == 1
    assert "cannot be made" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["pack", str(rendered_run), "--out", ".", "--force", "--recipe", "tflite-int8"]) == 1
    assert "has no name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", '{"backbone": "b", "task": "t", "input_px": 9, "targets": [{}]}', "\x00"]
)
def test_damaged_result_of_a_sweep_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ExportError, match="not what a sweep found"):
        read_sweep(tmp_path / "a.json")


def _entry(recipe: str, f1: float, size: int, speedup: float) -> dict[str, object]:
    return {"recipe": recipe, "macro_f1": {"value": f1}, "model_bytes": size, "speedup": {"value": speedup}}


def test_pareto_front_by_hand() -> None:
    entries = [
        _entry("full", 0.95, 100, 1.0),
        _entry("small", 0.94, 25, 3.0),
        _entry("beaten", 0.94, 30, 3.0),
        _entry("twin", 0.94, 25, 3.0),
        _entry("fast", 0.90, 50, 9.0),
        {"recipe": "not made", "state": NOT_MADE},
    ]
    assert pareto(entries) == ["full", "small", "twin", "fast"]


def test_targets_are_listed_with_what_became_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in TARGETS) and "Jetson" in listed
    assert main(["targets", "--json"]) == 0
    stated = json.loads(capsys.readouterr().out)
    assert [row["target"] for row in stated["targets"]] == list(TARGETS)
    sweeps = [{"backbone": "b", "task": "t", "input_px": 9, "targets": [{"recipe": "onnx-fp32", "state": NOT_MADE}]}]
    head, rows = state_table(sweeps, ["onnx-fp32", "onnx-int8"])
    assert list(head) == ["target", "b 9 px"] and rows == [["onnx-fp32", NOT_MADE], ["onnx-int8", "-"]]
