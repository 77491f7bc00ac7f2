"""Calibration: which pictures tell the quantizer how wide activations get. From the training split alone.

What comes in is an index and a protocol; what goes out is a `CalibrationSet`: row numbers, balanced over the classes
and drawn by a seed, and the hash that the manifest records. No picture of validation or test, and no near duplicate of
one, is ever in it: candidates too close to a held-out picture are passed over when drawing, and `check` proves it
afterwards from the index alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.index import NEAR_DUPLICATE_BITS, Index

from .errors import ExportError
from .recipes import CALIBRATION_IMAGES

SPLIT = "train"
HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class CalibrationSet:
    """Pictures chosen for calibration.

    Attributes:
        numbers: rows of the index, sorted.
        per_class: label -> how many.
        sha256: of the sorted hashes of the pictures, one a line.
        seed: that drew them.
        too_close: training pictures that could not be drawn because a held-out picture is a near duplicate.
    """

    numbers: tuple[int, ...]
    per_class: dict[str, int]
    sha256: str
    seed: int
    too_close: int


def choose_calibration(index: Index, protocol: str, images: int = CALIBRATION_IMAGES, seed: int = 0) -> CalibrationSet:
    """Draw a calibration set, the same for the same index, seed and number.

    Args:
        index: with splits.
        protocol: whose training split.
        images: how many; fewer where the training split has fewer.
        seed: of the draw.

    Raises:
        ExportError: a class has no training picture that is not a near duplicate of a held-out one.
    """
    labels = index.task.labels
    if images < len(labels):
        raise ExportError("too few calibration images", got=images, expected=f"at least one per class, {len(labels)}")
    candidates = index.select(protocol, SPLIT)
    close = near_held_out(index, protocol, candidates)
    free = [i for i, near in zip(candidates, close, strict=True) if not near]
    random = np.random.default_rng(seed)
    queues: dict[str, list[int]] = {}
    for label in labels:
        rows = sorted((i for i in free if index.rows[i].label == label), key=lambda i: index.rows[i].key)
        if not rows:
            raise ExportError(
                f"no calibration images of {label}",
                got="every training picture is a near duplicate of a held-out one",
                todo="split with another seed: python -m train split",
            )
        queues[label] = [rows[place] for place in random.permutation(len(rows))]
    chosen: list[int] = []
    while len(chosen) < images and any(queues.values()):  # in turn: a rare class gives what it has, others fill up
        for queue in queues.values():
            if queue and len(chosen) < images:
                chosen.append(queue.pop())
    return describe(index, chosen, seed, int(close.sum()))


def describe(index: Index, numbers: list[int], seed: int, too_close: int = 0) -> CalibrationSet:
    """Count and hash chosen rows."""
    keys = "\n".join(sorted(index.rows[i].key for i in numbers))
    counts = Counter(index.rows[i].label for i in numbers)
    return CalibrationSet(
        tuple(sorted(numbers)),
        {label: counts[label] for label in index.task.labels},
        hashlib.sha256(keys.encode()).hexdigest(),
        seed,
        too_close,
    )


def overlap(index: Index, protocol: str, chosen: CalibrationSet) -> int:
    """Count the calibration pictures that are, or nearly duplicate, one outside the training split.

    By file hash (so that a picture listed twice counts), by row, and by perceptual hash.
    """
    held_out = {index.rows[i].sha256 for split in HELD_OUT for i in index.select(protocol, split)}
    outside = set(range(len(index.rows))) - set(index.select(protocol, SPLIT))
    numbers = list(chosen.numbers)
    near = near_held_out(index, protocol, numbers)
    return sum(
        i in outside or index.rows[i].sha256 in held_out or bool(close) for i, close in zip(numbers, near, strict=True)
    )


def check(index: Index, protocol: str, chosen: CalibrationSet) -> None:
    """Refuse a calibration set that touches validation or test.

    Raises:
        ExportError: it does.
    """
    found = overlap(index, protocol, chosen)
    if found:
        raise ExportError(
            "the calibration set touches validation or test",
            got=f"{found} of {len(chosen.numbers)} pictures",
            expected="none, also no near duplicate",
        )


def near_held_out(index: Index, protocol: str, numbers: list[int]) -> npt.NDArray[np.bool_]:
    """Tell which rows are within `NEAR_DUPLICATE_BITS` of a validation or test picture: (N,) bool."""
    held_out = [i for split in HELD_OUT for i in index.select(protocol, split)]
    together = bytes.fromhex("".join(row.phash for row in index.rows))
    hashes = np.frombuffer(together, np.uint8).reshape(len(index.rows), -1)  # (rows, 32)
    others = hashes[held_out]
    close = np.zeros(len(numbers), dtype=bool)
    for place, i in enumerate(numbers):
        bits = np.unpackbits(hashes[i] ^ others, axis=1).sum(1)  # (held out,) of 256
        close[place] = bits.min() <= NEAR_DUPLICATE_BITS
    return close
