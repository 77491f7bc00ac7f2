"""Quantizers: the ways to turn one run into INT8, measured against its full precision on its own test split.

``python -m benchmarks.quantizers RUN`` compares the recipe that ships with the quantizer's own choices, on the same
calibration pictures; ``--also NAME=FILE`` adds a TFLite file that another converter made. Latencies are interleaved in
one process, one thread. Nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import UsageError
from edge_runtime.guard import guarded
from export.interleave import interleave, latency
from export.recipes import CALIBRATION_IMAGES, Recipe, parse_recipe
from train.layout import columns

VARIANTS: dict[str, Recipe] = {
    f"{ranges}, {rounding}": parse_recipe(f"tflite-int8:ranges={ranges},rounding={rounding}")
    for ranges, rounding in (
        ("least-squares", "compensated"),
        ("min-max", "compensated"),
        ("least-squares", "nearest"),
        ("min-max", "nearest"),
        ("moving-average", "nearest"),
    )
}
"""Ranges and rounding: the first is what ships, the last is ai-edge-quantizer's default."""


def compare(folder: Path, index_folder: Path | None, images: int, others: dict[str, bytes], rounds: int) -> str:
    """Quantize a run in every way and lay the figures out as a table.

    Args:
        folder: run folder, fitted.
        index_folder: where its index lies now; None: where `fit` found it.
        images: size of the calibration set.
        others: name -> TFLite file with the project's input and outputs, made of the same run.
        rounds: timed runs of each.
    """
    from edge_runtime.engines import open_engine
    from export.comparison import engine_outputs
    from export.pipeline import open_source
    from export.quantized import make_quantized
    from train.run_folder import read_run

    source = open_source(read_run(folder), index_folder, images)
    pixels, test, index, spec, reference = source.pixels, list(source.test), source.index, source.io, source.reference
    full = source.tflite("onnx2tf").files
    models = {"fp32": full} | {
        name: make_quantized(full, source.calibration_pixels, recipe) for name, recipe in VARIANTS.items()
    }
    models |= {name: {"model.tflite": content} for name, content in others.items()}
    engines = {name: open_engine("litert", model, spec, threads=1) for name, model in models.items()}
    picture = np.array(pixels[test[0]])
    times = interleave({name: lambda engine=engine: engine.run(picture) for name, engine in engines.items()}, rounds)
    head = ("", "top-1 agreement", "macro-F1, pp", "logits, rms", "map, rms", "Spearman", "same peak", "ms", "MB")
    rows = []
    for name, model in models.items():
        outputs = engine_outputs(model, spec, pixels, test, "litert")
        found = figures(reference, outputs, index, test)
        rows.append((name, *found, f"{latency(times[name]).p50_ms:.2f}", f"{len(model['model.tflite']) / 1e6:.3f}"))
    return f"{folder}: {len(test)} test pictures, {images} calibration pictures\n{columns(head, rows)}"


def figures(reference: Any, outputs: Any, index: Any, test: list[int]) -> tuple[str, ...]:
    """Compare a model's outputs with full precision: the cells of its row.

    Raises:
        UsageError: outputs that are not finite.
    """
    from export.comparison import heatmap_agreement
    from train.metrics import paired_difference

    if not outputs.whole:
        raise UsageError("a model gives no usable outputs", got=outputs.error)
    groups = [index.rows[i].group for i in test]
    labels = index.task.labels
    paired = paired_difference(reference.logits, outputs.logits, index.targets(test), groups, labels, resamples=1)
    rank, _, same = heatmap_agreement(reference, outputs)
    return (
        f"{paired['top1_agreement']['value']:.4f}",
        f"{paired['macro_f1_difference_pp']['value']:+.2f}",
        f"{np.sqrt(((outputs.logits - reference.logits) ** 2).mean()):.4f}",
        f"{np.sqrt(((outputs.class_map - reference.class_map) ** 2).mean()):.4f}",
        f"{np.median(rank):.4f}",
        f"{same.mean():.3f}",
    )


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantizers", description=__doc__)
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="where the run's index lies now, if it was moved")
    parser.add_argument("--calibration-images", type=int, default=CALIBRATION_IMAGES, metavar="N")
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=FILE", help="a TFLite file to compare, too"
    )
    parser.add_argument("--rounds", type=int, default=300, help="timed runs of each (default 300)")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    others = {}
    for entry in args.also:
        name, _, file = entry.partition("=")
        if not file or not Path(file).is_file():
            raise UsageError("--also", got=entry, expected="NAME=FILE, a TFLite file")
        others[name] = Path(file).read_bytes()
    sys.stdout.write(compare(args.run_folder, args.index, args.calibration_images, others, args.rounds) + "\n")


if __name__ == "__main__":
    sys.exit(main())
