"""Attribution: methods that must agree do, others do not, and all of them find what is known to be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edge_runtime.errors import UsageError
from edge_runtime.heatmap import Placement
from edge_runtime.preprocess import Pixels
from train import attribution
from train.attribution import BASELINES, METHODS, Question, layer_of, lime, superpixels
from train.backbones import BACKBONES, Backbone
from train.geometry import placement
from train.network import SelfExplaining

from .conftest import Reader

PX = 96
INNER = {"custom": "25", "mobilenetv2": "13"}
"""Layers far from the head; the custom network's is a normalisation that a ReLU in place follows."""


def lively(backbone: str = "custom") -> SelfExplaining:
    """A network whose feature maps differ from place to place and whose classes are seen in different ones."""
    torch.manual_seed(3)
    network = SelfExplaining(BACKBONES[backbone], 3).train()
    nn.init.normal_(network.classifier.weight)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.from_numpy(np.stack([noise(seed=seed) for seed in range(4)])))
    return network.eval()


def noise(px: int = PX, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (px, px, 3), dtype=np.uint8)


def spotted(px: int = 64) -> Pixels:
    """A bright field with a little noise and one purple pixel near its upper left corner."""
    pixels = np.random.default_rng(1).integers(200, 240, (px, px, 3), dtype=np.uint8)
    pixels[2, 2] = (90, 20, 150)
    return pixels


READS_SPOT = Reader((2, 3), channel=1, limit=100, sign=-1)
"""Sees its first class where pixel (2, 2) is dark, and nothing else."""


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(attribution, "LIME_SAMPLES", 60)
    return 60


def explain(name: str, network: nn.Module, pixels: Pixels, k: int = 0, **asked: object) -> np.ndarray:
    return METHODS[name].explain(Question(network, pixels, k, **asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("backbone", INNER)
@pytest.mark.parametrize("k", range(3))
def test_class_map_gradcam_and_hirescam_are_one_at_the_last_feature_map(backbone: str, k: int) -> None:
    network = lively(backbone)
    own = explain("class-map", network, noise(), k)
    assert own.shape == (PX, PX) and np.ptp(own) > 0.1
    for name in ("gradcam", "hirescam"):
        assert np.abs(explain(name, network, noise(), k) - own).max() <= 1e-5


@pytest.mark.parametrize("backbone", INNER)
def test_they_differ_at_an_inner_layer(backbone: str) -> None:
    network = lively(backbone)
    own = explain("class-map", network, noise())
    gradcam, hirescam = (explain(name, network, noise(), layer=INNER[backbone]) for name in ("gradcam", "hirescam"))
    assert own.shape == gradcam.shape == hirescam.shape == (PX, PX)
    assert np.abs(gradcam - hirescam).max() > 0.05 and np.abs(gradcam - own).max() > 0.05


@pytest.mark.parametrize("layer", ["25", "28", "12"])
def test_inner_layer_is_that_of_the_paper_in_spite_of_relu_in_place(layer: str) -> None:
    network = lively("custom")
    cut = int(layer) + 1
    pixels, laid = torch.from_numpy(noise())[None], placement(network.features, layer, PX)
    found = network.features[:cut](network.normalise(pixels)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network.head(network.features[cut:](found.clone()))[0][0, 1], found)
    for name, weights in (("gradcam", gradient.mean((2, 3), keepdim=True)), ("hirescam", gradient)):
        expected = torch.relu((weights * found).sum(1))[0].detach()
        got = explain(name, network, noise(), 1, layer=layer)
        assert np.abs(got - laid.enlarge((expected / expected.max()).numpy(), PX)).max() <= 1e-5


def test_unknown_layer_is_refused_with_the_known_ones() -> None:
    network = lively()
    assert layer_of(network, "") is network.features
    with pytest.raises(UsageError, match=r"no such layer: got 77, expected 0, 1, .*29, or one within them"):
        explain("gradcam", network, noise(), layer="77")


@pytest.mark.parametrize("name", METHODS)
def test_every_heatmap_is_finite_and_0_to_1_and_costs_what_the_table_says(name: str, few_samples: int) -> None:
    network, passed = lively(), []
    network.register_forward_hook(lambda _module, given, _out: passed.append(len(given[0])))
    heat = explain(name, network, noise(), 2)
    assert heat.dtype == np.float32 and heat.shape == (PX, PX)
    assert np.isfinite(heat).all() and heat.min() >= 0 and heat.max() == 1
    stated = int(METHODS[name].passes.split()[0])
    assert sum(passed) == (few_samples if name == "lime" else stated)
    assert name != "lime" or stated == 500


@pytest.mark.parametrize("name", METHODS)
def test_nothing_speaks_for_the_class(name: str, few_samples: int) -> None:
    class Blind(nn.Module):
        """Never the first class, whatever it is shown."""

        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 2, 1)
            nn.init.zeros_(self.features.weight)
            self.features.bias.data = torch.tensor([-1.0, 1.0])

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = self.features(pixels.float().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return found.mean((1, 2)), found

    heat = explain(name, Blind(), noise(32))
    assert np.isfinite(heat).all() and not heat.any()


@pytest.mark.parametrize("name", ["occlusion", "integrated-gradients", "lime"])
def test_heat_lies_where_the_network_looks(name: str) -> None:
    pixels = spotted()
    heat = explain(name, READS_SPOT, pixels)
    assert heat[2, 2] == 1
    own = superpixels(pixels) == superpixels(pixels)[2, 2]
    assert own.mean() < 0.1
    near = own if name == "lime" else np.add.outer(np.arange(64), np.arange(64)) < 24
    assert heat[near].sum() > 0.8 * heat.sum()
    other = explain(name, READS_SPOT, pixels, 1)  # what speaks for one of two classes speaks against the other
    assert other[2, 2] == 0


class Jitter(nn.Module):
    """Answers always alike, but for a rounding that differs between the pictures of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.tensor([5.0, -5.0]) - 1e-6 * torch.arange(len(pixels))[:, None]
        return logits, logits[:, None, None]


def test_rounding_is_no_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a patch of empty field covers empty field, nothing changes but the order of additions."""
    flat = np.full((PX, PX, 3), 230, np.uint8)
    assert not explain("occlusion", Jitter(), flat).any() and not explain("occlusion", lively(), flat).any()
    assert explain("occlusion", lively(), noise()).max() == 1
    monkeypatch.setattr(attribution, "UNMOVED", 0)
    assert explain("occlusion", Jitter(), flat).max() == 1


def test_what_lime_hides_is_painted_with_empty_field(few_samples: int) -> None:
    """As occlusion's patches and deletion's places are, so that they compare."""
    shown: list[torch.Tensor] = []
    pixels, network = noise(), lively()
    network.register_forward_pre_hook(lambda _module, given: shown.append(given[0]))
    explain("lime", network, pixels)
    pictures, own, field = (
        torch.cat(shown),
        torch.from_numpy(pixels).float(),
        Question(network, pixels, 0).empty_field(),
    )
    changed = (pictures != own).any(-1)
    assert 0.3 < changed.float().mean() < 0.7
    assert torch.equal(pictures[changed], field[0, 0].expand(int(changed.sum()), 3))


@pytest.mark.parametrize("name", ["gradcam", "hirescam"])
def test_a_layer_that_is_called_twice_is_explained_at_its_last_call(name: str) -> None:
    def build(pretrained: bool) -> nn.Module:
        relu = nn.ReLU(inplace=True)
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), relu, nn.Conv2d(4, 4, 3, 2), relu)

    torch.manual_seed(0)
    network = SelfExplaining(Backbone("twice", "Twice", build, 4, PX, "", "tf", "", "0", ""), 2).eval()
    asked = Question(network, noise(), 0, "1")
    assert asked.placement == Question(network, noise(), 0).placement == Placement(2.5, 4, PX)
    own = explain("class-map", network, noise())
    assert own.any() and np.abs(METHODS[name].explain(asked) - own).max() <= 1e-5


def test_a_placement_that_is_given_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lively()
    own = explain("class-map", network, noise())
    place = placement(network.features, "", PX)
    monkeypatch.setattr(attribution, "placement", None)
    assert np.array_equal(explain("class-map", network, noise(), place=place), own)
    assert not np.array_equal(explain("class-map", network, noise(), place=Placement.grid(3, PX)), own)


def test_lime_is_its_seed(few_samples: int) -> None:
    network = lively()
    first, again, other = (explain("lime", network, noise(), seed=seed) for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert first.shape == other.shape and first.tobytes() != other.tobytes()


def test_lime_colours_whole_superpixels_and_says_nothing_on_the_way(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "LIME_SAMPLES", 30)
    pixels = noise()
    segments, heat = superpixels(pixels), lime(Question(lively(), pixels, 0))
    assert segments.shape == heat.shape and segments.min() == 0 and 20 <= segments.max() < 100
    for number in range(segments.max() + 1):
        assert np.ptp(heat[segments == number]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_never_ask_the_network(name: str) -> None:
    heat = BASELINES[name].explain(Question(None, spotted(), 0))  # type: ignore[arg-type]
    assert heat.dtype == np.float32 and np.isfinite(heat).all() and heat.min() >= 0 and heat.max() == 1
    if name == "darkness":
        assert np.unravel_index(heat.argmax(), heat.shape) == (2, 2)
    if name == "centre":
        assert heat[31:33, 31:33].min() > 0.99 and heat[0, 0] < 0.05
