"""Engines: from the checked bytes of a model to ``pixels -> (logits, class map)`` in float32, as a table of variants.

What comes in is a model and an `IOSpec`; what goes out is an `Engine` whose inputs and outputs were compared with the
spec, whose outputs are picked by name (INT8 converters reorder them) and dequantized with the scale and zero point the
graph states, and which refuses a value that is not finite before anybody can average it away. Pictures, labels and
probabilities are not known here. How each
engine's package is spoken to is in ``graphs``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .errors import BundleError, EngineError, LeukoscopeError, UsageError
from .graphs import Graph, Tensor, load_litert, load_onnxruntime, load_openvino, load_tflite_runtime
from .isolation import Layer
from .machine import usable_cpus
from .manifest import MODEL_FILES, IOSpec

Floats = npt.NDArray[np.float32]

MAX_THREADS = 64


@dataclass(frozen=True)
class EngineRow:
    """One engine of the table.

    Attributes:
        name: as on the command line.
        title: as in sentences.
        model_name: file of the bundle it runs, of `manifest.MODEL_FILES`.
        module: what must be importable.
        install: the command that makes it so.
        load: (the model's files, threads) -> `Graph`; may raise anything on a malformed model.
    """

    name: str
    title: str
    model_name: str
    module: str
    install: str
    load: Callable[[Mapping[str, bytes], int], Graph]


@dataclass(frozen=True)
class Engine:
    """A model ready to run. Calls from several threads take turns.

    Attributes:
        name: of the engine, as in `ENGINES`.
        io: the spec the model was compared with.
        threads: used for one inference.
        output_steps: quantization step of (logits, class map), each None where that output is float.
        layers: what holds the engine in, where it is isolated; None where it runs in this process.
    """

    name: str
    io: IOSpec
    threads: int
    output_steps: tuple[float | None, float | None]
    layers: tuple[Layer, ...] | None
    _graph: Graph = field(repr=False)
    _outputs: tuple[Tensor, Tensor] = field(repr=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def run(self, pixels: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Run the model on one picture's pixels.

        Args:
            pixels: (H, W, 3) or (1, H, W, 3) uint8 RGB, 0..255.

        Returns:
            logits (K,) and class map (h, w, K), float32, dequantized.

        Raises:
            UsageError: pixels of another shape or type.
            EngineError: the engine failed, or a value is NaN or infinite.
        """
        side = self.io.input_px
        batch = pixels[None] if pixels.ndim == 3 else pixels
        if batch.shape != (1, side, side, 3) or batch.dtype != np.uint8:
            got = f"{pixels.dtype} {pixels.shape}"
            raise UsageError("wrong pixels", got=got, expected=f"uint8 ({side}, {side}, 3)")
        names = (self.io.logits_name, self.io.class_map_name)
        with self._turn:
            try:
                raw = self._graph.run(self.io.input_name, names, np.ascontiguousarray(batch))
            except LeukoscopeError:
                raise
            except Exception as error:  # noqa: BLE001 - engines raise anything
                raise EngineError(f"{self.name} failed on a picture", got=_line(error)) from None
        logits, class_map = (_real(values, tensor) for values, tensor in zip(raw, self._outputs, strict=True))
        return logits.reshape(-1), class_map[0]


def open_engine(
    name: str | None,
    model: Bundle | Mapping[str, bytes] | bytes,
    io: IOSpec | None = None,
    threads: int | None = None,
    isolate: bool = False,
) -> Engine:
    """Load a model and compare it with what its bundle says.

    Args:
        name: one of `ENGINES`, or None: the first one that is installed and has a model here.
        model: a bundle; or a model's files, or the bytes of its only one (then `io` must be given).
        io: what the model must look like; default: as the bundle's manifest says.
        threads: for one inference, 1 to 64; default: as `usual_threads` says.
        isolate: run the engine in a process of its own that is locked in, see ``isolation``.

    Raises:
        UsageError: unknown engine, threads out of range, or a system that cannot isolate.
        EngineError: not installed, broken installation, no model for it, or it cannot load the model.
        BundleError: the model's inputs or outputs are not what the manifest says.
    """
    spec = io or (model.manifest.io if isinstance(model, Bundle) else None)
    if spec is None:
        raise UsageError("a model without a bundle needs an IOSpec")
    count = _threads(threads)
    files: Mapping[str, bytes]
    if isinstance(model, Bundle):
        row = _choose(name, model.models)
        where = str(model.root / row.model_name)
        files = {file: model.read(file) for file in MODEL_FILES[row.model_name]}
    else:
        if isinstance(model, bytes):
            sniffed = "model.tflite" if model[4:8] == b"TFL3" else "model.onnx"  # the mark of a TFLite flatbuffer
            model = {ENGINES[name].model_name if name in ENGINES else sniffed: model}
        row = _choose(name, tuple(model))
        where, files = row.model_name, model
    layers = None
    try:
        if isolate:
            from .isolation.graph import load_isolated

            graph, layers = load_isolated(row.name, files, count, spec, where)
        else:
            graph = row.load(files, count)
    except LeukoscopeError:
        raise
    except Exception as error:  # noqa: BLE001 - engines raise anything on a malformed model
        raise EngineError(f"{where}: {row.title} cannot load it", got=_line(error)) from None
    logits, class_map = _compare(graph, spec, where)
    return Engine(row.name, spec, count, (logits.scale, class_map.scale), layers, graph, (logits, class_map))


def installed_engines() -> tuple[str, ...]:
    """Return the names of the engines whose package is installed, in the order of the table."""
    return tuple(name for name, row in ENGINES.items() if _importable(row.module))


def _choose(name: str | None, models: tuple[str, ...]) -> EngineRow:
    if name is not None and name not in ENGINES:
        raise UsageError("no such engine", got=repr(name), expected=" or ".join(ENGINES))
    fitting = [row for row in ENGINES.values() if row.model_name in models and name in (None, row.name)]
    if name is not None and not fitting:
        held = ", ".join(models) or "no model"
        raise EngineError(f"{name} has no model here", got=held, expected=ENGINES[name].model_name)
    for row in fitting:
        if _importable(row.module):
            return row
    todo = " or ".join(row.install for row in (fitting if name else fitting[:1]))
    raise EngineError(f"{name} is not installed" if name else "no inference engine is installed", todo=todo)


def _importable(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def usual_threads() -> int:
    """Return how many threads an inference gets where nobody says: the CPUs this process may use less one, 1 to 4.

    The one that is left judges the pixels meanwhile (see ``aside``), which is more than it would add to the inference.
    """
    return max(1, min(4, usable_cpus() - 1))


def _threads(threads: int | None) -> int:
    if threads is None:
        return usual_threads()
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError("wrong number of threads", got=threads, expected=f"1 to {MAX_THREADS}")
    return threads


def _compare(graph: Graph, io: IOSpec, where: str) -> tuple[Tensor, Tensor]:
    """Return the tensors of logits and class map, after everything about the graph agreed with the spec."""
    if list(graph.inputs) != [io.input_name]:
        got = ", ".join(map(repr, graph.inputs)) or "no inputs"
        raise BundleError(f"{where}: wrong input", got=got, expected=f"{io.input_name!r} alone")
    wanted = (
        (graph.inputs, io.input_name, (1, io.input_px, io.input_px, 3), ("uint8",)),
        (graph.outputs, io.logits_name, (1, io.classes), _OUTPUT_DTYPES),
        (graph.outputs, io.class_map_name, (1, io.map_height, io.map_width, io.classes), _OUTPUT_DTYPES),
    )
    found = []
    for tensors, name, shape, dtypes in wanted:
        if name not in tensors:
            raise BundleError(f"{where}: no output {name!r}", got=", ".join(map(repr, tensors)), expected=repr(name))
        tensor = tensors[name]
        if tensor.shape != shape:
            raise BundleError(f"{where}: wrong shape of {name!r}", got=tensor.shape, expected=shape)
        if tensor.dtype not in dtypes:
            raise BundleError(f"{where}: wrong type of {name!r}", got=tensor.dtype, expected=" or ".join(dtypes))
        found.append(tensor)
    for tensor in found[1:]:
        whole = tensor.dtype.startswith(("int", "uint"))
        if whole and not (tensor.scale is not None and np.isfinite(tensor.scale) and tensor.scale > 0):
            got = f"{tensor.dtype}, scale {tensor.scale}"
            raise BundleError(f"{where}: no scale for {tensor.name!r}", got=got, expected="one scale > 0")
    return found[1], found[2]


_OUTPUT_DTYPES = ("float32", "float16", "int8", "uint8", "int16")


def _real(values: npt.NDArray[Any], tensor: Tensor) -> Floats:
    """Dequantize, after the graph kept its word about shape and type."""
    if values.shape != tensor.shape or values.dtype.name != tensor.dtype:
        got, expected = f"{values.dtype} {values.shape}", f"{tensor.dtype} {tensor.shape}"
        raise EngineError(f"{tensor.name}: not what the model states", got=got, expected=expected)
    if tensor.scale is None:
        real = values.astype(np.float32)
    else:
        real = (values.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)
    # First, before any mean or maximum could hide it.
    if not np.isfinite(real).all():
        bad = int(real.size - np.isfinite(real).sum())
        raise EngineError(f"{tensor.name}: {bad} of {real.size} values are NaN or infinite", expected="finite values")
    return real


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


ENGINES: dict[str, EngineRow] = {
    row.name: row
    for row in (
        EngineRow(
            "litert", "LiteRT", "model.tflite", "ai_edge_litert", 'pip install "leukoscope[litert]"', load_litert
        ),
        EngineRow(
            "tflite-runtime",
            "tflite-runtime",
            "model.tflite",
            "tflite_runtime",
            'pip install "leukoscope[tflite-runtime]"',
            load_tflite_runtime,
        ),
        EngineRow(
            "onnxruntime",
            "ONNX Runtime",
            "model.onnx",
            "onnxruntime",
            'pip install "leukoscope[onnx]"',
            load_onnxruntime,
        ),
        EngineRow(
            "openvino",
            "OpenVINO",
            "model.xml",
            "openvino",
            'pip install "leukoscope[openvino]"',
            load_openvino,
        ),
    )
}
"""The engines, in the order of preference."""
