"""Pipeline: one run through all stages, measured after each - ONNX, TFLite, INT8 - with the ladder as its result.

What comes in is an evaluated run and its index; what goes out is an `Export`: model files, the ladder's rows and the
shipped model's own metrics over the whole test split. The stages are values (`Stages`), so that a test can put a faulty
one in place of a good one and see which gate catches it. Nothing is written here: that is `pack`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.manifest import IOSpec
from train.evaluate import index_of, measure, network_outputs

from .calibration import CalibrationSet, check, choose_calibration
from .errors import ExportError
from .parity import (
    Outputs,
    Row,
    calibration_row,
    compare_fp32,
    compare_gradcam,
    compare_quantized,
    engine_outputs,
    input_row,
    preparation_row,
)
from .quantize import quantize
from .recipes import CALIBRATION_IMAGES, Recipe
from .to_onnx import CLASS_MAP, INPUT, LOGITS, to_onnx
from .to_tflite import to_tflite

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.preprocess import Pixels
    from train.index import Index
    from train.network import SelfExplaining
    from train.run_folder import Run

EVALUATED = ("temperature", "operating_points", "metrics")
MAX_MACRO_F1_GAP = 0.005
"""Between what ``run.json`` says of the reference and what is measured here, 0..1: a picture on the fence may fall to
another side on another machine, but not more."""


@dataclass(frozen=True)
class Stages:
    """The steps from weights to a file that ships.

    Attributes:
        to_onnx: (network, input_px) -> ONNX.
        to_tflite: (network, its ONNX, input_px) -> TFLite, full precision.
        choose: (index, protocol, images, seed) -> calibration set.
        quantize: (TFLite, pixels of the calibration set (N, H, W, 3) uint8, recipe) -> TFLite.
    """

    to_onnx: Callable[[SelfExplaining, int], bytes] = to_onnx
    to_tflite: Callable[[SelfExplaining, bytes, int], bytes] = to_tflite
    choose: Callable[[Index, str, int, int], CalibrationSet] = choose_calibration
    quantize: Callable[[bytes, Pixels, Recipe], bytes] = quantize


@dataclass(frozen=True)
class Export:
    """A run after all stages.

    Attributes:
        run: what was exported.
        index: its data.
        recipe: how.
        models: file name -> bytes, of those that ship; empty where the ladder ended early.
        io: what the models look like.
        rows: the ladder.
        metrics: of the shipped model over the test split, through ``edge_runtime``, as `train.evaluate.measure` gives
            them; empty where the ladder ended early.
        calibration: pictures used, None where not quantized.
        steps: quantization step of logits and class map; None where float.
    """

    run: Run
    index: Index
    recipe: Recipe
    models: dict[str, bytes] = field(repr=False)
    io: IOSpec
    rows: tuple[Row, ...]
    metrics: dict[str, Any] = field(repr=False)
    calibration: CalibrationSet | None
    steps: tuple[float | None, float | None]

    @property
    def passed(self) -> bool:
        """Tell whether every gate passed, to the end of the ladder."""
        return bool(self.models) and all(row.passed for row in self.rows)

    @property
    def name(self) -> str:
        """Name of the bundle: task, backbone, recipe."""
        return f"{self.run.task.name}-{self.run.backbone}-{self.recipe.name}"


def export_run(
    run: Run,
    recipe: Recipe,
    index_folder: Path | None = None,
    images: int = CALIBRATION_IMAGES,
    seed: int = 0,
    go_on: bool = False,
    stages: Stages = Stages(),
) -> Export:
    """Convert a run and measure it after every stage.

    Args:
        run: evaluated.
        recipe: row of `recipes.RECIPES`.
        index_folder: where its index lies now; None: where `fit` found it.
        images: size of the calibration set.
        seed: of the calibration set.
        go_on: quantize even where a gate on full precision failed; else the ladder ends there.
        stages: the steps; tests put faulty ones here.

    Returns:
        All that a bundle is made of. Where a full-precision model gives outputs that are not finite, or is not the same
        function and `go_on` is false, the ladder ends there and `Export.models` is empty.

    Raises:
        ExportError: the run is not evaluated, a converter fails, or the calibration set touches the held-out splits.
        DataError: the index is not the run's.
    """
    from train.geometry import placement
    from train.pixels import load_pixels

    missing = [key for key in EVALUATED if key not in run.info]
    if missing:
        raise ExportError(
            f"{run.folder}: not evaluated",
            got=f"no {missing[0]} in run.json",
            todo=f"run: python -m train evaluate {run.folder}",
        )
    index = index_of(run, index_folder)
    pixels, test = load_pixels(index, run.preprocess), index.select(run.protocol, "test")
    reference = Outputs(*network_outputs(run.network, pixels, test, progress="parity: torch"))
    _, height, width, classes = reference.class_map.shape
    place = placement(run.network.features, "", run.input_px)
    io = IOSpec(INPUT, run.input_px, LOGITS, CLASS_MAP, height, width, place.first_px, place.step_px, classes)
    if reference.whole:
        _same_as_evaluated(run, reference, index.targets(test))

    def finished(models: dict[str, bytes], shipped: Outputs | None, calibration: CalibrationSet | None) -> Export:
        metrics: dict[str, Any] = {}
        if models and shipped is not None:
            points = run.info["operating_points"]
            metrics = measure(shipped.logits, index, test, run.info["temperature"], points)
        steps = shipped.steps if shipped else (None, None)
        return Export(run, index, recipe, models, io, tuple(rows), metrics, calibration, steps)

    rows = [preparation_row(index, test, pixels, run.preprocess)]
    rows += compare_gradcam(run.network, pixels, test, reference)
    onnx = stages.to_onnx(run.network, run.input_px)
    by_onnx = engine_outputs(onnx, io, pixels, test, "onnxruntime")
    rows += compare_fp32("torch -> ONNX fp32", reference, by_onnx)
    if not by_onnx.whole or not (go_on or all(row.passed for row in rows)):
        return finished({}, None, None)
    tflite = stages.to_tflite(run.network, onnx, run.input_px)
    shipped = engine_outputs(tflite, io, pixels, test, "litert")
    rows += compare_fp32("torch -> TFLite fp32", reference, shipped)
    if not shipped.whole or not (go_on or all(row.passed for row in rows)):
        return finished({}, None, None)
    if recipe.calibration is None:
        return finished({"model.tflite": tflite, "model.onnx": onnx}, shipped, None)

    chosen = stages.choose(index, run.protocol, images, seed)
    check(index, run.protocol, chosen)
    rows.append(calibration_row(chosen))
    quantized = stages.quantize(tflite, np.ascontiguousarray(pixels[list(chosen.numbers)]), recipe)
    shipped = engine_outputs(quantized, io, pixels, test, "litert")
    groups = [index.rows[i].group for i in test]
    step = f"fp32 -> {recipe.name.upper()}"
    if shipped.whole:
        rows.append(input_row(step, quantized))
    rows += compare_quantized(step, reference, shipped, index.targets(test), groups, run.task.labels)
    return finished({"model.tflite": quantized} if shipped.whole else {}, shipped, chosen)


def _same_as_evaluated(run: Run, reference: Outputs, targets: npt.NDArray[np.int64]) -> None:
    """Refuse a ``run.json`` whose metrics are not of these weights on these pictures."""
    from train.metrics import evaluate_labels

    found = evaluate_labels(reference.logits.argmax(1), targets, len(run.task.labels), resamples=1)["macro_f1"]["value"]
    stated = run.info["metrics"]["test"]["macro_f1"]["value"]
    if abs(found - stated) > MAX_MACRO_F1_GAP:
        raise ExportError(
            f"{run.folder}: its metrics are not of its weights",
            got=f"macro-F1 {found:.4f} on the test split",
            expected=f"{stated:.4f}, as run.json says",
            todo=f"run: python -m train evaluate {run.folder}",
        )
