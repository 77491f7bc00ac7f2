"""Answers: what one run says about one picture - a class, and a heatmap by every method that is asked for.

What comes in are a run, prepared pixels and a `Wish`; what goes out is an `Answer`: arrays and, per method, what was
asked, answered and spent. A seeded method is asked again under other seeds, and how far its maps agree is part of the
answer. How heatmaps are made is `train.attribution`'s business; nothing is written here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import UsageError
from edge_runtime.preprocess import Pixels

from .attribution import METHODS, Heat, Question, layer_of
from .evaluate import network_outputs
from .geometry import placement
from .metrics import probabilities
from .run_folder import Run

SEEDS = 5
"""Under so many seeds a seeded method is asked, the reported one included."""

AGREEMENT = ("spearman", "overlap")
"""What is measured between seeds, see `train.faithfulness.agreement`."""

LAST = "last feature map"


@dataclass(frozen=True)
class Wish:
    """What is asked of every run about every picture.

    Attributes:
        methods: rows of `train.attribution.METHODS`.
        label: class; None: the one that the run predicts.
        layer: of the backbone; "": the last feature map.
        seed: of the seeded methods, 0 or more.
        seeds: how many of them, from `seed` on, a seeded method is asked under, 1 or more.

    Raises:
        UsageError: a seed out of range; it names the field.
    """

    methods: tuple[str, ...]
    label: str | None = None
    layer: str = ""
    seed: int = 0
    seeds: int = SEEDS

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError("seeds", got=self.seeds, expected="at least 1")
        if not 0 <= self.seed <= 2**32 - self.seeds:
            raise UsageError("seed", got=self.seed, expected=f"0 to {2**32 - self.seeds}")

    def seeded(self, method: str) -> bool:
        """Whether a method depends on the seed."""
        return "seed" in METHODS[method].options

    @property
    def questions(self) -> int:
        """Maps to be made for one picture and run."""
        return sum(self.seeds if self.seeded(method) else 1 for method in self.methods)

    @property
    def titles(self) -> list[str]:
        """Of the methods, with the layer where they look at it."""
        rows = [METHODS[method] for method in self.methods]
        return [row.title + (f" at {self.layer}" if self.layer and "layer" in row.options else "") for row in rows]


@dataclass
class Answer:
    """What one run says about one picture.

    Attributes:
        arrays: ``pixels`` (H, H, 3) uint8, ``logits`` (K,) float32, ``labels`` (K,) str, and method -> (H, H) float32.
        entries: one per method, as in ``explanations.json``.
    """

    arrays: dict[str, npt.NDArray[Any]]
    entries: list[dict[str, Any]] = field(default_factory=list)


def require_class_and_layer(one: Run, wish: Wish) -> None:
    """Raise `UsageError` unless a run has the class and the layer that are wished for."""
    if wish.label is not None and wish.label not in one.task.labels:
        raise UsageError(f"class: not one of {one.folder}", got=wish.label, expected=", ".join(one.task.labels))
    if wish.layer:
        try:
            layer_of(one.network, wish.layer)
        except UsageError as error:
            raise UsageError(f"layer: not one of {one.folder}", got=error.got, expected=error.expected) from None


def ask(one: Run, pixels: Pixels, wish: Wish, done: Callable[[], object] = lambda: None) -> Answer:
    """Ask one run about one prepared picture.

    Args:
        one: whose network is in eval mode, and which has the class and layer that are wished for.
        pixels: (H, H, 3) uint8, prepared for it.
        wish: what is asked.
        done: called after every map.
    """
    labels = one.task.labels
    logits, _ = network_outputs(one.network, pixels[None], [0], progress=None)
    p = probabilities(logits, one.info.get("temperature", 1.0))[0]
    k = int(p.argmax()) if wish.label is None else labels.index(wish.label)
    asked = Question(one.network, pixels, k, wish.layer, wish.seed)
    for method in (METHODS[name] for name in wish.methods):
        if method.placed:  # worked out once, on nobody's time
            placement(one.network.features, wish.layer if "layer" in method.options else "", len(pixels))
    said = Answer({"pixels": pixels, "logits": logits[0], "labels": np.array(labels)})
    for name in wish.methods:
        method = METHODS[name]
        started = time.perf_counter()
        maps = [method.explain(asked)]
        duration = time.perf_counter() - started
        done()
        for seed in range(wish.seed + 1, wish.seed + wish.seeds) if wish.seeded(name) else ():
            maps.append(method.explain(replace(asked, seed=seed)))
            done()
        said.arrays[name] = maps[0]
        said.entries.append(
            {
                "class": labels[k],
                "probability": float(p[k]),
                "predicted": labels[int(p.argmax())],
                "method": name,
                "layer": (wish.layer or LAST) if "layer" in method.options else None,
                "seed": wish.seed if wish.seeded(name) else None,
                "passes": method.passes,
                "duration_ms": 1000 * duration,
                "stability": between_seeds(maps),
            }
        )
    return said


def between_seeds(maps: Sequence[Heat]) -> dict[str, Any] | None:
    """Measure how far maps of one picture under several seeds agree.

    Args:
        maps: of the seeds.

    Returns:
        ``seeds``: how many; ``spearman`` and ``overlap``: means over all pairs of maps that are not flat, see
        `train.faithfulness.agreement`, or None where no such pair is. None where there is one map only.
    """
    if len(maps) < 2:
        return None
    from .faithfulness import agreement  # brings scipy.stats, for which no other command should wait

    pairs = [agreement(one, other) for one, other in combinations(maps, 2)]
    found: dict[str, Any] = {"seeds": len(maps)}
    for key in AGREEMENT:
        values = [pair[key] for pair in pairs if not np.isnan(pair[key])]
        found[key] = float(np.mean(values)) if values else None
    return found
