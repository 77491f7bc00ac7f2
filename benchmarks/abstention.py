"""`python -m benchmarks.abstention`: does a model decline where it should, and only there?

What comes in are a bundle, the index it was made from, and other data sets beside the checkout; what goes out is its
place in ``results/abstention.json``. On the test split: how often the true label is plausible, how much is answered and
how right and how calibrated that is. Against the test split: pictures no such model should answer - other stains and
sources, photographs, spoilt fields, noise - with the AUROC of the distance from the training pictures and the share
that is refused, by whatever reason. Nothing is fitted here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from edge_runtime.classifier import Classifier, Prediction
from edge_runtime.errors import UsageError
from edge_runtime.familiarity import describe
from edge_runtime.files import write_text
from edge_runtime.guard import guarded
from edge_runtime.preprocess import Box, Pixels, Preprocess, decode, prepare
from export.abstention import measure_abstention
from train.index import read_index
from train.metrics import evaluate_predictions
from train.pixels import load_pixels
from train.resampling import Resamples, percentile_interval

from .cell_finder import DATA
from .corruptions import CORRUPTIONS, RED_CELL_PX, corrupted
from .cost import machine

RESULTS = Path(__file__).parent / "results" / "abstention.json"

Pictures = Iterator[tuple[str, Pixels]]
"""(group, pixels as the network takes them): pictures of one group are resampled together."""

PHOTOGRAPHS = {
    "skimage": (
        "data",
        "coffee.png astronaut.png chelsea.png rocket.jpg motorcycle_left.png camera.png grass.png gravel.png brick.png "
        "moon.png hubble_deep_field.jpg page.png text.png coins.png retina.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
    "matplotlib": ("mpl-data/sample_data", "grace_hopper.jpg"),
}
"""Package -> folder and names of the photographs that come with it."""

TILES = 9
"""Squares cut out of each photograph, beside its whole."""

SPOILT = {
    "disc blur": (0.3, 0.5),
    "disc blur, noise": (0.3,),
    "gaussian blur": (0.3, 0.5),
    "motion blur": (0.8,),
    "over-exposure": (3.0, 5.0, 8.0),
    "under-exposure": (0.12, 0.06, 0.03),
    "faded stain": (0.9, 0.95),
    "JPEG": (10, 5),
    "uniform noise": (0,),
    "sensor noise": (96,),
    "constant colour": (0,),
    "empty field": (0,),
}
"""Corruption -> severities, of ``corruptions``, that are shown."""

PER_SET = 400
"""Pictures of a set, at most, spread evenly."""


def photographs(more: Path | None, px: int) -> Pictures:
    """Yield photographs that come with Python packages, and those of a folder: the whole, and squares out of it."""
    from importlib.util import find_spec

    files = []
    for package, (folder, names) in PHOTOGRAPHS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise UsageError(f"{package} is not installed", todo="make setup")
        files += [Path(spec.origin).parent / folder / name for name in names.split()]
    files += sorted(path for path in (more.rglob("*") if more else ()) if path.suffix.lower() in (".jpg", ".png"))
    rng = np.random.default_rng(0)
    for path in files:
        picture = decode(path)
        yield path.name, prepare(picture, Preprocess(px))
        for _ in range(TILES):
            side = int(rng.uniform(0.25, 0.9) * min(picture.size))
            left, top = (int(rng.integers(0, whole - side + 1)) for whole in picture.size)
            yield path.name, prepare(picture, Preprocess(px), (left, top, side, side))


def folder_pictures(folder: Path, px: int) -> Pictures:
    """Yield the pictures of a folder, each a group of its own."""
    for path in sorted(folder.rglob("*.jpg")):
        yield path.name, prepare(decode(path), Preprocess(px))


def scanned_cells(folder: Path, px: int) -> Pictures:
    """Yield the whole white cells of fields, cut out at the scale of training; fields are the groups."""
    from edge_runtime.cells import CROP_PX, CROP_RED_CELL_PX, find_cells

    for path in sorted(folder.rglob("*.jpg")):
        picture = decode(path)
        found = find_cells(np.asarray(picture))
        if found.red_cell_px is None:
            continue
        side = round(found.red_cell_px * CROP_PX / CROP_RED_CELL_PX)
        for cell in found.cells:
            left, top = (round(place - side / 2) for place in cell.centre)
            box: Box = (left, top, side, side)
            if min(left, top) >= 0 and left + side <= picture.width and top + side <= picture.height:
                yield path.name, prepare(picture, Preprocess(px), box)


def smooth_noise(px: int) -> Pictures:
    """Yield coloured noise of 4 to 40 patches a side."""
    rng = np.random.default_rng(0)
    for number in range(200):
        side = int(rng.integers(4, 41))
        patches = Image.fromarray(rng.integers(256, size=(side, side, 3), dtype=np.uint8))
        yield str(number), np.asarray(patches.resize((px, px), Image.Resampling.BICUBIC))


def strange_sets(kind: str, px: int, data: Path, more: Path | None) -> dict[str, tuple[str, Callable[[], Pictures]]]:
    """Return what no model of this kind was trained on: name -> (letter of its group, pictures)."""
    other = {
        "cell": {
            "BCCD, cells": lambda: scanned_cells(data / "bccd", px),
            "segmentation_WBC, cells": lambda: folder_pictures(data / "segmentation_wbc" / "Dataset 2", px),
            "Taleqani, fields": lambda: folder_pictures(data / "taleqani" / "Original", px),
        },
        "field": {
            "BCCD, fields": lambda: folder_pictures(data / "bccd", px),
            "DeepAPL, cells": lambda: folder_pictures(data / "deepapl", px),
            "PBC, cells": lambda: folder_pictures(data / "pbc", px),
        },
    }[kind]
    return {name: ("a", pictures) for name, pictures in other.items()} | {
        "photographs": ("b", lambda: photographs(more, px)),
        "smooth noise": ("d", lambda: smooth_noise(px)),
    }


def spread(pictures: Pictures) -> list[tuple[str, Pixels]]:
    """Return `PER_SET` of the pictures at most, evenly spread."""
    found = list(pictures)
    return found[:: -(-len(found) // PER_SET)]


def judge(
    classifier: Classifier, pictures: list[tuple[str, Pixels]], name: str
) -> tuple[list[Prediction], list[float]]:
    """Classify pictures; return the answers, and each one's distance from the training pictures."""
    assert classifier.familiarity is not None
    answers = [
        classifier.classify_pixels(pixels) for _, pixels in tqdm(pictures, desc=name, unit="picture", leave=False)
    ]
    return answers, [classifier.familiarity.distance(describe(a.pixels, a.class_map)) for a in answers]


def against(
    clean: tuple[npt.NDArray[np.float64], list[str]],
    pictures: list[tuple[str, Pixels]],
    answers: list[Prediction],
    distances: list[float],
) -> dict[str, Any]:
    """Say how well a set is told from the test split.

    Returns:
        ``n``; ``auroc`` of the distance; ``unfamiliar`` and ``refused``, shares: too far, and without an answer for any
        reason; ``answered_as``: label -> how many were answered.
    """
    scores = np.concatenate([clean[0], distances])
    groups = [f"clean {group}" for group in clean[1]] + [f"strange {group}" for group, _ in pictures]
    sample = Resamples(len(scores), groups, 0, 500)
    strange = np.arange(len(scores)) >= len(clean[0])
    reasons = [{refusal.reason for refusal in answer.refusals} for answer in answers]
    told = [answer.label for answer, why in zip(answers, reasons, strict=True) if not why]
    return {
        "n": len(answers),
        "auroc": percentile_interval(sample.auroc(scores, strange)),
        "unfamiliar": float(np.mean(["unfamiliar" in why for why in reasons])),
        "refused": float(np.mean([bool(why) for why in reasons])),
        "answered_as": {label: told.count(label) for label in sorted(set(told))},
    }


def measure(classifier: Classifier, folder: Path, data: Path, more: Path | None) -> dict[str, Any]:
    """Measure one bundle.

    Raises:
        UsageError: the bundle never declines, or the data are not there.
    """
    manifest = classifier.bundle.manifest
    limits = manifest.abstention
    if limits is None or classifier.familiarity is None:
        raise UsageError(f"{manifest.name}: never declines", expected="a bundle with abstention.familiarity")
    if not data.is_dir():
        raise UsageError("no data sets to measure on", got=data)
    index = read_index(folder)
    protocol, kind = manifest.raw["training"]["protocol"], manifest.task.kind
    pixels, test = load_pixels(index, manifest.preprocess), index.select(protocol, "test")
    targets, groups = index.targets(test), [index.rows[i].group for i in test]
    answers, distances = judge(classifier, [(g, pixels[i]) for g, i in zip(groups, test, strict=True)], "test split")
    logits = np.array([answer.logits for answer in answers])
    far = np.array(distances) > limits.distance_limit
    clean = (np.array(distances), groups)
    sets: dict[str, Any] = {}
    for name, (letter, pictures) in strange_sets(kind, manifest.io.input_px, data, more).items():
        shown = spread(pictures())
        sets[name] = {"group": letter, **against(clean, shown, *judge(classifier, shown, name))}
    base = [(groups[place], pixels[test[place]]) for place in range(0, len(test), -(-len(test) // PER_SET))]
    for name, severities in SPOILT.items():
        for severity in severities:
            shown = [
                (group, corrupted(p, name, severity, number, RED_CELL_PX[kind]))
                for number, (group, p) in enumerate(base)
            ]
            title = f"{name} {severity:g}" if severity else name
            letter = "d" if name in ("uniform noise", "sensor noise", "constant colour") else "c"
            found = against(clean, shown, *judge(classifier, shown, title))
            sets[title] = {"group": letter, "unit": CORRUPTIONS[name].unit, **found}
    return {
        "bundle": classifier.bundle.id,
        "test": measure_abstention(
            logits, targets, groups, manifest.task.labels, manifest.temperature, np.array(limits.margins), far
        )
        | {
            "n": len(test),
            "ece_of_all": evaluate_predictions(logits, targets, manifest.task.labels, manifest.temperature, groups)[
                "ece"
            ],
            "ece_if_calibrated": ece_if_calibrated(logits, manifest.temperature),
            "accuracy_of_all": float((logits.argmax(1) == targets).mean()),
            "refused_by_any": float(np.mean([answer.abstained for answer in answers])),
        },
        "sets": sets,
    }


def ece_if_calibrated(logits: npt.NDArray[np.floating], temperature: float, draws: int = 200) -> dict[str, float]:
    """Return the ECE that a perfectly calibrated model would show here: finite samples never show 0.

    Truth is drawn from the model's own probabilities.

    Returns:
        ``mean``, and ``low`` and ``high``: 5th and 95th percentile.
    """
    from train.metrics import probabilities

    p = probabilities(logits, temperature)
    rng = np.random.default_rng(0)
    labels = [str(k) for k in range(p.shape[1])]
    found = []
    for _ in range(draws):
        drawn = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
        ece = evaluate_predictions(logits, drawn, labels, temperature, resamples=1)["ece"]
        found.append(ece["value"])
    low, high = np.percentile(found, (5, 95))
    return {"mean": float(np.mean(found)), "low": float(low), "high": float(high)}


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abstention", description=__doc__)
    parser.add_argument("--bundle", action="append", required=True, help="name or path; once or more")
    parser.add_argument("--index", action="append", required=True, type=Path, help="its index; as often as --bundle")
    parser.add_argument("--data", type=Path, default=DATA, help="the data sets' folder")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="more photographs")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    if len(args.bundle) != len(args.index):
        raise UsageError("--index", got=len(args.index), expected=f"{len(args.bundle)}, one for each --bundle")
    found: dict[str, Any] = {"machine": machine()}
    for bundle, index in zip(args.bundle, args.index, strict=True):
        classifier = Classifier.open(bundle)
        found[classifier.bundle.manifest.task.name] = measure(classifier, index, args.data, args.photographs)
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    sys.stderr.write(f"{RESULTS} is written\n")


if __name__ == "__main__":
    sys.exit(main())
