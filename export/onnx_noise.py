"""ONNX noise: the two questions of ``layer_noise`` asked of a float ONNX graph and its QDQ form, as NNCF writes it.

Tensors are matched by name: NNCF keeps the names of what a layer writes and puts QuantizeLinear and DequantizeLinear
behind it. Convolution and activation stay two operators here; where only the activation is followed by such a pair, the
noise of the output is the activation's.

onnxruntime's ``qdq_loss_debug`` matches by the suffixes that onnxruntime's own quantizer writes, which NNCF's graphs
do not have, and holds all tensors of all pictures at a time; here it is those of one picture.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from edge_runtime.preprocess import Pixels

from .layer_names import onnx_layers
from .layer_noise import Floats, LayerNoise, Rounding, Tally, readers_of, worst_first
from .to_onnx import INPUT

TWIN = "/twin"


def onnx_noise(model: bytes, quantized: bytes, pixels: Pixels, threads: int = 2) -> list[LayerNoise]:
    """Measure a quantized ONNX graph, one picture at a time.

    Args:
        model: full precision, uint8 pixels in.
        quantized: made of it, QDQ.
        pixels: (N, H, W, 3) uint8; a few dozen are enough.
        threads: for one picture.

    Returns:
        One per operator whose output both graphs have and that calculates in float, worst own loss first.
    """
    import onnx
    from tqdm import tqdm

    before, after = onnx.load_from_string(model), onnx.load_from_string(quantized)
    layers = [layer for layer in onnx_layers(before) if layer.kind not in ("Cast", "Shape")]
    written = {output for node in after.graph.node for output in node.output}
    roundings, forms = _roundings(after)
    watched = [layer for layer in layers if layer.outputs[0] in written]
    copies = _add_twins(before, after)
    exact = _open(before, [*(layer.outputs[0] for layer in watched), *copies.values()], threads)
    found = _open(after, sorted({forms.get(layer.outputs[0], layer.outputs[0]) for layer in watched}), threads)
    tallies = [Tally() for _ in watched]
    for picture in tqdm(pixels, desc="noise", unit="picture", leave=False, disable=None):
        wanted, seen = (_run(session, picture) for session in (exact, found))
        for tally, layer in zip(tallies, watched, strict=True):
            name = layer.outputs[0]
            if wanted[name].dtype == np.float32:
                twin = wanted[copies.get(name, name)]
                tally.add(wanted[name], seen[forms.get(name, name)], twin, roundings.get(name))
    measured = zip(tallies, watched, readers_of(watched), strict=True)
    return worst_first([tally.result(layer, readers) for tally, layer, readers in measured if tally.signal > 0])


def _open(model: Any, outputs: list[str], threads: int) -> Any:
    """Open a graph so that it gives some inner tensors, too, as they are without fusing."""
    import onnx
    import onnxruntime

    there = {output.name for output in model.graph.output}
    extended = copy.deepcopy(model)
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(extended.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: Any, picture: Pixels) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: np.ascontiguousarray(picture[None])}), strict=True))


def _roundings(model: Any) -> tuple[dict[str, Rounding], dict[str, str]]:
    """Return how tensors are rounded, where with one scale, and what the rounded tensor is called."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantized = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    roundings: dict[str, Rounding] = {}
    forms: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in forms or node.input[0] in constants:
            continue
        scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        if scale.size == 1 and node.output[0] in dequantized:
            limits = np.iinfo(zero.dtype)
            roundings[node.input[0]] = (float(scale), float(zero), int(limits.min), int(limits.max))
            forms[node.input[0]] = dequantized[node.output[0]]
    return roundings, forms


def _add_twins(before: Any, after: Any) -> dict[str, str]:
    """Add to a float graph a copy of every operator whose constants the quantized graph has changed, with the changed.

    Returns:
        Output of an operator -> output of its copy.
    """
    from onnx import numpy_helper

    mine, others = _constants(before), _constants(after)
    changed = {node.output[0]: node for node in after.graph.node}
    copies: dict[str, str] = {}
    for node in list(before.graph.node):
        other = changed.get(node.output[0])
        if other is None or other.op_type != node.op_type or node.op_type == "Constant":
            continue
        places = [place for place, name in enumerate(other.input) if name in others and others[name].ndim]
        known = [mine.get(node.input[place]) if place < len(node.input) else None for place in places]
        values = [others[other.input[place]] for place in places]
        if all(a is not None and np.array_equal(a, b) for a, b in zip(known, values, strict=True)):
            continue
        twin = copy.deepcopy(node)
        for place, value in zip(places, values, strict=True):
            name = f"{node.output[0]}{TWIN}/{place}"
            before.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
            if place < len(twin.input):
                twin.input[place] = name
            else:
                twin.input.append(name)  # a bias where there was none
        twin.name, twin.output[0] = f"{node.name}{TWIN}", f"{node.output[0]}{TWIN}"
        copies[node.output[0]] = twin.output[0]
        before.graph.node.append(twin)
    return copies


def _constants(model: Any) -> dict[str, Floats]:
    """Return a graph's float constants and its quantized ones, dequantized, by the name that operators read."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in stored.items()}
    found: dict[str, Floats] = {name: value for name, value in values.items() if value.dtype == np.float32}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            value, scale, zero = (values[name].astype(np.float64) for name in node.input)
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            if scale.ndim == 1 and scale.size > 1:
                shape = [-1 if side == axis else 1 for side in range(value.ndim)]
                scale, zero = scale.reshape(shape), zero.reshape(shape)
            found[node.output[0]] = (value - zero) * scale
    return found
