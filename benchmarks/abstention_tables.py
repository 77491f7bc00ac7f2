"""Abstention tables: the figures of ``docs/abstention.md``, from ``results/abstention.json`` and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.layout import markdown

RESULTS = Path(__file__).parent / "results" / "abstention.json"

GROUPS = {
    "a": "other stains and sources",
    "b": "photographs",
    "c": "blurred, badly lit or stained, empty",
    "d": "noise",
}
"""Letter in the results -> what such pictures are."""


def _tasks() -> dict[str, Any]:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {name: task for name, task in found.items() if name != "machine"}


def declining_table() -> str:
    """Coverage, what is answered and how right that is, on the test split."""
    rows = []
    for name, found in _tasks().items():
        test = found["test"]
        worst = min(test["per_class"].items(), key=lambda item: item[1]["coverage"]["value"])
        calibrated = test["ece_if_calibrated"]
        rows.append(
            [
                name,
                str(test["n"]),
                _interval(test["coverage"]),
                f"{worst[1]['coverage']['value']:.3f} ({worst[0]})",
                _interval(test["answered"]),
                f"{test['accuracy_of_all']:.3f}",
                _interval(test["accuracy"]),
                f"{_interval(test['ece_of_all'])}; {calibrated['mean']:.3f}",
                _interval(test["ece"]),
                f"{test['unfamiliar']['value']:.3f}",
            ]
        )
    head = (
        "bundle",
        "test pictures",
        "coverage",
        "least of a class",
        "answered",
        "accuracy, all",
        "accuracy, answered",
        "ECE, all; if it were 0",
        "ECE, answered",
        "unfamiliar",
    )
    return markdown(head, rows)


def classes_table() -> str:
    """Coverage and what is answered, class by class."""
    rows = [
        [name, label, _interval(one["coverage"]), _interval(one["answered"])]
        for name, found in _tasks().items()
        for label, one in found["test"]["per_class"].items()
    ]
    return markdown(("bundle", "class", "coverage", "answered"), rows)


def strange_table(name: str) -> Callable[[], str]:
    """Return what writes the table of one bundle: AUROC and refusals, set by set."""

    def write() -> str:
        found = _tasks()[name]
        rows = []
        for title, one in sorted(found["sets"].items(), key=lambda item: item[1]["group"]):
            unit = f" ({one['unit']})" if one.get("unit") else ""
            rows.append(
                [
                    f"{one['group']}: {GROUPS[one['group']]}",
                    f"{title}{unit}",
                    str(one["n"]),
                    _interval(one["auroc"]),
                    f"{100 * one['unfamiliar']:.1f}",
                    f"{100 * one['refused']:.1f}",
                ]
            )
        return markdown(("", "pictures", "n", "AUROC of the distance", "unfamiliar, %", "no answer, %"), rows)

    return write


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


TABLES: dict[str, Callable[[], str]] = {
    "declining": declining_table,
    "declining-classes": classes_table,
    "strange-blood-cells": strange_table("blood-cells"),
    "strange-all-subtypes": strange_table("all-subtypes"),
}
"""Place in ``docs/abstention.md`` -> what writes it."""
