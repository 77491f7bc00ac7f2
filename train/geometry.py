"""Geometry: where in the picture each cell of a feature map looks.

What comes in is a feature extractor and one of its layers; what goes out is an `edge_runtime.heatmap.Placement`. The
centre of a receptive field follows from kernels, strides and paddings alone (Araujo, Norris & Sim 2019,
doi:10.23915/distill.00021); it is read off as the centre of gravity of one cell's gradient in a copy of the network in
which every filter and pooling is an average and nothing is cut off, which holds for branches of every kind.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.heatmap import Placement

PROBE_PX = 640
"""Side of the picture that is asked: most receptive fields fit in, and the others are cut alike on both sides."""


@lru_cache(maxsize=16)  # it depends on the architecture, which no training changes
def placement(features: nn.Module, layer: str, input_px: int) -> Placement:
    """Return where the cells of a layer's feature map lie.

    Args:
        features: (N, 3, H, W) -> feature map; is not changed.
        layer: name of a layer within it; "": its own output.
        input_px: height and width of the network's input.

    Returns:
        Centres to half a pixel; the step is a power of two, as every halving halves.
    """
    probe = _averaging(nn.Sequential(copy.deepcopy(features)))[0].eval().cpu()
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(output)

    hook = probe.get_submodule(layer).register_forward_hook(keep)
    random = torch.Generator().manual_seed(0)  # a constant picture would let a maximum always choose its first place
    pixels = (0.9 + 0.2 * torch.rand(1, 3, PROBE_PX, PROBE_PX, generator=random)).requires_grad_()
    probe(pixels)
    hook.remove()
    cells = found[0].shape[-1]
    middle = cells // 2
    centres = [_centre(found[0], pixels, i) for i in (middle - 1, middle)]
    step = 2 ** round(math.log2(centres[1] - centres[0]))
    first = sum(centre - i * step for centre, i in zip(centres, (middle - 1, middle), strict=True)) / 2
    return Placement(round(2 * first) / 2, float(step), input_px)


def _centre(feature_map: Tensor, pixels: Tensor, i: int) -> float:
    """Return the centre of gravity, along x, of what the cell in the middle row and column `i` looks at."""
    (gradient,) = torch.autograd.grad(feature_map[0, :, feature_map.shape[2] // 2, i].sum(), pixels, retain_graph=True)
    weight = gradient.double().sum((0, 1, 2))
    places = torch.arange(len(weight)) + 0.5
    return float((weight * places).sum() / weight.sum())


def _averaging(network: Any) -> Any:
    """Make every filter within a network an average, and leave out whatever bends or rescales."""
    for name, module in network.named_children():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MaxPool2d):
            average = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            setattr(network, name, average)
        elif isinstance(module, nn.BatchNorm2d | nn.ReLU | nn.ReLU6 | nn.Dropout):
            setattr(network, name, nn.Identity())
        else:
            _averaging(module)
    return network
