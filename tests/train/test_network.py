"""The network: logits are the mean of the class map, and the class map is its Grad-CAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edge_runtime.heatmap import heatmap
from train.errors import DataError
from train.network import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SelfExplaining,
    autograd_gradcam,
    fold_imagenet_scaling,
    load_pretrained,
)


def _lively(backbone: str, seed: int = 0) -> SelfExplaining:
    """A network whose feature maps are not all alike."""
    torch.manual_seed(seed)
    network = SelfExplaining(BACKBONES[backbone], 5)
    torch.nn.init.normal_(network.classifier.weight)
    torch.nn.init.normal_(network.bias)
    return network.eval()


def _pixels(seed: int, n: int = 1, px: int = 96) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_are_the_mean_of_the_class_map(backbone: str) -> None:
    network = _lively(backbone)
    with torch.inference_mode():
        logits, class_map = network(_pixels(0, 2))
    assert class_map.shape == (2, 3, 3, 5)
    torch.testing.assert_close(logits, class_map.mean((1, 2)) + network.bias)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_closed_form_equals_autograd_gradcam(backbone: str) -> None:
    network = _lively(backbone)
    for seed in range(4):
        pixels = _pixels(seed)
        with torch.inference_mode():
            _, class_map = network(pixels)
        for k in range(5):
            closed = heatmap(class_map[0].numpy(), k)
            assert np.abs(closed - autograd_gradcam(network, pixels, k).numpy()).max() <= 1e-5


def test_imagenet_scaling_is_folded_into_the_stem() -> None:
    """Away from the zero-padded border the folded stem is the same function."""
    backbone = BACKBONES["mobilenetv2"]
    network = _lively("mobilenetv2")
    pixels = _pixels(1)
    mean, std = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    scaled = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        wanted = network.features[0](scaled)
        fold_imagenet_scaling(network, backbone)
        found = network.features[0](network.normalise(pixels))
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], wanted[:, :, 1:-1, 1:-1], atol=1e-4, rtol=1e-4)


def test_published_weights_are_loaded_by_name_and_half_precision_is_widened(tmp_path: Path) -> None:
    backbone = BACKBONES["mobilenetv2"]
    donor, network = _lively("mobilenetv2", 1), _lively("mobilenetv2", 2)
    tensors = {
        f"features.{k}": v.half() if v.is_floating_point() else v for k, v in donor.features.state_dict().items()
    }
    save_file(tensors | {"classifier.1.weight": torch.zeros(1000, 1280)}, tmp_path / "w.safetensors")
    assert load_pretrained(network, backbone, tmp_path / "w.safetensors") == ["classifier.1.weight"]
    torch.testing.assert_close(network.features[0][0].weight, donor.features[0][0].weight, atol=1e-3, rtol=1e-3)
    assert network.features[0][0].weight.dtype == torch.float32


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    network = _lively("mobilenetv2")
    save_file({"layer1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    for name, words in (
        ("resnet", "not weights of mobilenetv2"),
        ("text", "not a readable"),
        ("gone", "not a readable"),
    ):
        with pytest.raises(DataError, match=words):
            load_pretrained(network, BACKBONES["mobilenetv2"], tmp_path / f"{name}.safetensors")
