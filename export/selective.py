"""Selective quantization: some layers stay in float, said as each quantizer wants it; their outputs stay in float, too.

A layer in float reads what the layers before it give, dequantized, and is quantized again for the layers behind it
unless they stay in float, too: what is saved is the rounding of its weights, and of its output where all its readers
are kept with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .graph_input import operator_code, read_graph, without_leftovers, write_graph
from .layer_names import onnx_layers, select, tflite_layers


def left_in_float(recipe: list[dict[str, Any]], model: bytes, keep: Sequence[str]) -> list[dict[str, Any]]:
    """Add to ai-edge-quantizer's recipe that some layers stay in float.

    Args:
        recipe: of `ai_edge_quantizer.recipe`.
        model: TFLite in float.
        keep: names, see `layer_names.select`.

    Raises:
        UsageError: a name stands for no layer.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    for layer in select(tflite_layers(read_graph(model)), keep):
        scope = "^" + re.escape("".join(f"{output};" for output in layer.outputs)) + "$"
        manager.add_quantization_config(
            scope,
            qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
    extended: list[dict[str, Any]] = manager.get_quantization_recipe()
    return extended


def ignored_nodes(model: bytes, keep: Sequence[str]) -> list[str]:
    """Return the names of the ONNX nodes that layers stand for, for ``nncf.IgnoredScope(names=...)``.

    Args:
        model: ONNX in float.
        keep: names, see `layer_names.select`.

    Raises:
        UsageError: a name stands for no layer.
    """
    import onnx

    graph = onnx.load_from_string(model)
    by_output = {output: node.name for node in graph.graph.node for output in node.output}
    return [by_output[layer.outputs[0]] for layer in select(onnx_layers(graph), keep)]


def outputs_as_written(model: bytes) -> bytes:
    """Take off the QUANTIZE that the quantizer puts behind outputs whose layers stay in float.

    It would round for nobody, and its tensor has another name than the output.

    Args:
        model: TFLite, quantized.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = read_graph(model)
    main = graph.subgraphs[0]
    for operator in list(main.operators):
        (place, *_), (source, *_) = operator.outputs, operator.inputs
        rounds = operator_code(graph, operator) == schema.BuiltinOperator.QUANTIZE and main.tensors[source].type == 0
        if not rounds or place not in list(main.outputs):
            continue
        main.outputs = [source if output == place else output for output in main.outputs]
        for signature in graph.signatureDefs or []:
            for entry in signature.outputs:
                entry.tensorIndex = source if entry.tensorIndex == place else entry.tensorIndex
        if not any(place in list(other.inputs) for other in main.operators):
            main.operators.remove(operator)
    return write_graph(without_leftovers(graph))
