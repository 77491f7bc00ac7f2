"""The light finder that runs everywhere agrees with scikit-image's watershed, on fields and crops that are rendered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.cells import central_cell, find_cells
from train import roi
from train.render import (
    CELL_STAIN,
    CELL_UM,
    FIELD_UM,
    FIELDS,
    MORPHOLOGIES,
    RED_CELL_UM,
    render_cell,
    render_field,
)

SIDE = 320


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def test_fields_hold_the_same_nuclei(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the stain of the reference's books at least six in seven of either's nuclei have a partner (Dice 0.7)."""
    row = FIELDS["Early"]
    mix = {kind: share for kind, share in row.mix.items() if not MORPHOLOGIES[kind].smeared}
    monkeypatch.setitem(FIELDS, "Early", replace(row, mix=mix, stain=CELL_STAIN))
    unit = float(np.mean(RED_CELL_UM)) / FIELD_UM * SIDE
    same = light_count = reference_count = 0
    for seed in range(8):
        pixels = render_field("Early", np.random.default_rng(seed), SIDE).pixels
        light, reference = find_cells(pixels), roi.find_cells(pixels, unit)
        assert light.scale == 1
        for number in range(1, len(light.cells) + 1):
            mine = light.nuclei == number
            partner = np.bincount(reference.nuclei[mine]).argmax()
            same += partner > 0 and dice(mine, reference.nuclei == partner) > 0.7
        light_count += len(light.cells)
        reference_count += reference.nuclei.max()
    assert light_count > 30
    assert min(same / light_count, same / reference_count) > 6 / 7


@pytest.mark.parametrize("kind", ["blast", "lymphocyte", "erythroblast"])
def test_crops_hold_the_same_cell(kind: str) -> None:
    """Of round nuclei: the reference takes a kidney or lobes for several."""
    nucleus, cell = [], []
    for seed in range(8):
        pixels = render_cell(kind, np.random.default_rng(seed), 224).pixels
        light = central_cell(pixels)
        reference = roi.central_cell(pixels, float(np.mean(RED_CELL_UM)) / CELL_UM * 224)
        nucleus.append(dice(light.nucleus, reference[0]))
        cell.append(dice(light.cell, reference[1]))
    assert np.median(nucleus) > 0.85 and np.median(cell) > 0.8


def test_the_reference_parts_touching_nuclei_and_leaves_out_specks() -> None:
    pixels = np.full((120, 200, 3), (245, 235, 225), np.uint8)
    y, x = np.indices((120, 200))
    for middle, radius in ((60, 26), (106, 26), (170, 5)):
        pixels[(x - middle) ** 2 + (y - 60) ** 2 <= radius**2] = (90, 50, 140)
    found = roi.find_cells(pixels, 40.0)
    assert found.nuclei.max() == 2
    assert found.nuclei[60, 60] != found.nuclei[60, 106] and not found.nuclei[60, 170]
    assert (found.cells[found.nuclei > 0] == found.nuclei[found.nuclei > 0]).all()


def test_an_empty_field_has_no_cell_for_the_reference() -> None:
    empty = np.full((64, 64, 3), 240, np.uint8)
    empty[::7, ::5] = 238
    nucleus, cell = roi.central_cell(empty, 20.0)
    assert not nucleus.any() and not cell.any()
