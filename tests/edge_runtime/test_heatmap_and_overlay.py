"""The heatmap is ReLU of the class map at peak 1, and the overlay is a picture that says what it shows."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import smear
from PIL import Image, ImageFont

from edge_runtime.classifier import Classifier, Prediction
from edge_runtime.errors import OutputError
from edge_runtime.heatmap import Placement, heatmap
from edge_runtime.overlay import SIDE_PX, colours, contour, overlay, save_overlay
from edge_runtime.refusal import Refusal

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def prediction(valid_bundle: Path) -> Prediction:
    """Return the answer to a drawn field."""
    return Classifier.open(valid_bundle).classify(smear(96, 7))


def test_the_heatmap_is_the_closed_form() -> None:
    class_map = RNG.normal(size=(4, 6, 3)).astype(np.float32)
    for k in range(3):
        positive = np.maximum(class_map[..., k], 0)
        shown = heatmap(class_map, k)
        assert shown.shape == (4, 6) and shown.dtype == np.float32
        assert np.allclose(shown, positive / positive.max(), atol=1e-7) and shown.max() == 1


def test_the_heatmap_ignores_the_scale_of_the_map_but_not_its_sign() -> None:
    class_map = RNG.normal(size=(4, 4, 2)).astype(np.float32)
    assert np.allclose(heatmap(class_map, 1), heatmap(class_map * np.float32(7.5), 1), atol=1e-6)
    assert not np.allclose(heatmap(class_map, 1), heatmap(-class_map, 1))


def test_without_evidence_the_heatmap_is_zero_and_finite() -> None:
    for value in (0.0, -3.0):
        assert not heatmap(np.full((4, 4, 2), value, np.float32), 0).any()
    tiny = np.full((2, 2, 1), np.float32(1e-45))
    assert np.isfinite(heatmap(tiny, 0)).all()


def test_cells_are_laid_where_they_look() -> None:
    small = np.array([[0, 1], [1, 0]], np.float32)
    large = Placement.grid(2, 8).enlarge(small, 8)
    assert large.shape == (8, 8) and large.dtype == np.float32
    assert large.min() >= 0 and large.max() <= 1
    assert np.allclose(large, large.T) and large[0, 0] == 0 and large[0, -1] == 1
    assert np.allclose(Placement.grid(3, 30).enlarge(np.full((3, 3), 0.25, np.float32), 10), 0.25)
    spot = np.zeros((7, 7), np.float32)
    spot[3, 2] = 1
    for first_px, px in ((0.5, 224), (16.0, 224), (0.5, 448)):
        found = Placement(first_px, 32.0, 224).enlarge(spot, px)
        y, x = ((found.sum(axis) @ (np.arange(px) + 0.5)) / found.sum() * 224 / px for axis in (1, 0))
        assert (x, y) == pytest.approx((first_px + 64, first_px + 96), abs=0.01)


def test_a_grid_is_what_resizing_gives() -> None:
    values = np.random.default_rng(0).random((7, 7), dtype=np.float32)
    resized = np.asarray(Image.fromarray(values).resize((224, 224), Image.Resampling.BILINEAR))
    assert np.abs(Placement.grid(7, 224).enlarge(values, 224) - resized).max() < 1e-5


def test_the_colour_map_rises_evenly_in_lightness() -> None:
    table = colours(np.linspace(0, 1, 101, dtype=np.float32)) / 255
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)  # sRGB, IEC 61966-2-1
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)  # CIE 1976 L*
    steps = np.diff(lightness)
    assert (steps > 0).all() and steps.max() < 3 * steps.mean()
    assert colours(np.array([-1.0, 2.0], np.float32)).tolist() == [[0, 0, 4], [252, 255, 164]]


def test_the_overlay_shows_the_pixels_the_heatmap_and_the_words(prediction: Prediction) -> None:
    hot = np.zeros((4, 4), np.float32)
    hot[0, 0] = 1
    picture = np.asarray(overlay(replace(prediction, heatmap=hot))).astype(int)
    assert picture.shape[2] == 3 and picture.shape[0] > SIDE_PX and picture.shape[1] > 2 * SIDE_PX
    left, right = picture[8 : 8 + SIDE_PX, 8 : 8 + SIDE_PX], picture[8 : 8 + SIDE_PX, SIDE_PX + 16 : 2 * SIDE_PX + 16]
    seen = Image.fromarray(prediction.pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    assert np.abs(left - np.asarray(seen)).max() == 0
    assert right[:50, :50].mean() > right[-50:, -50:].mean() + 50  # hot is light, cold is dark
    assert (picture[SIDE_PX + 16 :] < 100).any()  # there are words


def test_the_overlay_says_that_there_is_no_answer(prediction: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("edge_runtime.overlay.write_line", lambda draw, place, line, size=14: lines.append(line))
    refusal = Refusal("blurred", "sharpness", 0.21, low=0.3)
    refused = overlay(replace(prediction, refusals=(refusal,)))
    assert f"NO ANSWER: {refusal.text}" in lines
    assert any(line.startswith(f"would have said: {prediction.label} ") for line in lines)
    lines.clear()
    assert overlay(prediction).height < refused.height
    assert not any("NO ANSWER" in line or "would have said" in line for line in lines)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".PNG"])
def test_overlays_are_written_whole(prediction: Prediction, tmp_path: Path, suffix: str) -> None:
    save_overlay(prediction, tmp_path / f"a{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]
    with Image.open(tmp_path / f"a{suffix}") as picture:
        picture.load()


def test_overlays_that_cannot_be_written_are_one_line(prediction: Prediction, tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "a.xyz", "not a picture's name"),
        (tmp_path / "none" / "a.png", "cannot be written"),
    ):
        with pytest.raises(OutputError, match=says):
            save_overlay(prediction, path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        save_overlay(prediction, tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_labels_of_any_script_are_drawn_with_any_font(prediction: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = replace(prediction, label="良性", degraded=True)
    overlay(foreign)
    bitmap = ImageFont.load_default_imagefont()
    monkeypatch.setattr(ImageFont, "load_default", lambda size=None: bitmap)
    overlay(foreign).save(io.BytesIO(), "PNG")


def test_contour_is_the_rim_of_what_reaches_half() -> None:
    values = np.zeros((9, 9), dtype=np.float32)
    values[2:7, 2:7] = 0.5
    expected = np.zeros((9, 9), dtype=bool)
    expected[2:7, 2:7] = True
    expected[3:6, 3:6] = False
    assert np.array_equal(contour(values), expected)
    assert not contour(np.ones((5, 5), dtype=np.float32)).any()  # the picture's edge is no rim
    values[4, 4] = 2
    assert contour(values).sum() == 1  # the level is a share of the peak
    assert not contour(np.zeros((5, 5), dtype=np.float32)).any()
