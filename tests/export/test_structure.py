"""Structure: what a quantized file looks like inside, and every way in which it can look wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export.graph_input import read_graph, write_graph
from export.qdq import quantize_onnx
from export.quantize import quantize
from export.quantized import make_quantized
from export.recipes import parse_recipe
from export.structure import check_structure, exact_levels, kept_convolutions
from export.to_onnx import to_onnx
from export.to_openvino import to_openvino
from train.backbones import Backbone
from train.network import SelfExplaining

PX = 32
TINY = Path(__file__).parents[1] / "edge_runtime" / "fixtures" / "tiny_float32.tflite"


def _features(pretrained: bool) -> nn.Module:
    """A square convolution, a depthwise one and an ordinary one: (N, 3, 32, 32) -> (N, 16, 8, 8)."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
    )


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """No black among them: the range of the input has to be known, not measured."""
    coarse = np.random.default_rng(0).integers(90, 250, (24, 8, 8, 3)).astype(np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def full() -> bytes:
    torch.manual_seed(0)
    row = Backbone("tiny", "Tiny", _features, 16, PX, "", "tf", "", "0", "")
    network = SelfExplaining(row, 4).eval()
    nn.init.normal_(network.classifier.weight, std=0.5)
    return to_onnx(network, PX)


@pytest.fixture(scope="module")
def quantized(full: bytes, pixels: np.ndarray) -> bytes:
    return quantize_onnx(full, pixels)


def _run(model: bytes, pixels: np.ndarray) -> np.ndarray:
    """Class maps (N, h, w, K)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["class_map"], {"pixels": picture[None]})[0] for picture in pixels])


def test_qdq_is_as_stated_and_small(full: bytes, quantized: bytes, pixels: np.ndarray) -> None:
    files = {"model.onnx": quantized}
    assert check_structure(files, "uint8, int8", 0) == (5, 5, "")
    assert exact_levels(files) == 256
    assert quantized == quantize_onnx(full, pixels), "the same bytes"
    floats = [t for t in onnx.load_from_string(quantized).graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(numpy_helper.to_array(tensor).size for tensor in floats) <= 16, "no weights in float"
    right, wanted, fault = check_structure(files, "int8", 0)
    assert right < wanted and "UINT8 inputs" in fault, "TensorRT would refuse it"


def test_tensorrts_form_is_signed_and_symmetric(full: bytes, quantized: bytes, pixels: np.ndarray) -> None:
    signed = quantize_onnx(full, pixels, signed=True)
    files = {"model.onnx": signed}
    assert check_structure(files, "int8", 0) == (5, 5, "") and exact_levels(files) == 256
    kinds = {
        tensor.data_type for tensor in onnx.load_from_string(signed).graph.initializer if "zero_point" in tensor.name
    }
    assert kinds == {onnx.TensorProto.INT8}
    reference = _run(full, pixels)
    assert np.abs(_run(signed, pixels) - reference).max() < 0.1 * reference.std()


def test_compensated_rounding_serves_pictures_it_has_not_seen(full: bytes, pixels: np.ndarray) -> None:
    seen, unseen = pixels[:16], pixels[16:]
    reference = _run(full, unseen)
    errors = {
        rounding: float(np.sqrt(((_run(quantize_onnx(full, seen, rounding=rounding), unseen) - reference) ** 2).mean()))
        for rounding in ("nearest", "compensated")
    }
    assert errors["compensated"] < 0.9 * errors["nearest"]


def test_layers_kept_in_float_are_not_missed(full: bytes, pixels: np.ndarray) -> None:
    keep = ("features.2", "classifier")
    files = {"model.onnx": quantize_onnx(full, pixels, keep=keep)}
    kept = kept_convolutions({"model.onnx": full}, keep)
    assert kept == 2 and check_structure(files, "uint8, int8", kept) == (3, 3, "")
    right, wanted, fault = check_structure(files, "uint8, int8", 0)
    assert (right, wanted) == (3, 5) and fault == "features.2: no int8 weights"


def test_openvinos_form_is_made_of_it(full: bytes, quantized: bytes, pixels: np.ndarray) -> None:
    files = to_openvino(quantized)
    assert set(files) == {"model.xml", "model.bin"} and files == to_openvino(quantized), "the same bytes"
    assert check_structure(files, "uint8, int8", 0) == (5, 5, "") and exact_levels(files) == 256
    assert files == make_quantized({"model.onnx": full}, pixels, parse_recipe("openvino-int8"))
    right, wanted, fault = check_structure(to_openvino(full), "uint8, int8", 0)
    assert (right, wanted) == (0, 5) and "inputs come from" in fault


def _of_weight(graph: Any, node_name: str) -> tuple[Any, Any, Any]:
    """Return DequantizeLinear, scale and zero point of a convolution's weights."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    made_by = {name: node for node in graph.graph.node for name in node.output}
    conv = next(node for node in graph.graph.node if node.op_type == "Conv" and node_name in node.name)
    pair = made_by[conv.input[1]]
    return pair, constants[pair.input[1]], constants[pair.input[2]]


def _wrong_axis(graph: Any) -> None:
    pair, _, _ = _of_weight(graph, "features.4")  # 8 x 8: the scales fit along either axis
    next(attribute for attribute in pair.attribute if attribute.name == "axis").i = 1


def _one_scale(graph: Any) -> None:
    _, scale, zero = _of_weight(graph, "features.7")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale).max(), scale.name))
    zero.CopyFrom(numpy_helper.from_array(np.array(0, np.int8), zero.name))


def _zero_point(graph: Any) -> None:
    _, _, zero = _of_weight(graph, "features.0")
    zero.CopyFrom(numpy_helper.from_array(np.full(numpy_helper.to_array(zero).shape, 3, np.int8), zero.name))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (_wrong_axis, "features.4: 8 scales along axis 1"),
        (_one_scale, "features.7: 1 scales along axis"),
        (_zero_point, "features.0: a zero point"),
    ],
)
def test_faults_of_an_onnx_file_are_named(quantized: bytes, fault: Callable[[Any], None], says: str) -> None:
    graph = onnx.load_from_string(quantized)
    fault(graph)
    files = {"model.onnx": graph.SerializeToString()}
    right, wanted, first = check_structure(files, "uint8, int8", 0)
    assert (right, wanted) == (4, 5) and first.startswith(says)


def test_zero_point_of_openvinos_inputs_is_named(quantized: bytes) -> None:
    graph = onnx.load_from_string(quantized)
    made_by = {name: node for node in graph.graph.node for name in node.output}
    given = made_by[
        next(node for node in graph.graph.node if "features.4" in node.name and node.op_type == "Conv").input[0]
    ]
    for tensor in graph.graph.initializer:
        if tensor.name in (given.input[2], made_by[given.input[0]].input[2]):
            tensor.CopyFrom(numpy_helper.from_array(np.array(3, np.uint8), tensor.name))
    right, wanted, first = check_structure(to_openvino(graph.SerializeToString()), "uint8, int8", 0)
    assert (right, wanted) == (4, 5) and first == "features.4: inputs with a zero point"


def test_convolution_that_is_missing_is_no_convolution_that_is_right(full: bytes, quantized: bytes) -> None:
    from export.parity import structure_row

    recipe = parse_recipe("onnx-int8")
    assert structure_row("step", {"model.onnx": full}, {"model.onnx": quantized}, recipe).passed
    graph = onnx.load_from_string(quantized)
    for node in graph.graph.node:
        node.op_type = "FusedConv" if node.op_type == "Conv" else node.op_type
    row = structure_row("step", {"model.onnx": full}, {"model.onnx": graph.SerializeToString()}, recipe)
    assert (row.value, row.limit, row.passed) == (0, "all 5", False)


def test_wrong_range_of_the_input_is_seen(quantized: bytes) -> None:
    graph = onnx.load_from_string(quantized)
    first = next(node for node in graph.graph.node if node.op_type == "QuantizeLinear")
    for tensor in graph.graph.initializer:
        if tensor.name == first.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(np.array(1 / 127, np.float32), tensor.name))
    assert exact_levels({"model.onnx": graph.SerializeToString()}) < 256


@pytest.fixture(scope="module")
def tflite(pixels: np.ndarray) -> Mapping[str, bytes]:
    return {"model.tflite": quantize(TINY.read_bytes(), pixels, parse_recipe("tflite-int8"), 1)}


def _tflite_fault(files: Mapping[str, bytes], change: Callable[[Any], None]) -> Mapping[str, bytes]:
    graph = read_graph(files["model.tflite"])
    weight = next(t for t in graph.subgraphs[0].tensors if t.name.endswith(b"conv_filter"))
    change(weight.quantization)
    return {"model.tflite": write_graph(graph)}


def test_faults_of_a_tflite_file_are_named(tflite: Mapping[str, bytes]) -> None:
    right, wanted, first = check_structure(tflite, "int8", 0)
    assert right == wanted > 0 and not first

    def one_scale(stated: Any) -> None:
        stated.scale, stated.zeroPoint = stated.scale[:1], stated.zeroPoint[:1]

    def other_axis(stated: Any) -> None:
        stated.quantizedDimension = 3

    def zero_point(stated: Any) -> None:
        stated.zeroPoint = np.full(len(stated.zeroPoint), 2, np.int64)

    for change, says in ((one_scale, "1 scales"), (other_axis, "axis 3"), (zero_point, "zero point")):
        right, _, first = check_structure(_tflite_fault(tflite, change), "int8", 0)
        assert right == wanted - 1 and says in first
    assert check_structure({"model.tflite": TINY.read_bytes()}, "int8", 0)[0] == 0, "a float file"
    assert "INT8 inputs" in check_structure(tflite, "int16", 0)[2], "8 bits where 16 were asked for"


def test_weights_alone_are_looked_at_too(full: bytes, pixels: np.ndarray) -> None:
    """A quantizer that does nothing gives a model that agrees with the original in everything."""
    whole = {"model.tflite": TINY.read_bytes()}
    for target, right in (("tflite-fp16", "float16"), ("tflite-dynamic", "int8 per-channel")):
        recipe = parse_recipe(target)
        made = make_quantized(whole, pixels, recipe)
        activations, weights = recipe.target.activations, recipe.target.weights
        assert weights == right and check_structure(made, activations, 0, weights) == (2, 2, "")
        found, wanted, fault = check_structure(whole, activations, 0, weights)
        assert (found, wanted) == (0, 2) and "weights" in fault
    halved = make_quantized({"model.onnx": full}, pixels, parse_recipe("onnx-fp16"))
    assert check_structure(halved, "float16", 0, "float16") == (5, 5, "")
    assert check_structure({"model.onnx": full}, "float16", 0, "float16")[0] == 0
