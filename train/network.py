"""Networks: seven backbones' common shape - pixels in, logits and the class map they are the mean of, out.

``(N, H, W, 3)`` uint8 -> (pixel - 128) / 128 -> backbone -> feature map (N, C, h, w) -> 1x1 convolution with the
classifier's weights -> class map (N, h, w, K) -> spatial mean + bias -> logits (N, K). Pooling and a linear layer
commute, so this is the usual classifier, and ReLU(class map) is its Grad-CAM (Selvaraju et al. 2017, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .errors import DataError

if TYPE_CHECKING:
    from types import ModuleType

PIXEL_CENTRE = 128.0
"""Normalisation of every network: (pixel - 128) / 128. Its INT8 form is exactly pixel - 128, with no rounding."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A row of the backbone table.

    Attributes:
        name: as on the command line and in bundles.
        build: makes the feature extractor, (N, 3, H, W) normalised -> (N, C, h, w); True loads ImageNet weights from
            the hub.
        channels: C.
        prefix: where the feature extractor's tensors lie in a published weights file, such as "features.".
        stem: the first convolution's name within the extractor; its batch norm is `stem_norm`.
        stem_norm: the batch normalisation right behind the stem.
    """

    name: str
    build: Callable[[bool], nn.Module]
    channels: int
    prefix: str
    stem: str
    stem_norm: str


def _mobilenet_v2(pretrained: bool) -> nn.Module:
    models = torchvision().models
    features: nn.Module = models.mobilenet_v2(weights="DEFAULT" if pretrained else None).features
    return features


BACKBONES: dict[str, Backbone] = {
    row.name: row for row in (Backbone("mobilenetv2", _mobilenet_v2, 1280, "features.", "0.0", "0.1"),)
}


def torchvision() -> ModuleType:
    """Import torchvision, also beside a CPU build of torch.

    The published wheel is built for CUDA; beside CPU torch its import fails because the schemas of two operators that
    nothing here calls are missing. They are declared first, only then.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "nms" not in str(error):
            raise
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._leukoscope_schemas = library  # the schemas live as long as the module that needs them
    return torchvision


class SelfExplaining(nn.Module):
    """A backbone with the self-explaining head.

    Args:
        backbone: row of `BACKBONES`.
        classes: K.
        pretrained: load ImageNet weights from the hub.
    """

    def __init__(self, backbone: Backbone, classes: int, pretrained: bool = False) -> None:
        super().__init__()
        self.features = backbone.build(pretrained)
        self.classifier = nn.Conv2d(backbone.channels, classes, kernel_size=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.normal_(self.classifier.weight, std=0.01)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn (N, H, W, 3) pixels 0..255 into the backbone's (N, 3, H, W), -1 .. 0.992."""
        return ((pixels.float() - PIXEL_CENTRE) / PIXEL_CENTRE).permute(0, 3, 1, 2)

    def head(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the feature map (N, C, h, w) into logits (N, K) and class map (N, h, w, K)."""
        class_map = self.classifier(features).permute(0, 2, 3, 1)
        return class_map.mean((1, 2)) + self.bias, class_map

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Classify pixels.

        Args:
            pixels: (N, H, W, 3), uint8 or float, 0..255.

        Returns:
            Logits (N, K) and class map (N, h, w, K); logits are its spatial mean plus the bias.
        """
        return self.head(self.features(self.normalise(pixels)))


def autograd_gradcam(network: SelfExplaining, pixels: Tensor, k: int) -> Tensor:
    """Compute Grad-CAM of class `k` at the last feature map the usual way, with a backward pass.

    Args:
        network: in eval mode.
        pixels: (1, H, W, 3) uint8.
        k: class number.

    Returns:
        (h, w) float32, ReLU and scaled to peak 1 (all zero where nothing is positive): Selvaraju et al. 2017, eq. 1-2.
    """
    features = network.features(network.normalise(pixels)).detach().requires_grad_(True)
    logits, _ = network.head(features)
    (gradient,) = torch.autograd.grad(logits[0, k], features)
    weights = gradient.mean((2, 3), keepdim=True)  # alpha_k^c
    heat = torch.relu((weights * features).sum(1))[0].detach()
    peak = heat.max()
    return heat / peak if peak > 0 else heat


def load_pretrained(network: SelfExplaining, backbone: Backbone, file: Path, scaling: str = "tf") -> list[str]:
    """Load the feature extractor from a published or earlier weights file.

    Args:
        network: to be changed in place.
        backbone: its row.
        file: ``.safetensors`` with torchvision's names, or a run's own ``weights.safetensors``; any float type.
        scaling: what the weights expect: "tf" (rgb / 127.5 - 1, which is this project's own up to 0.4 %) or
            "imagenet" (mean / std), which is folded into the stem.

    Returns:
        Names of tensors in the file that were not used (a classifier of other classes, say).

    Raises:
        DataError: unreadable, or not this backbone's weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: not a readable safetensors file", got=str(error)) from None
    wanted = network.features.state_dict()
    found = {
        name.removeprefix(backbone.prefix): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if name.startswith(backbone.prefix)
    }
    missing = sorted(set(wanted) - set(found))
    wrong = [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    if missing or wrong:
        raise DataError(
            f"{file}: not weights of {backbone.name}",
            got=f"{len(missing)} tensors missing, {len(wrong)} of another shape, first {(missing + wrong)[0]}",
            expected=f"{len(wanted)} tensors named {backbone.prefix}*",
        )
    network.features.load_state_dict({name: found[name] for name in wanted})
    if scaling == "imagenet":
        fold_imagenet_scaling(network, backbone)
    return sorted(name for name in tensors if name.removeprefix(backbone.prefix) not in wanted)


def fold_imagenet_scaling(network: SelfExplaining, backbone: Backbone) -> None:
    """Rewrite the stem of a network trained on (rgb / 255 - mean) / std so that it takes (pixel - 128) / 128.

    With p = 128 x + 128, (p / 255 - mean) / std = a x + b per channel; a goes into the stem's weights, and b, which is
    constant, into the running mean of the batch normalisation behind it. Exact but for the zero-padded border.
    """
    stem = network.features.get_submodule(backbone.stem)
    norm = network.features.get_submodule(backbone.stem_norm)
    assert isinstance(stem, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    a = 128 / (255 * std)
    b = (128 / 255 - mean) / std
    with torch.no_grad():
        norm.running_mean -= (stem.weight * b.view(1, 3, 1, 1)).sum((1, 2, 3))
        stem.weight *= a.view(1, 3, 1, 1)
