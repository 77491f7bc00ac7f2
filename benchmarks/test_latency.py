"""pytest-benchmark cases of the shipped bundles; every timed call asserts that its answer is right."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import default_bundles
from edge_runtime.classifier import Classifier
from edge_runtime.heatmap import heatmap
from edge_runtime.preprocess import decode, prepare
from edge_runtime.report import prediction_json

from .cost import sample


@pytest.fixture(scope="module", params=default_bundles())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=(1, 2), ids=lambda threads: f"{threads}-threads")
def classifier(request: pytest.FixtureRequest, name: str) -> Classifier:
    return Classifier.open(name, threads=request.param)


def checked(benchmark: Any, stage: Any, right: Any) -> None:
    """Time `stage`, and hold the result of every timed call against `right`; that is a small part of the time."""

    def run() -> None:
        assert right(stage())

    benchmark(run)


def test_decode(benchmark: Any, name: str) -> None:
    encoded = sample(name).read_bytes()
    size = decode(encoded).size
    checked(benchmark, lambda: decode(encoded), lambda picture: picture.size == size and picture.mode == "RGB")


def test_resize(benchmark: Any, name: str) -> None:
    preprocess, picture = Classifier.open(name).preprocess, decode(sample(name))
    wanted = prepare(picture, preprocess)
    checked(benchmark, lambda: prepare(picture, preprocess), lambda pixels: np.array_equal(pixels, wanted))


def test_infer(benchmark: Any, classifier: Classifier, name: str) -> None:
    pixels = prepare(decode(sample(name)), classifier.preprocess)
    wanted, _ = classifier.engine.run(pixels)
    checked(benchmark, lambda: classifier.engine.run(pixels), lambda found: np.array_equal(found[0], wanted))


def test_explain(benchmark: Any, name: str) -> None:
    found = Classifier.open(name).classify(sample(name))
    best = int(found.logits.argmax())
    checked(benchmark, lambda: heatmap(found.class_map, best), lambda heat: np.array_equal(heat, found.heatmap))


def test_judge(benchmark: Any, name: str) -> None:
    classifier = Classifier.open(name)
    found = classifier.classify(sample(name))
    seen = (found.pixels, found.plain, found.logits, found.class_map)
    checked(benchmark, lambda: classifier.judge(*seen), lambda told: told[1] == found.refusals)


def test_output(benchmark: Any, name: str) -> None:
    found = Classifier.open(name).classify(sample(name))
    checked(
        benchmark,
        lambda: prediction_json("a.jpg", found),
        lambda line: json.loads(line)["label"] == found.label,
    )


def test_classify_pixels(benchmark: Any, classifier: Classifier, name: str) -> None:
    pixels = prepare(decode(sample(name)), classifier.preprocess)
    wanted = classifier.classify_pixels(pixels)
    checked(
        benchmark,
        lambda: classifier.classify_pixels(pixels),
        lambda found: found.label == wanted.label and np.array_equal(found.class_map, wanted.class_map),
    )


def test_classify_file(benchmark: Any, classifier: Classifier, name: str) -> None:
    wanted = classifier.classify(sample(name))
    checked(
        benchmark,
        lambda: classifier.classify(sample(name)),
        lambda found: found.label == wanted.label and found.refusals == wanted.refusals,
    )


def test_open(benchmark: Any, name: str) -> None:
    checked(benchmark, lambda: Classifier.open(name), lambda found: found.bundle.manifest.task.name == name)
