"""QDQ: from a full-precision ONNX graph to one whose tensors pass through quantize-dequantize pairs.

Post-training quantization: graph and scales by NNCF, weights per output channel and symmetric, stored as int8,
activations per tensor and symmetric, uint8 where nothing is negative. Where each weight is rounded to is chosen as for
TFLite (see ``onnx_rounding``), or by NNCF, which corrects the biases for the mean error that is left. What lies before
the first convolution is arithmetic on known grey levels and stays as it is, and so does the mean over the class map.
OpenVINO reads such a graph, too, and is as fast with it as with what NNCF makes of its own form.

Activations per tensor is not NNCF's own choice before depthwise convolutions: per channel, ONNX Runtime finds no kernel
for them and computes in float between a quantization and its inverse, three times slower. TensorRT takes signed
integers with zero point 0 only: `signed` turns uint8 into int8 of twice the step, after NNCF, which cannot be asked for
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.preprocess import Pixels

from .fake_quantized import post_training, quantizers
from .graph_input import CENTRE
from .onnx_rounding import round_onnx
from .selective import ignored_nodes
from .to_onnx import INPUT


def quantize_onnx(
    model: bytes, pixels: Pixels, signed: bool = False, rounding: str = "compensated", keep: Sequence[str] = ()
) -> bytes:
    """Quantize an ONNX graph.

    Args:
        model: full precision, uint8 pixels in, class map and logits out.
        pixels: (N, H, W, 3) uint8, the calibration set.
        signed: int8 activations throughout, as TensorRT takes them.
        rounding: of the weights: "compensated" (see `rounding`) or "nearest", with NNCF's correction of the biases.
        keep: names of layers left in float, as the network has them.

    Returns:
        ONNX file with explicit QuantizeLinear and DequantizeLinear.

    Raises:
        ExportError: NNCF is not installed or refuses the graph.
        UsageError: no such layer to keep.
    """
    import onnx

    original = onnx.load_from_string(model)
    kept = ignored_nodes(model, keep)
    with quantizers() as nncf:
        quantized = _quantize(nncf, onnx.load_from_string(model), pixels, rounding == "nearest", kept)
        _exact_input(quantized)
        if signed:
            make_signed(quantized)
        if rounding == "compensated":
            round_onnx(quantized, original, pixels)
        drop_unused(quantized)
        onnx.checker.check_model(quantized, full_check=True)
        content: bytes = quantized.SerializeToString(deterministic=True)
    return content


def _quantize(nncf: Any, graph: Any, pixels: Pixels, correct_bias: bool, kept: Sequence[str]) -> Any:
    kinds = [node.op_type for node in graph.graph.node]
    names = [node.name for node in graph.graph.node]
    exact = names[: kinds.index("Conv")] + [
        name for name, kind in zip(names, kinds, strict=True) if kind == "ReduceMean"
    ]
    return post_training(
        nncf,
        graph,
        nncf.Dataset([picture[None] for picture in pixels], lambda picture: {INPUT: picture}),
        len(pixels),
        correct_bias,
        ignored_scope=nncf.IgnoredScope(names=[*exact, *kept], validate=False),
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


def make_signed(graph: Any) -> None:
    """Turn the uint8 activations of an ONNX graph into int8 with zero point 0 and the range they had, in place."""
    from onnx import TensorProto, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    halves = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    pairs = {(half.input[1], half.input[2]) for half in halves}  # the two halves of a pair share theirs, or do not
    for scale, zero in ((constants[name] for name in names) for names in pairs):
        if zero.data_type == TensorProto.UINT8:
            wider = numpy_helper.to_array(scale) * np.float32(255 / 127)
            scale.CopyFrom(numpy_helper.from_array(wider.astype(np.float32), scale.name))
            zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero).astype(np.int8), zero.name))


def drop_unused(graph: Any) -> None:
    """Drop constants that nothing reads, in place: full-precision weights lie beside their int8 form."""
    read = {name for node in graph.graph.node for name in node.input} | {out.name for out in graph.graph.output}
    kept = [tensor for tensor in graph.graph.initializer if tensor.name in read]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
