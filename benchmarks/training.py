"""Training throughput: pictures per second of ``train fit``'s loop, beside the loop of torchvision's own examples.

``python -m benchmarks.training`` renders single cells as 360 px JPEG, indexes them, and trains one network of each
loop in turn, at the same input size and batch, with the same network and optimizer. The reference decodes and augments
every picture in worker processes, as a `DataLoader` does; this project decoded its pictures once and has them
augmented as one tensor. Absolute rates drift on shared machines: the ratio, from one run, is what counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edge_runtime.files import write_text
from edge_runtime.guard import guarded

RESULT = Path(__file__).parent / "results" / "training.json"
REST_S = 2.0
"""After each turn: the reference's workers finish what they fetch ahead on nobody's time."""

LABELS = ("blast", "lymphocyte", "monocyte", "neutrophil")


def compare(backbone: str, px: int, batch: int, rounds: int, steps: int, workers: int) -> dict[str, Any]:
    """Time both loops in turn.

    Args:
        backbone: row of `train.backbones.BACKBONES`.
        px: input size.
        batch: pictures per step.
        rounds: timed turns of each loop, after one that is not counted.
        steps: batches per turn.
        workers: of the reference's DataLoader.

    Returns:
        ``pictures_per_second`` of both (medians over the rounds), their ``ratio``'s median and range, and the setting.
    """
    import os

    import torch

    with tempfile.TemporaryDirectory(prefix="leukoscope-training-") as folder:
        data = _render(Path(folder), batch * 8)
        loops = {
            "leukoscope": _our_loop(data, Path(folder) / "index", backbone, px, batch, steps),
            "torchvision": _reference_loop(data, backbone, px, batch, steps, workers),
        }
        rates: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(rounds + 1):
            for name, step in loops.items():
                started = time.perf_counter()
                step()
                if turn:
                    rates[name].append(batch * steps / (time.perf_counter() - started))
                time.sleep(REST_S)
    ratios = sorted(a / b for a, b in zip(rates["leukoscope"], rates["torchvision"], strict=True))
    return {
        "backbone": backbone,
        "input_px": px,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "workers": workers,
        "allocator": Path(os.environ.get("LD_PRELOAD", "glibc")).name,
        "rounds": rounds,
        "pictures_per_second": {name: median(values) for name, values in rates.items()},
        "ratio": {"median": median(ratios), "low": ratios[0], "high": ratios[-1]},
    }


def _render(folder: Path, pictures: int) -> Path:
    """Write single cells as JPEG, ``<class>/NNNN.jpg``; return the data folder."""
    from PIL import Image

    from train.render import render_cell

    random = np.random.default_rng(0)
    for number in range(pictures):
        label = LABELS[number % len(LABELS)]
        file = folder / "data" / "rendered" / label / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render_cell(label, random, 360).pixels).save(file, quality=85)
    return folder / "data"


def _our_loop(data: Path, folder: Path, backbone: str, px: int, batch: int, steps: int) -> Callable[[], None]:
    """Return a function that trains `steps` batches the way ``train fit`` does."""
    import dataclasses

    import torch
    from lightning.fabric import Fabric
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from edge_runtime.preprocess import Preprocess
    from train.augment import AUGMENTATIONS
    from train.backbones import BACKBONES
    from train.index import build_index
    from train.loop import Learner, train_epoch, training_data
    from train.plan import Plan
    from train.pretrained import build_network
    from train.schedule import FitConfig
    from train.split import split_index
    from train.tasks import TASKS

    task = dataclasses.replace(TASKS["blood-cells"], labels=LABELS, operating_points=())
    index = split_index(build_index(task, data, folder, ["rendered"]), 0)
    config = FitConfig(epochs=2, head_epochs=0, batch=batch, small_px=px)
    plan = Plan(index, "stratified", backbone, "none", "tf", Preprocess(px), AUGMENTATIONS["full"], None, config)
    fabric = Fabric(accelerator="cpu", devices=1)
    network = build_network(BACKBONES[backbone], len(LABELS), "none").to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    module, optimizer = fabric.setup(network, optimizer)
    learner = Learner(fabric, network, module, average, optimizer, None)
    pictures = training_data(plan)
    random = np.random.default_rng(0)

    def turn() -> None:
        train_epoch(learner, pictures, plan, 0, random.integers(len(pictures.rows), size=(steps, batch)))

    return turn


def _reference_loop(data: Path, backbone: str, px: int, batch: int, steps: int, workers: int) -> Callable[[], None]:
    """Return a function that trains `steps` batches the way torchvision's classification example does."""
    import torch
    from torch.utils.data import DataLoader

    from train.backbones import BACKBONES, torchvision
    from train.network import SelfExplaining

    vision = torchvision()
    transform = vision.transforms.Compose(
        [
            vision.transforms.RandomResizedCrop(px, scale=(0.6, 1.0)),
            vision.transforms.RandomHorizontalFlip(),
            vision.transforms.RandomVerticalFlip(),
            vision.transforms.ColorJitter(0.1, 0.1, 0.3, 0.05),
            vision.transforms.PILToTensor(),
        ]
    )
    dataset = vision.datasets.ImageFolder(str(data / "rendered"), transform)
    loader = DataLoader(
        dataset, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    network = SelfExplaining(BACKBONES[backbone], len(dataset.classes)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=6e-4)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    stream = batches()

    def turn() -> None:
        for _ in range(steps):
            pictures, targets = next(stream)
            logits, _ = network(pictures.permute(0, 2, 3, 1))
            loss = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return turn


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--backbone", default="mobilenetv2")
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="batches per turn (default 8)")
    parser.add_argument("--workers", type=int, default=2, help="of the reference's DataLoader (default 2)")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"default {RESULT.name} among the results")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    from train.backbones import torchvision

    torchvision()  # before Lightning imports it
    found = compare(args.backbone, args.px, args.batch, args.rounds, args.steps, args.workers)
    write_text(args.out, json.dumps(found, indent=2) + "\n")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
