"""To OpenVINO: from ONNX to the two files of OpenVINO's IR, and from them to its graph in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edge_runtime.graphs import import_engine

from .errors import ExportError
from .own_process import own_process

XML, BIN = "model.xml", "model.bin"


def to_openvino(onnx: bytes) -> dict[str, bytes]:
    """Convert an ONNX graph, all weights as they are; names of inputs and outputs are kept.

    Returns:
        ``model.xml`` and ``model.bin``, the same bytes for the same graph.

    Raises:
        ExportError: OpenVINO is not installed or cannot read the graph.
    """
    return own_process(_convert, onnx)


def _convert(onnx: bytes) -> dict[str, bytes]:
    _core()
    openvino = import_engine("openvino")
    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(onnx)
        try:
            # not `read_model`, which leaves arithmetic on constants in the graph, such as reshaped depthwise weights
            graph = openvino.convert_model(folder / "model.onnx")
        except RuntimeError as error:
            got = " ".join(str(error).split())[:300]
            raise ExportError("OpenVINO cannot convert this graph", got=got) from None
        openvino.save_model(graph, folder / XML, compress_to_fp16=False)
        return {name: (folder / name).read_bytes() for name in (XML, BIN)}


def read_openvino(files: dict[str, bytes]) -> Any:
    """Return the files' ``openvino.Model``."""
    return _core().read_model(files[XML], files[BIN])


def _core() -> Any:
    try:
        openvino = import_engine("openvino")
    except ImportError as error:
        todo = 'pip install "leukoscope[export]"'
        raise ExportError("OpenVINO is not installed", got=str(error), todo=todo) from None
    return openvino.Core()
