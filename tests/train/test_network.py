"""The network: logits are the mean of the class map, and the class map is its Grad-CAM - for every backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_runtime.heatmap import heatmap
from train.backbones import BACKBONES, count_cost
from train.network import SelfExplaining, autograd_gradcam

PX = 128
"""Small, yet the map of every backbone has more than one position."""


def _lively(backbone: str, seed: int = 0) -> SelfExplaining:
    """A network whose feature maps are not all alike."""
    torch.manual_seed(seed)
    network = SelfExplaining(BACKBONES[backbone], 5)
    torch.nn.init.normal_(network.classifier.weight)
    torch.nn.init.normal_(network.bias)
    return network.eval()


def _pixels(seed: int, n: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, PX, PX, 3), dtype=np.uint8))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_are_the_mean_of_the_class_map(backbone: str) -> None:
    network = _lively(backbone)
    with torch.inference_mode():
        features = network.features(network.normalise(_pixels(0, 2)))
        logits, class_map = network(_pixels(0, 2))
    assert features.shape[1] == BACKBONES[backbone].channels
    assert class_map.shape == (2, *features.shape[2:], 5) and class_map.shape[1] > 1
    torch.testing.assert_close(logits, class_map.mean((1, 2)) + network.bias)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_closed_form_equals_autograd_gradcam(backbone: str) -> None:
    network = _lively(backbone)
    pixels = _pixels(1)
    with torch.inference_mode():
        _, class_map = network(pixels)
    for k in range(5):
        closed = heatmap(class_map[0].numpy(), k)
        assert np.abs(closed - autograd_gradcam(network, pixels, k).numpy()).max() <= 1e-5


@pytest.mark.parametrize(
    ("backbone", "parameters", "macs"),
    [  # the hub's own counts, less its 1000-class head and with ours of five classes
        ("mobilenetv2", 3_504_872 - 1_281_000 + 5 * 1280 + 5, 300e6),
        ("densenet121", 7_978_856 - 1_025_000 + 5 * 1024 + 5, 2834e6),
        ("vgg16", 138_357_544 - 123_642_856 + 5 * 512 + 5, 15_346e6),
        ("inceptionv3", 27_161_264 - 3_326_696 - 2_049_000 + 5 * 2048 + 5, 5_711e6),
        ("resnet50", 25_557_032 - 2_049_000 + 5 * 2048 + 5, 4_087e6),
        ("xception", 22_855_952 - 2_049_000 + 5 * 2048 + 5, 8_355e6),
    ],
)
def test_cost_is_that_of_the_published_networks(backbone: str, parameters: int, macs: float) -> None:
    cost = count_cost(_lively(backbone), BACKBONES[backbone].native_px)
    assert cost["parameters"] == parameters
    assert cost["macs"] == pytest.approx(macs, rel=0.01)
