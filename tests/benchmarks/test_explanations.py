"""Explanations are compared where they lie: finer class maps are laid out rightly; what is measured is what is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import explanations
from benchmarks.explanations import (
    CELL,
    INNER_LAYER,
    NUCLEUS,
    RENDERED_LABELS,
    Model,
    expert_cells,
    lime_stability,
    measure_model,
    output_stride_16,
    rendered_cells,
    shifted_passes,
    threshold_fields,
    torch_model,
    ways_of,
)
from edge_runtime.errors import UsageError
from edge_runtime.heatmap import Placement
from edge_runtime.preprocess import Pixels
from train import attribution
from train.attribution import BASELINES, METHODS, Heat
from train.backbones import BACKBONES
from train.explained import Masked, interval, sanity
from train.network import SelfExplaining

PX, STEP_PX = 224, 32
LOOKS = Placement(0.5, STEP_PX, PX)
"""As MobileNetV2's cells."""


def looking_at_single_pixels() -> Model:
    """Return a model whose cell i sees pixel 32 i and nothing else: 0 and 1 for the classes, and its grey level."""

    def answer(pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
        seen = pixels[::STEP_PX, ::STEP_PX, 0].astype(np.float32)
        class_map = np.stack([np.zeros_like(seen), seen], axis=-1)
        return class_map.mean((0, 1)), class_map

    return Model(answer, LOOKS)


class Averages(nn.Module):
    """Five halvings, each of which averages: a MobileNetV2 that is sure of what it sees. Light speaks for class 1."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3 if i == 0 else 1, 1, 3, stride=2, padding=1, bias=False) for i in range(5)]
        for layer in layers:
            nn.init.constant_(layer.weight, 1 / 9)
        self.features = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.features(pixels.float().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        class_map = torch.cat([-found, found], -1)
        return class_map.mean((1, 2)), class_map


def spot(x: float, y: float) -> Pixels:
    """Return a light square of 24 pixels about (x, y), pixels from the left upper corner, on black."""
    pixels = np.zeros((PX, PX, 3), np.uint8)
    pixels[round(y) - 12 : round(y) + 12, round(x) - 12 : round(x) + 12] = 255
    return pixels


def centre_of(heat: Heat) -> tuple[float, float]:
    places = np.arange(len(heat)) + 0.5
    return float(heat.sum(0) @ places / heat.sum()), float(heat.sum(1) @ places / heat.sum())


def spread_of(heat: Heat) -> float:
    """Return the standard deviation of the heat along x, pixels."""
    places = np.arange(len(heat)) + 0.5 - centre_of(heat)[0]
    return float(np.sqrt(heat.sum(0) @ places**2 / heat.sum()))


@pytest.fixture(scope="module")
def mobilenet() -> SelfExplaining:
    """Return MobileNetV2 with weights by chance, whose maps differ from place to place."""
    torch.manual_seed(1)
    network = SelfExplaining(BACKBONES["mobilenetv2"], 3).train()
    nn.init.normal_(network.classifier.weight)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    pixels = np.stack([one.pixels for one in rendered_cells(1, PX)])
    with torch.no_grad():
        network(torch.from_numpy(pixels))
    return network.eval()


# finer class maps


def test_shifted_passes_see_every_place_that_their_placement_names() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (PX, PX, 3), dtype=np.uint8)
    fine = shifted_passes(looking_at_single_pixels())
    logits, class_map = fine.answer(pixels)
    assert class_map.shape == (14, 14, 2) and logits.shape == (2,)
    assert fine.placement == Placement(0.5 - 8, 16, PX)
    places = np.floor(fine.placement.first_px + 16 * np.arange(14)).astype(int).clip(0)  # the edge is repeated
    assert np.array_equal(class_map[..., 1], pixels[np.ix_(places, places)][..., 0])
    assert logits[1] == pytest.approx(class_map[..., 1].mean())


@pytest.mark.parametrize("place", [(112, 112), (70, 150), (96, 96), (131, 84)])
def test_a_light_spot_is_registered(place: tuple[int, int]) -> None:
    model = torch_model(Averages(), PX)  # type: ignore[arg-type]
    assert model.placement == LOOKS
    plain, fine = (one.explain(spot(*place), 1) for one in (model, shifted_passes(model)))
    assert plain.shape == fine.shape == (PX, PX) and plain.max() <= 1 and fine.max() <= 1
    assert centre_of(plain) == pytest.approx(place, abs=2)
    assert centre_of(fine) == pytest.approx(place, abs=2)
    assert spread_of(fine) < spread_of(plain)
    grid = model.explain_as_grid(spot(*place), 1)
    assert centre_of(grid) == pytest.approx([value + 15.5 for value in place], abs=3)  # not where the spot is


def test_passes_moved_the_other_way_would_not_register_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch_model(Averages(), PX)  # type: ignore[arg-type]
    right = shifted_passes(model).explain(spot(112, 112), 1)
    monkeypatch.setattr(explanations, "moved", lambda pixels, dx, dy: np.roll(pixels, (-dy, -dx), (0, 1)))
    wrong = shifted_passes(model).explain(spot(112, 112), 1)
    assert spread_of(right) < 0.9 * spread_of(wrong)


def test_output_stride_16_is_the_same_network_asked_at_more_places(mobilenet: SelfExplaining) -> None:
    before = {name: tensor.clone() for name, tensor in mobilenet.state_dict().items()}
    plain, fine = (torch_model(network, PX) for network in (mobilenet, output_stride_16(mobilenet)))
    assert (plain.placement, fine.placement) == (LOOKS, Placement(0.5, 16, PX))
    pixels = rendered_cells(1, PX)[0].pixels
    own, finer = (model.answer(pixels)[1] for model in (plain, fine))
    assert own.shape == (7, 7, 3) and finer.shape == (14, 14, 3)
    assert np.abs(finer[::2, ::2] - own).max() <= 1e-4 * np.abs(own).max()  # every second cell is the old one
    assert np.abs(finer[1::2, 1::2] - own).max() > 0.1 * np.abs(own).max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in mobilenet.state_dict().items())


# ways, and what is measured of them


def test_every_way_lies_over_the_picture(mobilenet: SelfExplaining) -> None:
    model, fine = (torch_model(network, PX) for network in (mobilenet, output_stride_16(mobilenet)))
    pixels = rendered_cells(1, PX)[1].pixels
    ways = ways_of(dataclasses.replace(model, inner_layer=INNER_LAYER), fine, 1, with_slow=False)
    assert set(ways_of(model, None, 1, with_slow=False)) == {name for name in ways if "14 x 14" not in name} - {
        "class map, output stride 16"
    }
    assert list(ways) == [
        "class map",
        "class map, even grid",
        "class map, 4 shifted passes",
        "Grad-CAM, 14 x 14",
        "HiResCAM, 14 x 14",
        "centre Gaussian",
        "stain darkness",
        "random",
        "class map, output stride 16",
    ]
    heats = {name: explain(pixels) for name, explain in ways.items()}
    for name, heat in heats.items():
        assert heat.shape == (PX, PX) and heat.dtype == np.float32 and np.isfinite(heat).all(), name
        assert heat.min() >= 0 and 0.5 < heat.max() <= 1.00001, name
    assert len({heat.tobytes() for heat in heats.values()}) == len(heats)
    device = dataclasses.replace(model, network=None)
    assert list(ways_of(device, None, 1, with_slow=True)) == list(ways)[:3]


def test_what_is_measured_of_a_model_without_a_network() -> None:
    cell = spot(108, 124)[..., 0] > 0
    pictures = [Masked(spot(108, 124), cell, cell)] * 3
    model = dataclasses.replace(torch_model(Averages(), PX), network=None)  # type: ignore[arg-type]
    found = measure_model(model, pictures, 0, "")
    assert list(found) == ["class map", "class map, even grid", "class map, 4 shifted passes"]
    assert {row["n"] for row in found.values()} == {3}
    value = {name: {key: row[key]["value"] for key in row if key != "n"} for name, row in found.items()}
    assert set(value["class map"]) == {
        *("pointing", "top_share", "top_ceiling", "heat_share", "nucleus_top_share", "spearman", "overlap"),
        "beats_darkness",
        *("stable: shift", "stable: JPEG", "stable: stain"),
    }
    assert (value["class map"]["spearman"], value["class map"]["overlap"]) == pytest.approx((1, 1))
    assert value["class map"]["heat_share"] > 1.5 * value["class map, even grid"]["heat_share"]
    assert value["class map, 4 shifted passes"]["heat_share"] > value["class map"]["heat_share"]
    assert value["class map, even grid"]["spearman"] < 0.95


def test_sanity_tells_a_map_that_asks_the_network_from_one_that_does_not() -> None:
    pictures, network, spoilt = rendered_cells(1, PX)[:2], Averages(), Averages()
    nn.init.constant_(spoilt.features[4].weight, -1.0)
    found = sanity(network, {"same": network, "spoilt": spoilt}, pictures)  # type: ignore[arg-type, dict-item]
    own, dark = METHODS["class-map"].title, BASELINES["darkness"].title
    assert {name: row["value"] for name, row in found["same"].items()} == pytest.approx({own: 1, dark: 1})
    assert found["spoilt"][own]["value"] < 0.1 and found["spoilt"][dark]["value"] == pytest.approx(1)


def test_lime_is_compared_between_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "LIME_SAMPLES", 20)
    picture = rendered_cells(1, PX)[0]
    found = lime_stability(Averages(), [picture])  # type: ignore[arg-type]
    assert (found["n"], found["seeds"]) == (1, 3)
    assert -1 <= found["spearman"]["low"] <= found["spearman"]["high"] <= 1
    assert 0 <= found["overlap"]["value"] <= 1


def test_intervals_leave_out_what_is_not_defined() -> None:
    assert interval([float("nan")] * 2) is None
    assert interval([0.25, float("nan"), 0.25]) == pytest.approx({"value": 0.25, "low": 0.25, "high": 0.25})


# pictures with masks


def test_rendered_cells_have_their_masks() -> None:
    cells = rendered_cells(2, 64)
    assert len(cells) == 2 * len(RENDERED_LABELS)
    for one in cells:
        assert one.pixels.shape == (64, 64, 3)
        assert one.nucleus.any() and (one.cell | ~one.nucleus).all() and not one.cell.all()
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(cells, rendered_cells(2, 64), strict=True))


@pytest.mark.parametrize("read", [expert_cells, threshold_fields])
def test_missing_data_is_named(read: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no .*: got {tmp_path}.*, expected the data set"):
        read(tmp_path, PX)  # type: ignore[operator]


@pytest.mark.parametrize("size", [(300, 300), (360, 300), (200, 240)])
def test_expert_masks_lie_on_their_cells(size: tuple[int, int], tmp_path: Path) -> None:
    """Mask and picture are cut and resized alike, whatever their size."""
    folder = tmp_path / "segmentation_wbc" / "Dataset 2"
    folder.mkdir(parents=True)
    width, height = size
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - width / 2 - 20, y - height / 2 + 10)
    mask = np.select([distance < 30, distance < 50], [255, 128], 0).astype(np.uint8)
    Image.fromarray(255 - mask).convert("RGB").save(folder / "001.jpg", quality=95)
    Image.fromarray(mask).save(folder / "001.png")
    (one,) = expert_cells(tmp_path, 64)
    seen = 255 - one.pixels[..., 0].astype(int)
    for found, level in ((one.nucleus, NUCLEUS), (one.cell, CELL)):
        assert 0 < found.sum() < found.size and (found == (seen > level)).mean() > 0.97
