"""Peer models: one network in the form of every engine that is compared, and the pictures they are asked about.

What comes in is the shipped bundle and its full-precision reference; what goes out is a folder, `MODELS`, that the ways
read. The forms are made by the same steps as bundles are (``export``), except that the quantizers are shown rendered
pictures: nobody needs a data set to run this comparison, and speed does not depend on what was shown. ncnn's form comes
from pnnx, and Ultralytics' own network from Ultralytics: untrained, as trained weights would have to be downloaded.
What is there is not made again, unless the bundle or its reference was exchanged meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.commands.opening import add_command
from edge_runtime.files import make_folder, write_bytes, write_text
from edge_runtime.machine import read_text

if TYPE_CHECKING:
    from edge_runtime.commands.opening import Commands

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".peers"
MODELS = PEERS / "models"
BUNDLE = "blood-cells"
PICTURE, PIXELS, REFERENCE = "cell.jpg", "pixels.npy", "reference.json"
"""A JPEG, its pixels as the network takes them, and what the full-precision network says of them."""

MADE_OF = "made-of.txt"
"""Says which bundle and which reference the models were made of."""

PICTURE_SIZE = (1024, 768)
"""Width and height, pixels."""

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(MODELS)}
"""Variables that keep peers off the log, the network and the home folder."""

CALIBRATION_EACH = 8
"""Rendered pictures of each class that the quantizers see."""


def python_of(environment: str) -> Path:
    """Return the interpreter of a peer's environment: one of ``benchmarks/peers``, made by ``make peers``; "": this."""
    return PEERS / environment / "bin" / "python" if environment else Path(sys.executable)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    made = add_command(commands, "peer-models", "make what is compared: one network in the form of every engine")
    made.set_defaults(run=_make)


def _make(args: argparse.Namespace) -> int:
    make_models()
    return 0


def make_models() -> dict[str, str]:
    """Make what is not there yet, and tell on standard error what cannot be made.

    Returns:
        File or folder of `MODELS` -> why it could not be made; empty where all are there.
    """
    made_of = _made_of()
    if MODELS.exists() and (read_text(MODELS / MADE_OF) or "") != made_of:
        sys.stderr.write(f"{MODELS} is of another bundle, or not whole: it is made anew\n")
        shutil.rmtree(MODELS)
    make_folder(MODELS)
    write_text(MODELS / MADE_OF, made_of)
    missing = {}
    for row in ROWS:
        if all((MODELS / name).exists() for name in row.names):
            continue
        sys.stderr.write(f"making {', '.join(row.names)} ...\n")
        try:
            row.make()
        except Exception as error:  # noqa: BLE001 - whatever a converter raises, the others' models are made
            said = (getattr(error, "stderr", None) or str(error)).strip() or type(error).__name__
            why = said.splitlines()[-1][:200]
            missing |= dict.fromkeys(row.names, why)
            sys.stderr.write(f"not made: {', '.join(row.names)}: {why}\n")
    return missing


def _made_of() -> str:
    from edge_runtime.bundle import open_bundle

    weights = (ROOT / "references" / BUNDLE / "weights.safetensors").read_bytes()
    return f"{open_bundle(BUNDLE).id} {hashlib.sha256(weights).hexdigest()}"


def render_picture(label: str = "lymphocyte", seed: int = 0) -> bytes:
    """Return a JPEG, 1024 x 768 pixels, as a camera would write it: a rendered cell in the middle.

    Args:
        label: of the cell.
        seed: of the renderer.
    """
    import io

    import numpy as np
    from PIL import Image

    from train.render import render_cell

    width, height = PICTURE_SIZE
    pixels = render_cell(label, np.random.default_rng(seed), width).pixels
    edge = (width - height) // 2
    stream = io.BytesIO()
    Image.fromarray(pixels[edge : edge + height]).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _pictures() -> None:
    import io

    import numpy as np
    import torch

    from edge_runtime.bundle import open_bundle
    from edge_runtime.preprocess import decode, prepare

    encoded = render_picture()
    pixels = prepare(decode(encoded), open_bundle(BUNDLE).manifest.preprocess)
    stream = io.BytesIO()
    np.save(stream, pixels)
    write_bytes(MODELS / PIXELS, stream.getvalue())
    write_bytes(MODELS / PICTURE, encoded)
    run = _reference()
    with torch.inference_mode():
        best = int(run.network(torch.from_numpy(pixels[None]))[0].argmax())
    write_bytes(MODELS / REFERENCE, json.dumps({"labels": run.task.labels, "class": best}).encode())


def _shipped() -> None:
    from edge_runtime.bundle import open_bundle

    write_bytes(MODELS / "int8.tflite", open_bundle(BUNDLE).read("model.tflite"))


def _reference() -> Any:
    from train.run_folder import read_run

    return read_run(ROOT / "references" / BUNDLE)


def _full() -> None:
    from export.to_onnx import to_onnx
    from export.to_openvino import to_openvino
    from export.to_tflite import to_tflite

    run = _reference()
    onnx = to_onnx(run.network, run.input_px)
    write_bytes(MODELS / "fp32.onnx", onnx)
    _write("fp32", to_openvino(onnx))
    write_bytes(MODELS / "fp32.tflite", to_tflite(run.network, onnx, run.input_px))


def _quantized(target: str) -> Callable[[], None]:
    def make() -> None:
        from export.quantized import make_quantized
        from export.recipes import parse_recipe

        full = {"model.onnx": (MODELS / "fp32.onnx").read_bytes()}
        _write("int8", make_quantized(full, _calibration(), parse_recipe(target)))

    return make


def _calibration() -> Any:
    import numpy as np
    from PIL import Image

    from train.render import render_cell

    run, random = _reference(), np.random.default_rng(0)
    side = (run.input_px, run.input_px)
    pictures = [
        Image.fromarray(render_cell(label, random).pixels).resize(side, Image.Resampling.BILINEAR)
        for label in run.task.labels
        for _ in range(CALIBRATION_EACH)
    ]
    return np.stack([np.asarray(picture) for picture in pictures])  # (N, H, W, 3) uint8


def _write(name: str, files: Mapping[str, bytes]) -> None:
    for file, content in files.items():
        write_bytes(MODELS / f"{name}{Path(file).suffix}", content)


def _ncnn() -> None:
    import torch

    run = _reference()

    class FromFloats(torch.nn.Module):
        """The network from (1, 3, H, W) float pixels 0..255, which is what ncnn makes of a picture."""

        def __init__(self) -> None:
            super().__init__()
            self.network = run.network

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found: tuple[torch.Tensor, torch.Tensor] = self.network(pixels.permute(0, 2, 3, 1))
            return found

    pnnx = next((PEERS / "ncnn").glob("lib/python*/site-packages/pnnx/pnnx"), None)
    if pnnx is None:
        raise FileNotFoundError("pnnx is not installed")
    pnnx.chmod(0o755)  # its package leaves that to a start from Python, which would import PyTorch
    with tempfile.TemporaryDirectory(prefix="leukoscope-peers-") as name:
        example = torch.zeros(1, 3, run.input_px, run.input_px)
        with torch.inference_mode():
            torch.jit.trace(FromFloats(), example, check_trace=False).save(f"{name}/net.pt")
        for precision, flag in (("fp32", "fp16=0"), ("fp16", "fp16=1")):
            shape = f"inputshape=[1,3,{run.input_px},{run.input_px}]"
            subprocess.run([str(pnnx), f"{name}/net.pt", shape, flag], check=True, capture_output=True, text=True)
            for kind in ("param", "bin"):
                content = Path(f"{name}/net.ncnn.{kind}").read_bytes()
                write_bytes(MODELS / f"{precision}.ncnn.{kind}", content)


def _ultralytics() -> None:
    script = Path(__file__).parent / "peers" / "export_yolo.py"
    command = [str(python_of("ultralytics")), str(script), str(_reference().input_px)]
    with tempfile.TemporaryDirectory(prefix="leukoscope-peers-", dir=MODELS) as folder:
        subprocess.run(command, cwd=folder, env={**os.environ, **QUIET}, check=True, capture_output=True, text=True)
        for name in YOLO:
            if not (MODELS / name).exists():
                Path(folder, name).rename(MODELS / name)


@dataclass(frozen=True)
class _Row:
    """Files or folders of `MODELS`, and what makes them; raises what the caller names as the reason."""

    names: tuple[str, ...]
    make: Callable[[], None]


YOLO = ("yolo11n-cls.pt", "yolo11n-cls_openvino_model", "yolo11n-cls_ncnn_model")
"""Ultralytics' network for PyTorch, and as it exports it."""

ROWS = (
    _Row((PIXELS, PICTURE, REFERENCE), _pictures),
    _Row(("int8.tflite",), _shipped),
    _Row(("fp32.onnx", "fp32.xml", "fp32.bin", "fp32.tflite"), _full),
    _Row(("int8.onnx",), _quantized("onnx-int8")),
    _Row(("int8.xml", "int8.bin"), _quantized("openvino-int8")),
    _Row(("fp32.ncnn.param", "fp32.ncnn.bin", "fp16.ncnn.param", "fp16.ncnn.bin"), _ncnn),
    _Row(YOLO, _ultralytics),
)
