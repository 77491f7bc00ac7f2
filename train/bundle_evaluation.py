"""Bundle evaluation: what became of a run on the way to the device, judged by the runtime's own code.

What comes in are an evaluated run, its index and a bundle made of it; what goes out are the bundle's metrics and their
paired difference to the full-precision reference. The test pictures go from their files through ``edge_runtime`` alone;
training's pixels serve only to see that they are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DataError
from .evaluate import SEED, Logits, describe_protocol, measure, network_outputs, require_evaluated
from .index import Index
from .metrics import paired_difference
from .resampling import RESAMPLES
from .run_folder import Run

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier
    from edge_runtime.preprocess import Pixels


def evaluate_bundle(
    run: Run, index: Index, bundle: str, engine: str | None = None, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Judge a bundle on its run's test split, from picture file to logits through ``edge_runtime``.

    Args:
        run: evaluated; the bundle's full-precision reference.
        index: the one it was trained on.
        bundle: name or path.
        engine: of `edge_runtime.engines.ENGINES`; None: the first that is installed.
        resamples: of every interval.

    Returns:
        As `measure`, under the bundle's own temperature and thresholds; ``bundle``, ``engine``, ``run``, ``protocol``;
        ``pixels_as_trained``: share of the pictures whose prepared pixels are those of training, bit for bit;
        ``paired``: see `train.metrics.paired_difference`.

    Raises:
        DataError: the run is not evaluated, the bundle was not made of it, or a picture has changed.
    """
    from edge_runtime.classifier import Classifier

    from .pixels import load_pixels

    require_evaluated(run)
    classifier = Classifier.open(bundle, engine)
    manifest = classifier.bundle.manifest
    found = {"labels": manifest.task.labels, "weights_sha256": manifest.raw["training"]["weights_sha256"]}
    wanted = {"labels": run.task.labels, "weights_sha256": run.info["weights_sha256"]}
    if found != wanted:
        key = next(key for key in wanted if found[key] != wanted[key])
        raise DataError(f"{bundle}: not a bundle of {run.folder}: {key}", got=found[key], expected=wanted[key])
    test, pixels = index.select(run.protocol, "test"), load_pixels(index, run.preprocess)
    logits, as_trained = bundle_logits(classifier, index, test, pixels)
    reference, _ = network_outputs(run.network, pixels, test, progress="reference")
    points = [
        {"name": point.name, "positive": list(point.positive), "threshold": point.threshold}
        for point in manifest.operating_points
    ]
    groups = [index.rows[i].group for i in test]
    return {
        "bundle": classifier.bundle.id,
        "engine": classifier.engine.name,
        "run": str(run.folder),
        "protocol": describe_protocol(index, run.protocol),
        "temperature": manifest.temperature,
        "pixels_as_trained": as_trained,
        **measure(logits, index, test, manifest.temperature, points, resamples),
        "paired": paired_difference(reference, logits, index.targets(test), groups, run.task.labels, SEED, resamples),
    }


def bundle_logits(classifier: Classifier, index: Index, numbers: Sequence[int], pixels: Pixels) -> tuple[Logits, float]:
    """Classify picture files of an index with the runtime.

    Args:
        classifier: open.
        index: whose pictures.
        numbers: N rows of it.
        pixels: (all rows, H, W, 3) uint8, what training saw.

    Returns:
        Logits (N, K), and the share of the pictures that the runtime prepared to the very pixels of `pixels`.

    Raises:
        DataError: a picture is not the indexed one any more.
        ImageError: it cannot be read.
    """
    from tqdm import tqdm

    from .pixels import prepare_picture
    from .sources import SOURCES

    logits, equal = [], 0
    for i in tqdm(numbers, desc="bundle", unit="picture", leave=False, disable=None):
        row = index.rows[i]
        path = index.data / row.path
        prepared = prepare_picture(path, row.box, SOURCES[row.source].central_px, classifier.preprocess)
        if hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
            raise DataError(f"{path}: has changed since it was indexed", todo="run python -m train index again")
        equal += np.array_equal(prepared, pixels[i])
        logits.append(classifier.classify_pixels(prepared).logits)
    return np.stack(logits), equal / len(numbers)
