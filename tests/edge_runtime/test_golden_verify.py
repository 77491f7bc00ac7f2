"""`verify` passes a whole bundle and finds each kind of difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_maker import LABELS, TINY_IO, encoded, replace_file, smear, spoil, tiny, tiny_bundle
from PIL import Image

from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.golden import VerifyReport, expected, parse_expected, verify


def report(folder: Path) -> VerifyReport:
    """Verify a bundle."""
    return verify(Classifier.open(folder))


def change_expected(folder: Path, change: Any) -> Path:
    """Change what the first golden picture must give, with a right hash."""
    stated = json.loads((folder / "golden/0.json").read_bytes())
    change(stated)
    return replace_file(folder, "golden/0.json", json.dumps(stated).encode())


def test_a_whole_bundle_passes(valid_bundle: Path) -> None:
    found = report(valid_bundle)
    assert found.passed and len(found.cases) == 2 and found.engine == "litert"
    assert all(case.pixels_equal and case.logits_diff == 0 and case.class_map_diff == 0 for case in found.cases)
    json.dumps(found.to_dict(), allow_nan=False)


def test_another_correct_engine_passes_within_the_tolerance(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "b", "float32", "onnx")
    found = verify(Classifier.open(folder, "onnxruntime"))
    assert found.passed and found.engine == "onnxruntime"


def test_other_weights_are_found(bundle_folder: Path) -> None:
    import hashlib

    model = bytearray(tiny("int8"))
    original = Classifier.open(bundle_folder).classify(smear(seed=0)).logits
    # Flip bytes from the end (where the weights lie) until the function changes; the file stays loadable.
    for place in range(1500, 4000, 40):
        changed = model.copy()
        changed[place : place + 40] = bytes(255 - byte for byte in changed[place : place + 40])
        replace_file(bundle_folder, "model.tflite", bytes(changed))
        try:
            logits = Classifier.open(bundle_folder).classify(smear(seed=0)).logits
        except (EngineError, BundleError):
            continue
        if np.abs(logits - original).max() > 0.5:
            break
    else:
        pytest.fail("no byte of the model matters")
    assert hashlib.sha256((bundle_folder / "model.tflite").read_bytes()).digest()
    found = report(bundle_folder)
    assert not found.passed and max(case.logits_diff for case in found.cases) > 0.2


def test_another_picture_is_found(bundle_folder: Path) -> None:
    replace_file(bundle_folder, "golden/0.png", encoded(Image.fromarray(smear(seed=50))))
    first, second = report(bundle_folder).cases
    assert not first.pixels_equal and not first.passed and second.passed


@pytest.mark.parametrize(
    "change",
    [
        lambda stated: stated["logits"].__setitem__(0, stated["logits"][0] + 0.3),
        lambda stated: stated["class_map"][0][0].__setitem__(0, stated["class_map"][0][0][0] - 0.5),
        lambda stated: stated.update(label=LABELS[1 - LABELS.index(stated["label"]) or 2]),
        lambda stated: stated.update(pixels_sha256="0" * 64),
    ],
)
def test_another_expectation_is_found(bundle_folder: Path, change: Any) -> None:
    found = report(change_expected(bundle_folder, change))
    assert [case.passed for case in found.cases] == [False, True] and not found.passed


def test_an_altered_file_that_no_picture_needs_is_found(bundle_folder: Path) -> None:
    (bundle_folder / "MODEL_CARD.md").write_bytes(b"# A lie\n")
    card = (bundle_folder / "MODEL_CARD.md").stat().st_size
    spoil(bundle_folder, lambda stated: stated["files"]["MODEL_CARD.md"].update(bytes=card))
    with pytest.raises(BundleError, match=r"MODEL_CARD\.md: altered or damaged"):
        report(bundle_folder)


def test_an_engine_that_fails_is_a_case_that_did_not_pass(valid_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime.engines import Engine

    def fail(self: Engine, pixels: np.ndarray) -> None:
        raise EngineError("logits: 1 of 5 values are NaN or infinite")

    monkeypatch.setattr(Engine, "run", fail)
    found = report(valid_bundle)
    assert not found.passed and "NaN" in found.cases[0].error
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["cases"][0]["logits_diff"] is None


def test_the_writer_and_the_reader_agree_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    pixels = smear(32)
    logits, class_map = rng.normal(size=5).astype(np.float32), rng.normal(size=(4, 4, 5)).astype(np.float32)
    text = json.dumps(expected(pixels, logits, class_map, LABELS)).encode()
    found = parse_expected(text, LABELS, (TINY_IO.map_height, TINY_IO.map_width), "x.json")
    assert np.array_equal(found.logits, logits) and np.array_equal(found.class_map, class_map)
    assert found.label == LABELS[int(np.argmax(logits))]
    with pytest.raises(EngineError, match="NaN or infinite"):
        expected(pixels, logits * np.float32("nan"), class_map, LABELS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda stated: stated.pop("logits"), "logits: missing"),
        (lambda stated: stated.update(logits=[1.0]), r"logits: got shape \(1,\), expected \(5,\)"),
        (lambda stated: stated.update(logits=["a"] * 5), "logits: not numbers"),
        (lambda stated: stated.update(class_map=[[1, 2], [3]]), "class_map: not numbers"),
        (lambda stated: stated["logits"].__setitem__(0, 1e300), "logits"),
        (lambda stated: stated.update(label="Other?"), "label: got 'Other\\?'"),
        (lambda stated: stated.update(label=["Other"]), "label"),
    ],
)
def test_expected_files_that_say_nothing_usable_are_named(bundle_folder: Path, change: Any, says: str) -> None:
    with pytest.raises(BundleError, match=says) as caught:
        report(change_expected(bundle_folder, change))
    assert "golden/0.json" in str(caught.value)
