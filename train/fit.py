"""Fit: fine-tune a backbone on the training split - head first, then everything - and leave a run folder.

What comes in is an index with splits and ImageNet weights; what goes out is ``weights.safetensors``, ``run.json`` and
the learning curves. The engine is Lightning Fabric, so that a CPU, one GPU, several GPUs and several machines
(torchrun) are one code path. After every epoch a checkpoint (safetensors, no pickle) is written; all chance comes from
(seed, epoch, step), so a run that was killed goes on as if nothing had happened. The weights that are kept are an
exponential moving average of the last epochs'; nothing is chosen by looking at the test split.
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
import numpy.typing as npt

from edge_runtime.errors import UsageError
from edge_runtime.files import write_bytes, write_text

from .augment import Augmentation
from .errors import DataError
from .index import PROTOCOLS, Index, read_index

if TYPE_CHECKING:
    import torch
    from lightning.fabric import Fabric

    from edge_runtime.preprocess import Pixels

    from .network import SelfExplaining


@dataclass(frozen=True)
class FitConfig:
    """How to fine-tune.

    Attributes:
        epochs: passes over the training split, head-only ones included.
        head_epochs: first passes, in which only the head and the batch norms' statistics move.
        batch: pictures per step, over all devices together.
        lr: peak learning rate of the whole network (AdamW); warm-up over one epoch, then a half cosine to zero.
        head_lr: learning rate of the head-only passes.
        weight_decay: AdamW's.
        smoothing: label smoothing.
        balance: how far rare classes are drawn more often: weight of a picture is (its class's count)^-balance.
        ema_epochs: time constant of the weights' moving average, epochs.
        small_px: side of the pictures in the first half of the epochs, which halves their cost; the rest, and all
            evaluation, is at the full input size.
        seed: of everything random.
    """

    epochs: int = 12
    head_epochs: int = 1
    batch: int = 32
    lr: float = 6e-4
    head_lr: float = 2e-3
    weight_decay: float = 0.05
    smoothing: float = 0.05
    balance: float = 0.5
    ema_epochs: float = 0.5
    small_px: int = 160
    seed: int = 0

    def px(self, epoch: int, input_px: int) -> int:
        """Side of the training pictures in `epoch` (from 0)."""
        return input_px if epoch >= self.epochs // 2 else min(self.small_px, input_px)

    def learning_rate(self, progress: float) -> float:
        """Learning rate at `progress` epochs (fractional)."""
        if progress < self.head_epochs:
            return self.head_lr
        warm = min(1.0, progress - self.head_epochs + 0.1)
        share = (progress - self.head_epochs) / max(self.epochs - self.head_epochs, 1e-9)
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; the defaults are `FitConfig`'s."""
    from .network import BACKBONES

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
    for field in dataclasses.fields(FitConfig):
        kind = {"int": int, "float": float}[str(field.type)]
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, metavar="X")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed", "16-mixed"), default="32-true")
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, cuda (default auto)")
    parser.add_argument("--devices", default="auto", help="how many per machine (default auto)")
    parser.add_argument("--nodes", type=int, default=1, help="machines; start with torchrun when more than one")


def run(args: argparse.Namespace) -> None:
    """Train or resume, then write the run folder."""
    from .network import torchvision

    torchvision()  # Lightning imports it, too, and would stumble where it needs help
    from lightning.fabric import Fabric

    config = FitConfig(**{field.name: getattr(args, field.name) for field in dataclasses.fields(FitConfig)})
    if config.epochs < 1 or config.batch < 2 or config.head_epochs >= config.epochs:
        raise UsageError("--epochs must exceed --head-epochs, and --batch be at least 2", got=f"{config}")
    index = read_index(args.index)
    devices = _devices(args.devices, args.accelerator)
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
    fit(index, args.protocol, args.backbone, args.weights, args.weights_scaling, config, args.out, fabric)


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


def fit(
    index: Index,
    protocol: str,
    backbone_name: str,
    weights: str,
    scaling: str,
    config: FitConfig,
    folder: Path,
    fabric: Fabric,
) -> None:
    """Fine-tune and write the run folder.

    Args:
        index: with splits.
        protocol: whose splits.
        backbone_name: row of `train.network.BACKBONES`.
        weights: "imagenet", "none" or a file.
        scaling: of the weights file, see `train.network.load_pretrained`.
        config: schedule.
        folder: run folder; holds ``checkpoint/`` until the run is done.
        fabric: launched.

    Raises:
        DataError: no splits, weights that do not fit, or a run folder of another run.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from .network import BACKBONES, SelfExplaining, load_pretrained
    from .pixels import INPUT_PX, load_pixels
    from .run_folder import write_run

    backbone = BACKBONES[backbone_name]
    torch.manual_seed(config.seed)
    network = SelfExplaining(backbone, len(index.task.labels), pretrained=weights == "imagenet")
    if weights == "imagenet":
        from .network import fold_imagenet_scaling

        fold_imagenet_scaling(network, backbone)
    elif weights != "none":
        load_pretrained(network, backbone, Path(weights), scaling)

    train_rows, val_rows = index.select(protocol, "train"), index.select(protocol, "val")
    pixels = load_pixels(index)
    data = _Split(index, pixels, train_rows)
    info: dict[str, Any] = {
        "format": "leukoscope-run",
        "version": 1,
        "task": index.task.name,
        "labels": list(index.task.labels),
        "backbone": backbone.name,
        "input_px": INPUT_PX,
        "protocol": protocol,
        "seed": config.seed,
        "split_seed": index.info.get("split_seed"),
        "index": str(index.folder),
        "data_sha256": index.sha256,
        "sources": sorted({row.source for row in index.rows}),
        "pictures": {"train": len(train_rows), "val": len(val_rows), "test": len(index.select(protocol, "test"))},
        "pretrained": weights if weights in ("imagenet", "none") else Path(weights).name,
        "config": dataclasses.asdict(config) | {"augmentation": dataclasses.asdict(Augmentation())},
        "code": _versions(),
    }

    steps = len(train_rows) // config.batch
    if steps < 1:
        raise DataError(f"{len(train_rows)} training pictures are fewer than one batch of {config.batch}")
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.head_lr, weight_decay=config.weight_decay)
    decay = 1 - 1 / max(config.ema_epochs * steps, 1.0)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).to(fabric.device)
    module, optimizer = fabric.setup(network, optimizer)
    checkpoint = _Checkpoint(folder / "checkpoint", _identity(info))
    done, history = checkpoint.load(network, average, optimizer)
    if done:
        fabric.print(f"resuming after epoch {done} of {config.epochs}", file=sys.stderr)

    for epoch in range(done, config.epochs):
        started = time.perf_counter()
        loss = _train_epoch(fabric, module, network, average, optimizer, data, config, epoch, steps, INPUT_PX)
        seconds = time.perf_counter() - started
        row = {
            "epoch": epoch + 1,
            "train_loss": loss,
            **_validate(fabric, average.module, index, pixels, val_rows),
            "lr": optimizer.param_groups[0]["lr"],
            "px": config.px(epoch, INPUT_PX),
            "pictures_per_second": steps * config.batch / seconds,
        }
        history.append(row)
        if fabric.is_global_zero:
            checkpoint.save(network, average, optimizer, epoch + 1, history)
            _write_curves(folder, history)
        fabric.barrier()
        fabric.print(
            f"epoch {epoch + 1}/{config.epochs}  loss {loss:.3f}  val loss {row['val_loss']:.3f}  "
            f"val macro-F1 {row['val_macro_f1']:.4f}  {row['pictures_per_second']:.0f} pictures/s",
            file=sys.stderr,
        )
    if fabric.is_global_zero:
        final: SelfExplaining = average.module
        write_run(folder, final, info | {"validation": history[-1]})
        checkpoint.remove()
        fabric.print(f"{folder}: done; next: python -m train evaluate {folder}")


@dataclass(frozen=True)
class _Split:
    """The training pictures: where they lie, what they are, what is burnt into them."""

    index: Index
    pixels: Pixels
    rows: list[int]

    def batches(self, config: FitConfig, epoch: int, steps: int) -> npt.NDArray[np.int64]:
        """Draw the epoch's pictures, rare classes more often: (steps, batch) row numbers."""
        random = np.random.default_rng((config.seed, epoch))
        targets = self.index.targets(self.rows)
        weight = np.bincount(targets)[targets].astype(float) ** -config.balance
        # systematic sampling: a picture of expected count 1.3 is drawn once or twice, never by accident not at all
        order = random.permutation(len(self.rows))
        expected = np.cumsum(weight[order]) / weight.sum() * steps * config.batch
        ticks = np.arange(steps * config.batch) + random.random()
        drawn = order[np.searchsorted(expected, ticks, side="right").clip(max=len(order) - 1)]
        shuffled: npt.NDArray[np.int64] = np.array(self.rows)[random.permutation(drawn)]
        return shuffled.reshape(steps, config.batch)


def _train_epoch(
    fabric: Fabric,
    module: Any,
    network: SelfExplaining,
    average: Any,
    optimizer: torch.optim.Optimizer,
    data: _Split,
    config: FitConfig,
    epoch: int,
    steps: int,
    input_px: int,
) -> float:
    """Run one epoch; return the mean training loss of this process."""
    import torch
    from torch.nn.functional import cross_entropy
    from tqdm import tqdm

    from .augment import augment, blank_burnt_in, recompress
    from .sources import SOURCES

    strength = Augmentation()
    head_only = epoch < config.head_epochs
    network.features.requires_grad_(not head_only)
    module.train()
    px = config.px(epoch, input_px)
    share = slice(fabric.global_rank, None, fabric.world_size)
    total = torch.zeros((), device=fabric.device)
    bar = tqdm(
        total=steps, desc=f"epoch {epoch + 1}/{config.epochs} at {px} px", unit="step", leave=False, disable=None
    )
    for step, numbers in enumerate(data.batches(config, epoch, steps)):
        numbers = numbers[share]
        random = np.random.default_rng((config.seed, epoch, step, fabric.global_rank))
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        marks = [SOURCES[data.index.rows[i].source].burnt_in for i in numbers]
        blank = random.random(len(numbers)) < strength.blank
        batch = data.pixels[numbers]
        batch = blank_burnt_in(batch, [mark if on else None for mark, on in zip(marks, blank, strict=True)])
        batch = recompress(batch, strength.jpeg, random)
        targets = torch.from_numpy(data.index.targets(numbers)).to(fabric.device)
        inputs = augment(torch.from_numpy(batch).to(fabric.device), px, strength, generator)

        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(epoch + step / steps)
        logits, _ = module(inputs)
        loss = cross_entropy(logits, targets, label_smoothing=config.smoothing)
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


class _Checkpoint:
    """All that a run needs to go on, as one safetensors file: network, average, optimizer, history."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.file = folder / "state.safetensors"
        self.identity = identity

    def save(
        self, network: Any, average: Any, optimizer: torch.optim.Optimizer, epoch: int, history: list[dict[str, Any]]
    ) -> None:
        from safetensors.torch import save

        tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
        meta = {"identity": self.identity, "epoch": str(epoch), "history": json.dumps(history)}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.file, save({k: v.detach().contiguous().cpu().clone() for k, v in tensors.items()}, meta))

    def load(self, network: Any, average: Any, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
        """Restore; return how many epochs are done (0: nothing to resume) and their history."""
        from safetensors import safe_open

        if not self.file.is_file():
            return 0, []
        with safe_open(self.file, framework="pt") as stored:
            meta = stored.metadata()
            if meta["identity"] != self.identity:
                raise DataError(
                    f"{self.file.parent}: checkpoint of another run",
                    got="other data, weights or options",
                    todo="give another --out, or delete it",
                )
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
        for prefix, target in (("network.", network), ("average.", average)):
            target.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".", 2)
                state.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(meta["epoch"]), json.loads(meta["history"])

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
        self.file.parent.rmdir()


def _identity(info: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in info.items() if k not in ("code", "index")}, sort_keys=True)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "lightning", "numpy", "pillow")}


def _write_curves(folder: Path, history: list[dict[str, Any]]) -> None:
    from .plots import learning_curves

    columns = list(history[0])
    lines = [",".join(columns)] + [",".join(str(row[column]) for column in columns) for row in history]
    write_text(folder / "curves.csv", "\n".join(lines) + "\n")
    learning_curves(history, folder / "curves.png")
