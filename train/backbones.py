"""Backbones: the seven feature extractors of the study, as one table.

A row says how to build the extractor - pixels normalised to -1..1 in, feature map out - what its published ImageNet
weights are called and expect, and the input size it was designed for. Where weights come from, and how they are
fitted to this project's normalisation, is `train.pretrained`'s business; the head is `train.network`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn


@dataclass(frozen=True)
class Backbone:
    """A row of the backbone table.

    Attributes:
        name: as on the command line and in bundles.
        title: for people.
        build: makes the feature extractor, (N, 3, H, W) normalised -> (N, C, h, w); True loads ImageNet weights from
            the hub.
        channels: C.
        native_px: input size it was designed for, pixels.
        hub: the hub's identifier of its ImageNet weights; "" where there are none.
        scaling: what the hub's weights expect: "imagenet" (mean / std) or "tf" (rgb / 127.5 - 1).
        prefix: where the extractor's tensors lie in a published weights file, such as "features.".
        stem: the first convolution's name within the extractor.
        stem_norm: the batch normalisation right behind the stem; "": there is none and the stem has a bias.
    """

    name: str
    title: str
    build: Callable[[bool], nn.Module]
    channels: int
    native_px: int
    hub: str
    scaling: str
    prefix: str
    stem: str
    stem_norm: str


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


def _hub(pretrained: bool) -> str | None:
    return "DEFAULT" if pretrained else None


def _mobilenet_v2(pretrained: bool) -> nn.Module:
    features: nn.Module = torchvision().models.mobilenet_v2(weights=_hub(pretrained)).features
    return features


def _densenet121(pretrained: bool) -> nn.Module:
    features: nn.Sequential = torchvision().models.densenet121(weights=_hub(pretrained)).features
    features.add_module("relu5", nn.ReLU(inplace=True))  # torchvision applies it in `forward`
    return features


def _vgg16(pretrained: bool) -> nn.Module:
    features: nn.Sequential = torchvision().models.vgg16(weights=_hub(pretrained)).features
    return features[:-1]  # its last convolution's map; the pooling behind it would only coarsen the class map


def _resnet50(pretrained: bool) -> nn.Module:
    return _children_before(torchvision().models.resnet50(weights=_hub(pretrained)), "avgpool")


def _inception_v3(pretrained: bool) -> nn.Module:
    # the hub's weights come with the auxiliary classifier; a new network is initialised by torch, as scipy's truncated
    # normal of torchvision's own initialisation takes minutes
    build = torchvision().models.inception_v3
    network = build(weights="DEFAULT") if pretrained else build(weights=None, aux_logits=False, init_weights=False)
    if pretrained:
        network.AuxLogits = None
    return _children_before(network, "avgpool")


def _children_before(network: nn.Module, end: str) -> nn.Module:
    """Return the layers of a sequential network before the one named `end`, under their own names."""
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in network.named_children():
        if name == end:
            break
        if name != "AuxLogits":
            children[name] = child
    return nn.Sequential(children)


def _xception(pretrained: bool) -> nn.Module:
    torchvision()
    import timm

    network: nn.Module = timm.create_model("legacy_xception", pretrained=pretrained, num_classes=0, global_pool="")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3  # Keras', whose weights these are
    return network


def _custom(pretrained: bool) -> nn.Module:
    """Five blocks of two 3x3 convolutions with batch normalisation, each of which halves the side."""
    assert not pretrained
    widths = (32, 64, 128, 192, 256)
    layers: list[nn.Module] = []
    below = 3
    for width in widths:
        for stride in (2, 1):
            layers += [
                nn.Conv2d(below, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            below = width
    return nn.Sequential(*layers)


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone(
            "mobilenetv2",
            "MobileNetV2",
            _mobilenet_v2,
            1280,
            224,
            "torchvision MobileNet_V2_Weights.IMAGENET1K_V2",
            "imagenet",
            "features.",
            "0.0",
            "0.1",
        ),
        Backbone(
            "densenet121",
            "DenseNet-121",
            _densenet121,
            1024,
            224,
            "torchvision DenseNet121_Weights.IMAGENET1K_V1",
            "imagenet",
            "features.",
            "conv0",
            "norm0",
        ),
        Backbone(
            "vgg16",
            "VGG16",
            _vgg16,
            512,
            224,
            "torchvision VGG16_Weights.IMAGENET1K_V1",
            "imagenet",
            "features.",
            "0",
            "",
        ),
        Backbone(
            "inceptionv3",
            "InceptionV3",
            _inception_v3,
            2048,
            299,
            "torchvision Inception_V3_Weights.IMAGENET1K_V1",
            "tf",
            "",
            "Conv2d_1a_3x3.conv",
            "Conv2d_1a_3x3.bn",
        ),
        Backbone(
            "resnet50",
            "ResNet50",
            _resnet50,
            2048,
            224,
            "torchvision ResNet50_Weights.IMAGENET1K_V2",
            "imagenet",
            "",
            "conv1",
            "bn1",
        ),
        Backbone(
            "xception",
            "Xception",
            _xception,
            2048,
            299,
            "timm legacy_xception.tf_in1k",
            "tf",
            "",
            "conv1",
            "bn1",
        ),
        Backbone("custom", "Custom CNN", _custom, 256, 224, "", "tf", "", "0", "1"),
    )
}


def count_cost(network: nn.Module, px: int) -> dict[str, int]:
    """Count what one picture costs: ``parameters``, and ``macs``, multiply-accumulates of all convolutions.

    Args:
        network: takes (N, H, W, 3) pixels.
        px: side of the picture.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    with counter, torch.no_grad():  # not inference mode, in which the counter sees nothing
        network(torch.zeros(1, px, px, 3, dtype=torch.uint8, device=device))
    network.train(was_training)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": counter.get_total_flops() // 2,
    }
