"""Structure: whether a quantized file is quantized the way its recipe says, convolution by convolution.

Outputs over a test split can hide it: one scale for all of a layer's weights, or scales along the wrong axis of a
square one, cost little on a network that is sure of itself, and all of it on the next. So the file is read, not run.
What comes in are the model files; what goes out is how many convolutions are as they should be, of how many, and the
first that is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.graphs import import_engine

from .graph_input import CENTRE, operator_code, read_graph
from .graph_input import exact_levels as tflite_levels
from .layer_names import Layer, module_path, onnx_layers, select, tflite_layers
from .to_onnx import INPUT

Fault = tuple[str, str]
"""A convolution and what is wrong with it, "" where nothing is."""

ACTIVATIONS = {
    "int8": ("INT8",),
    "uint8, int8": ("INT8", "UINT8"),
    "int16": ("INT16",),
    "dynamic": ("FLOAT32",),
}
"""As a target states them -> types of the tensors between operators."""

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "Conv")
"""Kinds of layers, in TFLite and ONNX."""


def kept_convolutions(files: Mapping[str, bytes], keep: Sequence[str]) -> int:
    """Count the convolutions that names of layers stand for, in a full-precision model, TFLite or ONNX.

    Raises:
        UsageError: a name stands for no layer.
    """
    return sum(layer.kind in CONVOLUTIONS for layer in select(_layers(files), keep))


def _layers(files: Mapping[str, bytes]) -> list[Layer]:
    if "model.tflite" in files:
        return tflite_layers(read_graph(files["model.tflite"]))
    import onnx

    return onnx_layers(onnx.load_from_string(files["model.onnx"]))


def all_convolutions(files: Mapping[str, bytes]) -> int:
    """Count the convolutions of a full-precision model, TFLite or ONNX."""
    return sum(layer.kind in CONVOLUTIONS for layer in _layers(files))


def check_structure(
    files: Mapping[str, bytes], activations: str, kept: int, weights: str = "int8 per-channel"
) -> tuple[int, int, str]:
    """Count the convolutions that are quantized as they should be.

    Weights: int8, one scale per output channel along the channels' axis, zero point 0; or float16, and then nothing is
    asked of the inputs. Inputs: one scale, of a type that `activations` names, with zero point 0 in ONNX and OpenVINO.

    Args:
        files: of the model.
        activations: as `recipes.Target` states them.
        kept: how many convolutions the recipe leaves in float.
        weights: as `recipes.Target` states them.

    Returns:
        How many are right, how many should be, and what is wrong with the first that is not, or "".
    """
    if weights == "float16":
        found = list(_halved(files))
    elif "model.tflite" in files:
        found = list(_tflite(files["model.tflite"], ACTIVATIONS[activations]))
    elif "model.onnx" in files:
        found = list(_onnx(files["model.onnx"], ACTIVATIONS[activations]))
    else:
        found = list(_openvino(dict(files)))
    wrong = [(name, fault) for name, fault in found if fault]
    first = "" if len(wrong) <= kept else ": ".join(wrong[0])
    return len(found) - len(wrong), len(found) - kept, first


def _tflite(model: bytes, types: tuple[str, ...]) -> Iterator[Fault]:
    from ai_edge_litert import schema_py_generated as schema

    graph = read_graph(model)
    main = graph.subgraphs[0]
    axes = {int(schema.BuiltinOperator.CONV_2D): 0, int(schema.BuiltinOperator.DEPTHWISE_CONV_2D): 3}
    names = {value: key for key, value in vars(schema.TensorType).items() if isinstance(value, int)}
    for operator in main.operators:
        axis = axes.get(operator_code(graph, operator))
        if axis is None:
            continue
        given, weight = (main.tensors[int(place)] for place in operator.inputs[:2])
        stated, fault = weight.quantization, ""
        scales = [] if stated is None or stated.scale is None else list(stated.scale)
        if names[weight.type] != "INT8" or not scales:
            fault = f"{names[weight.type]} weights"
        elif len(scales) != int(weight.shape[axis]) or stated.quantizedDimension != axis:
            fault = f"{len(scales)} scales along axis {stated.quantizedDimension} of weights {list(weight.shape)}"
        elif np.any(stated.zeroPoint):
            fault = "weights with a zero point"
        elif names[given.type] not in types or not (given.type == schema.TensorType.FLOAT32 or _one_scale(given)):
            fault = f"{names[given.type]} inputs"
        yield main.tensors[int(operator.outputs[0])].name.decode(), fault


def _one_scale(tensor: Any) -> bool:
    stated = tensor.quantization
    return stated is not None and stated.scale is not None and len(stated.scale) == 1


def _halved(files: Mapping[str, bytes]) -> Iterator[Fault]:
    """Look for weights in float16: in TFLite behind a DEQUANTIZE, in ONNX as they are."""
    if "model.onnx" in files:
        import onnx

        graph = onnx.load_from_string(files["model.onnx"]).graph
        constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Conv":
                half = constants.get(node.input[1]) == onnx.TensorProto.FLOAT16
                yield module_path(node.name), "" if half else "weights are not float16"
        return
    from ai_edge_litert import schema_py_generated as schema

    model = read_graph(files["model.tflite"])
    main = model.subgraphs[0]
    before = {int(place): int(operator.inputs[0]) for operator in main.operators for place in operator.outputs}
    for operator in main.operators:
        if operator_code(model, operator) in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D):
            weight = int(operator.inputs[1])
            half = main.tensors[before.get(weight, weight)].type == schema.TensorType.FLOAT16
            yield main.tensors[int(operator.outputs[0])].name.decode(), "" if half else "weights are not float16"


def _onnx(model: bytes, types: tuple[str, ...]) -> Iterator[Fault]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}

    def pair(name: str) -> tuple[Any, Any, Any, int] | None:
        """Return what a DequantizeLinear reads: its input's name, scale, zero point and axis."""
        node = made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        scale, zero = (constants[side] for side in node.input[1:3])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        return node.input[0], numpy_helper.to_array(scale), zero, int(axis)

    def sources(name: str) -> list[tuple[Any, Any, Any, int] | None]:
        """Return the pairs that a tensor comes out of, behind operators that only move values; None: it has none."""
        node = made_by.get(name)
        if node is not None and node.op_type in ("MaxPool", "Concat"):
            return [source for part in node.input for source in sources(part)]
        return [pair(name)]

    for node in graph.node:
        if node.op_type != "Conv":
            continue
        weight, given, fault = pair(node.input[1]), sources(node.input[0]), ""
        read = [source for source in given if source is not None]
        if weight is None or weight[0] not in constants:
            fault = "no int8 weights"
        elif len(read) < len(given):
            fault = "inputs are not quantized"
        else:
            stored, scale, zero, axis = constants[weight[0]], *weight[1:]
            kinds = {onnx.TensorProto.DataType.Name(source[2].data_type) for source in read}
            if onnx.TensorProto.DataType.Name(stored.data_type) != "INT8":
                fault = f"{onnx.TensorProto.DataType.Name(stored.data_type)} weights"
            elif scale.size != stored.dims[0] or (axis != 0 and scale.size > 1):
                fault = f"{scale.size} scales along axis {axis} of weights {list(stored.dims)}"
            elif any(numpy_helper.to_array(one).any() for one in (zero, *(source[2] for source in read))):
                fault = "a zero point"
            elif not kinds <= set(types) or any(source[1].size != 1 for source in read):
                sizes = ", ".join(str(source[1].size) for source in read)
                fault = f"{' and '.join(sorted(kinds))} inputs with {sizes} scales"
        yield module_path(node.name), fault


def _openvino(files: dict[str, bytes]) -> Iterator[Fault]:
    from .to_openvino import read_openvino

    for op in read_openvino(files).get_ordered_ops():
        if op.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        fault = ""
        given, (weight,) = (_sources(op.input_value(place).get_node()) for place in (0, 1))
        unrounded = [node.get_type_name() for node in given if node.get_type_name() != "FakeQuantize"]
        if unrounded:
            fault = f"inputs come from {unrounded[0]}"
        elif weight.get_type_name() not in ("Multiply", "FakeQuantize"):
            fault = f"weights come from {weight.get_type_name()}"
        else:
            # int8 times scale, or floats that the engine will round to the steps between two bounds
            last = weight.get_input_size() - 1
            scales = int(np.prod(list(weight.input_value(last).get_shape())))
            channels = int(op.output(0).get_partial_shape().get_max_shape()[1])
            if scales != channels:
                fault = f"{scales} scales for {channels} channels of weights"
            fault = fault or next(filter(None, map(_range_fault, given)), "")
        yield module_path(op.get_friendly_name().removesuffix("/WithoutBiases")), fault


def _range_fault(node: Any) -> str:
    """Say what is wrong with the range that a FakeQuantize of activations rounds to."""
    low, high = (node.input_value(bound).get_node().get_data().ravel() for bound in (3, 4))
    if low.size != 1 or high.size != 1:
        return f"inputs with {low.size} scales"
    if low[0] and not np.isclose(127 * low[0], -128 * high[0]):  # neither uint8 from 0 on, nor int8 around 0
        return "inputs with a zero point"
    return ""


def _sources(node: Any) -> list[Any]:
    """Return what an OpenVINO tensor comes out of, behind operators that only move values."""
    kind = node.get_type_name()
    if kind == "Concat":
        return [found for part in node.input_values() for found in _sources(part.get_node())]
    if kind in ("Transpose", "Reshape", "MaxPool"):
        return _sources(node.input_value(0).get_node())
    return [node]


def exact_levels(files: Mapping[str, bytes]) -> int:
    """Count the grey levels 0..255 that reach the first convolution as exactly (level - 128) / 128."""
    if "model.tflite" in files:
        return tflite_levels(files["model.tflite"])
    found = _onnx_levels(files["model.onnx"]) if "model.onnx" in files else _openvino_levels(dict(files))
    wanted = (np.arange(256) - CENTRE) / CENTRE
    return int((found.astype(np.float32) == wanted.astype(np.float32)).sum())


def _onnx_levels(model: bytes) -> npt.NDArray[np.float64]:
    """Return what the first convolution sees of the 256 levels, by running the graph up to there."""
    import onnx
    import onnxruntime

    graph = onnx.load_from_string(model)
    first = next(node for node in graph.graph.node if node.op_type == "Conv").input[0]
    side = graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    del graph.graph.output[:]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(first, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    levels = np.resize(np.arange(256, dtype=np.uint8), (1, side, side, 3))
    (seen,) = session.run(None, {INPUT: levels})
    return _by_level(levels, np.moveaxis(seen, 1, -1))


def _by_level(levels: npt.NDArray[np.uint8], seen: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return what each level became, (256,), NaN where not the same everywhere."""
    values = np.full(256, np.nan)
    for level in range(256):
        different = np.unique(seen[levels == level])
        if len(different) == 1:
            values[level] = different[0]
    return values


def _openvino_levels(files: dict[str, bytes]) -> npt.NDArray[np.float64]:
    """Return what the first convolution sees of the 256 levels, by running the graph up to there."""
    from .to_openvino import read_openvino

    openvino = import_engine("openvino")

    graph = read_openvino(files)
    first = next(op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution").input_value(0)
    start = openvino.Model([first], graph.get_parameters(), "start")
    compiled = openvino.Core().compile_model(start, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    side = graph.input(0).get_partial_shape().get_max_shape()[1]
    levels = np.resize(np.arange(256, dtype=np.uint8), (1, side, side, 3))
    return _by_level(levels, np.moveaxis(compiled({INPUT: levels})[0], 1, -1))
