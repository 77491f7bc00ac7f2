"""Recipes: the ways a run can be exported, as data. Command line, docs and tests iterate over this table."""

from __future__ import annotations

from dataclasses import dataclass

CALIBRATION_IMAGES = 400


@dataclass(frozen=True)
class Recipe:
    """One way to export.

    Attributes:
        name: as on the command line and at the end of the bundle's name.
        title: for people.
        weights: number format of the weights, as in the manifest.
        activations: number format between the operators, as in the manifest.
        calibration: how the activations' ranges come out of the calibration set: "min-max" (the widest range seen),
            "moving-average" (0.95 old + 0.05 new per picture, ai-edge-quantizer's default), "least-squares" (see
            ``ranges``); None: not quantized.
        rounding: of the weights: "nearest" step each, or "compensated" for each other (see ``rounding``); None: not.
        models: files of the bundle.
    """

    name: str
    title: str
    weights: str
    activations: str
    calibration: str | None
    rounding: str | None
    models: tuple[str, ...]


RECIPES: dict[str, Recipe] = {
    row.name: row
    for row in (
        Recipe(
            "fp32", "full precision, the reference", "float32", "float32", None, None, ("model.tflite", "model.onnx")
        ),
        Recipe(
            "int8",
            "8-bit integers throughout",
            "int8 per-channel",
            "int8",
            "least-squares",
            "compensated",
            ("model.tflite",),
        ),
    )
}
