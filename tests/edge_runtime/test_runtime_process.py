"""The command line as a process of its own: what only a real process shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_maker import encoded, smear
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object, stdin: bytes = b"", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m edge_runtime`` from the checkout."""
    command = [sys.executable, *options, "-m", "edge_runtime", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, timeout=60, check=False)


HEAVY = (
    "numpy",
    "PIL",
    "ai_edge_litert",
    "tflite_runtime",
    "onnxruntime",
    "onnx",
    "torch",
    "tensorflow",
    "cv2",
    "scipy",
    "cryptography",
    "fastapi",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "pyarrow",
    "ray",
)


def imported(*arguments: object) -> set[str]:
    """Return the top-level names of all modules a command imports."""
    done = run(*arguments, options=("-X", "importtime"))
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("import time:")]
    assert len(lines) > 20
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_help_imports_neither_numpy_nor_an_engine() -> None:
    for arguments in (
        ["--help"],
        ["classify", "--help"],
        ["serve", "--help"],
        ["archive", "--help"],
        ["--version"],
        ["nonsense"],
    ):
        assert not imported(*arguments) & set(HEAVY), arguments


def test_info_and_models_need_no_numpy(valid_bundle: Path) -> None:
    assert not imported("info", valid_bundle) & set(HEAVY)
    assert not imported("models") & set(HEAVY)


def imported_to_classify(bundle: Path, *arguments: object) -> set[str]:
    """Return the names of all modules that ``classify`` imports, an engine's too."""
    # Not by -X importtime: standard error is shut while the engine is imported.
    program = "import sys; from edge_runtime.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", program, "classify", "--model", str(bundle), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, check=True)
    return set(done.stdout.decode().splitlines()[-1].split())


def test_classify_imports_one_engine_and_nothing_heavier(valid_bundle: Path, picture_file: Path) -> None:
    found = {name.split(".")[0] for name in imported_to_classify(valid_bundle, picture_file)}
    assert found & set(HEAVY) == {"numpy", "PIL", "ai_edge_litert"}
    assert not found & {"asyncio", "email", "http", "socket", "multiprocessing", "tempfile", "unittest"}


def test_cells_are_looked_for_only_where_that_is_asked(valid_bundle: Path, picture_file: Path, tmp_path: Path) -> None:
    finder = {
        f"edge_runtime.{name}" for name in ("explanation", "standardise", "cells", "nuclei", "red_cells", "stain")
    }
    assert not imported_to_classify(valid_bundle, picture_file) & {*finder, "edge_runtime.overlay"}
    drawn = imported_to_classify(valid_bundle, picture_file, "--overlay", tmp_path / "a.png")
    assert "edge_runtime.overlay" in drawn and not drawn & finder
    assert finder <= imported_to_classify(valid_bundle, picture_file, "--explain")


def test_standard_input_is_classified_and_standard_error_stays_empty(valid_bundle: Path) -> None:
    done = run("classify", "--json", "--model", valid_bundle, "-", stdin=encoded(Image.fromarray(smear(64))))
    assert done.returncode == 0 and json.loads(done.stdout)["picture"] == "stdin"
    assert done.stderr == b""  # no "INFO: Created TensorFlow Lite XNNPACK delegate"


@pytest.mark.parametrize("stdin", [b"", b"no picture", encoded(Image.fromarray(smear(64)))[:500]])
def test_bad_standard_input_is_one_line(valid_bundle: Path, stdin: bytes) -> None:
    done = run("classify", "--model", valid_bundle, "-", stdin=stdin)
    assert done.returncode == 1 and done.stderr.startswith(b"error: stdin: ") and done.stderr.count(b"\n") == 1


def test_a_reader_that_has_enough_is_no_error(valid_bundle: Path, picture_file: Path) -> None:
    pictures = [str(picture_file)] * 40
    command = [sys.executable, "-m", "edge_runtime", "classify", "--json", "--model", str(valid_bundle), *pictures]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 0
    process.stderr.close()


def test_a_terminal_without_unicode_gets_escapes_not_a_traceback(valid_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "血.png").write_bytes(encoded(Image.fromarray(smear(64))))
    command = [sys.executable, "-m", "edge_runtime", "classify", "--model", str(valid_bundle), str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, env=environment, check=False)
    assert done.returncode == 0 and done.stderr == b"" and b"\\u8840.png: " in done.stdout
