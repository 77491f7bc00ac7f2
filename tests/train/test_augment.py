"""Augmentation changes what a microscope may change, and only that."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from train.augment import AUGMENTATIONS, Augmentation, Chance, augment, blank_burnt_in, recompress, replace_background
from train.render import render_cell

OFF = AUGMENTATIONS["none"]
TURNED = dataclasses.replace(OFF, turn=0.5, mirror=0.5)


def _cells(n: int = 8, px: int = 96) -> torch.Tensor:
    cells = [render_cell("monocyte", np.random.default_rng(seed), px).pixels for seed in range(n)]
    return torch.from_numpy(np.stack(cells))


def _chance(seed: int, batch: int = 8, rows: slice = slice(None)) -> Chance:
    return Chance((seed,), batch, rows, torch.device("cpu"))


def test_same_seed_same_pictures() -> None:
    cells = _cells()
    first, again, other = (augment(cells, 96, Augmentation(), _chance(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pixels_stay_pixels_at_the_size_asked_for() -> None:
    out = augment(_cells(), 64, Augmentation(), _chance(0))
    assert out.shape == (8, 64, 64, 3) and out.dtype == torch.float32
    assert float(out.min()) >= 0 and float(out.max()) <= 255 and bool(torch.isfinite(out).all())


def test_a_picture_is_changed_alike_however_many_processes_share_the_batch() -> None:
    cells = _cells()
    whole = augment(cells, 96, Augmentation(), _chance(5))
    halves = [augment(cells[rows], 96, Augmentation(), _chance(5, 8, rows)) for rows in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(torch.cat(halves), whole, atol=1e-3, rtol=0)
    pressed = recompress(cells.numpy(), 0.5, _chance(6))
    half = recompress(cells[4:].numpy(), 0.5, _chance(6, 8, slice(4, 8)))
    assert (pressed[4:] == half).all()


def test_no_strength_changes_nothing() -> None:
    cells = _cells()
    torch.testing.assert_close(
        augment(cells, 96, OFF, _chance(3)), cells.float(), atol=1.01, rtol=0
    )  # black is level 1 in optical density


def test_a_turned_picture_keeps_its_colours() -> None:
    cells = _cells()
    out = augment(cells, 96, TURNED, _chance(3))
    assert float((out - cells).abs().mean()) > 4
    change = (out.mean((1, 2)) - cells.float().mean((1, 2))).abs().max()
    assert float(change) < 4


def test_stain_moves_colour_but_not_shape() -> None:
    cells = _cells()
    still = augment(cells, 96, TURNED, _chance(4))
    stained = augment(cells, 96, dataclasses.replace(TURNED, stain=0.15, hue=0.06), _chance(4))
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
    changed = [(a != b).any() for a, b in zip(cells, recompress(cells, 0.5, _chance(0, 40)), strict=True)]
    assert 10 <= sum(changed) <= 30
    assert not (recompress(cells, 0.0, _chance(0, 40)) != cells).any()


def test_a_blurred_picture_is_smoother_and_the_others_are_left() -> None:
    cells = _cells(40)
    out = augment(cells, 96, dataclasses.replace(OFF, blur_sigma=1.5), _chance(2, 40))
    rough = [(p.diff(dim=1).abs().mean()).item() for p in (cells.float(), out)]
    change = (out - cells).abs().amax((1, 2, 3))
    assert rough[1] < rough[0]
    assert 5 <= int((change > 1.5).sum()) <= 25  # resampling moves single pixels by one level


def test_noise_has_the_strength_asked_for_and_differs_between_pictures() -> None:
    grey = torch.full((64, 96, 96, 3), 128, dtype=torch.uint8)
    noise = augment(grey, 96, dataclasses.replace(OFF, noise=6.0), _chance(0, 64)) - 128
    spread = noise.std((1, 2, 3))
    assert float(spread.max()) <= 6.5 and float(spread.min()) < 0.5
    loud = noise[spread > 1].flatten(1)
    correlation = torch.corrcoef(loud) - torch.eye(len(loud))
    assert float(correlation.abs().max()) < 0.1


def test_a_cell_is_put_on_another_pictures_background() -> None:
    """The cell stays to the grey level, what is around it becomes the donor's, and the donor's cell is not copied."""
    pixels = torch.full((3, 40, 40, 3), 220, dtype=torch.uint8)
    pixels[:, 12:28, 12:28] = 60
    donors = torch.full((3, 40, 40, 3), 180, dtype=torch.uint8)
    donors[:, 8:32, 8:32] = 10
    masks, donor_masks = (torch.zeros(3, 40, 40, dtype=torch.bool) for _ in range(2))
    masks[:, 12:28, 12:28] = donor_masks[:, 8:32, 8:32] = True
    masks[2] = False  # no cell was found
    out = replace_background(pixels, masks, donors, donor_masks, torch.tensor([True, False, True]))
    assert bool((out[0, 15:25, 15:25] == 60).all())
    outside = ~masks[0]
    outside[10:30, 10:30] = False  # the soft edge
    assert bool((out[0][outside] == 180).all())
    assert torch.equal(out[1:], pixels[1:])
