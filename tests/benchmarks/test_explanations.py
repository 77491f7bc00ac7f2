"""Explanations are compared where they lie: finer class maps are laid out rightly; what is measured is what is said."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import explanation_tables, explanations
from benchmarks.explanation_tables import SETS, TABLES
from benchmarks.explanations import (
    CELL,
    INNER_LAYER,
    NUCLEUS,
    RENDERED_LABELS,
    SAME_PICTURES,
    SLOW,
    Model,
    bundle_model,
    cost,
    evenly,
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
from edge_runtime.classifier import softmax
from edge_runtime.errors import UsageError
from edge_runtime.heatmap import Placement, heatmap
from edge_runtime.preprocess import Pixels, Preprocess
from train import attribution
from train.attribution import BASELINES, METHODS, Heat
from train.backbones import BACKBONES
from train.faithfulness import localisation
from train.heatmap_quality import Masked, interval, sanity
from train.network import SelfExplaining
from train.pixels import prepare_picture

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
    assert {name: row["value"] for name, row in found["same"]["spearman"].items()} == pytest.approx({own: 1, dark: 1})
    assert found["same"]["flat"] == 0
    spearman = found["spoilt"]["spearman"]
    assert found["spoilt"]["flat"] == 1 and spearman[own] is None  # light, the only thing seen, now speaks against it
    assert spearman[dark]["value"] == pytest.approx(1) and spearman[dark]["n"] == 2


def test_sanity_explains_every_picture_once_with_the_trained_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, network = rendered_cells(1, PX)[:2], Averages()
    asked: list[object] = []
    row = METHODS["class-map"]

    def explain(question: attribution.Question) -> Heat:
        asked.append(question.network)
        assert question.place == LOOKS
        return row.explain(question)

    monkeypatch.setitem(METHODS, "class-map", dataclasses.replace(row, explain=explain))
    others = {name: copy.deepcopy(network) for name in "abc"}
    sanity(network, others, pictures)  # type: ignore[arg-type]
    assert [asked.count(one) for one in (network, *others.values())] == [2, 2, 2, 2]


def test_lime_is_compared_between_all_seeds(mobilenet: SelfExplaining, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "LIME_SAMPLES", 20)
    picture = rendered_cells(1, PX)[0]
    found = lime_stability(mobilenet, [picture])
    assert (found["n"], found["seeds"]) == (1, 3)
    assert -1 <= found["spearman"]["low"] <= found["spearman"]["high"] <= 1
    assert 0 <= found["overlap"]["value"] <= 1
    assert found["spearman"]["n"] == found["overlap"]["n"] == 1  # three pairs of one picture are one number


def test_slow_methods_are_asked_about_an_even_sample_and_the_class_map_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    pictures = rendered_cells(2, PX)[:6]
    places = [one.pixels.tobytes() for one in pictures]

    def explain(question: attribution.Question) -> Heat:
        asked.append(places.index(question.pixels.tobytes()))
        return BASELINES["centre"].explain(question)

    for name in SLOW:
        monkeypatch.setitem(METHODS, name, dataclasses.replace(METHODS[name], explain=explain))
    monkeypatch.setattr("train.faithfulness.STEPS", 2)
    monkeypatch.setattr("train.faithfulness.CHANGES", {})
    model = torch_model(Averages(), PX)  # type: ignore[arg-type]
    found = measure_model(model, pictures, 2, "")
    assert asked == [1, 1, 1, 4, 4, 4]
    same = found[SAME_PICTURES]
    assert same["n"] == 2 and found["class map"]["n"] == 6 and found["Occlusion"]["n"] == 2
    shares = []
    for one in (pictures[1], pictures[4]):
        k = int(model.answer(one.pixels)[0].argmax())
        shares.append(localisation(model.explain(one.pixels, k), one.cell)["top_share"])
    assert same["top_share"]["value"] == pytest.approx(np.mean(shares))


def test_an_even_sample() -> None:
    assert evenly(100, 4) == [12, 37, 62, 87]
    assert evenly(3, 9) == [0, 1, 2] and evenly(5, 0) == []


def test_cost_asks_what_it_times_first_and_gives_threads_back(
    mobilenet: SelfExplaining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's engine is played by the full-precision network."""
    for name in SLOW:
        monkeypatch.setitem(METHODS, name, dataclasses.replace(METHODS[name], explain=BASELINES["centre"].explain))
    threads, model, pixels = torch.get_num_threads(), torch_model(mobilenet, PX), rendered_cells(1, PX)[1].pixels
    device = played(model)
    found = cost(mobilenet, device, pixels, 3)  # type: ignore[arg-type]
    assert (found["threads"], found["rounds"], torch.get_num_threads()) == (1, 3, threads)
    assert set(found["slow"]) == {METHODS[name].title for name in SLOW} and len(found["ways"]) == 9
    assert found["ways"]["fp32: classify"]["ratio"]["value"] == 1
    wrong = SimpleNamespace(
        **vars(device) | {"engine": SimpleNamespace(run=lambda x: (np.zeros(3), model.answer(x)[1]))}
    )
    with pytest.raises(AssertionError):
        cost(mobilenet, wrong, pixels, 3)  # type: ignore[arg-type]


def played(model: Model) -> SimpleNamespace:
    """Return what looks like a `Classifier` and answers like a model."""

    def classify_pixels(pixels: Pixels) -> SimpleNamespace:
        logits, class_map = model.answer(pixels)
        p = softmax(logits, 2.0)
        return SimpleNamespace(
            logits=logits,
            class_map=class_map,
            heatmap=heatmap(class_map, int(p.argmax())),
            placement=model.placement,
            probabilities=dict(zip("abc", p, strict=True)),
        )

    return SimpleNamespace(
        classify_pixels=classify_pixels,
        engine=SimpleNamespace(run=model.answer),
        bundle=SimpleNamespace(manifest=SimpleNamespace(temperature=2.0)),
        preprocess=Preprocess(PX),
    )


def test_a_bundles_cells_lie_where_it_says(mobilenet: SelfExplaining) -> None:
    elsewhere = dataclasses.replace(torch_model(mobilenet, PX), placement=Placement(3.5, 32, PX))
    assert bundle_model(played(elsewhere)).placement == Placement(3.5, 32, PX)  # type: ignore[arg-type]


def test_intervals_leave_out_what_is_not_defined() -> None:
    assert interval([float("nan")] * 2) is None
    assert interval([0.25, float("nan"), 0.25]) == pytest.approx({"value": 0.25, "low": 0.25, "high": 0.25, "n": 2})


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
        read(tmp_path, Preprocess(PX))  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"a run on standardised pictures: got .*reinhard"):
        read(tmp_path, Preprocess(PX, stain="reinhard"))  # type: ignore[operator]


def test_threshold_pictures_come_by_turns_and_no_more_are_read_than_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"Benign": 4, "Early": 1, "Pre": 3}
    for number, (name, count) in enumerate(shown.items()):
        for kind, level in (("Original", 40 * number), ("Segmented", 200)):
            folder = tmp_path / "taleqani" / kind / name
            folder.mkdir(parents=True)
            for i in range(count):
                black = kind == "Segmented" and name == "Pre" and i == 0
                Image.new("RGB", (64, 64), (0 if black else level,) * 3).save(folder / f"{i}.jpg")
    read: list[str] = []

    def prepare(path: Path, *rest: object) -> Pixels:
        read.append(f"{path.parent.name} {path.stem}")
        return prepare_picture(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(explanations, "prepare_picture", prepare)
    found = threshold_fields(tmp_path, Preprocess(32), 4)
    assert read == ["Benign 0", "Early 0", "Benign 1", "Pre 1"]  # nothing is marked in the first of Pre
    assert [round(one.pixels.mean() / 40) for one in found] == [0, 1, 0, 2] and all(one.nucleus.all() for one in found)
    assert len(threshold_fields(tmp_path, Preprocess(32))) == 7


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
    (one,) = expert_cells(tmp_path, Preprocess(64))
    seen = 255 - one.pixels[..., 0].astype(int)
    for found, level in ((one.nucleus, NUCLEUS), (one.cell, CELL)):
        assert 0 < found.sum() < found.size and (found == (seen > level)).mean() > 0.97


# tables


def test_tables_count_what_was_measured_and_say_what_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = spot(108, 124)[..., 0] > 0
    model = torch_model(Averages(), PX)  # type: ignore[arg-type]
    measured = measure_model(model, [Masked(spot(108, 124), cell, cell)] * 3, 0, "")
    sets = {f"{name}, {kind}": measured for name in SETS for kind in ("fp32", "INT8")}
    spoilt = {"all": {"flat": 0.25, "spearman": {"class map": None, "stain darkness": interval([1.0, 1.0])}}}
    lime = {"n": 2, "seeds": 3, "spearman": interval([0.5]), "overlap": None}
    times = {"p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0, "ratio": interval([1.0])}
    spent = {
        "threads": 1,
        "rounds": 5,
        "ways": {"INT8: classify": times},
        "slow": {"LIME": {"p50_ms": 9.0, "ratio": 9}},
    }
    results = tmp_path / "explanations.json"
    found = {**sets, "sanity": spoilt, "LIME between seeds": lime, "cost": spent}
    results.write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setattr(explanation_tables, "RESULTS", results)
    said = {name: table() for name, table in TABLES.items()}
    assert "3 cells with nucleus" in said["localisation"] and "3 rendered cells" in said["localisation"]
    assert said["quantization"].startswith("Not measured")
    assert "| all | - | 1.00 [1.00, 1.00] | 25% |" in said["sanity"]
    assert "1 thread, 5 rounds" in said["explanation-cost"]
    rows = {"all": {"n": 4, "median": 0.99, "p5": 0.9, "same_peak": 1.0}}
    results.write_text(json.dumps(found | {"INT8 against fp32": rows}), encoding="utf-8")
    assert "| all | 4 | 0.990 |" in TABLES["quantization"]()
