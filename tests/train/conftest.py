"""Fixtures: drawn crops whose class can be read off the cell as well as off the background, and networks that do so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edge_runtime.preprocess import Preprocess
from train.index import Index, build_index, write_index
from train.pixels import DEFAULT
from train.run_folder import Run, write_info
from train.tasks import TASKS

TWO = ("blast", "lymphocyte")
LOOKS = {"blast": ((90, 60, 150), (235, 225, 220)), "lymphocyte": ((60, 40, 110), (215, 220, 235))}
"""Colours of nucleus and background."""


class Reader(nn.Module):
    """Stands for a network: it looks at one place and one channel, and compares with a limit.

    Args:
        place: first and last row and column, pixels of 224.
        channel: 0..2.
        limit: grey level; above it is the first class.
        sign: -1 for the other way round.
    """

    def __init__(self, place: tuple[int, int], channel: int, limit: float, sign: int = 1) -> None:
        super().__init__()
        self.place, self.channel, self.limit, self.sign = place, channel, limit, sign
        self.anchor = nn.Parameter(torch.zeros(()))  # by which the device is found

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.place
        level = pixels[:, first:last, first:last, self.channel].float().mean((1, 2))
        score = self.sign * (level - self.limit)
        logits = torch.stack([score, -score], 1)
        return logits, logits[:, None, None]


READS_CELL = Reader((108, 116), channel=1, limit=50)
READS_BACKGROUND = Reader((0, 8), channel=2, limit=227, sign=-1)


def draw_crops(data: Path, count: int, seed: int, labels: tuple[str, ...] = TWO) -> None:
    """Draw `count` crops per class: a round nucleus on a plain background, both a little noisy."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((112, 112)) - 55.5
    for label in labels:
        nucleus, field = LOOKS[label]
        folder = data / "rendered" / label
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            inside = (x**2 + y**2) < rng.uniform(19, 24) ** 2
            crop = np.where(inside[..., None], nucleus, field) + rng.normal(0, 2, (112, 112, 3))
            Image.fromarray(crop.clip(0, 255).astype(np.uint8)).save(folder / f"{seed:02d}{i:02d}.png")


@pytest.fixture
def crops(tmp_path: Path) -> Callable[..., Index]:
    """Return what draws and indexes crops: ``crops(name, count, seed, labels)``; by turns train, val, test, test."""

    def make(name: str, count: int = 8, seed: int = 0, labels: tuple[str, ...] = TWO) -> Index:
        draw_crops(tmp_path / f"data-{name}", count, seed, labels)
        task = TASKS["blood-cells"].restricted(labels)
        index = build_index(task, tmp_path / f"data-{name}", tmp_path / name)
        turns = {label: iter(["train", "val", "test", "test"] * count) for label in labels}
        sides = [next(turns[row.label]) for row in index.rows]
        rows = (
            dataclasses.replace(row, grouped=side, stratified=side) for row, side in zip(index.rows, sides, strict=True)
        )
        split = dataclasses.replace(index, rows=tuple(rows), info=index.info | {"split_seed": 0})
        write_index(split)
        return split

    return make


@pytest.fixture
def read_by(tmp_path: Path) -> Callable[[Index, nn.Module], Run]:
    """Return what makes an evaluated run of a `Reader`: ``read_by(index, network, preprocess)``."""

    def make(index: Index, network: nn.Module, preprocess: Preprocess = DEFAULT) -> Run:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (question,) = index.task.operating_points
        info = {
            "format": "leukoscope-run",
            "version": 1,
            "task": index.task.name,
            "labels": list(index.task.labels),
            "backbone": "mobilenetv2",
            "input_px": preprocess.input_px,
            "preprocess": dataclasses.asdict(preprocess),
            "protocol": "grouped",
            "index": str(index.folder),
            "data_sha256": index.sha256,
            "temperature": 5.0,
            "operating_points": [{"name": "blast", "positive": list(question.positive), "threshold": 0.5}],
            "metrics": {
                "controls": [{"name": "majority", "asks": "class", "macro_f1": {"value": 1 / 3, "low": 0, "high": 1}}]
            },
        }
        write_info(folder, info)
        return Run(folder, network, index.task, info)  # type: ignore[arg-type]

    return make
