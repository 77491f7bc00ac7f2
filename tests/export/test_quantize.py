"""Quantization by hand: ranges, rounding, and what stands in front of the graph, on a graph of a few kilobytes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.engines import open_engine
from edge_runtime.errors import UsageError
from edge_runtime.manifest import IOSpec
from export.activations import watch
from export.errors import ExportError
from export.graph_input import exact_levels, put_on_pixels, read_graph, take_off_normalisation, write_graph
from export.layer_names import select, tflite_layers
from export.quantize import observe, quantize, quantize_weights
from export.ranges import least_squares_range
from export.recipes import Recipe, parse_recipe
from export.rounding import compensated

TINY = Path(__file__).parents[1] / "edge_runtime" / "fixtures" / "tiny_float32.tflite"
IO = IOSpec("pixels", 32, "logits", "class_map", 4, 4, 4.0, 8.0, 5)
INT8 = parse_recipe("tflite-int8")


def _keep(*layers: str) -> Recipe:
    return INT8.keeping(layers)


@pytest.fixture(scope="module")
def full() -> bytes:
    return TINY.read_bytes()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """24 pictures of correlated grey levels, brighter than the middle, as smears are."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(90, 256, (24, 4, 4, 3)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def _error(full: bytes, quantized: bytes, pixels: np.ndarray) -> float:
    """Root mean square difference of the class maps."""
    reference, candidate = open_engine("litert", full, IO, 1), open_engine("litert", quantized, IO, 1)
    return float(np.sqrt(np.mean([(reference.run(p)[1] - candidate.run(p)[1]) ** 2 for p in pixels])))


@pytest.mark.parametrize(
    ("calibration", "rounding"),
    list(itertools.product(("min-max", "moving-average", "least-squares"), ("nearest", "compensated"))),
)
def test_every_recipe_keeps_inputs_and_outputs(
    full: bytes, pixels: np.ndarray, calibration: str, rounding: str
) -> None:
    recipe = parse_recipe(f"tflite-int8:ranges={calibration},rounding={rounding}")
    quantized = quantize(full, pixels, recipe, threads=1)
    assert quantized == quantize(full, pixels, recipe, threads=1), "same pictures, same bytes"
    assert quantized == quantize(full, pixels, recipe, threads=1, seen=observe(full, pixels, 1))
    engine = open_engine("litert", quantized, IO, 1)
    assert None not in engine.output_steps, "outputs are quantized"
    assert exact_levels(quantized) == 256
    spread = np.std([open_engine("litert", full, IO, 1).run(p)[1] for p in pixels])
    assert _error(full, quantized, pixels) < 0.1 * spread


def test_compensated_rounding_serves_pictures_it_has_not_seen(full: bytes, pixels: np.ndarray) -> None:
    seen, unseen = pixels[:16], pixels[16:]
    errors = {
        rounding: _error(full, quantize(full, seen, parse_recipe(f"tflite-int8:rounding={rounding}"), 1), unseen)
        for rounding in ("nearest", "compensated")
    }
    assert errors["compensated"] < errors["nearest"]


def test_compensation_is_for_inputs_that_vary_together() -> None:
    rng = np.random.default_rng(0)
    exact, scale = rng.normal(size=(1, 8, 12)), np.full((1, 8), 0.1)
    apart = compensated(exact, scale, np.eye(12)[None])
    assert np.array_equal(apart, np.rint(exact / 0.1)), "nothing to make up for: nearest"
    mixing = rng.normal(size=(12, 3))
    covariance = (mixing @ mixing.T)[None]
    together = compensated(exact, scale, covariance)

    def lost(steps: np.ndarray) -> float:
        error = steps * 0.1 - exact
        return float(np.einsum("goi,gij,goj->", error, covariance, error))

    assert lost(together) < 0.3 * lost(apart)
    assert np.abs(together).max() <= 127


def test_compensation_survives_inputs_that_never_vary() -> None:
    exact = np.array([[[0.24, -0.26]], [[0.11, 0.09]]])
    steps = compensated(exact, np.full((2, 1), 0.1), np.zeros((2, 2, 2)))
    assert np.array_equal(steps, [[[2, -3]], [[1, 1]]])


@pytest.mark.parametrize(
    "keep", [("sng_Conv_4",), ("sng_Conv_6",), ("sng_Conv_6/add",), ("sng_Conv_4", "sng_Conv_6/reshape")]
)
def test_layers_that_stay_in_float_leave_the_rest_as_it_is(
    full: bytes, pixels: np.ndarray, keep: tuple[str, ...]
) -> None:
    quantized = quantize(full, pixels, _keep(*keep), threads=1)
    assert exact_levels(quantized) == 256
    everything = quantize(full, pixels, INT8, threads=1)
    float_operators = [layer.name for layer in select(tflite_layers(read_graph(full)), keep)]
    before, after = read_graph(full), read_graph(quantized)
    weights = {t.name.decode(): t for t in after.subgraphs[0].tensors if t.name.decode().endswith("conv_filter")}
    for layer in tflite_layers(before):
        if layer.kind == "CONV_2D":
            assert (weights[layer.inputs[1]].type == 0) == (layer.name in float_operators)
    assert _error(full, quantized, pixels) < 1.1 * _error(full, everything, pixels)
    logits_step, map_step = open_engine("litert", quantized, IO, 1).output_steps
    assert (logits_step is None) == ("sng_Conv_6/add" in float_operators)
    assert (map_step is None) == ("sng_Conv_6/reshape" in float_operators)


def test_whole_network_in_float_is_the_float_network(full: bytes, pixels: np.ndarray) -> None:
    kept = quantize(full, pixels, _keep("sng_Conv_4", "sng_Conv_6"), threads=1)
    assert exact_levels(kept) == 256
    assert _error(full, kept, pixels) < 1e-6


def test_layer_that_is_not_there_is_refused_with_its_neighbours(full: bytes, pixels: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"no such layer: got sng_Conv4, expected such as sng_Conv_4"):
        quantize(full, pixels, _keep("sng_Conv4"), threads=1)


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_activations_of_16_bits(full: bytes, pixels: np.ndarray, rounding: str) -> None:
    eight, sixteen = (
        quantize(full, pixels, parse_recipe(f"{target}:rounding={rounding}"), threads=1)
        for target in ("tflite-int8", "tflite-16x8")
    )
    assert exact_levels(sixteen) == 256
    steps = [open_engine("litert", model, IO, 1).output_steps for model in (eight, sixteen)]
    assert all(wide is not None and wide < 0.02 * narrow for narrow, wide in zip(*steps, strict=True) if narrow)
    assert _error(full, sixteen, pixels) < _error(full, eight, pixels)


def test_compensated_rounding_serves_16_bits_too(full: bytes, pixels: np.ndarray) -> None:
    seen, unseen = pixels[:16], pixels[16:]
    nearest, compensated = (
        _error(full, quantize(full, seen, parse_recipe(f"tflite-16x8:rounding={r}"), 1), unseen)
        for r in ("nearest", "compensated")
    )
    assert compensated < nearest


@pytest.mark.parametrize(("target", "share"), [("tflite-dynamic", 0.03), ("tflite-fp16", 0.001)])
def test_weights_alone(full: bytes, pixels: np.ndarray, target: str, share: float) -> None:
    model = quantize_weights(full, parse_recipe(target))
    assert model == quantize_weights(full, parse_recipe(target)) and exact_levels(model) == 256
    assert open_engine("litert", model, IO, 1).output_steps == (None, None)
    spread = np.std([open_engine("litert", full, IO, 1).run(p)[1] for p in pixels])
    assert _error(full, model, pixels) < share * spread


def test_compensation_survives_a_covariance_that_rounding_made_indefinite() -> None:
    exact = np.random.default_rng(0).normal(size=(1, 4, 6))
    wrong = np.ones((1, 6, 6)) - 0.5 * np.eye(6)  # has eigenvalues of -0.5 beside its mean of 0.5
    assert np.linalg.eigvalsh(wrong[0]).min() < -0.1
    steps = compensated(exact, np.full((1, 4), 0.1), wrong)
    assert np.array_equal(steps, np.rint(exact / 0.1)), "as if the inputs had nothing to do with each other"


def test_least_squares_range_trades_clipping_for_precision() -> None:
    rng = np.random.default_rng(0)
    even = rng.uniform(-1, 3, 50_000).astype(np.float32)
    assert least_squares_range(even, -1.0, 3.0) == (-1.0, 3.0), "nothing rare: the widest"
    with_a_rarity = np.append(rng.normal(0, 0.1, 500_000), 2.0).astype(np.float32)
    low, high = least_squares_range(with_a_rarity, float(with_a_rarity.min()), 2.0)
    assert low < 0 < high < 1.5
    assert least_squares_range(np.abs(with_a_rarity), 0.0, 2.0)[0] == 0.0
    assert least_squares_range(np.zeros(9, np.float32), 0.0, 0.0) == (0.0, 0.0)


@pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`")
def test_watching_sees_what_weights_are_multiplied_with(full: bytes, pixels: np.ndarray) -> None:
    seen = watch(take_off_normalisation(full), pixels, threads=1)
    first = seen.inputs[0]
    assert first.mean.shape == (1, 8 * 8 * 3) and first.covariance.shape == (1, 192, 192)
    # kernel 8, stride 8: every tap sees every block of a picture once
    blocks = (pixels.reshape(24, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 192) - 128.0) / 128.0
    np.testing.assert_allclose(first.mean[0], blocks.mean(0), atol=1e-5)
    np.testing.assert_allclose(first.covariance[0], np.cov(blocks.T, bias=True), atol=1e-4)


def test_other_normalisation_is_refused(full: bytes) -> None:
    graph = read_graph(full)
    for buffer in graph.buffers:
        if buffer.data is not None and bytes(np.asarray(buffer.data, np.uint8)) == np.float32(1 / 128).tobytes():
            buffer.data = np.frombuffer(np.float32(1 / 127.5).tobytes(), np.uint8)
    with pytest.raises(ExportError, match=r"does not normalise by \(pixel - 128\) / 128: got 0 -> -1, 255 -> 1"):
        take_off_normalisation(write_graph(graph))


def test_other_input_scale_is_refused(full: bytes, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.quantize.RANGES", {8: (-1.0, 1.0)})
    with pytest.raises(ExportError, match="the quantized input is not pixel - 128"):
        quantize(full, pixels, INT8, threads=1)
    with pytest.raises(ExportError, match="the quantized input is not pixel - 128"):
        put_on_pixels(full)


def test_range_that_is_not_finite_is_refused(full: bytes, pixels: np.ndarray) -> None:
    graph = read_graph(full)
    largest = max((b for b in graph.buffers if b.data is not None), key=lambda b: len(b.data))
    weights = np.array(largest.data, np.uint8).view(np.float32)
    weights[0] = np.nan
    largest.data = weights.view(np.uint8)
    with pytest.raises(ExportError, match=r"range that is not finite|cannot be quantized"):
        quantize(write_graph(graph), pixels, INT8, threads=1)


def test_weights_are_aligned_and_inside(full: bytes, pixels: np.ndarray) -> None:
    """Older runtimes know no weights behind the flatbuffer, and the schema wants 16-byte alignment."""
    from ai_edge_litert import schema_py_generated as schema

    model = quantize(full, pixels, INT8, threads=1)
    packed = schema.Model.GetRootAs(model, 0)
    held = [packed.Buffers(i) for i in range(packed.BuffersLength())]
    assert all(buffer.Offset() == 0 for buffer in held)
    starts = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in held if buffer.DataLength()]
    assert starts and all(start % 16 == 0 for start in starts)
    assert write_graph(read_graph(model)) == model


def test_equal_zero_points_are_written_once(full: bytes, pixels: np.ndarray) -> None:
    """All zero points of an INT8 file are zeros; nothing else changes when they are shared."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = quantize(full, pixels, INT8, threads=1)
    graph = read_graph(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(graph.Pack(builder), b"TFL3")
    apart = bytes(builder.Output())
    packed = schema.Model.GetRootAs(model, 0).Subgraphs(0)
    stated = [packed.Tensors(i).Quantization() for i in range(packed.TensorsLength())]
    several = [one for one in stated if one is not None and one.ZeroPointLength() > 1]
    places = {one._tab.Vector(one._tab.Offset(10)) for one in several}
    assert len(places) == len({one.ZeroPointLength() for one in several}) < len(several)
    assert len(model) < len(apart) and _error(apart, model, pixels) == 0
