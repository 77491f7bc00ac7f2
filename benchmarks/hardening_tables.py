"""Hardening tables: the figures of ``docs/hardening.md``, from ``results`` and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.layout import markdown

FUZZ = Path(__file__).parent / "results" / "fuzz.json"

COUNTS = {
    "cases": "cases",
    "answers": "ended with an answer",
    "refused": "refused in one clear line",
    "crashes": "process died",
    "hangs": "hung or took more than 20 s",
    "tracebacks": "tracebacks",
    "others": "anything else that must not be",
    "engine_deaths": "the engine died of a model whose hash is right",
}
"""Key of a run's figures -> row of the table."""


def fuzz_table() -> str:
    """What became of all mutated pictures and bundles; what was mutated; time, memory, versions."""
    found = {kind: _with_sums(figures) for kind, figures in json.loads(FUZZ.read_text(encoding="utf-8")).items()}
    kinds = sorted(found, reverse=True)
    rows = [[title, *(f"{found[kind][key]:,}" for kind in kinds)] for key, title in COUNTS.items()]
    rows += [
        ["slowest case, CPU seconds", *(f"{found[kind]['slowest_s']:.2f}" for kind in kinds)],
        ["peak resident set, MiB", *(f"{found[kind]['peak_rss_mib']:.0f}" for kind in kinds)],
    ]
    parts = [markdown(("", *kinds), rows)]
    for kind in kinds:
        groups = ", ".join(f"{name} {count:,}" for name, count in found[kind]["by_group"].items())
        parts.append(f"{kind.capitalize()}: {groups}. First mutator: {_list(found[kind]['by_mutator'])}.")
        parts.append(f"Outcomes: {_list(found[kind]['outcomes'])}.")
    versions = found[kinds[0]]["versions"]
    parts.append(
        f"Python {found[kinds[0]]['python']}, {', '.join(f'{name} {version}' for name, version in versions.items())}."
    )
    return "\n\n".join(parts)


def _with_sums(figures: dict[str, Any]) -> dict[str, Any]:
    kinds_of_findings = sum(figures[key] for key in ("crashes", "hangs", "tracebacks"))
    refused = sum(count for outcome, count in figures["outcomes"].items() if "Error" in outcome)
    return figures | {"refused": refused, "others": figures["findings"] - kinds_of_findings}


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


TABLES = {"fuzz": fuzz_table}
"""Place in the page -> what writes it."""
