"""To TFLite: from ONNX to a full-precision TFLite file, by onnx2tf's TensorFlow-free backend in a process of its own.

The converter writes extra files and talks on both streams; here it does so in a temporary folder that nobody sees, with
no network to reach for, and its failure becomes one line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from .errors import ExportError
from .to_onnx import INPUT

CONVERTER = "onnx2tf"
INSTALL = "pip install --no-deps --ignore-requires-python onnx2tf==2.6.9 sne4onnx==2.0.1 sng4onnx==2.0.1"
TIMEOUT_S = 600
_NOWHERE = "http://127.0.0.1:9"


def to_tflite(onnx: bytes) -> bytes:
    """Convert an ONNX graph to TFLite in full precision; its input stays uint8 NHWC, its outputs keep their names.

    Raises:
        ExportError: the converter is not installed, fails, or takes longer than `TIMEOUT_S`.
    """
    if find_spec(CONVERTER) is None:
        raise ExportError(f"{CONVERTER} is not installed", todo=INSTALL)
    with tempfile.TemporaryDirectory(prefix="leukoscope-export-") as folder:
        source, out = Path(folder) / "model.onnx", Path(folder) / "out"
        source.write_bytes(onnx)
        offline = {name: _NOWHERE for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        try:
            done = subprocess.run(
                [sys.executable, "-m", CONVERTER, "-i", str(source), "-o", str(out), "-k", INPUT, "-n"],
                cwd=folder,
                env=os.environ | offline | {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                check=False,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"{CONVERTER} did not finish", got=f"{TIMEOUT_S} s") from None
        written = out / "model_float32.tflite"
        if done.returncode or not written.is_file():
            said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            got = said[-1][:200] if said else f"exit status {done.returncode}"
            raise ExportError(f"{CONVERTER} cannot convert this graph", got=got)
        return written.read_bytes()
