"""QDQ: from a full-precision ONNX or OpenVINO graph to one whose tensors pass through quantize-dequantize pairs.

Post-training quantization by NNCF: weights per output channel and symmetric, stored as int8; activations per tensor and
symmetric, uint8 where nothing is negative; biases corrected for the mean error that rounding leaves. What lies before
the first convolution is arithmetic on known grey levels and stays as it is, and so does the mean over the class map.

Activations per tensor is not NNCF's own choice before depthwise convolutions: per channel, ONNX Runtime finds no kernel
for them and computes in float between a quantization and its inverse, three times slower. TensorRT takes signed
integers with zero point 0 only: `signed` turns uint8 into int8 of twice the step, after NNCF, which cannot be asked for
it.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edge_runtime.preprocess import Pixels

from .errors import ExportError
from .graph_input import CENTRE, RANGES
from .layer_names import openvino_layers, select
from .own_process import own_process
from .selective import ignored_nodes
from .to_onnx import INPUT
from .to_openvino import read_openvino, write_openvino

INSTALL = 'pip install "leukoscope[export]"'


def quantize_onnx(
    model: bytes, pixels: Pixels, signed: bool = False, correct_bias: bool = True, keep: Sequence[str] = ()
) -> bytes:
    """Quantize an ONNX graph.

    Args:
        model: full precision, uint8 pixels in, class map and logits out.
        pixels: (N, H, W, 3) uint8, the calibration set.
        signed: int8 activations throughout, as TensorRT takes them.
        correct_bias: take the mean error of each channel off the biases.
        keep: names of layers left in float, as the network has them.

    Returns:
        ONNX file with explicit QuantizeLinear and DequantizeLinear.

    Raises:
        ExportError: NNCF is not installed or refuses the graph.
        UsageError: no such layer to keep.
    """
    import onnx

    graph = onnx.load_from_string(model)
    operators = [(node.name, node.op_type) for node in graph.graph.node]
    kept = ignored_nodes(model, keep)
    with _errors():
        quantized = _quantize(graph, operators, "Conv", pixels, correct_bias, kept)
        _exact_input(quantized)
        if signed:
            make_signed(quantized)
        _without_unused(quantized)
        onnx.checker.check_model(quantized, full_check=True)
        content: bytes = quantized.SerializeToString(deterministic=True)
    return content


def quantize_openvino(
    model: dict[str, bytes], pixels: Pixels, correct_bias: bool = True, keep: Sequence[str] = ()
) -> dict[str, bytes]:
    """Quantize an OpenVINO graph.

    Args:
        model: its files, see `to_openvino`.
        pixels: (N, H, W, 3) uint8, the calibration set.
        correct_bias: take the mean error of each channel off the biases.
        keep: names of layers left in float, as the network has them.

    Returns:
        Its files.

    Raises:
        ExportError: NNCF is not installed or refuses the graph.
        UsageError: no such layer to keep.
    """
    return own_process(_quantize_openvino, model, pixels, correct_bias, tuple(keep))


def _quantize_openvino(
    model: dict[str, bytes], pixels: Pixels, correct_bias: bool, keep: tuple[str, ...]
) -> dict[str, bytes]:
    graph = read_openvino(model)
    layers = openvino_layers(graph)
    operators = [(layer.outputs[0], layer.kind) for layer in layers]
    kept = [layer.outputs[0] for layer in select(layers, keep)]
    with _errors():
        quantized = _quantize(graph, operators, "Convolution", pixels, correct_bias, kept)
        _exact_openvino_input(quantized)
    return write_openvino(quantized)


def _quantize(
    graph: Any,
    operators: Sequence[tuple[str, str]],
    convolution: str,
    pixels: Pixels,
    correct_bias: bool,
    kept: Sequence[str],
) -> Any:
    import nncf
    from nncf.quantization import advanced_parameters as advanced

    first = next(place for place, (_, kind) in enumerate(operators) if kind == convolution)
    exact = [name for name, _ in operators[:first]] + [name for name, kind in operators if kind == "ReduceMean"]
    nncf.set_log_level(logging.ERROR)
    with _quiet():
        return nncf.quantize(
            graph,
            nncf.Dataset([picture[None] for picture in pixels], lambda picture: {INPUT: picture}),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(pixels),
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=[*exact, *kept], validate=False),
            advanced_parameters=advanced.AdvancedQuantizationParameters(
                overflow_fix=advanced.OverflowFix.DISABLE,  # for CPUs older than what LiteRT needs
                disable_bias_correction=not correct_bias,
                activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
            ),
        )


def _exact_input(graph: Any) -> None:
    """Give the first pair of an ONNX graph the range that is known, of (pixel - 128) / 128, not the one measured."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    first = next(node for node in graph.graph.node if node.op_type == "Conv").input[0]
    for node in graph.graph.node:
        if first in node.output and node.op_type == "DequantizeLinear":
            pair = [node, *(other for other in graph.graph.node if node.input[0] in other.output)]
            for half in pair:
                scale, zero = constants[half.input[1]], constants[half.input[2]]
                scale.CopyFrom(numpy_helper.from_array(np.array(1 / CENTRE, np.float32), scale.name))
                zero.CopyFrom(numpy_helper.from_array(np.array(0, np.int8), zero.name))
    del graph.graph.value_info[:]  # they may state the types of before


def _exact_openvino_input(graph: Any) -> None:
    """Do the same to the first FakeQuantize of an OpenVINO graph."""
    from openvino import opset13

    first = next(op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution").input_value(0).get_node()
    if first.get_type_name() != "FakeQuantize":
        return
    low, high = RANGES[8]
    for place, bound in enumerate((low, high, low, high), start=1):
        shape = first.input_value(place).get_shape()
        constant = opset13.constant(np.full(tuple(shape), bound, np.float32))
        first.input(place).replace_source_output(constant.output(0))


def make_signed(graph: Any) -> None:
    """Turn the uint8 activations of an ONNX graph into int8 with zero point 0 and the range they had, in place."""
    from onnx import TensorProto, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    done: set[str] = set()
    for node in graph.graph.node:
        if node.op_type != "QuantizeLinear" or constants[node.input[2]].data_type != TensorProto.UINT8:
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        wider = numpy_helper.to_array(scale) * np.float32(255 / 127)
        scale.CopyFrom(numpy_helper.from_array(wider.astype(np.float32), scale.name))
        zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero).astype(np.int8), zero.name))
        done.add(node.output[0])
    for node in graph.graph.node:  # a pair has constants of its own or shares them; both are the pair's
        if node.op_type == "DequantizeLinear" and node.input[0] in done:
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            if zero.data_type == TensorProto.UINT8:
                wider = numpy_helper.to_array(scale) * np.float32(255 / 127)
                scale.CopyFrom(numpy_helper.from_array(wider.astype(np.float32), scale.name))
                zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero).astype(np.int8), zero.name))


def _without_unused(graph: Any) -> None:
    """Drop constants that nothing reads: NNCF leaves full-precision weights beside their int8 form."""
    read = {name for node in graph.graph.node for name in node.input} | {out.name for out in graph.graph.output}
    kept = [tensor for tensor in graph.graph.initializer if tensor.name in read]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Make one line of what goes wrong inside NNCF."""
    from edge_runtime.errors import LeukoscopeError

    try:
        yield
    except LeukoscopeError:
        raise
    except ImportError as error:
        raise ExportError("NNCF is not installed", got=str(error), todo=INSTALL) from None
    except Exception as error:  # noqa: BLE001 - NNCF raises anything
        got = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise ExportError("the graph cannot be quantized", got=got) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars off the terminal; they are printed whatever the log level is."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
