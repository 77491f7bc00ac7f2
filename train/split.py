"""Split: who may learn from a picture, who may choose by it, and who may only be judged by it.

Two protocols, both recorded in the index. ``stratified`` deals pictures out one by one, 80/10/10, as the paper does;
``grouped`` deals out whole groups (patients, or near-duplicate and colour clusters), about 75/11/14: no group is
on two sides. Both keep the class shares, source by source.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from edge_runtime.errors import UsageError

from .errors import DataError
from .index import PROTOCOLS, SPLITS, Index, write_index

FOLDS = {"stratified": (10, 9), "grouped": (7, 8)}
"""Per protocol: test is one fold of the first number, then val is one fold of the second number of what is left."""


def split_index(index: Index, seed: int = 0) -> Index:
    """Deal out the pictures under both protocols and write the index.

    Args:
        index: with groups.
        seed: of the dealing; recorded in ``index.json``.

    Returns:
        The index with both split columns filled.

    Raises:
        UsageError: a seed that is none.
        DataError: too few pictures or groups to keep every class on every side.
    """
    if not 0 <= seed < 2**32:
        raise UsageError("--seed", got=seed, expected=f"0 to {2**32 - 1}")
    columns = {protocol: _deal(index, protocol, seed) for protocol in PROTOCOLS}
    rows = tuple(
        dataclasses.replace(row, stratified=stratified, grouped=grouped)
        for row, stratified, grouped in zip(index.rows, columns["stratified"], columns["grouped"], strict=True)
    )
    done = dataclasses.replace(index, rows=rows, info=index.info | {"split_seed": seed})
    write_index(done)
    return done


def _deal(index: Index, protocol: str, seed: int) -> list[str]:
    """Return the side of every row under one protocol."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    splitter = {"stratified": StratifiedKFold, "grouped": StratifiedGroupKFold}[protocol]
    strata = np.array([f"{row.source}:{row.label}" for row in index.rows])
    groups = np.array([row.group for row in index.rows])
    column = np.full(len(strata), "train", dtype=object)
    for side, folds in zip(("test", "val"), FOLDS[protocol], strict=True):
        left = np.flatnonzero(column == "train")
        by = groups[left] if protocol == "grouped" else None
        dealer = splitter(n_splits=folds, shuffle=True, random_state=seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of strata smaller than the folds: what they lack is looked at below
                _, held_out = next(dealer.split(left, strata[left], by))
        except ValueError:
            raise _too_few(index, protocol, "cannot be dealt out", index.task.labels) from None
        column[left[held_out]] = side
    for side in SPLITS:
        held = {row.label for row, dealt in zip(index.rows, column, strict=True) if dealt == side}
        missing = [label for label in index.task.labels if label not in held]
        if missing:
            raise _too_few(index, protocol, f"the {side} side would hold no {', '.join(missing)}", missing)
    return [str(side) for side in column]


def _too_few(index: Index, protocol: str, what: str, labels: Sequence[str]) -> DataError:
    """Return the error that names the smallest of the classes' parts, source by source."""
    parts: dict[tuple[str, str], list[str]] = {}
    for row in index.rows:
        if row.label in labels:
            parts.setdefault((row.source, row.label), []).append(row.group)
    unit = "pictures" if protocol == "stratified" else "groups"

    def size(groups: list[str]) -> int:
        return len(groups) if unit == "pictures" else len(set(groups))

    (source, label), groups = min(parts.items(), key=lambda part: size(part[1]))
    return DataError(
        f"{protocol} protocol: {what}",
        got=f"{label} from {source} in {len(groups)} pictures of {len(set(groups))} group(s)",
        expected=f"as a rule {max(FOLDS[protocol])} {unit} or more of every class and source",
        todo=f"add pictures, do without {label} (index --labels), or try another --seed",
    )
