"""Treatments change what they say and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from train.augment import STAINS
from train.treatments import STAINED, TREATMENTS, Block, blend, optical_density, without_cells

NAMES = {treatment.name: treatment for treatment in TREATMENTS}
PX = 112
FIELD, NUCLEUS, RED_CELL = (230, 220, 225), (90, 60, 150), (190, 130, 130)


def disc(cx: float, cy: float, radius: float) -> np.ndarray:
    y, x = np.indices((PX, PX))
    return (x - cx) ** 2 + (y - cy) ** 2 < radius**2


@pytest.fixture
def block() -> Block:
    """Three pictures: a cell with a red cell in the corner; a bigger cell on another background; no cell at all."""
    pixels = np.empty((3, PX, PX, 3), np.uint8)
    pixels[:] = FIELD
    pixels[1] = (205, 215, 235)
    masks = np.stack([disc(56, 56, 20), disc(56, 56, 28), np.zeros((PX, PX), bool)])
    pixels[masks] = NUCLEUS
    pixels[0][disc(10, 10, 9)] = RED_CELL
    stain = np.array([[(0.2, 0.3, 0.2), (0.1, 0.2, 0.1)], [(0.4, 0.3, 0.2), (0.2, 0.2, 0.1)]], np.float32)
    return Block(
        pixels,
        masks,
        pixels[[1, 0, 0]],
        masks[[1, 0, 0]],
        stain[[0, 1, 0]],
        stain[[1, 0, 0]],
        [(0.8, 0.84, 0.2, 0.16), None, None],
        np.array([222, 221, 220], np.uint8),
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_treatment_gives_pixels_again_and_leaves_its_input_alone(block: Block, name: str) -> None:
    before = block.pixels.copy(), block.donors.copy(), block.masks.copy()
    first, second = NAMES[name].change(block), NAMES[name].change(block)
    assert first.dtype == np.uint8 and first.shape == block.pixels.shape
    assert np.array_equal(first, second)
    assert np.array_equal(block.pixels, before[0]) and np.array_equal(block.donors, before[1])
    assert np.array_equal(block.masks, before[2])
    assert NAMES[name].expected in ("holds", "falls", "tells")


def test_blend_is_soft_only_at_the_edge() -> None:
    mask = disc(56, 56, 20)[None]
    white, black = np.full((1, PX, PX, 3), 255, np.uint8), np.zeros((1, PX, PX, 3), np.uint8)
    mixed = blend(white, black, mask)[0, ..., 0]
    assert (mixed[disc(56, 56, 16)] == 255).all() and (mixed[~disc(56, 56, 24)] == 0).all()
    assert ((mixed > 0) & (mixed < 255)).any()


def test_background_removed_keeps_the_cell_only(block: Block) -> None:
    out = NAMES["background removed"].change(block)
    assert (out[0][disc(56, 56, 16)] == NUCLEUS).all()
    assert (out[0][~disc(56, 56, 24)] == block.field_rgb).all()  # the red cell is gone, too
    assert np.array_equal(out[0][~disc(56, 56, 32)], out[1][~disc(56, 56, 32)])  # and which background it was
    assert np.array_equal(out[2], block.pixels[2])  # no cell: as it was


def test_background_swapped_takes_the_donors_without_its_cell(block: Block) -> None:
    out = NAMES["background swapped"].change(block)
    assert (out[0][disc(56, 56, 16)] == NUCLEUS).all()
    assert (out[0][~disc(56, 56, 24)] == (205, 215, 235)).all()  # where the donor's bigger cell was, as well
    assert np.array_equal(out[2], block.pixels[2])


def test_cell_removed_leaves_background_and_no_trace(block: Block) -> None:
    out = NAMES["cell removed"].change(block)
    colours = {tuple(c) for c in out[1].reshape(-1, 3)}
    assert colours == {(205, 215, 235)}  # not even an outline
    assert (out[0][disc(10, 10, 9)] == RED_CELL).all()
    assert (out[0][disc(56 + 10, 56 + 10, 4)] == RED_CELL).all()  # the corner is what fills the middle
    assert np.array_equal(out[2], block.pixels[2])


def test_a_picture_that_is_all_cell_becomes_the_common_background() -> None:
    pixels = np.full((1, PX, PX, 3), 90, np.uint8)
    out = without_cells(pixels, np.ones((1, PX, PX), bool), np.array([1, 2, 3], np.uint8))
    assert (out == (1, 2, 3)).all()


@pytest.mark.parametrize("pair", STAINED)
def test_stain_scales_densities(block: Block, pair: tuple[float, float]) -> None:
    vectors = np.array(STAINS) / np.linalg.norm(STAINS, axis=0)
    amounts = np.array([0.4, 0.3, 0.0])
    colour = 255 * np.exp(-vectors @ amounts)
    wanted = 255 * np.exp(-vectors @ (amounts * (*pair, 1)))
    pixels = np.broadcast_to(colour.round().astype(np.uint8), block.pixels.shape)
    name = ", ".join(f"{stain} x{factor:.2f}" for stain, factor in zip(("haematoxylin", "eosin"), pair, strict=True))
    name = name.replace("haematoxylin x1.00, ", "").replace(", eosin x1.00", "")
    changed = NAMES[name].change(dataclasses.replace(block, pixels=pixels))
    assert np.abs(changed[0, 0, 0] - wanted).max() <= 1.5
    assert np.abs(wanted - colour).max() > 5


def test_stain_swapped_gives_the_other_groups_mean_and_spread(block: Block) -> None:
    rng = np.random.default_rng(0)
    density = rng.normal((0.4, 0.5, 0.4), (0.05, 0.1, 0.05), (3, PX, PX, 3))
    pixels = (255 * np.exp(-density)).round().astype(np.uint8)
    stain = np.stack([density.mean((1, 2)), density.std((1, 2))], 1).astype(np.float32)
    donor = np.array([[(0.6, 0.4, 0.5), (0.05, 0.07, 0.04)]] * 3, np.float32)
    changed = NAMES["stain swapped"].change(dataclasses.replace(block, pixels=pixels, stain=stain, donor_stain=donor))
    found = optical_density(changed)
    assert np.allclose(found.mean((1, 2)), donor[:, 0], atol=0.01)
    assert np.allclose(found.std((1, 2)), stain[:, 1] * 0.16 / stain[0, 1].sum(), atol=0.01)  # one contrast for all
    own = NAMES["stain swapped"].change(dataclasses.replace(block, donor_stain=block.stain))
    assert np.abs(own.astype(int) - block.pixels).max() <= 1  # its own stain: nothing happens


def test_hue_turns_both_ways_round_the_circle(block: Block) -> None:
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), block.pixels.shape)
    (there, back) = (
        NAMES[name].change(dataclasses.replace(block, pixels=red))[0, 0, 0]
        for name in ("hue +36 degrees", "hue -36 degrees")
    )
    assert np.abs(there - np.array([255, 153, 0])).max() <= 5  # 36 of the 60 degrees to yellow
    assert np.abs(back - np.array([255, 0, 153])).max() <= 5


def test_light_sharpness_channels(block: Block) -> None:
    darker, brighter = NAMES["darker"].change(block), NAMES["brighter"].change(block)
    assert darker[0, 56, 56].tolist() == [75, 50, 125] and brighter[0, 56, 56].tolist() == [108, 72, 180]
    assert NAMES["channels BGR"].change(block)[0, 56, 56].tolist() == [150, 60, 90]
    assert NAMES["channels GBR"].change(block)[0, 56, 56].tolist() == [60, 150, 90]
    grey = NAMES["grey"].change(block)
    assert np.ptp(grey, axis=-1).max() == 0
    blurred, pressed = NAMES["blurred"].change(block), NAMES["JPEG"].change(block)
    edge = np.s_[0, 56, 30:42, 1]
    assert (
        np.abs(np.diff(blurred[edge].astype(int))).max() < np.abs(np.diff(block.pixels[edge].astype(int))).max() / 1.5
    )
    assert 0 < np.abs(pressed.astype(int) - block.pixels).mean() < 6


def test_marks_are_blanked_where_there_are_some(block: Block) -> None:
    block.pixels[0, 95:, 90:] = 0
    out = NAMES["burnt-in mark blanked"].change(block)
    assert (out[0, 95:, 90:] == FIELD).all()
    assert np.array_equal(out[1:], block.pixels[1:])
