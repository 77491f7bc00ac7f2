"""To OpenVINO: from ONNX to the two files of OpenVINO's IR, and from them to its graph in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from .errors import ExportError
from .own_process import own_process

XML, BIN = "model.xml", "model.bin"


def to_openvino(onnx: bytes) -> dict[str, bytes]:
    """Convert an ONNX graph in full precision; names of inputs and outputs are kept.

    Returns:
        ``model.xml`` and ``model.bin``, the same bytes for the same graph.

    Raises:
        ExportError: OpenVINO is not installed or cannot read the graph.
    """
    return own_process(_convert, onnx)


def _convert(onnx: bytes) -> dict[str, bytes]:
    _core()
    import openvino

    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(onnx)
        try:
            # not `read_model`, which leaves arithmetic on constants in the graph: NNCF would take the reshaped weights
            # of a depthwise convolution for others, and quantize them along the wrong axis
            return write_openvino(openvino.convert_model(source))
        except RuntimeError as error:
            got = " ".join(str(error).split())[:300]
            raise ExportError("OpenVINO cannot convert this graph", got=got) from None


def read_openvino(files: dict[str, bytes]) -> Any:
    """Return the files' ``openvino.Model``."""
    return _core().read_model(files[XML], files[BIN])


def write_openvino(graph: Any) -> dict[str, bytes]:
    """Return an ``openvino.Model`` as its two files, all weights as they are."""
    import openvino

    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as folder:
        openvino.save_model(graph, Path(folder) / XML, compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in (XML, BIN)}


def _core() -> Any:
    try:
        import openvino
    except ImportError as error:
        todo = 'pip install "leukoscope[export]"'
        raise ExportError("OpenVINO is not installed", got=str(error), todo=todo) from None
    return openvino.Core()
