"""Activations: one pass of the calibration set through the float graph, for all who need to know what flows in it.

What comes in is a TFLite graph that takes normalised pixels; what goes out is, per tensor, a sample of its values (for
``ranges``) and, per convolution, mean and covariance of what its weights are multiplied with (for ``rounding``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.preprocess import Pixels

from .graph_input import CENTRE, open_whole, operator_code, read_graph

Floats = npt.NDArray[np.float64]

VALUES = 2000
"""Taken of each tensor and picture."""

WIDE, GATHERED = 1280, 1000
"""Inputs of one output beyond which positions are gathered, and how many, before their products are taken."""

POSITIONS = 100
"""Of each convolution's output, taken of each picture."""


@dataclass(frozen=True)
class Inputs:
    """What the weights of one output channel of a convolution are multiplied with, over positions and pictures.

    A weight's place is (row, column, input channel), flat, I of them. A depthwise convolution has one group of inputs
    per channel, each with I = rows x columns; any other has one group for all its output channels.

    Attributes:
        mean: (groups, I).
        covariance: (groups, I, I).
    """

    mean: Floats
    covariance: Floats


class Moments:
    """Sums over positions and pictures, from which `Inputs` come."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0  # float32 once it is a matrix: large ones take most of the memory
        self._waiting: list[npt.NDArray[np.float32]] = []

    def add(self, patches: npt.NDArray[np.float32]) -> None:
        """Take in what weights see at some positions, (groups, positions, I)."""
        self._count += patches.shape[1]
        self._sum = self._sum + patches.sum(1, dtype=np.float64)
        self._waiting.append(patches)
        # a few positions of a wide layer are added to a matrix of a hundred megabytes: better many at a time
        if patches.shape[2] <= WIDE or sum(part.shape[1] for part in self._waiting) >= GATHERED:
            self._add_waiting()

    def _add_waiting(self) -> None:
        if self._waiting:
            together = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
            self._squares = self._squares + together.transpose(0, 2, 1) @ together
            self._waiting.clear()

    def inputs(self) -> Inputs:
        """Return mean and covariance of all that was taken in."""
        self._add_waiting()
        mean = self._sum / self._count
        return Inputs(mean, self._squares.astype(np.float64) / self._count - mean[:, :, None] * mean[:, None, :])


@dataclass(frozen=True)
class Activations:
    """What a calibration set makes flow in a graph.

    Attributes:
        ranges: name of a tensor -> its smallest and largest value.
        values: name of a tensor -> values (M,) float32, drawn at random over pictures, positions and channels. Of what
            stands before the last convolution: its output and all later ones are answers, and not sampled.
        inputs: of the convolutions, in the order of the graph.
    """

    ranges: dict[str, tuple[float, float]]
    values: dict[str, npt.NDArray[np.float32]]
    inputs: list[Inputs]


def watch(model: bytes, pixels: Pixels, threads: int = 2) -> Activations:
    """Run a calibration set through a graph and keep what is needed; the same for the same arguments.

    Args:
        model: TFLite in float, takes normalised pixels.
        pixels: (N, H, W, 3) uint8.
        threads: for one picture.
    """
    graph = read_graph(model)
    main = graph.subgraphs[0]
    operators = convolutions(graph)
    end = main.operators.index(operators[-1])
    places = [int(place) for operator in main.operators for place in operator.outputs]
    inner = {int(place) for operator in main.operators[:end] for place in operator.outputs}
    extremes = {place: (np.inf, -np.inf) for place in places}
    interpreter = open_whole(model, threads)
    entry = interpreter.get_input_details()[0]["index"]
    random = np.random.default_rng(0)
    drawn: dict[int, list[npt.NDArray[np.float32]]] = {place: [] for place in inner}
    moments = [Moments() for _ in operators]
    for picture in pixels:
        interpreter.set_tensor(entry, (picture[None].astype(np.float32) - CENTRE) / CENTRE)
        interpreter.invoke()
        for place in places:
            values = interpreter.get_tensor(place).ravel()
            low, high = extremes[place]
            extremes[place] = (min(low, float(values.min())), max(high, float(values.max())))
            if place in inner:
                drawn[place].append(values[random.integers(values.size, size=VALUES)])
        for operator, seen in zip(operators, moments, strict=True):
            seen.add(_patches(graph, operator, interpreter.get_tensor(int(operator.inputs[0]))[0], random))
    names = {place: main.tensors[place].name.decode() for place in places}
    return Activations(
        {names[place]: limits for place, limits in extremes.items()},
        {names[place]: np.concatenate(parts) for place, parts in drawn.items()},
        [seen.inputs() for seen in moments],
    )


def convolutions(graph: Any) -> list[Any]:
    """Return a graph's convolutions, depthwise ones included, in their order."""
    from ai_edge_litert import schema_py_generated as schema

    codes = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)
    return [operator for operator in graph.subgraphs[0].operators if operator_code(graph, operator) in codes]


def is_depthwise(graph: Any, operator: Any) -> bool:
    """Tell whether a convolution is a depthwise one."""
    from ai_edge_litert import schema_py_generated as schema

    return operator_code(graph, operator) == int(schema.BuiltinOperator.DEPTHWISE_CONV_2D)


def _patches(
    graph: Any, operator: Any, inputs: npt.NDArray[np.float32], random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw what a TFLite convolution's weights see of `inputs`, (H, W, C)."""
    from ai_edge_litert import schema_py_generated as schema

    options = operator.builtinOptions
    rows, columns = (int(side) for side in graph.subgraphs[0].tensors[operator.inputs[1]].shape[1:3])
    down, right = int(options.strideH), int(options.strideW)
    height, width = inputs.shape[:2]
    padding = ((0, 0), (0, 0))
    if options.padding == schema.Padding.SAME:
        tall = max((-(-height // down) - 1) * down + rows - height, 0)
        wide = max((-(-width // right) - 1) * right + columns - width, 0)
        padding = ((tall // 2, tall - tall // 2), (wide // 2, wide - wide // 2))
    return take_patches(inputs, (rows, columns), (down, right), padding, is_depthwise(graph, operator), random)


def take_patches(
    inputs: npt.NDArray[np.float32],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    depthwise: bool,
    random: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Draw what a convolution's weights see at some positions.

    Args:
        inputs: (H, W, C), what it reads.
        kernel: rows and columns.
        stride: likewise.
        padding: zeros above and below, left and right.
        depthwise: one group per channel.
        random: draws the positions, `POSITIONS` of them or all.

    Returns:
        (groups, positions, I) float32, as `Inputs` says.
    """
    padded = np.pad(inputs, (*padding, (0, 0))) if any(map(any, padding)) else inputs
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(0, 1))[:: stride[0], :: stride[1]]
    places = random.permutation(windows.shape[0] * windows.shape[1])[:POSITIONS]
    taken = windows[places // windows.shape[1], places % windows.shape[1]]  # (P, C, rows, columns)
    if depthwise:
        return np.ascontiguousarray(taken.reshape(*taken.shape[:2], -1).transpose(1, 0, 2))
    return np.ascontiguousarray(taken.transpose(0, 2, 3, 1).reshape(1, len(places), -1))
