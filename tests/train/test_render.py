"""The renderer: same seed, same bytes; masks agree with pixels; classes differ in shape, not only in hue."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from edge_runtime.errors import UsageError
from train.morphology import MORPHOLOGIES
from train.render import RENDERERS, Rendering, add_arguments, render_cell, render_field, run, write_rendered
from train.smears import CELL_LABELS, CELL_MIXES, FIELDS, STAINS
from train.tasks import TASKS

CELL_PX, FIELD_PX = 128, 224
EVERY_LABEL = [("cell", label) for label in (*CELL_LABELS, *CELL_MIXES)] + [("field", label) for label in FIELDS]


def render(kind: str, label: str, seed: int) -> Rendering:
    return RENDERERS[kind][0](label, np.random.default_rng(seed), CELL_PX if kind == "cell" else FIELD_PX)


def solidity(mask: np.ndarray) -> float:
    """Area / area of the convex hull (of 32 directions): near 1 for a disc, lower for lobes and kidneys."""
    ys, xs = np.nonzero(mask)
    grid_y, grid_x = np.nonzero(np.ones_like(mask))
    inside = np.ones(grid_y.size, bool)
    for turn in np.linspace(0, np.pi, 32, endpoint=False):
        c, s = np.cos(turn), np.sin(turn)
        span, place = c * xs + s * ys, c * grid_x + s * grid_y
        inside &= (place >= span.min()) & (place <= span.max())
    return float(mask.sum() / inside.sum())


def test_every_class_of_every_task_can_be_rendered() -> None:
    assert TASKS["blood-cells"].labels == CELL_LABELS
    for task in TASKS.values():
        assert set(task.labels) <= set(RENDERERS[task.kind][1]), task.name
    for mix in CELL_MIXES.values():
        assert set(mix) <= set(CELL_LABELS)
    for field in FIELDS.values():
        assert field.stain in STAINS and set(field.mix) <= set(MORPHOLOGIES)


@pytest.mark.parametrize(("kind", "label"), EVERY_LABEL)
def test_same_seed_same_bytes_other_seed_other_picture(kind: str, label: str) -> None:
    first, again, other = render(kind, label, 3), render(kind, label, 3), render(kind, label, 4)
    for name in ("pixels", "nucleus", "cell"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert np.abs(first.pixels.astype(int) - other.pixels).mean() > 3


@pytest.mark.parametrize(("kind", "label"), EVERY_LABEL)
def test_masks_agree_with_pixels(kind: str, label: str) -> None:
    for seed in range(3):
        picture = render(kind, label, seed)
        px = CELL_PX if kind == "cell" else FIELD_PX
        assert picture.pixels.shape == (px, px, 3) and picture.pixels.dtype == np.uint8
        assert picture.nucleus.shape == picture.cell.shape == (px, px)
        assert picture.nucleus.dtype == picture.cell.dtype == bool
        assert not (picture.nucleus & ~picture.cell).any(), "nucleus outside its cell"
        assert 0.008 < picture.cell.mean() < 0.55
        green = picture.pixels[..., 1].astype(float)  # all dyes absorb green
        assert green[picture.cell].mean() < np.percentile(green, 90) - 15, "cells are darker than the background"
        if label == "platelet":
            assert not picture.nucleus.any()
        else:
            assert picture.nucleus.sum() > 0.2 * picture.cell.sum()
            assert green[picture.nucleus].mean() < np.percentile(green, 90) - 35


def test_crop_masks_hold_only_the_cell_in_the_middle() -> None:
    for label in CELL_LABELS:
        for seed in range(4):
            cell = render("cell", label, seed).cell
            largest = np.bincount(ndimage.label(cell)[0][cell]).max() / cell.sum()
            assert largest > 0.9, (label, seed)
            assert np.hypot(*(np.array(ndimage.center_of_mass(cell)) - CELL_PX / 2)) < 0.15 * CELL_PX


def test_a_neighbour_at_the_border_of_a_crop_is_seen_but_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    def dark_outside(company: float, seed: int) -> float:
        monkeypatch.setitem(MORPHOLOGIES, "blast", replace(MORPHOLOGIES["blast"], company=company))
        picture = render("cell", "blast", seed)
        assert ndimage.label(picture.cell)[1] == 1, "one cell in the mask"
        around = ~ndimage.binary_dilation(picture.cell, iterations=3)
        return float((picture.pixels[..., 1][around] < 110).mean())

    alone, crowded = (np.mean([dark_outside(company, seed) for seed in range(6)]) for company in (0.0, 4.0))
    assert crowded > alone + 0.05


def test_classes_differ_in_shape_whatever_the_colour() -> None:
    def mean(measure, label: str, count: int = 8) -> float:
        return float(np.mean([measure(render("cell", label, 100 + seed)) for seed in range(count)]))

    def nuclear_solidity(picture: Rendering) -> float:
        return solidity(picture.nucleus)

    def nuclear_share(picture: Rendering) -> float:
        return picture.nucleus.sum() / picture.cell.sum()

    def area(picture: Rendering) -> float:
        return picture.cell.mean()

    assert mean(nuclear_solidity, "neutrophil") < mean(nuclear_solidity, "lymphocyte") - 0.1
    assert mean(nuclear_solidity, "eosinophil") < mean(nuclear_solidity, "erythroblast") - 0.05
    assert mean(nuclear_solidity, "monocyte") < mean(nuclear_solidity, "lymphocyte") - 0.05
    assert mean(nuclear_share, "blast") > mean(nuclear_share, "neutrophil") + 0.25
    assert mean(area, "platelet") < mean(area, "lymphocyte") < mean(area, "neutrophil") < mean(area, "blast")


def test_fields_differ_in_how_many_leukocytes_they_show() -> None:
    share = {label: np.mean([render("field", label, seed).cell.mean() for seed in range(3)]) for label in FIELDS}
    assert share["Pre"] > 2 * max(share["Benign"], share["Early"], share["Pro"])


def test_size_of_a_cell_does_not_depend_on_the_picture_size() -> None:
    small, large = (render_cell("erythroblast", np.random.default_rng(5), px).cell.mean() for px in (96, 256))
    assert small == pytest.approx(large, rel=0.05)


@pytest.mark.parametrize(("call", "label", "px"), [
    (render_cell, "Benign", 128),
    (render_field, "blast", 128),
    (render_cell, "blast", 8),
    (render_field, "Pro", 100_000),
])  # fmt: skip
def test_unknown_label_or_side_is_refused(call, label: str, px: int) -> None:
    with pytest.raises(UsageError):
        call(label, np.random.default_rng(0), px)


def test_write_rendered_layout(tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []

    def progress(work):
        seen.extend(work)
        return work

    write_rendered(out, ("platelet", "smudge cell"), 2, seed=1, kind="cell", px=96, progress=progress)
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*.png"))
    pictures = [f"{label}/{n:04d}.png" for label in ("platelet", "smudge cell") for n in range(2)]
    assert names == sorted(pictures + [f"masks/{name}" for name in pictures])
    assert len(seen) == 4
    mask = np.asarray(Image.open(out / "masks" / "smudge cell" / "0000.png"))
    assert Image.open(out / pictures[0]).mode == "RGB" and mask.shape == (96, 96)
    assert set(np.unique(mask)) <= {0, 128, 255} and 255 in mask


def test_a_picture_depends_on_seed_label_and_number_only(tmp_path: Path) -> None:
    write_rendered(tmp_path / "one", ("lymphocyte",), 1, seed=9, kind="cell", px=96)
    write_rendered(tmp_path / "two", ("platelet", "lymphocyte"), 2, seed=9, kind="cell", px=96)
    name = Path("lymphocyte") / "0000.png"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_write_rendered_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty") as caught:
        write_rendered(tmp_path, ("platelet",), 1, seed=0, kind="cell", px=96)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "change", [{"kind": "film"}, {"per_label": 0}, {"seed": -1}, {"labels": ("blasts",)}, {"px": 1}]
)
def test_write_rendered_refuses_bad_arguments_before_it_writes(tmp_path: Path, change: dict) -> None:
    good = {"labels": ("platelet",), "per_label": 1, "seed": 0, "kind": "cell", "px": 96}
    with pytest.raises(UsageError):
        write_rendered(tmp_path / "out", **{**good, **change})
    assert not (tmp_path / "out").exists()


def test_command_line_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = ["--task", "all-subtypes", "--per-class", "1", "--px", "64", "--out", str(tmp_path / "out")]
    run(parser.parse_args(options))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["Benign", "Early", "Pre", "Pro", "masks"]
    assert capsys.readouterr().out == "", "progress goes to stderr"
    with pytest.raises(UsageError):
        run(parser.parse_args(options))
