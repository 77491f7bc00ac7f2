"""Every road to TFLite gives the same function, in the shape that all behind it rely on, or one line that says why not.

The network is small but has what converters trip over: a first convolution that does not pad (the normalisation can be
folded into it), padding on both sides at stride 2, a depthwise convolution, pooling with padding behind a ReLU and
before one, a batch normalisation with no convolution in front, and concatenations, one of them of a single tensor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_runtime.engines import open_engine
from edge_runtime.errors import UsageError
from edge_runtime.manifest import IOSpec
from export.converter_process import run_converter
from export.errors import ExportError
from export.graph_input import exact_levels, operator_code, read_graph, take_off_normalisation
from export.layer_noise import tflite_noise
from export.padding import pad_with_values
from export.quantize import quantize
from export.recipes import parse_recipe
from export.to_onnx import to_onnx
from export.to_tflite import CONVERTERS, to_tflite
from export.torch_to_tflite import FOLDER, VARIABLE, litert_torch_version, name_tensors, packages, shorten
from train.backbones import Backbone
from train.network import SelfExplaining

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "edge_runtime" / "fixtures" / "tiny_float32.tflite"
PX, CLASSES = 49, 5
SPEC = IOSpec("pixels", PX, "logits", "class_map", 3, 3, 8.0, 16.0, CLASSES)


class _Features(nn.Module):
    """(N, 3, 49, 49) -> (N, 24, 3, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.before = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1))
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        below = torch.cat([self.depthwise(self.pool(self.stem(x)))], 1)
        return self.pool(torch.cat([below, self.before(below)], 1)).relu()


@pytest.fixture(scope="module")
def network() -> SelfExplaining:
    torch.manual_seed(0)
    row = Backbone("small", "small", lambda pretrained: _Features(), 24, PX, "", "tf", "", "", "")
    network = SelfExplaining(row, CLASSES)
    with torch.no_grad():
        network.classifier.weight.mul_(30)
        network.bias.normal_()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.05, 0.2)
                module.bias.normal_(std=0.2)
    return network.eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(0)
    blocks = rng.integers(60, 256, (16, 7, 7, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)[:, :PX, :PX]
    return np.concatenate([blocks, rng.integers(0, 256, (8, PX, PX, 3), np.uint8)])


Convert = Callable[[], bytes]


@pytest.fixture(scope="module", params=list(CONVERTERS))
def convert(request: pytest.FixtureRequest, network: SelfExplaining) -> Convert:
    """Convert the network once more, in a process of its own."""
    row = CONVERTERS[request.param]
    if row.version() is None:
        pytest.skip(f"{row.name} is not installed; {row.install}")
    return lambda: to_tflite(network, to_onnx(network, PX), PX, row.name)


@pytest.fixture(scope="module")
def full(convert: Convert) -> bytes:
    return convert()


def _outputs(model: bytes, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    engine = open_engine("litert", model, SPEC, 1)
    logits, maps = zip(*(engine.run(picture) for picture in pixels), strict=True)
    return np.array(logits), np.array(maps)


def _codes(model: bytes) -> list[str]:
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    graph = read_graph(model)
    return [names[operator_code(graph, operator)] for operator in graph.subgraphs[0].operators]


def test_it_is_the_same_function(full: bytes, network: SelfExplaining, pixels: np.ndarray) -> None:
    with torch.inference_mode():
        wanted = [side.numpy() for side in network(torch.from_numpy(pixels))]
    assert wanted[1].std() > 0.5, "something to lose"
    for found, side in zip(_outputs(full, pixels), wanted, strict=True):
        np.testing.assert_allclose(found, side, atol=2e-5)


def test_same_network_same_bytes(full: bytes, convert: Convert) -> None:
    assert full == convert()


def test_names_are_those_of_the_house(full: bytes) -> None:
    graph = read_graph(full)
    main = graph.subgraphs[0]
    (signature,) = graph.signatureDefs
    assert [entry.name for entry in signature.inputs] == [b"pixels"]
    assert {entry.name for entry in signature.outputs} == {b"logits", b"class_map"}
    for entry in (*signature.inputs, *signature.outputs):
        assert main.tensors[entry.tensorIndex].name == entry.name
    names = [tensor.name for tensor in main.tensors]
    assert len(set(names)) == len(names), "tensors are matched by name"
    assert max(map(len, names)) < 100, "every file on the device carries them"
    assert str(ROOT).encode() not in full


def test_normalisation_stands_apart(full: bytes) -> None:
    """Folded into the first convolution, it costs digits, and nobody can tell any more what it was."""
    assert _codes(full)[:3] == ["CAST", "SUB", "MUL"]
    assert "CAST" not in _codes(take_off_normalisation(full))


def test_layout_costs_nothing(full: bytes) -> None:
    """Torch keeps channels first, TFLite last; a converter that turns back and forth is slow and hard to quantize."""
    assert "TRANSPOSE" not in _codes(full)


def test_pooling_pads_with_values(full: bytes, pixels: np.ndarray) -> None:
    """Zero behind a ReLU, the mirrored border elsewhere: not one output changes."""
    padded = pad_with_values(full)
    assert _codes(full).count("PADV2") == 2 and "PADV2" not in _codes(padded) and "MIRROR_PAD" in _codes(padded)
    for found, wanted in zip(_outputs(padded, pixels), _outputs(full, pixels), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_average_pooling_pads_with_zeros_that_need_no_scale(pixels: np.ndarray) -> None:
    """InceptionV3's; the converter's PADV2 has a constant that the quantizer cannot quantize."""

    def features(pretrained: bool) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 8, 1), nn.ReLU())

    network = SelfExplaining(Backbone("tiny", "Tiny", features, 8, PX, "", "tf", "", "0", ""), CLASSES).eval()
    model = to_tflite(network, to_onnx(network, PX), PX)
    padded = pad_with_values(model)
    assert "PADV2" in _codes(model) and "PADV2" not in _codes(padded)
    for found, wanted in zip(_outputs(padded, pixels), _outputs(model, pixels), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert exact_levels(quantize(model, pixels[:8], parse_recipe("tflite-int8"), threads=1)) == 256


def test_batch_normalisation_is_two_operators_at_most(full: bytes) -> None:
    """Those behind a convolution go into it; the one that is not is a factor and a summand."""
    behind_the_input = _codes(full)[3:]
    assert (behind_the_input.count("MUL"), behind_the_input.count("SUB")) == (1, 0)
    assert behind_the_input.count("ADD") == 2, "the other is the head's bias"


def test_it_can_be_quantized(full: bytes, pixels: np.ndarray) -> None:
    quantized = quantize(full, pixels[:16], parse_recipe("tflite-int8"), threads=1)
    assert exact_levels(quantized) == 256
    logits, class_map = _outputs(full, pixels[:16])
    logits_8, class_map_8 = _outputs(quantized, pixels[:16])
    assert (logits_8.argmax(1) == logits.argmax(1)).mean() >= 0.9
    assert np.sqrt(((class_map_8 - class_map) ** 2).mean()) < 0.05 * class_map.std()


def test_noise_is_measured_under_torchs_names(full: bytes, network: SelfExplaining, pixels: np.ndarray) -> None:
    quantized = quantize(full, pixels[:16], parse_recipe("tflite-int8"), threads=1)
    layers = {layer.name: layer for layer in tflite_noise(full, quantized, pixels[:8], 1)}
    modules = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)}
    assert modules <= set(layers)
    assert all(layer.own_db > 20 for layer in layers.values())
    moved = [layer for layer in layers.values() if layer.kind in ("PAD", "MIRROR_PAD", "MAX_POOL_2D")]
    assert moved and all(math.isinf(layer.own_db) for layer in moved)


@pytest.mark.parametrize("name", list(CONVERTERS))
def test_missing_converter_is_one_line(name: str, network: SelfExplaining, monkeypatch: pytest.MonkeyPatch) -> None:
    row = CONVERTERS[name]
    monkeypatch.setitem(CONVERTERS, name, dataclasses.replace(row, version=lambda: None))
    with pytest.raises(ExportError) as error:
        to_tflite(network, b"", PX, name)
    assert str(error.value) == f"the converter {name} is not installed (run: {row.install})"
    requirements = row.install.rpartition("-r ")[2]
    assert f"{name}==" in (ROOT / requirements).read_text(encoding="utf-8"), "the command does what it says"


def test_own_folder_is_looked_for_beside_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert packages() == ROOT / FOLDER and FOLDER in CONVERTERS["litert-torch"].install
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert packages() == tmp_path and litert_torch_version() is None
    described = tmp_path / "litert_torch-0.10.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Name: litert-torch\nVersion: 0.10.0\n")
    assert litert_torch_version() == "0.10.0"


def test_unknown_converter_is_refused(network: SelfExplaining) -> None:
    with pytest.raises(UsageError, match="no such converter: got toco, expected one of onnx2tf, litert-torch"):
        to_tflite(network, b"", PX, "toco")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("onnx2tf", ["-i", "nothing.onnx"]), ("export.torch_to_tflite_worker", [".", "nothing.pt2", "out", "32"])],
)
def test_failing_converter_is_one_line(module: str, arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="it cannot convert this graph: got ") as error:
        run_converter("it", module, arguments, tmp_path, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_converter_that_does_not_finish_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.converter_process.TIMEOUT_S", 0.01)
    with pytest.raises(ExportError, match=r"it did not finish: got 0\.01 s"):
        run_converter("it", "timeit", ["-s", "import time", "time.sleep(9)"], tmp_path, tmp_path / "out")


def test_long_names_become_paths() -> None:
    conv = "train.network.SelfExplaining/torch.nn.modules.container.Sequential_features/torch.nn.modules.conv.Conv2d_0"
    assert shorten(f"train.network.SelfExplaining/torch.nn.ReLU_2;;{conv};1") == "features/0"
    stem = "train.network.SelfExplaining/torchvision.models.inception.BasicConv2d_Conv2d_1a_3x3;"
    assert shorten("train.network.SelfExplaining/torchvision.models.densenet._DenseLayer_layer1") == "layer1"
    assert shorten(stem) == "Conv2d_1a_3x3"
    assert shorten("arith.constant") == shorten("a.Network;;a.Network;2") == "network"


def test_graph_of_other_outputs_is_refused() -> None:
    with pytest.raises(ExportError, match=r"signatures, inputs, outputs: got \(1, 1, 2\), expected \(1, 1, 1\)"):
        name_tensors(TINY.read_bytes(), ("pixels",), ("logits",))
    with pytest.raises(ExportError, match="a signature of unknown names: got pixels"):
        name_tensors(TINY.read_bytes(), ("pixels",), ("logits", "class_map"))
