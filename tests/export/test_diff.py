"""Diff: everything that two manifests say differently is shown, and nothing else."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "edge_runtime"))  # bundle_maker

from bundle_maker import replace_file, sign, spoil, tiny_bundle

from edge_runtime.bundle import open_bundle
from edge_runtime.guard import Parser, guarded
from export.diff import ABSENT, Change, Comparison, add_commands, compare, comparison_text


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("diff") / "old")


@pytest.fixture
def new(old: Path, tmp_path: Path) -> Path:
    """Return a copy of the old bundle, to be changed."""
    return Path(shutil.copytree(old, tmp_path / "new"))


def found(old: Path, new: Path) -> Comparison:
    return compare(open_bundle(old), open_bundle(new))


def run(*arguments: object) -> int:
    """Run a command line that has this command."""
    parser = Parser(prog="test")
    add_commands(parser.add_subparsers(required=True))
    return guarded(parser, list(map(str, arguments)))


def test_the_same_bundle_has_no_difference(old: Path, new: Path) -> None:
    assert found(old, new).changes == ()
    assert comparison_text(found(old, new)).endswith("\nsame id, no difference")


def test_a_bundle_made_twice_has_no_difference(old: Path, tmp_path: Path) -> None:
    assert found(old, tiny_bundle(tmp_path / "again")).changes == ()


def test_a_signature_is_no_difference(old: Path, new: Path) -> None:
    assert found(old, sign(new)).to_dict()["equal"]


def test_another_spelling_is_another_id_and_no_difference(old: Path, new: Path) -> None:
    stated = json.loads((new / "manifest.json").read_text())
    stated["temperature"], stated["files"] = 1.5e0, dict(reversed(stated["files"].items()))
    stated["golden"]["tolerance"]["logits"] = stated["golden"]["tolerance"]["logits"] * 1.0
    (new / "manifest.json").write_text(json.dumps(stated, indent=3))
    assert comparison_text(found(old, new)).endswith("\nanother id, no difference")


def values(node: Any, steps: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the steps to every single value of a manifest."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    below = [path for key, value in pairs for path in values(value, (*steps, key))]
    return below or [steps]


def test_no_value_of_a_manifest_can_change_unseen(old: Path) -> None:
    """Every one is changed, one at a time, in the manifest as parsed: no reader stands in between."""
    import dataclasses

    bundle = open_bundle(old)
    for steps in values(bundle.manifest.raw):
        raw = copy.deepcopy(bundle.manifest.raw)
        holder = raw
        for step in steps[:-1]:
            holder = holder[step]
        for other in ("another", None, 12345):
            holder[steps[-1]] = other
            changed = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, raw=raw))
            if steps[0] == "files" or (other is None and steps[-1] == "pretrained"):
                continue  # entries of files are of one kind, see below
            assert compare(bundle, changed).changes, (steps, other)
            comparison_text(compare(bundle, changed))
        del holder[steps[-1]]
        if steps[0] != "files":
            assert compare(bundle, changed).changes, steps


def change(path: str, value: Any, stated: dict[str, Any]) -> None:
    """Set the value at a path such as "task.labels"."""
    *steps, last = path.split(".")
    holder: Any = stated
    for step in steps:
        holder = holder[int(step)] if step.isdigit() else holder[step]
    holder[int(last) if last.isdigit() else last] = value


MEASURE = {"value": 0.95, "low": 0.94, "high": 0.96}
ROW = {"step": "fp32 -> int8", "measure": "top-1", "value": 0.985, "limit": ">= 0.98", "passed": True}


@pytest.mark.parametrize(
    ("path", "value", "section", "row"),
    [
        ("name", "test-tiny-fp32", "bundle", "name test-tiny-int8 test-tiny-fp32"),
        ("temperature", 1.75, "bundle", "temperature 1.5 1.75"),
        ("later", [1, 2], "bundle", "later - [1, 2]"),
        (
            "task.labels",
            ["Early", "Benign", "Pre", "Pro", "Other"],
            "task",
            "labels Benign, Early, Pre, Pro, Other Early, Benign, Pre, Pro, Other",
        ),
        ("input.name", "image", "input", "name pixels image"),
        ("outputs.class_map.step_px", 8.0, "outputs", "class_map.step_px - 8"),
        ("operating_points.0.threshold", 0.3, "operating points", "malignant.threshold 0.25 0.3"),
        ("quantization.calibration.images", 9, "recipe and calibration", "calibration.images 8 9"),
        (
            "quantization.calibration.sha256",
            "cd" * 32,
            "recipe and calibration",
            "calibration.sha256 abababababab cdcdcdcdcdcd",
        ),
        ("quantization.ranges", "min-max", "recipe and calibration", "ranges - min-max"),
        ("quantization.tools", {"onnx": "1.23.0"}, "recipe and calibration", "tools.onnx - 1.23.0"),
        ("training.seed", 1, "training", "seed 0 1"),
        ("training.pretrained", "imagenet", "training", "pretrained null imagenet"),
        ("training.sources.0.licence", "CC BY 4.0", "training", "sources.none.licence CC0 CC BY 4.0"),
        (
            "metrics.this.macro_f1",
            MEASURE,
            "metrics",
            "macro_f1 0.9900 (0.9800 to 0.9970) 0.9500 (0.9400 to 0.9600) -0.04, intervals APART",
        ),
        (
            "metrics.this.macro_f1",
            MEASURE | {"high": 0.98},
            "metrics",
            "macro_f1 0.9900 (0.9800 to 0.9970) 0.9500 (0.9400 to 0.9800) -0.04, intervals overlap",
        ),
        ("metrics.this.macro_f1", 0.98, "metrics", "macro_f1 0.9900 (0.9800 to 0.9970) 0.98 -0.01"),
        (
            "metrics.reference.macro_f1.value",
            0.992,
            "metrics of the reference",
            "macro_f1 0.9910 (0.9800 to 0.9990) 0.9920 (0.9800 to 0.9990) +0.001, intervals overlap",
        ),
        (
            "metrics.parity.rows.0",
            ROW,
            "parity",
            "fp32 -> int8: top-1 0.99 (limit >= 0.98) passed 0.985 (limit >= 0.98) passed -0.005",
        ),
        ("limits.notes", ["photographs"], "limits", "notes rendered pictures only photographs"),
        ("golden.tolerance.logits", 0.25, "golden", "tolerance.logits 0.2 0.25"),
    ],
)
def test_what_differs_stands_in_its_section(
    old: Path, new: Path, path: str, value: Any, section: str, row: str
) -> None:
    spoil(new, lambda stated: change(path, value, stated))
    lines = comparison_text(found(old, new)).splitlines()
    assert lines[2:4] == ["another id, 1 difference", ""]
    assert [" ".join(line.split()) for line in lines[4:]] == [section, row]


def test_a_failed_gate_is_loud(old: Path, new: Path) -> None:
    def fail(stated: dict[str, Any]) -> None:
        stated["metrics"]["parity"] = {"passed": False, "rows": [ROW | {"value": 0.5, "passed": False}]}

    text = comparison_text(found(old, spoil(new, fail)))
    assert "0.5 (limit >= 0.98) FAILED" in text and "-0.49" in text


def test_files_by_size_and_hash(old: Path, new: Path) -> None:
    size = (new / "MODEL_CARD.md").stat().st_size
    replace_file(new, "MODEL_CARD.md", b"x" * size)
    model = (new / "model.tflite").read_bytes()
    replace_file(new, "model.tflite", model + b"12345")
    replace_file(new, "extra.txt", b"more")
    text = comparison_text(found(old, new))
    rows = {line.split()[0]: line for line in text.splitlines()[4:] if line.startswith("  ")}
    assert set(rows) == {"MODEL_CARD.md", "model.tflite", "extra.txt"}
    assert rows["MODEL_CARD.md"].endswith("same size, other bytes") and rows["model.tflite"].endswith("+5 bytes")
    assert " - " in rows["extra.txt"] and "4 bytes, " in rows["extra.txt"]


def test_a_calibration_that_is_gone_is_shown_once(old: Path, new: Path) -> None:
    spoil(new, lambda stated: stated["quantization"].update(calibration=None))
    keys = [".".join(change.path) for change in found(old, new).changes]
    assert keys == [f"quantization.calibration.{key}" for key in ("images", "split", "sha256")]
    assert all(change.b is ABSENT for change in found(old, new).changes)
    assert [".".join(change.path) for change in found(new, old).changes] == keys


def test_objects_of_lists_are_known_by_name_not_by_place(old: Path, new: Path) -> None:
    def two(stated: dict[str, Any]) -> None:
        point = stated["operating_points"][0]
        stated["operating_points"] = [point | {"name": "first"}, point]

    changes = found(old, spoil(new, two)).changes
    assert {change.path[1] for change in changes} == {"first"} and all(change.a is ABSENT for change in changes)


def test_values_that_print_alike_are_told_apart(old: Path, new: Path) -> None:
    spoil(new, lambda stated: stated.update(temperature=1.5000000001))
    assert "1.5000000001" in comparison_text(found(old, new))
    note = "a long note, " * 20
    spoil(new, lambda stated: stated.update(temperature=1.5, remark=note + "now it ends so"))
    other = Path(shutil.copytree(new, new.parent / "other"))
    spoil(other, lambda stated: stated.update(remark=note + "then it ends otherwise"))
    row = comparison_text(found(new, other)).splitlines()[-1]
    assert "now it ends so" in row and "then it ends otherwise" in row and len(row) < 130


def test_texts_of_a_manifest_cannot_draw_on_the_terminal(old: Path, new: Path) -> None:
    spoil(new, lambda stated: stated.update({"\x1b[2J": "a\x1b[31m\nb"}))
    assert "\x1b" not in comparison_text(found(old, new)) and "a?[31m b" in comparison_text(found(old, new))


def test_numbers_beyond_floats_are_values_not_measures(old: Path, new: Path) -> None:
    spoil(new, lambda stated: stated["metrics"]["this"].update(huge=10**400, odd=MEASURE | {"high": 10**400}))
    other = Path(shutil.copytree(new, new.parent / "other"))
    spoil(other, lambda stated: stated["metrics"]["this"].update(huge=-(10**400), odd=MEASURE))
    comparison = found(new, other)
    assert {change.difference for change in comparison.changes if change.path[-1] == "huge"} == {None}
    assert comparison_text(comparison) and json.dumps(comparison.to_dict(), allow_nan=False)


def test_true_is_not_1() -> None:
    from export.diff import _same

    assert _same(32, 32.0) and _same([{"a": 1}], [{"a": 1.0}])
    assert not _same(1, True) and not _same(None, False) and not _same([1], [1, 2]) and not _same("1", 1)


def test_json_has_both_values_and_what_is_absent_is_absent(
    old: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def more(stated: dict[str, Any]) -> None:
        stated["metrics"]["this"] = {"macro_f1": MEASURE, "extra": None}

    spoil(new, more)
    assert run("diff", old, new, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["same_id"], said["equal"]) == (False, False)
    assert said["a"] == open_bundle(old).id and said["b"] == open_bundle(new).id
    first, second = said["differences"]
    assert first["key"] == "metrics.this.macro_f1" and first["b"] == MEASURE and first["a"]["value"] == 0.99
    assert first["difference"] == pytest.approx(-0.04) and first["intervals_overlap"] is False
    assert second == {"section": "metrics", "key": "metrics.this.extra", "b": None}


def test_the_command_line(old: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("diff", old, new) == 0
    assert capsys.readouterr().out.endswith("same id, no difference\n")
    spoil(new, lambda stated: stated.update(temperature=2))
    assert run("diff", old, new) == 0, "a difference is an answer, not a failure"
    assert "temperature  1.5  2" in capsys.readouterr().out
    assert run("diff", old, new.parent / "gone") == 1
    assert "no such model" in capsys.readouterr().err


def test_the_bundles_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """The real ones, with all that a trained model says about itself."""
    assert run("diff", "all-subtypes", "blood-cells") == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n{section}\n") for section in ("bundle", "task", "training", "metrics", "parity", "files")]
    assert places == sorted(places)
    assert text.index("\n  macro_f1 ") < text.index("\n  per_class.")
    assert max(map(len, text.splitlines())) < 260


def test_touching_intervals_overlap() -> None:
    a, b = MEASURE, {"value": 0.97, "low": 0.96, "high": 0.98}
    assert Change("metrics", ("x",), a, b).intervals_overlap is True
    assert Change("metrics", ("x",), b, a).intervals_overlap is True
    assert Change("metrics", ("x",), a, b | {"low": 0.961}).intervals_overlap is False
    assert Change("metrics", ("x",), a, 0.97).intervals_overlap is None
