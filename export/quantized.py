"""Quantized: from full-precision files to those of a recipe - which quantizer makes what, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.preprocess import Pixels

from .halve import halve_onnx
from .qdq import quantize_onnx
from .quantize import quantize, quantize_weights
from .recipes import Recipe
from .to_openvino import to_openvino


def make_quantized(files: Mapping[str, bytes], pixels: Pixels, recipe: Recipe) -> dict[str, bytes]:
    """Make the files of a recipe that is not full precision.

    Args:
        files: of the full-precision model that the recipe starts from.
        pixels: (N, H, W, 3) uint8, the calibration set.
        recipe: how.

    Raises:
        ExportError: a quantizer is not installed or refuses the graph.
        UsageError: the recipe keeps a layer that is not there.
    """
    target, options = recipe.target, recipe.options
    if "model.tflite" in files:
        model = files["model.tflite"]
        made = quantize(model, pixels, recipe) if target.calibrated else quantize_weights(model, recipe)
        return {"model.tflite": made}
    if not target.calibrated:
        return {"model.onnx": halve_onnx(files["model.onnx"])}
    signed = target.activations == "int8"
    made = quantize_onnx(files["model.onnx"], pixels, signed, options["rounding"], recipe.keep)
    return to_openvino(made) if target.engine == "openvino" else {"model.onnx": made}
