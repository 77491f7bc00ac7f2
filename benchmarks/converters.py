"""Converters: the roads from torch to TFLite, measured against torch and against each other, run by run.

``python -m benchmarks.converters RUN...`` prints two Markdown tables: the float32 files - seconds to make, largest
difference to torch on real pictures and on noise, operators, size, latency - and the INT8 files that the shipped
recipe makes of them, on pictures of the test split. Latencies are interleaved in one process, one thread, and given as
ratios to the first converter's file of the same run. Nothing is written.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import LeukoscopeError, UsageError
from edge_runtime.guard import guarded
from export.interleave import interleave, ratio
from export.recipes import CALIBRATION_IMAGES, parse_recipe
from export.to_tflite import CONVERTERS, Converter

PICTURES = 300
"""Of the test split, on which files are compared with torch."""

NOISE = 32
"""Pictures of random grey levels beside them, for full precision: nothing in a smear looks like that."""


@dataclass(frozen=True)
class Made:
    """What a converter made of a run.

    Attributes:
        converter: row of the table.
        seconds: from torch to the float32 file, all stages of this road.
        model: the float32 file; None where the converter failed.
        error: why, or "".
        logits: largest difference to torch.
        class_map: likewise.
        quantized: the INT8 file; None where it could not be made.
        cells: figures of the INT8 file, as the table has them.
    """

    converter: Converter
    seconds: float
    model: bytes | None = field(repr=False)
    error: str = ""
    logits: float = np.nan
    class_map: float = np.nan
    quantized: bytes | None = field(default=None, repr=False)
    cells: tuple[str, ...] = ()


def measure(folder: Path, index_folder: Path | None, pictures: int, images: int, rounds: int) -> tuple[Any, ...]:
    """Convert a run on every road.

    Args:
        folder: run folder, fitted.
        index_folder: where its index lies now; None: where `fit` found it.
        pictures: of the test split.
        images: size of the calibration set; 0: do not quantize.
        rounds: timed runs of each file.

    Returns:
        The run, what was made, and the latency ratios of the float32 and of the INT8 files by converter's name.
    """
    from edge_runtime.engines import open_engine
    from edge_runtime.manifest import IOSpec
    from export.calibration import choose_calibration
    from export.comparison import Outputs, engine_outputs
    from export.quantize import quantize
    from export.to_onnx import CLASS_MAP, INPUT, LOGITS
    from train.evaluate import index_of, network_outputs
    from train.geometry import placement
    from train.pixels import load_pixels
    from train.run_folder import read_run

    run = read_run(folder)
    index = index_of(run, index_folder)
    pixels, test = load_pixels(index, run.preprocess), index.select(run.protocol, "test")
    test = [test[i] for i in np.unique(np.linspace(0, len(test) - 1, min(pictures, len(test))).astype(int))]
    noise = np.random.default_rng(0).integers(0, 256, (NOISE, *pixels.shape[1:]), np.uint8)
    both = np.concatenate([pixels[test], noise])
    reference = Outputs(*network_outputs(run.network, both, range(len(both)), progress="torch"))
    real = Outputs(reference.logits[: len(test)], reference.class_map[: len(test)])
    _, height, width, classes = reference.class_map.shape
    place = placement(run.network.features, "", run.input_px)
    spec = IOSpec(INPUT, run.input_px, LOGITS, CLASS_MAP, height, width, place.first_px, place.step_px, classes)
    chosen = choose_calibration(index, run.protocol, images).numbers if images else ()
    calibration = np.ascontiguousarray(pixels[list(chosen)])
    made = []
    for converter in CONVERTERS.values():
        started, model, quantized = time.perf_counter(), None, None
        try:
            model, seconds = _convert(converter, run.network, run.input_px)
            outputs = engine_outputs(model, spec, both, range(len(both)), "litert")
            if not outputs.whole:
                raise UsageError("no usable outputs", got=outputs.error)
            logits = float(np.abs(outputs.logits - reference.logits).max())
            class_map = float(np.abs(outputs.class_map - reference.class_map).max())
        except LeukoscopeError as error:
            made.append(Made(converter, time.perf_counter() - started, None, str(error)))
            continue
        cells: tuple[str, ...] = ()
        error_text = ""
        if images:
            try:
                quantized = quantize(model, calibration, parse_recipe("tflite-int8"))
                cells = _agreement(real, engine_outputs(quantized, spec, pixels, test, "litert"))
            except LeukoscopeError as error:
                error_text = str(error)
        made.append(Made(converter, seconds, model, error_text, logits, class_map, quantized, cells))
    picture = np.array(pixels[test[0]])

    def ratios(models: Mapping[str, bytes | None]) -> dict[str, str]:
        engines = {name: open_engine("litert", model, spec, 1) for name, model in models.items() if model}
        times = interleave({name: lambda e=engine: e.run(picture) for name, engine in engines.items()}, rounds)
        base = next(iter(times), "")
        return {name: _ratio(times[name], times[base]) for name in times}

    return (
        run,
        made,
        ratios({row.converter.name: row.model for row in made}),
        ratios({row.converter.name: row.quantized for row in made}),
    )


def _convert(converter: Converter, network: Any, input_px: int) -> tuple[bytes, float]:
    """Return the float32 file and how long it took, with the ONNX stage where the road goes through it."""
    from export.to_onnx import to_onnx
    from export.to_tflite import to_tflite

    started = time.perf_counter()
    onnx = to_onnx(network, input_px) if converter.reads_onnx else b""
    model = to_tflite(network, onnx, input_px, converter.name)
    return model, time.perf_counter() - started


def _agreement(reference: Any, outputs: Any) -> tuple[str, ...]:
    """Compare an INT8 file's outputs with torch's: top-1 agreement, class map Spearman, same peak cell."""
    from export.comparison import heatmap_agreement

    if not outputs.whole:
        raise UsageError("no usable outputs", got=outputs.error)
    same = (outputs.logits.argmax(1) == reference.logits.argmax(1)).mean()
    rank, _, peak = heatmap_agreement(reference, outputs)
    return f"{same:.4f}", f"{np.median(rank):.4f}", f"{peak.mean():.3f}"


def _ratio(times: npt.NDArray[np.float64], base: npt.NDArray[np.float64]) -> str:
    middle, low, high = ratio(times, base)
    return f"{np.median(base):.2f} ms" if times is base else f"{middle:.3f} ({low:.3f} .. {high:.3f})"


def operators(model: bytes) -> Counter[str]:
    """Count a TFLite file's operators by name."""
    from ai_edge_litert import schema_py_generated as schema

    from export.graph_input import operator_code, read_graph

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    graph = read_graph(model)
    return Counter(names[operator_code(graph, operator)] for operator in graph.subgraphs[0].operators)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def tables(folders: Sequence[Path], index: Path | None, pictures: int, images: int, rounds: int) -> str:
    """Measure runs and lay the figures out as two tables; see `measure`."""
    full = [("", "converter", "s", "logits", "class map", "operators", "of them TRANSPOSE, PAD", "MB", "latency")]
    small = [
        ("", "float32 file by", "MB", "latency", "top-1 agreement", "class map Spearman, median", "same peak cell")
    ]
    for folder in folders:
        run, made, ratios, quantized_ratios = measure(folder, index, pictures, images, rounds)
        title = f"{run.backbone}, {run.input_px} px"
        for row in made:
            name, seconds = row.converter.name, f"{row.seconds:.1f}"
            if row.model is None:
                full.append((title, name, seconds, row.error, *[""] * 5))
                continue
            found = operators(row.model)
            moved = f"{found['TRANSPOSE']}, {found['PAD'] + found['PADV2']}"
            differences = (f"{row.logits:.1e}", f"{row.class_map:.1e}")
            size = f"{len(row.model) / 1e6:.2f}"
            full.append((title, name, seconds, *differences, str(sum(found.values())), moved, size, ratios[name]))
            if row.quantized:
                size = f"{len(row.quantized) / 1e6:.3f}"
                small.append((title, name, size, quantized_ratios[name], *row.cells))
            elif row.error:
                small.append((title, name, row.error, *[""] * 4))
    return _table(full) + ("\n\n" + _table(small) if len(small) > 1 else "")


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.converters", description=__doc__)
    parser.add_argument("run_folders", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="where the runs' index lies now, if it was moved")
    parser.add_argument("--pictures", type=int, default=PICTURES, metavar="N", help=f"of the test split ({PICTURES})")
    parser.add_argument(
        "--calibration-images", type=int, default=CALIBRATION_IMAGES, metavar="N", help="0: full precision only"
    )
    parser.add_argument("--rounds", type=int, default=300, help="timed runs of each (default 300)")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(args: argparse.Namespace) -> None:
    found = tables(args.run_folders, args.index, args.pictures, args.calibration_images, args.rounds)
    sys.stdout.write(found + "\n")


if __name__ == "__main__":
    sys.exit(main())
