"""Explained: what a run's explanations are worth, on pictures whose cells are known; written into ``run.json``.

What comes in are an evaluated run and its index; what goes out, under ``explained``, says for every method - and for
maps that never ask a network - how much of the heat lies on the white cells, whether the answer goes with the hot
places, whether the map stays when nothing that matters changes, and whether it goes when the network's knowledge goes.
The cells are found by `edge_runtime.cells`; `benchmarks.explanations` asks the same of masks that experts drew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import UsageError
from edge_runtime.masks import Mask
from edge_runtime.preprocess import Pixels

from .evaluate import SEED, best_device, index_of, network_outputs, require_evaluated
from .resampling import RESAMPLES, Interval, Resamples, percentile_interval
from .run_folder import Run, read_run, update_info
from .tables import explained_report

if TYPE_CHECKING:
    from .attribution import Heat
    from .index import Index
    from .network import SelfExplaining

PICTURES = 60
"""Of the test split, as many as there are of each class by turns."""

RANDOMISED = (0.0, 0.25, 0.5, 1.0)
"""Shares of the layers, from the answer backwards, that are made anew for the sanity check; 0: the classifier only."""


@dataclass(frozen=True)
class Masked:
    """A prepared picture whose cells are known.

    Attributes:
        pixels: (px, px, 3) uint8.
        nucleus: (px, px) bool.
        cell: (px, px) bool, nucleus and cytoplasm; the same where nobody told them apart.
    """

    pixels: Pixels
    nucleus: Mask
    cell: Mask


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
    """Measure a run's explanations and print what was found."""
    if args.pictures < 2:
        raise UsageError("--pictures", got=args.pictures, expected="2 or more")
    one = read_run(args.run_folder)
    found = measure_run(one, index_of(one, args.index), args.method, args.pictures)
    sys.stdout.write((json.dumps(found, indent=2) if args.json else explained_report(one.info, found)) + "\n")


def measure_run(run: Run, index: Index, methods: Sequence[str], pictures: int = PICTURES) -> dict[str, Any]:
    """Measure a run's explanations on its test split and write the result into the run folder.

    Args:
        run: evaluated.
        index: the one it was trained on.
        methods: rows of `train.attribution.METHODS`.
        pictures: at most so many, of all classes by turns, in which a white cell was found.

    Returns:
        ``protocol``, ``n``, ``interval`` (how intervals are made), ``ways`` (see `measure_ways`), ``sanity`` (see
        `sanity`).

    Raises:
        DataError: not evaluated, or the index has changed.
    """
    from .attribution import BASELINES, METHODS, Question
    from .audit import white_cells
    from .faithfulness import randomised
    from .pixels import load_pixels

    require_evaluated(run)
    pixels = load_pixels(index, run.preprocess)
    numbers = by_turns(index, index.select(run.protocol, "test"))[:pictures]
    masks = white_cells(index.task.kind, load_pixels(index, run.preprocess.plain), numbers)
    masked = [Masked(np.array(pixels[i]), mask, mask) for i, mask in zip(numbers, masks, strict=True) if mask.any()]
    network = run.network.to(best_device())
    rows = [METHODS[name] for name in methods]

    def ways_of(k: int, number: int) -> dict[str, Callable[[Pixels], Heat]]:
        return {
            row.title: lambda pixels, row=row: row.explain(Question(network, pixels, k))
            for row in (*rows, *BASELINES.values())
        }

    found = {
        "protocol": run.protocol,
        "n": len(masked),
        "interval": Resamples(len(masked), None, SEED, RESAMPLES).description,
        "ways": measure_ways(network, ways_of, masked, "explained"),
        "sanity": sanity(
            network, {spoilt_title(share): randomised(network, share) for share in RANDOMISED}, masked, methods[0]
        ),
    }
    update_info(run.folder, {"explained": found})
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


def spoilt_title(share: float) -> str:
    """Say which weights were made anew."""
    return f"weights of the classifier and the last {share:.0%} of the layers" if share else "weights of the classifier"


def measure_ways(
    network: SelfExplaining | None,
    ways_of: Callable[[int, int], Mapping[str, Callable[[Pixels], Heat]]],
    pictures: Sequence[Masked],
    title: str,
    answer: Callable[[Pixels], int] | None = None,
    unstable: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure ways of explaining a model's answers on pictures whose cells are known.

    Args:
        network: behind the model, for deletion and insertion; None: they are left out.
        ways_of: (class number, picture's number) -> way -> what explains that class; the first way is what the others
            are compared with. Stain darkness is always measured, too.
        pictures: N of them.
        title: of the progress bar.
        answer: pixels -> class number; None: the network's.
        unstable: ways that are too slow to be asked about changed pictures.

    Returns:
        Way -> ``n`` and intervals over pictures of the numbers of `train.faithfulness`: ``pointing``, ``top_share``,
        ``top_ceiling`` and ``heat_share`` of the whole cell, ``nucleus_top_share``, ``deletion``, ``insertion``,
        ``spearman`` and ``overlap`` with the first way, Spearman after each change of ``stability``;
        ``beats_darkness``: the paired difference of ``top_share`` to that of stain darkness.
    """
    from tqdm import tqdm

    from .attribution import darkness
    from .faithfulness import agreement, deletion_insertion, localisation, stability

    rows: dict[str, list[dict[str, float]]] = {}
    for number, one in enumerate(tqdm(pictures, desc=title, unit="picture", leave=False, disable=None)):
        k = _answer(network, one.pixels) if answer is None else answer(one.pixels)
        heats: dict[str, Heat] = {}
        dark = localisation(darkness(one.pixels), one.cell)["top_share"]
        for name, explain in ways_of(k, number).items():
            heat = heats[name] = explain(one.pixels)
            row = localisation(heat, one.cell)
            row["beats_darkness"] = row["top_share"] - dark
            row["nucleus_top_share"] = localisation(heat, one.nucleus)["top_share"]
            row |= agreement(next(iter(heats.values())), heat)
            if network is not None:
                row |= deletion_insertion(network, one.pixels, heat, k)
            if name not in unstable:
                row |= {f"stable: {change}": rho for change, rho in stability(explain, one.pixels, heat).items()}
            rows.setdefault(name, []).append(row)
    return {
        name: {"n": len(measured)} | {key: interval([row[key] for row in measured]) for key in measured[0]}
        for name, measured in rows.items()
    }


def sanity(
    network: SelfExplaining, others: Mapping[str, SelfExplaining], pictures: Sequence[Masked], method: str = "class-map"
) -> dict[str, dict[str, Any]]:
    """Compare heatmaps with those of the same network without its knowledge (Adebayo et al. 2018).

    Args:
        network: trained.
        others: name -> the same, spoilt.
        pictures: to explain.
        method: row of `train.attribution.METHODS`.

    Returns:
        Spoilt network -> title -> interval of Spearman to the trained one's map: of the method, and of stain darkness,
        which cannot notice anything.
    """
    from .attribution import BASELINES, METHODS, Question
    from .faithfulness import agreement

    asked = [(one, _answer(network, one.pixels)) for one in pictures]
    explainers = (METHODS[method], BASELINES["darkness"])
    found: dict[str, dict[str, Any]] = {}
    for spoilt, other in others.items():
        rows: dict[str, list[float]] = {}
        for one, k in asked:
            for row in explainers:
                a, b = (row.explain(Question(model, one.pixels, k)) for model in (network, other))
                rows.setdefault(row.title, []).append(agreement(a, b)["spearman"])
        found[spoilt] = {title: interval(values) for title, values in rows.items()}
    return found


def interval(values: Sequence[float]) -> Interval | None:
    """Return the mean over pictures with its 95 % bootstrap interval; None where it is not defined for any."""
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return None
    return percentile_interval(Resamples(len(known), None, SEED, RESAMPLES).sums(known[:, None])[:, 0] / len(known))


def _answer(network: SelfExplaining | None, pixels: Pixels) -> int:
    assert network is not None
    return int(network_outputs(network, pixels[None], [0], progress=None)[0].argmax())
