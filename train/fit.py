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
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import UsageError
from edge_runtime.files import make_folder, write_text
from edge_runtime.preprocess import STAINS, Preprocess

from .errors import DataError
from .index import PROTOCOLS, read_index
from .plan import Plan
from .schedule import MIN_PX, FitConfig

if TYPE_CHECKING:
    import torch
    from lightning.fabric import Fabric

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
    parser.add_argument(
        "--background", choices=("keep", "neutral"), default="keep", help="what lies outside the white cells"
    )
    parser.add_argument("--stain", choices=STAINS, default="keep", help="reinhard: one stain for all (default keep)")
    parser.add_argument("--augmentation", choices=list(AUGMENTATIONS), default="full")
    parser.add_argument("--teacher", type=Path, metavar="RUN", help="run of a bigger network to learn from, too")
    for field in dataclasses.fields(FitConfig):
        kind = {"int": int, "float": float}[str(field.type)]
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, metavar="X")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.add_argument("--devices", default="auto", help="how many per machine (default auto)")
    parser.add_argument("--nodes", type=int, default=1, help="machines; start with torchrun when more than one")


def run(args: argparse.Namespace) -> None:
    """Train or resume, then write the run folder."""
    from .augment import AUGMENTATIONS
    from .backbones import BACKBONES, torchvision

    torchvision()  # Lightning imports it, too, and would stumble where it needs help
    from lightning.fabric import Fabric

    config = FitConfig(**{field.name: getattr(args, field.name) for field in dataclasses.fields(FitConfig)})
    config.check()
    if args.px is not None and args.px < MIN_PX:
        raise UsageError("--px", got=args.px, expected=f"{MIN_PX} or more")
    if args.nodes < 1 or not (args.devices == "auto" or (args.devices.isdecimal() and int(args.devices) > 0)):
        raise UsageError(
            "--devices and --nodes", got=f"{args.devices}, {args.nodes}", expected="numbers from 1, or auto"
        )
    if (args.out / "run.json").is_file():
        raise DataError(f"{args.out}: holds a finished run", todo="give another --out, or delete it")
    devices = _devices(args.devices, args.accelerator)
    if config.batch % (devices * args.nodes):
        raise UsageError("--batch must divide evenly", got=f"{config.batch} pictures, {devices * args.nodes} processes")
    index = read_index(args.index)
    _require_effect(args, index.task.kind)
    make_folder(args.out)  # a place that cannot be written is known before, not after
    plan = Plan(
        index,
        args.protocol,
        args.backbone,
        args.weights,
        args.weights_scaling,
        Preprocess(
            args.px or BACKBONES[args.backbone].native_px,
            background="keep" if args.background == "keep" else f"neutral-{index.task.kind}",
            stain=args.stain,
        ),
        AUGMENTATIONS[args.augmentation],
        args.teacher,
        config,
        args.precision,
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


def _require_effect(args: argparse.Namespace, kind: str) -> None:
    """Refuse options that would change nothing."""
    from .augment import AUGMENTATIONS

    defaults = FitConfig()
    given = [name for name in ("distill", "distill_temperature") if getattr(args, name) != getattr(defaults, name)]
    if given and args.teacher is None:
        raise UsageError(f"--{given[0].replace('_', '-')} needs --teacher")
    if args.weights_scaling != "tf" and args.weights in ("imagenet", "none"):
        raise UsageError("--weights-scaling is of a weights file", got=f"--weights {args.weights}")
    if AUGMENTATIONS[args.augmentation].background > 0 and kind != "cell":
        usable = [name for name, row in AUGMENTATIONS.items() if row.background == 0]
        raise UsageError(
            f"--augmentation {args.augmentation} exchanges the background of single cells",
            got="a task of whole fields",
            expected=f"one of {', '.join(usable)}",
        )


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


def fit(plan: Plan, folder: Path, fabric: Fabric) -> None:
    """Fine-tune and write the run folder.

    Args:
        plan: what.
        folder: run folder; holds ``checkpoint/`` until the run is done.
        fabric: launched.

    Raises:
        DataError: no splits, weights that do not fit or have seen the test pictures, or a run folder of another run.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from .backbones import BACKBONES, count_cost
    from .batch_norm import synchronise
    from .checkpoint import Checkpoint
    from .distillation import Teacher
    from .loop import Learner, train_epoch, training_data, validate
    from .pretrained import build_network
    from .run_folder import write_run
    from .sampling import draw_epoch

    index, config, info = plan.index, plan.config, plan.describe()
    plan.require_unseen()
    torch.manual_seed(config.seed)
    network = build_network(BACKBONES[plan.backbone], len(index.task.labels), plan.weights, plan.scaling)
    if fabric.world_size > 1:
        synchronise(network, fabric.device)
    network = network.to(memory_format=torch.channels_last)
    data = training_data(plan)
    val_rows = index.select(plan.protocol, "val")
    steps = len(data.rows) // config.batch
    if steps < 1:
        raise DataError(f"{len(data.rows)} training pictures are fewer than one batch of {config.batch}")
    teacher = Teacher(plan.teacher, index, plan.protocol, plan.preprocess, fabric.device) if plan.teacher else None

    optimizer = torch.optim.AdamW(network.parameters(), lr=config.head_lr, weight_decay=config.weight_decay)
    decay = 1 - 1 / max(config.ema_epochs * steps, 1.0)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).to(fabric.device)
    best = AveragedModel(network).to(fabric.device)
    module, optimizer = fabric.setup(network, optimizer)
    learner = Learner(fabric, network, module, average, optimizer, teacher)
    kept: dict[str, torch.nn.Module] = {"network": network, "average": average, "best": best}
    checkpoint = Checkpoint(folder / "checkpoint", json.dumps(info | {"index": None}, sort_keys=True))
    history = checkpoint.load(kept, optimizer)
    if history:
        fabric.print(f"resuming after epoch {len(history)} of {config.epochs}", file=sys.stderr)

    while len(history) < config.epochs and not _patience_is_over(history, plan):
        epoch = len(history)
        started = time.perf_counter()
        batches = draw_epoch(data.targets, data.sources, config, epoch, steps)
        loss = train_epoch(learner, data, plan, epoch, batches)
        seconds = time.perf_counter() - started
        row = {
            "epoch": epoch + 1,
            "train_loss": loss,
            **validate(fabric, average.module, index, data.pixels, val_rows),
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


def _patience_is_over(history: list[dict[str, Any]], plan: Plan) -> bool:
    """Say whether enough epochs have passed since the best one; those on smaller pictures do not count."""
    config, px = plan.config, plan.preprocess.input_px
    small = sum(config.px(epoch, px) < px for epoch in range(config.epochs))
    return bool(history) and len(history) - 1 - max(_best_epoch(history), small - 1) >= config.patience


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "lightning", "numpy", "pillow")}


def _write_curves(folder: Path, history: list[dict[str, Any]]) -> None:
    from .plots import learning_curves, write_png

    columns = list(history[0])
    lines = [",".join(columns)] + [",".join(str(row[column]) for column in columns) for row in history]
    write_text(folder / "curves.csv", "\n".join(lines) + "\n")
    write_png(learning_curves(history), folder / "curves.png")
