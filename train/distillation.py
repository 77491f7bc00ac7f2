"""Distillation: a bigger network's answers as a second label (Hinton et al. 2015, arXiv:1503.02531).

What comes in is an evaluated or plain run folder; what goes out is a teacher that answers the very pictures, augmented,
that the student sees. It is never trained, and of it nothing remains in the student's run but its hash.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, kl_div, log_softmax, softmax

from edge_runtime.preprocess import Preprocess

from .errors import DataError
from .index import Index
from .run_folder import read_run
from .schedule import FitConfig


class Teacher:
    """A trained network that answers pictures at its own input size.

    Args:
        folder: its run.
        index: the student's; the teacher must have been trained on the same splits.
        protocol: the student's.
        preprocess: the student's; the teacher is shown the same pixels, at its own size.
        device: to answer on.

    Raises:
        DataError: another task, protocol or index: it may have been trained on the student's test pictures; or other
            pixels than the student's: it would be shown what it does not know.
    """

    def __init__(self, folder: Path, index: Index, protocol: str, preprocess: Preprocess, device: torch.device) -> None:
        run = read_run(folder)
        own = dataclasses.replace(run.preprocess, input_px=preprocess.input_px)
        found = (list(run.task.labels), run.protocol, run.info["data_sha256"], own)
        wanted = (list(index.task.labels), protocol, index.sha256, preprocess)
        if found != wanted:
            names = ("labels", "protocol", "index", "background or stain")
            what = names[next(i for i in range(len(names)) if found[i] != wanted[i])]
            raise DataError(
                f"{folder}: cannot teach here: trained on another {what}",
                expected=f"a run of {index.folder}, {protocol}, with the student's background and stain",
                todo="train the teacher so first",
            )
        self.input_px = run.input_px
        self.network = run.network.to(device).requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Answer (N, H, W, 3) pixels 0..255 of any size: logits (N, K)."""
        if pixels.shape[1] != self.input_px:
            size = (self.input_px, self.input_px)
            pictures = interpolate(pixels.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
            pixels = pictures.permute(0, 2, 3, 1)
        logits: Tensor = self.network(pixels)[0].float()
        return logits


def fitting_loss(logits: Tensor, targets: Tensor, taught: Tensor | None, config: FitConfig) -> Tensor:
    """Return the training loss: cross entropy, and the distance to the teacher where there is one.

    Args:
        logits: (N, K) of the student.
        targets: (N,) class numbers.
        taught: (N, K) logits of the teacher, or None.
        config: ``smoothing``, ``distill`` d and ``distill_temperature`` T.

    Returns:
        (1 - d) CE + d T^2 KL(softmax(taught / T) || softmax(logits / T)): Hinton et al. 2015, section 2.
    """
    hard = cross_entropy(logits, targets, label_smoothing=config.smoothing)
    if taught is None:
        return hard
    t = config.distill_temperature
    soft = kl_div(log_softmax(logits / t, 1), softmax(taught / t, 1), reduction="batchmean") * t**2
    return (1 - config.distill) * hard + config.distill * soft
