"""The arrows of the house point one way, and the runtime stays light: checked on the code, and in a bare process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "torch",
    "torchvision",
    "tensorflow",
    "onnx",
    "nncf",
    "cv2",
    "scipy",
    "skimage",
    "matplotlib",
    "sklearn",
    "lightning",
}


def test_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_classifying_loads_nothing_heavy() -> None:
    code = (
        "import sys; from edge_runtime.cli import main; "
        "assert main(['classify', 'samples/all-subtypes', '--json']) == 0; "
        "print('\\n' + ' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "numpy" in loaded
    assert not loaded & (HEAVY | {"train", "export", "benchmarks"})
