"""Audit: what a network rests on, asked by changing one thing in its pictures at a time.

What comes in is an evaluated run and its index; what goes out is a row per treatment - macro-F1, its paired difference
to the untouched pictures, the operating points at their stored thresholds - and the worst case, written into
``run.json`` under ``audit``. A high figure on untouched pictures says little where another background, or the stain of
another day, takes it away. Nothing is chosen here; what is changed, and what should follow, is `train.treatments`.

Between several recipes, choose by the audit of the validation split (``--split val``, ``audit_val`` in ``run.json``).
Pictures are treated as they came; a run that standardises its pictures does so afterwards, as the device would.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.preprocess import Pixels
from edge_runtime.standardise import KEPT, standardise

from .evaluate import (
    SEED,
    Logits,
    best_device,
    describe_protocol,
    index_of,
    measure_points,
    network_outputs,
    require_evaluated,
)
from .index import Index
from .metrics import evaluate_labels, paired_difference
from .resampling import RESAMPLES
from .run_folder import Run, read_run, update_info
from .tables import audit_report
from .treatments import TREATMENTS, Block, Floats, Masks, optical_density

_BLOCK = 64  # pictures held in memory at a time, changed and unchanged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="evaluated run folder")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="val: to choose between recipes")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="where the run's index lies now, if it was moved")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def run(args: argparse.Namespace) -> None:
    """Audit a run and print what was found."""
    one = read_run(args.run_folder)
    found = audit_run(one, index_of(one, args.index), args.split)
    text = json.dumps(found, indent=2, allow_nan=False) if args.json else audit_report(one.info, found)
    sys.stdout.write(text + "\n")


def audit_run(run: Run, index: Index, split: str = "test", resamples: int = RESAMPLES) -> dict[str, Any]:
    """Ask the network about every treatment of its pictures and write the answers into the run folder.

    Args:
        run: evaluated.
        index: the one it was trained on.
        split: whose pictures, "test" or "val".
        resamples: of every interval.

    Returns:
        ``protocol``, ``split``, ``n``, ``interval``; ``cells_found``: pictures in which a white cell was found;
        ``field_rgb``: the one background colour; ``chance_balanced_accuracy``: of who looks at nothing, 1 / K;
        ``as_is`` and ``rows`` (``name``, ``expected``, ``text``, ``changed``: how many pictures differ, intervals
        ``macro_f1``, ``balanced_accuracy`` and ``macro_f1_difference_pp`` (paired), ``operating_points``);
        ``without_effect``: names of treatments that changed no picture; ``worst``: of the rows that should hold,
        ``name`` and ``macro_f1``.

    Raises:
        DataError: not evaluated, or the index has changed.
    """
    from tqdm import tqdm

    from .pixels import load_pixels

    require_evaluated(run)
    pixels, numbers = load_pixels(index, run.preprocess.plain), index.select(run.protocol, split)
    masks = white_cells(index.task.kind, pixels, numbers)
    donors = choose_donors(index, numbers, masks)
    field_rgb = background_colour(pixels, numbers, masks)
    stain = stain_of_groups(index, pixels, numbers)
    network, judge = run.network.to(best_device()), _Judge(run, index, numbers, resamples)
    reference, _ = network_outputs(network, load_pixels(index, run.preprocess), numbers, progress="as it is")
    rows, without_effect = [], []
    for treatment in tqdm(TREATMENTS, desc="audit", unit="treatment", leave=False, disable=None):
        changed, outputs = 0, []
        for block in _blocks(index, pixels, numbers, masks, donors, stain, field_rgb):
            treated = treatment.change(block)
            changed += int((treated != block.pixels).any((1, 2, 3)).sum())
            if run.preprocess.standardises:
                treated = np.stack([standardise(picture, run.preprocess) for picture in treated])
            outputs.append(network_outputs(network, treated, range(len(treated)), progress=None)[0])
        if not changed:
            without_effect.append(treatment.name)
            continue
        logits = np.concatenate(outputs)
        said = {"name": treatment.name, "expected": treatment.expected, "text": treatment.text, "changed": changed}
        rows.append(said | judge(logits) | judge.difference(reference, logits))
    as_is = judge(reference)
    worst = min((row for row in rows if row["expected"] == "holds"), key=lambda row: row["macro_f1"]["value"])
    found = {
        "protocol": describe_protocol(index, run.protocol),
        "split": split,
        "n": len(numbers),
        "interval": judge.interval(reference),
        "cells_found": int(masks.any((1, 2)).sum()),
        "field_rgb": field_rgb.tolist(),
        "chance_balanced_accuracy": 1 / len(np.unique(index.targets(numbers))),
        "as_is": as_is,
        "rows": rows,
        "without_effect": without_effect,
        "worst": {key: worst[key] for key in ("name", "macro_f1", "macro_f1_difference_pp")},
    }
    update_info(run.folder, {"audit" if split == "test" else "audit_val": found})
    return found


def white_cells(kind: str, pixels: Pixels, numbers: Sequence[int]) -> Masks:
    """Find the white cells of pictures, with a progress bar.

    Args:
        kind: of the task, "cell" or "field".
        pixels: (all, H, W, 3) uint8.
        numbers: N of them.

    Returns:
        (N, H, W) bool.
    """
    from tqdm import tqdm

    found = np.zeros((len(numbers), *pixels.shape[1:3]), dtype=bool)
    for mask, i in zip(found, tqdm(numbers, desc="find cells", unit="picture", leave=False, disable=None), strict=True):
        mask[:] = KEPT[f"neutral-{kind}"](np.ascontiguousarray(pixels[i]))
    return found


def background_colour(pixels: Pixels, numbers: Sequence[int], masks: Masks) -> npt.NDArray[np.uint8]:
    """Return one colour for all pictures, so that it says nothing about any: the median of their background's medians.

    Args:
        pixels: (all, H, W, 3) uint8.
        numbers: N of them.
        masks: (N, H, W) bool, their white cells.

    Returns:
        (3,) uint8.
    """
    medians = [np.median(pixels[i][~mask], axis=0) for i, mask in zip(numbers, masks, strict=True) if not mask.all()]
    return np.median(medians, axis=0).round().astype(np.uint8)


def stain_of_groups(index: Index, pixels: Pixels, numbers: Sequence[int]) -> Floats:
    """Measure how strongly the pictures of each picture's group (patient, or cluster) are stained.

    Args:
        index: whose pictures.
        pixels: (all, H, W, 3) uint8.
        numbers: N rows of the index.

    Returns:
        (N, 2, 3) float32: mean and standard deviation of each channel's optical density over the pixels of all
        pictures of the group among `numbers`; the deviation is at least 0.01.
    """
    densities = (optical_density(pixels[i]) for i in numbers)
    moments = np.array([(density.mean((0, 1)), (density**2).mean((0, 1))) for density in densities])  # (N, 2, 3)
    _, group = np.unique([index.rows[i].group for i in numbers], return_inverse=True)
    sums = np.zeros((group.max() + 1, 2, 3))
    np.add.at(sums, group, moments)
    mean, square = np.moveaxis(sums / np.bincount(group)[:, None, None], 1, 0)
    spread = np.sqrt(np.maximum(square - mean**2, 1e-4))
    return np.stack([mean, spread], 1)[group].astype(np.float32)


def choose_donors(index: Index, numbers: Sequence[int], masks: Masks, seed: int = SEED) -> npt.NDArray[np.int64]:
    """Choose for every picture one of another class - and of another source, where there are several - at random.

    Args:
        index: whose pictures.
        numbers: N rows of it.
        masks: (N, H, W) bool; a donor must have a cell and a background.
        seed: of the choice.

    Returns:
        (N,) positions in `numbers`; a picture's own where no other picture can give its background.
    """
    rng = np.random.default_rng(seed)
    label = np.array([index.rows[i].label for i in numbers])
    source = np.array([index.rows[i].source for i in numbers])
    usable = masks.any((1, 2)) & ~masks.all((1, 2))
    chosen = np.arange(len(numbers))
    for i in range(len(numbers)):
        other = usable & (label != label[i])
        elsewhere = other & (source != source[i])
        candidates = np.flatnonzero(elsewhere if elsewhere.any() else other)
        if len(candidates):
            chosen[i] = rng.choice(candidates)
    return chosen


def _blocks(
    index: Index,
    pixels: Pixels,
    numbers: Sequence[int],
    masks: Masks,
    donors: npt.NDArray[np.int64],
    stain: Floats,
    field_rgb: npt.NDArray[np.uint8],
) -> Iterator[Block]:
    from .sources import SOURCES

    rows = np.asarray(numbers)
    for start in range(0, len(rows), _BLOCK):
        own, others = rows[start : start + _BLOCK], donors[start : start + _BLOCK]
        yield Block(
            np.array(pixels[own]),
            masks[start : start + _BLOCK],
            np.array(pixels[rows[others]]),
            masks[others],
            stain[start : start + _BLOCK],
            stain[others],
            [SOURCES[index.rows[i].source].burnt_in for i in own],
            field_rgb,
        )


@dataclass(frozen=True)
class _Judge:
    """Measures answers to the pictures of a run, always in the same way.

    Attributes:
        run: whose temperature and thresholds.
        index: whose pictures.
        numbers: rows of the index.
        resamples: of every interval.
    """

    run: Run
    index: Index
    numbers: Sequence[int]
    resamples: int

    def __call__(self, logits: Logits) -> dict[str, Any]:
        """Return ``macro_f1``, ``balanced_accuracy`` and ``operating_points``."""
        found, info = self._labels(logits), self.run.info
        points = measure_points(
            logits, self.index, self.numbers, info["temperature"], info["operating_points"], self.resamples
        )
        return {key: found[key] for key in ("macro_f1", "balanced_accuracy")} | {"operating_points": points}

    def difference(self, reference: Logits, logits: Logits) -> dict[str, Any]:
        """Return ``macro_f1_difference_pp`` against `reference`, paired picture by picture."""
        labels, targets = self.run.task.labels, self.index.targets(self.numbers)
        paired = paired_difference(reference, logits, targets, self._groups, labels, SEED, self.resamples)
        return {"macro_f1_difference_pp": paired["macro_f1_difference_pp"]}

    def interval(self, logits: Logits) -> dict[str, Any]:
        """Say how the intervals are made."""
        how: dict[str, Any] = self._labels(logits)["interval"]
        return how

    def _labels(self, logits: Logits) -> dict[str, Any]:
        targets, classes = self.index.targets(self.numbers), len(self.run.task.labels)
        return evaluate_labels(logits.argmax(1), targets, classes, self._groups, SEED, self.resamples)

    @property
    def _groups(self) -> list[str]:
        return [self.index.rows[i].group for i in self.numbers]
