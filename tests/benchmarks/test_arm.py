"""The comparison with Arm finds what was planted, and only that; its tables say what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import arm, arm_tables
from benchmarks.arm import OutputsError, compare_bundle
from edge_runtime.errors import UsageError

MODEL = "tiny"
PICTURES = ("/work/a.png", "/work/b.png", "/work/c.png")


def raw() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "pictures": np.array(PICTURES),
        "pixels_sha256": np.array(["aa", "bb", "cc"]),
        "logits": np.array([[100, -5, 3], [0, 40, 1], [2, 3, 90]], np.int8),
        "class_map": rng.integers(-128, 128, (3, 2, 2, 3)).astype(np.int8),
        "scales": np.array([0.03, 0.12]),
        "zero_points": np.array([-17, 4]),
        "distance": np.array([1.0, 1.5, 3.0]),
        "distance_limit": np.array(2.0),
        "quality": rng.random((3, 9)),
        "machine": np.array("x86_64"),
        "python": np.array("3.11.2"),
        "engine": np.array("litert"),
        "packages": np.array(["leukoscope 0.1.0", "numpy 2.4.6"]),
    }


def prediction(picture: str) -> dict[str, Any]:
    return {
        "picture": picture,
        "label": "Pre",
        "logits": [0.5, 0.25],
        "plausible": ["Pre"],
        "abstained": False,
        "refusals": [],
        "flags": {"malignant": {"yes": True, "score": 0.9, "threshold": 0.5}},
        "timings_ms": {"total": 3.0},
    }


def write(
    folder: Path,
    outputs: dict[str, Any] | None = None,
    predictions: list[dict[str, Any]] | None = None,
    passed: tuple[bool, ...] = (True, True),
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    found = raw() if outputs is None else outputs
    if folder.name not in ("native", "fallen-back"):
        found["machine"] = np.array("aarch64")
    np.savez(folder / f"raw-{MODEL}.npz", **found)
    lines = [prediction(picture) for picture in PICTURES] if predictions is None else predictions
    (folder / f"classify-{MODEL}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    verdict = {"model": MODEL, "passed": all(passed), "cases": [{"passed": one} for one in passed]}
    (folder / "verify.jsonl").write_text(json.dumps(verdict) + "\n")
    return folder


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return write(tmp_path / "bookworm" / "litert" / "native")


def other(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    found = raw()
    change(found)
    return found


def test_the_same_but_for_times_is_identical(ours: Path, tmp_path: Path) -> None:
    slow = [{**prediction(picture), "timings_ms": {"total": 900.0}} for picture in PICTURES]
    found = compare_bundle(ours, write(tmp_path / "b", predictions=slow), MODEL)
    assert found.identical and found.passed
    assert (found.pictures, found.values, found.values_equal) == (3, 3 * (3 + 12), 3 * (3 + 12))
    assert found.distance_difference == 0 and found.distance_margin == 0.25


def test_one_integer_is_found(ours: Path, tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["class_map"][1, 0, 1, 2] ^= 1

    found = compare_bundle(ours, write(tmp_path / "b", other(change)), MODEL)
    assert (found.bit_identical, found.values - found.values_equal) == (2, 1)
    assert (found.logits_steps, found.class_map_steps, found.top1_equal) == (0, 1, 3)
    assert found.passed and not found.identical


def test_steps_do_not_wrap_around(ours: Path, tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["logits"][0] = [-128, -5, 3]  # from 100: 228 steps, more than int8 holds

    found = compare_bundle(ours, write(tmp_path / "b", other(change)), MODEL)
    assert (found.logits_steps, found.top1_equal) == (228, 2)


@pytest.mark.parametrize(
    ("key", "change", "field", "equal"),
    [
        ("pixels_sha256", lambda array: array.__setitem__(2, "xx"), "pixels_equal", 2),
        ("quality", lambda array: array.__setitem__((0, 5), np.nextafter(array[0, 5], 2)), "quality_equal", 2),
    ],
)
def test_pixels_and_quality_are_compared_bit_by_bit(
    ours: Path, tmp_path: Path, key: str, change: Callable[[Any], None], field: str, equal: int
) -> None:
    found = compare_bundle(ours, write(tmp_path / "b", other(lambda found: change(found[key]))), MODEL)
    assert getattr(found, field) == equal and not found.identical


def test_the_last_bit_of_a_distance_is_reported_beside_what_would_matter(ours: Path, tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["distance"][1] = np.nextafter(1.5, 2)

    found = compare_bundle(ours, write(tmp_path / "b", other(change)), MODEL)
    assert found.distance_difference is not None and found.distance_margin is not None
    assert 0 < found.distance_difference < 1e-15 < found.distance_margin
    assert found.identical  # what the user gets is written with fewer digits, and compared as JSON


def test_no_distance_is_no_difference(tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["distance"][:] = np.nan
        found["distance_limit"] = np.array(np.nan)

    sides = [write(tmp_path / side, other(change)) for side in "ab"]
    found = compare_bundle(*sides, MODEL)
    assert found.identical and found.distance_difference is None and found.distance_margin is None


@pytest.mark.parametrize(
    ("change", "json_equal", "decisions_equal"),
    [
        ({"logits": [0.5, 0.250001]}, 2, 3),
        ({"label": "Pro"}, 2, 2),
        ({"plausible": ["Pre", "Pro"]}, 2, 2),
        ({"abstained": True, "refusals": [{"reason": "unfamiliar", "value": 3.0}]}, 2, 2),
        ({"flags": {"malignant": {"yes": False, "score": 0.4, "threshold": 0.5}}}, 2, 2),
        ({"flags": {"malignant": {"yes": True, "score": 0.8, "threshold": 0.5}}}, 2, 3),
    ],
)
def test_answers_and_numbers_are_told_apart(
    ours: Path, tmp_path: Path, change: dict[str, Any], json_equal: int, decisions_equal: int
) -> None:
    lines = [prediction(picture) for picture in PICTURES]
    lines[1] |= change
    found = compare_bundle(ours, write(tmp_path / "b", predictions=lines), MODEL)
    assert (found.json_equal, found.decisions_equal) == (json_equal, decisions_equal)
    assert found.passed is (decisions_equal == 3) and not found.identical


def test_a_picture_that_fails_on_both_is_the_same_answer(tmp_path: Path) -> None:
    lines = [{"picture": picture, "error": "not a picture"} for picture in PICTURES]
    sides = [write(tmp_path / side, predictions=lines) for side in "ab"]
    assert compare_bundle(*sides, MODEL).decisions_equal == 3


def test_a_golden_picture_that_failed_is_no_pass(ours: Path, tmp_path: Path) -> None:
    found = compare_bundle(ours, write(tmp_path / "b", passed=(True, False)), MODEL)
    assert (found.verified, found.golden, found.passed, found.identical) == (1, 2, False, False)
    assert not compare_bundle(ours, write(tmp_path / "c", passed=()), MODEL).passed  # nothing verified is no proof


@pytest.mark.parametrize("key", ["pictures", "scales", "zero_points"])
def test_other_bundles_and_pictures_are_not_compared(ours: Path, tmp_path: Path, key: str) -> None:
    def change(found: dict[str, Any]) -> None:
        found[key] = found[key][::-1]

    with pytest.raises(OutputsError, match=f"other {key}"):
        compare_bundle(ours, write(tmp_path / "b", other(change)), MODEL)


@pytest.mark.parametrize("key", ["logits", "class_map", "quality"])
def test_other_shapes_are_not_compared(ours: Path, tmp_path: Path, key: str) -> None:
    narrow = other(lambda found: found.__setitem__(key, found[key][..., :1]))
    with pytest.raises(OutputsError, match=f"other {key}: got "):
        compare_bundle(ours, write(tmp_path / "b", narrow), MODEL)
    empty = other(lambda found: found.__setitem__(key, found[key][..., :0]))
    with pytest.raises(OutputsError, match=f"other {key}: got "):
        compare_bundle(*(write(tmp_path / side, empty) for side in "ab"), MODEL)


def test_no_pictures_are_no_proof(tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        for key in ("pictures", "pixels_sha256", "logits", "class_map", "distance", "quality"):
            found[key] = found[key][:0]

    with pytest.raises(OutputsError, match="no pictures"):
        compare_bundle(*(write(tmp_path / side, other(change), []) for side in "ab"), MODEL)
    with pytest.raises(OutputsError, match="classified others"):
        compare_bundle(*(write(tmp_path / side, predictions=[]) for side in "ab"), MODEL)


@pytest.mark.parametrize(
    ("side", "key", "got"),
    [
        ("fallen-back", "python", "got litert on x86_64, expected litert on aarch64"),  # the emulator was left out
        ("cortex-a72", "engine", "got onnxruntime on aarch64, expected litert on aarch64"),
        ("native", "engine", "got onnxruntime on x86_64, expected litert on x86_64"),
    ],
)
def test_what_something_else_computed_is_no_proof(ours: Path, tmp_path: Path, side: str, key: str, got: str) -> None:
    write(ours.parent / side, other(lambda found: found.__setitem__(key, np.array("onnxruntime"))))
    row = arm.compare_side(tmp_path, "bookworm", "litert", side)
    assert arm.failed(row) and got in row["bundles"][MODEL]["error"]


def test_other_lines_are_not_compared(ours: Path, tmp_path: Path) -> None:
    lines = [prediction(picture) for picture in PICTURES[:2]]
    with pytest.raises(OutputsError, match="other pictures"):
        compare_bundle(ours, write(tmp_path / "b", predictions=lines), MODEL)


@pytest.mark.parametrize("name", [f"raw-{MODEL}.npz", f"classify-{MODEL}.jsonl", "verify.jsonl"])
@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 half"])
def test_what_is_missing_or_broken_is_said(ours: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    theirs = write(tmp_path / "bookworm" / "litert" / "cortex-a72")
    if content is None:
        (theirs / name).unlink()
    else:
        (theirs / name).write_bytes(content)
    row = arm.compare_side(tmp_path, "bookworm", "litert", "cortex-a72")
    assert arm.failed(row)


def command(outputs: Path, *arguments: str) -> int:
    parser_arguments = ["benchmarks.arm", str(outputs), "--out", str(outputs.parent / "arm.json"), *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", parser_arguments)
        return arm.main()


def test_the_control_may_fail_and_others_may_not(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path.joinpath()
    garbage = other(lambda found: found["logits"].__imul__(-1))
    write(outputs / "bookworm" / "litert" / "max", garbage, passed=(False, False))
    write(outputs / "bookworm" / "litert" / "cortex-a72")
    (outputs / "qemu.txt").write_text("qemu-aarch64 version 7.2.22\nCopyright\n")
    (outputs / "bookworm" / "tflite-runtime" / "max").mkdir(parents=True)  # crashed: no outputs at all
    assert command(outputs) == 0
    said = capsys.readouterr().err
    assert "cortex-a72 (passed): tiny: 3 of 3 bit-identical" in said and "note:" not in said
    assert command(outputs, "--controls", "none") == 1
    assert "max (FAILED)" in capsys.readouterr().err

    assert command(outputs) == 0
    monkeypatch.setattr(arm_tables, "RESULTS", tmp_path.parent / "arm.json")
    table = arm_tables.arm_table()
    assert "qemu-aarch64 version 7.2.22. bookworm, litert: numpy 2.4.6." in table
    lines = [line for line in table.splitlines() if line.startswith("| bookworm")]
    assert len(lines) == 3  # the reference is not compared with itself
    assert "Cortex-A72 (Pi 4) | 3 of 3 | 45 of 45 | 0 / 0 | 3 of 3 | 3 of 3 | 3 of 3 | 2 of 2 |" in table
    assert "0 of 2" in next(line for line in lines if "control" in line)
    assert "no outputs" in next(line for line in lines if "tflite-runtime" in line)
    assert len(arm_tables.judged_table().splitlines()) == 3  # head, rule and the one that is no control


def test_controls_that_do_not_differ_are_told(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(ours.parent / "bare")
    assert command(tmp_path) == 0
    assert "note: the controls do not differ" in capsys.readouterr().err


def test_without_a_reference_nothing_is_compared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no outputs"):
        arm.list_sides(tmp_path)
    write(tmp_path / "bookworm" / "litert" / "native")
    with pytest.raises(UsageError, match="nothing beside litert/native"):
        arm.list_sides(tmp_path)
    write(tmp_path / "trixie" / "litert" / "cortex-a72")
    with pytest.raises(UsageError, match="trixie: no litert/native"):
        arm.list_sides(tmp_path)
