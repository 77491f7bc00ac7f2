"""Scan: cells at the measured scale, each with its class; what is not counted says why; tiles lose and double none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edge_runtime.cells import find_cells
from edge_runtime.classifier import Classifier
from edge_runtime.commands.camera import _counted
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.refusal import Refusal
from edge_runtime.scan import CROP_RED_CELLS, RED_CELL_UM, FieldScan, Scanner, _cut_out
from edge_runtime.tiles import Once, Tile, claims, plan_tiles
from train.render import render_field


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.open("blood-cells", threads=1)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return render_field("Early", np.random.default_rng(5), 448).pixels


@pytest.fixture(scope="module")
def field(classifier: Classifier, pixels: np.ndarray) -> FieldScan:
    return Scanner(classifier).scan(pixels, "early")


def test_each_cell_that_is_found_is_classified_at_the_fields_scale(field: FieldScan, pixels: np.ndarray) -> None:
    found = find_cells(pixels)
    assert [cell.cell for cell in field.cells] == list(found.cells) and len(found.cells) > 3
    assert (field.name, field.width, field.height, field.region) == ("early", 448, 448, (0, 0, 448, 448))
    assert field.red_cell_px == found.red_cell_px and field.scale == "measured"
    for cell in field.cells:
        left, top, width, height = cell.crop
        assert width == height == round(CROP_RED_CELLS * found.red_cell_px)
        assert left + width / 2 == pytest.approx(cell.cell.centre[0], abs=1)
        assert top + height / 2 == pytest.approx(cell.cell.centre[1], abs=1)
        outside = left < 0 or top < 0 or left + width > 448 or top + height > 448
        assert (cell.filled > 0) == outside
    assert {cell.filled > 0 for cell in field.cells} == {True, False}
    assert {"decode", "find", "classify", "total"} == set(field.timings_ms)


def test_the_model_sees_the_crop(classifier: Classifier, field: FieldScan, pixels: np.ndarray) -> None:
    for cell in field.cells:
        if not cell.filled:
            left, top, width, height = cell.crop
            alone = classifier.classify(Image.fromarray(pixels).crop((left, top, left + width, top + height)))
            assert alone.probabilities == cell.prediction.probabilities


def test_beyond_the_border_the_picture_is_mirrored() -> None:
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    seen, filled = _cut_out(picture, (-2, 1, 6, 6))
    assert seen.shape == (6, 6, 3) and filled == pytest.approx(1 - 12 / 36)
    assert (seen[:3, 2:] == picture[1:, :4]).all()
    assert (seen[:3, 1] == picture[1:, 0]).all() and (seen[:3, 0] == picture[1:, 1]).all()
    assert (seen[3, 2:] == picture[3, :4]).all() and (seen[4, 2:] == picture[2, :4]).all()
    inner, none = _cut_out(picture, (1, 1, 2, 2))
    assert (inner == picture[1:3, 1:3]).all() and none == 0


def test_what_is_not_counted_says_why(classifier: Classifier, field: FieldScan, pixels: np.ndarray) -> None:
    cut = [cell for cell in field.cells if cell.cell.cut]
    assert cut and {field.left_out(cell) for cell in cut} == {"cut"}
    whole = next(cell for cell in field.cells if not cell.cell.cut)
    sure = replace(whole, prediction=replace(whole.prediction, refusals=()))
    assert field.left_out(sure) is None
    doubt = replace(whole, prediction=replace(whole.prediction, refusals=(Refusal("unfamiliar", "distance", 9.0),)))
    assert field.left_out(doubt) == "no answer"
    blurred = Refusal("blurred", "sharpness", 0.1, low=0.5)
    refused = Scanner(classifier, judge=lambda seen, px: [blurred] if seen.shape == (448, 448, 3) and px else []).scan(
        pixels
    )
    assert refused.refusals == (blurred,) and len(refused.cells) == len(field.cells)
    assert {refused.left_out(cell) for cell in refused.cells} == {"field refused"}
    declined = replace(refused, refusals=(), cells=(doubt,))
    assert "no cell counted; 1 left out" in _counted(declined)
    assert "no white cell; 0 left out" in _counted(replace(declined, cells=()))
    told = refused.to_dict()
    assert told["refusals"][0]["reason"] == "blurred" and told["cells"][0]["left_out"] == "field refused"


def test_the_scale_is_given_or_measured_or_assumed(classifier: Classifier, pixels: np.ndarray) -> None:
    given = Scanner(classifier, um_per_px=0.25).scan(pixels)
    assert (given.red_cell_px, given.scale) == (RED_CELL_UM / 0.25, "given")
    assert given.cells[0].crop[2] == round(CROP_RED_CELLS * 30)
    lone = np.full((200, 200, 3), (245, 235, 240), np.uint8)
    rows, columns = np.mgrid[:200, :200]
    lone[(rows - 100) ** 2 + (columns - 100) ** 2 < 20**2] = (90, 40, 140)
    assumed = Scanner(classifier).scan(lone)
    assert assumed.scale == "nuclei" and assumed.red_cell_px == pytest.approx(40 / 1.25, rel=0.1)
    assert len(assumed.cells) == 1
    empty = Scanner(classifier).scan(np.full((200, 200, 3), 240, np.uint8))
    assert (empty.cells, empty.scale, empty.red_cell_px) == ((), "unknown", None)
    assert empty.to_dict()["cells"] == []
    with pytest.raises(UsageError, match=r"micrometres per pixel: got 0, expected 0\.02 to 1\.0"):
        Scanner(classifier, um_per_px=0)


def test_another_magnification_gives_the_same_cells(
    classifier: Classifier, field: FieldScan, pixels: np.ndarray
) -> None:
    for factor in (0.7, 1.5, 2.0):
        side = round(448 * factor)
        other = Scanner(classifier).scan(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
        assert other.red_cell_px == pytest.approx(field.red_cell_px * factor, rel=0.15)
        near = [
            min(np.hypot(*(np.array(cell.cell.centre) / factor - one.cell.centre)) for one in field.cells)
            for cell in other.cells
        ]
        assert len(other.cells) == pytest.approx(len(field.cells), abs=1)
        assert np.mean(np.array(near) < 5) > 0.85


def test_a_model_for_fields_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs a model for single cells: got all-subtypes.*blood-cells"):
        Scanner(Classifier.open("all-subtypes", threads=1))


def test_bad_pictures_are_the_classifiers_errors(classifier: Classifier) -> None:
    with pytest.raises(ImageError, match="no such file"):
        Scanner(classifier).scan("nowhere.jpg")


def test_json_holds_all_but_pixels(field: FieldScan) -> None:
    told = field.to_dict()
    assert [cell["number"] for cell in told["cells"]] == list(range(1, len(field.cells) + 1))
    cell = told["cells"][0]
    assert len(cell["heatmap"]) == 7 and cell["probabilities"].keys() == set(field.cells[0].prediction.probabilities)
    assert not {"pixels", "class_map"} & cell.keys()


@pytest.mark.parametrize(("area", "px"), [((0, 0, 1000, 700), 20.0), ((13, 7, 401, 3), 9.3), ((0, 0, 5, 5), 40.0)])
def test_cores_cover_an_area_once(area: tuple[int, int, int, int], px: float) -> None:
    left, top, width, height = area
    covered = np.zeros((height, width), int)
    for tile in plan_tiles(area, px):
        x, y, w, h = tile.core
        covered[y - top : y - top + h, x - left : x - left + w] += 1
        wx, wy, ww, wh = tile.window
        assert wx <= x and wy <= y and wx + ww >= x + w and wy + wh >= y + h
        assert max(ww, wh) <= round(20 * px) + 2
        assert wx == left or x - wx >= 2.5 * px  # a claimed cell's crop fits, unless the picture ends
    assert (covered == 1).all()


@pytest.fixture(scope="module")
def mosaic() -> np.ndarray:
    """A picture 3 x 2 fields large, too wide for one look."""
    sides = [[render_field("Pro", np.random.default_rng(10 * i + j), 448).pixels for j in range(3)] for i in range(2)]
    return np.concatenate([np.concatenate(row, axis=1) for row in sides])


def test_tiles_neither_lose_nor_double_cells(classifier: Classifier, mosaic: np.ndarray) -> None:
    """Against a look at the whole at twice the usual resolution, which no tile's border disturbs."""
    field = Scanner(classifier).scan(mosaic)
    assert max(field.width, field.height) > 40 * field.red_cell_px
    centres = np.array([cell.cell.centre for cell in field.cells])
    distances = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1)) + 1e9 * np.eye(len(centres))
    assert distances.min() > 0.4 * field.red_cell_px
    whole = np.array([cell.centre for cell in find_cells(mosaic).cells])
    nearest = np.hypot(*(whole[:, None] - centres[None]).transpose(2, 0, 1)).min(axis=1)
    assert (nearest < 0.6 * field.red_cell_px).mean() > 0.95
    assert len(centres) == pytest.approx(len(whole), rel=0.06)
    edge = [cell for cell in field.cells if cell.cell.cut]
    for cell in edge:
        left, top, width, height = cell.cell.box
        assert min(left, top, field.width - left - width, field.height - top - height) <= 3


def moved(cells: Iterator, right: float) -> list:
    return [replace(cell, centre=(cell.centre[0] + right, cell.centre[1])) for cell in cells]


def test_a_cell_is_met_once(mosaic: np.ndarray) -> None:
    cells = find_cells(mosaic[:448, :448]).cells
    tile = Tile((0, 0, 448, 448), (0, 0, 448, 448))
    once = Once()
    assert all(once.new(cell, tile) for cell in cells)
    assert not any(once.new(cell, tile) for cell in moved(iter(cells), 2.0))
    far_below = Tile((0, 1000, 448, 448), (0, 1000, 448, 448))
    assert once.new(cells[0], far_below)  # forgotten: no later tile reaches it
    assert Counter(claims(tile, cell, 20) for cell in cells)[True] == len(cells)
    assert not claims(Tile(tile.window, (0, 0, 1, 1)), replace(cells[0], centre=(20.0, 20.0)), 20)
