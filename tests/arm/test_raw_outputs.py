"""Raw outputs are integers, and what the classifier's answer rests on; the script that runs Arm refuses nonsense."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_runtime.classifier import Classifier
from edge_runtime.errors import UsageError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SAMPLES = sorted((ROOT / "samples" / "all-subtypes").glob("*.jpg"))
PARTS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
"""Processor -> Arm's part number, as the kernel shows it."""

sys.path.insert(0, str(ROOT / "tests" / "edge_runtime"))

from bundle_maker import TINY_IO, make_bundle, tiny  # noqa: E402


@pytest.fixture(scope="module")
def dumper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("raw_outputs", HERE / "raw_outputs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_integers_are_below_the_answer(dumper: ModuleType) -> None:
    found = dumper.raw_outputs("all-subtypes", None, [str(path) for path in SAMPLES])
    assert found["logits"].dtype == found["class_map"].dtype == np.int8
    assert found["logits"].shape == (4, 4) and found["class_map"].shape == (4, 7, 7, 4)
    classifier = Classifier.open("all-subtypes", threads=1)
    distances = 0
    for k, path in enumerate(SAMPLES):
        prediction = classifier.classify(path)
        for key, place in (("logits", 0), ("class_map", 1)):
            steps = getattr(prediction, key) / found["scales"][place] + found["zero_points"][place]
            assert np.abs(steps - found[key][k]).max() < 1e-3
        for refusal in prediction.refusals:
            if refusal.reason == "unfamiliar":
                assert refusal.value == found["distance"][k] > found["distance_limit"]
                distances += 1
    assert distances  # rendered pictures are strange to it
    assert len(set(found["pixels_sha256"])) == 4


def test_command_writes_a_file_from_anywhere(tmp_path: Path, dumper: ModuleType) -> None:
    folder = make_bundle(tmp_path / "tiny", {"model.tflite": tiny("int8")}, TINY_IO)
    out = tmp_path / "raw.npz"
    command = [sys.executable, HERE / "raw_outputs.py", "--model", folder, "--out", out, folder / "golden"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with np.load(out, allow_pickle=False) as found:
        assert np.issubdtype(found["logits"].dtype, np.integer) and len(found["pictures"]) == 2
        assert np.isnan(found["distance"]).all() and np.isnan(found["distance_limit"])  # this bundle knows none
        assert any(name.startswith("numpy ") for name in found["packages"])


def test_a_float_model_has_no_integers(tmp_path: Path, dumper: ModuleType) -> None:
    folder = make_bundle(tmp_path / "tiny", {"model.tflite": tiny("float32")}, TINY_IO)
    with pytest.raises(UsageError, match="not quantized: got float32"):
        dumper.raw_outputs(str(folder), None, [str(SAMPLES[0])])


@pytest.mark.parametrize("cpu", PARTS)
def test_processor_files_are_of_that_processor(cpu: str) -> None:
    cores = (HERE / f"cpuinfo-{cpu}").read_text(encoding="ascii").split("\n\n")[:-1]
    assert len(cores) == 4
    for number, core in enumerate(cores):
        facts = dict(line.split(":", 1) for line in core.splitlines())
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        assert facts["processor"] == str(number) and facts["CPU part"] == PARTS[cpu]
        assert {"fp", "asimd"} <= set(facts["Features"].split())


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", HERE / "run_arm.sh", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cpu", "cortex-a72"], "no such option: --cpu"),
        (["--cpus"], "--cpus needs a value"),
        (["--cpus", "cortex-a999"], "cpuinfo-cortex-a999"),
        (["--per-class", "few"], "--per-class: got few"),
        (["--jobs", "many"], "--jobs: got many"),
        (["--own", "nothing=/tmp"], "--own: got nothing=/tmp"),
        (["--out", "/nowhere/arm.json"], "--out: /nowhere is no folder"),
        (["--python", "/nowhere/python"], "needs root" if os.getuid() else "/nowhere/python is not there"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], said: str) -> None:
    done = script(*arguments)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ") and said in done.stderr


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash")
def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mine.jpg").write_bytes(b"")
    done = script("--work", str(tmp_path), "--python", "/nowhere/python")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "holds something else" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["pictures", "mine.jpg"]


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash")
def test_help_names_every_option() -> None:
    done = script("--help")
    assert done.returncode == 0
    source = (HERE / "run_arm.sh").read_text(encoding="utf-8")
    for option in ("--suites", "--cpus", "--engines", "--per-class", "--own", "--work", "--out", "--jobs", "--python"):
        assert option in done.stdout and f"{option})" in source
