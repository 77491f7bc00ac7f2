"""The engines agree with each other and with the arithmetic, and say in one line why they cannot run."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_maker import TINY_IO, smear, tiny, tiny_bundle, tiny_openvino

from edge_runtime import engines, graphs
from edge_runtime.bundle import open_bundle
from edge_runtime.commands.opening import ENGINE_NAMES
from edge_runtime.engines import ENGINES, Engine, installed_engines, open_engine
from edge_runtime.errors import BundleError, EngineError, UsageError
from edge_runtime.graphs import Graph, Tensor

PIXELS = smear(32, 5)
BIAS = np.random.default_rng(0)


@pytest.fixture(scope="module")
def float32() -> Engine:
    """Return the float32 model on LiteRT."""
    return open_engine("litert", tiny("float32"), TINY_IO, threads=2)


def test_the_command_line_offers_exactly_the_engines_of_the_table() -> None:
    assert tuple(ENGINES) == ENGINE_NAMES


def test_this_environment_has_the_default_engine_and_onnxruntime() -> None:
    assert installed_engines()[0] == "litert" and "onnxruntime" in installed_engines()


def test_litert_and_onnxruntime_agree(float32: Engine) -> None:
    other = open_engine("onnxruntime", tiny("onnx"), TINY_IO, threads=1)
    for seed in range(5):
        (logits, class_map), (logits_2, class_map_2) = (e.run(smear(32, seed)) for e in (float32, other))
        assert np.abs(logits - logits_2).max() < 1e-5 and np.abs(class_map - class_map_2).max() < 1e-5
        assert logits.shape == (5,) and class_map.shape == (4, 4, 5) and logits.dtype == class_map.dtype == np.float32


TELLTALE = """
import sys, threading
asked = []
class Finder:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "openvino_telemetry":
            asked.append(name)
sys.meta_path.insert(0, Finder())
from edge_runtime.graphs import import_engine
package = import_engine("openvino")
assert hasattr(package, "Core") and hasattr(package, "convert_model"), "all of it is there"
print(asked, "openvino_telemetry" in sys.modules, [t.name for t in threading.enumerate()])
"""


def test_openvino_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", TELLTALE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.stdout == "[] False ['MainThread']\n", done.stdout + done.stderr
    assert not list(tmp_path.iterdir()), "nor does it number the user"


def test_openvino_agrees_too_and_calculates_in_float32(float32: Engine) -> None:
    other = open_engine(None, tiny_openvino(), TINY_IO, threads=1)
    assert other.name == "openvino" and other.output_steps == (None, None)
    for seed in range(5):
        for mine, its in zip(float32.run(smear(32, seed)), other.run(smear(32, seed)), strict=True):
            assert np.abs(mine - its).max() < 1e-5  # bfloat16, its own choice, would be a thousand times that
    kept = other.run(PIXELS)[0]
    before = kept.copy()
    other.run(smear(32, 9))
    assert np.array_equal(kept, before), "an answer is not a view of what comes next"


def test_the_logits_are_the_mean_of_the_class_map(float32: Engine) -> None:
    gaps = [logits - class_map.mean((0, 1)) for logits, class_map in (float32.run(smear(32, n)) for n in range(4))]
    assert np.abs(np.diff(gaps, axis=0)).max() < 1e-6  # what is left is the bias, the same for every picture


def test_int8_is_dequantized_by_its_own_steps(float32: Engine) -> None:
    quantized = open_engine("litert", tiny("int8"), TINY_IO, threads=1)
    step, map_step = quantized.output_steps
    assert step == pytest.approx(0.0122211) and map_step == pytest.approx(0.0311288)
    assert float32.output_steps == (None, None)
    logits, class_map = quantized.run(PIXELS)
    assert step is not None and map_step is not None
    whole = logits / step, class_map / map_step
    assert all(np.abs(values - np.rint(values)).max() < 1e-3 for values in whole)
    exact, exact_map = float32.run(PIXELS)
    assert np.abs(logits - exact).max() < 4 * step and np.abs(class_map - exact_map).max() < 4 * map_step


def test_outputs_are_picked_by_name(float32: Engine) -> None:
    swapped = replace(TINY_IO, logits_name="class_map", class_map_name="logits")
    with pytest.raises(BundleError, match="wrong shape of 'class_map'"):
        open_engine("litert", tiny("float32"), swapped)


def test_pixels_may_have_a_batch_axis_and_nothing_else(float32: Engine) -> None:
    assert np.array_equal(float32.run(PIXELS)[0], float32.run(PIXELS[None])[0])
    assert np.array_equal(float32.run(PIXELS[:, ::-1])[0], float32.run(PIXELS[:, ::-1].copy())[0])
    for wrong in (PIXELS.astype(np.float32), PIXELS[:-1], np.stack([PIXELS] * 2), PIXELS[..., :2]):
        with pytest.raises(UsageError, match="wrong pixels"):
            float32.run(wrong)


def test_an_engine_is_chosen_by_what_the_bundle_holds(tmp_path: Path) -> None:
    both = open_bundle(tiny_bundle(tmp_path / "both", "float32", "onnx"))
    onnx_only = open_bundle(tiny_bundle(tmp_path / "onnx", "onnx"))
    assert open_engine(None, both).name == "litert"
    assert open_engine(None, onnx_only).name == "onnxruntime"
    assert open_engine(None, tiny("onnx"), TINY_IO).name == "onnxruntime"
    with pytest.raises(EngineError, match=r"litert has no model here: got model\.onnx, expected model\.tflite"):
        open_engine("litert", onnx_only)


def test_usage_errors_are_named() -> None:
    with pytest.raises(UsageError, match="no such engine: got 'torch', expected litert or tflite-runtime or onnx"):
        open_engine("torch", tiny("int8"), TINY_IO)
    with pytest.raises(UsageError, match="IOSpec"):
        open_engine("litert", tiny("int8"))
    for threads in (0, -1, 65):
        with pytest.raises(UsageError, match="threads"):
            open_engine("litert", tiny("int8"), TINY_IO, threads)


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (64, 4)])
def test_a_core_is_left_for_judging_by_default(monkeypatch: pytest.MonkeyPatch, cpus: int, threads: int) -> None:
    monkeypatch.setattr(engines, "usable_cpus", lambda: cpus)
    assert open_engine("litert", tiny("int8"), TINY_IO).threads == threads


def test_without_any_engine_the_answer_is_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_importable", lambda module: False)
    with pytest.raises(EngineError) as caught:
        open_engine(None, tiny("int8"), TINY_IO)
    assert str(caught.value) == 'no inference engine is installed (pip install "leukoscope[litert]")'
    with pytest.raises(EngineError, match=r'onnxruntime is not installed \(pip install "leukoscope\[onnx\]"\)'):
        open_engine("onnxruntime", tiny("onnx"), TINY_IO)


def test_the_next_engine_answers_when_the_first_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_importable", lambda module: module == "tflite_runtime")
    assert engines._choose(None, ("model.onnx", "model.tflite")).name == "tflite-runtime"


@pytest.mark.parametrize(("numpy", "runtime", "works"), [("2.1.0", "2.14.0", False), ("1.26.4", "2.14.0", True)])
def test_tflite_runtime_is_refused_with_numpy_2_before_it_loads(
    monkeypatch: pytest.MonkeyPatch, numpy: str, runtime: str, works: bool
) -> None:
    # tflite-runtime speaks LiteRT's interface, so LiteRT stands in for the one that works.
    from ai_edge_litert import interpreter

    monkeypatch.setattr(engines, "_importable", lambda module: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: runtime)
    monkeypatch.setattr(graphs.np, "__version__", numpy)
    if works:
        monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
        monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", interpreter)
        assert open_engine("tflite-runtime", tiny("int8"), TINY_IO).run(PIXELS)[0].shape == (5,)
    else:
        with pytest.raises(EngineError) as caught:
            open_engine("tflite-runtime", tiny("int8"), TINY_IO)
        line = str(caught.value)
        assert "got tflite-runtime 2.14.0 with numpy 2.1.0, expected numpy < 2" in line and "\n" not in line


def fake(monkeypatch: pytest.MonkeyPatch, logits: Any, class_map: Any, **tensor: Any) -> Engine:
    """Return an engine whose graph gives what it is told."""
    stated = Graph(
        {"pixels": Tensor("pixels", (1, 32, 32, 3), "uint8")},
        {
            "logits": Tensor("logits", (1, 5), "float32"),
            "class_map": Tensor("class_map", (1, 4, 4, 5), "float32", **tensor),
        },
        lambda *_: [logits, class_map],
    )
    monkeypatch.setitem(ENGINES, "litert", replace(ENGINES["litert"], load=lambda model, threads: stated))
    return open_engine("litert", tiny("int8"), TINY_IO)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spoilt", ["logits", "class_map"])
def test_a_value_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch, value: float, spoilt: str) -> None:
    values = {"logits": np.zeros((1, 5), np.float32), "class_map": np.zeros((1, 4, 4, 5), np.float32)}
    values[spoilt].flat[3] = value
    engine = fake(monkeypatch, values["logits"], values["class_map"])
    with pytest.raises(EngineError, match=f"{spoilt}: 1 of .* values are NaN or infinite"):
        engine.run(PIXELS)


def test_an_output_that_is_not_what_the_graph_states_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake(monkeypatch, np.zeros((1, 6), np.float32), np.zeros((1, 4, 4, 5), np.float32))
    with pytest.raises(EngineError, match="logits: not what the model states"):
        engine.run(PIXELS)


def test_an_engine_that_fails_on_a_picture_is_one_line(float32: Engine) -> None:
    def broken(*_: object) -> list[np.ndarray]:
        raise RuntimeError("node 3\nfailed")

    spoilt = replace(float32, _graph=replace(float32._graph, run=broken))
    with pytest.raises(EngineError, match="litert failed on a picture: got RuntimeError: node 3 failed"):
        spoilt.run(PIXELS)
