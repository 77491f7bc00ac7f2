"""Fake to QDQ: a fake-quantized network as an ONNX file with quantize-dequantize pairs, and its rounding in return.

What comes in is a core with NNCF's fake quantizers; what goes out is the graph that `qdq.quantize_onnx` would make with
the same ranges: weights as int8 constants, the network's own names, inputs and outputs. `round_core` goes the other
way: compensated rounding works on such a graph, and what it finds becomes the core's weights. `learned` returns to the
network in float, for other quantizers.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from .fake_quantized import HOOKS, Whole
from .layer_names import module_path
from .onnx_rounding import round_onnx
from .qdq import drop_unused
from .rounding import LARGEST
from .to_onnx import to_onnx

if TYPE_CHECKING:
    from torch import nn

    from edge_runtime.preprocess import Pixels
    from train.network import SelfExplaining


def to_qdq(core: nn.Module, network: SelfExplaining, input_px: int) -> bytes:
    """Write a fake-quantized core as ONNX with quantize-dequantize pairs, int8 weights, and the network's outputs.

    Args:
        core: see `insert_quantizers`.
        network: whose normalisation and bias stand around it.
        input_px: H and W.

    Raises:
        ExportError: it cannot be written.
    """
    import onnx
    from nncf.torch.quantization.layers import BaseQuantizer, QuantizerExportMode

    for module in core.modules():
        if isinstance(module, BaseQuantizer):
            module.set_export_mode(QuantizerExportMode.ONNX_QUANTIZE_DEQUANTIZE_PAIRS)
    graph = onnx.load_from_string(to_onnx(Whole(core, network).eval(), input_px))
    fold_weights(graph)
    onnx.checker.check_model(graph, full_check=True)
    content: bytes = graph.SerializeToString(deterministic=True)
    return content


def fold_weights(graph: Any) -> None:
    """Turn each float constant that goes through a QuantizeLinear into the int8 constant that comes out, in place."""
    from onnx import numpy_helper

    main = graph.graph
    _store_constants(graph)
    constants = {tensor.name: tensor for tensor in main.initializer}
    for node in [node for node in main.node if node.op_type == "QuantizeLinear" and node.input[0] in constants]:
        weight, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)] if scale.ndim else []
        # a symmetric range: training may have moved a weight beyond the step that was its largest
        rounded = np.clip(np.rint(weight / scale.reshape(shape)), -LARGEST, LARGEST).astype(np.int8)
        main.initializer.append(numpy_helper.from_array(rounded, node.output[0]))
        main.node.remove(node)
    drop_unused(graph)
    del main.value_info[:]
    for node in main.node:
        node.name = node.name.removeprefix("/core")  # the network's own names


def _store_constants(graph: Any) -> None:
    """Put every constant of an ONNX graph where the weights are, in place; the exporter writes equal ones once."""
    from onnx import numpy_helper

    main = graph.graph
    for node in [node for node in main.node if node.op_type == "Constant"]:
        value = numpy_helper.to_array(next(attribute.t for attribute in node.attribute if attribute.name == "value"))
        main.initializer.append(numpy_helper.from_array(value, node.output[0]))
        main.node.remove(node)
    constants = {tensor.name: tensor for tensor in main.initializer}
    for node in [node for node in main.node if node.op_type == "Identity" and node.input[0] in constants]:
        same = numpy_helper.to_array(constants[node.input[0]])
        main.initializer.append(numpy_helper.from_array(same, node.output[0]))
        main.node.remove(node)


def round_core(core: nn.Module, network: SelfExplaining, input_px: int, pixels: Pixels) -> None:
    """Give a core the weights that compensated rounding finds, each a whole number of steps, and its biases; in place.

    Args:
        core: see `fake_quantized.insert_quantizers`.
        network: folded, with the weights as they were before.
        input_px: H and W.
        pixels: (N, H, W, 3) uint8, the calibration set.
    """
    import onnx

    graph, original = (
        onnx.load_from_string(file) for file in (to_qdq(core, network, input_px), to_onnx(network, input_px))
    )
    _store_constants(original)
    round_onnx(graph, original, pixels)
    _take_weights(core, graph)


def learned(core: nn.Module, network: SelfExplaining, qdq: bytes) -> SelfExplaining:
    """Return a copy of the folded network with the weights that its fake-quantized core has now, as it rounds them.

    As they are between two steps they are another function, which nobody has asked to be like the network: training
    moves a weight only for what it is rounded to.

    Args:
        core: after training.
        network: folded.
        qdq: the core's `to_qdq`.
    """
    import onnx

    tuned = copy.deepcopy(network)
    values = {name: tensor for name, tensor in core.state_dict().items() if not name.startswith(HOOKS)}
    tuned.load_state_dict(values | {"bias": network.bias})
    _take_weights(tuned, onnx.load_from_string(qdq))
    return tuned.eval()


def _take_weights(network: nn.Module, graph: Any) -> None:
    """Give convolutions the weights, dequantized, and the biases that a QDQ graph has, in place."""
    import torch
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    made_by = {name: node for node in graph.graph.node for name in node.output}
    for node in graph.graph.node:
        if node.op_type != "Conv":
            continue
        names = (*made_by[node.input[1]].input[:2], node.input[2])
        steps, scale, bias = (numpy_helper.to_array(constants[name]) for name in names)
        layer: Any = network.get_submodule(module_path(node.name))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(steps.astype(np.float32) * scale.reshape(-1, 1, 1, 1)))
            layer.bias.copy_(torch.from_numpy(bias.copy()))
