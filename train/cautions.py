"""Cautions: what weakens a run's figures, said by rules that look at the figures only.

What comes in are ``run.json`` and the data card of its index; what goes out are sentences for the report. A rule fires
or does not; none can be switched off, and none is written for one run.
"""

from __future__ import annotations

from typing import Any

from .describe import FEW_GROUPS
from .tables import best_control, interval_text


def cautions(info: dict[str, Any], card: dict[str, Any]) -> list[str]:
    """Say what weakens a run's figures, by rules that look at the figures only.

    Args:
        info: ``run.json`` with ``metrics``.
        card: data card of its index.
    """
    metrics = info["metrics"]
    test, control = metrics["test"], best_control(metrics)
    found = []
    if info["protocol"] == "stratified":
        found.append("pictures of one patient or slide are on both sides of this split; a grouped run is stricter")
    if control["macro_f1"]["value"] >= test["macro_f1"]["low"]:
        found.append(
            f"{control['name']} alone reaches macro-F1 {control['macro_f1']['value']:.3f}, within the network's "
            f"interval {interval_text(test['macro_f1'])}: on this split no skill beyond colour is shown"
        )
    for label, row in test["per_class"].items():
        if 0 < row["groups"] < FEW_GROUPS:
            found.append(f"{label} rests on {row['groups']} group(s) of the test split")
    for label, source in card["confounding"]["single_source"].items():
        if len(card["sources"]) > 1:
            found.append(f"{label} comes from {source} only: to know the source can be to know the class")
    if len(card["sources"]) == 1:
        found.append(f"every picture comes from {next(iter(card['sources']))}: another laboratory was never seen")
    if audit := info.get("audit"):
        for row in audit["rows"]:
            if row["expected"] == "falls" and row["balanced_accuracy"]["low"] > audit["chance_balanced_accuracy"]:
                found.append(
                    f"{row['name']}: balanced accuracy {interval_text(row['balanced_accuracy'])} is left, where "
                    f"chance gives {audit['chance_balanced_accuracy']:.3f}: the background says something of the "
                    "class, or the mask left something of the cell"
                )
        worst = audit["worst"]
        found.append(
            f"worst case of the audit: {worst['name']} changes macro-F1 by "
            f"{interval_text(worst['macro_f1_difference_pp'], 1)} percentage points"
        )
    else:
        found.append("not audited for shortcuts")
    sources = [part for tried in info.get("external", {}).values() for part in tried["sources"].values()]
    if all(part["trained_on"] for part in sources):
        found.append("not tried on pictures of any other laboratory")
    return found
