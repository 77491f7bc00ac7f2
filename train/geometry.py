"""Geometry: where in the picture each cell of a feature map looks.

What comes in is a feature extractor and one of its layers; what goes out is an `edge_runtime.heatmap.Placement`. The
centre of a receptive field follows from kernels, strides and paddings alone (Araujo, Norris & Sim 2019,
doi:10.23915/distill.00021). It is read off a picture in which every pixel says its own place, sent through a copy of
the network in which every filter and pooling, as a module or as a function, is an average, whatever bends or rescales
is left out, and a padding goes on as the map goes: a cell's value then is the centre of what it looks at, also where
its receptive field is larger than the picture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edge_runtime.errors import UsageError
from edge_runtime.heatmap import Placement

PROBE_PX = 256
"""Side of the picture that is asked. Every cell knows its place, so two cells are enough."""

TOLERANCE_PX = 1e-3
"""By which cells may miss an even distance: the arithmetic is in double precision."""


def placement(features: nn.Module, layer: str, input_px: int) -> Placement:
    """Return where the cells of a layer's feature map lie.

    A layer that is called several times stands for its last call, the one that captum attributes to. The answer is
    remembered as long as the network lives, for its filters' sizes do not change while it is trained.

    Args:
        features: (N, 3, H, W) -> feature map; is not changed.
        layer: name of a layer within it; "": its own output.
        input_px: height and width of the network's input.

    Returns:
        The first centre to half a pixel.

    Raises:
        UsageError: the layer is never called, or does more than filter, pool, add and join maps.
    """
    known = _KNOWN.setdefault(features, {})
    if layer not in known:
        known[layer] = _first_and_step(features, layer)
    return Placement(*known[layer], input_px)


_KNOWN: WeakKeyDictionary[nn.Module, dict[str, tuple[float, float]]] = WeakKeyDictionary()
"""Network -> layer -> first centre and step: it goes with the network, and a copy that is changed is another one."""


def _first_and_step(features: nn.Module, layer: str) -> tuple[float, float]:
    """Return the first cell's centre and the step, pixels."""
    probe = copy.deepcopy(features).eval().cpu()
    found: list[Tensor] = []
    hook = probe.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: found.append(output))
    places = torch.arange(PROBE_PX, dtype=torch.float64) + 0.5
    pictures = torch.stack([torch.ones_like(places), places])[:, None, None].repeat(1, 3, PROBE_PX, 1)
    with torch.no_grad(), _Averaging():
        probe(pictures)
    hook.remove()
    if not found:
        raise UsageError("a layer that is never called has no feature map", got=layer)
    if found[-1].dim() != 4 or found[-1].shape[-1] < 2:
        raise UsageError("no feature map of two cells or more", got=f"{layer}: {tuple(found[-1].shape)}")
    weight, place = found[-1][:, :, found[-1].shape[2] // 2].sum(1)  # sums of branches weigh more than one each
    centres = place / weight
    step = round(float(centres[-1] - centres[0]) / (len(centres) - 1))
    even = centres[0] + step * torch.arange(len(centres))
    if step < 1 or not bool(((centres - even).abs() < TOLERANCE_PX).all()):
        raise UsageError(
            "cannot say where the cells lie",
            got=f"{layer or 'features'}: {[round(float(centre), 2) for centre in centres[:4]]}",
            expected="a layer that filters, pools, adds and joins maps",
        )
    return round(2 * float(centres[0])) / 2, float(step)


class _Averaging(TorchFunctionMode):
    """Within it, filters and poolings are averages, paddings go on as the map goes, and nothing bends or rescales."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what `func` stands for here."""
        name, given = getattr(func, "__name__", ""), kwargs or {}
        if name in _FILTERS:
            return _FILTERS[name](*args, **given)
        if name in _SHAPING:
            return args[0].clone()
        return func(*args, **given)


_SHAPING = {
    *("batch_norm", "dropout", "feature_dropout", "relu", "relu_", "relu6", "hardtanh", "hardtanh_"),
    *("leaky_relu", "leaky_relu_", "elu", "elu_", "gelu", "silu", "hardswish"),
}
"""What acts on every place alone."""


def _conv(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Average over places and channels, and give every channel of the result that."""
    if isinstance(padding, str):
        raise UsageError("cannot say where the cells lie", got=f"padding {padding!r}", expected="a number")
    averaged = _average(maps.mean(1, keepdim=True), weight.shape[2:], stride, padding, dilation)
    return averaged.repeat(1, len(weight), 1, 1)


def _max_pool(
    maps: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    return _average(maps, kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pool(
    maps: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    return _average(maps, kernel_size, stride, padding, 1, ceil_mode)


_FILTERS: dict[str, Callable[..., Tensor]] = {"conv2d": _conv, "max_pool2d": _max_pool, "avg_pool2d": _avg_pool}


def _average(
    maps: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool = False
) -> Tensor:
    """Average (2, C, H, W) maps, whose values are even along x and the same along y, channel by channel."""
    kernel, spacing, (above, before) = _pair(kernel_size), _pair(dilation), _pair(padding)
    steps = kernel if stride is None or stride == () else _pair(stride)
    more = [step - 1 if ceil_mode else 0 for step in steps]
    height, width = maps.shape[2:]
    rows = torch.arange(-above, height + above + more[0]).clamp(0, height - 1)
    columns = torch.arange(-before, width + before + more[1])
    slope = maps[..., 1:2] - maps[..., :1] if width > 1 else torch.zeros_like(maps)
    padded = (maps[..., :1] + slope * columns)[:, :, rows]
    filters = torch.full((maps.shape[1], 1, *kernel), 1 / (kernel[0] * kernel[1]), dtype=maps.dtype)
    return nn.functional.conv2d(padded, filters, None, steps, 0, spacing, maps.shape[1])


def _pair(value: Any) -> tuple[int, int]:
    """Return a size that torch takes as one number or two, as two: of rows and of columns."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
