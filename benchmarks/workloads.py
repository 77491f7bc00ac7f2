"""Workloads: what `compare` times, each a function as ``contender`` takes it, run in a process of the revision's own.

A workload uses nothing of this project but the revision's own ``edge_runtime``, found first on the path, and of that
only what has been there since the first revision with bundles (ac61ca9): ``Classifier.open``, ``classify`` and
``classify_pixels``; ``start`` the command ``classify --json``. ``scan`` came with 7d63356. Everything runs on one
thread and one CPU: there `compare` can say what is the program's own and what are the neighbours on the machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What is timed, and what turns its result into an answer."""


def pixels(folder: str, cpu: int, picture: str, model: str) -> Run:
    """Classify pixels that are prepared already: `classify_pixels`."""
    _stay_on(cpu)
    classifier = _open(folder, model)
    prepared = classifier.classify(picture).pixels
    return lambda: classifier.classify_pixels(prepared), _answer


def file(folder: str, cpu: int, picture: str, model: str) -> Run:
    """Classify a picture's file: `classify`."""
    _stay_on(cpu)
    classifier = _open(folder, model)
    return lambda: classifier.classify(picture), _answer


def scan(folder: str, cpu: int, picture: str, model: str) -> Run:
    """Find and classify the white cells of a field's file: `Scanner.scan`."""
    _stay_on(cpu)
    scanner = _own(folder, "edge_runtime.scan").Scanner(_open(folder, model))
    return lambda: scanner.scan(picture), lambda field: [cell.prediction.label for cell in field.cells]


def start(folder: str, cpu: int, picture: str, model: str) -> Run:
    """Start a process that classifies a picture and prints JSON."""
    command = [sys.executable, "-m", "edge_runtime", "classify", "--json", "--threads", "1", "--model", model, picture]
    _stay_on(cpu)

    def run() -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"classify: exit status {done.returncode}")
        return done.stdout

    return run, lambda printed: json.loads(printed)["label"]


def _open(folder: str, model: str) -> Any:
    return _own(folder, "edge_runtime.classifier").Classifier.open(model, threads=1)


def _own(folder: str, name: str) -> Any:
    """Import a module of the revision. What it lacks, an installed package (an editable one, too) would have."""
    spec = importlib.util.find_spec(name)
    if spec is None or not Path(spec.origin or "").resolve().is_relative_to(Path(folder).resolve()):
        raise RuntimeError(f"it has no {name}")
    return importlib.import_module(name)


def _stay_on(cpu: int) -> None:
    """Keep this process to one CPU: two CPUs may differ, and A and B take turns on it.

    Before anything is opened: a classifier that sees a spare CPU judges on a thread of its own, whose time would be
    counted as waiting, or as nobody's.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})


def _answer(prediction: Any) -> list[Any]:
    return [prediction.label, round(float(prediction.probability), 4)]
