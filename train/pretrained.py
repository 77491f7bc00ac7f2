"""Pretrained weights: how published or earlier weights get into a network of this project.

What comes in is the hub's weights or a ``.safetensors`` file - torchvision's or timm's names, any float type, or int8
with a scale per output channel; what goes out is a feature extractor that takes (pixel - 128) / 128. Weights that
expect another scaling have it folded into their first convolution, once, here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .backbones import Backbone
from .errors import DataError
from .network import SelfExplaining

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_network(backbone: Backbone, classes: int, weights: str, scaling: str = "tf") -> SelfExplaining:
    """Build a network of `classes` classes and fill its feature extractor.

    Args:
        backbone: row of `train.backbones.BACKBONES`.
        classes: K.
        weights: "imagenet" (the hub's), "none" (random, from torch's seed), or a file, see `load_weights`.
        scaling: of a file, see `load_weights`.

    Raises:
        DataError: the hub has none or cannot be reached, or the file does not fit.
    """
    if weights != "imagenet":
        network = SelfExplaining(backbone, classes)
        if weights != "none":
            load_weights(network, backbone, Path(weights), scaling)
        return network
    if not backbone.hub:
        raise DataError(f"{backbone.name}: has no published weights", todo="train from scratch with --weights none")
    try:
        network = SelfExplaining(backbone, classes, pretrained=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; the hub raises RuntimeError on a wrong hash
        raise DataError(
            f"{backbone.name}: {backbone.hub} cannot be had",
            got=str(error).splitlines()[0][:160],
            todo="give a file with --weights FILE, or train from scratch with --weights none",
        ) from None
    if backbone.scaling == "imagenet":
        fold_imagenet_scaling(network, backbone)
    return network


def load_weights(network: SelfExplaining, backbone: Backbone, file: Path, scaling: str = "tf") -> list[str]:
    """Load the feature extractor from a published or earlier weights file.

    Args:
        network: to be changed in place.
        backbone: its row.
        file: ``.safetensors`` with the hub's names, or a run's own ``weights.safetensors``; any float type, or int8
            with ``<name>.scale`` beside it (weight = int8 * scale).
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
        tensors = _widened(load_file(file))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: not a readable safetensors file", got=str(error)) from None
    wanted = network.features.state_dict()
    # a run's own file calls the extractor "features."
    prefix = max((backbone.prefix, "features."), key=lambda prefix: sum(prefix + name in tensors for name in wanted))
    missing = [name for name in wanted if prefix + name not in tensors]
    wrong = [n for n in wanted if n not in missing and tensors[prefix + n].shape != wanted[n].shape]
    if missing or wrong:
        raise DataError(
            f"{file}: not weights of {backbone.name}",
            got=f"{len(missing)} tensors missing, {len(wrong)} of another shape, first {(missing + wrong)[0]}",
            expected=f"{len(wanted)} tensors named {backbone.prefix}*",
        )
    network.features.load_state_dict({name: tensors[prefix + name] for name in wanted})
    if scaling == "imagenet":
        fold_imagenet_scaling(network, backbone)
    return sorted(name for name in tensors if not name.startswith(prefix) or name.removeprefix(prefix) not in wanted)


def _widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn half precision, and int8 with its scale, into float32."""
    scales = {name.removesuffix(".scale") for name in tensors if name.endswith(".scale")}
    wide: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in scales:
            wide[name] = tensor.float() * tensors[f"{name}.scale"].float()
        elif name.removesuffix(".scale") not in scales:
            wide[name] = tensor.float() if tensor.is_floating_point() else tensor
    return wide


def fold_imagenet_scaling(network: SelfExplaining, backbone: Backbone) -> None:
    """Rewrite the stem of a network trained on (rgb / 255 - mean) / std so that it takes (pixel - 128) / 128.

    With p = 128 x + 128, (p / 255 - mean) / std = a x + b per channel; a goes into the stem's weights, and b, which is
    constant, into its bias, or the running mean of the batch normalisation behind it. Exact but for the zero-padded
    border.
    """
    stem = network.features.get_submodule(backbone.stem)
    assert isinstance(stem, nn.Conv2d)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    a = 128 / (255 * std)
    b = (128 / 255 - mean) / std
    with torch.no_grad():
        constant = (stem.weight * b.view(1, 3, 1, 1)).sum((1, 2, 3))
        if stem.bias is not None:
            stem.bias += constant
        else:
            norm = network.features.get_submodule(backbone.stem_norm)
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
            norm.running_mean -= constant
        stem.weight *= a.view(1, 3, 1, 1)
