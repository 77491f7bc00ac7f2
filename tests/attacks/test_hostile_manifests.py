"""Manifests that lie, lack or overflow: each is refused with one line that names the file and the key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_maker import LABELS, TINY_IO, manifest, spoil

from edge_runtime.bundle import open_bundle
from edge_runtime.errors import BundleError
from edge_runtime.manifest import MAX_MANIFEST_BYTES, parse_manifest


def refusal(folder: Path) -> str:
    """Return the one line with which a bundle is refused when it is opened."""
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    line = str(caught.value)
    assert line.startswith(str(folder.resolve() / "manifest.json")) and "\n" not in line and len(line) < 900
    return line


def whole() -> dict[str, Any]:
    """Return a whole manifest."""
    stated = manifest(TINY_IO, LABELS)
    stated["golden"] = {
        "tolerance": {"logits": 0.1, "class_map": 0.2},
        "cases": [{"picture": "golden/0.png", "expected": "golden/0.json"}],
    }
    names = ("model.tflite", "golden/0.png", "golden/0.json")
    stated["files"] = {name: {"sha256": "0" * 64, "bytes": 1} for name in names}
    return stated


MAY = {"metrics.reference.macro_f1", "metrics.this.macro_f1"}


def keys(node: Any, path: str = "") -> Iterator[tuple[str, list[str | int]]]:
    """Yield (path as errors name it, steps) of every key of a manifest that must be there."""
    if isinstance(node, dict):
        for key, value in node.items():
            here = f"{path}.{key}" if path else key
            if here in MAY:
                continue
            if path != "files":
                yield here, [key]
            for deeper, steps in keys(value, here):
                yield deeper, [key, *steps]
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for deeper, steps in keys(node[0], f"{path}[0]"):
            yield deeper, [0, *steps]


KEYS = list(keys(whole()))
TEXT_OR_NULL = {"quantization.calibration", "training.pretrained"}


def parent(stated: Any, steps: list[str | int]) -> Any:
    """Return the object that holds the last step's key."""
    for step in steps[:-1]:
        stated = stated[step]
    return stated


def test_the_whole_manifest_is_accepted_and_has_keys_to_lack() -> None:
    parse_manifest(json.dumps(whole()).encode())
    assert len(KEYS) > 70


@pytest.mark.parametrize(("path", "steps"), KEYS, ids=[path for path, _ in KEYS])
def test_every_missing_key_is_named(path: str, steps: list[str | int]) -> None:
    stated = whole()
    del parent(stated, steps)[steps[-1]]
    with pytest.raises(BundleError) as caught:
        parse_manifest(json.dumps(stated).encode())
    assert str(caught.value) == f"manifest.json: {path}: missing"


@pytest.mark.parametrize(("path", "steps"), KEYS, ids=[path for path, _ in KEYS])
def test_every_value_of_another_kind_is_named(path: str, steps: list[str | int]) -> None:
    held = parent(whole(), steps)[steps[-1]]
    for wrong in ([[]], {"x": 1}, True, False, None, "", "x", -1, 1.5, 10**400, [None], [1, 2]):
        same_kind = type(wrong) is type(held) and not (isinstance(held, str) and wrong == "")
        if same_kind or (path in TEXT_OR_NULL and (wrong is None or (wrong == "x" and held is None))):
            continue
        if isinstance(held, float) and isinstance(wrong, int | float) and not isinstance(wrong, bool):
            continue  # numbers have tests of their own
        if path.endswith((".value", ".limit")) and wrong in ("x", -1, 1.5, 10**400) and not isinstance(wrong, bool):
            continue  # a number or a text
        stated = whole()
        parent(stated, steps)[steps[-1]] = wrong
        with pytest.raises(BundleError) as caught:
            parse_manifest(json.dumps(stated).encode())
        assert path in str(caught.value), wrong


def set_at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that sets the value at a path such as "task.labels"."""

    def change(stated: dict[str, Any]) -> None:
        *steps, last = path.split(".")
        for step in steps:
            stated = stated[int(step)] if step.isdigit() else stated[step]
        stated[int(last) if last.isdigit() else last] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("format", "safetensors", "format: got 'safetensors', expected 'leukoscope-bundle'"),
        ("version", 3, "version: newer than this program: got 3, expected at most 2 (update leukoscope)"),
        ("version", 10**30, "version: newer than this program"),
        ("version", 0, "version: got 0, expected at least 1"),
        ("version", True, "version: got true"),
        ("version", 1.0, "version: got 1.0, expected an integer"),
        ("name", "Test", "name: got 'Test'"),
        ("name", "../x", "name: got '../x'"),
        ("name", "a" * 101, "name: got"),
        ("name", "a\n", "name: got"),
        ("task.kind", "slide", "task.kind: got 'slide', expected 'field' or 'cell'"),
        ("task.labels", ["Benign"], "task.labels: got 1 labels, expected 2 to 1000"),
        ("task.labels", [str(n) for n in range(1001)], "task.labels: got 1001 labels"),
        ("task.labels", ["a", "a", "b"], "task.labels[1]: got 'a', expected different texts"),
        ("task.labels", ["a", " ", "b"], "task.labels[1]"),
        ("task.labels", ["a", "b\x1b[2J"], "task.labels[1]"),
        ("task.labels", ["a", "b\nc"], "task.labels[1]"),
        ("task.labels", ["a", "b" * 101], "task.labels[1]"),
        ("task.labels", {"0": "a", "1": "b"}, "task.labels: got an object, expected a list"),
        ("input.height", 15, "input.height: got 15, expected 16 to 2048"),
        ("input.height", 4096, "input.height: got 4096"),
        ("input.width", 64, "input.width: got 64, expected 32, as input.height"),
        ("input.channels", "BGR", "input.channels: got 'BGR', expected 'RGB'"),
        ("input.layout", "NCHW", "input.layout: got 'NCHW', expected 'NHWC'"),
        ("input.dtype", "float32", "input.dtype: got 'float32', expected 'uint8'"),
        ("preprocess.crop", "none", "preprocess.crop"),
        ("preprocess.resample", "nearest", "preprocess.resample"),
        ("preprocess.background", "neutral-field", "preprocess.background: got 'neutral-field', expected no such key"),
        ("preprocess.stain", "keep", "preprocess.stain: got 'keep', expected no such key in version 1"),
        ("version", 2, "preprocess.background: missing"),
        ("outputs.class_map.name", "logits", "outputs.class_map.name: got 'logits'"),
        ("outputs.class_map.height", 0, "outputs.class_map.height: got 0, expected 1 to 32"),
        ("outputs.class_map.width", 33, "outputs.class_map.width"),
        ("outputs.class_map.width", 3, "outputs.class_map.width: got 3, expected 4, as outputs.class_map.height"),
        ("temperature", 0, "temperature: got 0, expected more than 0"),
        ("temperature", -1.5, "temperature: got -1.5"),
        ("temperature", 10**400, "temperature: got an integer too large"),
        ("operating_points.0.threshold", 1.01, "operating_points[0].threshold: got 1.01, expected 0 to 1"),
        ("operating_points.0.sensitivity", -0.1, "operating_points[0].sensitivity"),
        ("operating_points.0.positive", ["Blast"], "operating_points[0].positive: got 'Blast', expected some of"),
        ("operating_points.0.positive", [], "operating_points[0].positive: got no labels"),
        ("quality", [], "quality: got a list, expected an object"),
        ("quality", {"sharpness": 0.3}, "quality.sharpness: got a number, expected an object"),
        ("quality", {"sharpness": {}}, "quality.sharpness.low: missing"),
        ("quality", {"sharpness": {"low": "0.3"}}, "quality.sharpness.low: got a text, expected a number"),
        ("quality", {"sharpness": {"low": True}}, "quality.sharpness.low: got true, expected a number"),
        ("quality", {"sharpness": {"low": 1.5}}, "quality.sharpness.low: got 1.5, expected 0 to 1"),
        ("quality", {"brightness": {"low": 10**400}}, "quality.brightness.low: got 1000"),
        ("quality", {"brightness": {"low": float("nan")}}, "not a number of JSON: got NaN"),
        ("quality", {"noise": {"high": float("inf")}}, "not a number of JSON: got Infinity"),
        ("quality", {"noise": {"high": -1}}, "quality.noise.high: got -1, expected 0 to 1020"),
        ("quality", {"noise": {"low": 1, "high": 9}}, "quality.noise.low: got a limit, expected high alone"),
        (
            "quality",
            {"sharpness": {"low": 0.9, "high": 0.1}},
            "quality.sharpness.high: got a limit, expected low alone",
        ),
        ("quantization.calibration.images", 0, "quantization.calibration.images"),
        ("quantization.calibration.sha256", "AB" * 32, "quantization.calibration.sha256"),
        ("training.weights_sha256", "ab" * 31, "training.weights_sha256"),
        ("training.seed", -1, "training.seed"),
        ("metrics.parity.rows.0.passed", False, "metrics.parity.rows[0].passed: got false, expected true, because"),
        ("metrics.parity.rows", [], "metrics.parity.rows: got no rows"),
        ("metrics.this.macro_f1", 1.2, "metrics.this.macro_f1: got 1.2"),
        ("metrics.this.macro_f1", {"value": 0.9}, "metrics.this.macro_f1.low: missing"),
        ("limits.notes", ["a", 1], "limits.notes[1]"),
        ("golden.tolerance.logits", 0, "golden.tolerance.logits: got 0, expected more than 0"),
        ("golden.cases", [], "golden.cases: got no cases, expected at least one"),
        (
            "golden.cases.0.picture",
            "golden/9.png",
            "golden.cases[0].picture: got 'golden/9.png', expected one of files",
        ),
        ("golden.cases.0.expected", "model.tflite", "golden.cases[0].expected: got 'model.tflite', expected one of"),
    ],
)
def test_wrong_values_are_named(bundle_folder: Path, path: str, value: Any, says: str) -> None:
    assert says in refusal(spoil(bundle_folder, set_at(path, value)))


def test_two_questions_of_one_name_are_refused(bundle_folder: Path) -> None:
    spoil(bundle_folder, lambda stated: stated["operating_points"].append(dict(stated["operating_points"][0])))
    assert "operating_points[1].name: got 'malignant', expected different names" in refusal(bundle_folder)


def test_a_newer_version_is_named_whatever_else_has_changed(bundle_folder: Path) -> None:
    (bundle_folder / "manifest.json").write_text('{"format": "leukoscope-bundle", "version": 7, "tasks": []}')
    assert "version: newer than this program: got 7" in refusal(bundle_folder)


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/passwd", "golden/../../evil", "golden/sub/x", "golden//x", "other/x", "..", ".", "", ".hidden",
        "golden/.hidden", "golden/", "a\\b", "C:x", "a b", "a\0b", "model.tflite\n", "ä.png", "golden/..", "x" * 101,
        "manifest.json", "-rf",
    ],
)  # fmt: skip
def test_names_that_could_lead_elsewhere_are_refused(bundle_folder: Path, name: str) -> None:
    spoil(bundle_folder, lambda stated: stated["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    assert "files" in refusal(bundle_folder)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"sha256": "0" * 63, "bytes": 1}, "files.x.bin.sha256"),
        ({"sha256": "0" * 64 + "\n", "bytes": 1}, "files.x.bin.sha256"),
        ({"sha256": "0" * 64, "bytes": -1}, "files.x.bin.bytes: got -1, expected 0 to 536870912"),
        ({"sha256": "0" * 64, "bytes": 2**40}, "files.x.bin.bytes"),
        ({"sha256": "0" * 64}, "files.x.bin.bytes: missing"),
        ("0" * 64, "files.x.bin: got a text, expected an object"),
    ],
)
def test_wrong_entries_of_files_are_named(bundle_folder: Path, entry: Any, says: str) -> None:
    assert says in refusal(spoil(bundle_folder, lambda stated: stated["files"].update({"x.bin": entry})))


def test_a_bundle_without_a_model_is_refused(bundle_folder: Path) -> None:
    spoil(bundle_folder, lambda stated: stated["files"].pop("model.tflite"))
    assert "files: no model: expected model.tflite or model.onnx" in refusal(bundle_folder)


WHOLE = json.dumps(whole())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not JSON"),
        (b"null", "not an object: got null, expected a JSON object"),
        (b"[1]", "not an object: got a list"),
        (b"{", "not JSON"),
        (WHOLE.encode() + b"x", "not JSON"),
        (WHOLE.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf" + WHOLE.encode(), "not JSON"),
        (WHOLE.encode().replace(b"Benign", b"B\xff"), "not UTF-8"),
        (WHOLE.replace("Benign", "\\ud800").encode(), "not UTF-8"),
        (WHOLE.replace("1.5", "NaN").encode(), "not a number of JSON: got NaN"),
        (WHOLE.replace("1.5", "Infinity").encode(), "not a number of JSON: got Infinity"),
        (WHOLE.replace("1.5", "-Infinity").encode(), "not a number of JSON: got -Infinity"),
        (WHOLE.replace("1.5", "1e999").encode(), "not a number of JSON: got 1e999"),
        (WHOLE.replace("1.5", "9" * 5000).encode(), "not JSON"),
        (WHOLE.replace('"version": 1', '"version": 1, "version": 2').encode(), "version: stands there twice"),
        (WHOLE.replace('"kind"', '"labels": ["x", "y"], "kind"').encode(), "labels: stands there twice"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"[" * 200_000, "nested too deeply"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "too large: got 1048577 bytes, expected at most 1048576"),
    ],
)
def test_what_is_no_proper_json_is_refused(bundle_folder: Path, text: bytes, says: str) -> None:
    (bundle_folder / "manifest.json").write_bytes(text)
    assert says in refusal(bundle_folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("background", "black", "preprocess.background: got 'black', expected 'keep' or 'neutral-field'"),
        ("background", "neutral-cell", "preprocess.background: got 'neutral-cell', expected 'keep' or 'neutral-field'"),
        ("background", None, "preprocess.background: got null"),
        ("stain", "macenko", "preprocess.stain: got 'macenko', expected 'keep' or 'reinhard'"),
        ("stain", ["keep"], "preprocess.stain: got a list"),
    ],
)
def test_standardisation_that_nobody_knows_is_refused(key: str, value: Any, says: str) -> None:
    """Another word means other pixels: a reader that took it for "keep" would classify what the network never saw."""
    stated = whole()
    stated["version"] = 2
    stated["preprocess"] |= {"background": "keep", "stain": "keep"} | {key: value}
    with pytest.raises(BundleError, match="^manifest.json: " + re.escape(says)):
        parse_manifest(json.dumps(stated).encode())
