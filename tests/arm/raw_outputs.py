"""Raw outputs: what an engine computed, before anything is rounded, to be compared bit by bit with another machine's.

    python raw_outputs.py --model all-subtypes --out raw.npz PICTURES...

What comes in are a bundle and pictures; what goes out is one .npz: the digest of each picture's prepared pixels, the
quantized integers of logits and class map as the graph gave them, on one thread, and the numbers that decide whether
there is an answer, in full precision. It needs the installed `edge_runtime` and nothing of the checkout. Nothing is
compared here: ``benchmarks.arm`` does that.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.classifier import Classifier
from edge_runtime.commands.opening import quiet_libraries
from edge_runtime.engines import ENGINES
from edge_runtime.errors import UsageError
from edge_runtime.familiarity import describe
from edge_runtime.files import write_whole
from edge_runtime.graphs import Tensor
from edge_runtime.guard import Parser, guarded
from edge_runtime.manifest import MODEL_FILES
from edge_runtime.pictures import find_pictures
from edge_runtime.preprocess import decode, prepare, standardised
from edge_runtime.quality import measure

PACKAGES = ("leukoscope", "numpy", "pillow", "ai-edge-litert", "tflite-runtime")


def main() -> int:
    """Run the command line; return its exit status."""
    parser = Parser(prog="raw_outputs.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="file or folder (searched)")
    parser.add_argument("--model", required=True, help="name or path of a bundle")
    parser.add_argument("--engine", choices=sorted(ENGINES), help="default: the first that is installed")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .npz")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(options: argparse.Namespace) -> None:
    def unlisted(error: OSError) -> None:
        raise error

    pictures = find_pictures(options.pictures, unlisted)
    with quiet_libraries():
        found = raw_outputs(options.model, options.engine, pictures)
    with write_whole(options.out) as stream:
        np.savez_compressed(stream, **found)


def raw_outputs(model: str, engine: str | None, pictures: list[str]) -> dict[str, Any]:
    """Run a bundle's model on pictures.

    Args:
        model: name or path of a bundle whose model is quantized.
        engine: of `ENGINES`, or None.
        pictures: N files.

    Returns:
        ``pictures`` and ``pixels_sha256`` (N) text; ``logits`` (N, K) and ``class_map`` (N, h, w, K) integers as the
        graph gives them; ``scales`` and ``zero_points`` (2) of both; ``distance`` (N) float64, NaN where the bundle
        knows none, and its ``distance_limit``; ``quality`` (N, 9) float64; ``machine``, ``python``, ``engine`` and
        ``packages`` text.

    Raises:
        UsageError: the model's outputs are no integers.
        LeukoscopeError: the bundle, the engine or a picture is not what it must be.
    """
    from edge_runtime.digest import sha256_hex

    classifier = Classifier.open(model, engine, threads=1)
    bundle, io = classifier.bundle, classifier.bundle.manifest.io
    row = ENGINES[classifier.engine.name]
    # The classifier's own engine dequantizes; a second graph of the same file gives what is below that.
    graph = row.load({name: bundle.read(name) for name in MODEL_FILES[row.model_name]}, 1)
    names = (io.logits_name, io.class_map_name)
    tensors = [graph.outputs[name] for name in names]
    if not all(np.issubdtype(np.dtype(tensor.dtype), np.integer) for tensor in tensors):
        got = ", ".join(tensor.dtype for tensor in tensors)
        raise UsageError(f"{bundle.id}: its outputs are not quantized", got=got, expected="integers")
    digests, logits, maps, distances, qualities = [], [], [], [], []
    for picture in pictures:
        plain = prepare(decode(Path(picture)), classifier.preprocess.plain)
        pixels = standardised(plain, classifier.preprocess)
        raw_logits, raw_map = graph.run(io.input_name, names, np.ascontiguousarray(pixels[None]))
        digests.append(sha256_hex(np.ascontiguousarray(pixels).tobytes()))
        logits.append(raw_logits[0])
        maps.append(raw_map[0])
        known = classifier.familiarity
        described = None if known is None else describe(pixels, _real(raw_map[0], tensors[1]))
        distances.append(np.nan if known is None else known.distance(described))
        qualities.append(list(dataclasses.asdict(measure(plain)).values()))
    limits = bundle.manifest.abstention
    limit = None if limits is None else limits.distance_limit
    return {
        "pictures": np.array(pictures),
        "pixels_sha256": np.array(digests),
        "logits": np.array(logits),
        "class_map": np.array(maps),
        "scales": np.array([tensor.scale for tensor in tensors], np.float64),
        "zero_points": np.array([tensor.zero_point for tensor in tensors], np.int64),
        "distance": np.array(distances, np.float64),
        "distance_limit": np.array(np.nan if limit is None else limit, np.float64),
        "quality": np.array(qualities, np.float64),
        "machine": np.array(platform.machine()),
        "python": np.array(platform.python_version()),
        "engine": np.array(row.name),
        "packages": np.array([f"{name} {version(name)}" for name in PACKAGES if _installed(name)]),
    }


def _real(raw: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Dequantize, operation by operation as `edge_runtime.engines` does."""
    real: np.ndarray = (raw.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale or 0)
    return real


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
