"""Diagnosis: flips counted by hand, and a loss planted in one layer that the suggestion takes away again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.manifest import IOSpec
from export.comparison import Outputs, compare, engine_outputs
from export.diagnosis import count_flips, diagnose, find_flips
from export.graph_input import read_graph, write_graph
from export.layer_noise import LayerNoise, tflite_noise
from export.parity import GATES, Row, compare_quantized
from export.quantize import quantize
from export.recipes import Recipe, parse_recipe
from export.suggestion import Files, Suggestion, shortest, suggest, together

TINY = Path(__file__).parents[1] / "edge_runtime" / "fixtures" / "tiny_float32.tflite"
IO = IOSpec("pixels", 32, "logits", "class_map", 4, 4, 4.0, 8.0, 5)
LABELS = ("a", "b", "c", "d", "e")
SECOND = "sng_Conv_6"
INF = float("inf")
INT8, WIDE = parse_recipe("tflite-int8"), parse_recipe("tflite-16x8")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(90, 256, (64, 4, 4, 3)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def _outputs(answers: list[int], sure: float = 1.0) -> Outputs:
    logits = np.zeros((len(answers), 5), np.float32)
    logits[np.arange(len(answers)), answers] = sure
    return Outputs(logits, np.zeros((len(answers), 2, 2, 5), np.float32))


def _layer(name: str, own: float, weights: float = INF, output: float = INF, *readers: str) -> LayerNoise:
    return LayerNoise(name, "CONV_2D", own, own, weights, output, readers)


def _row(passed: bool) -> Row:
    return Row("step", "top-1 agreement", 1.0 if passed else 0.5, ">= 0.98", passed)


def test_flips_by_hand() -> None:
    targets = np.array([0, 0, 1, 2, 2])
    before, after = _outputs([0, 0, 0, 2, 3], 2.0), _outputs([1, 0, 1, 2, 4])
    before.logits[0, 0] = 0.5
    flips = find_flips(before, after, targets, LABELS, [f"{i}.png" for i in range(5)])
    assert [flip.picture for flip in flips] == ["2.png", "4.png", "0.png"], "surest first"
    assert (flips[2].label, flips[2].before, flips[2].after) == ("a", "a", "b")
    assert (flips[2].margin_before, flips[2].margin_after) == (0.5, 1.0)
    found = {
        row.label: (row.lost, row.won, row.other, row.pictures) for row in count_flips(before, after, targets, LABELS)
    }
    assert found == {"a": (1, 0, 0, 2), "b": (0, 1, 0, 1), "c": (0, 0, 1, 2)}
    assert count_flips(before, after, targets, LABELS)[0].label == "a", "the greatest loss first"


def test_picture_without_an_answer_is_no_flip() -> None:
    before, after = _outputs([0, 1]), _outputs([1, 1])
    after.logits[0, 2] = np.nan
    assert find_flips(before, after, np.array([0, 1]), LABELS, ["a.png", "b.png"]) == ()


def test_fewest_layers_are_found_by_halving() -> None:
    layers = [_layer(f"l{i}", 10.0 + i) for i in range(12)] + [_layer("nothing", INF)]
    asked: list[tuple[str, ...]] = []

    def requantize(tried: Recipe) -> Files:
        asked.append(tried.keep)
        return {"model": b"x" * (100 if tried == WIDE else len(tried.keep))}

    found = suggest(layers, requantize, lambda model: [_row(len(model["model"]) >= 3)], INT8, wide=WIDE)
    assert found.recipes == ("tflite-int8:keep=l0+l1+l2", "tflite-16x8")
    assert len(asked) <= 7 and all("nothing" not in keep for keep in asked)
    assert "suggestion: --recipe tflite-int8:keep=l0+l1+l2\n" in found.text()


def test_nothing_found_is_said() -> None:
    layers = [_layer("l", 10.0)]
    found = suggest(layers, lambda tried: {}, lambda model: [_row(False)], INT8, wide=WIDE)
    assert found.recipes == () and "too few" in found.text() and len(found.attempts) == 3
    fine = suggest(layers, lambda tried: {}, lambda model: [_row(True)], INT8)
    assert fine.recipes == () and "as it is" in fine.note and len(fine.attempts) == 1


def test_the_target_without_options_is_tried_first() -> None:
    odd = parse_recipe("tflite-int8:rounding=nearest")
    found = suggest([], lambda tried: {"m": tried.name.encode()}, lambda m: [_row(m["m"] == b"tflite-int8")], odd, INT8)
    assert found.recipes == ("tflite-int8",) and len(found.attempts) == 2


def test_output_needs_its_readers() -> None:
    assert together(_layer("f", 10.0, 30.0, 10.0, "classifier/mean", "classifier/add")) == (
        "f",
        "classifier",
        "classifier",
    )
    assert together(_layer("a", 10.0, 10.0, 30.0, "b")) == ("a",)
    assert together(_layer("a", 10.0, 30.0, 10.0, "b", "c")) == ("a", "b", "c")
    assert shortest(["a.b/add", "a.b", "c", "a.b", "a.bc"]) == ("a.b", "c", "a.bc")


@pytest.fixture(scope="module")
def planted(pixels: np.ndarray) -> bytes:
    """Rare large weights in the second layer, on a channel that never fires: most others fall between the steps."""
    graph = read_graph(TINY.read_bytes())
    tensors = {tensor.name.decode(): tensor for tensor in graph.subgraphs[0].tensors}

    def values(name: str) -> np.ndarray:
        buffer = graph.buffers[tensors[name].buffer]
        return np.array(buffer.data, np.uint8).view(np.float32).reshape(tensors[name].shape)

    silent, rare = values("sng_Conv_4_conv_bias"), values(f"{SECOND}_conv_filter")
    silent[0] = -100.0
    rare[..., 0] = 100 * np.abs(rare).max()
    for name, changed in (("sng_Conv_4_conv_bias", silent), (f"{SECOND}_conv_filter", rare)):
        graph.buffers[tensors[name].buffer].data = np.frombuffer(changed.tobytes(), np.uint8)
    return write_graph(graph)


def test_planted_loss_is_named_and_taken_away(planted: bytes, pixels: np.ndarray) -> None:
    seen, held = pixels[:24], pixels[24:]
    numbers = range(len(held))
    reference = engine_outputs({"model.tflite": planted}, IO, held, numbers, "litert", 1)
    targets = reference.logits.argmax(1)
    groups = [str(i) for i in numbers]

    def requantize(tried: Recipe) -> Files:
        return {"model.tflite": quantize(planted, seen, tried, 1)}

    def judge(model: Files) -> list[Row]:
        outputs = engine_outputs(model, IO, held, numbers, "litert", 1)
        found = compare(reference, outputs, targets, groups, LABELS)
        return compare_quantized("fp32 -> INT8", reference, outputs, found, targets, LABELS)

    made = requantize(INT8)
    quantized = made["model.tflite"]
    rows = judge(made)
    assert not all(row.passed for row in rows)
    layers = tflite_noise(planted, quantized, held[:8], 1)
    assert layers[0].name == SECOND
    suggestion = suggest(layers, requantize, judge, INT8, wide=WIDE)
    assert suggestion.recipes == (f"tflite-int8:keep={SECOND}",), "16 bits for activations do nothing for weights"
    candidate = engine_outputs(made, IO, held, numbers, "litert", 1)
    pictures = [f"{i}.png" for i in numbers]
    found = diagnose(layers, rows, reference, candidate, targets, LABELS, pictures, suggestion)
    assert found.flips and found.classes and any(GATES["int8_top1"].measure in line for line in found.failed)
    text = found.text()
    assert SECOND in text and f"--recipe tflite-int8:keep={SECOND}" in text and found.flips[0].picture in text
    assert json.loads(json.dumps(found.to_dict()))["suggestion"]["recipes"] == list(suggestion.recipes)


def test_network_that_loses_nothing_has_nothing_to_suggest(pixels: np.ndarray) -> None:
    outputs = _outputs([0, 1, 2])
    layers = (_layer("a", 40.0),)
    found = diagnose(layers, [_row(True)], outputs, outputs, np.arange(3), LABELS, ["1", "2", "3"])
    assert found.flips == () and found.suggestion is None
    assert "all gates passed" in found.text() and "no picture changed" in found.text()
    assert "suggestion: --recipe r" in Suggestion(("r",), ()).text()
