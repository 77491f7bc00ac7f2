"""Abstention, fitted: from a packed model's own outputs to when it declines to answer.

What comes in is an `Export`; what goes out are the manifest's ``abstention``, the file it names, and what all that does
on the test split. Margins come from the validation split, by the quantile of split conformal prediction, class by
class; what the training pictures look like comes from the training split, and how far is too far again from the
validation split, so that the test split decides nothing. Outputs are the shipped model's, through the device's code.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.abstention import plausible
from edge_runtime.familiarity import Familiarity, describe
from train.metrics import evaluate_predictions
from train.resampling import RESAMPLES, Resamples, percentile_interval

from .comparison import Outputs, engine_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .pipeline import Export

Floats = npt.NDArray[np.float64]

COVERAGE = 0.95
"""Share of each class's pictures whose true label is meant to be plausible."""

FAMILIAR = 0.99
"""Share of the validation pictures that are near enough to the training pictures."""

TRAINING_PICTURES = 2000
"""So many at most, spread evenly over the training split, say what it looks like."""

FILE = "familiarity.json"


@dataclass(frozen=True)
class Fitted:
    """When a model declines to answer.

    Attributes:
        stated: the manifest's ``abstention``.
        files: name -> bytes.
        measured: on the test split: ``coverage``, ``answered``, ``unfamiliar`` (shares of all pictures), ``accuracy``
            and ``ece`` of the answered ones, each with its interval, and ``per_class`` coverage.
    """

    stated: dict[str, Any]
    files: dict[str, bytes] = field(repr=False)
    measured: dict[str, Any] = field(repr=False)


def fit_abstention(export: Export) -> Fitted:
    """Fit and measure when an export declines to answer.

    Args:
        export: whose ladder came to its end.
    """
    source = export.source
    run, index, temperature = source.run, source.index, source.run.info["temperature"]
    labels, engine = run.task.labels, export.recipe.target.engine
    training, validation = index.select(run.protocol, "train"), index.select(run.protocol, "val")
    training = training[:: math.ceil(len(training) / TRAINING_PICTURES)]

    def outputs(numbers: Sequence[int]) -> Outputs:
        return engine_outputs(export.models, source.io, source.pixels, numbers, engine)

    def described(numbers: Sequence[int], found: Outputs) -> Floats:
        return np.array(
            [describe(source.pixels[i], class_map) for i, class_map in zip(numbers, found.class_map, strict=True)]
        )

    known = outputs(validation)
    margins = np.array([*map(_short, conformal_margins(known.logits, index.targets(validation), temperature))])
    familiarity = fit_familiarity(described(training, outputs(training)), index.targets(training), len(labels))
    distances = [familiarity.distance(row) for row in described(validation, known)]
    limit = _short(np.quantile(distances, FAMILIAR, method="higher"))
    test = [familiarity.distance(row) for row in described(source.test, export.outputs)]
    groups = [index.rows[i].group for i in source.test]
    return Fitted(
        {
            "coverage": COVERAGE,
            "margins": dict(zip(labels, margins.tolist(), strict=True)),
            "familiarity": {"file": FILE, "limit": limit},
        },
        {FILE: (json.dumps(familiarity.to_dict(labels)) + "\n").encode()},
        measure_abstention(
            export.outputs.logits, source.targets, groups, labels, temperature, margins, np.array(test) > limit
        ),
    )


def _short(value: float) -> float:
    """Round to six digits, and never down: a limit that was seen in a picture still holds it."""
    short = float(f"{value:.6g}")
    return short if short >= value else float(f"{value * (1 + 1e-5):.6g}")


def conformal_margins(
    logits: npt.NDArray[np.floating], targets: npt.NDArray[np.int64], temperature: float, coverage: float = COVERAGE
) -> Floats:
    """Return how much less probable than the top label the true one may be, class by class.

    Of a class's n pictures the margin is the ceil((n + 1) coverage)-th smallest score (Angelopoulos and Bates 2021,
    arXiv:2107.07511, section 1). Where n is too small for that quantile to exist (19 pictures at 95 %) the margin is
    that of all pictures together, as in Ding et al. 2023 (arXiv:2306.09335) for classes that cannot stand alone.

    Args:
        logits: (N, K), finite.
        targets: (N,) class numbers.
        temperature: of the probabilities.
        coverage: wanted, 0..1.

    Returns:
        (K,) nats, 0 or more.
    """
    values = logits.astype(np.float64)
    scores = (values.max(1) - values[np.arange(len(targets)), targets]) / temperature
    together = _quantile(scores, coverage)
    margins = []
    for k in range(logits.shape[1]):
        own = _quantile(scores[targets == k], coverage)
        margins.append(together if own is None else own)
    if together is None:  # fewer pictures than anything can be said from: no label is ever excluded
        return np.full(logits.shape[1], 1e6)
    return np.array(margins, np.float64)


def _quantile(scores: Floats, coverage: float) -> float | None:
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return None if rank > len(scores) else float(np.sort(scores)[rank - 1])


def fit_familiarity(described: Floats, targets: npt.NDArray[np.int64], classes: int) -> Familiarity:
    """Learn what training pictures look like: a mean for each class, and one covariance (Ledoit and Wolf 2004).

    Args:
        described: (N, D) of `edge_runtime.familiarity.describe`.
        targets: (N,) class numbers.
        classes: K.
    """
    from sklearn.covariance import LedoitWolf

    present = [k for k in range(classes) if (targets == k).any()]
    means = np.array([described[targets == k if k in present else slice(None)].mean(0) for k in range(classes)])
    spread = (described - means[targets]).std(0)
    unit = np.maximum(spread, 1e-6)  # shrinking is towards a sphere: the numbers must be of one size
    precision = LedoitWolf(assume_centered=True).fit((described - means[targets]) / unit).precision_
    return Familiarity(means, np.linalg.cholesky(precision).T / unit)


def measure_abstention(
    logits: npt.NDArray[np.floating],
    targets: npt.NDArray[np.int64],
    groups: Sequence[str],
    labels: Sequence[str],
    temperature: float,
    margins: Floats,
    unfamiliar: npt.NDArray[np.bool_],
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Measure what declining does, with 95 % intervals over whole groups.

    Args:
        logits: (N, K).
        targets: (N,) class numbers.
        groups: (N) of the pictures.
        labels: K names.
        temperature: of the probabilities.
        margins: (K,) nats.
        unfamiliar: (N,) bool, pictures that are too far from the training pictures.
        resamples: of the bootstrap.

    Returns:
        As `Fitted.measured`.
    """
    possible = plausible(logits, temperature, tuple(margins))
    covered = possible[np.arange(len(targets)), targets]
    answered = (possible.sum(1) == 1) & ~unfamiliar
    sample = Resamples(len(targets), groups, 0, resamples)

    def share(of: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> dict[str, float] | None:
        sums = sample.sums(np.stack([of & among, among], 1).astype(np.float64))
        with np.errstate(invalid="ignore"):
            return percentile_interval(sums[:, 0] / sums[:, 1])

    everything = np.ones(len(targets), np.bool_)
    found: dict[str, Any] = {
        "coverage": share(covered, everything),
        "answered": share(answered, everything),
        "unfamiliar": share(unfamiliar, everything),
        "accuracy": share(logits.argmax(1) == targets, answered),
        "per_class": {
            label: {"coverage": share(covered, targets == k), "answered": share(answered, targets == k)}
            for k, label in enumerate(labels)
        },
    }
    if answered.any():
        kept = [group for group, yes in zip(groups, answered, strict=True) if yes]
        answers = evaluate_predictions(
            logits[answered], targets[answered], labels, temperature, kept, resamples=resamples
        )
        found["ece"] = answers["ece"]
    return found
