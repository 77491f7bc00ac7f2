"""Pretrained weights: published files are loaded by name, widened, and fitted to the project's normalisation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from train.backbones import BACKBONES, Backbone
from train.errors import DataError
from train.network import SelfExplaining
from train.pretrained import IMAGENET_MEAN, IMAGENET_STD, build_network, fold_imagenet_scaling, load_weights


def _network(backbone: str, seed: int = 0) -> SelfExplaining:
    torch.manual_seed(seed)
    return SelfExplaining(BACKBONES[backbone], 5).eval()


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if row.scaling == "imagenet"])
def test_imagenet_scaling_is_folded_into_the_stem(name: str) -> None:
    """Away from the zero-padded border the folded stem is the same function."""
    backbone, network = BACKBONES[name], _network(name)
    stem = [network.features.get_submodule(part) for part in (backbone.stem, backbone.stem_norm) if part]
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    mean, std = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    scaled = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        wanted = torch.nn.Sequential(*stem)(scaled)
    fold_imagenet_scaling(network, backbone)
    with torch.inference_mode():
        found = torch.nn.Sequential(*stem)(network.normalise(pixels))
    torch.testing.assert_close(found[:, :, 2:-2, 2:-2], wanted[:, :, 2:-2, 2:-2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_published_names_and_a_runs_own_names_are_both_loaded(name: str, tmp_path: Path) -> None:
    backbone, donor = BACKBONES[name], _network(name, 1)
    published = {
        f"{backbone.prefix}{k}": v.half() if v.is_floating_point() else v
        for k, v in donor.features.state_dict().items()
    }
    save_file(published | {"head.weight": torch.zeros(1000, 4)}, tmp_path / "published.safetensors")
    save_file({k: v.clone() for k, v in donor.state_dict().items()}, tmp_path / "own.safetensors")
    first, *_, last = (k for k, v in donor.features.state_dict().items() if v.dim() == 4)
    for file, unused, tolerance in (
        ("published", ["head.weight"], 1e-3),
        ("own", ["bias", "classifier.weight"], 0),
    ):
        network = _network(name, 2)
        assert load_weights(network, backbone, tmp_path / f"{file}.safetensors") == unused
        for key in (first, last):
            found, wanted = network.features.state_dict()[key], donor.features.state_dict()[key]
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


def test_int8_weights_with_a_scale_are_widened(tmp_path: Path) -> None:
    donor, network = _network("custom", 1), _network("custom", 2)
    tensors = {k: v.clone() for k, v in donor.features.state_dict().items()}
    weight = tensors["3.weight"]
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    save_file(
        tensors | {"3.weight": (weight / scale).round().to(torch.int8), "3.weight.scale": scale},
        tmp_path / "int8.safetensors",
    )
    assert load_weights(network, BACKBONES["custom"], tmp_path / "int8.safetensors") == []
    error = (network.features.state_dict()["3.weight"] - weight).abs()
    assert bool((error <= scale / 2 + 1e-7).all()) and float(error.max()) > 0


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    network = _network("mobilenetv2")
    save_file({"layer1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    for name, words in (
        ("resnet", "not weights of mobilenetv2"),
        ("text", "not a readable"),
        ("gone", "not a readable"),
    ):
        with pytest.raises(DataError, match=words):
            load_weights(network, BACKBONES["mobilenetv2"], tmp_path / f"{name}.safetensors")


def test_a_hub_that_cannot_be_reached_is_one_clear_line() -> None:
    def build(pretrained: bool) -> torch.nn.Module:
        raise OSError("<urlopen error no route to host>")

    with pytest.raises(DataError, match=r"cannot be had.*no route.*--weights FILE"):
        build_network(Backbone("x", "X", build, 1, 224, "hub X", "tf", "", "0", "1"), 5, "imagenet")
    with pytest.raises(DataError, match="no published weights"):
        build_network(BACKBONES["custom"], 5, "imagenet")
