"""ONNX rounding: the rounding of ``rounding``, for a graph of quantize-dequantize pairs.

What comes in are a float ONNX graph and its QDQ form, as NNCF writes it, with the scales that stay; what goes out is
the QDQ form with other int8 weights and corrected biases. A convolution without a bias gets one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.preprocess import Pixels

from .activations import Inputs, Moments, take_patches
from .rounding import compensated
from .to_onnx import INPUT


def round_onnx(quantized: Any, original: Any, pixels: Pixels, threads: int = 2) -> None:
    """Round a QDQ graph's weights anew and correct its biases, in place.

    Args:
        quantized: ``onnx.ModelProto``, made of `original` with its nodes' names kept.
        original: ``onnx.ModelProto`` in float.
        pixels: (N, H, W, 3) uint8, the calibration set.
        threads: for one picture.
    """
    from onnx import numpy_helper

    exact_of = {node.name: node for node in original.graph.node if node.op_type == "Conv"}
    before, after = (_constants(graph) for graph in (original, quantized))
    made_by = {name: node for node in quantized.graph.node for name in node.output}
    seen_by = watch_onnx(original, pixels, threads)
    for node in quantized.graph.node:
        pair = made_by.get(node.input[1]) if node.op_type == "Conv" else None
        if pair is None or pair.op_type != "DequantizeLinear" or pair.input[0] not in after:  # left in float
            continue
        source, seen = exact_of[node.name], seen_by[node.name]
        weights = numpy_helper.to_array(before[source.input[1]]).astype(np.float64)  # (O, I, rows, columns)
        exact = _grouped(weights, len(seen.mean))
        scale = numpy_helper.to_array(after[pair.input[1]]).astype(np.float64).reshape(exact.shape[:2])
        steps = compensated(exact, scale, seen.covariance)
        shift = ((steps * scale[..., None] - exact) * seen.mean[:, None, :]).sum(-1).ravel()
        stored = after[pair.input[0]]
        rounded = _ungrouped(steps, weights.shape).astype(np.int8)
        stored.CopyFrom(numpy_helper.from_array(rounded, stored.name))
        bias = numpy_helper.to_array(before[source.input[2]]) if len(source.input) > 2 else np.zeros(len(weights))
        corrected = numpy_helper.from_array((bias - shift).astype(np.float32), f"{node.name}/corrected_bias")
        quantized.graph.initializer.append(corrected)
        del node.input[2:]
        node.input.append(corrected.name)


def watch_onnx(model: Any, pixels: Pixels, threads: int = 2) -> dict[str, Inputs]:
    """Run a calibration set through a float graph and keep what its convolutions see; the same for the same arguments.

    Args:
        model: ``onnx.ModelProto``, uint8 pixels in.
        pixels: (N, H, W, 3) uint8.
        threads: for one picture.

    Returns:
        Name of a convolution's node -> its inputs.
    """
    import copy

    import onnx
    import onnxruntime
    from onnx import numpy_helper

    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    watched = copy.deepcopy(model)
    del watched.graph.output[:]
    read = list(dict.fromkeys(node.input[0] for node in nodes))
    for name in read:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in _constants(model).items()}
    random = np.random.default_rng(0)
    moments = {node.name: Moments() for node in nodes}
    for picture in pixels:
        found = dict(zip(read, session.run(read, {INPUT: picture[None]}), strict=True))
        for node in nodes:
            stated: dict[str, Any] = {one.name: list(one.ints) or one.i for one in node.attribute}
            top, left, bottom, right = stated.get("pads", [0, 0, 0, 0])
            patches = take_patches(
                np.moveaxis(found[node.input[0]][0], 0, -1),
                constants[node.input[1]].shape[2:],
                tuple(stated.get("strides", [1, 1])),
                ((top, bottom), (left, right)),
                stated.get("group", 1) > 1,
                random,
            )
            moments[node.name].add(patches)
    return {name: seen.inputs() for name, seen in moments.items()}


def _constants(model: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _grouped(weights: npt.NDArray[Any], groups: int) -> npt.NDArray[Any]:
    """Turn (O, I, rows, columns) into (groups, O / groups, weights of one output) in the order that `Inputs` has."""
    ordered = weights.transpose(0, 2, 3, 1)
    return ordered.reshape(groups, len(weights) // groups, -1).copy()


def _ungrouped(steps: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Undo `_grouped`."""
    outputs, inputs, rows, columns = shape
    return np.ascontiguousarray(steps.reshape(outputs, rows, columns, inputs).transpose(0, 3, 1, 2))
