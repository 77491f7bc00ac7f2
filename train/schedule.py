"""Schedule: everything about a training that is a number - how long, how fast, how big, how drawn.

Nothing is computed here but the learning rate and the picture size of a moment. The field docs are the command line's
help text, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_runtime.errors import UsageError

MIN_PX = 32
"""Smallest side of a picture: the backbones halve it five times."""


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
        source_balance: the same within a class for sources: times (its source's share of the class)^-source_balance.
        ema_epochs: time constant of the weights' moving average, epochs.
        small_px: side of the pictures in the first half of the epochs, which halves their cost; the rest, and all
            evaluation, is at the full input size.
        patience: stop after so many epochs at full size without a better validation macro-F1; the best epoch's weights
            are kept.
        distill: share of the teacher's answer in the loss, where there is a teacher.
        distill_temperature: of both softmaxes in that part of the loss.
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
    source_balance: float = 0.0
    ema_epochs: float = 0.5
    small_px: int = 160
    patience: int = 5
    distill: float = 0.5
    distill_temperature: float = 2.0
    seed: int = 0

    def check(self) -> None:
        """Raise `UsageError` unless every number is one that can be trained with."""
        ranges = (
            ("epochs", self.epochs >= 1, "1 or more"),
            ("head_epochs", 0 <= self.head_epochs < self.epochs, "0 or more, and fewer than --epochs"),
            ("batch", self.batch >= 2, "2 or more"),
            ("lr", self.lr > 0, "more than 0"),
            ("head_lr", self.head_lr > 0, "more than 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("smoothing", 0 <= self.smoothing < 1, "0 to less than 1"),
            ("balance", self.balance >= 0, "0 or more"),
            ("source_balance", self.source_balance >= 0, "0 or more"),
            ("ema_epochs", self.ema_epochs >= 0, "0 or more"),
            ("small_px", self.small_px >= MIN_PX, f"{MIN_PX} or more"),
            ("patience", self.patience >= 1, "1 or more"),
            ("distill", 0 <= self.distill <= 1, "0 to 1"),
            ("distill_temperature", self.distill_temperature > 0, "more than 0"),
            ("seed", self.seed >= 0, "0 or more"),
        )
        for name, fits, expected in ranges:
            if not fits:  # also what is not a number
                raise UsageError(f"--{name.replace('_', '-')}", got=getattr(self, name), expected=expected)

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
