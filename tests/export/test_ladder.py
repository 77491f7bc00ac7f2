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
from export.parity import FINITE, GATES, STRUCTURE
from export.pipeline import Export, Files, Source, Stages, export_recipe, open_source
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


@pytest.fixture(scope="module")
def source(run: Run) -> Source:
    return open_source(run, images=IMAGES)


def _export(source: Source, recipe: str, stages: Stages) -> Export:
    """Export with faulty quantization; what is in full precision is shared between tests."""
    return export_recipe(dataclasses.replace(source, stages=stages), parse_recipe(recipe))


@pytest.fixture(scope="module")
def clean(source: Source) -> Export:
    return export_recipe(source, parse_recipe(INT8))


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

    export = export_recipe(open_source(run, images=IMAGES, stages=Stages(to_onnx=faulty)), parse_recipe(INT8))
    assert ("torch -> ONNX fp32", measure) in _failed(export)
    with pytest.raises(GateError, match=f"not packed: torch -> ONNX fp32: {measure}"):
        write_bundle(export, tmp_path / "bundle")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_truncated_instead_of_rounded_weights_are_caught(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic: a cast where a rounding belongs shifts every weight by half a step on average."""
    from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor

    class Truncating:
        def __getattr__(self, name: str) -> object:
            return np.floor if name == "rint" else getattr(np, name)

    monkeypatch.setattr(uniform_quantize_tensor, "np", Truncating())
    # the shipped recipe rounds anew and makes up for what went before, so the fault goes where nothing does
    export = _export(source, "tflite-int8:rounding=nearest", CLEAN)
    assert any(step == "fp32 -> tflite-int8" for step, _ in _failed(export)), [r.to_dict() for r in export.rows]


def _one_class(index: Index, protocol: str, images: int, seed: int) -> CalibrationSet:
    numbers = [i for i in index.select(protocol, "train") if index.rows[i].label == "Pro"]
    return describe(index, numbers[:images], seed)


def test_calibration_on_one_class_is_caught(run: Run) -> None:
    export = export_recipe(open_source(run, images=IMAGES, stages=Stages(choose=_one_class)), parse_recipe(INT8))
    assert ("calibration set", "classes covered") in _failed(export)


@pytest.mark.parametrize("split", ["val", "test"])
def test_calibration_on_held_out_pictures_is_refused(run: Run, split: str) -> None:
    def peeking(index: Index, protocol: str, images: int, seed: int) -> CalibrationSet:
        chosen = choose_calibration(index, protocol, images, seed)
        return describe(index, [*chosen.numbers, index.select(protocol, split)[0]], seed)

    with pytest.raises(ExportError, match="touches validation or test"):
        open_source(run, images=IMAGES, stages=Stages(choose=peeking))


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
    source: Source, fault: Callable[[bytes], bytes], measure: str, tmp_path: Path
) -> None:
    """The same faults behind the full-precision rungs, where only INT8's own can tell."""
    export = _export(source, INT8, _quantized_with(fault))
    assert ("fp32 -> tflite-int8", measure) in _failed(export)
    assert not any(step.startswith("torch ->") for step, _ in _failed(export))
    with pytest.raises(GateError, match="not packed: fp32 -> tflite-int8"):
        write_bundle(export, tmp_path / "bundle")


def test_wrong_scale_of_an_output_is_caught(source: Source) -> None:
    """Logits cut off at zero keep their order where one class is sure; their probabilities do not."""
    from export.graph_input import read_graph, write_graph

    def cut_off(model: bytes) -> bytes:
        graph = read_graph(model)
        for tensor in graph.subgraphs[0].tensors:
            if tensor.name == b"logits":
                tensor.quantization.zeroPoint = np.array([127], np.int64)
        return write_graph(graph)

    export = _export(source, INT8, _quantized_with(cut_off))
    assert ("fp32 -> tflite-int8", "probability difference, median") in _failed(export)


def test_one_scale_for_all_weights_of_a_layer_is_caught(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    from ai_edge_quantizer import recipe

    static = recipe.static_wi8_ai8()
    for row in static:
        row["op_config"]["weight_tensor_config"]["granularity"] = "TENSORWISE"
    monkeypatch.setattr(recipe, "static_wi8_ai8", lambda: static)
    export = _export(source, "tflite-int8:rounding=nearest", CLEAN)
    (row,) = [row for row in export.rows if row.measure == STRUCTURE]
    assert not row.passed and row.value == 0 and "1 scales" in row.note


def test_ranges_of_a_moving_average_are_caught(source: Source) -> None:
    """They are narrower than what was seen, logits included: the highest are cut off."""
    export = _export(source, "tflite-int8:ranges=moving-average", CLEAN)
    assert ("fp32 -> tflite-int8", GATES["logit_error"].measure) in _failed(export)


def test_biases_that_are_not_corrected_are_caught(source: Source) -> None:
    """Rounding shifts the mean of a channel, and the next layer's, until all logits are off."""
    from export.activations import convolutions
    from export.graph_input import read_graph, write_graph

    def biases(graph: object) -> list[object]:
        tensors = graph.subgraphs[0].tensors  # type: ignore[attr-defined]
        return [graph.buffers[tensors[int(op.inputs[2])].buffer] for op in convolutions(graph)]  # type: ignore[attr-defined]

    plain = _export(source, "tflite-int8:rounding=nearest", CLEAN).models["model.tflite"]

    def uncorrected(model: bytes) -> bytes:
        graph = read_graph(model)
        for bias, before in zip(biases(graph), biases(read_graph(plain)), strict=True):
            bias.data = before.data  # type: ignore[attr-defined]
        return write_graph(graph)

    export = _export(source, INT8, _quantized_with(uncorrected))
    assert ("fp32 -> tflite-int8", GATES["logit_shift"].measure) in _failed(export)


def test_scales_along_the_wrong_axis_are_caught(source: Source) -> None:
    import onnx

    def turned(model: bytes) -> bytes:
        graph = onnx.load_from_string(model)
        for node in graph.graph.node:
            for attribute in node.attribute:
                if node.op_type == "DequantizeLinear" and attribute.name == "axis":
                    attribute.i = 1
        return bytes(graph.SerializeToString())

    export = _export(source, "onnx-int8:rounding=nearest", _quantized_with(turned))
    assert not export.passed and not export.models
    assert _failed(export) == {("fp32 -> onnx-int8", FINITE)}, "no engine takes it where it is not square"


def test_fine_tuning_is_compared_with_the_network_it_started_from(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX comes out of it as it is; TFLite starts from its network in float, and rounds to the nearest step."""
    from export.qat import Tuned

    asked: list[tuple[int, bool]] = []
    made = make_quantized(source.onnx().files, source.calibration_pixels, parse_recipe("onnx-int8-trt"))["model.onnx"]

    def tuned(
        run: Run, index: Index, pixels: Pixels, seen: Pixels, epochs: int, seed: int, signed: bool, *_: object
    ) -> Tuned:
        asked.append((epochs, signed))
        return Tuned(source.network, made, (0.0,) * epochs)

    monkeypatch.setattr("export.qat.fine_tune", tuned)
    onnx, tflite = (export_recipe(source, parse_recipe(name)) for name in ("onnx-int8-trt:qat=2", "tflite-int8:qat=1"))
    assert asked == [(2, True), (1, True)] and onnx.models == {"model.onnx": made}
    nearest = export_recipe(source, parse_recipe("tflite-int8:rounding=nearest"))
    assert tflite.models == nearest.models and tflite.name.endswith("tflite-int8-qat-1")


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
