"""Comparison: what two models say about the same pictures, and how far apart they are, in numbers without limits.

What comes in are model files and pixels; what goes out are `Outputs`, through the device's own engines, and of two of
them a `Comparison`. Limits are ``parity``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import LeukoscopeError
from train.metrics import paired_difference

if TYPE_CHECKING:
    from edge_runtime.manifest import IOSpec
    from edge_runtime.preprocess import Pixels

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """What a model says about the test split.

    Attributes:
        logits: (N, K) float32; NaN where the engine gave nothing usable.
        class_map: (N, h, w, K) float32, likewise.
        error: the first error, or "".
        steps: quantization step of logits and class map; None where float.
    """

    logits: Floats
    class_map: Floats
    error: str = ""
    steps: tuple[float | None, float | None] = (None, None)

    @property
    def finite(self) -> int:
        """Count the pictures whose outputs are all finite."""
        axes = tuple(range(1, self.class_map.ndim))
        return int((np.isfinite(self.logits).all(1) & np.isfinite(self.class_map).all(axes)).sum())

    @property
    def whole(self) -> bool:
        """Tell whether every picture has finite outputs."""
        return self.finite == len(self.logits)


def engine_outputs(
    files: Mapping[str, bytes], io: IOSpec, pixels: Pixels, numbers: Sequence[int], engine: str, threads: int = 2
) -> Outputs:
    """Run an exported graph over pictures, through the device's own code.

    Args:
        files: of the model.
        io: what its inputs and outputs must be.
        pixels: (all, H, W, 3) uint8.
        numbers: N rows of it.
        engine: of `edge_runtime.engines.ENGINES`.
        threads: for one picture.
    """
    from tqdm import tqdm

    from edge_runtime.engines import open_engine

    logits = np.full((len(numbers), io.classes), np.nan, np.float32)
    class_map = np.full((len(numbers), io.map_height, io.map_width, io.classes), np.nan, np.float32)
    try:
        opened = open_engine(engine, files, io, threads)
    except LeukoscopeError as error:
        return Outputs(logits, class_map, str(error))
    first = ""
    for place, i in enumerate(tqdm(numbers, desc=f"parity: {engine}", unit="picture", leave=False, disable=None)):
        try:
            logits[place], class_map[place] = opened.run(pixels[i])
        except LeukoscopeError as error:
            first = first or str(error)
    return Outputs(logits, class_map, first, opened.output_steps)


@dataclass(frozen=True)
class Comparison:
    """A candidate beside its full-precision original on the same pictures. Intervals: 95 %, whole groups resampled.

    Attributes:
        macro_f1_difference_pp: candidate - reference, percentage points, with ``low`` and ``high``.
        top1_agreement: 0..1, with ``low`` and ``high``.
        macro_f1: of reference and candidate, 0..1.
        spearman: of the heatmaps, (N,), -1..1.
        heat_kept: see `heatmap_agreement`, (N,), 0..1.
        same_peak: likewise, (N,) bool.
        probability_moved: largest difference of a picture's probabilities, (N,), 0..1.
        logit_error_share: largest difference of a logit, as a share of the span of the reference's logits.
        logit_shift_share: largest mean difference of a class's logit, in standard deviations of the reference's logits.
    """

    macro_f1_difference_pp: dict[str, float]
    top1_agreement: dict[str, float]
    macro_f1: tuple[float, float]
    spearman: npt.NDArray[np.float64] = field(repr=False)
    heat_kept: npt.NDArray[np.float64] = field(repr=False)
    same_peak: npt.NDArray[np.bool_] = field(repr=False)
    probability_moved: npt.NDArray[np.float64] = field(repr=False)
    logit_error_share: float
    logit_shift_share: float

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "macro_f1_difference_pp": self.macro_f1_difference_pp,
            "top1_agreement": self.top1_agreement,
            "heatmap_spearman_median": rounded(float(np.median(self.spearman))),
            "same_peak": rounded(float(self.same_peak.mean())),
        }


def compare(
    reference: Outputs,
    candidate: Outputs,
    targets: npt.NDArray[np.int64],
    clusters: Sequence[str],
    labels: Sequence[str],
) -> Comparison:
    """Compare a model with its full-precision original; all outputs are finite.

    Args:
        reference: full precision.
        candidate: what was made of it.
        targets: (N,) class numbers.
        clusters: (N,) groups, resampled as wholes for the intervals.
        labels: K names.
    """
    from scipy.special import softmax

    paired = paired_difference(reference.logits, candidate.logits, targets, clusters, labels)
    moved = np.abs(softmax(candidate.logits, axis=1) - softmax(reference.logits, axis=1)).max(1)
    error = candidate.logits - reference.logits
    rank, kept, same = heatmap_agreement(reference, candidate)
    return Comparison(
        {key: float(paired["macro_f1_difference_pp"][key]) for key in ("value", "low", "high")},
        {key: float(paired["top1_agreement"][key]) for key in ("value", "low", "high")},
        (float(paired["macro_f1_reference"]["value"]), float(paired["macro_f1_candidate"]["value"])),
        rank,
        kept,
        same,
        moved,
        float(np.abs(error).max() / np.ptp(reference.logits)),
        float(np.abs(error.mean(0)).max() / reference.logits.std()),
    )


def heatmap_agreement(
    reference: Outputs, candidate: Outputs
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Compare two models' class maps of the reference's predicted class, picture by picture.

    Returns:
        Spearman's rank correlation over the positions (N,), 0 where one of them is flat, 1 where there is but one
        position; the reference's heat, as a
        share of its peak, at the candidate's hottest cell (N,), 0..1; and whether that is the same cell (N,). A
        quantized map has ties: its peak is the best of the cells that reach its maximum.
    """
    from scipy.stats import rankdata

    predicted = reference.logits.argmax(1)
    picked = np.arange(len(predicted))
    before, after = (
        np.moveaxis(side.class_map, -1, 1)[picked, predicted].reshape(len(predicted), -1).astype(np.float64)
        for side in (reference, candidate)
    )
    ranks_before, ranks_after = (rankdata(side, axis=1) for side in (before, after))
    ranks_before -= ranks_before.mean(1, keepdims=True)
    ranks_after -= ranks_after.mean(1, keepdims=True)
    norm = np.sqrt((ranks_before**2).sum(1) * (ranks_after**2).sum(1))
    together = (ranks_before * ranks_after).sum(1)
    rank = np.divide(together, norm, out=np.zeros_like(norm), where=norm > 0)
    if before.shape[1] == 1:  # nothing to rank, so nothing is out of order
        rank = np.ones_like(norm)
    peak = before.max(1)
    found = np.where(after == after.max(1, keepdims=True), before, -np.inf).max(1)  # (N,) reference's heat there
    kept = np.divide(np.maximum(found, 0), peak, out=np.zeros_like(peak), where=peak > 0)
    return rank, kept, found == peak


def rounded(value: float) -> float:
    """Round to four digits: what lies below is the thread count's, not the model's."""
    return float(f"{value:.4g}") + 0.0  # never -0
