"""Lineup: which ways are compared, in which environment, and what each gives; as tables.

What comes in is nothing but these rows; what goes out are `contest.Way`s, or the reason why a row cannot run here: its
environment was not made, or its model. What a way does is in ``ways``; what is measured in ``side_by_side``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contest import Way
from .peer_models import MODELS, QUIET, python_of

FILE = Path(__file__).with_name("ways.py")
THREADS = (1, 2)


@dataclass(frozen=True)
class Row:
    """A way of answering.

    Attributes:
        name: as in tables.
        precision: of the network.
        gives: beside the class.
        function: of ``ways``.
        arguments: its keywords, but for the folder of the models and the number of threads.
        environment: of ``benchmarks/peers``; "": this one.
        network: "": the shipped one; else whose.
        needs: files of `peer_models.MODELS`.
        threads: the numbers of threads it is measured with; empty: all.
        limited_by: keyword that takes the number of threads.
    """

    name: str
    precision: str
    gives: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""
    network: str = ""
    needs: tuple[str, ...] = ()
    threads: tuple[int, ...] = THREADS
    limited_by: str = "threads"

    def way(self, threads: int) -> Way:
        """Return what a contest takes."""
        return Way(
            self.name,
            FILE,
            self.function,
            {"models": str(MODELS), self.limited_by: threads, **self.arguments},
            str(python_of(self.environment)),
            environment={**QUIET, "OMP_NUM_THREADS": str(threads)},
        )

    def missing(self) -> str:
        """Say why it cannot run here; "" where it can be tried."""
        if not python_of(self.environment).exists():
            return f"its environment is not there (run: make peers): .peers/{self.environment}"
        absent = [name for name in self.needs if not (MODELS / name).exists()]
        return f"no {absent[0]} (run: python -m benchmarks peer-models)" if absent else ""


RUNTIME = "this runtime"
UNJUDGED = "this runtime, not judged"
ONE_CPU = "this runtime, on one CPU"
BARE = "LiteRT, bare"
EAGER = "PyTorch eager"
GRADCAM = "PyTorch eager, autograd Grad-CAM"
LEAN_GRADCAM = f"{GRADCAM} of the last map only"
FLOOR = "floor: "
"""How the names begin of ways that do only what no way can leave out."""

NOTHING, RAW, HEATMAP = "nothing", "class map, raw", "heatmap"
JUDGED = "heatmap, reasons to decline"
YOLO = "yolo11n-cls, untrained"

_ENGINES: tuple[tuple[str, str, str, dict[str, Any], str, tuple[str, ...]], ...] = (
    # name, precision, gives, options of the engine, environment, needs
    (BARE, "INT8", RAW, {"engine": "litert", "model": "int8.tflite"}, "", ("int8.tflite",)),
    ("LiteRT, bare, fp32", "fp32", RAW, {"engine": "litert", "model": "fp32.tflite"}, "", ("fp32.tflite",)),
    (
        "tflite-runtime",
        "INT8",
        RAW,
        {"engine": "tflite-runtime", "model": "int8.tflite"},
        "tflite-runtime",
        ("int8.tflite",),
    ),
    ("TensorFlow's interpreter", "INT8", RAW, {"engine": "tensorflow", "model": "int8.tflite"}, "tensorflow", ()),
    ("ONNX Runtime INT8", "INT8", RAW, {"engine": "onnxruntime", "model": "int8.onnx"}, "", ("int8.onnx",)),
    ("ONNX Runtime fp32", "fp32", RAW, {"engine": "onnxruntime", "model": "fp32.onnx"}, "", ("fp32.onnx",)),
    ("OpenVINO INT8", "INT8", RAW, {"engine": "openvino", "model": "int8.xml"}, "", ("int8.xml",)),
    ("OpenVINO fp32", "fp32", RAW, {"engine": "openvino", "model": "fp32.xml"}, "", ("fp32.xml",)),
    ("ncnn fp16", "fp16", RAW, {"engine": "ncnn", "model": "fp16.ncnn"}, "ncnn", ("fp16.ncnn.bin",)),
    ("ncnn fp32", "fp32", RAW, {"engine": "ncnn", "model": "fp32.ncnn"}, "ncnn", ("fp32.ncnn.bin",)),
    (EAGER, "fp32", RAW, {"engine": "torch", "form": "eager"}, "", ()),
    ("PyTorch eager, channels last", "fp32", RAW, {"engine": "torch", "form": "channels last"}, "", ()),
    ("PyTorch compiled", "fp32", RAW, {"engine": "torch", "form": "compiled"}, "", ()),
    (GRADCAM, "fp32", HEATMAP, {"engine": "torch", "form": "Grad-CAM"}, "", ()),
    (LEAN_GRADCAM, "fp32", HEATMAP, {"engine": "torch", "form": "Grad-CAM, last map"}, "", ()),
)


def _peers(function: str, names: Sequence[str]) -> tuple[Row, ...]:
    rows = []
    for name, precision, gives, options, environment, needs in _ENGINES:
        if name in names:
            reader = {} if function == "from_pixels" else {"reader": _READERS.get(options["engine"], "squeezed")}
            given = NOTHING if gives == RAW and reader else gives
            threads = THREADS if name in (_FILE_AT_TWO if reader else _AT_TWO) else (1,)
            rows.append(Row(name, precision, given, function, {**options, **reader}, environment, "", needs, threads))
    return tuple(rows)


_READERS = {"torch": "torchvision"}
"""Engine -> reader of ``ways`` that its users take, where that is not TensorFlow's."""

_AT_TWO = (BARE, "ONNX Runtime INT8", "ONNX Runtime fp32", "OpenVINO INT8", "OpenVINO fp32", "ncnn fp16", EAGER)
"""Measured with two threads, too."""

_FILE_AT_TWO = (BARE, "ONNX Runtime INT8", "OpenVINO INT8")
"""The same, from a file: decoding is the larger part of it and has one thread in any case."""

_FROM_FILE = (BARE, "tflite-runtime", "TensorFlow's interpreter", *_AT_TWO[1:])
"""Measured from a file, too: at least one of each engine."""


def _ours(function: str) -> tuple[Row, ...]:
    return (
        Row(RUNTIME, "INT8", JUDGED, function),
        Row(UNJUDGED, "INT8", HEATMAP, function, {"judged": False}),
        Row(ONE_CPU, "INT8", JUDGED, function, {"cpus": 1}, threads=(1,)),
    )


PIXELS = (*_ours("runtime_pixels"), *_peers("from_pixels", [engine[0] for engine in _ENGINES]))
"""From the network's pixels in memory to a class."""

DECODERS = (
    ("Pillow", ""),
    ("Pillow, halved by libjpeg", ""),
    ("OpenCV", ""),
    ("simplejpeg", "ultralytics"),
    ("simplejpeg, halved by libjpeg", "ultralytics"),
)
"""Decoder of ``ways``, and an environment that has it beside LiteRT."""

FILES = (
    *_ours("runtime_file"),
    *(
        Row(f"{FLOOR}{name}", "INT8", NOTHING, "floor", {"decoder": name}, environment, "", ("int8.tflite",), (1,))
        for name, environment in DECODERS
    ),
    *_peers("from_file", _FROM_FILE),
    *(
        Row(
            f"Ultralytics, {title}",
            "fp32",
            NOTHING,
            "yolo_file",
            {"model": model},
            "ultralytics",
            YOLO,
            (model,),
            (1,),
            "cpus",
        )
        for title, model in (
            ("PyTorch", "yolo11n-cls.pt"),
            ("OpenVINO", "yolo11n-cls_openvino_model"),
            ("ncnn", "yolo11n-cls_ncnn_model"),
        )
    ),
)
"""From a JPEG file of 1024 x 768 pixels to a JSON line; the floors: to a class."""

BATCHES = (1, 4, 16)

THROUGHPUT = (
    *(
        Row(
            f"this runtime, {instances} instance{'s' * (instances > 1)}",
            "INT8",
            JUDGED,
            "runtime_instances",
            {"instances": instances, "pictures": 16},
            threads=(),
        )
        for instances in (1, 2)
    ),
    *(
        Row(f"{name}, batch {pictures}", precision, RAW, "batch", {**options, "pictures": pictures}, "", "", needs, ())
        for name, precision, _, options, _, needs in _ENGINES
        if name in ("ONNX Runtime INT8", "OpenVINO INT8", "OpenVINO fp32", EAGER)
        for pictures in BATCHES
    ),
)
"""Many pictures at once, as pictures per second."""

SERIES: dict[str, tuple[Row, ...]] = {"pixels": PIXELS, "files": FILES, "throughput": THROUGHPUT}

LEFT_OUT: dict[str, str] = {
    "ncnn INT8": "the programs that quantize for ncnn (ncnn2table, ncnn2int8) are in none of its Python packages",
    "LiteRT and tflite-runtime, more than one picture at once": "the bundle's graph reshapes to a batch of 1",
    "Ultralytics, TFLite": "its export needs TensorFlow and a converter that ask for other versions than the others",
}
"""What else was asked for, and why it is not measured."""
