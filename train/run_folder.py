"""Run folder: what a training leaves behind - ``weights.safetensors`` and ``run.json``, always together.

``fit`` writes it, ``evaluate`` adds metrics, temperature and thresholds, ``export`` reads it. The weights' hash stands
in ``run.json``; a pair that does not fit together is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import UsageError
from edge_runtime.files import write_bytes, write_text
from edge_runtime.preprocess import Preprocess

from .errors import DataError
from .tasks import TASKS, Task

if TYPE_CHECKING:
    from .network import SelfExplaining

WEIGHTS = "weights.safetensors"
INFO = "run.json"
KINDS = {
    "task": str,
    "labels": list,
    "backbone": str,
    "input_px": int,
    "protocol": str,
    "index": str,
    "data_sha256": str,
}
"""What every ``run.json`` holds at least."""


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    Attributes:
        folder: where it lies.
        network: with its weights, in eval mode.
        task: what it answers.
        info: ``run.json``.
    """

    folder: Path
    network: SelfExplaining
    task: Task
    info: dict[str, Any]

    @property
    def backbone(self) -> str:
        """Row of `train.backbones.BACKBONES`."""
        return str(self.info["backbone"])

    @property
    def protocol(self) -> str:
        """The split protocol it was trained under."""
        return str(self.info["protocol"])

    @property
    def input_px(self) -> int:
        """Height and width of its input, pixels."""
        return int(self.info["input_px"])

    @property
    def preprocess(self) -> Preprocess:
        """How its pictures become pixels; runs from before it was stated have the default of their input size.

        Raises:
            DataError: stated, but not a preprocessing of this version.
        """
        try:
            return Preprocess(**self.info.get("preprocess", {"input_px": self.input_px}))
        except (TypeError, UsageError) as error:
            raise DataError(f"{self.folder / INFO}: preprocess", got=str(error)) from None


def write_run(folder: Path, network: SelfExplaining, info: dict[str, Any]) -> None:
    """Write weights and description; the description, which vouches for the weights, last."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    encoded = save({name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()})
    write_bytes(folder / WEIGHTS, encoded)
    write_info(folder, info | {"weights_sha256": hashlib.sha256(encoded).hexdigest()})


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write ``run.json``."""
    write_text(folder / INFO, json.dumps(info, indent=2) + "\n")


def update_info(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Set some of ``run.json``'s keys and return all of it; what another command has written meanwhile stays.

    Raises:
        DataError: missing or not a run.
    """
    info = read_info(folder) | changes
    write_info(folder, info)
    return info


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        DataError: missing or not a run.
    """
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no run here", got=f"no {INFO}", todo="run: python -m train fit INDEX --out RUN"
        ) from None
    except ValueError as error:
        raise DataError(f"{folder / INFO}: not JSON", got=str(error)) from None
    if not isinstance(info, dict) or info.get("format") != "leukoscope-run" or info.get("version") != 1:
        raise DataError(f"{folder / INFO}: not a run of this version", expected="format leukoscope-run, version 1")
    for key, kind in KINDS.items():
        if not isinstance(info.get(key), kind):
            raise DataError(f"{folder / INFO}: {key}", got=str(info.get(key)), expected=f"a {kind.__name__}")
    return info


def run_of_weights(file: Path) -> dict[str, Any] | None:
    """Return ``run.json`` of the run that a weights file is of, or None: published weights are of none."""
    return read_info(file.parent) if file.name == WEIGHTS and (file.parent / INFO).is_file() else None


def read_run(folder: Path) -> Run:
    """Read a run folder and build its network.

    Raises:
        DataError: missing, of an unknown task or backbone, or weights that are not the described ones.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from .backbones import BACKBONES
    from .network import SelfExplaining

    info = read_info(folder)
    try:
        encoded = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise DataError(f"{folder / WEIGHTS}: cannot be read", got=error.strerror) from None
    found = hashlib.sha256(encoded).hexdigest()
    if found != info.get("weights_sha256"):
        raise DataError(f"{folder}: weights and run.json do not belong together", got=f"sha256 {found[:12]}")
    if info["task"] not in TASKS or info["backbone"] not in BACKBONES:
        raise DataError(f"{folder}: unknown task or backbone", got=f"{info['task']}, {info['backbone']}")
    task = TASKS[info["task"]]
    if [label for label in task.labels if label in info["labels"]] != info["labels"]:
        raise DataError(
            f"{folder}: labels are not the task's, in its order", got=info["labels"], expected=list(task.labels)
        )
    task = task.restricted(info["labels"])
    network = SelfExplaining(BACKBONES[info["backbone"]], len(task.labels))
    try:
        network.load_state_dict(load(encoded))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{folder / WEIGHTS}: not weights of {info['backbone']}", got=str(error)[:200]) from None
    return Run(folder, network.eval(), task, info)
