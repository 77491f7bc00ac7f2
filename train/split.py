"""Split: who may learn from a picture, who may choose by it, and who may only be judged by it.

Two protocols, both recorded in the index. ``stratified`` deals pictures out one by one, 80/10/10, as the paper does;
``grouped`` deals out whole groups (patients, or near-duplicate and colour clusters), about 75/11/14: no group is
on two sides. Both keep the class shares, source by source.
"""

from __future__ import annotations

import dataclasses

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
        DataError: too few groups to keep every class on every side.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if seed < 0:
        raise UsageError("--seed", got=seed, expected="0 or more")
    strata = np.array([f"{row.source}:{row.label}" for row in index.rows])
    groups = np.array([row.group for row in index.rows])
    columns = {}
    for protocol, splitter in (("stratified", StratifiedKFold), ("grouped", StratifiedGroupKFold)):
        column = np.full(len(strata), "train", dtype=object)
        for side, folds in zip(("test", "val"), FOLDS[protocol], strict=True):
            left = np.flatnonzero(column == "train")
            dealer = splitter(n_splits=folds, shuffle=True, random_state=seed)
            by = groups[left] if protocol == "grouped" else None
            try:
                _, held_out = next(dealer.split(left, strata[left], by))
            except ValueError as error:
                raise DataError(
                    f"{protocol} protocol: too few groups or pictures to split", got=str(error), todo="add pictures"
                ) from None
            column[left[held_out]] = side
        columns[protocol] = column.tolist()
    rows = tuple(
        dataclasses.replace(row, stratified=stratified, grouped=grouped)
        for row, stratified, grouped in zip(index.rows, columns["stratified"], columns["grouped"], strict=True)
    )
    for protocol in PROTOCOLS:
        for name in SPLITS:
            held = {row.label for row in rows if getattr(row, protocol) == name}
            missing = [label for label in index.task.labels if label not in held]
            if missing:
                raise DataError(
                    f"{protocol} protocol: the {name} side would hold no {', '.join(missing)}",
                    got=f"{len(set(groups))} groups",
                    todo="try another --seed, or add pictures",
                )
    done = dataclasses.replace(index, rows=rows, info=index.info | {"split_seed": seed})
    write_index(done)
    return done
