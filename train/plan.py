"""Plan: what one training is - data, network, weights, augmentation, schedule - in one immutable record.

Its description is the identity of a run: a checkpoint of another plan is refused, and ``run.json`` repeats it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.preprocess import Preprocess

from .errors import DataError
from .index import Index
from .schedule import FitConfig

if TYPE_CHECKING:
    from .augment import Augmentation


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Attributes:
        index: with splits.
        protocol: whose splits.
        backbone: row of `train.backbones.BACKBONES`.
        weights: "imagenet", "none" or a file.
        scaling: of a weights file, see `train.pretrained.load_weights`.
        preprocess: how pictures become pixels.
        augmentation: strengths.
        teacher: run folder of a bigger network, or None.
        config: schedule.
        precision: of the arithmetic, as Lightning Fabric names it.
    """

    index: Index
    protocol: str
    backbone: str
    weights: str
    scaling: str
    preprocess: Preprocess
    augmentation: Augmentation
    teacher: Path | None
    config: FitConfig
    precision: str = "32-true"

    @property
    def from_file(self) -> bool:
        """Whether the first weights are a file's."""
        return self.weights not in ("imagenet", "none")

    def require_unseen(self) -> None:
        """Refuse first weights of a run that may have seen this plan's validation or test pictures.

        Raises:
            DataError: the run's pictures come from one of this index's sources, and were split otherwise.
        """
        from .run_folder import run_of_weights

        info = run_of_weights(Path(self.weights)) if self.from_file else None
        if info is None or (info["data_sha256"], info["protocol"]) == (self.index.sha256, self.protocol):
            return
        if shared := set(info["sources"]) & {row.source for row in self.index.rows}:
            raise DataError(
                f"{self.weights}: may have been trained on pictures that are to judge this run",
                got=f"{', '.join(sorted(shared))} under another index or protocol",
                expected=f"weights of {self.index.folder} under the {self.protocol} protocol, or of other sources",
            )

    def describe(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it; with the code's versions left out, the identity of the run."""
        from .run_folder import read_info

        index, task = self.index, self.index.task
        return {
            "format": "leukoscope-run",
            "version": 1,
            "task": task.name,
            "labels": list(task.labels),
            "backbone": self.backbone,
            "input_px": self.preprocess.input_px,
            "preprocess": dataclasses.asdict(self.preprocess),
            "protocol": self.protocol,
            "precision": self.precision,
            "seed": self.config.seed,
            "split_seed": index.info.get("split_seed"),
            "index": str(index.folder),
            "data_sha256": index.sha256,
            "sources": index.info["sources"],  # in their order, on which that of the pictures and the splits rest
            "index_limit": index.info.get("limit"),
            "pictures": {split: len(index.select(self.protocol, split)) for split in ("train", "val", "test")},
            "pretrained": Path(self.weights).name if self.from_file else self.weights,
            "pretrained_sha256": _sha256(Path(self.weights)) if self.from_file else None,
            "weights_scaling": self.scaling if self.from_file else None,
            "teacher": read_info(self.teacher)["weights_sha256"] if self.teacher else None,
            "config": dataclasses.asdict(self.config) | {"augmentation": dataclasses.asdict(self.augmentation)},
        }


def _sha256(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None  # a missing one is named later
