"""QAT on a network of a few thousand weights: closer to full precision, in the form promised, the same every time."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edge_runtime.engines import open_engine
from edge_runtime.manifest import IOSpec
from edge_runtime.preprocess import Pixels, Preprocess
from export import qat
from export.calibration import choose_calibration
from export.errors import ExportError
from export.fake_quantized import fold
from export.qat import Tuned, fine_tune
from train.backbones import BACKBONES
from train.checkpoint import Checkpoint
from train.errors import DataError
from train.evaluate import network_outputs
from train.index import Index, read_index
from train.network import SelfExplaining
from train.pixels import load_pixels
from train.run_folder import Run

PX, CLASSES, EPOCHS = 64, 4, 10
IO = IOSpec("pixels", PX, "logits", "class_map", 8, 8, 4.0, 8.0, CLASSES)


class Residual(nn.Module):
    """A depthwise and a pointwise convolution beside nothing, as MobileNetV2 has them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU6(inplace=True)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.pointwise_norm(self.pointwise(self.act(self.norm(self.depthwise(x)))))


def _build(pretrained: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for below, width in ((3, 16), (16, 24), (24, 24)):
        layers += [nn.Conv2d(below, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [Residual(width)]
    return nn.Sequential(*layers)


TINY = dataclasses.replace(BACKBONES["custom"], build=_build, channels=24)


@pytest.fixture(scope="module")
def index(rendered_index: Path) -> Index:
    return read_index(rendered_index)


@pytest.fixture(scope="module")
def pixels(index: Index) -> Pixels:
    return load_pixels(index, Preprocess(PX))


@pytest.fixture(scope="module")
def run(index: Index, pixels: Pixels) -> Run:
    """A network whose batch norms have seen the pictures and whose channels differ as those of a trained one do."""
    torch.manual_seed(0)
    network = SelfExplaining(TINY, CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 2.0)
            nn.init.normal_(module.bias, std=0.5)
            module.momentum = None
    nn.init.normal_(network.classifier.weight, std=0.5)
    with torch.no_grad():
        network.train()(torch.from_numpy(np.array(pixels[index.select("grouped", "train")])))
    info = {"protocol": "grouped", "input_px": PX, "weights_sha256": "0" * 64}
    return Run(Path("run"), network.eval(), index.task, info)


@pytest.fixture(scope="module")
def calibration(index: Index, pixels: Pixels) -> Pixels:
    return np.array(pixels[list(choose_calibration(index, "grouped", 32).numbers)])


@pytest.fixture(scope="module", autouse=True)
def strides() -> Iterator[None]:
    """A network of a few thousand weights, shown a hundred pictures, needs longer steps than one of millions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat, "LEARNING_RATE", 3e-5)
        patch.setattr(qat, "RANGE_LEARNING_RATE", 3e-2)
        yield


@pytest.fixture(scope="module")
def rounded(run: Run, index: Index, pixels: Pixels, calibration: Pixels) -> Tuned:
    return fine_tune(run, index, pixels, calibration, 0)


@pytest.fixture(scope="module")
def tuned(run: Run, index: Index, pixels: Pixels, calibration: Pixels) -> Tuned:
    return fine_tune(run, index, pixels, calibration, EPOCHS)


def _error(model: bytes, run: Run, index: Index, pixels: Pixels) -> float:
    """Root mean square difference of the class maps to full precision, on pictures that nothing has learned from."""
    unseen = [*index.select("grouped", "val"), *index.select("grouped", "test")]
    _, wanted = network_outputs(run.network, pixels, unseen, progress=None)
    engine = open_engine("onnxruntime", model, IO, 1)
    return float(np.sqrt(np.mean((np.stack([engine.run(pixels[i])[1] for i in unseen]) - wanted) ** 2)))


def test_fine_tuning_comes_closer_to_full_precision_on_unseen_pictures(
    rounded: Tuned, tuned: Tuned, run: Run, index: Index, pixels: Pixels
) -> None:
    before, after = (_error(one.onnx, run, index, pixels) for one in (rounded, tuned))
    assert after < 0.92 * before, (before, after)
    assert len(tuned.losses) == EPOCHS and tuned.losses[-1] < tuned.losses[0]
    assert not rounded.losses


def test_weights_in_float_are_the_learned_ones_and_keep_their_names(tuned: Tuned, run: Run, pixels: Pixels) -> None:
    folded = fold(run.network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    before, after = folded.state_dict(), tuned.network.state_dict()
    assert before.keys() == after.keys() and "features.0.weight" in after
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"features.0.weight", "features.3.depthwise.bias", "classifier.weight"} <= moved
    some = list(range(8))
    (wanted, wanted_map), (same, _), (_, tuned_map) = (
        network_outputs(network, pixels, some, progress=None) for network in (run.network, folded, tuned.network)
    )
    assert np.allclose(wanted, same, atol=1e-4)
    assert np.corrcoef(wanted_map.ravel(), tuned_map.ravel())[0, 1] > 0.99, "still the same network"
    weight = after["features.0.weight"].numpy()
    steps = 127 * weight / np.abs(before["features.0.weight"].numpy()).max((1, 2, 3), keepdims=True)
    assert np.allclose(steps, np.rint(steps), atol=1e-3), "another quantizer finds nothing to round"


def _pairs(model: bytes) -> tuple[onnx.GraphProto, dict[str, np.ndarray], dict[str, onnx.NodeProto]]:
    graph = onnx.load_from_string(model).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return graph, constants, {name: node for node in graph.node for name in node.output}


@pytest.mark.parametrize("signed", [False, True])
def test_file_has_int8_weights_and_one_step_per_activation(
    signed: bool, run: Run, index: Index, pixels: Pixels, calibration: Pixels, tuned: Tuned
) -> None:
    model = fine_tune(run, index, pixels, calibration, 1, signed=True).onnx if signed else tuned.onnx
    graph, constants, made_by = _pairs(model)
    assert [entry.name for entry in graph.input] == ["pixels"]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [output.name for output in graph.output] == ["logits", "class_map"]
    assert not {node.op_type for node in graph.node} & {"BatchNormalization", "Constant", "Identity"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 10
    assert "/features/features.3/depthwise/Conv" in [node.name for node in convolutions]
    for node in convolutions:
        weight, given = (made_by[node.input[place]] for place in (1, 0))
        steps, scale, zero = (constants[name] for name in weight.input)
        assert weight.op_type == given.op_type == "DequantizeLinear"
        assert steps.dtype == np.int8 and scale.shape == (len(steps),) and not zero.any()
        assert [attribute.i for attribute in weight.attribute if attribute.name == "axis"] == [0]
        assert steps.min() >= -127 and np.abs(steps).reshape(len(steps), -1).max(1).min() > 90, "the range is used"
        assert constants[given.input[1]].ndim == 0
    zeros = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zeros and not any(zero.any() for zero in zeros)
    assert {zero.dtype.name for zero in zeros} == ({"int8"} if signed else {"int8", "uint8"})
    floats = [array for array in constants.values() if array.dtype == np.float32]
    assert max(array.ndim for array in floats) <= 1, "no weights in float are left behind"


def test_every_grey_level_is_normalised_exactly(tuned: Tuned) -> None:
    model = onnx.load_from_string(tuned.onnx)
    first = next(node for node in model.graph.node if node.op_type == "Conv").input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(first, onnx.TensorProto.FLOAT, None))
    levels = np.resize(np.arange(256, dtype=np.uint8), (1, PX, PX, 3))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run([first], {"pixels": levels})
    assert np.array_equal(found, ((levels.astype(np.float32) - 128) / 128).transpose(0, 3, 1, 2))


def test_same_seed_same_bytes_and_no_held_out_picture_is_read(
    run: Run, index: Index, pixels: Pixels, calibration: Pixels
) -> None:
    once = fine_tune(run, index, pixels, calibration, 2)
    scrambled = np.random.default_rng(0).integers(0, 256, pixels.shape).astype(np.uint8)
    train = index.select("grouped", "train")
    scrambled[train] = pixels[train]
    again = fine_tune(run, index, scrambled, calibration, 2)
    assert once.onnx == again.onnx
    for name, tensor in once.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    assert once.onnx != fine_tune(run, index, pixels, calibration, 2, seed=1).onnx


def test_killed_fine_tuning_goes_on(
    run: Run, index: Index, pixels: Pixels, calibration: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fine_tune(run, index, pixels, calibration, 2)
    save = Checkpoint.save

    def killed(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", killed)
        fine_tune(run, index, pixels, calibration, 2, checkpoint=tmp_path / "qat")
    with pytest.raises(DataError, match="checkpoint of another run"):
        fine_tune(run, index, pixels, calibration, 2, seed=1, checkpoint=tmp_path / "qat")
    resumed = fine_tune(run, index, pixels, calibration, 2, checkpoint=tmp_path / "qat")
    assert (resumed.onnx, resumed.losses) == (whole.onnx, whole.losses)
    assert not list(tmp_path.iterdir()), "the checkpoint is gone"


def test_neither_compiler_nor_network_is_needed(
    run: Run, index: Index, pixels: Pixels, calibration: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    import torch.utils.cpp_extension

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("not here")

    for module, name in (
        (torch.utils.cpp_extension, "load"),
        (torch, "compile"),
        (socket.socket, "connect"),
    ):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setenv("PATH", "")
    assert fine_tune(run, index, pixels, calibration, 1).losses


def test_missing_nncf_is_one_line(
    run: Run, index: Index, pixels: Pixels, calibration: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"NNCF is not installed.*pip install \"leukoscope\[export\]\""):
        fine_tune(run, index, pixels, calibration, 1)


def test_too_few_pictures_are_refused(run: Run, index: Index, pixels: Pixels, calibration: Pixels) -> None:
    few = dataclasses.replace(index, rows=index.rows[:8])
    with pytest.raises(ExportError, match="too few training pictures"):
        fine_tune(run, few, pixels, calibration, 1)
