"""`python -m benchmarks.cell_finder`: how well cells are found, against experts' masks and boxes, and how fast.

What comes in are the real data sets beside the checkout; what goes out is ``results/cell-finder.json``. The light
finder of `edge_runtime.cells` stands beside the scikit-image reference of `train.roi`, which is told how large red
cells are. Times are process times of one core. The light finder's constants were set on these very pictures: the
figures say what it can do on such smears, not what it will do on others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

import train.roi
from edge_runtime.cells import FIELD_PX, central_cell, find_cells
from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.guard import guarded
from edge_runtime.masks import Mask
from edge_runtime.preprocess import Box, Pixels, Preprocess, decode, prepare
from train.sources import SOURCES

from .cost import machine

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "cell-finder.json"
CROP_PX = 224
NUCLEUS, CELL = 200, 60
"""Grey levels of the experts' masks: above the first nucleus, above the second nucleus or cytoplasm."""

CROP_RED_CELL_PX = 60.0
"""In a crop of `CROP_PX`, for the reference."""


@dataclass(frozen=True)
class Field:
    """A field with the boxes that people drew.

    Attributes:
        pixels: (H, W, 3) uint8.
        boxes: of white cells.
        red_cell_px: median diameter of the boxes of red cells.
        name: of the file.
    """

    pixels: Pixels
    boxes: tuple[Box, ...]
    red_cell_px: float
    name: str = ""


Found = list[tuple[Box, tuple[float, float]]]
"""(box, centre) of each cell."""


def dice(found: Mask, wanted: Mask) -> float:
    """Return 2 |A and B| / (|A| + |B|), 0..1."""
    return float(2 * (found & wanted).sum() / max(1, found.sum() + wanted.sum()))


def overlap(one: Box, other: Box) -> float:
    """Return intersection over union of two boxes, 0..1."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0, width) * max(0, height)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def judge_masks(
    crops: Sequence[tuple[Pixels, npt.NDArray[np.uint8]]], find: Callable[[Pixels], tuple[Mask, Mask]]
) -> dict[str, Any]:
    """Compare masks with the experts'.

    Args:
        crops: (pixels, mask) of the same size.
        find: pixels -> nucleus and cell.

    Returns:
        ``nucleus`` and ``cell``: Dice and IoU, median and 10th percentile over pictures; ``ms``: median time of one.
    """
    scores: dict[str, list[float]] = {"nucleus": [], "cell": []}
    times = []
    for pixels, mask in tqdm(crops, desc="masks", unit="picture", leave=False, disable=None):
        start = time.process_time()
        nucleus, cell = find(pixels)
        times.append(time.process_time() - start)
        scores["nucleus"].append(dice(nucleus, mask > NUCLEUS))
        scores["cell"].append(dice(cell, mask > CELL))
    summary: dict[str, Any] = {"pictures": len(crops), "ms": 1000 * float(np.median(times))}
    for name, values in scores.items():
        found = np.array(values)
        summary[name] = {
            measure: {"median": float(np.median(score)), "p10": float(np.percentile(score, 10))}
            for measure, score in (("dice", found), ("iou", found / (2 - found)))
        }
    return summary


def judge_boxes(fields: Sequence[Field], find: Callable[[Field], Found]) -> dict[str, Any]:
    """Compare cells with drawn boxes; each box is found at most once.

    Args:
        fields: with boxes.
        find: field -> cells.

    Returns:
        ``centre_hit`` (a cell's centre lies in the box) and ``iou_0.5``: ``recall``, ``precision``, and the numbers
        ``found``, ``missed``, ``extra``; ``ms``: median time of one field, and ``fields_per_second``.
    """
    hits = {"centre_hit": 0, "iou_0.5": 0}
    wanted = found_in_all = 0
    times = []
    for field in tqdm(fields, desc="boxes", unit="field", leave=False, disable=None):
        start = time.process_time()
        cells = find(field)
        times.append(time.process_time() - start)
        wanted, found_in_all = wanted + len(field.boxes), found_in_all + len(cells)
        hits["centre_hit"] += len(centre_pairs(cells, field.boxes))
        hits["iou_0.5"] += len(pairs([[overlap(x, b) for b in field.boxes] for x, _ in cells], 0.5))
    summary: dict[str, Any] = {"fields": len(fields), "boxes": wanted, "ms": 1000 * float(np.median(times))}
    summary["fields_per_second"] = 1000 / summary["ms"]
    for name, found in hits.items():
        summary[name] = {
            "recall": found / wanted,
            "precision": found / max(1, found_in_all),
            "found": found,
            "missed": wanted - found,
            "extra": found_in_all - found,
        }
    return summary


def _inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[0] + box[2] and box[1] <= point[1] <= box[1] + box[3]


def centre_pairs(cells: Found, boxes: Sequence[Box]) -> dict[int, int]:
    """Pair cells with the boxes that their centres lie in, the best overlap first: number of cell -> of box."""
    return pairs([[_inside(c, b) * (1 + overlap(x, b)) for b in boxes] for x, c in cells], 0)


def pairs(scores: list[list[float]], least: float) -> dict[int, int]:
    """Pair cells with boxes, the best score first, one with one: number of cell -> of box that score over `least`."""
    ranked = sorted(((s, i, j) for i, row in enumerate(scores) for j, s in enumerate(row) if s > least), reverse=True)
    found: dict[int, int] = {}
    for _, cell, box in ranked:
        if cell not in found and box not in found.values():
            found[cell] = box
    return found


def light_masks(pixels: Pixels) -> tuple[Mask, Mask]:
    """`edge_runtime.cells.central_cell`."""
    found = central_cell(pixels)
    return found.nucleus, found.cell


def light_boxes(field: Field) -> Found:
    """`edge_runtime.cells.find_cells`."""
    return [(cell.box, cell.centre) for cell in find_cells(field.pixels).cells]


def reference_masks(pixels: Pixels) -> tuple[Mask, Mask]:
    """`train.roi.central_cell`."""
    return train.roi.central_cell(pixels, CROP_RED_CELL_PX)


def reference_boxes(field: Field) -> Found:
    """`train.roi.find_cells`, at the resolution of the light finder."""
    from skimage.measure import regionprops

    scale = max(field.pixels.shape) / FIELD_PX[0]
    size = (round(field.pixels.shape[1] / scale), round(field.pixels.shape[0] / scale))
    small = np.asarray(Image.fromarray(field.pixels).resize(size, Image.Resampling.BOX))
    found = []
    for region in regionprops(train.roi.find_cells(small, field.red_cell_px / scale).cells):
        top, left, bottom, right = (round(scale * side) for side in region.bbox)
        y, x = region.centroid
        found.append(((left, top, right - left, bottom - top), (float(scale * x), float(scale * y))))
    return found


def read_crops(data: Path) -> list[tuple[Pixels, npt.NDArray[np.uint8]]]:
    """Read the expert masks of segmentation_WBC, prepared as for the network."""
    crops = []
    for path in sorted((data / "segmentation_wbc" / "Dataset 2").glob("*.jpg")):
        mask = Image.open(path.with_suffix(".png")).convert("L").resize((CROP_PX, CROP_PX), Image.Resampling.NEAREST)
        crops.append((prepare(decode(path), Preprocess(CROP_PX)), np.asarray(mask)))
    return crops


def read_fields(data: Path) -> list[Field]:
    """Read BCCD's fields with the boxes of their white and red cells."""
    boxes: dict[Path, dict[str, list[Box]]] = {}
    for sample in SOURCES["bccd"].read(data / "bccd"):
        if box := getattr(sample, "box", None):  # a remark has none
            boxes.setdefault(sample.path, {}).setdefault(sample.raw_label, []).append(box)
    fields = []
    for path, kinds in sorted(boxes.items()):
        diameters = [np.sqrt(width * height) for _, _, width, height in kinds.get("RBC", [(0, 0, 100, 100)])]
        fields.append(
            Field(np.asarray(decode(path)), tuple(kinds.get("WBC", ())), float(np.median(diameters)), path.name)
        )
    return fields


def measure(data: Path) -> dict[str, Any]:
    """Measure both finders on the data sets below `data`.

    Raises:
        UsageError: they are not there.
    """
    if not (data / "bccd").is_dir() or not (data / "segmentation_wbc").is_dir():
        raise UsageError("no data sets to measure on", got=data, expected="a folder with segmentation_wbc and bccd")
    crops, fields = read_crops(data), read_fields(data)
    return {
        "machine": machine(),
        "segmentation_wbc": {
            "light": judge_masks(crops, light_masks),
            "reference": judge_masks(crops, reference_masks),
        },
        "bccd": {"light": judge_boxes(fields, light_boxes), "reference": judge_boxes(fields, reference_boxes)},
    }


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cell_finder", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help=f"the data sets' folder (default {DATA.name})")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    found = measure(args.data)
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    sys.stderr.write(f"{RESULTS} is written\n")


if __name__ == "__main__":
    sys.exit(main())
