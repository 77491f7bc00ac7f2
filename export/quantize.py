"""Quantize: from a full-precision TFLite file and calibration pixels to an INT8 file with the same input and outputs.

Post-training quantization: graph and scales by ai-edge-quantizer, weights per channel, activations per tensor. How far
the activations reach is chosen on the calibration set (see ``ranges``), and so is where each weight is rounded to (see
``rounding``). The input is not measured but known (see ``graph_input``). Outputs are quantized as the activations are,
or float where the layer that writes them stays in float; scale and zero point stand in the file, and
``edge_runtime.engines`` dequantizes with them.

Two ways out where eight bits lose too much (see ``diagnosis``): activations of 16 bits, whose kernels are slow on most
boards, or some layers in float. And two that quantize weights alone and need no calibration set, `quantize_weights`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edge_runtime.preprocess import Pixels

from .activations import Activations, watch
from .errors import ExportError
from .graph_input import CENTRE, NORMALISED, RANGES, put_on_pixels, take_off_normalisation
from .padding import pad_with_values
from .ranges import least_squares_ranges, set_ranges
from .recipes import Recipe
from .rounding import round_weights
from .selective import left_in_float, outputs_as_written
from .to_onnx import INPUT

BITS = {"int8": 8, "int16": 16}
"""Number format of a target's activations -> their bits."""


def quantize(
    model: bytes,
    pixels: Pixels,
    recipe: Recipe,
    threads: int = 2,
    seen: Activations | None = None,
) -> bytes:
    """Quantize a TFLite file.

    Args:
        model: full precision, uint8 pixels in.
        pixels: (N, H, W, 3) uint8, the calibration set.
        recipe: how; its target is ``tflite-int8`` or ``tflite-16x8``. With activations of 16 bits there are steps
            enough for the widest range: least squares is not asked.
        threads: for running the calibration set.
        seen: of `observe` for this model and these pixels; saves most of the time where a model is quantized often.

    Returns:
        TFLite file, uint8 pixels in.

    Raises:
        ExportError: a range is not finite, or the quantizer refuses the graph.
        UsageError: a layer to keep is not there.
    """
    recipes = _recipes()
    ranged, bits = recipe.options.get("ranges", "min-max"), BITS[recipe.target.activations]
    averaged = ranged == "moving-average"
    core = _core(model)
    static = recipes.static_wi8_ai8() if bits == 8 else recipes.static_wi8_ai16()
    chosen = left_in_float(static, core, recipe.keep)

    def make() -> bytes:
        from ai_edge_quantizer import calibrator, quantizer, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils

        update = qsv_utils.moving_average_update if averaged else qsv_utils.min_max_update
        manager = recipe_manager.RecipeManager()
        manager.load_quantization_recipe(chosen)
        measured = calibrator.Calibrator(core, num_threads=threads, qsv_update_func=update)
        signature = measured._tfl_interpreter.get_signature_list()
        # one picture shows the quantizer what there is to measure; `watch` measures it faster
        pictures = pixels if averaged else pixels[:1]
        data = [{INPUT: (picture[None].astype(np.float32) - CENTRE) / CENTRE} for picture in pictures]
        measured.calibrate({next(iter(signature)): data}, manager)
        ranges = measured.get_model_qsvs()
        flow = seen or watch(core, pixels, threads)
        if not averaged:
            ranges = set_ranges(ranges, flow.ranges)
        if ranged == "least-squares":
            ranges = set_ranges(ranges, least_squares_ranges(flow.ranges, flow.values))
        ranges = set_ranges(ranges, {NORMALISED: RANGES[bits]})
        _check(ranges)
        done = quantizer.Quantizer(core, chosen).quantize(
            ranges, enable_progress_bar=False, enable_progress_report=False
        )
        quantized = outputs_as_written(bytes(done.quantized_model)) if recipe.keep else bytes(done.quantized_model)
        if recipe.options["rounding"] == "compensated":
            quantized = round_weights(quantized, core, flow.inputs)
        return put_on_pixels(quantized)

    return _made(make)


def observe(model: bytes, pixels: Pixels, threads: int = 2) -> Activations:
    """Return what a calibration set makes flow in a float TFLite file, once for several calls of `quantize`."""
    return watch(_core(model), pixels, threads)


def _core(model: bytes) -> bytes:
    """Return what is quantized of a float file: all behind the normalisation."""
    return pad_with_values(take_off_normalisation(model))


def quantize_weights(model: bytes, recipe: Recipe) -> bytes:
    """Quantize the weights of a TFLite file and nothing else.

    Args:
        model: full precision, uint8 pixels in.
        recipe: how; its target is ``tflite-dynamic``, whose activations are quantized while it runs, each picture with
            its own range, or ``tflite-fp16``, which calculates in float32.

    Returns:
        TFLite file, uint8 pixels in, float outputs.

    Raises:
        ExportError: the quantizer refuses the graph.
    """
    recipes = _recipes()
    core = _core(model)

    def make() -> bytes:
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager

        if recipe.target.activations == "dynamic":
            chosen = recipes.dynamic_wi8_afp32()
        else:
            manager = recipe_manager.RecipeManager()
            casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
            every = qtyping.TFLOperationName.ALL_SUPPORTED
            manager.add_weight_only_config(".*", every, num_bits=16, algorithm_key=casting)
            chosen = manager.get_quantization_recipe()
        done = quantizer.Quantizer(core, chosen).quantize(enable_progress_bar=False, enable_progress_report=False)
        return put_on_pixels(bytes(done.quantized_model))

    return _made(make)


def _recipes() -> Any:
    try:
        from ai_edge_quantizer import recipe
    except ImportError as error:
        todo = 'pip install "leukoscope[export]"'
        raise ExportError("ai-edge-quantizer is not installed", got=str(error), todo=todo) from None
    return recipe


def _made(make: Callable[[], bytes]) -> bytes:
    """Run the quantizer, quietly and with one kind of error."""
    try:
        with _quiet():
            return make()
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001 - the quantizer raises anything
        raise ExportError("the graph cannot be quantized", got=f"{type(error).__name__}: {error}"[:300]) from None


def _check(ranges: dict[str, Any]) -> None:
    for name, sides in ranges.items():
        for side in ("min", "max"):
            if side in sides and not np.isfinite(sides[side]).all():
                raise ExportError("the calibration set gives a range that is not finite", got=name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's progress bars, warnings and log lines off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        unheard = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stderr(unheard), contextlib.redirect_stdout(unheard):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
