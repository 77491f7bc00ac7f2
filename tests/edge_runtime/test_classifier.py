"""The classifier's answer is the arithmetic of its bundle, however the picture is handed over."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import LABELS, encoded, smear, spoil
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier, softmax
from edge_runtime.errors import ImageError, UsageError
from edge_runtime.heatmap import heatmap
from edge_runtime.preprocess import prepare

FIELD = smear(96, 7)


@pytest.fixture(scope="module")
def classifier(valid_bundle: Path) -> Classifier:
    """Return a classifier of the valid bundle."""
    return Classifier.open(valid_bundle)


def test_the_answer_is_the_arithmetic_of_the_bundle(classifier: Classifier) -> None:
    prediction = classifier.classify(FIELD)
    logits = prediction.logits.astype(np.float64)
    expected = np.exp(logits / 1.5) / np.exp(logits / 1.5).sum()
    assert tuple(prediction.probabilities) == LABELS
    assert np.allclose(list(prediction.probabilities.values()), expected, atol=1e-12)
    best = int(np.argmax(logits))
    assert prediction.label == LABELS[best] and prediction.probability == pytest.approx(expected[best])
    assert np.array_equal(prediction.heatmap, heatmap(prediction.class_map, best))
    flag = prediction.flags["malignant"]
    assert flag.score == pytest.approx(expected[4]) and flag.threshold == 0.25 and flag.yes == (expected[4] >= 0.25)
    assert prediction.pixels.shape == (32, 32, 3) and not prediction.degraded
    assert prediction.bundle_id == classifier.bundle.id
    times = prediction.timings_ms
    assert set(times) == {"decode", "prepare", "infer", "judge", "total"} and all(
        value >= 0 for value in times.values()
    )
    assert times["total"] >= times["decode"] + times["prepare"] + times["infer"] + times["judge"] - 1e-6


def test_every_way_to_hand_over_a_picture_gives_the_same_answer(classifier: Classifier, tmp_path: Path) -> None:
    content = encoded(Image.fromarray(FIELD))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    wanted = classifier.classify(content).logits
    for image in (path, str(path), FIELD, Image.fromarray(FIELD), Image.open(io.BytesIO(content))):
        assert np.array_equal(classifier.classify(image).logits, wanted)
    assert np.array_equal(classifier.classify_pixels(classifier.classify(path).pixels).logits, wanted)


def test_pixels_are_kept_as_they_came_too(classifier: Classifier, bundle_folder: Path) -> None:
    prediction = classifier.classify(FIELD)
    assert prediction.plain is prediction.pixels
    assert classifier.classify_pixels(prediction.pixels).plain is prediction.pixels

    def standardise(stated: dict) -> None:
        stated["version"] = 2
        stated["preprocess"] |= {"background": "neutral-field", "stain": "reinhard"}

    other = Classifier.open(spoil(bundle_folder, standardise))
    found = other.classify(FIELD)
    assert np.array_equal(found.pixels, prepare(Image.fromarray(FIELD), other.preprocess))
    assert found.plain is not None and np.array_equal(found.plain, prediction.pixels)
    assert not np.array_equal(found.plain, found.pixels)
    assert other.classify_pixels(found.pixels).plain is None  # standardised already, and nobody has the others


def test_grey_and_turned_pictures_are_taken_as_objects(classifier: Classifier) -> None:
    assert classifier.classify(Image.fromarray(FIELD).convert("L")).label in LABELS


def test_bad_pictures_are_named(classifier: Classifier) -> None:
    with pytest.raises(ImageError, match="cell 3: not a picture"):
        classifier.classify(b"no picture", "cell 3")
    with pytest.raises(ImageError, match="not RGB pixels"):
        classifier.classify(np.zeros((8, 8), np.uint8))
    with pytest.raises(UsageError, match="wrong pixels"):
        classifier.classify_pixels(np.zeros((8, 8, 3), np.uint8))


def test_a_prediction_becomes_json(classifier: Classifier) -> None:
    stated = json.loads(json.dumps(classifier.classify(FIELD).to_dict(), allow_nan=False))
    assert sum(stated["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert np.array(stated["heatmap"]).shape == (4, 4) and len(stated["logits"]) == 5
    assert set(stated["flags"]["malignant"]) == {"yes", "score", "threshold"}


def test_a_degraded_bundle_says_so(bundle_folder: Path) -> None:
    spoil(bundle_folder, lambda stated: stated["metrics"]["parity"].update(passed=False))
    assert Classifier.open(bundle_folder).classify(FIELD).degraded


def test_an_open_bundle_may_be_handed_over(valid_bundle: Path) -> None:
    assert Classifier.open(open_bundle(valid_bundle), "litert", 1).engine.threads == 1


def test_threads_may_share_a_classifier(classifier: Classifier) -> None:
    fields = [smear(32, seed) for seed in range(8)]
    alone = [classifier.classify(field).logits for field in fields]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            if not np.array_equal(classifier.classify(fields[index]).logits, alone[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@given(
    arrays(np.float32, st.integers(2, 12), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.floats(1e-300, 1e300),
)
def test_softmax_is_finite_sums_to_one_and_keeps_the_order(logits: np.ndarray, temperature: float) -> None:
    values = softmax(logits, temperature)
    assert np.isfinite(values).all() and (values >= 0).all()
    assert values.sum() == pytest.approx(1, abs=1e-12)
    assert values[np.argmax(logits)] == values.max()


def test_softmax_refuses_a_temperature_that_is_none() -> None:
    with pytest.raises(UsageError, match="temperature"):
        softmax(np.zeros(2, np.float32), 0.0)
