"""Augmentation changes what a microscope may change, and only that."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from train.augment import Augmentation, augment, blank_burnt_in, recompress
from train.render import render_cell

OFF = Augmentation(**{field.name: 0 for field in dataclasses.fields(Augmentation)})


def _cells(n: int = 8, px: int = 96) -> torch.Tensor:
    cells = [render_cell("monocyte", np.random.default_rng(seed), px).pixels for seed in range(n)]
    return torch.from_numpy(np.stack(cells))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_same_seed_same_pictures() -> None:
    cells = _cells()
    first, again, other = (augment(cells, 96, Augmentation(), _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pixels_stay_pixels_at_the_size_asked_for() -> None:
    out = augment(_cells(), 64, Augmentation(), _generator(0))
    assert out.shape == (8, 64, 64, 3) and out.dtype == torch.float32
    assert float(out.min()) >= 0 and float(out.max()) <= 255 and bool(torch.isfinite(out).all())


def test_without_strength_only_geometry_is_left() -> None:
    """All colour maps are the identity at strength zero: the mean colour of a turned picture hardly moves."""
    cells = _cells()
    out = augment(cells, 96, OFF, _generator(3))
    change = (out.mean((1, 2)) - cells.float().mean((1, 2))).abs().max()
    assert float(change) < 4


def test_stain_moves_colour_but_not_shape() -> None:
    cells = _cells()
    still = augment(cells, 96, OFF, _generator(4))
    stained = augment(cells, 96, dataclasses.replace(OFF, stain=0.15, hue=0.06), _generator(4))
    assert float((stained.mean((1, 2)) - still.mean((1, 2))).abs().mean()) > 2
    for a, b in zip(still.mean(3), stained.mean(3), strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9


def test_burnt_in_mark_is_covered_by_what_is_above_it() -> None:
    pixels = np.full((2, 100, 100, 3), 200, dtype=np.uint8)
    pixels[:, 90:95, 85:99] = 0
    out = blank_burnt_in(pixels, [(0.8, 0.84, 0.2, 0.16), None])
    assert (out[0] == 200).all()
    assert (out[1, 90:95, 85:99] == 0).all()
    assert (pixels[0, 90:95, 85:99] == 0).all(), "the input is left alone"


def test_recompression_touches_the_share_asked_for() -> None:
    cells = _cells(40, 64).numpy()
    changed = [(a != b).any() for a, b in zip(cells, recompress(cells, 0.5, np.random.default_rng(0)), strict=True)]
    assert 10 <= sum(changed) <= 30
    assert not (recompress(cells, 0.0, np.random.default_rng(0)) != cells).any()
