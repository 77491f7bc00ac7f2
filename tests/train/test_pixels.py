"""Caches of pixels and masks: one per preprocessing, each what the device would see, none computed twice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.cells import FINDER, central_cell
from edge_runtime.preprocess import Preprocess, decode, prepare
from train.errors import DataError
from train.index import Index, build_index
from train.pixels import load_cell_masks, load_pixels
from train.render import render_cell
from train.run_folder import Run
from train.tasks import TASKS

NEUTRAL = Preprocess(224, background="neutral-cell", stain="reinhard")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    task = TASKS["blood-cells"]
    for number, label in enumerate(task.labels):
        folder = tmp_path / "data" / "rendered" / label
        folder.mkdir(parents=True)
        Image.fromarray(render_cell(label, np.random.default_rng(number), 128).pixels).save(folder / "0.png")
    return build_index(task, tmp_path / "data", tmp_path / "index")


def caches(index: Index) -> list[str]:
    return sorted(re.sub("[0-9a-f]{12}", "ID", path.name) for path in index.folder.glob("*.npy"))


def test_every_preprocessing_has_its_own_cache(index: Index) -> None:
    assert caches(index) == ["pixels-224-ID.npy"]
    for preprocess in (NEUTRAL, Preprocess(96), Preprocess(96, background="neutral-cell")):
        pixels = load_pixels(index, preprocess)
        for row, found in zip(index.rows, pixels, strict=True):
            assert np.array_equal(found, prepare(decode(index.data / row.path), preprocess))
    assert caches(index) == [
        "pixels-224-ID.npy",
        f"pixels-224-neutral-cell{FINDER}-reinhard-ID.npy",
        "pixels-96-ID.npy",
        f"pixels-96-neutral-cell{FINDER}-ID.npy",
    ]


def test_nothing_is_decoded_or_computed_twice(index: Index) -> None:
    (index.data / index.rows[0].path).unlink()
    first = load_pixels(index, NEUTRAL)
    (written,) = index.folder.glob("*reinhard*.npy")
    moment = written.stat().st_mtime_ns
    assert np.array_equal(load_pixels(index, NEUTRAL), first) and written.stat().st_mtime_ns == moment
    with pytest.raises(DataError, match="changed since it was indexed"):
        load_pixels(index, Preprocess(96))


def test_masks_are_those_of_the_pixels_as_they_came(index: Index) -> None:
    masks = load_cell_masks(index, NEUTRAL)
    assert caches(index) == [f"cells{FINDER}-224-ID.npy", "pixels-224-ID.npy"]
    assert masks.dtype == np.bool_ and masks.shape == (len(index.rows), 224, 224)
    for found, pixels in zip(masks, load_pixels(index), strict=True):
        assert np.array_equal(found, central_cell(np.array(pixels)).cell)
    assert masks.any(axis=(1, 2)).all()


def _short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def _other(file: Path) -> None:
    np.save(file, np.zeros((3, 224, 224, 3), dtype=np.uint8))


def _floats(file: Path) -> None:
    np.save(file, np.load(file).astype(np.float32))


def _header(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"'descr'", b"'descr(", 1))


@pytest.mark.parametrize("damage", [_short, _other, _floats, _header, lambda file: file.write_bytes(b"")])
def test_a_damaged_cache_is_made_again(damage: Callable[[Path], object], index: Index) -> None:
    neutral = Preprocess(224, background="neutral-cell")
    plain, changed, masks = (np.array(found) for found in (
        load_pixels(index), load_pixels(index, neutral), load_cell_masks(index),
    ))  # fmt: skip
    for file in index.folder.glob("*.npy"):
        damage(file)
    assert np.array_equal(load_pixels(index, neutral), changed)
    assert np.array_equal(load_pixels(index), plain) and load_pixels(index).dtype == np.uint8
    assert np.array_equal(load_cell_masks(index), masks)


def stated(info: dict[str, object]) -> Preprocess:
    return Run(Path("run"), None, TASKS["blood-cells"], {"input_px": 299} | info).preprocess  # type: ignore[arg-type]


def test_a_run_states_its_preprocessing() -> None:
    assert stated({}) == Preprocess(299)
    assert stated({"input_px": 224, "preprocess": dataclasses.asdict(NEUTRAL)}) == NEUTRAL


@pytest.mark.parametrize(
    ("entry", "says"),
    [({"input_px": 9, "stain": "macenko"}, "got 'macenko'"), ({"gamma": 2}, "gamma"), ([1], "mapping")],
)
def test_an_unknown_preprocessing_of_a_run_is_named(entry: object, says: str) -> None:
    with pytest.raises(DataError, match=f"run.json: preprocess: got .*{says}"):
        stated({"preprocess": entry})
