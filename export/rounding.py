"""Rounding: which step each weight becomes, so that a layer's output, not its weights, stays what it was.

Rounding every weight to its nearest step is best for the weights and not for the output: errors of weights that see the
same inputs add up, and their mean shift grows from layer to layer. Both are known from the calibration set. So weights
are rounded one input at a time, and what each rounding does to the output is made up for by those not yet rounded
(Frantar et al. 2022, "GPTQ", algorithm 1, with the covariance of the inputs as Hessian); the mean shift that remains is
taken back by the bias, which has 32 bits or more (Nagel et al. 2019, "Data-free quantization", section 4.2). Scales
stay as they are, and it costs nothing on the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from .activations import Floats, Inputs, convolutions, is_depthwise
from .graph_input import read_graph, write_graph

LARGEST = 127
"""Of an 8-bit weight; its range is symmetric."""

DAMPING = 0.01
"""Added to the covariance's diagonal, as a share of its mean: inputs that never vary would leave it without inverse."""


WHOLE, BLOCK = 1280, 128
"""With more inputs than the first, weights are rounded block by block, and the errors of a block reach those beyond it
at once: many small products become a large one. The 3 x 3 convolutions of wide layers have thousands."""


def round_weights(quantized: bytes, original: bytes, inputs: Sequence[Inputs]) -> bytes:
    """Round a quantized graph's weights anew and correct its biases.

    Args:
        quantized: TFLite, weights in INT8, made from `original` with its tensors' names kept.
        original: TFLite in float.
        inputs: of its convolutions, see `activations.Activations`.

    Returns:
        The quantized graph with other weights and biases on the same scales. Convolutions that are not quantized or
        have no bias stay as they are.
    """
    from ai_edge_litert import schema_py_generated as schema

    before, after = read_graph(original), read_graph(quantized)
    tensors = {tensor.name: tensor for tensor in after.subgraphs[0].tensors}
    for operator, seen in zip(convolutions(before), inputs, strict=True):
        _, weight, *biases = (before.subgraphs[0].tensors[place] for place in operator.inputs)
        rounded = tensors.get(weight.name)
        if not biases or rounded is None or rounded.type != schema.TensorType.INT8:
            continue
        depthwise = is_depthwise(before, operator)
        exact = _grouped(_values(before, weight, np.float32), depthwise)  # (groups, O, I)
        scale = np.asarray(rounded.quantization.scale, np.float64).reshape(exact.shape[:2])
        steps = compensated(exact, scale, seen.covariance)
        shift = ((steps * scale[..., None] - exact) * seen.mean[:, None, :]).sum(-1).ravel()  # (all output channels,)
        bias = tensors[biases[0].name]
        kept = np.int64 if bias.type == schema.TensorType.INT64 else np.int32  # as wide as the activations ask for
        corrected = _values(after, bias, kept) - np.rint(shift / np.asarray(bias.quantization.scale, np.float64))
        _set(after, rounded, _ungrouped(steps, rounded.shape, depthwise).astype(np.int8))
        _set(after, bias, corrected.astype(kept))
    return write_graph(after)


def compensated(exact: Floats, scale: Floats, covariance: Floats) -> Floats:
    """Round weights so that the variance of the output's error is small.

    Args:
        exact: (groups, O, I) weights.
        scale: (groups, O) of a step, > 0.
        covariance: (groups, I, I) of the inputs.

    Returns:
        (groups, O, I) whole numbers, -127..127.
    """
    groups, _, count = exact.shape
    diagonal = np.diagonal(covariance, axis1=1, axis2=2)
    level = diagonal.mean(1)
    order = np.argsort(-diagonal, axis=1, kind="stable")  # (groups, I): the inputs that matter most are rounded first
    back, group = order[:, ::-1], np.arange(groups)[:, None]
    # row c of the upper Cholesky factor of the inverse says how the weights after c make up for an error in c. It is
    # the inverse of the lower factor of the covariance itself, written backwards
    lower = _factor(covariance[group[..., None], back[:, :, None], back[:, None, :]], level)
    upper = np.stack([lapack.dtrtri(one, lower=1)[0] for one in lower])[:, ::-1, ::-1]
    left = np.take_along_axis(exact, order[:, None, :], axis=2)
    steps = np.empty_like(left)
    block = count if count <= WHOLE else BLOCK
    for start in range(0, count, block):
        end = min(start + block, count)
        errors = np.empty((*left.shape[:2], end - start))
        for c in range(start, end):
            steps[..., c] = np.clip(np.rint(left[..., c] / scale), -LARGEST, LARGEST)
            errors[..., c - start] = (left[..., c] - steps[..., c] * scale) / upper[:, c, c, None]
            left[..., c + 1 : end] -= errors[..., c - start, None] * upper[:, c, None, c + 1 : end]
        left[..., end:] -= errors @ upper[:, start:end, end:]
    unsorted = np.empty_like(steps)
    np.put_along_axis(unsorted, np.broadcast_to(order[:, None, :], steps.shape), steps, axis=2)
    return unsorted


def _factor(covariance: Floats, level: Floats) -> Floats:
    """Return the lower Cholesky factor of damped covariances.

    Args:
        covariance: (groups, I, I); where inputs hardly vary around a large mean, its rounding may make it indefinite.
        level: (groups,) mean of its diagonal.
    """
    ones = np.eye(covariance.shape[-1])
    for damping in (DAMPING, 10 * DAMPING):
        with contextlib.suppress(np.linalg.LinAlgError):
            damped = covariance + (damping * level + (level <= 0))[:, None, None] * ones
            return np.asarray(np.linalg.cholesky(damped), np.float64)
    alone = (covariance + (level + (level <= 0))[:, None, None]) * ones  # each input as if the others were not there
    return np.asarray(np.linalg.cholesky(alone), np.float64)


def _grouped(weights: Floats, depthwise: bool) -> Floats:
    """Turn (O, rows, columns, I) or, depthwise, (1, rows, columns, O) into (groups, O, I) as `Inputs` has them."""
    if depthwise:
        channels: Floats = weights[0].reshape(-1, weights.shape[-1]).T[:, None, :]
        return channels.copy()
    return weights.reshape(1, weights.shape[0], -1)


def _ungrouped(steps: Floats, shape: Sequence[int], depthwise: bool) -> Floats:
    """Undo `_grouped`."""
    if depthwise:
        return steps[:, 0, :].T.reshape([int(side) for side in shape])
    return steps.reshape([int(side) for side in shape])


def _values(graph: Any, tensor: Any, dtype: Any) -> Floats:
    data = np.asarray(graph.buffers[tensor.buffer].data, np.uint8).view(dtype)
    values: Floats = data.reshape([int(side) for side in tensor.shape]).astype(np.float64)
    return values


def _set(graph: Any, tensor: Any, values: npt.NDArray[Any]) -> None:
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()  # a new one: equal constants of two layers may share theirs
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    graph.buffers.append(buffer)
    tensor.buffer = len(graph.buffers) - 1
