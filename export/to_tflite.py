"""To TFLite: from a network, or from its ONNX form, to a full-precision TFLite file, by one of two converters.

Converters pin hard and age fast, so none is load-bearing: each is a row of `CONVERTERS`, runs in a process of its own,
and its absence is one line with the command that installs it. Whichever it was, the file takes uint8 pixels NHWC and
gives `LOGITS` and `CLASS_MAP` under these names. Which one is the default was decided by measuring
(``python -m benchmarks.converters``, docs/quantization.md).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import UsageError

from .converter_process import installed_version, run_converter
from .errors import ExportError
from .to_onnx import INPUT
from .torch_to_tflite import litert_torch_version, torch_to_tflite

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Converter:
    """A road to TFLite.

    Attributes:
        name: as in recipes and in the manifest; what it is called where packages are installed from.
        title: for people.
        version: tells which version is installed, None where there is none.
        install: command that installs it, from the checkout's root.
        reads_onnx: whether `convert` needs the network's ONNX form.
        convert: (network in eval mode, its ONNX form, input_px) -> TFLite, full precision.
    """

    name: str
    title: str
    version: Callable[[], str | None]
    install: str
    reads_onnx: bool
    convert: Callable[[nn.Module, bytes, int], bytes]


def to_tflite(network: nn.Module, onnx: bytes, input_px: int, converter: str = "onnx2tf") -> bytes:
    """Convert a network to TFLite in full precision.

    Args:
        network: (1, H, W, 3) uint8 -> logits (1, K) and class map (1, h, w, K); in eval mode.
        onnx: the same network, as `to_onnx.to_onnx` writes it; each converter reads one of the two.
        input_px: H and W.
        converter: row of `CONVERTERS`.

    Returns:
        TFLite file, the same bytes for the same network.

    Raises:
        UsageError: no such converter.
        ExportError: the converter is not installed, fails, or does not finish.
    """
    return installed_converter(converter).convert(network, onnx, input_px)


def installed_converter(name: str) -> Converter:
    """Return a row of `CONVERTERS`.

    Raises:
        UsageError: no such converter.
        ExportError: it is not installed.
    """
    if name not in CONVERTERS:
        raise UsageError("no such converter", got=name, expected=f"one of {', '.join(CONVERTERS)}")
    row = CONVERTERS[name]
    if row.version() is None:
        raise ExportError(f"the converter {row.name} is not installed", todo=f"run: {row.install}")
    return row


def onnx_to_tflite(onnx: bytes) -> bytes:
    """Convert an ONNX graph by onnx2tf's TensorFlow-free backend."""
    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(without_concatenations_of_one(onnx))
        arguments = ["-i", "model.onnx", "-o", "out", "-k", INPUT, "-n"]
        return run_converter("onnx2tf", "onnx2tf", arguments, folder, folder / "out" / "model_float32.tflite")


def without_concatenations_of_one(onnx: bytes) -> bytes:
    """Take concatenations of a single tensor out of an ONNX graph; one that has none stays as it is, byte by byte.

    DenseNet has one at the head of every block, and onnx2tf makes them an operator that no engine knows.
    """
    from onnx import load_from_string

    model = load_from_string(onnx)
    nodes, same = [], dict[str, str]()
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
        if node.op_type == "Concat" and len(node.input) == 1:
            same[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    if not same or same.keys() & {value.name for value in model.graph.output}:
        return onnx
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


CONVERTERS: dict[str, Converter] = {
    row.name: row
    for row in (
        Converter(
            "onnx2tf",
            "through ONNX, by onnx2tf",
            lambda: installed_version("onnx2tf"),
            "pip install --no-deps --ignore-requires-python -r requirements-onnx2tf.txt",
            True,
            lambda network, onnx, input_px: onnx_to_tflite(onnx),
        ),
        Converter(
            "litert-torch",
            "from torch directly, by LiteRT's own converter",
            litert_torch_version,
            "pip install --no-deps --target .litert-torch -r requirements-litert-torch.txt",
            False,
            lambda network, onnx, input_px: torch_to_tflite(network, input_px),
        ),
    )
}
