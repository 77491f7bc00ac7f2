"""Parity: the ladder from torch to the file that ships, as a table of rows, each with its limit.

What comes in are outputs over the whole test split, torch's and those of the exported graphs as
``edge_runtime.engines`` gives them (the device's own code); what goes out are `Row`s: step, measure, value, limit,
passed. Nothing is averaged before it was found finite, and a graph that cannot be opened or run is a row that failed,
not a missing one.

Two limits need a rule to be honest. "No class recall drops by more than 1 pp" would be decided by one picture or two in
a class of a hundred: a drop counts where McNemar's exact test does not put it down to chance, and the row prints both.
"The same cell is hottest" would be decided by chance where a field shows many equal cells: what is limited is how hot
the reference finds the cell that the candidate points at; how often it is the same one stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.heatmap import heatmap
from train.layout import columns

from .comparison import Comparison, Outputs, rounded

if TYPE_CHECKING:
    from edge_runtime.preprocess import Pixels, Preprocess
    from train.index import Index
    from train.network import SelfExplaining

    from .calibration import CalibrationSet
    from .recipes import Recipe

GRADCAM_PICTURES = 64
"""Pictures on which closed form and autograd are compared: the identity is exact, and a backward pass is slow."""


@dataclass(frozen=True)
class Gate:
    """A limit of the ladder.

    Attributes:
        measure: what is limited, as rows name it.
        sign: "<=" or ">=".
        limit: in the measure's unit.
    """

    measure: str
    sign: str
    limit: float

    def row(self, step: str, value: float, note: str = "") -> Row:
        """Return the row of this gate for a measured value; `note` says what the number alone does not."""
        passed = value <= self.limit if self.sign == "<=" else value >= self.limit
        return Row(step, self.measure, rounded(value), f"{self.sign} {self.limit:g}", bool(passed), note)


GATES: dict[str, Gate] = {
    key: Gate(measure, sign, limit)
    for key, measure, sign, limit in (
        ("fp32_logits", "largest logit difference", "<=", 1e-4),
        ("fp32_top1", "top-1 agreement", ">=", 1.0),
        ("gradcam", "largest heatmap difference", "<=", 1e-5),
        ("macro_f1", "macro-F1 drop, pp", "<=", 0.5),
        ("recall", "largest class recall drop, pp", "<=", 1.0),
        ("int8_top1", "top-1 agreement", ">=", 0.98),
        ("probability", "probability difference, median", "<=", 0.05),
        ("logit_error", "largest logit difference, share of their span", "<=", 0.1),
        ("logit_shift", "largest mean shift of a logit, in their deviations", "<=", 0.08),
        ("spearman", "heatmap Spearman, median", ">=", 0.98),
        ("peak", "heat kept at the peak, 5th percentile", ">=", 0.90),
    )
}
"""Every limit on a number; `FINITE` and the calibration's rows limit counts."""

SIGNIFICANT = 0.05

FINITE = "pictures with finite outputs"
CLASSES = "classes covered"
LEVELS = "grey levels normalised exactly"
STRUCTURE = "convolutions quantized as stated"


@dataclass(frozen=True)
class Row:
    """One line of the ladder.

    Attributes:
        step: what is compared with what.
        measure: how.
        value: what was found.
        limit: what it must be, as text.
        passed: whether it is.
        note: beside the number: the interval, the class, the pictures.
    """

    step: str
    measure: str
    value: float
    limit: str
    passed: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as the manifest takes it."""
        stated: dict[str, Any] = {
            "step": self.step,
            "measure": self.measure,
            "value": self.value,
            "limit": self.limit,
            "passed": self.passed,
        }
        return stated | ({"note": self.note} if self.note else {})


def preparation_row(index: Index, numbers: Sequence[int], pixels: Pixels, preprocess: Preprocess) -> Row:
    """Return the row that says whether the device's preprocessing gives the pixels that training saw, bit for bit.

    Args:
        index: whose pictures; their files are read again.
        numbers: N rows of it.
        pixels: (all, H, W, 3) uint8, as trained.
        preprocess: the run's.

    Raises:
        DataError: a picture file has gone or changed.
    """
    import hashlib

    from tqdm import tqdm

    from train.errors import DataError
    from train.pixels import prepare_picture
    from train.sources import SOURCES

    equal = 0
    for i in tqdm(numbers, desc="parity: preprocessing", unit="picture", leave=False, disable=None):
        row = index.rows[i]
        path = index.data / row.path
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
            todo = "put the data back, or run python -m train index again"
            raise DataError(f"{path}: not the picture that was indexed", todo=todo)
        prepared = prepare_picture(path, row.box, SOURCES[row.source].central_px, preprocess)
        equal += int(np.array_equal(prepared, pixels[i]))
    n = len(numbers)
    return Row("training pixels vs edge_runtime's", "pictures equal, bit for bit", equal, f"all {n}", equal == n)


def compare_fp32(step: str, reference: Outputs, candidate: Outputs) -> list[Row]:
    """Compare two full-precision models: the same function, up to rounding."""
    rows = [finite_row(step, candidate)]
    if not (rows[0].passed and reference.whole):
        return rows
    difference = float(np.abs(candidate.logits - reference.logits).max())
    agreement = float((candidate.logits.argmax(1) == reference.logits.argmax(1)).mean())
    map_difference = float(np.abs(candidate.class_map - reference.class_map).max())
    return [
        *rows,
        GATES["fp32_logits"].row(step, difference, f"class map {rounded(map_difference):g}"),
        GATES["fp32_top1"].row(step, agreement),
    ]


def compare_gradcam(network: SelfExplaining, pixels: Pixels, numbers: Sequence[int], reference: Outputs) -> list[Row]:
    """Compare the heatmap (closed form) with autograd's Grad-CAM, on `GRADCAM_PICTURES` spread over the pictures.

    Args:
        network: torch.
        pixels: (all, H, W, 3) uint8.
        numbers: N rows of it.
        reference: the network's outputs on them.
    """
    import torch
    from tqdm import tqdm

    from train.network import autograd_gradcam

    step = "closed-form heatmap vs autograd Grad-CAM"
    if not reference.whole:
        return [finite_row(step, reference)]
    places = np.unique(np.linspace(0, len(numbers) - 1, min(GRADCAM_PICTURES, len(numbers))).astype(int))
    largest = 0.0
    device = next(network.parameters()).device
    for place in tqdm(places, desc="parity: Grad-CAM", unit="picture", leave=False, disable=None):
        k = int(reference.logits[place].argmax())
        picture = torch.from_numpy(np.array(pixels[numbers[place]][None])).to(device)  # a copy: the cache is read-only
        wanted = autograd_gradcam(network, picture, k).cpu().numpy()
        largest = max(largest, float(np.abs(heatmap(reference.class_map[place], k) - wanted).max()))
    return [GATES["gradcam"].row(step, largest, f"{len(places)} pictures, scaled to peak 1")]


def compare_quantized(
    step: str,
    reference: Outputs,
    candidate: Outputs,
    found: Comparison,
    targets: npt.NDArray[np.int64],
    labels: Sequence[str],
) -> list[Row]:
    """Return the rungs of a quantized model.

    Args:
        step: name of the step.
        reference: full precision.
        candidate: quantized.
        found: `compare` of the two.
        targets: (N,) class numbers.
        labels: K names.
    """
    change, agreement, moved = found.macro_f1_difference_pp, found.top1_agreement, found.probability_moved
    return [
        GATES["macro_f1"].row(
            step,
            -change["value"],
            f"{found.macro_f1[0]:.4f} -> {found.macro_f1[1]:.4f}, "
            f"95 % {_signed(-change['high'])} .. {_signed(-change['low'])}",
        ),
        recall_row(step, reference, candidate, targets, labels),
        GATES["int8_top1"].row(
            step, agreement["value"], f"95 % {agreement['low']:.4f} .. {agreement['high']:.4f}, n = {len(targets)}"
        ),
        GATES["probability"].row(
            step,
            float(np.median(moved)),
            f"largest of a picture's classes; 95th percentile {np.percentile(moved, 95):.2g}",
        ),
        GATES["logit_error"].row(step, found.logit_error_share),
        GATES["logit_shift"].row(step, found.logit_shift_share),
        GATES["spearman"].row(
            step, float(np.median(found.spearman)), f"10th percentile {np.percentile(found.spearman, 10):.3f}"
        ),
        GATES["peak"].row(
            step,
            float(np.percentile(found.heat_kept, 5)),
            f"mean {found.heat_kept.mean():.3f}; the very same cell in {100 * found.same_peak.mean():.1f} %",
        ),
    ]


def recall_row(
    step: str, reference: Outputs, candidate: Outputs, targets: npt.NDArray[np.int64], labels: Sequence[str]
) -> Row:
    """Return the row of the class whose recall drops most, among those whose loss is the least likely to be chance.

    A class fails when it drops by more than the limit and McNemar's exact test (one-sided, on the pictures that only
    one of the two gets right) calls that a loss at the 5 % level.
    """
    from scipy.stats import binomtest

    gate = GATES["recall"]
    right_before, right_after = (side.logits.argmax(1) == targets for side in (reference, candidate))
    found: list[tuple[bool, float, float, str]] = []
    for k, label in enumerate(labels):
        mine = targets == k
        support = int(mine.sum())
        if support:
            lost = int((right_before & ~right_after)[mine].sum())
            won = int((right_after & ~right_before)[mine].sum())
            drop = 100 * (lost - won) / support
            chance = float(binomtest(lost, lost + won, alternative="greater").pvalue) if lost + won else 1.0
            note = f"{label}: {lost} lost, {won} won of {support}, p {chance:.2f}"
            found.append((drop > gate.limit and chance < SIGNIFICANT, drop, chance, note))
    failed, drop, _, note = max(found)
    return Row(step, gate.measure, rounded(drop), f"<= {gate.limit:g} pp, or p >= {SIGNIFICANT:g}", not failed, note)


def finite_row(step: str, outputs: Outputs) -> Row:
    """Return the row that comes first: every picture has outputs, as stated and finite."""
    n = len(outputs.logits)
    return Row(step, FINITE, outputs.finite, f"all {n}", outputs.whole, outputs.error)


def input_row(step: str, files: Mapping[str, bytes]) -> Row:
    """Return the row that says whether a quantized graph normalises every grey level as the network was trained."""
    from .structure import exact_levels

    exact = exact_levels(files)
    return Row(step, LEVELS, exact, "all 256", exact == 256)


def structure_row(step: str, full: Mapping[str, bytes], files: Mapping[str, bytes], recipe: Recipe) -> Row:
    """Return the row that says whether every convolution is quantized as the recipe states, see `structure`.

    Args:
        step: name of the step.
        full: the model's files before quantization.
        files: and after it.
        recipe: how it was quantized.
    """
    from .structure import all_convolutions, check_structure, kept_convolutions

    kept = kept_convolutions(full, recipe.keep)
    wanted = all_convolutions(full) - kept  # of the full model: none may have become something else
    right, _, fault = check_structure(files, recipe.target.activations, kept, recipe.target.weights)
    return Row(step, STRUCTURE, right, f"all {wanted}", right == wanted, fault)


def calibration_row(chosen: CalibrationSet) -> Row:
    """Return the row that says whether every class took part in the calibration."""
    covered = sum(1 for count in chosen.per_class.values() if count)
    counts = ", ".join(f"{label} {count}" for label, count in chosen.per_class.items())
    all_classes = len(chosen.per_class)
    return Row("calibration set", CLASSES, covered, f"all {all_classes}", covered == all_classes, counts)


def format_table(rows: Sequence[Row]) -> str:
    """Lay the ladder out as text."""
    head = ("step", "measure", "value", "limit", "", "note")
    cells = [
        (row.step, row.measure, f"{row.value:.6g}", row.limit, "ok" if row.passed else "FAILED", row.note)
        for row in rows
    ]
    return columns(head, cells, rule=True)


def _signed(value: float) -> str:
    return f"{value + 0.0:+.2f}"
