"""The reference's colours as published, the background gone and the cell untouched, or nothing changed at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from edge_runtime.cells import central_cell, find_cells
from edge_runtime.errors import UsageError
from edge_runtime.manifest import STANDARDISATION
from edge_runtime.masks import grown
from edge_runtime.preprocess import BACKGROUNDS, STAINS, Preprocess, prepare
from edge_runtime.standardise import (
    KEPT,
    MOVED,
    NEUTRAL_RGB,
    REINHARD_DEVIATION,
    REINHARD_MEAN,
    neutralised,
    reinhard,
    standardise,
)
from train.render import render_cell, render_field

CELL = render_cell("neutrophil", np.random.default_rng(3), 256)
FIELD = render_field("Early", np.random.default_rng(3), 448)


def test_every_word_has_its_function() -> None:
    assert tuple(KEPT) == BACKGROUNDS and tuple(MOVED) == STAINS
    assert set(STANDARDISATION) < set(Preprocess.__dataclass_fields__)


def test_by_default_nothing_is_changed() -> None:
    pixels = CELL.pixels
    assert standardise(pixels, Preprocess(256)) is pixels
    assert np.array_equal(prepare(Image.fromarray(pixels), Preprocess(256)), pixels)


@pytest.mark.parametrize("key", ["crop", "resample", "background", "stain"])
def test_an_unknown_word_is_named(key: str) -> None:
    with pytest.raises(UsageError, match=f"preprocess.{key}: got 'blurred', expected "):
        Preprocess(224, **{key: "blurred"})


@pytest.mark.parametrize("side", [128, 224, 299])
def test_the_cell_stays_and_its_background_goes(side: int) -> None:
    before = prepare(Image.fromarray(CELL.pixels), Preprocess(side))
    after = prepare(Image.fromarray(CELL.pixels), Preprocess(side, background="neutral-cell"))
    cell = central_cell(before).cell
    assert np.array_equal(after[cell], before[cell])
    far = ~grown(cell, round(0.05 * side))
    assert far.mean() > 0.5
    assert (after[far] == NEUTRAL_RGB).all()
    true_cell = np.asarray(Image.fromarray(CELL.cell).resize((side, side), Image.Resampling.NEAREST))
    assert (after == before)[true_cell].mean() > 0.85


def test_of_a_field_all_white_cells_stay() -> None:
    before = prepare(Image.fromarray(FIELD.pixels), Preprocess(224))
    after = prepare(Image.fromarray(FIELD.pixels), Preprocess(224, background="neutral-field"))
    found = find_cells(before)
    assert found.scale == 1 and len(found.cells) > 3
    assert np.array_equal(after[found.labels > 0], before[found.labels > 0])
    blank = (after == NEUTRAL_RGB).all(axis=2)
    nuclei = np.asarray(Image.fromarray(FIELD.nucleus).resize((224, 224), Image.Resampling.NEAREST))
    assert blank.mean() > 0.4 and blank[nuclei].mean() < 0.1


def test_without_a_cell_nothing_is_kept() -> None:
    empty = np.full((64, 64, 3), (250, 235, 220), np.uint8)
    for background in BACKGROUNDS[1:]:
        assert (standardise(empty, Preprocess(64, background=background)) == NEUTRAL_RGB).all()


def test_the_margin_is_soft_and_monotonous() -> None:
    kept = np.zeros((224, 224), bool)
    kept[:, :100] = True
    row = neutralised(np.zeros((224, 224, 3), np.uint8), kept)[112, :, 0].astype(int)
    assert not row[:101].any() and (row[110:] == NEUTRAL_RGB[0]).all()
    steps = np.diff(row)
    assert (steps >= 0).all() and steps.max() < 60


def published(pixels: np.ndarray) -> np.ndarray:
    """Reinhard et al. 2001 with scikit-image's conversions."""
    lab = rgb2lab(pixels)
    moved = (lab - lab.mean((0, 1))) / lab.std((0, 1)) * np.array(REINHARD_DEVIATION) + np.array(REINHARD_MEAN)
    return np.rint(255 * lab2rgb(moved))


@pytest.mark.parametrize("pixels", [CELL.pixels, FIELD.pixels], ids=["cell", "field"])
@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB:UserWarning")
def test_reinhard_is_the_published_formula(pixels: np.ndarray) -> None:
    assert np.abs(reinhard(pixels) - published(pixels)).max() <= 1
    assert (reinhard(pixels) != published(pixels)).mean() < 1e-3


def test_reinhard_gives_two_laboratories_one_colour() -> None:
    """What another lamp and another stain did to a picture is undone: a change of each channel's gamma and gain."""
    other = (255 * (FIELD.pixels / 255.0) ** (1.3, 0.9, 1.1) * (0.9, 1.0, 0.8)).round().astype(np.uint8)
    before = np.abs(other.astype(float) - FIELD.pixels).mean()
    after = np.abs(reinhard(other).astype(float) - reinhard(FIELD.pixels)).mean()
    assert before > 15 and after < before / 3


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (240, 230, 220)])
def test_reinhard_of_a_single_colour_is_the_reference_mean(colour: tuple[int, int, int]) -> None:
    flat = np.full((8, 8, 3), colour, np.uint8)
    found = reinhard(flat)
    assert (found == found[0, 0]).all()
    np.testing.assert_allclose(rgb2lab(found)[0, 0], REINHARD_MEAN, atol=0.6)


def test_stain_is_moved_before_the_background_is_blanked() -> None:
    both = standardise(CELL.pixels, Preprocess(256, background="neutral-cell", stain="reinhard"))
    cell = central_cell(CELL.pixels).cell
    assert np.array_equal(both[cell], reinhard(CELL.pixels)[cell])
    assert (both[0, 0] == NEUTRAL_RGB).all()
