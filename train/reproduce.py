"""Reproduce: the command lines that make a run again, read off its ``run.json``.

Defaults are left out. What the description does not hold - where the data, a weights file or a teacher lies - stands
there in capitals.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from .augment import AUGMENTATIONS, Augmentation
from .backbones import BACKBONES
from .schedule import FitConfig
from .tasks import TASKS


def commands(folder: Path, info: dict[str, Any]) -> list[str]:
    """Return the command lines from the data to the report.

    Args:
        folder: the run's.
        info: its ``run.json``.
    """
    index, out = str(info["index"]), str(folder)
    build = ["index", "--task", info["task"], "--data", "DATA", "--sources", *info["sources"]]
    if info["labels"] != list(TASKS[info["task"]].labels):
        build += ["--labels", *info["labels"]]
    if info.get("index_limit"):
        build += ["--limit", str(info["index_limit"])]
    steps = [
        [*build, "--out", index],
        ["split", index, "--seed", str(info["split_seed"])],
        ["fit", index, *_fit_options(info), "--out", out],
        ["evaluate", out],
    ]
    for key, split in (("audit", []), ("audit_val", ["--split", "val"])):
        if key in info:
            steps.append(["audit", out, *split])
    if "heatmaps" in info:
        steps.append(["audit-heatmaps", out])
    for found in info.get("external", {}).values():
        split = [] if found["split"] == "all" else ["--split", found["split"]]
        steps.append(["external", out, found["index"], *split])
    return [shlex.join(["python", "-m", "train", *step]) for step in steps]


def _fit_options(info: dict[str, Any]) -> list[str]:
    options = ["--protocol", info["protocol"], "--backbone", info["backbone"]]
    options += ["--weights", _weights(info["pretrained"])]
    options += ["--weights-scaling", "imagenet"] if info.get("weights_scaling") == "imagenet" else []
    if info["input_px"] != BACKBONES[info["backbone"]].native_px:
        options += ["--px", str(info["input_px"])]
    stated = info.get("preprocess", {})
    options += ["--background", "neutral"] if stated.get("background", "keep") != "keep" else []
    options += ["--stain", stated["stain"]] if stated.get("stain", "keep") != "keep" else []
    options += ["--precision", info["precision"]] if info.get("precision", "32-true") != "32-true" else []
    if info.get("teacher"):
        options += ["--teacher", "TEACHER"]
    augmentation = augmentation_name(info)
    if augmentation != "full":
        options += ["--augmentation", augmentation]
    for field in dataclasses.fields(FitConfig):
        value = info["config"].get(field.name, field.default)
        if value != field.default:
            options += [f"--{field.name.replace('_', '-')}", str(value)]
    return options


def _weights(pretrained: str) -> str:
    return pretrained if pretrained in ("imagenet", "none") else f"WEIGHTS/{pretrained}"


def augmentation_name(info: dict[str, Any]) -> str:
    """Return which row of `train.augment.AUGMENTATIONS` a run was trained with; "OTHER" where it is none of them."""
    stored = info["config"].get("augmentation", {})
    if not stored or not set(stored) <= {field.name for field in dataclasses.fields(Augmentation)}:
        return "OTHER"
    strengths = Augmentation(**stored)  # a part that came later was off, or is as it always was
    return next((name for name, row in AUGMENTATIONS.items() if row == strengths), "OTHER")
