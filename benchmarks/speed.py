"""`python -m benchmarks.speed`: what a JPEG decoded at half size changes, beside the time that it saves.

What comes in are the shipped bundles and BCCD's fields beside the checkout; what goes out is ``results/speed.json``,
whose table stands in ``docs/speed.md``. The reduced decode is libjpeg's (a half of the size, in the DCT's domain); it
is not built in, and this says why. What an answer adds to the bare engine is in ``side_by_side``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_runtime.bundle import default_bundles
from edge_runtime.classifier import Classifier
from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.guard import Parser, guarded
from edge_runtime.preprocess import Pixels, Preprocess, decode, prepare
from export.interleave import interleave

from .cell_finder import DATA
from .cost import machine

RESULTS = Path(__file__).parent / "results" / "speed.json"
HEIGHTS_PX = (480, 768, 1536)
"""Heights of the fields whose decoding is compared: BCCD's own, and enlarged."""

EVERY, QUALITY = 3, 90
"""Every third field; and the quality of those that are encoded anew, with halved colours as cameras do it."""


def reduced(encoded: bytes, preprocess: Preprocess) -> Pixels:
    """Decode a JPEG at a half of its size, and prepare it."""
    with Image.open(io.BytesIO(encoded)) as picture:
        picture.draft("RGB", (picture.width // 2, picture.height // 2))
        return prepare(picture.convert("RGB"), preprocess)


def nudged(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Change a tenth of the values by one grey level: as little as can be, to compare with."""
    step = rng.choice((-1, 1), pixels.shape) * (rng.random(pixels.shape) < 0.1)
    return np.asarray((pixels + step).clip(0, 255), np.uint8)


def change(classifier: Classifier, pairs: Sequence[tuple[Pixels, Pixels]]) -> dict[str, float]:
    """Compare the answers to pairs of pixels, in the measures of the parity ladder."""
    from scipy.stats import spearmanr

    rows = []
    for pixels, other in pairs:
        one, two = classifier.classify_pixels(pixels), classifier.classify_pixels(other)
        best = int(np.argmax(one.logits))
        maps = [answer.class_map[..., best].ravel() for answer in (one, two)]
        rows.append(
            (
                np.abs(pixels.astype(int) - other).mean(),
                np.abs(pixels.astype(int) - other).max(),
                one.label == two.label,
                np.abs(one.logits - two.logits).max() / np.ptp(one.logits),
                spearmanr(*maps).statistic,
                maps[0].argmax() == maps[1].argmax(),
                {refusal.reason for refusal in one.refusals} != {refusal.reason for refusal in two.refusals},
            )
        )
    mean, most, same, logits, rank, peak, refused = np.array(rows, np.float64).T
    return {
        "pictures": len(rows),
        "grey_levels_mean": float(mean.mean()),
        "grey_levels_max": float(most.max()),
        "top1_agreement": float(same.mean()),
        "logits_share_of_span": float(np.median(logits)),
        "spearman": float(np.median(rank)),
        "peak_equal": float(peak.mean()),
        "refusals_changed": int(refused.sum()),
    }


def decoding(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """Compare the whole decode of JPEGs with that at a half of their size, for each of `HEIGHTS_PX`."""
    classifier = Classifier.open(name, threads=1)
    found: dict[str, Any] = {}
    for height in HEIGHTS_PX:
        encoded = [_enlarged(file, height) for file in files]
        whole = [prepare(decode(content), classifier.preprocess) for content in encoded]
        half = [reduced(content, classifier.preprocess) for content in encoded]
        times = interleave(
            {
                "whole_ms": lambda content=encoded[0]: prepare(decode(content), classifier.preprocess),
                "half_ms": lambda content=encoded[0]: reduced(content, classifier.preprocess),
            },
            30,
        )
        found[str(height)] = {
            "margin": height / 2 / classifier.preprocess.input_px,
            **change(classifier, list(zip(whole, half, strict=True))),
            **{way: float(np.median(values)) for way, values in times.items()},
        }
    rng = np.random.default_rng(0)
    found["nudged"] = change(classifier, [(pixels, nudged(pixels, rng)) for pixels in whole])
    return found


def _enlarged(file: Path, height: int) -> bytes:
    picture = decode(file)
    if picture.height == height:
        return file.read_bytes()
    size = (round(picture.width * height / picture.height), height)
    encoded = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def main() -> int:
    """Run the command line; return its exit status."""
    parser = Parser(prog="python -m benchmarks.speed", description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", type=Path, default=DATA, help=f"the data sets' folder (default {DATA.name})")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    files = sorted((args.data / "bccd").rglob("*.jpg"))[::EVERY]
    if not files:
        raise UsageError("no data set to measure on", got=args.data, expected="a folder with bccd")
    found = {
        "machine": machine(),
        "load_before": os.getloadavg()[0],
        "decoding": {name: decoding(name, files) for name in default_bundles()},
    }
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    from .tables import write_pages

    write_pages()
    sys.stderr.write(f"{RESULTS} and the tables are written\n")


if __name__ == "__main__":
    sys.exit(main())
