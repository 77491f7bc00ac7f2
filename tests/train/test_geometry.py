"""Where the cells of a feature map look is worked out rightly, for paddings, poolings and branches of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from train.backbones import BACKBONES
from train.geometry import placement


@pytest.mark.parametrize(
    ("layers", "first_px", "step_px"),
    [
        ([nn.Conv2d(3, 4, 3, stride=2, padding=1)], 0.5, 2),
        (
            [nn.Conv2d(3, 4, 3, stride=2, padding=1)] + [nn.Conv2d(4, 4, 3, stride=2, padding=1) for _ in range(4)],
            0.5,
            32,
        ),
        ([nn.Conv2d(3, 4, 3, stride=2)], 1.5, 2),
        ([nn.MaxPool2d(2), nn.MaxPool2d(2)], 2.0, 4),
        ([nn.Conv2d(3, 4, 7, stride=2, padding=3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)], 1.5, 4),
    ],
)
def test_centres_follow_from_kernels_strides_and_paddings(
    layers: list[nn.Module], first_px: float, step_px: float
) -> None:
    found = placement(nn.Sequential(*layers), "", 224)
    assert (found.first_px, found.step_px, found.input_px) == (first_px, step_px, 224)


def test_backbones_look_where_theory_says() -> None:
    """Five halvings that pad both sides put cell i at 32 i + 0.5, not in the middle of its square, 32 i + 16."""
    features = BACKBONES["mobilenetv2"].build(False)
    before = {name: tensor.clone() for name, tensor in features.state_dict().items()}
    assert placement(features, "", 224).first_px == 0.5 and placement(features, "", 224).step_px == 32
    assert placement(features, "13", 224).step_px == 16
    assert all(torch.equal(tensor, before[name]) for name, tensor in features.state_dict().items())
    assert placement(BACKBONES["vgg16"].build(False), "", 224).first_px == 8.0  # poolings of two keep to the middle


def test_a_light_spot_is_found_where_it_is() -> None:
    """The map of a network of averages, laid over the picture, peaks at the spot; laid out as a grid it does not."""
    layers = [nn.Conv2d(3 if i == 0 else 1, 1, 3, stride=2, padding=1, bias=False) for i in range(4)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1.0)
    features = nn.Sequential(*layers)
    picture = torch.zeros(1, 3, 128, 128)
    picture[..., 60:70, 60:70] = 1
    with torch.inference_mode():
        values = features(picture)[0, 0].numpy()
    found = placement(features, "", 128).enlarge(values / values.max(), 128)
    y, x = (found.sum(axis) @ (torch.arange(128).numpy() + 0.5) / found.sum() for axis in (1, 0))
    assert abs(x - 65) < 2 and abs(y - 65) < 2
