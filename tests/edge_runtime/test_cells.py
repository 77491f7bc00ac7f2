"""Cells are found where the renderer put them, in any stain; components are those that scipy would number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from edge_runtime.cells import central_cell, label_components, otsu
from train.render import render_cell


@pytest.mark.parametrize("density", [0.02, 0.3, 0.5, 0.6, 0.9])
def test_components_are_scipys(density: float) -> None:
    random = np.random.default_rng(int(density * 100))
    for shape in ((1, 1), (1, 30), (30, 1), (40, 53)):
        mask = random.random(shape) < density
        labels, count = label_components(mask)
        wanted, wanted_count = ndimage.label(mask)
        assert count == wanted_count
        assert np.array_equal(labels, wanted)


def test_a_spiral_is_one_component() -> None:
    """The longest way round: pointer jumping has to reach its first run."""
    mask = np.zeros((41, 41), bool)
    y = x = 20
    for length in range(1, 40):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[length % 4]
        for _ in range(2 * (length // 2) // 1):
            y, x = y + dy, x + dx
            if 0 <= y < 41 and 0 <= x < 41:
                mask[y, x] = True
    labels, count = label_components(mask)
    assert count == ndimage.label(mask)[1]
    assert ((labels > 0) == mask).all()


def test_otsu_splits_two_heaps() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0.1, 0.02, 900), random.normal(0.5, 0.05, 100)]).astype(np.float32)
    assert 0.15 < otsu(values) < 0.4


@pytest.mark.parametrize("kind", ["blast", "lymphocyte", "neutrophil", "monocyte", "eosinophil", "basophil"])
def test_rendered_cells_are_found(kind: str) -> None:
    """Nothing of the cell is missed; pale background that touches it may be taken along."""
    overlap, cell, nucleus = [], [], []
    for seed in range(12):
        rendered = render_cell(kind, np.random.default_rng(seed), 224)
        found = central_cell(rendered.pixels)
        overlap.append(2 * (found.cell & rendered.cell).sum() / (found.cell.sum() + rendered.cell.sum()))
        cell.append((found.cell & rendered.cell).sum() / rendered.cell.sum())
        nucleus.append((found.nucleus & rendered.nucleus).sum() / rendered.nucleus.sum())
        assert (found.cell | ~found.nucleus).all(), "the nucleus is part of the cell"
    assert np.median(nucleus) > 0.95 and np.median(overlap) > 0.6
    assert np.median(cell) > (0.6 if kind == "eosinophil" else 0.9)  # its granules are as red as a red cell


def test_an_empty_field_has_no_cell() -> None:
    empty = np.full((224, 224, 3), (250, 235, 220), np.uint8)
    found = central_cell(empty)
    assert not found.nucleus.any() and not found.cell.any()


def test_masks_of_experts(shared_data: object) -> None:
    """Against the outlines that experts drew: nucleus and whole cell of 100 CellaVision cells."""
    from pathlib import Path

    from PIL import Image

    from edge_runtime.preprocess import Preprocess, decode, prepare

    nucleus_dice, cell_dice, covered = [], [], []
    for path in sorted((Path(str(shared_data)) / "segmentation_wbc" / "Dataset 2").glob("*.jpg")):
        expert = Image.open(path.with_suffix(".png")).convert("L").resize((224, 224), Image.Resampling.NEAREST)
        drawn = np.asarray(expert)
        found = central_cell(prepare(decode(path), Preprocess(224)))
        for scores, mine, theirs in ((nucleus_dice, found.nucleus, drawn > 200), (cell_dice, found.cell, drawn > 60)):
            scores.append(2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()))
        covered.append((found.cell & (drawn > 60)).sum() / (drawn > 60).sum())
    assert len(covered) == 100
    assert np.median(nucleus_dice) > 0.93 and np.percentile(nucleus_dice, 10) > 0.75
    assert np.median(cell_dice) > 0.86 and np.percentile(cell_dice, 10) > 0.68
    assert np.median(covered) > 0.95
