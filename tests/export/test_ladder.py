"""The ladder catches every seeded export fault at the gate meant for it, and lets a clean export through."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_runtime.preprocess import Pixels
from export.calibration import CalibrationSet, choose_calibration, describe
from export.errors import ExportError, GateError
from export.pack import write_bundle
from export.pipeline import Export, Files, Stages, export_recipe, open_source
from export.quantized import make_quantized
from export.recipes import Recipe, parse_recipe
from export.to_onnx import to_onnx
from train.index import Index
from train.network import SelfExplaining
from train.run_folder import Run, read_run

IMAGES = 48
INT8 = "tflite-int8"
CLEAN = Stages()


@pytest.fixture(scope="module")
def run(rendered_run: Path) -> Run:
    return read_run(rendered_run)


def _export(run: Run, recipe: str, stages: Stages = CLEAN) -> Export:
    return export_recipe(open_source(run, images=IMAGES, stages=stages), parse_recipe(recipe))


@pytest.fixture(scope="module")
def clean(run: Run) -> Export:
    return _export(run, INT8)


def _failed(export: Export) -> set[tuple[str, str]]:
    return {(row.step, row.measure) for row in export.rows if not row.passed}


def test_clean_export_passes_every_gate(clean: Export) -> None:
    assert clean.passed, _failed(clean)
    steps = {row.step for row in clean.rows}
    assert {"torch -> ONNX fp32", "torch -> TFLite fp32", "fp32 -> tflite-int8", "calibration set"} <= steps
    assert len(clean.models["model.tflite"]) < 3.0e6


class _Faulty(nn.Module):
    """A network whose export went wrong somewhere."""

    def __init__(self, network: SelfExplaining, fault: str) -> None:
        super().__init__()
        self.network, self.fault = network, fault

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        network = self.network
        if self.fault == "swapped colour channels":
            return network(pixels.flip(-1))
        if self.fault == "wrong mean":
            return network.head(network.features(network.normalise(pixels) + 4 / 128))
        logits, class_map = network(pixels)
        if self.fault == "swapped classes":
            return logits[:, [1, 0, 2, 3]], class_map[..., [1, 0, 2, 3]]
        if self.fault == "NaN":
            return logits + torch.tensor([0.0, torch.nan, 0.0, 0.0]), class_map
        assert self.fault == "swapped outputs"
        return class_map, logits


@pytest.mark.parametrize(
    ("fault", "measure"),
    [
        ("swapped colour channels", "largest logit difference"),
        ("wrong mean", "largest logit difference"),
        ("swapped classes", "largest logit difference"),
        ("swapped outputs", "pictures with finite outputs"),
        ("NaN", "pictures with finite outputs"),
    ],
)
def test_faults_of_the_conversion_are_caught(run: Run, fault: str, measure: str, tmp_path: Path) -> None:
    def faulty(network: SelfExplaining, input_px: int) -> bytes:
        return to_onnx(_Faulty(network, fault).eval(), input_px)

    export = _export(run, INT8, Stages(to_onnx=faulty))
    assert ("torch -> ONNX fp32", measure) in _failed(export)
    with pytest.raises(GateError, match=f"not packed: torch -> ONNX fp32: {measure}"):
        write_bundle(export, tmp_path / "bundle")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_truncated_instead_of_rounded_weights_are_caught(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic: a cast where a rounding belongs shifts every weight by half a step on average."""
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor

    class Truncating:
        def __getattr__(self, name: str) -> object:
            return np.floor if name == "rint" else getattr(np, name)

    monkeypatch.setattr(uniform_quantize_tensor, "np", Truncating())
    # the shipped recipe rounds anew and makes up for what went before, so the fault goes where nothing does
    export = _export(run, "tflite-int8:rounding=nearest")
    assert any(step == "fp32 -> tflite-int8" for step, _ in _failed(export)), [r.to_dict() for r in export.rows]


def _one_class(index: Index, protocol: str, images: int, seed: int) -> CalibrationSet:
    numbers = [i for i in index.select(protocol, "train") if index.rows[i].label == "Pro"]
    return describe(index, numbers[:images], seed)


def test_calibration_on_one_class_is_caught(run: Run) -> None:
    export = _export(run, INT8, Stages(choose=_one_class))
    assert ("calibration set", "classes covered") in _failed(export)


@pytest.mark.parametrize("split", ["val", "test"])
def test_calibration_on_held_out_pictures_is_refused(run: Run, split: str) -> None:
    def peeking(index: Index, protocol: str, images: int, seed: int) -> CalibrationSet:
        chosen = choose_calibration(index, protocol, images, seed)
        return describe(index, [*chosen.numbers, index.select(protocol, split)[0]], seed)

    with pytest.raises(ExportError, match="touches validation or test"):
        _export(run, INT8, Stages(choose=peeking))


def _quantized_with(fault: Callable[[bytes], bytes]) -> Stages:
    def faulty(files: Files, pixels: Pixels, recipe: Recipe) -> dict[str, bytes]:
        (made,) = make_quantized(files, pixels, recipe).items()
        return {made[0]: fault(made[1])}

    return Stages(quantize=faulty)


def _mean_of_imagenet(model: bytes) -> bytes:
    """Let the INT8 graph subtract 124, ImageNet's mean, where the network was trained with 128."""
    from export.graph_input import read_graph, write_graph

    graph = read_graph(model)
    main = graph.subgraphs[0]
    main.tensors[int(main.inputs[0])].quantization.zeroPoint = np.array([124], np.int64)
    return write_graph(graph)


def _channels_swapped(model: bytes) -> bytes:
    """Turn the first convolution's weights from RGB to BGR."""
    from export.activations import convolutions
    from export.graph_input import read_graph, write_graph

    graph = read_graph(model)
    weight = graph.subgraphs[0].tensors[int(convolutions(graph)[0].inputs[1])]
    steps = np.array(graph.buffers[weight.buffer].data, np.uint8).reshape([int(side) for side in weight.shape])
    graph.buffers[weight.buffer].data = np.ascontiguousarray(steps[..., ::-1]).ravel()
    return write_graph(graph)


@pytest.mark.parametrize(
    ("fault", "measure"),
    [(_mean_of_imagenet, "grey levels normalised exactly"), (_channels_swapped, "heatmap Spearman, median")],
)
def test_faults_of_the_quantized_graph_are_caught(
    run: Run, fault: Callable[[bytes], bytes], measure: str, tmp_path: Path
) -> None:
    """The same faults behind the full-precision rungs, where only INT8's own can tell."""
    export = _export(run, INT8, _quantized_with(fault))
    assert ("fp32 -> tflite-int8", measure) in _failed(export)
    assert not any(step.startswith("torch ->") for step, _ in _failed(export))
    with pytest.raises(GateError, match="not packed: fp32 -> tflite-int8"):
        write_bundle(export, tmp_path / "bundle")


def test_wrong_scale_of_an_output_is_caught(run: Run) -> None:
    """Logits cut off at zero keep their order where one class is sure; their probabilities do not."""
    from export.graph_input import read_graph, write_graph

    def cut_off(model: bytes) -> bytes:
        graph = read_graph(model)
        for tensor in graph.subgraphs[0].tensors:
            if tensor.name == b"logits":
                tensor.quantization.zeroPoint = np.array([127], np.int64)
        return write_graph(graph)

    export = _export(run, INT8, _quantized_with(cut_off))
    assert ("fp32 -> tflite-int8", "probability difference, median") in _failed(export)


def test_run_that_is_not_evaluated_is_refused(run: Run) -> None:
    info = {key: value for key, value in run.info.items() if key != "metrics"}
    with pytest.raises(ExportError, match="python -m train evaluate"):
        open_source(dataclasses.replace(run, info=info))


def test_metrics_of_other_weights_are_noticed(run: Run) -> None:
    torch.manual_seed(0)
    other = SelfExplaining.__new__(SelfExplaining)
    nn.Module.__init__(other)
    other.features, other.classifier = run.network.features, nn.Conv2d(1280, 4, 1, bias=False)
    other.bias = nn.Parameter(torch.zeros(4))
    with pytest.raises(ExportError, match="metrics are not of its weights"):
        open_source(dataclasses.replace(run, network=other.eval()))
