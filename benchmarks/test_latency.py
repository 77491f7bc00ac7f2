"""pytest-benchmark cases of the shipped bundles; every timed call asserts that its answer is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import default_bundles
from edge_runtime.classifier import Classifier
from edge_runtime.preprocess import decode, prepare

from .cost import sample


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("name", default_bundles())
def test_classify_pixels(benchmark: Any, name: str, threads: int) -> None:
    classifier = Classifier.open(name, threads=threads)
    pixels = prepare(decode(sample(name)), classifier.preprocess)
    wanted = classifier.classify_pixels(pixels)
    found = benchmark(classifier.classify_pixels, pixels)
    assert found.label == wanted.label
    assert np.array_equal(found.class_map, wanted.class_map)


@pytest.mark.parametrize("name", default_bundles())
def test_classify_file(benchmark: Any, name: str) -> None:
    classifier = Classifier.open(name, threads=1)
    wanted = classifier.classify(sample(name))
    assert benchmark(classifier.classify, sample(name)).label == wanted.label


@pytest.mark.parametrize("name", default_bundles())
def test_open(benchmark: Any, name: str) -> None:
    assert benchmark(Classifier.open, name).bundle.manifest.task.name == name
