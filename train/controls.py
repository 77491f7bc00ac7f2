"""Controls: how far one comes on the same split without looking at a single cell.

What comes in is an index with splits and its prepared pixels; what goes out is a row per control, fitted on train and
judged on test with the metrics that the network is judged with. A network's number means something only where it stands
well above these: colour alone, the background ring alone, the most frequent class; where a task pools sources, how
surely the ring gives the source away; and what is left of the network when a burnt-in mark is covered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.preprocess import Pixels

from .colour import colour_numbers
from .index import Index
from .metrics import RESAMPLES, evaluate_labels, evaluate_operating_point, paired_difference

Numbers = npt.NDArray[np.int64]

_BLOCK = 64  # pictures between two steps of the progress bar


@dataclass(frozen=True)
class Features:
    """What the controls may know of each picture of an index.

    Attributes:
        colour: (N, 21) float32, colour numbers of the whole picture.
        ring: (N, 21) float32, colour numbers of the background ring.
    """

    colour: npt.NDArray[np.float32]
    ring: npt.NDArray[np.float32]

    def __getitem__(self, numbers: npt.NDArray[Any]) -> Features:
        """Return those of some pictures."""
        return Features(self.colour[numbers], self.ring[numbers])


def _one_nn() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1)


def _lda() -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis()


CLASSIFIERS: dict[str, Callable[[], Any]] = {"1-NN": _one_nn, "LDA": _lda}
"""The simplest two: memory, and a straight line. 1-NN gives no graded score, so LDA alone has an AUROC."""


def control_features(pixels: Pixels, numbers: Sequence[int] | None = None) -> Features:
    """Compute colour numbers of pictures, whole and ring, with a progress bar.

    Args:
        pixels: (N, H, W, 3) uint8.
        numbers: which of them, in the order of the result; None: all.
    """
    from tqdm import tqdm

    chosen = range(len(pixels)) if numbers is None else numbers
    colour, ring = [], []
    for start in tqdm(range(0, len(chosen), _BLOCK), desc="colour", unit="block", leave=False, disable=None):
        block = np.asarray(pixels[list(chosen[start : start + _BLOCK])])
        colour.append(colour_numbers(block))
        ring.append(colour_numbers(block, ring_only=True))
    return Features(np.concatenate(colour), np.concatenate(ring))


def controls(
    index: Index, features: Features, protocol: str, seed: int = 0, resamples: int = RESAMPLES
) -> list[dict[str, Any]]:
    """Fit every control on the training split and judge it on the test split.

    Args:
        index: with splits.
        features: of all its rows.
        protocol: whose splits.
        seed: of the intervals' resampling.
        resamples: how many.

    Returns:
        Rows as from `class_controls`; where there are several sources, also rows that ask for the source.
    """
    train, test = (np.array(index.select(protocol, split)) for split in ("train", "test"))
    y = index.targets(range(len(index.rows)))
    table = class_controls(features[train], y[train], features[test], index, test, seed, resamples)
    sources = sorted({row.source for row in index.rows})
    if len(sources) < 2:
        return table
    groups = np.array([row.group for row in index.rows])
    source = np.array([sources.index(row.source) for row in index.rows])
    shared = _shared_labels(index, sources)
    for scope, kept in (("", np.ones(len(y), bool)), (", shared classes only", np.isin(y, shared))):
        fitted, rows = train[kept[train]], test[kept[test]]
        if len(rows) == 0 or len(set(source[fitted])) < 2:
            continue
        for how, build in CLASSIFIERS.items():
            said = _fit(build, features.ring[fitted], source[fitted]).predict(_double(features.ring[rows]))
            found = evaluate_labels(said, source[rows], len(sources), groups[rows], seed, resamples)
            name = f"source from ring, {how}{scope}"
            table.append({"name": name, "asks": "source", "classes": len(sources)} | found)
    return table


def class_controls(
    train: Features,
    train_targets: Numbers,
    features: Features,
    index: Index,
    numbers: Numbers,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Fit what asks for the class on training pictures and judge it on others, of this index or of another one.

    Args:
        train: features of the training pictures.
        train_targets: their class numbers.
        features: of the pictures to judge on.
        index: whose pictures those are; its task's labels are the classes.
        numbers: N rows of it.
        seed: of the intervals' resampling.
        resamples: how many.

    Returns:
        Rows: ``name``; ``asks``, "class"; ``classes``; ``n``; intervals ``accuracy``, ``balanced_accuracy`` and
        ``macro_f1``. LDA's rows also have ``operating_points``: {name, test, per_source} with ``auroc`` intervals.
    """
    y, classes = index.targets(numbers.tolist()), len(index.task.labels)
    groups = np.array([index.rows[i].group for i in numbers])

    def judge(name: str, said: Numbers) -> dict[str, Any]:
        found = evaluate_labels(said, y, classes, groups, seed, resamples)
        return {"name": name, "asks": "class", "classes": classes} | found

    majority = np.full(len(y), np.bincount(train_targets, minlength=classes).argmax())
    table = [judge("majority", majority)]
    for what, x, other in (
        ("colour", train.colour, features.colour),
        ("background ring", train.ring, features.ring),
    ):
        for how, build in CLASSIFIERS.items():
            model = _fit(build, x, train_targets)
            row = judge(f"{what}, {how}", model.predict(_double(other)))
            if how == "LDA":
                p = np.zeros((len(y), classes))
                p[:, model[-1].classes_] = model.predict_proba(_double(other))
                row["operating_points"] = _aurocs(index, p, numbers, groups, seed, resamples)
            table.append(row)
    return table


def burnt_in_control(
    outputs: Callable[[Pixels], npt.NDArray[np.float32]],
    logits: npt.NDArray[np.float32],
    index: Index,
    pixels: Pixels,
    numbers: list[int],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any] | None:
    """Judge the network once more with every burnt-in mark covered by the field above it.

    Args:
        outputs: the network, (N, H, W, 3) uint8 -> logits (N, K).
        logits: (N, K) of the same pictures as they are.
        index: whose pictures.
        pixels: (all rows, H, W, 3) uint8.
        numbers: N rows to judge on.
        seed: of the intervals' resampling.
        resamples: how many.

    Returns:
        A row as from `controls`, with ``macro_f1_difference_pp`` against the uncovered pictures; None where no source
        of the index has a mark.
    """
    from .augment import blank_burnt_in
    from .sources import SOURCES

    boxes = [SOURCES[index.rows[i].source].burnt_in for i in numbers]
    if not any(boxes):
        return None
    covered = outputs(blank_burnt_in(np.asarray(pixels[numbers]), boxes))
    targets, labels = index.targets(numbers), index.task.labels
    groups = [index.rows[i].group for i in numbers]
    found = evaluate_labels(covered.argmax(1), targets, len(labels), groups, seed, resamples)
    difference = paired_difference(logits, covered, targets, groups, labels, seed, resamples)
    return (
        {"name": "network, burnt-in mark blanked", "asks": "class", "classes": len(labels)}
        | found
        | {"macro_f1_difference_pp": difference["macro_f1_difference_pp"]}
    )


def _fit(build: Callable[[], Any], x: npt.NDArray[np.float32], y: Numbers) -> Any:
    """Fit on standardised features; return the pipeline."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), build()).fit(_double(x), y)


def _double(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return x.astype(np.float64)


def _aurocs(
    index: Index,
    p: npt.NDArray[np.float64],
    numbers: Numbers,
    groups: npt.NDArray[Any],
    seed: int,
    resamples: int,
) -> list[dict[str, Any]]:
    """AUROC of each operating point's question, over all sources and within each; None where only one side is there."""
    y, source = index.targets(numbers.tolist()), np.array([index.rows[i].source for i in numbers])
    points = []
    for point in index.task.operating_points:
        positive = [index.task.labels.index(label) for label in point.positive]

        def auroc(chosen: npt.NDArray[np.bool_], positive: list[int] = positive) -> dict[str, Any]:
            found = evaluate_operating_point(p[chosen], y[chosen], positive, 0.5, groups[chosen], seed, resamples)
            return {key: found[key] for key in ("n", "positives", "auroc")}

        per_source = {str(name): auroc(source == name) for name in sorted(set(source))} if len(set(source)) > 1 else {}
        points.append({"name": point.name, "test": auroc(np.ones(len(y), bool)), "per_source": per_source})
    return points


def _shared_labels(index: Index, sources: list[str]) -> list[int]:
    """Class numbers that every source holds."""
    held = [{row.label for row in index.rows if row.source == source} for source in sources]
    return [k for k, label in enumerate(index.task.labels) if all(label in labels for labels in held)]
