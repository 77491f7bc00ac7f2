"""Layer noise: a loss that was planted in one layer is found there, in TFLite and in ONNX."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.engines import open_engine
from edge_runtime.manifest import IOSpec
from export.graph_input import read_graph, write_graph
from export.layer_names import Layer, module_path, onnx_layers, tflite_layers
from export.layer_noise import LayerNoise, decibel, noise_table, readers_of, rounded, tflite_noise
from export.onnx_noise import onnx_noise
from export.quantize import quantize, quantize_weights
from export.recipes import parse_recipe
from export.selective import ignored_nodes

FIXTURES = Path(__file__).parents[1] / "edge_runtime" / "fixtures"
IO = IOSpec("pixels", 32, "logits", "class_map", 4, 4, 4.0, 8.0, 5)
INT8 = parse_recipe("tflite-int8")
FIRST, SECOND = "sng_Conv_4", "sng_Conv_6"


@pytest.fixture(scope="module")
def full() -> bytes:
    return (FIXTURES / "tiny_float32.tflite").read_bytes()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(90, 256, (24, 4, 4, 3)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def _by_name(layers: list[LayerNoise]) -> dict[str, LayerNoise]:
    return {layer.name: layer for layer in layers}


def _with_rare_weights(model: bytes, layer: str) -> bytes:
    """One weight of each output channel becomes so large that its neighbours share a few steps of eight bits."""
    graph = read_graph(model)
    tensor = next(t for t in graph.subgraphs[0].tensors if t.name == f"{layer}_conv_filter".encode())
    weights = np.array(graph.buffers[tensor.buffer].data, np.uint8).view(np.float32).reshape(tensor.shape)
    weights[:, 0, 0, 0] = 50 * np.abs(weights).max()
    graph.buffers[tensor.buffer].data = np.frombuffer(weights.tobytes(), np.uint8)
    return write_graph(graph)


def _error(full: bytes, quantized: bytes, pixels: np.ndarray) -> float:
    reference, candidate = open_engine("litert", full, IO, 1), open_engine("litert", quantized, IO, 1)
    return float(np.sqrt(np.mean([(reference.run(p)[1] - candidate.run(p)[1]) ** 2 for p in pixels])))


def test_every_layer_is_measured_and_sorted(full: bytes, pixels: np.ndarray) -> None:
    layers = tflite_noise(full, quantize(full, pixels, INT8, 1), pixels, 1)
    found = _by_name(layers)
    assert set(found) == {FIRST, SECOND, *(f"{SECOND}/{kind}" for kind in ("reshape", "mean", "add"))}
    own = [layer.own_db for layer in layers]
    assert own == sorted(own) and all(value > 25 for value in own)
    assert math.isinf(found[f"{SECOND}/reshape"].own_db), "what only moves loses nothing"
    assert math.isinf(found[f"{SECOND}/mean"].weights_db)
    assert found[FIRST].readers == (SECOND,)
    assert f"{SECOND}/mean" in found[SECOND].readers, "through the reshape"
    assert found[SECOND].sqnr_db < found[SECOND].own_db, "what came before is in it, too"
    assert layers[0].name in noise_table(layers).splitlines()[1]
    assert found[f"{SECOND}/reshape"].to_dict()["own_db"] is None


@pytest.mark.parametrize("layer", [FIRST, SECOND])
@pytest.mark.parametrize("target", ["tflite-int8", "tflite-16x8"])
def test_weights_that_quantize_badly_are_found_and_kept(
    pixels: np.ndarray, full: bytes, layer: str, target: str
) -> None:
    model = _with_rare_weights(full, layer)
    if layer == FIRST:
        pixels = pixels.copy()
        pixels[..., 0] = 128  # what the large weights are multiplied with is 0: they cost steps and give no signal
    recipe = parse_recipe(target)
    quantized = quantize(model, pixels, recipe, 1)
    layers = tflite_noise(model, quantized, pixels, 1)
    assert layers[0].name == layer and layers[0].weights_db < layers[0].output_db
    kept = quantize(model, pixels, recipe.keeping([layer]), 1)
    after = _by_name(tflite_noise(model, kept, pixels, 1))
    assert math.isinf(after[layer].weights_db)
    assert after[layer].own_db > layers[0].own_db + 1


def test_range_that_clips_is_found_in_the_layer_that_writes_it(
    full: bytes, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = "sng_Conv_6_input_nhwc"  # what the first convolution writes
    monkeypatch.setattr(
        "export.quantize.least_squares_ranges",
        lambda ranges, values: {name: (0.0, 0.3 * ranges[name][1]) for name in values if name == narrow},
    )
    quantized = quantize(full, pixels, INT8, 1)
    worst = tflite_noise(full, quantized, pixels, 1)[0]
    assert worst.name == FIRST and worst.output_db < 15 and worst.weights_db > 25
    alone, both = (quantize(full, pixels, INT8.keeping(keep), 1) for keep in ((FIRST,), (FIRST, *worst.readers)))
    errors = [_error(full, model, pixels) for model in (quantized, alone, both)]
    assert errors[1] > 0.8 * errors[0], "its output is still rounded for its reader"
    assert errors[2] < 0.05 * errors[0]


@pytest.mark.parametrize("target", ["tflite-dynamic", "tflite-fp16"])
def test_weights_alone_have_no_rounded_outputs(full: bytes, pixels: np.ndarray, target: str) -> None:
    layers = tflite_noise(full, quantize_weights(full, parse_recipe(target)), pixels, 1)
    assert all(math.isinf(layer.output_db) for layer in layers)
    assert _by_name(layers)[FIRST].weights_db > {"tflite-dynamic": 25, "tflite-fp16": 60}[target]


def test_arithmetic() -> None:
    assert decibel(100.0, 1.0) == pytest.approx(20.0)
    assert math.isinf(decibel(1.0, 0.0)) and decibel(0.0, 1.0) == -math.inf
    values = np.array([-9.0, 0.06, 0.3, 9.0])
    assert np.allclose(rounded(values, (0.1, 0.0, -10, 10)), [-1.0, 0.1, 0.3, 1.0])
    assert rounded(values, None) is values


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("/features/features.17/conv/conv.2/Conv", "features.17.conv.2"),
        ("wa/features/features.0/features.0.0/Conv_conv_filter", "features.0.0"),
        ("wa/features/block1/rep/rep.0/conv1/Conv_depthwise_filter", "features.block1.rep.0.conv1"),
        ("features/stem/0;1", "features.stem.0"),
        ("network;4", ""),
        ("/Add", ""),
        ("bias", ""),
    ],
)
def test_module_paths_are_torchs(name: str, module: str) -> None:
    assert module_path(name) == module


def test_readers_are_found_through_what_only_moves() -> None:
    layers = [
        Layer("a", "CONV_2D", ("x",), ()),
        Layer("a/pad", "PAD", ("y",), ("x",)),
        Layer("b", "CONV_2D", ("z",), ("y",)),
        Layer("c", "CONV_2D", ("w",), ("z", "x")),
    ]
    assert readers_of(layers) == [["a/pad", "c", "b"], ["b"], ["c"], []]


def _qdq(model: bytes, pixels: np.ndarray, keep: tuple[str, ...] = ()) -> bytes:
    """Quantize as NNCF does: weights per channel, pairs behind activations."""
    nncf = pytest.importorskip("nncf")
    import onnx

    data = nncf.Dataset([{"pixels": picture[None]} for picture in pixels[:8]])
    ignored = nncf.IgnoredScope(names=ignored_nodes(model, keep), validate=False) if keep else None
    graph = onnx.load_from_string(model)
    return nncf.quantize(graph, data, subset_size=8, ignored_scope=ignored).SerializeToString()


def test_onnx_graphs_are_measured_too(pixels: np.ndarray) -> None:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(FIXTURES / "tiny.onnx")
    for number, node in enumerate(graph.graph.node):
        node.name = f"/part.{number}/{node.op_type}"
    kernel = next(tensor for tensor in graph.graph.initializer if tensor.name == "kernel")
    weights = numpy_helper.to_array(kernel).copy()
    weights[:, 0, 0, 0] = 50 * np.abs(weights).max()
    kernel.CopyFrom(numpy_helper.from_array(weights, "kernel"))
    model = graph.SerializeToString()
    planted = next(layer.name for layer in onnx_layers(graph) if layer.kind == "Conv")
    quantized = _qdq(model, pixels)
    layers = onnx_noise(model, quantized, pixels, 1)
    assert layers[0].name == planted and layers[0].weights_db < layers[0].output_db
    kept = onnx_noise(model, _qdq(model, pixels, (planted,)), pixels, 1)
    assert math.isinf(_by_name(kept)[planted].weights_db)


def test_names_are_the_same_in_every_format() -> None:
    import onnx

    graph = onnx.load(FIXTURES / "tiny.onnx")
    assert len({layer.name for layer in onnx_layers(graph)}) == len(graph.graph.node)
    tiny = read_graph((FIXTURES / "tiny_float32.tflite").read_bytes())
    assert len({layer.name for layer in tflite_layers(tiny)}) == len(tiny.subgraphs[0].operators)
