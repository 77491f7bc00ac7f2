"""Layer names: one name per operator, the same in torch, ONNX and TFLite, and what a user's choice of them means.

Converters keep the module path in their own way: ``/features/features.17/conv/conv.2/Conv`` in ONNX, the name of the
filter in TFLite (its output is named after whoever reads it). Both become ``features.17.conv.2``, as in torch. An
operator without weights is named after the module it stands in or, where TFLite has forgotten that, behind the last
convolution before it, with its kind at the end: ``features.3.conv.2/add``.

A name given by a user stands for the module and all that is in it: ``classifier`` is the convolution, the mean and
the bias behind it; ``features.17`` is a block.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.errors import UsageError

from .graph_input import operator_code

NEAREST = 3
_FILTER = re.compile(r"_(conv|depthwise|fc)_(filter|weights)$")


@dataclass(frozen=True)
class Layer:
    """An operator of a graph.

    Attributes:
        name: unique in its graph.
        kind: as the graph's format calls it: "CONV_2D", "Conv".
        outputs: names of the tensors it writes.
        inputs: names of the tensors it reads, constants included.
    """

    name: str
    kind: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]


def tflite_layers(graph: Any) -> list[Layer]:
    """Name the operators of a TFLite graph, in its order.

    Args:
        graph: a float one, of `graph_input.read_graph`: quantizing adds operators that are no layers.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    with_weights = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    tensors = graph.subgraphs[0].tensors
    found: list[Layer] = []
    taken: Counter[str] = Counter()
    last = ""
    for operator in graph.subgraphs[0].operators:
        kind = kinds[operator_code(graph, operator)]
        inputs = [tensors[place] for place in operator.inputs if place >= 0]
        constants = [_text(tensor) for tensor in inputs if graph.buffers[tensor.buffer].data is not None]
        if kind in with_weights and constants:
            last = name = module_path(constants[0]) or _FILTER.sub("", constants[0].partition(";")[0])
        else:
            module = next(filter(None, map(module_path, constants)), last)
            name = f"{module}/{kind.lower()}" if module else kind.lower()
        outputs = tuple(_text(tensors[place]) for place in operator.outputs)
        found.append(Layer(_unique(name, kind, taken), kind, outputs, tuple(map(_text, inputs))))
    return found


def onnx_layers(model: Any) -> list[Layer]:
    """Name the operators of an ONNX graph, in its order, constants left out.

    Args:
        model: ``onnx.ModelProto``, before quantization.
    """
    found: list[Layer] = []
    taken: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        module = module_path(node.name)
        plain = f"{module}/{node.op_type.lower()}" if module else node.op_type.lower()
        name = module if node.op_type in ("Conv", "Gemm", "MatMul") and module else plain
        found.append(Layer(_unique(name, node.op_type, taken), node.op_type, tuple(node.output), tuple(node.input)))
    return found


def module_path(name: str) -> str:
    """Turn a converter's name of something in a module into the module's path in torch; "" for the network itself.

    ONNX ends in the operator, and so does what onnx2tf makes of it (behind ``wa/``); litert-torch has the module alone,
    numbered. Each part of an ONNX name repeats the one before where torch nests: ``conv/conv.0/conv.0.0`` is
    ``conv.0.0``.
    """
    parts = name.partition(";")[0].removeprefix("wa/").strip("/").split("/")
    if len(parts) == 1 or name.startswith(("/", "wa/")):
        parts.pop()
    path: list[str] = []
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)


def select(layers: Iterable[Layer], keep: Sequence[str]) -> list[Layer]:
    """Return the layers that names stand for, in the graph's order.

    Raises:
        UsageError: a name stands for none.
    """
    layers = list(layers)
    names = [layer.name for layer in layers]
    modules = {name[:end] for name in names for end in [m.start() for m in re.finditer(r"[./]", name)] + [len(name)]}
    for name in keep:
        if name not in modules:
            near = difflib.get_close_matches(name, sorted(modules), NEAREST, cutoff=0.0)
            raise UsageError("no such layer", got=name, expected=f"such as {', '.join(near)}")
    return [layer for layer in layers if any(_within(layer.name, name) for name in keep)]


def _within(layer: str, name: str) -> bool:
    return layer == name or layer.startswith((f"{name}.", f"{name}/"))


def _unique(name: str, kind: str, taken: Counter[str]) -> str:
    """Number a name that is taken: a module that is called twice, a second pooling behind a convolution."""
    taken[name] += 1
    if taken[name] == 1:
        return name
    return f"{name}_{taken[name]}" if "/" in name or name == kind.lower() else f"{name}/{kind.lower()}_{taken[name]}"


def _text(tensor: Any) -> str:
    return str(tensor.name.decode())
