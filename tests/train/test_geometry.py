"""Where the cells of a feature map look is worked out rightly, for paddings, poolings and branches of every kind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edge_runtime.errors import UsageError
from edge_runtime.heatmap import Placement
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


FIRST_AND_STEP_PX = {
    "mobilenetv2": (0.5, 32),  # five halvings that pad both sides: cell i at 32 i + 0.5, its square's middle 32 i + 16
    "densenet121": (14.5, 32),  # two of them; three poolings of two then add 2 + 4 + 8
    "vgg16": (8.0, 16),  # poolings of two keep to the middle
    "inceptionv3": (37.5, 32),  # no paddings at the five halvings: 8 cells of 299 px, symmetric
    "resnet50": (0.5, 32),
    "xception": (3.5, 32),  # two filters of three without a padding, at steps of 1 and 2, add 1 + 2
    "custom": (0.5, 32),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_look_where_theory_says(name: str) -> None:
    features = BACKBONES[name].build(False)
    before = {key: tensor.clone() for key, tensor in features.state_dict().items()}
    found = placement(features, "", 224)
    assert (found.first_px, found.step_px) == FIRST_AND_STEP_PX[name]
    assert features.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in features.state_dict().items())


def test_inceptions_cells_are_symmetric_in_its_own_picture() -> None:
    found = placement(BACKBONES["inceptionv3"].build(False), "", 299)
    assert found.first_px + 7 * found.step_px == 299 - found.first_px


def test_inner_layers() -> None:
    assert placement(BACKBONES["mobilenetv2"].build(False), "13", 224) == Placement(0.5, 16, 224)
    assert placement(BACKBONES["resnet50"].build(False), "layer3", 224) == Placement(0.5, 16, 224)


class Functional(nn.Module):
    """Pools without modules, and has a layer that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.unused = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.relu(nn.functional.max_pool2d(self.first(pixels), 3, 2))
        left, right = nn.functional.avg_pool2d(maps, 3, 1, 1), maps
        return self.relu(nn.functional.max_pool2d(torch.cat([left, left + right], 1), 2))


def test_poolings_may_be_functions_and_the_last_call_of_a_layer_counts() -> None:
    features = Functional()
    assert placement(features, "first", 64) == Placement(1.5, 1, 64)
    assert placement(features, "", 64) == Placement(3.5, 4, 64)
    assert placement(features, "relu", 64) == Placement(3.5, 4, 64)  # its first call's would be 2.5 and 2


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("unused", "a layer that is never called has no feature map: got unused"),
        ("flat", "no feature map of two cells or more: got flat"),
        ("gate", "cannot say where the cells lie: got gate"),
    ],
)
def test_what_has_no_place_is_refused(layer: str, message: str) -> None:
    class Gated(Functional):
        """Weighs its map by itself."""

        def __init__(self) -> None:
            super().__init__()
            self.gate, self.flat = nn.Sequential(), nn.Flatten()

        def forward(self, pixels: Tensor) -> Tensor:
            maps = super().forward(pixels)
            self.flat(maps)
            gated: Tensor = self.gate(maps * torch.sigmoid(maps.mean((2, 3), keepdim=True) / 256))
            return gated

    with pytest.raises(UsageError, match=message):
        placement(Gated(), layer, 64)


def test_a_network_that_is_changed_in_a_copy_is_another_one() -> None:
    features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    assert placement(features, "", 64).step_px == 4
    changed = copy.deepcopy(features)
    changed[1].stride = (1, 1)
    assert placement(changed, "", 64).step_px == 2
    assert placement(features, "", 32) == Placement(0.5, 4, 32)


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

    def centre(laid: Placement) -> list[float]:
        found = laid.enlarge(values / values.max(), 128)
        return [float(found.sum(axis) @ (torch.arange(128).numpy() + 0.5) / found.sum()) for axis in (1, 0)]

    assert centre(placement(features, "", 128)) == pytest.approx([65, 65], abs=2)
    assert min(centre(Placement.grid(len(values), 128))) > 65 + 5  # 7.5 px too far, as every cell's square's middle is
