"""External: what a run is worth on pictures of another index - another laboratory's, or a source kept out of training.

What comes in are an evaluated run and an index that shares classes with it; what goes out are the figures of
`train.evaluate` on those pictures, beside controls that were fitted where the network was trained, written into
``run.json`` under ``external``. Nothing is refitted: temperature and thresholds are the run's own. Pictures that the
run was trained or tuned on are refused by their hash.

Two views of one set. By default every class of the network competes, also those that the external set does not hold:
that is what a user would get. Restricted to the shared classes, the network is told which answers are possible.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from .controls import class_controls, control_features
from .errors import DataError
from .evaluate import SEED, best_device, index_of, measure, network_outputs, require_evaluated
from .groups import CLUSTER, near_duplicate_pairs
from .index import SPLITS, Index, read_index
from .metrics import evaluate_predictions
from .per_group import per_group
from .resampling import RESAMPLES
from .run_folder import Run, read_info, read_run, update_info
from .sources import SOURCES
from .tables import external_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="evaluated run folder")
    parser.add_argument("other", type=Path, metavar="INDEX", help="index folder of other pictures")
    parser.add_argument(
        "--split", choices=SPLITS, help="only this split of INDEX, under the run's protocol (default: all its pictures)"
    )
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="where the run's index lies now, if it was moved")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of tables")


def run(args: argparse.Namespace) -> None:
    """Judge a run on another index and print the tables."""
    one = read_run(args.run_folder)
    found = evaluate_external(one, index_of(one, args.index), read_index(args.other), args.split)
    text = json.dumps(found, indent=2, allow_nan=False) if args.json else external_report(one.info, found)
    sys.stdout.write(text + "\n")


def evaluate_external(
    run: Run, index: Index, other: Index, split: str | None = None, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Judge a run on pictures of another index and write the result into the run folder.

    Args:
        run: evaluated.
        index: the one it was trained on.
        other: whose pictures are judged, those of classes that the run knows.
        split: of `other`, under the run's protocol; None: all its pictures.
        resamples: of every interval.

    Returns:
        ``index``, ``data_sha256`` and ``split`` of the external set; ``n``; ``sources``: name -> ``pictures``,
        ``groups`` and ``trained_on``, whether the run was trained on other pictures of that source;
        ``shared_classes``; ``absent_classes``: known to the network, not in the set, but competing;
        ``classes_left_out``: label -> pictures that the network has no class for; ``known``: how many pictures are
        ``near_duplicates`` of one of the run's train or val split, and of how many the patient is there
        (``patients``); then as `train.evaluate.measure`, over all of the network's
        classes; ``restricted``: as `train.metrics.evaluate_predictions`, over the shared classes only; ``controls``:
        see `train.controls.class_controls`, fitted on the run's train split; ``per_group``, see `train.per_group`.

    Raises:
        DataError: not evaluated, fewer than two shared classes, or pictures that the run was trained or tuned on, whole
            or as crops.
    """
    from .pixels import load_pixels

    require_evaluated(run)
    labels = run.task.labels
    asked = list(range(len(other.rows))) if split is None else other.select(run.protocol, split)
    numbers = [i for i in asked if other.rows[i].label in labels]
    shared = [label for label in labels if label in {other.rows[i].label for i in numbers}]
    if len(shared) < 2:
        raise DataError(
            f"{other.folder}: too few classes in common with {run.folder}",
            got=", ".join(shared) or "none",
            expected=f"at least two of {', '.join(labels)}",
        )
    known = _compare_with_training(run, index, other, numbers)
    view = dataclasses.replace(other, task=run.task)  # the same pictures, asked the run's question
    network = run.network.to(best_device())
    logits, _ = network_outputs(network, load_pixels(other, run.preprocess), numbers, progress="external")

    targets, groups = view.targets(numbers), [other.rows[i].group for i in numbers]
    columns = [labels.index(label) for label in shared]
    restricted = np.searchsorted(columns, targets)  # class numbers among the shared ones; columns are sorted
    temperature, points = run.info["temperature"], run.info["operating_points"]
    train = index.select(run.protocol, "train")
    rows = np.array(numbers)
    found = {
        "index": str(other.folder),
        "data_sha256": other.sha256,
        "split": split or "all",
        "n": len(numbers),
        "sources": _sources(index, other, numbers),
        "shared_classes": shared,
        "absent_classes": [label for label in labels if label not in shared],
        "classes_left_out": dict(Counter(other.rows[i].label for i in asked if other.rows[i].label not in labels)),
        "known": known,
        **measure(logits, view, numbers, temperature, points, resamples),
        "restricted": evaluate_predictions(
            logits[:, columns], restricted, shared, temperature, groups, SEED, resamples
        ),
        "controls": class_controls(
            control_features(load_pixels(index), train),
            index.targets(train),
            control_features(load_pixels(other), numbers),
            view,
            rows,
            SEED,
            resamples,
        ),
        "per_group": per_group(logits.argmax(1), targets, groups, labels, SEED, resamples),
    }
    key = f"{other.folder.resolve().name}@{other.sha256[:12]}" + (f":{split}" if split else "")
    update_info(run.folder, {"external": read_info(run.folder).get("external", {}) | {key: found}})
    return found


def _compare_with_training(run: Run, index: Index, other: Index, numbers: Sequence[int]) -> dict[str, int]:
    """Refuse pictures that the run has seen; count near duplicates of such, and other pictures of their patients.

    The validation split counts as seen: the epoch, the temperature and the thresholds were chosen on it. So do crops
    of a source's fields, and the fields themselves where crops were seen.
    """
    seen = [row for row in index.rows if getattr(row, run.protocol) in ("train", "val")]
    asked = [other.rows[i] for i in numbers]
    for one, another in product({row.source for row in seen}, {row.source for row in asked}):
        if one == SOURCES[another].cut_from or another == SOURCES[one].cut_from:
            raise DataError(
                f"{other.folder}: not external: {another} and {one} show the same cells",
                got=f"{run.folder} was trained on {one}",
                todo="give an index of other pictures",
            )
    files = {row.sha256 for row in seen}
    again = [row.path for row in asked if row.sha256 in files]
    if again:
        raise DataError(
            f"{other.folder}: not external: {run.folder} was trained or tuned on pictures of it",
            got=f"{len(again)} of {len(asked)} pictures, first {again[0]}",
            todo="give an index of other pictures, or one that was kept out with --split",
        )
    first, second = near_duplicate_pairs([row.phash for row in (*seen, *asked)])
    patients = {
        row.group for row in seen if f":{CLUSTER}" not in row.group
    }  # a cluster's number means nothing elsewhere
    return {
        "near_duplicates": len(set(second[(first < len(seen)) & (second >= len(seen))].tolist())),
        "patients": sum(row.group in patients for row in asked),
    }


def _sources(index: Index, other: Index, numbers: Sequence[int]) -> dict[str, Any]:
    trained_on = {row.source for row in index.rows}
    rows = [other.rows[i] for i in numbers]
    return {
        name: {
            "pictures": sum(row.source == name for row in rows),
            "groups": len({row.group for row in rows if row.source == name}),
            "trained_on": name in trained_on,
        }
        for name in sorted({row.source for row in rows})
    }
