"""The command line, called in this process: what it prints, writes and returns, command by command."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import LABELS, bomb, encoded, smear, spoil, tiny_bundle
from PIL import Image

from edge_runtime import __version__, cli
from edge_runtime.classifier import Classifier
from edge_runtime.commands.output import Bar
from edge_runtime.engines import Engine
from edge_runtime.errors import EngineError
from edge_runtime.overlay import SIDE_PX

NOTE = "Research decision support, not a diagnosis."


pytestmark = pytest.mark.usefixtures("default_bundles")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three good pictures, three bad ones and a text."""
    root = tmp_path / "pictures"
    (root / "sub" / ".hidden").mkdir(parents=True)
    good = encoded(Image.fromarray(smear(64, 1)))
    for name in ("b.png", "a.PNG", "sub/c.png", "sub/.hidden/d.png", "._b.png"):
        (root / name).write_bytes(good)
    (root / "empty.jpg").write_bytes(b"")
    (root / "cut.png").write_bytes(good[: len(good) // 2])
    (root / "bomb.png").write_bytes(bomb(100_000, 100_000))
    (root / "notes.txt").write_text("not a picture")
    return root


def test_one_picture_is_one_line_and_the_note(run, picture_file: Path) -> None:
    status, out, err = run("classify", picture_file)
    answer, note = out.splitlines()
    assert (status, err, note) == (0, [], NOTE)
    assert answer.startswith(f"{picture_file}: ") and answer.split(": ")[1].split(" ")[0] in LABELS
    assert "malignant: " in answer and answer.endswith(" ms")


def test_top_says_how_many_labels_are_named(run, picture_file: Path) -> None:
    for top, named in ((1, 1), (2, 2), (5, 5), (99, 5)):
        line = run("classify", picture_file, "--top", top)[1].split(";")[0]
        assert line.count("%") == named
    assert run("classify", picture_file, "--top", 0)[0] == 2


def test_json_is_one_object_per_line(run, folder: Path) -> None:
    status, out, err = run("classify", "--json", folder)
    rows = [json.loads(line) for line in out.splitlines()]
    names = [os.path.relpath(row["picture"], folder) for row in rows]
    assert names == ["a.PNG", "b.png", "bomb.png", "cut.png", "empty.jpg", "sub/c.png"]
    bad = [row for row in rows if "error" in row]
    assert status == 1 and len(bad) == len(err) == 3
    assert all(line == f"error: {row['error']}" for row, line in zip(bad, err, strict=True))
    assert all(set(row["probabilities"]) == set(LABELS) for row in rows if "error" not in row)
    assert NOTE not in out


def test_csv_is_a_table_with_a_row_for_every_picture(run, folder: Path) -> None:
    odd = folder / 'a "q", b.png'
    shutil.copy(folder / "b.png", odd)
    status, out, err = run("classify", "--csv", folder)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 1 and len(rows) == 7 and len(err) == 3
    assert [row["picture"] for row in rows if row["error"]] == [
        str(folder / n) for n in ("bomb.png", "cut.png", "empty.jpg")
    ]
    good = next(row for row in rows if row["picture"] == str(odd))
    assert sum(float(good[f"p {label}"]) for label in LABELS) == pytest.approx(1, abs=1e-4)
    assert good["label"] in LABELS and good["malignant"] in ("yes", "no") and good["degraded"] == "no"
    assert all(None not in row and None not in row.values() for row in rows)
    assert (good["abstained"], good["refusals"], good["plausible"]) == ("no", "", "; ".join(LABELS))


def test_refusals_are_said_in_every_form(run, default_bundles: Path, picture_file: Path, tmp_path: Path) -> None:
    spoil(default_bundles / "all-subtypes", lambda stated: stated.update(quality={"sharpness": {"low": 1.0}}))
    status, out, err = run("classify", picture_file, "--overlay", tmp_path / "out")
    assert status == 0 and not err  # it was judged, and that is no failure
    assert re.search(r": no answer: blurred: sharpness \S+, expected at least 1 \(focus again\); would have said ", out)
    row = next(csv.DictReader(io.StringIO(run("classify", "--csv", picture_file)[1])))
    assert row["abstained"] == "yes" and row["refusals"].startswith("blurred: sharpness ") and row["label"] in LABELS
    answer = json.loads(run("classify", "--json", picture_file)[1])
    assert answer["abstained"] and [found["reason"] for found in answer["refusals"]] == ["blurred"]
    assert "no answer    blurred: sharpness below 1" in run("info", "all-subtypes")[1]


def test_people_get_the_bad_ones_on_standard_error_and_the_rest(run, folder: Path) -> None:
    status, out, err = run("classify", folder, folder / "notes.txt", folder / "gone.png")
    assert status == 1 and len(err) == 5 and all(line.startswith("error: ") for line in err)
    assert len(out.splitlines()) == 4 and out.endswith(NOTE + "\n")


def test_output_is_written_whole(run, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "answers.jsonl"
    target.write_text("old")
    status, out, _ = run("classify", "--json", "--output", target, folder / "a.PNG", folder / "b.png")
    assert (status, out) == (0, "") and len(target.read_text().splitlines()) == 2
    assert run("classify", "--output", tmp_path / "none" / "x", folder / "b.png")[0] == 1
    assert run("classify", "--output", tmp_path, folder / "b.png")[2][0].startswith("error: ")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_a_broken_off_run_leaves_the_old_output(run, picture_file: Path, tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "answers.jsonl"
    target.write_text("old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "classify", interrupt)
    status, _, err = run("classify", "--json", "--output", target, picture_file)
    assert (status, err) == (130, ["interrupted"])
    assert target.read_text() == "old" and not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_results_never_overwrite_pictures(run, picture_file: Path) -> None:
    before = picture_file.read_bytes()
    for option in ("--output", "--overlay"):
        status, _, err = run("classify", option, picture_file, picture_file)
        assert status == 2 and len(err) == 1 and "overwrite" in err[0]
    assert picture_file.read_bytes() == before


def test_overlays_go_to_a_file_or_a_folder(run, folder: Path, tmp_path: Path) -> None:
    assert run("classify", folder / "b.png", "--overlay", tmp_path / "new" / "one.png")[0] == 0
    (folder / "sub" / "B.png").write_bytes((folder / "b.png").read_bytes())
    assert run("classify", folder, "--overlay", tmp_path / "all")[0] == 1
    assert sorted(os.listdir(tmp_path / "all")) == [
        "B-2.overlay.png",
        "a.overlay.png",
        "b.overlay.png",
        "c.overlay.png",
    ]
    for path in [tmp_path / "new" / "one.png", *(tmp_path / "all").iterdir()]:
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > picture.height
    status, _, err = run("classify", folder, "--overlay", tmp_path / "one.png")
    assert status == 2 and "several pictures" in err[0]


def test_explain_says_in_a_line_where_the_heat_lies(run, picture_file: Path) -> None:
    plain, told = (run("classify", picture_file, *options)[1].splitlines()[0] for options in ((), ("--explain",)))
    seen = re.compile(
        r"(no white cell found|\d+% of the heat on white cells), centre 0\.\d\d, 0\.\d\d; runner-up (\w+)"
        r"|no heat: nothing in the picture speaks for the answer"
    )
    found = seen.search(told)
    assert found is not None and seen.search(plain) is None
    assert told.split("; ")[0] == plain.split("; ")[0]
    assert found[2] is None or found[2] == told.split("(")[1].split(" ")[0]  # the first that is not the answer


def test_explain_adds_one_key_to_the_json(run, folder: Path) -> None:
    plain, told = (
        [json.loads(line) for line in run("classify", "--json", folder, *options)[1].splitlines()]
        for options in ((), ("--explain",))
    )
    assert len(plain) == len(told) == 6
    for before, after in zip(plain, told, strict=True):
        if "error" in before:
            assert after == before
            continue
        assert set(after) - set(before) == {"explanation"} and set(before) <= set(after)
        found = after["explanation"]
        assert set(found) == {"runner_up", "inside_cell", "centroid", "box", "level", "contrast"}
        assert found["runner_up"] == sorted(LABELS, key=lambda label: -after["probabilities"][label])[1]
        assert found["level"] == 0.5 and len(found["contrast"]) == len(after["heatmap"]) == 4
        assert max(abs(value) for row in found["contrast"] for value in row) == 1
        assert after["placement"] == {"first_px": 4.0, "step_px": 8.0, "input_px": 32}


def test_explain_adds_columns_to_the_csv_for_bad_pictures_too(run, folder: Path) -> None:
    status, out, _ = run("classify", "--csv", "--explain", folder)
    head, *rows = csv.reader(io.StringIO(out))
    explained = [
        "runner_up", "inside_cell", "centre_x", "centre_y", "box_left", "box_top", "box_width", "box_height"
    ]  # fmt: skip
    first = head.index("runner_up")
    assert (
        status == 1
        and head[first : first + 8] == explained
        and head[first + 8 : first + 12] == ["plausible", "abstained", "refusals", "total_ms"]
    )
    assert [name for name in head if name not in explained] == next(
        csv.reader(io.StringIO(run("classify", "--csv", folder)[1]))
    )
    assert len(rows) == 6 and {len(row) for row in rows} == {len(head)}
    answers = [json.loads(line) for line in run("classify", "--json", "--explain", folder)[1].splitlines()]
    for row, answer in zip(rows, answers, strict=True):
        cells = row[first : first + 8]
        if "error" in answer:
            assert row[-1] == answer["error"] and not any(row[1:-1])
            continue
        found = answer["explanation"]
        assert row[-1] == "" and cells[0] == found["runner_up"]
        numbers = [found["inside_cell"], *(found["centroid"] or [None] * 2), *(found["box"] or [None] * 4)]
        assert [float(cell) if cell else None for cell in cells[1:]] == numbers


def test_explain_adds_a_panel_to_the_overlay(run, picture_file: Path, tmp_path: Path) -> None:
    sizes = []
    for name, options in (("two.png", ()), ("three.png", ("--explain",))):
        assert run("classify", picture_file, "--overlay", tmp_path / name, *options)[0] == 0
        with Image.open(tmp_path / name) as picture:
            sizes.append(picture.size)
            pixels = np.asarray(picture.convert("RGB")).astype(int)
    (two, height), (three, same) = sizes
    assert height == same and three > two + SIDE_PX
    third = pixels[8 : 8 + SIDE_PX, two : two + SIDE_PX]
    redness = third[..., 0] - third[..., 2]
    assert redness.max() > 30 and redness.min() < -30  # red for the answer, blue for the runner-up


def test_an_overlay_that_cannot_be_written_is_the_pictures_error(run, picture_file: Path) -> None:
    status, out, err = run("classify", "--json", picture_file, "--overlay", picture_file / "below")
    assert status == 1 and len(err) == 1 and "error" in json.loads(out)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["classify"],
        ["nonsense"],
        ["classify", "x.png", "--json", "--csv"],
        ["classify", "x.png", "--engine", "torch"],
        ["classify", "x.png", "--top", "many"],
        ["classify", "x.png", "--threads", "0"],
        ["classify", "-", "-"],
        ["info"],
        ["classify", "x.png", "--jso"],
    ],
)
def test_usage_errors_are_one_line_and_status_2(run, arguments: list[str]) -> None:
    status, out, err = run(*arguments)
    assert (status, out, len(err)) == (2, "", 1) and err[0].startswith("error: ")


def test_no_picture_at_all_is_a_usage_error(run, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    status, out, err = run("classify", tmp_path / "nothing")
    assert (status, out) == (2, "") and err[0].startswith("error: no pictures there: expected files with .bmp, ")


def test_an_unknown_model_is_one_line(run, picture_file: Path) -> None:
    status, _, err = run("classify", picture_file, "--model", "nope")
    assert status == 1 and len(err) == 1 and "got 'nope', expected all-subtypes or" in err[0]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_that_are_no_text_neither_break_a_line_nor_reach_the_terminal(run, folder: Path) -> None:
    odd = os.path.join(os.fsencode(folder), b"x\n\x1b[31m\xff.png")
    shutil.copy(folder / "b.png", odd)
    assert len(run("classify", os.fsdecode(odd))[1].splitlines()) == 2
    assert "\x1b" not in run("classify", os.fsdecode(odd))[1]
    assert json.loads(run("classify", "--json", os.fsdecode(odd))[1])["picture"] == os.fsdecode(odd)
    _, _, err = run("classify", os.fsdecode(odd) + ".gone")
    assert len(err) == 1 and "\x1b" not in err[0]


def test_a_degraded_bundle_warns_on_every_run(run, default_bundles: Path, picture_file: Path) -> None:
    spoil(default_bundles / "all-subtypes", lambda stated: stated["metrics"]["parity"].update(passed=False))
    for command in (["classify", picture_file], ["classify", "--json", picture_file], ["verify"]):
        status, _, err = run(*command)
        assert status == 0 and len(err) == 1 and err[0].startswith("warning: test-tiny-int8@")
    assert json.loads(run("classify", "--json", picture_file)[1])["degraded"] is True
    assert "FAILED" in run("models")[1] and "FAILED" not in run("info", "all-subtypes")[1]


def test_models_lists_the_bundles(run, default_bundles: Path) -> None:
    status, out, err = run("models")
    head, row = out.splitlines()
    assert status == 0 and not err and head.split()[:3] == ["model", "task", "labels"]
    assert row.split()[0] == "all-subtypes" and "0.990 (0.980 to 0.997)" in row and "0.01 MB" in row
    fact = json.loads(run("models", "--json")[1])
    assert fact["labels"] == list(LABELS) and fact["parity_passed"] and fact["macro_f1"]["low"] == 0.98
    (default_bundles / "broken").mkdir()
    (default_bundles / "broken" / "manifest.json").write_text("{}")
    status, out, err = run("models")
    assert status == 1 and "all-subtypes" in out and len(err) == 1 and "broken" in err[0]
    shutil.rmtree(default_bundles)
    assert run("models")[1] == "No bundles came with this package.\n"


def test_info_shows_the_manifest(run, valid_bundle: Path) -> None:
    status, out, _ = run("info", valid_bundle)
    assert status == 0
    for word in (
        "test-tiny-int8@",
        "Benign",
        "temperature",
        "malignant",
        "int8 per-channel",
        "CC0",
        "top-1",
        "not for",
    ):
        assert word in out
    assert json.loads(run("info", "all-subtypes", "--json")[1])["name"] == "test-tiny-int8"


def test_verify_says_what_it_found(run, default_bundles: Path, tmp_path: Path) -> None:
    status, out, err = run("verify")
    assert (status, err) == (0, []) and "verified, 2 of 2 golden pictures" in out
    spoil(default_bundles / "all-subtypes", lambda stated: stated["golden"]["tolerance"].update(logits=1e-12))
    both = tiny_bundle(tmp_path / "both", "float32", "onnx")
    status, out, _ = run("verify", "all-subtypes", both, "--json", "--engine", "litert")
    assert status == 0 and [json.loads(line)["passed"] for line in out.splitlines()] == [True, True]
    spoil(both, lambda stated: stated["golden"]["tolerance"].update(logits=1e-12, class_map=1e-12))
    status, out, err = run("verify", both, "--engine", "onnxruntime")
    assert status == 1 and "FAILED golden/0.png" in out and not err
    (both / "MODEL_CARD.md").write_bytes(b"# A lie\n\n")
    status, out, err = run("verify", both, "all-subtypes")
    assert status == 1 and "altered or damaged" in err[0] and "verified" in out
    status, out, _ = run("verify", "--json", both)
    assert status == 1 and json.loads(out)["passed"] is False
    shutil.rmtree(default_bundles)
    assert run("verify")[0] == 2


def test_version_and_help(run) -> None:
    assert run("--version")[1] == f"leukoscope {__version__}\n"
    for command in ([], ["classify"], ["models"], ["info"], ["verify"]):
        status, out, err = run(*command, "--help")
        assert status == 0 and out.startswith("usage: python -m edge_runtime") and not err
    assert "classify smear.jpg" in run("--help")[1]


def test_the_installed_command_goes_by_its_own_name(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/leukoscope", "classify"])
    with pytest.raises(SystemExit, match="2"):
        cli.script()
    assert "(see: leukoscope classify --help)" in capsys.readouterr().err


def test_the_version_is_the_packages() -> None:
    project = (Path(cli.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{__version__}"\n' in project


def test_a_folder_that_cannot_be_listed_is_named(run, folder: Path, monkeypatch) -> None:
    real = os.scandir

    def scandir(path: str):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    status, out, err = run("classify", folder / "sub", folder / "b.png")
    assert status == 1 and err == [f"error: {folder / 'sub'}: cannot be listed: Permission denied"]
    assert len(out.splitlines()) == 2


def test_an_engine_that_fails_on_one_picture_does_not_stop_the_rest(run, folder: Path, monkeypatch) -> None:
    real, calls = Engine.run, []

    def sometimes(self: Engine, pixels):
        calls.append(1)
        if len(calls) == 1:
            raise EngineError("the engine failed")
        return real(self, pixels)

    monkeypatch.setattr(Engine, "run", sometimes)
    told = f"{folder / 'a.PNG'}: the engine failed"
    status, out, err = run("classify", folder / "a.PNG", folder / "b.png")
    assert (status, err) == (1, [f"error: {told}"]) and len(out.splitlines()) == 2
    calls.clear()
    status, out, _ = run("classify", "--json", folder / "a.PNG", folder / "b.png")
    assert json.loads(out.splitlines()[0]) == {"picture": str(folder / "a.PNG"), "error": told}


def test_the_progress_bar_is_for_terminals_only(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    Bar(10, silent=False).show(5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = Bar(10, silent=False)
    bar.show(5)
    bar.clear()
    assert "5/10" in capsys.readouterr().err
    Bar(1, silent=False).show(0)
    Bar(10, silent=True).show(0)
    assert capsys.readouterr().err == ""
