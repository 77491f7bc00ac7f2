"""Padding: with values that 8-bit integers have, in operators that a quantizer takes.

Where pooling pads in a way that TFLite's SAME does not, converters put a PADV2 in front of it. That of an average
pooling pads with zeros, which PAD does, too, without a constant that has to be quantized. That of a max pooling pads
with minus infinity (or the lowest float), which has no scale: a quantizer fails on it, or gives it all 256 steps. Two
other paddings give the very same maxima. Where nothing is negative, behind a ReLU, it is zero. Elsewhere it is the
picture's own border, mirrored: where a window reaches ``i`` cells over the border, the mirrored cells ``0 .. i - 1``
are in the window anyhow, as a pooling may not pad by more than half its window (torch refuses it, and so does this).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .graph_input import operator_code, read_graph, write_graph

_LOWEST = -3e38


def pad_with_values(model: bytes) -> bytes:
    """Replace every PADV2 of zeros, and of minus infinity in front of a max pooling, by one that can be quantized.

    Args:
        model: TFLite in float.

    Returns:
        The same function, exactly. A PADV2 that is something else stays.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = read_graph(model)
    main = graph.subgraphs[0]
    for operator in main.operators:
        if operator_code(graph, operator) != int(schema.BuiltinOperator.PADV2):
            continue
        source, pads, _ = operator.inputs
        zeros = _zeros(graph, operator)
        if zeros or _before_pooling(graph, operator):
            operator.inputs = [source, pads]
            if zeros or _never_negative(graph, int(source)):
                operator.opcodeIndex = _code(graph, schema.BuiltinOperator.PAD)
                operator.builtinOptionsType = schema.BuiltinOptions.PadOptions
                operator.builtinOptions = schema.PadOptionsT()
            else:
                operator.opcodeIndex = _code(graph, schema.BuiltinOperator.MIRROR_PAD)
                operator.builtinOptionsType = schema.BuiltinOptions.MirrorPadOptions
                operator.builtinOptions = schema.MirrorPadOptionsT()
                operator.builtinOptions.mode = schema.MirrorPadMode.SYMMETRIC
    return write_graph(graph)


def _zeros(graph: Any, operator: Any) -> bool:
    """Tell whether a PADV2 pads with zeros."""
    filled = graph.buffers[graph.subgraphs[0].tensors[operator.inputs[2]].buffer].data
    return filled is not None and not np.asarray(filled, np.uint8).any()


def _before_pooling(graph: Any, operator: Any) -> bool:
    """Tell whether a PADV2 pads with minus infinity, and only for max poolings that reach at most half over it."""
    from ai_edge_litert import schema_py_generated as schema

    main = graph.subgraphs[0]
    _, pads, value = (main.tensors[place] for place in operator.inputs)
    filled, amount = graph.buffers[value.buffer].data, graph.buffers[pads.buffer].data
    if filled is None or amount is None or pads.type != schema.TensorType.INT32:
        return False
    if np.asarray(filled, np.uint8).view(np.float32).max() > _LOWEST:
        return False
    sides = np.asarray(amount, np.uint8).view(np.int32).reshape(-1, 2)
    (padded,) = operator.outputs
    readers = [reader for reader in main.operators if padded in list(reader.inputs)]
    return bool(readers) and all(
        operator_code(graph, reader) == int(schema.BuiltinOperator.MAX_POOL_2D)
        and reader.builtinOptions.padding == schema.Padding.VALID
        and sides[[0, 3]].max() == 0
        and 2 * sides[1].max() <= reader.builtinOptions.filterHeight
        and 2 * sides[2].max() <= reader.builtinOptions.filterWidth
        for reader in readers
    )


def _never_negative(graph: Any, place: int) -> bool:
    """Tell whether a tensor comes out of a ReLU, one of its own or one fused into what is before."""
    from ai_edge_litert import schema_py_generated as schema

    own = (int(schema.BuiltinOperator.RELU), int(schema.BuiltinOperator.RELU6))
    fused = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)
    return any(
        operator_code(graph, operator) in own
        or getattr(operator.builtinOptions, "fusedActivationFunction", None) in fused
        for operator in graph.subgraphs[0].operators
        if place in list(operator.outputs)
    )


def _code(graph: Any, builtin: int) -> int:
    """Return the number of an operator's code in a graph, which gets it where it has none."""
    from ai_edge_litert import schema_py_generated as schema

    for number, row in enumerate(graph.operatorCodes):
        if max(int(row.builtinCode), int(row.deprecatedBuiltinCode)) == builtin:
            return number
    row = schema.OperatorCodeT()
    row.builtinCode = row.deprecatedBuiltinCode = builtin
    row.version = 1
    graph.operatorCodes.append(row)
    return len(graph.operatorCodes) - 1
