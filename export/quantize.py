"""Quantize: from a full-precision TFLite file and calibration pixels to an INT8 file with the same input and outputs.

Post-training quantization: graph and scales by ai-edge-quantizer, weights per channel, activations per tensor. How far
the activations reach is chosen on the calibration set (see ``ranges``), and so is where each weight is rounded to (see
``rounding``). The input is not measured but known (see ``graph_input``). Outputs are INT8; their scale and zero point
stand in the file, and ``edge_runtime.engines`` dequantizes with them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from edge_runtime.preprocess import Pixels

from .activations import watch
from .errors import ExportError
from .graph_input import CENTRE, NORMALISED, RANGE, put_on_pixels, take_off_normalisation
from .max_pooling import pad_with_values
from .ranges import least_squares_ranges, set_ranges
from .recipes import Recipe
from .rounding import round_weights
from .to_onnx import INPUT


def quantize(model: bytes, pixels: Pixels, recipe: Recipe, threads: int = 2) -> bytes:
    """Quantize a TFLite file.

    Args:
        model: full precision, uint8 pixels in.
        pixels: (N, H, W, 3) uint8, the calibration set.
        recipe: how.
        threads: for running the calibration set.

    Returns:
        TFLite file, uint8 pixels in.

    Raises:
        ExportError: a range is not finite, or the quantizer refuses the graph.
    """
    try:
        from ai_edge_quantizer import calibrator, quantizer, recipe_manager
        from ai_edge_quantizer import recipe as recipes
        from ai_edge_quantizer.utils import qsv_utils
    except ImportError as error:
        todo = 'pip install "leukoscope[export]"'
        raise ExportError("ai-edge-quantizer is not installed", got=str(error), todo=todo) from None
    averaged = recipe.calibration == "moving-average"
    update = qsv_utils.moving_average_update if averaged else qsv_utils.min_max_update
    core = pad_with_values(take_off_normalisation(model))
    try:
        with _quiet():
            static = recipes.static_wi8_ai8()
            manager = recipe_manager.RecipeManager()
            manager.load_quantization_recipe(static)
            measured = calibrator.Calibrator(core, num_threads=threads, qsv_update_func=update)
            signature = measured._tfl_interpreter.get_signature_list()
            # one picture shows the quantizer what there is to measure; `watch` measures it faster
            pictures = pixels if averaged else pixels[:1]
            data = [{INPUT: (picture[None].astype(np.float32) - CENTRE) / CENTRE} for picture in pictures]
            measured.calibrate({next(iter(signature)): data}, manager)
            ranges = measured.get_model_qsvs()
            seen = watch(core, pixels, threads)
            if not averaged:
                ranges = set_ranges(ranges, seen.ranges)
            if recipe.calibration == "least-squares":
                ranges = set_ranges(ranges, least_squares_ranges(seen.ranges, seen.values))
            ranges = set_ranges(ranges, {NORMALISED: RANGE})
            _check(ranges)
            done = quantizer.Quantizer(core, static).quantize(
                ranges, enable_progress_bar=False, enable_progress_report=False
            )
            quantized = bytes(done.quantized_model)
            if recipe.rounding == "compensated":
                quantized = round_weights(quantized, core, seen.inputs)
            return put_on_pixels(quantized)
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
