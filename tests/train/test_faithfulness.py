"""Faithfulness: numbers are right on maps whose worth is known, and a map that ignores the weights is found out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edge_runtime.heatmap import Placement
from edge_runtime.preprocess import Pixels
from train.attribution import BASELINES, METHODS, Heat, Question
from train.backbones import Backbone
from train.faithfulness import (
    CHANGES,
    GRID,
    TOP,
    agreement,
    coarse,
    deletion_insertion,
    is_flat,
    localisation,
    moved,
    randomised,
    stability,
    top_weights,
)
from train.network import SelfExplaining
from train.render import render_cell

from .conftest import Reader

PX = 64
RNG = np.random.default_rng(5)
READS = slice(4, 16)
"""Rows and columns that `reader` looks at, pixels of `PX`."""


def reader() -> Reader:
    """Return a network that sees its first class where the place is dark, and nothing else."""
    return Reader((READS.start, READS.stop), channel=1, limit=100, sign=-1)


def square(rows: slice, columns: slice, px: int = PX) -> Heat:
    """Return a map that is 1 within and 0 elsewhere."""
    heat = np.zeros((px, px), np.float32)
    heat[rows, columns] = 1
    return heat


# where the heat lies


def test_heat_within_a_mask_and_beside_it() -> None:
    heat = square(slice(0, 8), slice(0, 8), 16)  # a quarter of the picture, more than TOP: ties share the ranks
    mask = heat > 0
    inside, beside = localisation(heat, mask), localisation(heat, ~mask)
    assert inside == pytest.approx({"pointing": 1, "top_share": 1, "top_ceiling": 1, "heat_share": 1})
    assert beside == pytest.approx({"pointing": 0, "top_share": 0, "top_ceiling": 1, "heat_share": 0})


def test_places_that_tie_share_what_is_left() -> None:
    heat = np.zeros((10, 10), np.float32)
    heat[0, :10] = 2  # half of the hottest fifth
    heat[1:5] = 1  # forty places for the other ten ranks
    mask = np.zeros((10, 10), bool)
    mask[0, :5] = True
    mask[1, :] = True
    found = localisation(heat, mask)
    assert found["pointing"] == pytest.approx(0.5)
    assert found["top_share"] == pytest.approx((5 + 10 * 10 / 40) / 20)
    assert found["top_ceiling"] == pytest.approx(0.15 / TOP)
    assert found["heat_share"] == pytest.approx((5 * 2 + 10) / (10 * 2 + 40))


def test_a_small_mask_cannot_hold_all_of_the_hottest() -> None:
    mask = square(slice(0, 2), slice(0, 10), 20) > 0  # a twentieth
    found = localisation(mask.astype(np.float32), mask)
    assert found["pointing"] == 1 and found["heat_share"] == 1
    assert found["top_ceiling"] == pytest.approx(0.05 / TOP)
    # all that is cold ties for the ranks that the mask leaves over, and none of it lies inside
    assert found["top_share"] == pytest.approx(found["top_ceiling"])


def test_a_flat_map_points_nowhere_and_has_no_share() -> None:
    mask = square(slice(0, 10), slice(0, 10), 20) > 0
    found = localisation(np.zeros((20, 20), np.float32), mask)
    assert np.isnan(found["heat_share"])
    assert (found["pointing"], found["top_share"]) == pytest.approx((0.25, 0.25))  # chance


@pytest.mark.parametrize("share", [TOP, 0.05, 0.5, 0.333, 1e-4])
@pytest.mark.parametrize(
    "heat",
    [
        RNG.random((40, 40), dtype=np.float32),
        RNG.integers(0, 4, (40, 40)).astype(np.float32),
        np.zeros((40, 40), np.float32),
        np.ones((40, 40), np.float32),
        square(slice(3, 4), slice(7, 8), 40),
        RNG.permutation(224 * 224).reshape(224, 224).astype(np.float32),
    ],
    ids=["all differ", "four levels", "zero", "one", "a single place", "all differ, 224 px"],
)
def test_the_hottest_are_a_share_of_all_pixels(heat: Heat, share: float) -> None:
    weights = top_weights(heat, share)
    assert weights.sum() == pytest.approx(share * heat.size, rel=1e-4)
    assert weights.min() >= 0 and weights.max() <= 1
    order = np.argsort(heat.ravel())
    assert (np.diff(weights.ravel()[order]) >= 0).all()  # never less for what is hotter


# whether the answer goes with the heat


def test_a_map_of_what_the_network_reads_beats_one_of_elsewhere() -> None:
    pixels = np.full((PX, PX, 3), 230, np.uint8)
    pixels[READS, READS] = (90, 30, 150)
    pixels[-16:-4, -16:-4] = (90, 30, 150)  # as dark, and never looked at
    right = deletion_insertion(reader(), pixels, square(READS, READS), 0)
    wrong = deletion_insertion(reader(), pixels, square(slice(-16, -4), slice(-16, -4)), 0)
    assert 0 <= right["deletion"] < 0.2 < 0.8 < right["insertion"] <= 1
    assert right["deletion"] < wrong["deletion"] - 0.1
    assert right["insertion"] > wrong["insertion"] + 0.05  # a little of it is enough to be sure


def test_a_flat_map_is_between_them_and_always_the_same() -> None:
    pixels = np.full((PX, PX, 3), 230, np.uint8)
    pixels[READS, READS] = (90, 30, 150)
    flat = np.zeros((PX, PX), np.float32)
    first, again = (deletion_insertion(reader(), pixels, flat, 0) for _ in range(2))
    assert first == again
    right = deletion_insertion(reader(), pixels, square(READS, READS), 0)
    wrong = deletion_insertion(reader(), pixels, 1 - square(READS, READS), 0)
    assert right["deletion"] < first["deletion"] < wrong["deletion"]
    assert right["insertion"] > first["insertion"] > wrong["insertion"]


# whether two maps agree


def test_agreement_of_maps_that_are_known() -> None:
    ramp = np.linspace(0, 1, PX * PX, dtype=np.float32).reshape(PX, PX)
    assert agreement(ramp, ramp) == pytest.approx({"spearman": 1, "overlap": 1})
    assert agreement(ramp, ramp**3)["spearman"] == pytest.approx(1)  # only the order counts
    opposite = agreement(ramp, 1 - ramp)
    assert opposite["spearman"] == pytest.approx(-1) and opposite["overlap"] == pytest.approx(0, abs=0.01)
    for flat in (np.zeros_like(ramp), np.full_like(ramp, 0.7)):
        assert is_flat(flat) and not is_flat(ramp)
        for pair in ((ramp, flat), (flat, ramp), (flat, flat)):  # two maps of nothing do not agree on anything either
            assert np.isnan(list(agreement(*pair).values())).all()


def test_maps_are_compared_at_one_resolution() -> None:
    heat = RNG.random((GRID, GRID), dtype=np.float32)
    assert np.array_equal(coarse(heat), heat)
    assert np.allclose(coarse(heat.repeat(8, 0).repeat(8, 1)), heat, atol=1e-6)


# whether a map stays where nothing that matters has changed


def test_moving_repeats_the_edge() -> None:
    values = np.arange(16).reshape(4, 4)
    assert moved(values, 1, 0).tolist() == [[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10], [12, 12, 13, 14]]
    assert moved(values, 0, -2).tolist() == [[8, 9, 10, 11], *3 * [[12, 13, 14, 15]]]
    assert np.array_equal(moved(moved(values, 1, 1), -1, -1)[:3, :3], values[:3, :3])
    assert moved(np.zeros((4, 4, 3)), 9, -9).shape == (4, 4, 3)


def test_a_map_that_goes_with_the_picture_is_stable_and_one_that_does_not_is_not() -> None:
    pixels = render_cell("neutrophil", np.random.default_rng(0), 2 * PX).pixels

    def darkness(given: Pixels) -> Heat:
        return BASELINES["darkness"].explain(Question(None, given, 0))  # type: ignore[arg-type]

    found = stability(darkness, pixels, darkness(pixels))
    assert list(found) == list(CHANGES)
    assert found["shift"] > 0.95 and found["JPEG"] > 0.7  # compression hits what is hardly stained
    fixed = RNG.random((2 * PX, 2 * PX), dtype=np.float32)
    found = stability(lambda given: fixed, pixels, fixed)
    assert found["JPEG"] == found["stain"] == pytest.approx(1)  # nothing to move back
    assert found["shift"] < 0.5


# whether a map goes when the network's knowledge goes (Adebayo et al. 2018)

LABELS = ("blast", "neutrophil", "eosinophil")
SHARES = (0.25, 0.5, 1.0)
SEEDS = range(6)
SANE = 0.5
"""Median Spearman between the maps of a trained and a spoilt network: below it a map depends on what was learnt."""


def cells(count: int, seed: int) -> tuple[Pixels, np.ndarray]:
    """Render `count` cells of each label: (N, PX, PX, 3) uint8 and (N,) class numbers."""
    drawn = [
        render_cell(label, np.random.default_rng([seed, number, k]), PX).pixels
        for number in range(count)
        for k, label in enumerate(LABELS)
    ]
    return np.stack(drawn), np.tile(np.arange(len(LABELS)), count)


def small_features(pretrained: bool) -> nn.Module:
    """Three convolutions, each of which halves the side."""
    layers: list[nn.Module] = []
    for below, width in ((3, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(below, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


SMALL = Backbone("small", "Small CNN", small_features, 16, PX, "", "tf", "", "0", "1")


@pytest.fixture(scope="module")
def trained() -> SelfExplaining:
    """Return a small network that tells rendered cells apart, also such as it has not seen."""
    torch.manual_seed(0)
    network = SelfExplaining(SMALL, len(LABELS)).train()
    pixels, targets = (torch.from_numpy(array) for array in cells(16, seed=0))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(pixels)[0], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    others, known = cells(4, seed=1)
    with torch.inference_mode():
        assert (network(torch.from_numpy(others))[0].argmax(1).numpy() == known).mean() > 0.9
    return network


def assert_sanity(network: SelfExplaining, explain: Callable[[Question], Heat]) -> None:
    """Assert that a way of explaining depends on what the network has learnt.

    Args:
        network: trained.
        explain: question -> heatmap.
    """
    pictures = [(pixels, int(k)) for pixels, k in zip(*cells(4, seed=1), strict=True)]
    own = [explain(Question(network, pixels, k)) for pixels, k in pictures]
    assert all(np.ptp(heat) > 0 for heat in own), "a map of nothing cannot be spoilt"
    for share in SHARES:
        spoilt = [randomised(network, share, seed) for seed in SEEDS]
        others = [[explain(Question(other, pixels, k)) for pixels, k in pictures] for other in spoilt]
        flat = np.mean([is_flat(heat) for heats in others for heat in heats])
        assert flat < 0.5, f"{share:.0%} of the layers are random and {flat:.0%} of the maps show nothing"
        found = [agreement(a, b)["spearman"] for heats in others for a, b in zip(own, heats, strict=True)]
        assert np.nanmedian(found) < SANE, f"{share:.0%} of the layers are random and the map is as before"


def test_the_class_map_depends_on_what_was_learnt(trained: SelfExplaining) -> None:
    assert_sanity(trained, METHODS["class-map"].explain)


@pytest.mark.parametrize("name", ["darkness", "centre", "random"])
def test_maps_that_ignore_the_weights_fail_the_same_check(trained: SelfExplaining, name: str) -> None:
    """Stain darkness lies on nuclei, looks right and knows nothing of the network: the check must say so."""
    with pytest.raises(AssertionError, match="25% of the layers are random and the map is as before"):
        assert_sanity(trained, BASELINES[name].explain)


def test_a_class_map_mixed_with_darkness_fails_it_too(trained: SelfExplaining) -> None:
    def mixed(asked: Question) -> Heat:
        return 0.1 * METHODS["class-map"].explain(asked) + BASELINES["darkness"].explain(asked)

    with pytest.raises(AssertionError, match="the map is as before"):
        assert_sanity(trained, mixed)


def test_randomising_spoils_the_last_layers_first_and_a_copy_only(trained: SelfExplaining) -> None:
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}

    def kept(share: float) -> list[bool]:
        changed = randomised(trained, share)
        assert not changed.training
        convolutions = [changed.features[0], changed.features[3], changed.features[6], changed.classifier]
        own = [trained.features[0], trained.features[3], trained.features[6], trained.classifier]
        return [torch.equal(a.weight, b.weight) for a, b in zip(convolutions, own, strict=True)]

    assert kept(0.0) == [True, True, True, False]
    assert kept(0.4) == [True, True, False, False]
    assert kept(1.0) == [False, False, False, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    spoilt = randomised(trained, 1.0).state_dict()
    same = {name for name in before if torch.equal(spoilt[name], before[name])}
    assert same == {name for name in before if before[name].dim() < 4}  # normalisations and biases stay
    for name in set(before) - same:
        assert float(spoilt[name].std()) == pytest.approx(float(before[name].std()), rel=0.35)
    state = torch.get_rng_state()
    first, again, other = (randomised(trained, 1.0, seed).features[0].weight for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's chance is touched


def test_the_class_map_of_the_small_network_lies_where_it_looks(trained: SelfExplaining) -> None:
    pixels = cells(1, seed=1)[0][0]
    assert Question(trained, pixels, 0).placement == Placement(0.5, 8.0, PX)
