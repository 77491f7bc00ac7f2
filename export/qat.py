"""QAT: from an evaluated run to a network fine-tuned under fake quantization, and to its ONNX INT8 file.

What comes in are a run, its index and pixels; what goes out is `Tuned`. Training starts where post-training
quantization ends: ranges measured on the calibration set, weights rounded so as to make up for each other. What is
learned is not the labels but the full-precision network itself - its class map and its probabilities on the training
split (distillation) - because agreement with it is what the parity ladder asks for. Batch norms are folded and their
statistics frozen. The weights' steps stay; weights, biases and the ranges of the activations move.

No picture of validation or test is looked at. All chance comes from (seed, epoch): the same bytes for the same seed on
one machine with as many threads. With a checkpoint folder, a fine-tuning that was killed goes on after its last epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from train.checkpoint import Checkpoint

from .errors import ExportError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from edge_runtime.preprocess import Pixels
    from train.index import Index
    from train.network import SelfExplaining
    from train.run_folder import Run

SPLIT = "train"
BATCH = 16
LEARNING_RATE = 1e-5
"""Peak, of weights and biases (Adam); a short warm-up, then a half cosine to zero."""

RANGE_LEARNING_RATE = 3e-3
"""The same of the activations' ranges, which are hundreds of times as large."""

WARM_UP_STEPS = 20


@dataclass(frozen=True)
class Tuned:
    """A network after fine-tuning under fake quantization.

    Attributes:
        network: the same weights in float, batch norms folded: what another quantizer, such as TFLite's, starts from.
            Each is a whole number of steps, so that a quantizer with the same steps finds nothing to round.
        onnx: the fake-quantized graph itself: INT8 with QuantizeLinear and DequantizeLinear.
        losses: mean distance to the full-precision network, per epoch.
    """

    network: SelfExplaining
    onnx: bytes = field(repr=False)
    losses: tuple[float, ...]


def fine_tune(
    run: Run,
    index: Index,
    pixels: Pixels,
    calibration_pixels: Pixels,
    epochs: int,
    seed: int = 0,
    signed: bool = False,
    checkpoint: Path | None = None,
) -> Tuned:
    """Fine-tune a run under fake quantization.

    Args:
        run: its network is the teacher, and where the student starts.
        index: the one it was trained on.
        pixels: (all, H, W, 3) uint8, row i belongs to ``index.rows[i]``; only the training split's are read.
        calibration_pixels: (N, H, W, 3) uint8, of the training split, for the ranges to start from.
        epochs: passes over the training split; 0: quantize only.
        seed: of the order of the pictures.
        signed: int8 activations throughout, as TensorRT takes them.
        checkpoint: folder for a file after every epoch, removed at the end; None: none, start anew after a kill.

    Raises:
        ExportError: NNCF is not installed or refuses the network, the training split is smaller than a batch, or the
            fine-tuning diverged.
        DataError: the checkpoint is another fine-tuning's.
    """
    from .fake_quantized import fold, insert_quantizers, quantizers
    from .fake_to_qdq import learned, round_core, to_qdq

    rows = np.array(index.select(run.protocol, SPLIT))
    if epochs and len(rows) < BATCH:
        raise ExportError("too few training pictures to fine-tune", got=len(rows), expected=f"{BATCH} or more")
    folded = fold(run.network)
    with quantizers() as nncf:
        core = insert_quantizers(nncf, folded, calibration_pixels, signed)
        round_core(core, folded, run.input_px, calibration_pixels)
        losses: list[float] = []
        if epochs:
            made_by = {
                "weights": run.info.get("weights_sha256"),
                "data": index.sha256,
                "calibration": hashlib.sha256(calibration_pixels.tobytes()).hexdigest(),
                "schedule": [epochs, seed, signed, BATCH, LEARNING_RATE, RANGE_LEARNING_RATE],
            }
            kept = Checkpoint(checkpoint, json.dumps(made_by, sort_keys=True)) if checkpoint else None
            losses = _train(core, prepare_lessons(folded, pixels, rows), epochs, seed, kept)
        onnx = to_qdq(core, folded, run.input_px)
        return Tuned(learned(core, folded, onnx), onnx, tuple(losses))


@dataclass(frozen=True)
class Lessons:
    """What the student is shown and what the teacher says of it.

    Attributes:
        network: the teacher, folded.
        pixels: (all, H, W, 3) uint8.
        rows: (N,) numbers of the training pictures.
        class_maps: (N, K, h, w) float32, the teacher's.
        spread: variance of these, in whose unit the distance to them is measured.
    """

    network: SelfExplaining
    pixels: Pixels
    rows: npt.NDArray[np.int64]
    class_maps: Tensor
    spread: float

    def distance(self, core: nn.Module, picked: npt.NDArray[np.int64]) -> Tensor:
        """Return how far the student is from the teacher on some pictures.

        Args:
            core: fake-quantized.
            picked: positions within `rows`.

        Returns:
            Mean squared difference of the class maps, as a share of their variance, plus KL(teacher || student) of
            the probabilities.
        """
        import torch
        from torch.nn.functional import kl_div, log_softmax, mse_loss

        found = core(self.network.normalise(torch.from_numpy(np.ascontiguousarray(self.pixels[self.rows[picked]]))))
        wanted = self.class_maps[torch.from_numpy(picked)]
        said, taught = (log_softmax(side.mean((2, 3)) + self.network.bias, 1) for side in (found, wanted))
        return mse_loss(found, wanted) / self.spread + kl_div(said, taught, reduction="batchmean", log_target=True)


def prepare_lessons(network: SelfExplaining, pixels: Pixels, rows: npt.NDArray[np.int64]) -> Lessons:
    """Have the full-precision network answer the training pictures, once for all epochs."""
    import torch

    from train.evaluate import network_outputs

    _, class_maps = network_outputs(network, pixels, rows.tolist(), progress="qat: teacher")
    answers = torch.from_numpy(np.ascontiguousarray(class_maps.transpose(0, 3, 1, 2)))
    network.requires_grad_(False)
    return Lessons(network, pixels, rows, answers, max(float(answers.var()), 1e-12))


def _train(core: nn.Module, lessons: Lessons, epochs: int, seed: int, kept: Checkpoint | None) -> list[float]:
    """Train a fake-quantized core in place; return the mean loss of every epoch."""
    from tqdm import tqdm

    optimizer = _optimizer(core)
    history = kept.load({"core": core}, optimizer) if kept else []
    steps = len(lessons.rows) // BATCH
    while len(history) < epochs:
        epoch = len(history)
        order = np.random.default_rng((seed, epoch)).permutation(len(lessons.rows))[: steps * BATCH]
        total = 0.0
        title = f"qat: epoch {epoch + 1}/{epochs}"
        batches = tqdm(order.reshape(steps, BATCH), desc=title, unit="step", leave=False, disable=None)
        for step, picked in enumerate(batches):
            share = learning_rate(epoch * steps + step, epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            loss = lessons.distance(core, np.sort(picked))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise ExportError(f"fine-tuning diverged in epoch {epoch + 1}", got=f"loss {total / steps}")
        history.append({"loss": total / steps})
        if kept:
            kept.save({"core": core}, optimizer, history)
    if kept:
        kept.remove()
    core.requires_grad_(False)
    return [float(row["loss"]) for row in history]


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate at a step, as a share of its peak: a short warm-up, then a half cosine to zero."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _optimizer(core: nn.Module) -> torch.optim.Optimizer:
    """Return Adam over weights, biases and activations' ranges; all else of the core is frozen."""
    import torch

    from .fake_quantized import HOOKS, INPUT, activation_quantizers

    core.requires_grad_(False)
    weights = [parameter for name, parameter in core.named_parameters() if not name.startswith(HOOKS)]
    ranges = [one.scale for name, one in activation_quantizers(core).items() if not name.endswith(INPUT)]
    for parameter in (*weights, *ranges):
        parameter.requires_grad_(True)
    return torch.optim.Adam(
        [{"params": weights, "peak": LEARNING_RATE}, {"params": ranges, "peak": RANGE_LEARNING_RATE}]
    )
