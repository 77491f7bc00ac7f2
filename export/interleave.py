"""Interleave: time several ways of doing the same thing in one process, in turns, so that drift hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Latency:
    """Times of one way.

    Attributes:
        p50_ms: median, milliseconds.
        p90_ms: 90 % quantile.
        p99_ms: 99 % quantile.
        samples: how many runs.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples: int


def interleave(
    ways: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 10
) -> dict[str, npt.NDArray[np.float64]]:
    """Run every way once per round, in an order shuffled anew each round.

    Args:
        ways: name -> what to time.
        rounds: timed runs of each.
        warmup: untimed runs of each before.

    Returns:
        name -> (rounds,) milliseconds; entry i of all ways was measured within one round.
    """
    from tqdm import tqdm

    random = np.random.default_rng(0)
    for way in ways.values():
        for _ in range(warmup):
            way()
    names = list(ways)
    times = {name: np.empty(rounds) for name in names}
    for i in tqdm(range(rounds), desc="latency", unit="round", leave=False, disable=None):
        for j in random.permutation(len(names)):
            started = time.perf_counter_ns()
            ways[names[j]]()
            times[names[j]][i] = (time.perf_counter_ns() - started) / 1e6
    return times


def latency(times: npt.NDArray[np.float64]) -> Latency:
    """Summarise (rounds,) milliseconds."""
    p50, p90, p99 = np.percentile(times, (50, 90, 99))
    return Latency(float(p50), float(p90), float(p99), len(times))


def ratio(
    times: npt.NDArray[np.float64], base: npt.NDArray[np.float64], resamples: int = 2000
) -> tuple[float, float, float]:
    """Compare medians of interleaved times, with a paired bootstrap over the rounds.

    Args:
        times: (rounds,) milliseconds.
        base: (rounds,) milliseconds of the same rounds.
        resamples: of the bootstrap.

    Returns:
        median(times) / median(base), and its 95 % interval.
    """
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(times), (resamples, len(times)))
    ratios = np.median(times[drawn], axis=1) / np.median(base[drawn], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(np.median(times) / np.median(base)), float(low), float(high)
