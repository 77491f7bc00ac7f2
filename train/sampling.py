"""Sampling: which training pictures an epoch shows, and in which order.

Rare classes - and, if asked, rare sources within a class - are drawn more often. All chance comes from (seed, epoch),
so every process of a run, and a run that is resumed, draws the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .schedule import FitConfig

Numbers = npt.NDArray[np.int64]


def draw_epoch(targets: Numbers, sources: Numbers, config: FitConfig, epoch: int, steps: int) -> Numbers:
    """Draw an epoch's pictures.

    Args:
        targets: (N,) class numbers of the training pictures.
        sources: (N,) source numbers of them.
        config: ``batch``, ``balance``, ``source_balance``, ``seed``.
        epoch: from 0.
        steps: batches to draw.

    Returns:
        (steps, batch) positions 0..N-1.
    """
    random = np.random.default_rng((config.seed, epoch))
    per_class = np.bincount(targets)[targets].astype(float)
    both = targets * (sources.max() + 1) + sources
    share = np.bincount(both)[both] / per_class
    weight = per_class**-config.balance * share**-config.source_balance
    # systematic sampling: a picture of expected count 1.3 is drawn once or twice, never by accident not at all
    order = random.permutation(len(targets))
    expected = np.cumsum(weight[order]) / weight.sum() * steps * config.batch
    ticks = np.arange(steps * config.batch) + random.random()
    drawn = order[np.searchsorted(expected, ticks, side="right").clip(max=len(order) - 1)]
    shuffled: Numbers = random.permutation(drawn)
    return shuffled.reshape(steps, config.batch)
