"""Fit: fine-tune a backbone on the training split - head first, then everything - and leave a run folder.

What comes in is an index with splits and ImageNet weights; what goes out is ``weights.safetensors``, ``run.json`` and
the learning curves. The engine is Lightning Fabric, so that a CPU, one GPU, several GPUs and several machines
(torchrun) are one code path. After every epoch a checkpoint is written; all chance comes from (seed, epoch, step), so
a run that was killed goes on as if nothing had happened. The weights that are kept are an exponential moving average,
at the epoch that was best on validation; nothing is chosen by looking at the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.preprocess import Preprocess

from .errors import DataError
from .index import PROTOCOLS, Index, read_index
from .schedule import FitConfig

if TYPE_CHECKING:
    import torch
    from lightning.fabric import Fabric

    from edge_runtime.preprocess import Pixels

    from .augment import Augmentation, Chance
    from .distillation import Teacher
    from .network import SelfExplaining


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; the defaults are `FitConfig`'s."""
    from .augment import AUGMENTATIONS
    from .backbones import BACKBONES

    parser.add_argument("index", type=Path, help="index folder, split")
    parser.add_argument("--out", required=True, type=Path, help="run folder; one that was stopped is resumed")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="grouped")
    parser.add_argument("--backbone", choices=list(BACKBONES), default="mobilenetv2")
    parser.add_argument(
        "--weights", default="imagenet", help="imagenet (from the hub), none, or a .safetensors file (default imagenet)"
    )
    parser.add_argument(
        "--weights-scaling", choices=("tf", "imagenet"), default="tf", help="input scaling the weights file expects"
    )
    parser.add_argument("--px", type=int, metavar="X", help="input size, pixels (default: the backbone's native one)")
    parser.add_argument("--augmentation", choices=list(AUGMENTATIONS), default="full")
    parser.add_argument("--teacher", type=Path, metavar="RUN", help="run of a bigger network to learn from, too")
    for field in dataclasses.fields(FitConfig):
        kind = {"int": int, "float": float}[str(field.type)]
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, metavar="X")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed", "16-mixed"), default="32-true")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, cuda (default auto)")
    parser.add_argument("--devices", default="auto", help="how many per machine (default auto)")
    parser.add_argument("--nodes", type=int, default=1, help="machines; start with torchrun when more than one")


def run(args: argparse.Namespace) -> None:
    """Train or resume, then write the run folder."""
    from .augment import AUGMENTATIONS
    from .backbones import BACKBONES, torchvision

    torchvision()  # Lightning imports it, too, and would stumble where it needs help
    from lightning.fabric import Fabric

    config = FitConfig(**{field.name: getattr(args, field.name) for field in dataclasses.fields(FitConfig)})
    if config.epochs < 1 or config.batch < 2 or config.head_epochs >= config.epochs:
        raise UsageError("--epochs must exceed --head-epochs, and --batch be at least 2", got=f"{config}")
    if (args.out / "run.json").is_file():
        raise DataError(f"{args.out}: holds a finished run", todo="give another --out, or delete it")
    devices = _devices(args.devices, args.accelerator)
    if config.batch % (devices * args.nodes):
        raise UsageError("--batch must divide evenly", got=f"{config.batch} pictures, {devices * args.nodes} processes")
    plan = Plan(
        read_index(args.index),
        args.protocol,
        args.backbone,
        args.weights,
        args.weights_scaling,
        Preprocess(args.px or BACKBONES[args.backbone].native_px),
        AUGMENTATIONS[args.augmentation],
        args.teacher,
        config,
    )
    # head-only epochs leave the backbone without gradients, which plain DDP takes for an error
    strategy = "auto" if devices == 1 and args.nodes == 1 else "ddp_find_unused_parameters_true"
    fabric = Fabric(
        accelerator=args.accelerator,
        strategy=strategy,
        devices=devices,
        num_nodes=args.nodes,
        precision=args.precision,
    )
    fabric.launch()
    _advise_allocator(fabric)
    fit(plan, args.out, fabric)


def _devices(wanted: str, accelerator: str) -> int:
    """Turn "auto" into a number: all GPUs, else one process, which uses all cores (more would divide them)."""
    import torch

    if wanted != "auto":
        return int(wanted)
    return max(1, torch.cuda.device_count()) if accelerator != "cpu" else 1


def _advise_allocator(fabric: Fabric) -> None:
    if fabric.device.type == "cpu" and "malloc" not in os.environ.get("LD_PRELOAD", "") and sys.platform == "linux":
        fabric.print(
            "hint: training on a CPU is 2 to 3 times faster with tcmalloc: install libtcmalloc-minimal4 and set "
            "LD_PRELOAD=libtcmalloc_minimal.so.4",
            file=sys.stderr,
        )


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
            "protocol": self.protocol,
            "seed": self.config.seed,
            "split_seed": index.info.get("split_seed"),
            "index": str(index.folder),
            "data_sha256": index.sha256,
            "sources": sorted({row.source for row in index.rows}),
            "pictures": {split: len(index.select(self.protocol, split)) for split in ("train", "val", "test")},
            "pretrained": self.weights if self.weights in ("imagenet", "none") else Path(self.weights).name,
            "teacher": read_info(self.teacher)["weights_sha256"] if self.teacher else None,
            "config": dataclasses.asdict(self.config) | {"augmentation": dataclasses.asdict(self.augmentation)},
        }


def fit(plan: Plan, folder: Path, fabric: Fabric) -> None:
    """Fine-tune and write the run folder.

    Args:
        plan: what.
        folder: run folder; holds ``checkpoint/`` until the run is done.
        fabric: launched.

    Raises:
        DataError: no splits, weights that do not fit, or a run folder of another run.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from .backbones import BACKBONES, count_cost
    from .batch_norm import synchronise
    from .checkpoint import Checkpoint
    from .distillation import Teacher
    from .pretrained import build_network
    from .run_folder import write_run

    index, config, info = plan.index, plan.config, plan.describe()
    torch.manual_seed(config.seed)
    network = build_network(BACKBONES[plan.backbone], len(index.task.labels), plan.weights, plan.scaling)
    if fabric.world_size > 1:
        synchronise(network, fabric.device)
    network = network.to(memory_format=torch.channels_last)
    data = _training_data(plan)
    val_rows = index.select(plan.protocol, "val")
    steps = len(data.rows) // config.batch
    if steps < 1:
        raise DataError(f"{len(data.rows)} training pictures are fewer than one batch of {config.batch}")
    teacher = Teacher(plan.teacher, index, plan.protocol, fabric.device) if plan.teacher else None

    optimizer = torch.optim.AdamW(network.parameters(), lr=config.head_lr, weight_decay=config.weight_decay)
    decay = 1 - 1 / max(config.ema_epochs * steps, 1.0)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).to(fabric.device)
    best = AveragedModel(network).to(fabric.device)
    module, optimizer = fabric.setup(network, optimizer)
    kept: dict[str, torch.nn.Module] = {"network": network, "average": average, "best": best}
    checkpoint = Checkpoint(folder / "checkpoint", json.dumps(info | {"index": None}, sort_keys=True))
    history = checkpoint.load(kept, optimizer)
    if history:
        fabric.print(f"resuming after epoch {len(history)} of {config.epochs}", file=sys.stderr)

    while len(history) < config.epochs and not _patience_is_over(history, config.patience):
        epoch = len(history)
        started = time.perf_counter()
        loss = _train_epoch(fabric, module, network, average, optimizer, teacher, data, plan, epoch, steps)
        seconds = time.perf_counter() - started
        row = {
            "epoch": epoch + 1,
            "train_loss": loss,
            **_validate(fabric, average.module, index, data.pixels, val_rows),
            "lr": optimizer.param_groups[0]["lr"],
            "px": config.px(epoch, plan.preprocess.input_px),
            "seconds": seconds,
            "pictures_per_second": steps * config.batch / seconds,
        }
        history.append(row)
        if _best_epoch(history) == epoch:
            best.load_state_dict(average.state_dict())
        if fabric.is_global_zero:
            checkpoint.save(kept, optimizer, history)
            _write_curves(folder, history)
        fabric.barrier()
        fabric.print(
            f"epoch {epoch + 1}/{config.epochs}  loss {loss:.3f}  val loss {row['val_loss']:.3f}  "
            f"val macro-F1 {row['val_macro_f1']:.4f}  {row['pictures_per_second']:.0f} pictures/s",
            file=sys.stderr,
        )
    if fabric.is_global_zero:
        final: SelfExplaining = best.module
        cost = count_cost(final, plan.preprocess.input_px)
        cost |= {"seconds_per_epoch": float(np.median([row["seconds"] for row in history]))}
        extra = {"validation": history[_best_epoch(history)], "cost": cost, "code": _versions()}
        write_run(folder, final, info | extra)
        checkpoint.remove()
        fabric.print(f"{folder}: done; next: python -m train evaluate {folder}")


def _best_epoch(history: list[dict[str, Any]]) -> int:
    """Return the number, from 0, of the epoch with the highest validation macro-F1, of those the lowest loss."""
    return max(range(len(history)), key=lambda i: (history[i]["val_macro_f1"], -history[i]["val_loss"], i))


def _patience_is_over(history: list[dict[str, Any]], patience: int) -> bool:
    return bool(history) and len(history) - 1 - _best_epoch(history) >= patience


@dataclass(frozen=True)
class _TrainingData:
    """The training pictures: what they are, and what is burnt into them.

    Attributes:
        index: all pictures.
        pixels: (all, H, W, 3) uint8.
        masks: (all, H, W) bool, true on the cell; None where no augmentation asks for it.
        rows: numbers of the training pictures.
    """

    index: Index
    pixels: Pixels
    masks: np.ndarray | None
    rows: np.ndarray


def _training_data(plan: Plan) -> _TrainingData:
    from .pixels import load_cell_masks, load_pixels

    with_masks = plan.augmentation.background > 0 and plan.index.task.kind == "cell"
    return _TrainingData(
        plan.index,
        load_pixels(plan.index, plan.preprocess),
        load_cell_masks(plan.index, plan.preprocess) if with_masks else None,
        np.array(plan.index.select(plan.protocol, "train")),
    )


def _inputs(data: _TrainingData, numbers: np.ndarray, strength: Augmentation, px: int, chance: Chance) -> torch.Tensor:
    """Fetch and augment the pictures `numbers`: (N, px, px, 3) float32, 0..255, on the device of `chance`."""
    import torch

    from .augment import augment, blank_burnt_in, recompress, replace_background
    from .sources import SOURCES

    marks = [SOURCES[data.index.rows[i].source].burnt_in for i in numbers]
    blank = (chance() < strength.blank).tolist()
    batch = data.pixels[numbers]
    batch = blank_burnt_in(batch, [mark if on else None for mark, on in zip(marks, blank, strict=True)])
    pixels = torch.from_numpy(recompress(batch, strength.jpeg, chance)).to(chance.device)
    if data.masks is not None:
        donors = data.rows[(chance() * len(data.rows)).long().cpu().numpy()]
        masks, donor_masks = (torch.from_numpy(data.masks[i]).to(chance.device) for i in (numbers, donors))
        donated = torch.from_numpy(data.pixels[donors]).to(chance.device)
        pixels = replace_background(pixels, masks, donated, donor_masks, chance() < strength.background)
    return augment(pixels, px, strength, chance)


def _train_epoch(
    fabric: Fabric,
    module: Any,
    network: SelfExplaining,
    average: Any,
    optimizer: torch.optim.Optimizer,
    teacher: Teacher | None,
    data: _TrainingData,
    plan: Plan,
    epoch: int,
    steps: int,
) -> float:
    """Run one epoch; return the mean training loss over all processes."""
    import torch
    from tqdm import tqdm

    from .augment import Chance
    from .distillation import fitting_loss
    from .sampling import draw_epoch

    config = plan.config
    network.features.requires_grad_(epoch >= config.head_epochs)
    module.train()
    px = config.px(epoch, plan.preprocess.input_px)
    share = config.batch // fabric.world_size
    mine = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    targets = data.index.targets(data.rows.tolist())
    names = sorted({row.source for row in data.index.rows})
    sources = np.array([names.index(data.index.rows[i].source) for i in data.rows])
    total = torch.zeros((), device=fabric.device)
    bar = tqdm(
        total=steps, desc=f"epoch {epoch + 1}/{config.epochs} at {px} px", unit="step", leave=False, disable=None
    )
    for step, positions in enumerate(draw_epoch(targets, sources, config, epoch, steps)):
        positions = positions[mine]
        chance = Chance((config.seed, epoch, step), config.batch, mine, fabric.device)
        inputs = _inputs(data, data.rows[positions], plan.augmentation, px, chance)
        wanted = torch.from_numpy(targets[positions]).to(fabric.device)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(epoch + step / steps)
        logits, _ = module(inputs)
        with fabric.autocast():
            taught = teacher(inputs) if teacher else None
        loss = fitting_loss(logits, wanted, taught, config)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(network)
        total += loss.detach()
        bar.update()
    bar.close()
    mean = float(fabric.all_reduce(total / steps, reduce_op="mean"))
    if not math.isfinite(mean):
        raise DataError(f"training diverged in epoch {epoch + 1}", got=f"loss {mean}", todo="lower --lr")
    return mean


def _validate(
    fabric: Fabric, network: SelfExplaining, index: Index, pixels: Pixels, rows: list[int]
) -> dict[str, float]:
    """Measure loss and macro-F1 of the averaged weights on the validation split, at full size."""
    import torch
    from sklearn.metrics import f1_score
    from torch.nn.functional import cross_entropy

    network.eval()
    targets = index.targets(rows)
    outputs = []
    with torch.inference_mode(), fabric.autocast():
        for start in range(0, len(rows), 64):
            batch = torch.from_numpy(pixels[rows[start : start + 64]]).to(fabric.device)
            outputs.append(network(batch)[0].float().cpu())
    logits = torch.cat(outputs)
    return {
        "val_loss": float(cross_entropy(logits, torch.from_numpy(targets))),
        "val_macro_f1": float(f1_score(targets, logits.argmax(1).numpy(), average="macro")),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "lightning", "numpy", "pillow")}


def _write_curves(folder: Path, history: list[dict[str, Any]]) -> None:
    from .plots import learning_curves

    columns = list(history[0])
    lines = [",".join(columns)] + [",".join(str(row[column]) for column in columns) for row in history]
    write_text(folder / "curves.csv", "\n".join(lines) + "\n")
    learning_curves(history, folder / "curves.png")
