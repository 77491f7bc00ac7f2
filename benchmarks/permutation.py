"""Permutation: is B slower than A? Paired times of many pairs of processes in, a `Finding` out. Pure arithmetic.

Where the noise is decides the test. Two processes of the very same code differ for good (addresses, hash seeds: 0.1 to
0.6 %), rounds differ by what else the machine does (3 % when it is busy), and runs within a turn are alike. More
rounds of the same two processes can therefore prove a difference that is not the code's. So the unit is the block: a
fresh process of A and one of B that take turns in several rounds. A block's effect is the median over its rounds of
log(median of B's turn / median of A's turn), which no single disturbed turn moves. If A and B are alike, each effect
could as well have the other sign, and blocks are independent of each other, which rounds are not. That is all the test
assumes: the effects' signed-rank sum is compared with that of all 2^n changes of sign, exactly. Ranks find 5 % as often
as means do, in recorded noise and in heavier tails, and their interval can be counted. Differences below `MARGIN` are
nobody's business: the test is whether B is slower than A by more than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.01
"""Probability of a false alarm, both directions together, at most; and 1 - confidence of the interval."""

MARGIN = 0.01
"""A difference of this share or less is taken for none."""

EFFECT = 0.05
"""The difference that is to be found."""

LEAST_BLOCKS = 8
"""With fewer blocks no outcome is as improbable as `LEVEL`: 2 / 2^7 is more, 2 / 2^8 is less."""

VERDICTS = {
    "slower": "slower",
    "faster": "faster",
    "same": f"no difference of {100 * EFFECT:g} % found",
    "unknown": "cannot tell",
}
"""Verdict -> in words."""


@dataclass(frozen=True)
class Finding:
    """What the times say.

    Attributes:
        verdict: of `VERDICTS`.
        ratio: time of B / time of A.
        low: of the interval that holds the ratio with probability 1 - `LEVEL`; 0 where blocks are too few.
        high: likewise; infinite where blocks are too few.
        p: probability of effects like these where B differs from A by no more than `MARGIN`.
        blocks: how many there were.
        needed_blocks: about how many would give a verdict; `blocks` where these did.
    """

    verdict: str
    ratio: float
    low: float
    high: float
    p: float
    blocks: int
    needed_blocks: int


def effects(a_ms: npt.NDArray[np.float64], b_ms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the logarithm of B / A of each block.

    Args:
        a_ms: (blocks, rounds, runs) > 0, milliseconds of A.
        b_ms: (blocks, rounds, runs) > 0, of B, in the same rounds.

    Returns:
        (blocks,) float64.
    """
    turns = np.log(np.median(b_ms, axis=2)) - np.log(np.median(a_ms, axis=2))  # (blocks, rounds)
    return np.asarray(np.median(turns, axis=1), np.float64)


def judge(found: npt.NDArray[np.float64]) -> Finding:
    """Say what the blocks' effects mean.

    Args:
        found: (blocks,) finite, of `effects`; at least one.
    """
    count = len(found)
    first, second = np.triu_indices(count)
    means = np.sort((found[first] + found[second]) / 2)  # of all pairs, each block with itself, too
    chance = chances(count)
    # The signed-rank sum of `found - x` is the number of means above x: the test of every x is in this sorted list.
    above = int((means > math.log1p(MARGIN)).sum())
    below = int((means < -math.log1p(MARGIN)).sum())
    p = min(1.0, 2 * float(chance[len(means) - max(above, below)]))
    outside = int((2 * chance <= LEVEL).sum())  # so many means on either side lie outside the interval or bound it
    low, high = (means[outside - 1], means[-outside]) if outside else (-math.inf, math.inf)
    margin, effect = math.log1p(MARGIN), math.log1p(EFFECT)
    if low > margin:
        verdict = "slower"
    elif high < -margin:
        verdict = "faster"
    elif -effect < low and high < effect:
        verdict = "same"
    else:
        verdict = "unknown"
    needed = count if verdict != "unknown" else _needed(count, (high - low) if outside else float(np.ptp(found)))
    low, ratio, high = (float(np.exp(value)) for value in (low, np.median(means), high))
    return Finding(verdict, ratio, low, high, p, count, needed)


def chances(count: int) -> npt.NDArray[np.float64]:
    """Return the probability of a signed-rank sum of at most 0, 1, ... when all signs are equally probable.

    Args:
        count: of effects, 1 or more.

    Returns:
        (count * (count + 1) / 2 + 1,) float64, rising to 1.
    """
    ways = np.ones(1)
    for rank in range(1, count + 1):  # the rank is in the sum or is not
        ways = (np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))) / 2
    return np.asarray(np.minimum(np.cumsum(ways), 1.0), np.float64)


def _needed(count: int, width: float) -> int:
    """Estimate the blocks that make the interval too narrow for both `MARGIN` and `EFFECT`; it shrinks as 1 / root."""
    room = math.log1p(EFFECT) - math.log1p(MARGIN)
    return max(LEAST_BLOCKS, count + 1, math.ceil(count * (width / room) ** 2))
