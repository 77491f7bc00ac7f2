"""Suggestion: the smallest change of recipe with which the gates pass that failed, found by trying it.

What comes in are layers in the order of their own loss (see ``layer_noise``), a way to quantize again and a way to
judge, on pictures that are not the test split's: a recipe chosen there would be reported there. What goes out is a
`Suggestion`: what was tried, and the recipe to take. Keeping more layers in float never loses more, but for chance; so
the most that is worth trying is tried first, and the number is halved from there.

Whether the loss of a layer is its weights' or its output's decides what is kept with it. Weights are exact as soon as
the layer is in float; its output is still rounded for every reader that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .layer_noise import LayerNoise, worst_first
from .parity import Row
from .recipes import Recipe

HEAD = "classifier"
"""The module behind the features. It is kept whole: with its mean alone in float, the class map would be an int8 output
and, dequantized, an input, which LiteRT 2.3 does not run."""

MOST = 16
"""Layers in float worth trying, readers not counted: with more of them, full precision is the better recipe."""

Files = Mapping[str, bytes]

Requantize = Callable[[Recipe], Files]
"""Recipe -> model."""

Judge = Callable[[Files], Sequence[Row]]
"""Model -> its rows of the ladder, on pictures of validation or calibration."""


@dataclass(frozen=True)
class Attempt:
    """One recipe that was tried.

    Attributes:
        recipe: as on the command line.
        failed: measures that failed on the judge's pictures.
        model_bytes: of its files.
    """

    recipe: str
    failed: tuple[str, ...]
    model_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"recipe": self.recipe, "failed": list(self.failed), "model_bytes": self.model_bytes}


@dataclass(frozen=True)
class Suggestion:
    """What to do about a gate that failed.

    Attributes:
        recipes: with which all gates pass, the one to take first; empty where none was found.
        attempts: in the order they were made.
        note: why there is none.
    """

    recipes: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        attempts = [attempt.to_dict() for attempt in self.attempts]
        return {"recipes": list(self.recipes), "attempts": attempts, "note": self.note}

    def text(self) -> str:
        """Say it in a few lines."""
        lines = [f"suggestion: --recipe {recipe}" for recipe in self.recipes] or [f"nothing found: {self.note}"]
        for attempt in self.attempts:
            outcome = f"fails: {', '.join(attempt.failed)}" if attempt.failed else "passes"
            lines.append(f"  tried {attempt.recipe}: {outcome}, {attempt.model_bytes / 1e6:.2f} MB")
        return "\n".join(lines)


def suggest(
    layers: Sequence[LayerNoise],
    requantize: Requantize,
    judge: Judge,
    recipe: Recipe,
    plain: Recipe | None = None,
    wide: Recipe | None = None,
    most: int = MOST,
) -> Suggestion:
    """Look for the smallest change with which the gates pass.

    Args:
        layers: of the model that failed.
        requantize: quantizes again; nearest rounding will do, and is faster than the recipe's own.
        judge: of a model.
        recipe: that failed.
        plain: the target without the recipe's options, which is enough where it passes; None: it is that already.
        wide: the same with activations of 16 bits; None: there is none.
        most: layers in float to try.
    """
    from tqdm import tqdm

    lossy = [layer for layer in worst_first(layers) if layer.own_db < float("inf")]
    most = min(most, len(lossy))
    attempts: dict[str, Attempt] = {}
    bar = tqdm(
        total=2 + (plain is not None) + (wide is not None) + most.bit_length(),
        desc="suggestion",
        leave=False,
        disable=None,
    )

    def passes(tried: Recipe) -> bool:
        model = requantize(tried)
        failed = tuple(row.measure for row in judge(model) if not row.passed)
        attempts[tried.name] = Attempt(tried.name, failed, sum(map(len, model.values())))
        bar.update()
        return not failed

    def kept(count: int) -> Recipe:
        return recipe.keeping(shortest([name for layer in lossy[:count] for name in together(layer)]))

    with bar:
        if passes(recipe):
            return Suggestion((), tuple(attempts.values()), "the gates pass on these pictures as it is")
        if plain is not None and passes(plain):
            return Suggestion((plain.name,), tuple(attempts.values()))
        found: list[str] = []
        low, high = 0, most  # `low` layers are too few
        if most and passes(kept(most)):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if passes(kept(middle)) else (middle, high)
            found.append(kept(high).name)
        if wide is not None and passes(wide):
            found.append(wide.name)
    note = "" if found else f"{most} layers in float are too few" + (", 16 bits not enough" if wide else "")
    return Suggestion(tuple(found), tuple(attempts.values()), note)


def together(layer: LayerNoise) -> tuple[str, ...]:
    """Return what must stay in float for a layer's own loss to go: its readers, too, where it is the output's."""
    names = (layer.name, *(layer.readers if layer.output_db < layer.weights_db else ()))
    return tuple(HEAD if name.startswith(f"{HEAD}/") else name for name in names)


def shortest(names: Sequence[str]) -> tuple[str, ...]:
    """Leave out names that others stand for, and repetitions; the order stays."""
    kept = dict.fromkeys(names)
    return tuple(name for name in kept if not any(name.startswith((f"{other}.", f"{other}/")) for other in kept))
