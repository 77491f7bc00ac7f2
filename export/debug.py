"""Debug: why a gate failed - from an `Export` to a `Diagnosis`, and on request to the recipe with which it would pass.

What is quantized again is judged on pictures of the validation split: a recipe chosen on the test pictures would be
reported on them. Layers are measured on a few of the calibration set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .activations import Activations
from .comparison import Outputs, compare, engine_outputs
from .diagnosis import Diagnosis, diagnose
from .layer_noise import LayerNoise, tflite_noise
from .onnx_noise import onnx_noise
from .parity import Row, compare_quantized, finite_row
from .quantize import observe, quantize
from .recipes import TARGETS, Recipe, parse_recipe
from .suggestion import Suggestion, suggest

if TYPE_CHECKING:
    from .pipeline import Export, Files

NOISE_PICTURES = 24
JUDGE_PICTURES = 400
"""Validation pictures that a suggestion is judged on, spread over the split."""

WIDER = {"tflite-int8": "tflite-16x8"}
"""Target -> the one with activations of 16 bits."""


def debug(export: Export, search: bool = False) -> Diagnosis:
    """Say where a quantized model loses.

    Args:
        export: of `pipeline.export_recipe`, with models.
        search: look for a recipe with which the gates pass, too: quantizes several times.
    """
    source = export.source
    layers = measure_layers(export) if export.models else []
    suggestion = None
    if search and layers and not export.passed:
        suggestion = _search(export, layers)
    pictures = [source.index.rows[i].path for i in source.test]
    targets, labels = source.targets, source.run.task.labels
    return diagnose(layers, export.rows, source.reference, export.outputs, targets, labels, pictures, suggestion)


def measure_layers(export: Export) -> list[LayerNoise]:
    """Measure the noise of every layer; none where only weights were quantized."""
    pixels = export.source.calibration_pixels[:NOISE_PICTURES]
    if export.recipe.target.exact or not export.recipe.target.calibrated:
        return []
    if "model.tflite" in export.models:
        return tflite_noise(export.full["model.tflite"], export.models["model.tflite"], pixels)
    quantized = export.models
    if "model.xml" in quantized:  # converted from a QDQ graph, which is made again
        twin = Recipe(TARGETS["onnx-int8"], {**export.recipe.options, "qat": ""})
        quantized = export.source.stages.quantize(export.full, export.source.calibration_pixels, twin)
    return onnx_noise(export.full["model.onnx"], quantized["model.onnx"], pixels)


def _search(export: Export, layers: list[LayerNoise]) -> Suggestion:
    from train.evaluate import network_outputs

    source, recipe = export.source, export.recipe
    index, labels = source.index, source.run.task.labels
    held = index.select(source.run.protocol, "val")
    chosen = [held[place] for place in np.unique(np.linspace(0, len(held) - 1, JUDGE_PICTURES).astype(int))]
    reference = Outputs(*network_outputs(source.run.network, source.pixels, chosen, progress="debug: torch"))
    targets, groups = index.targets(chosen), [index.rows[i].group for i in chosen]

    pixels = source.calibration_pixels
    watched: dict[bytes, Activations] = {}  # once for all tries: most of their time

    def requantize(tried: Recipe) -> Files:
        full = export.full if tried.qat_epochs else source.full(tried).files
        model = full.get("model.tflite")
        if not model:
            return source.stages.quantize(full, pixels, tried)
        if model not in watched:
            watched[model] = observe(model, pixels)
        return {"model.tflite": quantize(model, pixels, tried, seen=watched[model])}

    def judge(files: Files) -> list[Row]:
        outputs = engine_outputs(files, source.io, source.pixels, chosen, recipe.target.engine)
        if not outputs.whole:
            return [finite_row(recipe.target.name, outputs)]
        found = compare(reference, outputs, targets, groups, labels)
        return compare_quantized(recipe.target.name, reference, outputs, found, targets, labels)

    if recipe.qat_epochs and recipe.target.engine == "onnxruntime":  # it cannot be quantized again: look without
        recipe = parse_recipe(recipe.target.name)
    converter = {key: value for key, value in recipe.options.items() if key == "converter"}
    plain = parse_recipe(recipe.target.name).choosing(**converter)
    wider = WIDER.get(recipe.target.name)
    wide = parse_recipe(wider).choosing(**converter) if wider else None
    found = suggest(layers, requantize, judge, recipe, plain if plain != recipe else None, wide)
    if recipe != export.recipe and not found.attempts[0].failed:
        return Suggestion((recipe.name,), found.attempts)
    return found
