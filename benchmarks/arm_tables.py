"""Arm's tables: the figures of ``docs/arm.md``, from ``results/arm.json`` and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.layout import markdown

RESULTS = Path(__file__).parent / "results" / "arm.json"

SIDES = {
    "native": "x86-64",
    "cortex-a53": "Cortex-A53 (Pi 3, Zero 2 W)",
    "cortex-a72": "Cortex-A72 (Pi 4)",
    "cortex-a76": "Cortex-A76 (Pi 5)",
    "max": "control: qemu's `max`",
    "bare": "control: Cortex-A72 whose kernel does not say so",
}
"""Side -> what it stands for."""


def arm_table() -> str:
    """Each processor's outputs beside x86's."""
    found = _read()
    rows = []
    for side in found["sides"]:
        name = SIDES.get(side["side"], side["side"])
        title = [f"{side['release']}, {side.get('python', 'no outputs')}", side["engine"], name]
        if side["side"] == "native" and side["engine"] == "litert":  # the reference
            continue
        bundles = side["bundles"].values()
        errors = [bundle["error"] for bundle in bundles if "error" in bundle]
        if errors:
            rows.append([*title, f"no outputs: {errors[0]}", *[""] * 6])
            continue
        steps = [max(bundle[key] for bundle in bundles) for key in ("logits_steps", "class_map_steps")]
        rows.append(
            [
                *title,
                _share(bundles, "pixels_equal", "pictures"),
                _share(bundles, "values_equal", "values"),
                f"{steps[0]} / {steps[1]}",
                *(_share(bundles, key, "pictures") for key in ("top1_equal", "json_equal", "decisions_equal")),
                _share(bundles, "verified", "golden"),
            ]
        )
    head = (
        "Debian, Python",
        "engine",
        "processor",
        "pixels equal",
        "output integers equal",
        "largest difference, steps: logits / class map",
        "top-1 agreement",
        "JSON lines equal but for times",
        "answers equal",
        "golden pictures verified",
    )
    return f"{markdown(head, rows)}\n\n{_setting(found)}"


def judged_table() -> str:
    """The numbers that decide whether there is an answer, beside x86's."""
    rows = []
    for side in _read()["sides"]:
        if side["side"] == "native" or side["control"]:
            continue
        for model, one in side["bundles"].items():
            if "error" in one:
                continue
            known = one["distance_margin"] is not None
            rows.append(
                [
                    f"{side['release']}, {side['engine']}, {SIDES.get(side['side'], side['side'])}",
                    f"`{model}`",
                    f"{one['quality_equal']} of {one['pictures']}",
                    f"{one['distance_difference']:.1e}" if known else "",
                    f"{one['distance_margin']:.1e}" if known else "",
                ]
            )
    head = (
        "",
        "bundle",
        "pictures with all nine quality numbers equal, bit for bit",
        "largest relative difference of the distance from the training pictures",
        "smallest relative distance of any picture's from the limit, on x86",
    )
    return markdown(head, rows)


def _share(bundles: Sequence[dict[str, Any]], key: str, whole: str) -> str:
    part, all_of_it = (sum(bundle[name] for bundle in bundles) for name in (key, whole))
    return f"{part:,} of {all_of_it:,}"


def _setting(found: dict[str, Any]) -> str:
    """Say what ran, and on which pictures."""
    packages = {
        (side["release"], side["engine"]): side["packages"] for side in found["sides"] if side["side"] == "native"
    }
    versions = "; ".join(
        f"{release}, {engine}: {', '.join(name for name in names if not name.startswith('leukoscope'))}"
        for (release, engine), names in packages.items()
    )
    models = found["sides"][0]["bundles"]
    counts = " and ".join(f"{one['pictures']} of `{model}`" for model, one in models.items())
    reference = f"Each is compared with LiteRT on {found['x86']['cpu']}, the same release"
    return f"{reference}, on {counts}. {found['qemu']}. {versions}."


def _read() -> Any:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


TABLES = {"arm": arm_table, "arm-judged": judged_table}
"""Place in the page -> what writes it."""
