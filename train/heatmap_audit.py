"""Heatmap audit: what a run's heatmaps are worth, on pictures whose cells are known; written into ``run.json``.

What comes in are an evaluated run and its index; what goes out, under ``heatmaps``, says for every method - and for
maps that never ask a network - how much of the heat lies on the white cells, whether the answer goes with the hot
places, whether the map stays when nothing that matters changes, and whether it goes when the network's knowledge goes.
The cells are found by `edge_runtime.cells`; `benchmarks.explanations` asks the same of masks that experts drew. How it
is measured is `train.heatmap_quality`'s business.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import UsageError
from edge_runtime.preprocess import Pixels

from .evaluate import SEED, best_device, index_of, require_evaluated
from .heatmap_quality import RANDOMISED, Masked, measure_ways, sanity, spoilt_title
from .resampling import RESAMPLES, Resamples
from .run_folder import Run, read_run, update_info
from .tables import heatmap_report

if TYPE_CHECKING:
    from .attribution import Heat
    from .index import Index

PICTURES = 60
"""Of the test split, as many as there are of each class by turns."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    from .attribution import METHODS

    parser.add_argument("run_folder", type=Path, metavar="RUN", help="evaluated run folder")
    parser.add_argument(
        "--method", nargs="+", choices=list(METHODS), default=["class-map"], metavar="METHOD", help="default class-map"
    )
    parser.add_argument("--pictures", type=int, default=PICTURES, metavar="N", help=f"default {PICTURES}")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="where the run's index lies now, if it was moved")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of tables")


def run(args: argparse.Namespace) -> None:
    """Measure a run's heatmaps and print what was found."""
    if args.pictures < 2:
        raise UsageError("--pictures", got=args.pictures, expected="2 or more")
    one = read_run(args.run_folder)
    found = measure_run(one, index_of(one, args.index), args.method, args.pictures)
    sys.stdout.write((json.dumps(found, indent=2) if args.json else heatmap_report(one.info, found)) + "\n")


def measure_run(run: Run, index: Index, methods: Sequence[str], pictures: int = PICTURES) -> dict[str, Any]:
    """Measure a run's heatmaps on its test split and write the result into the run folder.

    Args:
        run: evaluated.
        index: the one it was trained on.
        methods: rows of `train.attribution.METHODS`.
        pictures: at most so many, of all classes by turns, in which a white cell was found.

    Returns:
        ``protocol``, ``n``, ``interval`` (how intervals are made), ``ways`` and ``sanity`` (see
        `train.heatmap_quality`).

    Raises:
        DataError: not evaluated, or the index has changed.
    """
    from .attribution import BASELINES, METHODS, Question
    from .audit import white_cells
    from .faithfulness import randomised
    from .geometry import placement
    from .pixels import load_pixels

    require_evaluated(run)
    pixels = load_pixels(index, run.preprocess)
    numbers = by_turns(index, index.select(run.protocol, "test"))[:pictures]
    masks = white_cells(index.task.kind, load_pixels(index, run.preprocess.plain), numbers)
    masked = [Masked(np.array(pixels[i]), mask, mask) for i, mask in zip(numbers, masks, strict=True) if mask.any()]
    network = run.network.to(best_device())
    rows = [METHODS[name] for name in methods]
    place = placement(network.features, "", run.input_px)

    def ways_of(k: int, number: int) -> dict[str, Callable[[Pixels], Heat]]:
        return {
            row.title: lambda pixels, row=row: row.explain(Question(network, pixels, k, place=place))
            for row in (*rows, *BASELINES.values())
        }

    found = {
        "protocol": run.protocol,
        "n": len(masked),
        "interval": Resamples(len(masked), None, SEED, RESAMPLES).description,
        "ways": measure_ways(network, ways_of, masked, "heatmaps"),
        "sanity": sanity(
            network, {spoilt_title(share): randomised(network, share) for share in RANDOMISED}, masked, methods[0]
        ),
    }
    update_info(run.folder, {"heatmaps": found})
    return found


def by_turns(index: Index, numbers: Sequence[int]) -> list[int]:
    """Put rows of an index in an order that takes one of each class by turns."""
    turn: dict[str, int] = {}
    places = []
    for number in numbers:
        label = index.rows[number].label
        turn[label] = turn.get(label, -1) + 1
        places.append((turn[label], index.task.labels.index(label), number))
    return [number for _, _, number in sorted(places)]
