"""Cells are found where the renderer put them, in any stain, apart where they touch; an empty field has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from edge_runtime import cells, masks, nuclei, red_cells
from edge_runtime.cells import FIELD_PX, FieldCells, central_cell, find_cells
from train.morphology import MORPHOLOGIES
from train.render import Rendering, render_cell, render_field
from train.smears import FIELD_UM, FIELDS, RED_CELL_UM

FIELD_SIDE = 448


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))


@pytest.mark.parametrize("kind", ["blast", "lymphocyte", "neutrophil", "monocyte", "eosinophil", "basophil"])
def test_rendered_cells_are_found(kind: str) -> None:
    nucleus, cell = [], []
    for seed in range(12):
        rendered = render_cell(kind, np.random.default_rng(seed), 224)
        found = central_cell(rendered.pixels)
        assert (found.cell | ~found.nucleus).all(), "the nucleus is part of the cell"
        nucleus.append(dice(found.nucleus, rendered.nucleus))
        cell.append(dice(found.cell, rendered.cell))
    # a basophil's granules are as purple as its nucleus
    assert np.median(nucleus) > (0.75 if kind == "basophil" else 0.85)
    assert np.median(cell) > 0.85 and min(cell) > 0.4


def test_a_platelet_is_found_in_a_crop_but_is_no_cell_of_a_field() -> None:
    rendered = render_cell("platelet", np.random.default_rng(0), 224)
    assert dice(central_cell(rendered.pixels).cell, rendered.cell) > 0.5
    assert not find_cells(rendered.pixels).cells


@pytest.mark.parametrize("colour", [(250, 235, 220), (0, 0, 0), (255, 255, 255)])
def test_an_empty_field_has_no_cell(colour: tuple[int, int, int]) -> None:
    empty = np.full((224, 224, 3), colour, np.uint8)
    found = central_cell(empty)
    assert not found.nucleus.any() and not found.cell.any()
    field = find_cells(empty)
    assert not field.cells and not field.labels.any() and field.red_cell_px is None


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 3), (700, 1), (224, 320)])
def test_noise_and_slivers_are_no_error(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert central_cell(noise).cell.shape == size
    field = find_cells(noise)
    assert field.labels.max() == len(field.cells)


@pytest.fixture
def intact_cells() -> Iterator[None]:
    """Fields without smudge cells, of which nobody can say how many there are."""
    with pytest.MonkeyPatch.context() as patch:
        for name, row in FIELDS.items():
            mix = {kind: share for kind, share in row.mix.items() if not MORPHOLOGIES[kind].smeared}
            patch.setitem(FIELDS, name, replace(row, mix=mix))
        yield


def truth(rendering: Rendering) -> tuple[np.ndarray, list[int]]:
    """Number the rendered nuclei that are whole and no fragment: labels, and which of them count."""
    labels, count = ndimage.label(ndimage.binary_erosion(rendering.nucleus, iterations=2))
    unit = np.mean(RED_CELL_UM) / FIELD_UM * FIELD_SIDE
    area = np.bincount(labels.ravel(), minlength=count + 1)
    at_border = set(np.concatenate([labels[2], labels[-3], labels[:, 2], labels[:, -3]]).tolist())
    return labels, [n for n in range(1, count + 1) if n not in at_border and area[n] > 0.5 * unit**2]


@pytest.mark.usefixtures("intact_cells")
@pytest.mark.parametrize("label", list(FIELDS))
def test_every_cell_of_a_rendered_field_is_found_once(label: str) -> None:
    """Recall and precision by nuclei, touching cells included, none at the border."""
    hits = wanted = found_twice = found_in_all = nothing_there = 0
    for seed in range(6):
        rendering = render_field(label, np.random.default_rng(100 + seed), FIELD_SIDE)
        field = find_cells(rendering.pixels)
        nuclei = np.asarray(Image.fromarray(field.nuclei).resize((FIELD_SIDE, FIELD_SIDE), Image.Resampling.NEAREST))
        labels, whole = truth(rendering)
        owners = []
        for number in whole:
            inside = nuclei[labels == number]
            owner = np.bincount(inside[inside > 0]).argmax() if (inside > 0).mean() > 0.5 else 0
            owners.append(owner)
        hits += len(set(owners) - {0})
        wanted += len(whole)
        for number in range(1, len(field.cells) + 1):
            if field.cells[number - 1].cut:
                continue
            found_in_all += 1
            nothing_there += (rendering.nucleus[nuclei == number]).mean() < 0.3
            found_twice += number not in owners and np.isin(labels[nuclei == number], whole).mean() > 0.5
    assert wanted > 15
    # these have small lymphocytes; one that touches another nucleus is taken for its lobe
    assert hits / wanted > (0.92 if label in ("Benign", "CLL") else 0.97)
    assert (nothing_there + found_twice) / found_in_all < 0.03


@pytest.mark.parametrize("label", list(FIELDS))
def test_red_cells_give_the_scale(label: str) -> None:
    for seed, side in ((0, 300), (1, 448), (2, 900)):
        pixels = render_field(label, np.random.default_rng(seed), side).pixels
        # a field's width is squeezed into a square: measured is the narrower side, wanted a mean of both
        wanted = np.mean(RED_CELL_UM) / FIELD_UM * side / np.sqrt(FIELDS[label].squeeze)
        assert find_cells(pixels).red_cell_px == pytest.approx(wanted, rel=0.3)


def doubled(field: FieldCells) -> np.ndarray:
    return np.array([(*cell.box, *cell.centre) for cell in field.cells]) * 2


def test_boxes_are_in_pixels_of_the_picture() -> None:
    small = render_field("Pre", np.random.default_rng(0), FIELD_PX[0]).pixels
    large = np.asarray(Image.fromarray(small).resize((640, 640), Image.Resampling.NEAREST))
    one, two = find_cells(small), find_cells(large)
    assert one.scale == 1 and len(one.cells) > 5
    assert [c.cut for c in one.cells] == [c.cut for c in two.cells]
    np.testing.assert_allclose(doubled(one), [(*c.box, *c.centre) for c in two.cells], atol=1e-9)
    assert [4 * c.nucleus_px for c in one.cells] == [c.nucleus_px for c in two.cells]


def test_measures_are_those_of_the_masks() -> None:
    field = find_cells(render_field("Early", np.random.default_rng(5), 320).pixels)
    assert field.cells and any(c.cut for c in field.cells) and not all(c.cut for c in field.cells)
    for number, cell in enumerate(field.cells, 1):
        y, x = np.nonzero(field.labels == number)
        left, top, width, height = cell.box
        assert (left, top, left + width, top + height) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert cell.centre == (pytest.approx(x.mean() + 0.5), pytest.approx(y.mean() + 0.5))
        assert cell.cell_px == len(x) > cell.nucleus_px == (field.nuclei == number).sum()
        assert cell.cut == bool({x.min(), y.min()} & {0} or {x.max(), y.max()} & {319})


def test_a_small_scale_is_searched_at_a_higher_resolution() -> None:
    pixels = render_field("Pre", np.random.default_rng(0), 448).pixels
    mosaic = np.tile(pixels, (2, 3, 1))
    assert find_cells(mosaic).scale == pytest.approx(1344 / FIELD_PX[1])
    assert find_cells(pixels).scale == pytest.approx(448 / FIELD_PX[0])


def test_masks_of_experts(shared_data: Path) -> None:
    """Against the outlines that experts drew: nucleus and whole cell of 100 CellaVision cells."""
    from edge_runtime.preprocess import Preprocess, decode, prepare

    nucleus, cell = [], []
    for path in sorted((shared_data / "segmentation_wbc" / "Dataset 2").glob("*.jpg")):
        expert = Image.open(path.with_suffix(".png")).convert("L").resize((224, 224), Image.Resampling.NEAREST)
        drawn = np.asarray(expert)
        found = central_cell(prepare(decode(path), Preprocess(224)))
        nucleus.append(dice(found.nucleus, drawn > 200))
        cell.append(dice(found.cell, drawn > 60))
    assert len(cell) == 100
    assert np.median(nucleus) > 0.96 and np.percentile(nucleus, 10) > 0.9
    assert np.median(cell) > 0.93 and np.percentile(cell, 10) > 0.84


def plain_distance(mask: np.ndarray, limit: int) -> np.ndarray:
    if not mask.any():
        return np.full(mask.shape, limit, np.float32)
    return ndimage.distance_transform_edt(~mask).clip(max=limit).astype(np.float32)


def plain_labels(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask)


def plain_way(cost: np.ndarray, seed: np.ndarray, rounds: int) -> np.ndarray:
    total = np.where(seed, 0, cost.sum() + 1)
    for _ in range(rounds):
        for _ in range(2):  # along columns, then along rows
            for _ in range(2):  # down, then up
                summed = np.cumsum(cost, 0)
                total = (np.minimum.accumulate(total - summed, 0) + summed)[::-1]
                cost = cost[::-1]
            total, cost = total.T, cost.T
    return total


def test_the_fast_way_finds_what_the_plain_way_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [render_field("Benign", np.random.default_rng(seed), px).pixels for seed, px in ((0, 300), (1, 448))]
    pictures.append(np.random.default_rng(2).integers(0, 256, (120, 200, 3), dtype=np.uint8))
    crops = [render_cell(kind, np.random.default_rng(3), 224).pixels for kind in ("neutrophil", "blast")]
    fast = [find_cells(picture) for picture in pictures], [central_cell(crop) for crop in crops]
    assert any(field.cells for field in fast[0])
    plain = {"distance_to": plain_distance, "label_components": plain_labels, "cheapest_way": plain_way}
    used = set()
    for module in (cells, masks, nuclei, red_cells):
        for name, function in plain.items():
            if hasattr(module, name):
                used.add(name)
                monkeypatch.setattr(module, name, function)
    assert used == set(plain)
    for picture, found in zip(pictures, fast[0], strict=True):
        wanted = find_cells(picture)
        assert found.cells == wanted.cells and found.red_cell_px == wanted.red_cell_px
        assert np.array_equal(found.labels, wanted.labels) and np.array_equal(found.nuclei, wanted.nuclei)
    for crop, masked in zip(crops, fast[1], strict=True):
        assert np.array_equal(central_cell(crop).cell, masked.cell)
