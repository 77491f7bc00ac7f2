"""Explain: what stands in the files is what the methods say, and every wrong wish is one clear line."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edge_runtime.errors import UsageError
from edge_runtime.preprocess import Preprocess, decode, prepare
from train import attribution, explain
from train.answers import Wish, ask, between_seeds, require_class_and_layer
from train.attribution import METHODS, Question
from train.backbones import BACKBONES
from train.cli import main
from train.contact_sheet import NOTE, TILE_PX, Row, contact_sheet, shortened
from train.metrics import probabilities
from train.network import SelfExplaining
from train.run_folder import Run, read_run, write_run
from train.tasks import TASKS

from .conftest import TWO, Reader, draw_crops

PX = 64
SAMPLES = 24
FAST = ["--method", "class-map", "gradcam"]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "LIME_SAMPLES", SAMPLES)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a picture in either of two folders; both have the same name."""
    draw_crops(tmp_path / "smears", 1, seed=0)
    return tmp_path / "smears"


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes a run of a small network: ``make_run(name, seed, labels, preprocess)``."""

    def make(
        name: str = "run", seed: int = 0, labels: tuple[str, ...] = TWO, preprocess: Preprocess | None = None
    ) -> Path:
        preprocess = preprocess or Preprocess(PX)
        torch.manual_seed(seed)
        network = SelfExplaining(BACKBONES["custom"], len(labels)).eval()
        nn.init.normal_(network.classifier.weight)
        info = {
            "format": "leukoscope-run",
            "version": 1,
            "task": "blood-cells",
            "labels": [label for label in TASKS["blood-cells"].labels if label in labels],
            "backbone": "custom",
            "input_px": preprocess.input_px,
            "preprocess": dataclasses.asdict(preprocess),
            "protocol": "grouped",
            "index": "nowhere",
            "data_sha256": "0" * 64,
            "temperature": 3.0,
        }
        write_run(tmp_path / name, network, info)
        return tmp_path / name

    return make


MakeRun = Callable[..., Path]


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "explanations.json").read_text(encoding="utf-8"))


def test_files_hold_what_the_methods_say(make_run: MakeRun, pictures: Path, tmp_path: Path, capsys) -> None:
    folder, out = make_run(), tmp_path / "out"
    assert main(["explain", str(folder), str(pictures), "--out", str(out), "--method", *METHODS, "--seeds", "2"]) == 0
    printed = capsys.readouterr()
    assert NOTE in printed.out and not printed.err
    assert {file.name for file in out.iterdir()} == {"0000.npz", "0000-2.npz", "contact-sheet.png", "explanations.json"}
    run, found = read_run(folder), result(out)
    assert found["note"] == NOTE and found["errors"] == [] and found["sheets"] == ["contact-sheet.png"]
    assert [entry["method"] for entry in found["explanations"]] == 2 * list(METHODS)
    for number, (label, name) in enumerate(zip(TWO, ("0000.npz", "0000-2.npz"), strict=True)):
        path = pictures / "rendered" / label / "0000.png"
        pixels = prepare(decode(path), run.preprocess)
        arrays = np.load(out / name)  # without pickle
        assert set(arrays) == {f"run/{key}" for key in ("pixels", "logits", "labels", *METHODS)}
        assert np.array_equal(arrays["run/pixels"], pixels) and arrays["run/labels"].tolist() == list(run.task.labels)
        with torch.inference_mode():
            logits = run.network(torch.from_numpy(pixels)[None])[0].numpy()
        assert np.allclose(arrays["run/logits"], logits[0], atol=1e-5)
        k = int(logits.argmax())
        p = probabilities(logits, 3.0)[0]
        for entry in found["explanations"][number * len(METHODS) : (number + 1) * len(METHODS)]:
            method = METHODS[entry["method"]]
            heat = arrays[entry["key"]]
            assert heat.dtype == np.float32 and np.isfinite(heat).all() and 0 <= heat.min() <= heat.max() <= 1
            assert np.allclose(heat, method.explain(Question(run.network, pixels, k)), atol=1e-5)
            assert entry["picture"] == str(path) and entry["file"] == name and entry["run"] == "run"
            assert entry["class"] == entry["predicted"] == run.task.labels[k]
            assert entry["probability"] == pytest.approx(p[k], abs=1e-5)
            assert entry["passes"] == method.passes and entry["duration_ms"] > 0
            assert entry["layer"] == ("last feature map" if "cam" in entry["method"] else None)
            assert entry["seed"] == (0 if entry["method"] == "lime" else None)
            assert (entry["stability"] is not None) == (entry["method"] == "lime")
            assert entry["method"] in printed.out


def test_lime_is_the_same_again_and_its_stability_is_reported(
    make_run: MakeRun, pictures: Path, tmp_path: Path, capsys
) -> None:
    folder, heats, stabilities = make_run(), [], []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        out = tmp_path / name
        asked = ["--method", "lime", "--seed", str(seed), "--seeds", "3", "--json"]
        assert main(["explain", str(folder), str(pictures), "--out", str(out), *asked]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == result(out)
        heats.append([(out / file).read_bytes() for file in ("0000.npz", "0000-2.npz")])
        stabilities.append([entry["stability"] for entry in printed["explanations"]])
        assert {entry["seed"] for entry in printed["explanations"]} == {seed}
    assert heats[0] == heats[1] and heats[0] != heats[2]
    assert stabilities[0] == stabilities[1] != stabilities[2]
    run = read_run(folder)
    pixels = prepare(decode(pictures / "rendered" / TWO[0] / "0000.png"), run.preprocess)
    k = run.task.labels.index(printed["explanations"][0]["class"])
    maps = [METHODS["lime"].explain(Question(run.network, pixels, k, seed=seed)) for seed in (8, 9, 10)]
    assert stabilities[2][0] == pytest.approx(between_seeds(maps), abs=1e-6)


def test_stability_of_maps_that_are_known() -> None:
    ramp = np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(28, 28)
    assert between_seeds([ramp]) is None
    assert between_seeds([ramp, ramp, ramp]) == pytest.approx({"seeds": 3, "spearman": 1, "overlap": 1})
    opposite = between_seeds([ramp, 1 - ramp])
    assert opposite["spearman"] == pytest.approx(-1) and opposite["overlap"] == pytest.approx(0, abs=0.01)
    mixed = between_seeds([ramp, ramp, 1 - ramp])  # one pair of three agrees
    assert mixed["spearman"] == pytest.approx(-1 / 3) and mixed["overlap"] == pytest.approx(1 / 3, abs=0.01)


def test_flat_maps_agree_with_none(make_run: MakeRun, pictures: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    flat, ramp = np.zeros((28, 28), np.float32), np.linspace(0, 1, 784, dtype=np.float32).reshape(28, 28)
    assert between_seeds([flat, ramp]) == between_seeds([flat, flat]) == {"seeds": 2, "spearman": None, "overlap": None}
    assert between_seeds([ramp, flat, ramp]) == pytest.approx({"seeds": 3, "spearman": 1, "overlap": 1})
    silent = dataclasses.replace(METHODS["lime"], explain=lambda asked: np.zeros(asked.pixels.shape[:2], np.float32))
    monkeypatch.setitem(METHODS, "lime", silent)
    out = tmp_path / "out"
    assert main(["explain", str(make_run()), str(pictures), "--out", str(out), "--method", "lime"]) == 0
    assert result(out)["explanations"][0]["stability"]["spearman"] is None
    assert capsys.readouterr().err == ""


def test_several_runs_share_a_sheet_each_with_its_own_preprocessing(
    make_run: MakeRun, pictures: Path, tmp_path: Path
) -> None:
    three = (*TWO, "monocyte")
    runs = [
        make_run("one/run"),
        make_run("two/run", 1, preprocess=Preprocess(96, background="neutral-cell")),
        make_run("other", 2, three),
    ]
    out = tmp_path / "out"
    beside = ["--beside", str(runs[1]), "--beside", str(runs[2])]
    assert main(["explain", str(runs[0]), str(pictures), *beside, "--out", str(out), *FAST]) == 0
    assert list(result(out)["runs"]) == ["run", "run-2", "other"]
    arrays = np.load(out / "0000.npz")
    for key, folder in zip(("run", "run-2", "other"), runs, strict=True):
        expected = prepare(decode(pictures / "rendered" / TWO[0] / "0000.png"), read_run(folder).preprocess)
        assert np.array_equal(arrays[f"{key}/pixels"], expected)
    assert arrays["other/labels"].shape == (3,)
    assert not np.array_equal(arrays["run/gradcam"], arrays["other/gradcam"])
    sheet = Image.open(out / "contact-sheet.png")
    rows, columns = divmod(sheet.height, TILE_PX)[0], divmod(sheet.width, TILE_PX)[0]
    assert (rows, columns) == (6, 4)  # two pictures of three runs; labels, picture and two methods


def test_any_class_may_be_asked_for(make_run: MakeRun, pictures: Path, tmp_path: Path) -> None:
    folder = make_run()
    heats, p = {}, {}
    for label in TWO:
        out = tmp_path / label
        assert main(["explain", str(folder), str(pictures), "--out", str(out), "--class", label, *FAST]) == 0
        first = result(out)["explanations"][0]
        assert first["class"] == label and first["predicted"] in TWO
        heats[label], p[label] = np.load(out / "0000.npz")["run/class-map"], first["probability"]
    assert sum(p.values()) == pytest.approx(1) and max(p, key=lambda label: p[label]) == first["predicted"]
    assert not np.allclose(heats[TWO[0]], heats[TWO[1]])


def test_any_layer_may_be_asked_for(make_run: MakeRun, pictures: Path, tmp_path: Path) -> None:
    folder, out = make_run(), tmp_path / "out"
    methods = ["class-map", "gradcam", "hirescam"]
    asked = ["--method", *methods, "--layer", "12"]
    assert main(["explain", str(folder), str(pictures), "--out", str(out), *asked]) == 0
    assert [entry["layer"] for entry in result(out)["explanations"]] == 2 * [None, "12", "12"]
    arrays = np.load(out / "0000.npz")
    assert arrays["run/class-map"].shape == arrays["run/gradcam"].shape == arrays["run/pixels"].shape[:2]
    assert np.abs(arrays["run/gradcam"] - arrays["run/hirescam"]).max() > 0.05


def test_heat_is_in_the_corner_that_the_network_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "LIME_SAMPLES", 400)
    pixels = np.random.default_rng(1).integers(200, 240, (PX, PX, 3), dtype=np.uint8)
    pixels[2, 2] = 0
    info = {"backbone": "custom", "input_px": PX, "protocol": "grouped"}
    reader = Reader((2, 3), channel=1, limit=100, sign=-1)
    run = Run(tmp_path, reader, TASKS["blood-cells"].restricted(TWO), info)  # type: ignore[arg-type]
    methods, done = ("occlusion", "integrated-gradients", "lime"), []
    wish = Wish(methods, seeds=2)
    said = ask(run, pixels, wish, lambda: done.append(1))
    assert len(done) == wish.questions == 4
    assert said.entries[0]["class"] == run.task.labels[0]
    for name in methods:
        heat = said.arrays[name]
        assert heat[2, 2] == 1 and heat[:24, :24].sum() > 0.7 * heat.sum()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--class", "eosinophil"], r"--class: not one of .*run: got eosinophil, expected lymphocyte, blast|blast, "),
        (["--layer", "77"], r"--layer: not one of .*run: got 77, expected 0, 1, "),
        (["--method", "class-map", "lime", "--layer", "12"], r"--layer is looked at by gradcam and hirescam only"),
        (["--method", "gradcam", "--seeds", "3"], r"--seeds is looked at by lime only: got gradcam"),
        (["--method", "gradcam", "--seed", "3"], r"--seed is looked at by lime only"),
        (["--seeds", "0"], r"--seeds: got 0, expected at least 1"),
        (["--seed", "-1"], r"--seed: got -1"),
        (["--method", "saliency"], r"invalid choice: 'saliency'"),
    ],
)
def test_wrong_wish_is_one_line_and_nothing_is_written(
    options: list[str], line: str, make_run: MakeRun, pictures: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    arguments = ["explain", str(make_run()), str(pictures), "--out", str(out), *options]
    try:
        status = main(arguments)
    except SystemExit as stopped:  # the parser's own
        status = stopped.code
    assert status == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and re.search(line, printed.err), printed.err
    assert not printed.out and not out.exists()


def test_empty_folder_and_folder_of_results_are_wrong_usage(
    make_run: MakeRun, pictures: Path, tmp_path: Path, capsys
) -> None:
    folder, empty = make_run(), tmp_path / "empty"
    empty.mkdir()
    assert main(["explain", str(folder), str(empty), "--out", str(tmp_path / "out")]) == 2
    assert "no pictures there" in capsys.readouterr().err
    arguments = ["explain", str(folder), str(pictures), "--out", str(pictures), *FAST]
    assert main(arguments) == 0
    before = (pictures / "contact-sheet.png").read_bytes()
    assert main(arguments) == 2  # it would explain its own sheet, and write over it
    assert "would be overwritten" in capsys.readouterr().err
    assert (pictures / "contact-sheet.png").read_bytes() == before


def test_bad_picture_is_named_and_the_others_go_on(make_run: MakeRun, pictures: Path, tmp_path: Path, capsys) -> None:
    bad, out = pictures / "rendered" / "bad.png", tmp_path / "out"
    bad.write_bytes(b"no picture")
    gone = tmp_path / "gone.png"
    arguments = ["explain", str(make_run()), str(gone), str(pictures), "--out", str(out), *FAST]
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"error: {gone}: no such file",
        f"error: {bad}: not a picture: expected JPEG, PNG, TIFF, BMP or WebP",
    ]
    found = result(out)
    assert [f"error: {error}" for error in found["errors"]] == lines
    assert len(found["explanations"]) == 4 and len(list(out.glob("*.npz"))) == 2

    nothing = tmp_path / "nothing"
    assert main(["explain", str(tmp_path / "run"), str(bad), "--out", str(nothing), *FAST]) == 1
    assert str(bad) in capsys.readouterr().err and not list(nothing.iterdir())


def test_place_that_cannot_be_written_is_known_before(
    make_run: MakeRun, pictures: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "ask", lambda *_: pytest.fail("asked a network"))
    out = tmp_path / "file"
    out.write_text("")
    assert main(["explain", str(make_run()), str(pictures), "--out", str(out), *FAST]) == 1
    assert "cannot be made" in capsys.readouterr().err
    if sys.platform == "linux":  # a folder that even root cannot write to
        assert main(["explain", str(tmp_path / "run"), str(pictures), "--out", "/proc", *FAST]) == 1
        assert "error: /proc: cannot be written: got " in capsys.readouterr().err


def test_result_vouches_only_for_arrays_that_it_describes(
    make_run: MakeRun, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = ["explain", str(make_run()), str(pictures), "--out", str(out), *FAST]
    assert main(arguments) == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "contact_sheet", interrupted)
    assert main(arguments) == 130
    assert not (out / "explanations.json").exists() and not list(out.glob(".*"))


def test_long_sheets_are_cut_into_pages(
    make_run: MakeRun, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "PAGE_ROWS", 1)
    out = tmp_path / "out"
    assert main(["explain", str(make_run()), str(pictures), "--out", str(out), *FAST]) == 0
    assert result(out)["sheets"] == ["contact-sheet.png", "contact-sheet-2.png"]
    assert {file.name for file in out.glob("*.png")} == {"contact-sheet.png", "contact-sheet-2.png"}


def test_sheets_of_an_earlier_run_are_removed(
    make_run: MakeRun, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "PAGE_ROWS", 1)
    out = tmp_path / "out"
    run, options = str(make_run()), ["--out", str(out), *FAST]
    assert main(["explain", run, str(pictures), *options]) == 0
    (out / "contact-sheet-of-mine.png").write_bytes(b"")
    assert main(["explain", run, str(pictures / "rendered" / TWO[0]), *options]) == 0
    assert result(out)["sheets"] == ["contact-sheet.png"]
    assert {file.name for file in out.glob("*.png")} == {"contact-sheet.png", "contact-sheet-of-mine.png"}


def test_results_among_the_pictures_are_not_explained(make_run: MakeRun, pictures: Path) -> None:
    out = pictures / "results"
    for _ in range(2):
        assert main(["explain", str(make_run()), str(pictures), "--out", str(out), *FAST]) == 0
        assert len(result(out)["explanations"]) == 2 * 2  # methods of two pictures


def test_a_wish_knows_no_command_line() -> None:
    for wrong, says in (({"seeds": 0}, "seeds: got 0"), ({"seed": -1}, "seed: got -1")):
        with pytest.raises(UsageError, match=f"^{says}"):
            Wish(("lime",), **wrong)
    run = Run(Path("run"), Reader((2, 3), 1, 1), TASKS["blood-cells"].restricted(TWO), {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^class: not one of run: got eosinophil"):
        require_class_and_layer(run, Wish(("class-map",), "eosinophil"))


def test_other_commands_do_not_wait_for_it() -> None:
    """The parser of every command holds this one's options; what it computes with comes when it runs."""
    program = (
        "import sys, train.explain as e, argparse; e.add_arguments(argparse.ArgumentParser()); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    loaded = set(done.stdout.split())
    late = {"train.faithfulness", "scipy.stats", "edge_runtime.overlay", "edge_runtime.classifier", "captum", "lime"}
    assert "train.attribution" in loaded and not loaded & late


def test_sheet_shows_pictures_and_heat_in_their_places() -> None:
    pixels = np.full((TILE_PX, TILE_PX, 3), (200, 180, 220), dtype=np.uint8)
    heat = np.zeros((64, 64), dtype=np.float32)
    heat[:8, :8] = 1
    flat = np.zeros((64, 64), dtype=np.float32)
    drawn = np.asarray(contact_sheet([Row(pixels, ["name"], [heat, flat])], ["one", "two"]))
    y = 30
    tiles = [drawn[y : y + TILE_PX, x : x + TILE_PX] for x in (8 + column * (TILE_PX + 8) for column in (1, 2, 3))]
    assert np.array_equal(tiles[0], pixels)
    assert tiles[1][10, 10].min() > tiles[1][200, 200].max()  # cream is brighter than black, both half over the picture
    line = (tiles[1] == 0).all(-1)
    assert line.any() and not line[60:].any() and not line[:, 60:].any()
    assert not (tiles[2] == 0).all(-1).any() and np.ptp(tiles[2].reshape(-1, 3), axis=0).max() == 0
    below = drawn[y + TILE_PX + 8 :]
    assert (below < 100).any()  # the key and the note


def test_long_names_keep_both_ends() -> None:
    assert shortened("smear.png", 24) == "smear.png"
    short = shortened("patient-0012-slide-3-field-0047.png", 24)
    assert len(short) == 24 and short.startswith("patient-001") and short.endswith("0047.png")
    assert shortened("a\nb\x1b", 24) == "a b?"
