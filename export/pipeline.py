"""Pipeline: one run through all stages, measured after each, with the ladder as its result.

What comes in is an evaluated run and its index; what goes out is an `Export`: model files, the ladder's rows and the
shipped model's own metrics over the whole test split. A `Source` holds what all exports of a run share - pixels, what
torch says of them, the full-precision files with their rungs - each made once, when it is first asked for.
`export_recipe` goes from there to the files of a recipe, through the engine that will run them. The stages are values
(`Stages`), so that a test can put a faulty one in place of a good one and see which gate catches it. Nothing is written
here: that is `pack`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.manifest import IOSpec
from train.evaluate import index_of, measure, network_outputs

from .calibration import CalibrationSet, check, choose_calibration
from .comparison import Comparison, Outputs, compare, engine_outputs
from .errors import ExportError
from .parity import (
    Row,
    calibration_row,
    compare_fp32,
    compare_gradcam,
    compare_quantized,
    finite_row,
    input_row,
    preparation_row,
    structure_row,
)
from .quantized import make_quantized
from .recipes import CALIBRATION_IMAGES, Recipe
from .to_onnx import CLASS_MAP, INPUT, LOGITS, to_onnx
from .to_openvino import to_openvino
from .to_tflite import CONVERTERS, to_tflite

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.preprocess import Pixels
    from train.index import Index
    from train.network import SelfExplaining
    from train.run_folder import Run

    from .qat import Tuned

Files = Mapping[str, bytes]

EVALUATED = ("temperature", "operating_points", "metrics")
MAX_MACRO_F1_GAP = 0.005
"""Between what ``run.json`` says of the reference and what is measured here, 0..1: a picture on the fence may fall to
another side on another machine, but not more."""


@dataclass(frozen=True)
class Stages:
    """The steps from weights to a file that ships.

    Attributes:
        to_onnx: (network, input_px) -> ONNX.
        to_tflite: (network, its ONNX, input_px, converter) -> TFLite, full precision.
        choose: (index, protocol, images, seed) -> calibration set.
        quantize: (full-precision files, pixels of the calibration set (N, H, W, 3) uint8, recipe) -> files.
    """

    to_onnx: Callable[[SelfExplaining, int], bytes] = to_onnx
    to_tflite: Callable[[SelfExplaining, bytes, int, str], bytes] = to_tflite
    choose: Callable[[Index, str, int, int], CalibrationSet] = choose_calibration
    quantize: Callable[[Files, Pixels, Recipe], dict[str, bytes]] = make_quantized


@dataclass(frozen=True)
class Full:
    """A full-precision form of a network.

    Attributes:
        files: of the model; empty where what it was made from gives no usable outputs.
        outputs: on the test split.
        rows: rungs that lead to it.
    """

    files: dict[str, bytes] = field(repr=False)
    outputs: Outputs
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Source:
    """What all exports of a run share.

    Attributes:
        run: what is exported.
        index: its data.
        pixels: (all, H, W, 3) uint8, of the whole index.
        test: numbers of the test pictures.
        network: the run's, or one fine-tuned from it.
        io: what every model of it looks like.
        reference: the network's outputs on the test pictures.
        rows: first rungs: preprocessing and heatmaps.
        calibration: pictures for the quantizers.
        stages: the steps.
    """

    run: Run
    index: Index
    pixels: Pixels = field(repr=False)
    test: tuple[int, ...] = field(repr=False)
    network: SelfExplaining = field(repr=False)
    io: IOSpec
    reference: Outputs = field(repr=False)
    rows: tuple[Row, ...]
    calibration: CalibrationSet
    stages: Stages
    _made: dict[str, Full] = field(default_factory=dict, repr=False)

    @property
    def calibration_pixels(self) -> Pixels:
        """Return the pixels of the calibration set, (N, H, W, 3) uint8."""
        return np.ascontiguousarray(self.pixels[list(self.calibration.numbers)])

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """Return the class numbers of the test pictures."""
        return self.index.targets(list(self.test))

    def compare(self, outputs: Outputs) -> Comparison:
        """Compare a model's outputs on the test pictures with the network's."""
        groups = [self.index.rows[i].group for i in self.test]
        return compare(self.reference, outputs, self.targets, groups, self.run.task.labels)

    def onnx(self) -> Full:
        """Return the network as ONNX."""
        return self._once(
            "onnx", lambda: self._full({"model.onnx": self.stages.to_onnx(self.network, self.io.input_px)})
        )

    def tflite(self, converter: str) -> Full:
        """Return the network as TFLite, by one of `CONVERTERS`; where that reads ONNX, the rungs of ONNX come first."""

        def convert(onnx: bytes) -> dict[str, bytes]:
            return {"model.tflite": self.stages.to_tflite(self.network, onnx, self.io.input_px, converter)}

        if CONVERTERS[converter].reads_onnx:
            return self._once(converter, lambda: self._after_onnx(convert))
        return self._once(converter, lambda: self._full(convert(b"")))

    def openvino(self) -> Full:
        """Return the network as OpenVINO's IR; through ONNX, whose rungs come first."""
        return self._once("openvino", lambda: self._after_onnx(to_openvino))

    def full(self, recipe: Recipe) -> Full:
        """Return the full-precision form that a recipe starts from."""
        if recipe.target.engine == "litert":
            return self.tflite(recipe.options["converter"])
        # OpenVINO's INT8 form is the ONNX one, converted
        return self.openvino() if recipe.target.engine == "openvino" and recipe.target.exact else self.onnx()

    def of(self, network: SelfExplaining) -> Source:
        """Return the source of another network that answers the same question."""
        reference = Outputs(*network_outputs(network, self.pixels, list(self.test), progress="parity: torch"))
        return dataclasses.replace(self, network=network, reference=reference, _made={})

    def _once(self, key: str, make: Callable[[], Full]) -> Full:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _after_onnx(self, convert: Callable[[bytes], dict[str, bytes]]) -> Full:
        onnx = self.onnx()
        return self._full(convert(onnx.files["model.onnx"]), onnx.rows) if onnx.files else onnx

    def _full(self, files: dict[str, bytes], before: tuple[Row, ...] = ()) -> Full:
        engine, title = next((engine, title) for name, (engine, title) in _FULL.items() if name in files)
        outputs = engine_outputs(files, self.io, self.pixels, self.test, engine)
        rows = (*before, *compare_fp32(f"torch -> {title} fp32", self.reference, outputs))
        return Full(files if outputs.whole else {}, outputs, rows)


_FULL = {
    "model.onnx": ("onnxruntime", "ONNX"),
    "model.tflite": ("litert", "TFLite"),
    "model.xml": ("openvino", "OpenVINO"),
}
"""File -> the engine that judges it, and what rungs call it."""


@dataclass(frozen=True)
class Export:
    """A run after all stages of a recipe.

    Attributes:
        source: what was exported.
        recipe: how.
        models: file name -> bytes, of those that ship; empty where the ladder ended early.
        rows: the ladder.
        outputs: of what ships, on the test pictures; of the last rung where the ladder ended early.
        metrics: of what ships over the test split, through ``edge_runtime``, as `train.evaluate.measure` gives them;
            empty where the ladder ended early.
        found: what ships beside the reference; None where the ladder ended early.
        full: the full-precision files that were quantized.
    """

    source: Source = field(repr=False)
    recipe: Recipe
    models: dict[str, bytes] = field(repr=False)
    rows: tuple[Row, ...]
    outputs: Outputs = field(repr=False)
    metrics: dict[str, Any] = field(repr=False)
    found: Comparison | None
    full: dict[str, bytes] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Tell whether every gate passed, to the end of the ladder."""
        return bool(self.models) and all(row.passed for row in self.rows)

    @property
    def name(self) -> str:
        """Name of the bundle: task, backbone, recipe."""
        return f"{self.source.run.task.name}-{self.source.run.backbone}-{self.recipe.slug}"

    @property
    def calibration(self) -> CalibrationSet | None:
        """The calibration set, None where none was needed."""
        return self.source.calibration if self.recipe.target.calibrated else None


def check_layers(run: Run, recipes: Sequence[Recipe]) -> None:
    """Refuse recipes that keep layers which a run's network does not have: in seconds, before anything is measured.

    What a converter makes of operators without weights is not known before; their module is looked for.

    Raises:
        UsageError: a name stands for no layer.
    """
    if any(recipe.keep for recipe in recipes):
        from .structure import kept_convolutions

        files = {"model.onnx": to_onnx(run.network, run.input_px)}
        for recipe in recipes:
            lite = recipe.target.engine == "litert"
            kept_convolutions(files, [name.partition("/")[0] if lite else name for name in recipe.keep])


def open_source(
    run: Run,
    index_folder: Path | None = None,
    images: int = CALIBRATION_IMAGES,
    seed: int = 0,
    stages: Stages = Stages(),
) -> Source:
    """Load what all exports of a run need, and measure the first rungs.

    Args:
        run: evaluated.
        index_folder: where its index lies now; None: where `fit` found it.
        images: size of the calibration set.
        seed: of the calibration set.
        stages: the steps; tests put faulty ones here.

    Raises:
        ExportError: the run is not evaluated, or the calibration set touches the held-out splits.
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
    chosen = stages.choose(index, run.protocol, images, seed)
    check(index, run.protocol, chosen)
    pixels, test = load_pixels(index, run.preprocess), index.select(run.protocol, "test")
    reference = Outputs(*network_outputs(run.network, pixels, test, progress="parity: torch"))
    _, height, width, classes = reference.class_map.shape
    place = placement(run.network.features, "", run.input_px)
    io = IOSpec(INPUT, run.input_px, LOGITS, CLASS_MAP, height, width, place.first_px, place.step_px, classes)
    if reference.whole:
        _same_as_evaluated(run, reference, index.targets(test))
    rows = (
        preparation_row(index, test, pixels, run.preprocess),
        *compare_gradcam(run.network, pixels, test, reference),
    )
    return Source(run, index, pixels, tuple(test), run.network, io, reference, rows, chosen, stages)


def export_recipe(source: Source, recipe: Recipe, go_on: bool = False, checkpoint: Path | None = None) -> Export:
    """Make the files of a recipe and measure them.

    Args:
        source: of `open_source`.
        recipe: of `recipes.parse_recipe`.
        go_on: quantize even where a gate on full precision failed; else the ladder ends there.
        checkpoint: folder for what a fine-tuning that is killed goes on from; None: it starts anew.

    Returns:
        All that a bundle is made of. Where a full-precision model gives outputs that are not finite, or is not the same
        function and `go_on` is false, the ladder ends there and `Export.models` is empty.

    Raises:
        ExportError: a converter or quantizer is not installed or fails.
        UsageError: the recipe keeps a layer that is not there.
    """
    tuned = _tuned(source, recipe, checkpoint) if recipe.qat_epochs else None
    # TFLite starts from what the fine-tuned network is in float; its ONNX form comes out of the fine-tuning quantized
    before = source.of(tuned.network) if tuned and recipe.target.engine == "litert" else source
    full = before.full(recipe)
    rows = [*source.rows, *full.rows]

    def finished(models: dict[str, bytes], outputs: Outputs, found: Comparison | None = None) -> Export:
        run, test = source.run, list(source.test)
        metrics: dict[str, Any] = {}
        if models:
            points = run.info["operating_points"]
            metrics = measure(outputs.logits, source.index, test, run.info["temperature"], points)
            found = found or source.compare(outputs)
        return Export(source, recipe, models, tuple(rows), outputs, metrics, found, full.files)

    if not full.files or not (go_on or all(row.passed for row in rows)):
        return finished({}, full.outputs)
    if recipe.target.exact:
        return finished(dict(full.files), full.outputs)
    if recipe.target.calibrated:
        rows.append(calibration_row(source.calibration))
    if tuned and recipe.target.engine == "onnxruntime":
        models = {"model.onnx": tuned.onnx}
    else:
        models = source.stages.quantize(full.files, source.calibration_pixels, recipe)
    outputs = engine_outputs(models, source.io, source.pixels, source.test, recipe.target.engine)
    step = f"fp32 -> {recipe.target.name}"
    rows.append(finite_row(step, outputs))
    if not (outputs.whole and source.reference.whole):
        return finished({}, outputs)
    rows.append(structure_row(step, full.files, models, recipe))
    if recipe.target.calibrated:
        rows.append(input_row(step, models))
    found = source.compare(outputs)
    rows += compare_quantized(step, source.reference, outputs, found, source.targets, source.run.task.labels)
    return finished(models, outputs, found)


def _tuned(source: Source, recipe: Recipe, checkpoint: Path | None) -> Tuned:
    """Fine-tune the network under fake quantization."""
    from .qat import fine_tune

    signed = recipe.target.activations == "int8"
    return fine_tune(
        source.run,
        source.index,
        source.pixels,
        source.calibration_pixels,
        recipe.qat_epochs,
        source.calibration.seed,
        signed,
        checkpoint,
    )


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
