"""Layer noise: how much of each layer's signal quantization has left, and which layer took the rest away.

What comes in are a float TFLite graph, its quantized form and pixels; what goes out is one `LayerNoise` per operator,
worst own loss first. Two questions are kept apart. *How good is the signal here?* is answered by running both graphs
and comparing tensors of one name: all that went wrong so far. *What does this layer add?* is answered by a second copy
of every layer inside the float graph: it reads what the float layer reads, but calculates with the quantized layer's
weights, and its output is rounded as the quantized layer's is. So noise from before takes no part, there is one run per
picture for all layers together, and the noise of weights (keep the layer in float) is told from that of the output's
steps and range (keep its readers, too, or give the activations 16 bits). What the copy leaves out is the integer
kernel's own rounding, under one step. A layer's input was charged to whoever wrote it.

ai-edge-quantizer's own ``Quantizer.validate`` answers the first question only; it opens two interpreters per picture,
averages ratios over pictures, so that one with little noise outweighs all others, and replaces what is not finite.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.preprocess import Pixels
from train.layout import columns

from .graph_input import CENTRE, open_whole, quantization, read_graph, take_off_normalisation, write_graph
from .layer_names import Layer, tflite_layers
from .padding import pad_with_values

Floats = npt.NDArray[np.float64]
Rounding = tuple[float, float, int, int]
"""Scale, zero point, smallest and largest step of a tensor."""

LIMITS = {"INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-32768, 32767)}
MOVES = (
    *("RESHAPE", "PAD", "PADV2", "MIRROR_PAD", "TRANSPOSE", "CONCATENATION", "MAX_POOL_2D"),
    *("SLICE", "STRIDED_SLICE", "SPLIT"),
    *("Reshape", "Pad", "Transpose", "Concat", "MaxPool", "Slice", "Split", "Squeeze", "Flatten"),
)
"""Kinds that only move values, in TFLite and ONNX: between tensors of one scale they add nothing."""


@dataclass(frozen=True)
class LayerNoise:
    """Signal-to-quantization-noise ratios at one layer's output: 10 log10(sum x^2 / sum (x - x_q)^2), over pictures.

    Attributes:
        name: as in `layer_names`.
        kind: of operator, as the graph's format calls it.
        sqnr_db: in the quantized network, all before it included; infinite where nothing is lost.
        own_db: of this layer alone, on the float network's input.
        weights_db: of `own_db`, by its constants.
        output_db: of `own_db`, by steps and range of its output.
        readers: layers that read its output, also behind layers that only move it.
    """

    name: str
    kind: str
    sqnr_db: float
    own_db: float
    weights_db: float
    output_db: float
    readers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON: null where nothing is lost."""
        ratios = {key: getattr(self, key) for key in ("sqnr_db", "own_db", "weights_db", "output_db")}
        stated = {key: round(value, 2) if math.isfinite(value) else None for key, value in ratios.items()}
        return {"name": self.name, "kind": self.kind, **stated, "readers": list(self.readers)}


class Tally:
    """Sums of one layer over pictures: its signal and the noise of four origins."""

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = np.zeros(4)

    def add(self, exact: Any, found: Any, twin: Any, rounding: Rounding | None) -> None:
        """Take in one output on one picture.

        Args:
            exact: of the float network.
            found: of the quantized network, dequantized.
            twin: of the float layer with quantized constants.
            rounding: of the quantized layer's output; None: not rounded.
        """
        exact, found, twin = (np.asarray(values, np.float64) for values in (exact, found, twin))
        self.signal += float((exact**2).sum())
        sides = (found, rounded(twin, rounding), twin, rounded(exact, rounding))
        self.noise += [float(((side - exact) ** 2).sum()) for side in sides]

    def result(self, layer: Layer, readers: Sequence[str]) -> LayerNoise:
        """Return the ratios."""
        sqnr, own, weights, output = (decibel(self.signal, float(noise)) for noise in self.noise)
        return LayerNoise(layer.name, layer.kind, sqnr, own, weights, output, tuple(readers))


def decibel(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise); infinite without noise."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def rounded(values: Floats, rounding: Rounding | None) -> Floats:
    """Round values to a tensor's steps, clipping what is beyond them."""
    if rounding is None:
        return values
    scale, zero, low, high = rounding
    steps: Floats = (np.clip(np.rint(values / scale) + zero, low, high) - zero) * scale
    return steps


def worst_first(layers: Sequence[LayerNoise]) -> list[LayerNoise]:
    """Sort by own loss; what is not lost keeps its order."""
    return sorted(layers, key=lambda layer: layer.own_db)


def noise_table(layers: Sequence[LayerNoise]) -> str:
    """Lay layers out as text."""
    rows: list[tuple[str, ...]] = []
    for layer in layers:
        ratios = (layer.own_db, layer.weights_db, layer.output_db, layer.sqnr_db)
        rows.append((layer.name, *(f"{ratio:.1f}" if math.isfinite(ratio) else "-" for ratio in ratios), layer.kind))
    return columns(("layer", "own dB", "by weights", "by output", "at output dB", "kind"), rows)


def readers_of(layers: Sequence[Layer]) -> list[list[str]]:
    """Return, for each layer of a graph in its order, those that read what it writes, also behind such as move it."""
    found: dict[str, list[str]] = {}
    for layer in reversed(layers):
        direct = [other for other in layers if set(other.inputs) & set(layer.outputs)]
        behind = [name for other in direct if other.kind in MOVES for name in found.get(other.name, [])]
        found[layer.name] = list(dict.fromkeys([*(other.name for other in direct), *behind]))
    return [found[layer.name] for layer in layers]


def tflite_noise(model: bytes, quantized: bytes, pixels: Pixels, threads: int = 2) -> list[LayerNoise]:
    """Measure a quantized TFLite graph, one picture at a time.

    Args:
        model: full precision, uint8 pixels in.
        quantized: made of it by `quantize.quantize` or `quantize.quantize_weights`.
        pixels: (N, H, W, 3) uint8; a few dozen are enough.
        threads: for one picture.

    Returns:
        One per operator that both graphs have, worst own loss first.
    """
    from tqdm import tqdm

    graph, after = read_graph(pad_with_values(take_off_normalisation(model))), read_graph(quantized)
    layers = tflite_layers(graph)
    count = len(graph.subgraphs[0].operators)
    copies = _add_twins(graph, after)
    exact, found = open_whole(write_graph(graph), threads), open_whole(quantized, threads)
    forms = _forms(after)
    entries = [side.get_input_details()[0]["index"] for side in (exact, found)]
    tallies = [Tally() for _ in layers]
    roundings = [_rounding(layer, forms, after) for layer in layers]
    for picture in tqdm(pixels, desc="noise", unit="picture", leave=False, disable=None):
        exact.set_tensor(entries[0], (picture[None].astype(np.float32) - CENTRE) / CENTRE)
        found.set_tensor(entries[1], np.ascontiguousarray(picture[None]))
        exact.invoke()
        found.invoke()
        for number in range(count):
            operator = graph.subgraphs[0].operators[number]
            for place, name in zip(operator.outputs, layers[number].outputs, strict=True):
                if name not in forms:
                    continue
                scales, zeros = quantization(after.subgraphs[0].tensors[forms[name]])
                seen = (found.get_tensor(forms[name]).astype(np.float64) - zeros[0]) * scales[0]
                twin = exact.get_tensor(copies.get(int(place), int(place)))
                tallies[number].add(exact.get_tensor(int(place)), seen, twin, roundings[number])
    measured = zip(tallies, layers, readers_of(layers), strict=True)
    return worst_first([tally.result(layer, readers) for tally, layer, readers in measured if tally.signal > 0])


def _add_twins(graph: Any, quantized: Any) -> dict[int, int]:
    """Add to a float graph a copy of every operator with constants that are quantized, with those for constants.

    Returns:
        Output of an operator -> output of its copy.
    """
    main = graph.subgraphs[0]
    there = {tensor.name: tensor for tensor in quantized.subgraphs[0].tensors}
    copies: dict[int, int] = {}
    for operator in list(main.operators):
        changed = {}
        for place in operator.inputs:
            tensor = main.tensors[place]
            other = there.get(tensor.name)
            if place < 0 or tensor.type or graph.buffers[tensor.buffer].data is None or other is None or not other.type:
                continue
            changed[int(place)] = _new_tensor(graph, tensor, dequantized(quantized, other).astype(np.float32))
        if not changed:
            continue
        twin = copy.copy(operator)
        twin.inputs = [changed.get(int(place), int(place)) for place in operator.inputs]
        twin.outputs = [_new_tensor(graph, main.tensors[place], None) for place in operator.outputs]
        copies |= dict(zip(map(int, operator.outputs), twin.outputs, strict=True))
        main.operators.append(twin)
    main.outputs = [*main.outputs, *copies.values()]  # what nobody reads would not be calculated
    return copies


def _new_tensor(graph: Any, like: Any, values: npt.NDArray[np.float32] | None) -> int:
    from ai_edge_litert import schema_py_generated as schema

    tensor = copy.copy(like)
    tensor.name = like.name + b"/twin"
    tensor.buffer = 0
    if values is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        graph.buffers.append(buffer)
        tensor.buffer = len(graph.buffers) - 1
    graph.subgraphs[0].tensors.append(tensor)
    return len(graph.subgraphs[0].tensors) - 1


def dequantized(graph: Any, tensor: Any) -> Floats:
    """Return what a constant of a TFLite graph stands for, in its shape."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    data = np.asarray(graph.buffers[tensor.buffer].data, np.uint8).view(kinds[tensor.type])
    values = data.reshape([int(side) for side in tensor.shape]).astype(np.float64)
    scales, zeros = quantization(tensor)
    if scales.size > 1:
        shape = [1] * values.ndim
        shape[int(tensor.quantization.quantizedDimension)] = scales.size
        scales, zeros = scales.reshape(shape), zeros.reshape(shape)
    found: Floats = (values - zeros) * scales if scales.size else values
    return found


def _forms(graph: Any) -> dict[str, int]:
    """Return where each of a quantized graph's tensors is as others read it: the QUANTIZE behind it, where one is."""
    from ai_edge_litert import schema_py_generated as schema

    from .graph_input import operator_code

    main = graph.subgraphs[0]
    places = {tensor.name.decode(): place for place, tensor in enumerate(main.tensors)}
    for operator in main.operators:
        source = main.tensors[operator.inputs[0]]
        if operator_code(graph, operator) == schema.BuiltinOperator.QUANTIZE and source.type == 0:
            places[source.name.decode()] = int(operator.outputs[0])
    return places


def _rounding(layer: Layer, forms: dict[str, int], graph: Any) -> Rounding | None:
    """Return how the quantized layer's output is rounded; None where it is not, or where its input was rounded so."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}

    def stated(name: str) -> Rounding | None:
        tensor = graph.subgraphs[0].tensors[forms[name]] if name in forms else None
        if tensor is None or kinds[tensor.type] not in LIMITS:
            return None
        scales, zeros = quantization(tensor)
        return (float(scales[0]), float(zeros[0]), *LIMITS[kinds[tensor.type]]) if scales.size == 1 else None

    mine = stated(layer.outputs[0])
    if layer.kind in MOVES and mine in [stated(name) for name in layer.inputs]:
        return None
    return mine
