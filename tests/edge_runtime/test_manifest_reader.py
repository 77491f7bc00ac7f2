"""A valid manifest is read as it is; what every other one is told stands in tests/attacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundle_maker import LABELS, TINY_IO
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import BundleError
from edge_runtime.heatmap import Placement
from edge_runtime.manifest import Manifest, Measure, parse_manifest
from edge_runtime.preprocess import BACKGROUNDS, STAINS, Preprocess


@pytest.fixture
def stated(valid_bundle: Path) -> dict[str, Any]:
    """Return a valid manifest as JSON has it."""
    found: dict[str, Any] = json.loads((valid_bundle / "manifest.json").read_bytes())
    return found


def parsed(stated: dict[str, Any]) -> Manifest:
    """Parse a manifest given as a dict."""
    return parse_manifest(json.dumps(stated).encode())


def test_a_valid_manifest_is_read_as_it_is(stated: dict[str, Any]) -> None:
    manifest = parsed(stated)
    assert manifest.raw == stated
    assert manifest.task.labels == LABELS and manifest.task.kind == "field"
    assert manifest.io == TINY_IO
    assert (manifest.temperature, manifest.recipe, manifest.backbone) == (1.5, "int8", "tiny")
    assert manifest.parity_passed and manifest.macro_f1 == Measure(0.99, 0.98, 0.997)
    point = manifest.operating_points[0]
    assert (point.name, point.positive, point.threshold) == ("malignant", ("Other",), 0.25)
    assert manifest.golden.cases[1] == ("golden/1.png", "golden/1.json")
    assert manifest.files["MODEL_CARD.md"].size_bytes == 9
    assert (manifest.preprocess.input_px, manifest.preprocess.crop) == (32, "centre-square")


def test_version_2_has_standardisation(stated: dict[str, Any]) -> None:
    stated["version"] = 2
    stated["preprocess"] |= {"background": "neutral-field", "stain": "reinhard"}
    assert parsed(stated).preprocess == Preprocess(32, background="neutral-field", stain="reinhard")
    stated["preprocess"] |= {"background": "keep", "stain": "keep"}
    assert parsed(stated).preprocess == Preprocess(32)


def test_every_standardisation_is_accepted_where_it_fits(stated: dict[str, Any]) -> None:
    """The reader imports no numpy, so it has the words of `preprocess` once more."""
    stated["version"] = 2
    for kind in ("cell", "field"):
        stated["task"]["kind"] = kind
        for background in BACKGROUNDS:
            for stain in STAINS:
                stated["preprocess"] |= {"background": background, "stain": stain}
                if background in ("keep", f"neutral-{kind}"):
                    assert parsed(stated).preprocess == Preprocess(32, background=background, stain=stain)
                else:
                    with pytest.raises(BundleError, match=f"preprocess.background: got '{background}'"):
                        parsed(stated)


def test_class_map_may_say_where_its_cells_lie(stated: dict[str, Any]) -> None:
    class_map = stated["outputs"]["class_map"]
    class_map |= {"first_px": 0.5, "step_px": 8}
    io = parsed(stated).io
    assert (io.map_first_px, io.map_step_px) == (0.5, 8.0)
    class_map |= {"first_px": 0, "step_px": 32}  # the limits themselves
    io = parsed(stated).io
    assert (io.map_first_px, io.map_step_px) == (0.0, 32.0)
    class_map |= {"first_px": 32.0, "step_px": 1}
    io = parsed(stated).io
    assert (io.map_first_px, io.map_step_px) == (32.0, 1.0)


def test_cells_share_the_picture_out_where_nothing_is_said(stated: dict[str, Any]) -> None:
    class_map = stated["outputs"]["class_map"]
    assert not {"first_px", "step_px"} & set(class_map)
    io = parsed(stated).io
    assert Placement(io.map_first_px, io.map_step_px, io.input_px) == Placement.grid(io.map_width, io.input_px)
    class_map["first_px"] = 0.5
    assert (parsed(stated).io.map_first_px, parsed(stated).io.map_step_px) == (0.5, 8.0)
    class_map["step_px"] = 16
    del class_map["first_px"]
    assert (parsed(stated).io.map_first_px, parsed(stated).io.map_step_px) == (8.0, 16.0)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("first_px", "0.5", "got a text, expected a number"),
        ("first_px", None, "got null, expected a number"),
        ("first_px", True, "expected a number"),
        ("first_px", -0.5, "got -0.5, expected 0 to 32"),
        ("first_px", 32.5, "got 32.5, expected 0 to 32"),
        ("step_px", [8], "expected a number"),
        ("step_px", False, "expected a number"),
        ("step_px", 0, "got 0, expected 1 to 32"),
        ("step_px", -8, "got -8, expected 1 to 32"),
        ("step_px", 10**400, "expected 1 to 32"),
    ],
)
def test_cells_that_cannot_lie_there_are_refused(stated: dict[str, Any], key: str, value: object, says: str) -> None:
    stated["outputs"]["class_map"][key] = value
    with pytest.raises(BundleError, match=rf"outputs\.class_map\.{key}: .*{says}"):
        parsed(stated)


def test_quality_is_read_side_by_side_with_measures_of_later_programs(stated: dict[str, Any]) -> None:
    stated["quality"] = {
        "sharpness": {"low": 0.3, "why": "tried"},
        "noise": {"high": 12},
        "tilt": {"low": [], "x": None},
    }
    assert parse_manifest(json.dumps(stated).encode()).quality == {"sharpness": 0.3, "noise": 12.0}
    stated["quality"] = {}
    assert parse_manifest(json.dumps(stated).encode()).quality == {}
    del stated["quality"]
    assert parse_manifest(json.dumps(stated).encode()).quality == {}


def test_unknown_keys_are_ignored(stated: dict[str, Any]) -> None:
    stated["later"] = {"a": [1, None]}
    stated["quantization"]["granularity"] = "per-channel"
    assert parsed(stated).raw["later"] == {"a": [1, None]}


def test_what_may_be_missing_may_be_missing(stated: dict[str, Any]) -> None:
    stated["operating_points"] = []
    stated["quantization"]["calibration"] = None
    stated["metrics"]["this"] = {}
    stated["metrics"]["parity"] = {"passed": False, "rows": []}
    stated["temperature"] = 2
    manifest = parsed(stated)
    assert manifest.macro_f1 is None and manifest.operating_points == () and not manifest.parity_passed
    stated["metrics"]["this"] = {"macro_f1": 0.9}
    assert parsed(stated).macro_f1 == Measure(0.9, None, None)


def test_labels_may_be_of_any_script(stated: dict[str, Any]) -> None:
    stated["task"]["labels"] = ["良性", "Früh", "Pré", "Про", "Other"]
    assert parsed(stated).task.labels[0] == "良性"


VALID = json.dumps({"format": "leukoscope-bundle", "version": 1, "task": {"labels": ["a", "b"], "n": [1.5, None]}})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 10_000))
def test_damaged_manifests_give_a_bundle_error_of_one_line(changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(VALID.encode())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with pytest.raises(BundleError) as caught:
        parse_manifest(bytes(damaged[: cut % len(damaged)] if cut % 3 == 0 else damaged))
    assert str(caught.value).startswith("manifest.json: ") and "\n" not in str(caught.value)
