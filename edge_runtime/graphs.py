"""Graphs: how each engine's package loads a model, tells what it looks like, and runs it.

What comes in are the bytes of a model's files; what goes out is a `Graph`: what the model says of itself, not yet
believed, and a function that runs it and returns raw values. ``engines`` compares, dequantizes and checks. Each package
is imported inside its loader, so that nobody pays for an engine that is not used.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BundleError, EngineError


@dataclass(frozen=True)
class Tensor:
    """What a graph says about an input or output; `scale` is None when it is not quantized."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0


@dataclass(frozen=True)
class Graph:
    """A loaded model, before anybody believed what it says.

    Attributes:
        inputs: name -> what it takes.
        outputs: name -> what it gives.
        run: (input name, output names, pixels (1, H, W, 3) uint8) -> raw outputs in the order of the names.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    run: Callable[[str, tuple[str, str], npt.NDArray[np.uint8]], list[npt.NDArray[Any]]]


_IMPORT = threading.Lock()


def import_engine(module: str) -> Any:
    """Import an engine's package, or the part of it that runs models; nothing of it may tell anybody that it is used.

    ``import openvino`` sends an event to its makers through the package openvino_telemetry, and asks for an address to
    send it to, unless a file in the user's home forbids it. Without that package it has a stand-in that sends nothing,
    so it is hidden here. A program that imported either before has decided for itself.
    """
    with _IMPORT:
        if module != "openvino" or _TELEMETRY in sys.modules:
            return import_module(module)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # how Python is told that a module is not there
        try:
            return import_module(module)
        finally:
            sys.modules.pop(_TELEMETRY, None)


_TELEMETRY = "openvino_telemetry"


def load_litert(files: Mapping[str, bytes], threads: int) -> Graph:
    """Load a .tflite with LiteRT (package ai-edge-litert)."""
    package = import_engine("ai_edge_litert.interpreter")
    return _tflite_graph(package.Interpreter(model_content=files["model.tflite"], num_threads=threads))


def load_tflite_runtime(files: Mapping[str, bytes], threads: int) -> Graph:
    """Load a .tflite with tflite-runtime.

    Raises:
        EngineError: numpy is too new for it.
    """
    # tflite-runtime 2.14 (its last release) was built for numpy 1: with numpy 2 every load ends in a SystemError.
    if int(np.__version__.split(".")[0]) >= 2 and _release("tflite-runtime") < (2, 15):
        raise EngineError(
            "tflite-runtime cannot work with this numpy",
            got=f"tflite-runtime {_version('tflite-runtime')} with numpy {np.__version__}",
            expected="numpy < 2",
            todo='pip install "numpy<2", or use LiteRT: pip install "leukoscope[litert]"',
        )
    package = import_engine("tflite_runtime.interpreter")
    return _tflite_graph(package.Interpreter(model_content=files["model.tflite"], num_threads=threads))


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:  # built from source, without metadata: let it try
        return "unknown"


def _release(distribution: str) -> tuple[int, ...]:
    parts = _version(distribution).split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (99,)


def _tflite_graph(interpreter: Any) -> Graph:
    """Read the graph of a TFLite interpreter, LiteRT's or tflite-runtime's: they share their interface.

    Inputs and outputs are called what the only signature calls them: converters rename tensors ("Identity",
    "PartitionedCall:1"), but keep the names of a signature. A file without one goes by the names of its tensors.
    """
    interpreter.allocate_tensors()
    signatures = list(interpreter.get_signature_list())
    if len(signatures) == 1:
        signature = interpreter.get_signature_runner(signatures[0])
        inputs, outputs = signature.get_input_details(), signature.get_output_details()
    else:
        inputs, outputs = _by_name(interpreter.get_input_details()), _by_name(interpreter.get_output_details())

    def run(input_name: str, output_names: tuple[str, str], pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        interpreter.set_tensor(inputs[input_name]["index"], pixels)
        interpreter.invoke()
        return [interpreter.get_tensor(outputs[name]["index"]) for name in output_names]

    return Graph(
        {name: _tflite_tensor(name, detail) for name, detail in inputs.items()},
        {name: _tflite_tensor(name, detail) for name, detail in outputs.items()},
        run,
    )


def _by_name(details: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {str(detail["name"]): detail for detail in details}
    if len(found) != len(details):
        names = ", ".join(sorted(repr(detail["name"]) for detail in details))
        raise BundleError("the model: two tensors of one name", got=names, expected="different names")
    return found


def _tflite_tensor(name: str, detail: dict[str, Any]) -> Tensor:
    stated = detail["quantization_parameters"]
    shape = tuple(int(side) for side in detail["shape_signature"])
    dtype = np.dtype(detail["dtype"]).name
    # No scale: float. Several: per channel, which an output must not be, so `engines` finds its scale missing.
    if dtype.startswith("float") or len(stated["scales"]) != 1:
        return Tensor(name, shape, dtype)
    return Tensor(name, shape, dtype, float(stated["scales"][0]), int(stated["zero_points"][0]))


def load_onnxruntime(files: Mapping[str, bytes], threads: int) -> Graph:
    """Load an .onnx with ONNX Runtime on the CPU."""
    onnxruntime = import_engine("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what matters is in the exception
    # ONNX may keep weights in other files, and ONNX Runtime looks for them in the working directory: bytes that no
    # manifest vouches for. Nothing can lie below os.devnull, so such a model is refused.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    session = onnxruntime.InferenceSession(files["model.onnx"], options, providers=["CPUExecutionProvider"])

    def run(input_name: str, output_names: tuple[str, str], pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        return list(session.run(list(output_names), {input_name: pixels}))

    def tensors(nodes: list[Any]) -> dict[str, Tensor]:
        return {n.name: Tensor(n.name, tuple(n.shape), _onnx_dtype(n.type)) for n in nodes}

    return Graph(tensors(session.get_inputs()), tensors(session.get_outputs()), run)


def _onnx_dtype(stated: str) -> str:
    inner = stated.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)


def load_openvino(files: Mapping[str, bytes], threads: int) -> Graph:
    """Load an OpenVINO IR, ``model.xml`` and ``model.bin``, on the CPU, in the precision it is written in."""
    openvino = import_engine("openvino")
    core = openvino.Core()
    # Left alone, CPUs that can compute in bfloat16, and what is computed is no longer what was exported.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(files["model.xml"], files["model.bin"]), "CPU", settings)
    request = compiled.create_infer_request()

    def run(input_name: str, output_names: tuple[str, str], pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        request.infer({input_name: pixels})
        return [np.array(request.get_tensor(name).data) for name in output_names]

    def tensors(ports: list[Any]) -> dict[str, Tensor]:
        described = {}
        for port in ports:
            name = port.get_any_name()
            shape = tuple(side.get_length() if side.is_static else None for side in port.partial_shape)
            described[name] = Tensor(name, shape, np.dtype(port.element_type.to_dtype()).name)
        return described

    return Graph(tensors(compiled.inputs), tensors(compiled.outputs), run)
