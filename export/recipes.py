"""Recipes: the ways a run can be exported, as data. Command line, docs and tests iterate over these tables.

A recipe is a target - what kind of file, for which engine - with its options. Its name says all of it: the target's
name, then the options that are not as the target has them by default, ``tflite-int8:rounding=nearest,qat=2``.
`parse_recipe` turns such a name into the recipe, and `Recipe.name` gives it back.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.errors import UsageError

CALIBRATION_IMAGES = 400

LONGEST_LINE = 100
"""Characters of a recipe's name that a manifest takes."""

LONGEST_SLUG = 48
"""Characters of a slug; with task and backbone before it, it still is a bundle's name."""


@dataclass(frozen=True)
class Option:
    """Something that a recipe may choose.

    Attributes:
        name: as in a recipe's name.
        title: for people.
        choices: what it can be, the default first; empty: any text that `pattern` takes, "" by default.
        pattern: of a free text.
        example: of a free text.
    """

    name: str
    title: str
    choices: tuple[str, ...] = ()
    pattern: str = ""
    example: str = ""

    @property
    def default(self) -> str:
        """What it is where a name does not say."""
        return self.choices[0] if self.choices else ""


OPTIONS: dict[str, Option] = {
    row.name: row
    for row in (
        Option("converter", "from the network to full-precision TFLite", ("onnx2tf", "litert-torch")),
        Option(
            "ranges",
            "of the activations, out of the calibration set: see `ranges`; the widest seen; 0.95 old + 0.05 new per "
            "picture, ai-edge-quantizer's default",
            ("least-squares", "min-max", "moving-average"),
        ),
        Option(
            "rounding",
            "of the weights: made up for by each other, biases corrected (see `rounding`); to the nearest step each, "
            "in ONNX with NNCF's correction of the biases",
            ("compensated", "nearest"),
        ),
        Option("keep", "layers left in float", (), r"[\w./]+(\+[\w./]+)*", "features.0.0+classifier"),
        Option("qat", "epochs of fine-tuning under fake quantization, before", (), r"[1-9]\d?", "2"),
    )
}


@dataclass(frozen=True)
class Target:
    """A kind of file, for an engine.

    Attributes:
        name: as on the command line.
        title: for people.
        models: files of the bundle.
        engine: of ``edge_runtime.engines.ENGINES``, which judges it here.
        runs_on: where it is meant to run.
        weights: number format of the weights, as in the manifest.
        activations: number format between the operators, as in the manifest.
        calibrated: whether it needs a calibration set.
        options: of `OPTIONS`, which it takes.
    """

    name: str
    title: str
    models: tuple[str, ...]
    engine: str
    runs_on: str
    weights: str
    activations: str
    calibrated: bool
    options: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Tell whether it is the same function as the network, up to float32's rounding."""
        return self.weights == self.activations == "float32"


_TFLITE, _ONNX, _OPENVINO = ("model.tflite",), ("model.onnx",), ("model.xml", "model.bin")
_BOARDS = "Raspberry Pi, Jetson's CPU, x86"

TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        Target(
            "tflite-fp32",
            "TFLite, full precision",
            _TFLITE,
            "litert",
            _BOARDS,
            "float32",
            "float32",
            False,
            ("converter",),
        ),
        Target(
            "tflite-fp16",
            "TFLite, weights halved",
            _TFLITE,
            "litert",
            _BOARDS,
            "float16",
            "float32",
            False,
            ("converter",),
        ),
        Target(
            "tflite-dynamic",
            "TFLite, 8-bit weights, activations quantized as they come",
            _TFLITE,
            "litert",
            _BOARDS,
            "int8 per-channel",
            "dynamic",
            False,
            ("converter",),
        ),
        Target(
            "tflite-int8",
            "TFLite, 8-bit integers throughout",
            _TFLITE,
            "litert",
            _BOARDS,
            "int8 per-channel",
            "int8",
            True,
            ("converter", "ranges", "rounding", "keep", "qat"),
        ),
        Target(
            "tflite-16x8",
            "TFLite, 8-bit weights, 16-bit activations",
            _TFLITE,
            "litert",
            _BOARDS,
            "int8 per-channel",
            "int16",
            True,
            ("converter", "rounding", "keep"),
        ),
        Target(
            "onnx-fp32",
            "ONNX, full precision",
            _ONNX,
            "onnxruntime",
            "any CPU, TensorRT on Jetson",
            "float32",
            "float32",
            False,
            (),
        ),
        Target(
            "onnx-fp16",
            "ONNX, half precision",
            _ONNX,
            "onnxruntime",
            "TensorRT on Jetson",
            "float16",
            "float16",
            False,
            (),
        ),
        Target(
            "onnx-int8",
            "ONNX with QDQ, unsigned activations",
            _ONNX,
            "onnxruntime",
            "any CPU",
            "int8 per-channel",
            "uint8, int8",
            True,
            ("rounding", "keep", "qat"),
        ),
        Target(
            "onnx-int8-trt",
            "ONNX with QDQ, signed and symmetric",
            _ONNX,
            "onnxruntime",
            "TensorRT on Jetson",
            "int8 per-channel",
            "int8",
            True,
            ("rounding", "keep", "qat"),
        ),
        Target(
            "openvino-fp32",
            "OpenVINO IR, full precision",
            _OPENVINO,
            "openvino",
            "Intel CPUs and GPUs",
            "float32",
            "float32",
            False,
            (),
        ),
        Target(
            "openvino-int8",
            "OpenVINO IR, 8-bit integers",
            _OPENVINO,
            "openvino",
            "Intel CPUs and GPUs",
            "int8 per-channel",
            "uint8, int8",
            True,
            ("rounding", "keep"),
        ),
    )
}


@dataclass(frozen=True)
class Recipe:
    """One way to export.

    Attributes:
        target: what is made.
        options: every option of the target -> what was chosen.
    """

    target: Target
    options: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name that `parse_recipe` takes."""
        usual = defaults(self.target, self.options.get("qat", ""))
        chosen = [f"{key}={value}" for key, value in self.options.items() if value != usual[key]]
        return ":".join([self.target.name, *([",".join(chosen)] if chosen else [])])

    @property
    def slug(self) -> str:
        """The name in lower-case letters, digits and hyphens; cut and numbered where that is another's, too."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower())
        if len(plain) <= LONGEST_SLUG and re.fullmatch("[a-z0-9:=,-]+", self.name):
            return plain
        number = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"{plain[: LONGEST_SLUG - len(number) - 1].rstrip('-')}-{number}"

    @property
    def line(self) -> str:
        """The name, or the slug where that is too long for a manifest; the options stand there whole in any case."""
        return self.name if len(self.name) <= LONGEST_LINE else self.slug

    @property
    def keep(self) -> tuple[str, ...]:
        """Layers left in float."""
        return tuple(self.options["keep"].split("+")) if self.options.get("keep") else ()

    @property
    def tools(self) -> tuple[str, ...]:
        """Packages whose version decides about the bytes."""
        quantizer = ("nncf",) if self.qat_epochs or (self.target.calibrated and self.target.engine != "litert") else ()
        if self.target.engine == "litert":
            return ("torch", "onnx", self.options["converter"], *quantizer, "ai-edge-quantizer", "ai-edge-litert")
        return ("torch", "onnx", *quantizer, self.target.engine)

    def keeping(self, layers: Sequence[str]) -> Recipe:
        """Return the same recipe with these layers in float, and no others."""
        return self.choosing(keep="+".join(layers))

    def choosing(self, **options: str) -> Recipe:
        """Return the same recipe with other values of some options."""
        return Recipe(self.target, {**self.options, **options})

    @property
    def qat_epochs(self) -> int:
        """Epochs of fine-tuning before; 0: none."""
        return int(self.options.get("qat") or 0)


def parse_recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Args:
        name: ``TARGET`` or ``TARGET:OPTION=VALUE,...``.

    Raises:
        UsageError: no such target, option or value, or an option that would do nothing beside another.
    """
    start, colon, rest = name.partition(":")
    if start not in TARGETS:
        near = difflib.get_close_matches(start, TARGETS, 1, 0.4)
        raise UsageError(
            "no such target",
            got=repr(start),
            expected=near[0] if near else " or ".join(TARGETS),
            todo="see: python -m export targets",
        )
    target = TARGETS[start]
    options = dict.fromkeys(target.options, "")
    seen: set[str] = set()
    for part in rest.split(",") if colon else ():
        key, _, value = part.partition("=")
        if key not in options or key in seen:
            got = "twice " + key if key in seen else repr(part)
            expected = " or ".join(f"{option}=..." for option in options) or "no options"
            raise UsageError(f"{start}: wrong option", got=got, expected=expected)
        option = OPTIONS[key]
        if option.choices and value not in option.choices:
            raise UsageError(f"{start}: {key}", got=repr(value), expected=" or ".join(option.choices))
        if not option.choices and not re.fullmatch(option.pattern, value):
            raise UsageError(f"{start}: {key}", got=repr(value), expected=f"such as {option.example}")
        seen.add(key)
        options[key] = value
    usual = defaults(target, options.get("qat", ""))
    chosen = {key: value or usual[key] for key, value in options.items()}
    if target.engine == "onnxruntime" and options.get("qat"):  # its form comes out of the fine-tuning as it is
        idle = [key for key in ("rounding", "keep") if chosen[key] != usual[key]]
        if idle:
            raise UsageError(f"{start}: qat goes without {idle[0]}", got=repr(name), expected="one of them")
    return Recipe(target, chosen)


def defaults(target: Target, qat: str) -> dict[str, str]:
    """Return what a target's options are where a name does not say.

    Args:
        target: row of `TARGETS`.
        qat: epochs of fine-tuning, "" for none. Weights that were fine-tuned have learned to be rounded to the nearest
            step each; rounding that keeps what the network was in float would undo it.
    """
    usual = {key: OPTIONS[key].default for key in target.options}
    return usual | ({"rounding": "nearest"} if qat else {})
