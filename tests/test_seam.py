"""The seams: what training saw, what export calibrated on and what the device sees are the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from edge_runtime.classifier import Classifier
from edge_runtime.preprocess import Preprocess, decode, prepare
from train.evaluate import network_outputs
from train.index import read_index
from train.pixels import load_pixels
from train.run_folder import read_run

ROOT = Path(__file__).resolve().parent.parent


def test_training_sees_what_the_device_sees(rendered_index: Path) -> None:
    index = read_index(rendered_index)
    pixels = load_pixels(index)
    for number in range(0, len(index.rows), 7):
        device = prepare(decode(index.data / index.rows[number].path), Preprocess(224))
        assert np.array_equal(pixels[number], device)


def test_shipped_bundles_answer_as_their_references_do() -> None:
    """The committed INT8 bundle and the committed fp32 weights agree on the samples: class, and heatmap's peak."""
    for task in ("all-subtypes", "blood-cells"):
        samples = sorted((ROOT / "samples" / task).iterdir())
        assert samples
        run = read_run(ROOT / "references" / task)
        classifier = Classifier.open(task)
        pixels = np.stack([prepare(decode(path), Preprocess(run.input_px)) for path in samples])
        logits, class_map = network_outputs(run.network, pixels, range(len(samples)))
        for picture, wanted, wanted_map in zip(pixels, logits, class_map, strict=True):
            prediction = classifier.classify_pixels(picture)
            found = np.asarray(prediction.logits)
            spread = float(np.ptp(wanted))
            assert np.abs(found - wanted).max() < 0.12 * spread, "quantization moves logits by a few per cent"
            assert np.corrcoef(np.asarray(prediction.class_map).ravel(), wanted_map.ravel())[0, 1] > 0.97


def test_reference_network_is_deterministic() -> None:
    run = read_run(ROOT / "references" / "all-subtypes")
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8))
    with torch.inference_mode():
        assert torch.equal(run.network(pixels)[0], run.network(pixels)[0])
