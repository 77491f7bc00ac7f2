"""Heatmap quality: ways to explain a model's answers, measured on pictures whose cells are known.

What come in are ways - what makes a heatmap of pixels - and pictures with masks; what goes out are intervals over the
pictures of the numbers of `train.faithfulness`, and the sanity check against the same network without its knowledge.
Which pictures and ways, and where it is written, is said by `train.heatmap_audit` and `benchmarks.explanations`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.masks import Mask
from edge_runtime.preprocess import Pixels

from .evaluate import SEED, network_outputs
from .resampling import RESAMPLES, Resamples, percentile_interval

if TYPE_CHECKING:
    from .attribution import Heat
    from .network import SelfExplaining

RANDOMISED = (0.0, 0.25, 0.5, 1.0)
"""Shares of the convolutions, from the answer backwards, that are drawn by chance; 0: the classifier only."""


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


def spoilt_title(share: float) -> str:
    """Say which weights are chance."""
    return f"classifier and the last {share:.0%} of the convolutions" if share else "classifier"


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
            are compared with.
        pictures: N of them.
        title: of the progress bar.
        answer: pixels -> class number; None: the network's.
        unstable: ways that are too slow to be asked about changed pictures.

    Returns:
        Way -> ``n``, and intervals (see `interval`) over pictures of the numbers of `train.faithfulness`:
        ``pointing``, ``top_share``, ``top_ceiling`` and ``heat_share`` of the whole cell, ``nucleus_top_share``,
        ``deletion``, ``insertion``, ``spearman`` and ``overlap`` with the first way, Spearman after each change of
        ``stability``; ``beats_darkness``: the paired difference of ``top_share`` to that of stain darkness.
    """
    from tqdm import tqdm

    from .attribution import darkness
    from .faithfulness import agreement, deletion_insertion, localisation, stability

    rows: dict[str, list[dict[str, float]]] = {}
    for number, one in enumerate(tqdm(pictures, desc=title, unit="picture", leave=False, disable=None)):
        k = _answer(network, one.pixels) if answer is None else answer(one.pixels)
        own: Heat | None = None
        dark = localisation(darkness(one.pixels), one.cell)["top_share"]
        for name, explain in ways_of(k, number).items():
            heat = explain(one.pixels)
            own = heat if own is None else own
            row = localisation(heat, one.cell)
            row["beats_darkness"] = row["top_share"] - dark
            row["nucleus_top_share"] = localisation(heat, one.nucleus)["top_share"]
            row |= agreement(own, heat)
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
        others: name -> the same architecture, spoilt.
        pictures: to explain.
        method: row of `train.attribution.METHODS`.

    Returns:
        Spoilt network -> ``flat``: share of the pictures for which its map of the method is flat, as nothing speaks for
        the class; ``spearman``: title -> interval, over the other pictures, of Spearman to the trained one's map, of
        the method and of stain darkness, which cannot notice anything.
    """
    from .attribution import BASELINES, METHODS, Question
    from .faithfulness import agreement, is_flat
    from .geometry import placement

    rows = (METHODS[method], BASELINES["darkness"])
    place = placement(network.features, "", len(pictures[0].pixels))
    flat: dict[str, list[bool]] = {name: [] for name in others}
    rho: dict[str, dict[str, list[float]]] = {name: {row.title: [] for row in rows} for name in others}
    for one in pictures:
        asked = Question(network, one.pixels, _answer(network, one.pixels), place=place)
        own = [row.explain(asked) for row in rows]
        for name, other in others.items():
            maps = [row.explain(replace(asked, network=other)) for row in rows]
            flat[name].append(is_flat(maps[0]))
            for row, before, after in zip(rows, own, maps, strict=True):
                rho[name][row.title].append(agreement(before, after)["spearman"])
    return {
        name: {
            "flat": float(np.mean(flat[name])),
            "spearman": {title: interval(values) for title, values in rho[name].items()},
        }
        for name in others
    }


def interval(values: Sequence[float]) -> dict[str, Any] | None:
    """Return the mean over pictures with its 95 % bootstrap interval; None where it is not defined for any.

    Returns:
        ``value``, ``low``, ``high``; ``n``: of how many pictures, as those without that number are left out.
    """
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return None
    means = Resamples(len(known), None, SEED, RESAMPLES).sums(known[:, None])[:, 0] / len(known)
    return {**(percentile_interval(means) or {}), "n": len(known)}


def _answer(network: SelfExplaining | None, pixels: Pixels) -> int:
    assert network is not None
    return int(network_outputs(network, pixels[None], [0], progress=None)[0].argmax())
