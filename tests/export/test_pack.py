"""Packing: one writer, whole or not at all, the same bytes for the same run, and honest about a failed gate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.cli import main as runtime
from edge_runtime.errors import BundleError
from edge_runtime.golden import verify
from edge_runtime.preprocess import Preprocess, decode, prepare
from edge_runtime.quality_limits import MEASURES
from export.cli import main
from export.errors import ExportError
from export.pack import render_golden, write_bundle
from export.parity import GATES
from export.pipeline import Export, Source, export_recipe, open_source
from export.recipes import TARGETS, Recipe, parse_recipe
from export.to_tflite import CONVERTERS
from train.run_folder import read_run

IMAGES = 48


@pytest.fixture(scope="module")
def source(rendered_run: Path) -> Source:
    return open_source(read_run(rendered_run), images=IMAGES)


@pytest.fixture(scope="module")
def export(source: Source) -> Export:
    return export_recipe(source, parse_recipe("tflite-int8"))


@pytest.fixture(scope="module")
def bundle(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "bundle"
    write_bundle(export, out)
    return out


def test_bundle_is_whole_and_verifies(bundle: Path) -> None:
    opened = open_bundle(bundle)
    manifest = opened.manifest
    assert manifest.raw["quantization"]["calibration"]["split"] == "train"
    assert manifest.raw["metrics"]["parity"]["passed"] is True
    stated = manifest.raw["outputs"]["class_map"]
    assert (stated["first_px"], stated["step_px"]) == (0.5, 32)  # MobileNetV2's, see tests/train/test_geometry.py
    assert set(manifest.quality) == set(MEASURES)
    assert verify(Classifier.open(opened)).passed
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "not a medical device" in card and "control, colour, 1-NN" in card
    assert sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) <= 3.0e6


def test_bundle_declines_as_it_states(bundle: Path, rendered_index: Path) -> None:
    classifier = Classifier.open(bundle)
    limits = classifier.bundle.manifest.abstention
    assert limits is not None and classifier.familiarity is not None and limits.distance_limit is not None
    found = classifier.bundle.manifest.raw["metrics"]["this"]["abstention"]
    assert found["coverage"]["value"] >= 0.9 and set(found["per_class"]) == set(classifier.labels)
    noise = np.random.default_rng(0).integers(256, size=(224, 224, 3), dtype=np.uint8)
    assert "unfamiliar" in [refusal.reason for refusal in classifier.classify(noise).refusals]
    assert "declines to answer" in (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_standardisation_of_the_run_is_that_of_the_bundle(export: Export, tmp_path: Path) -> None:
    """From run.json to the pixels of the runtime; a bundle with none is of version 1, for older readers."""
    source = export.source
    preprocess = Preprocess(source.io.input_px, background="neutral-field", stain="reinhard")
    info = source.run.info | {"preprocess": dataclasses.asdict(preprocess)}
    other = dataclasses.replace(source, run=dataclasses.replace(source.run, info=info))
    packed = write_bundle(dataclasses.replace(export, source=other), tmp_path / "bundle")
    assert (packed.manifest.version, packed.manifest.preprocess) == (2, preprocess)
    picture = render_golden("field", "Early", 0)
    prediction = Classifier.open(packed).classify(picture)
    assert (prediction.pixels == prepare(decode(picture), preprocess)).all()
    assert "background neutral-field, stain reinhard" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text("utf-8")


def test_a_bundle_without_standardisation_opens_with_older_readers(bundle: Path) -> None:
    stated = open_bundle(bundle).manifest.raw
    assert stated["version"] == 1 and set(stated["preprocess"]) == {"crop", "resample"}


def test_nothing_of_this_machine_is_inside(bundle: Path, rendered_run: Path) -> None:
    text = (bundle / "manifest.json").read_text(encoding="utf-8") + (bundle / "MODEL_CARD.md").read_text("utf-8")
    assert str(rendered_run.parent) not in text and "/tmp" not in text and "/home" not in text


def test_same_run_same_bytes(rendered_run: Path, bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    options = ["--recipe", "tflite-int8", "--calibration-images", str(IMAGES), "--out", str(again)]
    assert main(["pack", str(rendered_run), *options]) == 0
    files = sorted(p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in files:
        assert (bundle / name).read_bytes() == (again / name).read_bytes(), name


@pytest.mark.parametrize("target", ["onnx-fp32", "openvino-fp32"])
def test_other_formats_are_packed_and_verified_by_their_engine(
    source: Source, rendered_run: Path, tmp_path: Path, target: str
) -> None:
    out, row = tmp_path / target, TARGETS[target]
    packed = write_bundle(export_recipe(source, parse_recipe(target)), out)
    assert packed.models == row.models[:1] and set(row.models) <= set(packed.manifest.files)
    classifier = Classifier.open(out)
    assert classifier.engine.name == row.engine and verify(classifier).passed
    (out / row.models[-1]).write_bytes(b"x" * packed.manifest.files[row.models[-1]].size_bytes)
    with pytest.raises(BundleError, match="altered or damaged"):
        Classifier.open(out)


def test_what_is_there_is_not_overwritten(rendered_run: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(rendered_run), "--recipe", "onnx-fp32", "--out", str(bundle)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_failed_gate_says_where_it_loses(
    rendered_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = "tflite-int8:ranges=moving-average,rounding=nearest"
    options = ["--recipe", recipe, "--calibration-images", str(IMAGES), "--out", str(tmp_path / "x")]
    assert main(["pack", str(rendered_run), *options]) == 1
    out, error = capsys.readouterr()
    assert "worst layers" in out and "features." in out and f"python -m export debug {rendered_run}" in out
    assert "not packed: fp32 -> tflite-int8" in error and not (tmp_path / "x").exists()
    assert main(["debug", str(rendered_run), "--recipe", "onnx-fp32"]) == 2
    assert "others have no quantized layers" in capsys.readouterr().err


def test_many_layers_kept_in_float_are_recorded_whole(export: Export, tmp_path: Path) -> None:
    """A manifest takes a hundred characters of a recipe's name, and as many of the bundle's."""
    recipe = parse_recipe("tflite-int8:keep=" + "+".join(f"features.{i}.conv.2" for i in range(2, 18)))
    packed = write_bundle(dataclasses.replace(export, recipe=recipe), tmp_path / "kept")
    stated = packed.manifest.raw["quantization"]
    assert stated["recipe"] == recipe.slug and stated["options"] == recipe.options
    card = (tmp_path / "kept" / "MODEL_CARD.md").read_text(encoding="utf-8")
    images = len(export.source.calibration.numbers)
    assert f"--recipe {recipe.name} --calibration-images {images} --out BUNDLE" in card


@pytest.mark.parametrize(
    ("failed", "tried", "plain", "wide"),
    [
        ("tflite-int8", "tflite-int8", None, "tflite-16x8"),
        ("onnx-int8:qat=2", "onnx-int8", None, None),
        (
            "tflite-int8:converter=litert-torch,qat=2",
            "tflite-int8:converter=litert-torch,qat=2",
            "tflite-int8:converter=litert-torch",
            "tflite-16x8:converter=litert-torch",
        ),
    ],
)
def test_what_is_suggested_is_a_recipe_that_was_tried(
    export: Export, monkeypatch: pytest.MonkeyPatch, failed: str, tried: str, plain: str | None, wide: str | None
) -> None:
    """A fine-tuned ONNX file cannot be quantized otherwise, and another converter's file is another file."""
    from export import debug
    from export.suggestion import Attempt, Suggestion

    asked: list[str | None] = []

    def suggest(layers: object, requantize: object, judge: object, *recipes: Recipe | None) -> Suggestion:
        asked.extend(recipe.name if recipe else None for recipe in recipes)
        return Suggestion((), (Attempt(str(asked[0]), (), 1),), "as it is")

    monkeypatch.setattr(debug, "suggest", suggest)
    found = debug._search(dataclasses.replace(export, recipe=parse_recipe(failed)), [])
    assert asked == [tried, plain, wide]
    assert found.recipes == (() if tried == failed else (tried,))


def test_failed_gate_refuses_unless_taken_degraded(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tuple(
        GATES["int8_top1"].row(row.step, 0.5) if row.measure == "top-1 agreement" and "tflite-int8" in row.step else row
        for row in export.rows
    )
    worse = dataclasses.replace(export, rows=rows)
    with pytest.raises(ExportError, match=r"not packed: fp32 -> tflite-int8: top-1 agreement.*--allow-degraded"):
        write_bundle(worse, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()

    taken = tmp_path / "taken"
    write_bundle(worse, taken, allow_degraded=True)
    assert open_bundle(taken).manifest.parity_passed is False
    assert "DEGRADED" in (taken / "MODEL_CARD.md").read_text(encoding="utf-8")
    picture = taken / "golden" / "0.png"
    assert runtime(["classify", str(picture), "--model", str(taken)]) == 0
    assert "did not pass its parity gates" in capsys.readouterr().err


def test_tampered_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    model = bytearray((copy / "model.tflite").read_bytes())
    model[len(model) // 2] ^= 1
    (copy / "model.tflite").write_bytes(model)
    with pytest.raises(BundleError, match=r"model\.tflite"):
        Classifier.open(copy)


def test_foreign_folder_is_not_replaced(export: Export, tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("years of work")
    with pytest.raises(ExportError, match="not a bundle and will not be replaced"):
        write_bundle(export, out, force=True)
    assert (out / "chapter1.tex").read_text() == "years of work"


def test_missing_converter_is_one_line(
    rendered_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = dataclasses.replace(CONVERTERS["onnx2tf"], version=lambda: None)
    monkeypatch.setitem(CONVERTERS, "onnx2tf", missing)
    assert main(["pack", str(rendered_run), "--recipe", "tflite-int8", "--out", str(tmp_path / "x")]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1 and "pip install --no-deps" in error[0]
