"""The schedule's numbers, and which pictures an epoch draws."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from train.sampling import draw_epoch
from train.schedule import FitConfig


def test_schedule() -> None:
    config = FitConfig(epochs=10, head_epochs=1, lr=1e-3, head_lr=2e-3, small_px=160)
    assert config.learning_rate(0.5) == 2e-3
    assert config.learning_rate(1.0) == pytest.approx(1e-4)
    assert config.learning_rate(2.0) == pytest.approx(0.97e-3, rel=0.01)
    assert config.learning_rate(9.99) < 1e-6
    assert [config.px(epoch, 224) for epoch in (0, 4, 5, 9)] == [160, 160, 224, 224]


TARGETS = np.repeat([0, 1], [900, 100])
SOURCES = np.concatenate([np.zeros(900, int), np.repeat([0, 1], [90, 10])])


def _share(config: FitConfig, chosen: np.ndarray) -> float:
    """Share of the draws that fall on `chosen` pictures, over ten epochs."""
    draws = np.concatenate([draw_epoch(TARGETS, SOURCES, config, epoch, 50).ravel() for epoch in range(10)])
    return float(chosen[draws].mean())


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_rare_classes_are_drawn_more_often(balance: float, share: float) -> None:
    """n^-b times n pictures: 100^(1 - b) against 900^(1 - b)."""
    assert _share(FitConfig(batch=20, balance=balance), TARGETS == 1) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("source_balance", "share"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_rare_sources_of_a_class_are_drawn_more_often(source_balance: float, share: float) -> None:
    config = FitConfig(batch=20, balance=1.0, source_balance=source_balance)
    within = _share(config, (TARGETS == 1) & (SOURCES == 1)) / _share(config, TARGETS == 1)
    assert within == pytest.approx(share, abs=0.02)


def test_every_picture_is_drawn_where_all_are_alike() -> None:
    config = FitConfig(batch=20, balance=0.0)
    drawn = draw_epoch(np.zeros(1000, int), np.zeros(1000, int), config, 0, 50)
    assert drawn.shape == (50, 20) and len(np.unique(drawn)) == 1000


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    first, again, later, other = (
        draw_epoch(TARGETS, SOURCES, FitConfig(seed=seed), epoch, 20)
        for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later) and not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("head_epochs", 12),
        ("head_epochs", -1),
        ("batch", 1),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("smoothing", 1.0),
        ("weight_decay", -0.1),
        ("ema_epochs", -1.0),
        ("small_px", 8),
        ("patience", 0),
        ("distill", 1.5),
        ("seed", -1),
    ],
)
def test_numbers_that_nobody_can_train_with_are_named(name: str, value: float) -> None:
    FitConfig().check()
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}"):
        FitConfig(**{name: value}).check()
