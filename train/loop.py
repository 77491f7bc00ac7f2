"""Loop: one epoch of training, and the look at validation behind it.

What comes in are a network, an optimizer and the numbers of the pictures to show; what goes out is a loss. Pictures are
fetched, augmented and shown here; which they are is `train.sampling`'s business, what is kept of it all `train.fit`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .index import Index
from .plan import Plan

if TYPE_CHECKING:
    import torch
    from lightning.fabric import Fabric

    from edge_runtime.cells import Mask
    from edge_runtime.preprocess import Pixels

    from .augment import Augmentation, Chance
    from .distillation import Teacher
    from .network import SelfExplaining

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Learner:
    """What learns.

    Attributes:
        fabric: launched.
        network: the weights.
        module: the same, as Fabric wants it called.
        average: moving average of the weights.
        optimizer: of the weights.
        teacher: answers, too, or None.
    """

    fabric: Fabric
    network: SelfExplaining
    module: Any
    average: Any
    optimizer: torch.optim.Optimizer
    teacher: Teacher | None


@dataclass(frozen=True)
class TrainingData:
    """The training pictures.

    Attributes:
        index: all pictures.
        pixels: (all, H, W, 3) uint8.
        masks: (all, H, W) bool, true on the cell; None where no augmentation asks for it.
        rows: (N,) numbers of the training pictures.
        targets: (N,) their class numbers.
        sources: (N,) numbers of their sources.
    """

    index: Index
    pixels: Pixels
    masks: Mask | None
    rows: Numbers
    targets: Numbers
    sources: Numbers


def training_data(plan: Plan) -> TrainingData:
    """Load the training pictures of a plan, and their cells' masks where its augmentation needs them."""
    from .pixels import load_cell_masks, load_pixels

    index = plan.index
    rows = index.select(plan.protocol, "train")
    names = sorted({row.source for row in index.rows})
    with_masks = plan.augmentation.background > 0 and index.task.kind == "cell"
    return TrainingData(
        index,
        load_pixels(index, plan.preprocess),
        load_cell_masks(index, plan.preprocess) if with_masks else None,
        np.array(rows),
        index.targets(rows),
        np.array([names.index(index.rows[i].source) for i in rows]),
    )


def _inputs(data: TrainingData, numbers: Numbers, strength: Augmentation, px: int, chance: Chance) -> torch.Tensor:
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


def train_epoch(learner: Learner, data: TrainingData, plan: Plan, epoch: int, batches: Numbers) -> float:
    """Show the network an epoch's pictures.

    Args:
        learner: is changed.
        data: the training pictures.
        plan: augmentation and schedule.
        epoch: from 0.
        batches: (steps, batch) positions within ``data.rows``, over all processes; see `train.sampling.draw_epoch`.

    Returns:
        Mean training loss over all processes.

    Raises:
        DataError: the loss is not finite.
    """
    import torch
    from tqdm import tqdm

    from .augment import Chance
    from .distillation import fitting_loss

    fabric, optimizer, config = learner.fabric, learner.optimizer, plan.config
    learner.network.features.requires_grad_(epoch >= config.head_epochs)
    learner.module.train()
    px = config.px(epoch, plan.preprocess.input_px)
    share = config.batch // fabric.world_size
    mine = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    total = torch.zeros((), device=fabric.device)
    title = f"epoch {epoch + 1}/{config.epochs} at {px} px"
    for step, positions in enumerate(tqdm(batches, desc=title, unit="step", leave=False, disable=None)):
        chance = Chance((config.seed, epoch, step), config.batch, mine, fabric.device)
        inputs = _inputs(data, data.rows[positions[mine]], plan.augmentation, px, chance)
        targets = torch.from_numpy(data.targets[positions[mine]]).to(fabric.device)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(epoch + step / len(batches))
        logits, _ = learner.module(inputs)
        with fabric.autocast():
            taught = learner.teacher(inputs) if learner.teacher else None
        loss = fitting_loss(logits, targets, taught, config)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        learner.average.update_parameters(learner.network)
        total += loss.detach()
    mean = float(fabric.all_reduce(total / len(batches), reduce_op="mean"))
    if not math.isfinite(mean):
        raise DataError(f"training diverged in epoch {epoch + 1}", got=f"loss {mean}", todo="lower --lr")
    return mean


def validate(
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
