"""Make bundles for tests: a valid one around any model, then spoil it. ``export`` owns the real writer.

What comes in is model bytes and an `IOSpec`; what goes out is a folder that ``edge_runtime.bundle`` opens. The golden
outputs come from the model itself, through the runtime, so the bundle verifies.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_runtime.engines import open_engine
from edge_runtime.manifest import IOSpec
from edge_runtime.preprocess import Preprocess, decode, prepare

LABELS = ("Benign", "Early", "Pre", "Pro", "Other")
"""The last one is the test operating point's "yes"."""
HERE = Path(__file__).parent


def smear(side: int = 96, seed: int = 0) -> np.ndarray:
    """Draw a few dark discs on a pale field: (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    field = np.full((side, side, 3), (235, 220, 228), dtype=np.float64)
    rows, columns = np.mgrid[:side, :side]
    for _ in range(6):
        y, x, r = *rng.uniform(0, side, 2), rng.uniform(0.06, 0.15) * side
        field[(rows - y) ** 2 + (columns - x) ** 2 < r * r] = rng.uniform(60, 170, 3)
    return np.clip(field + rng.normal(0, 4, field.shape), 0, 255).astype(np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode a picture to bytes."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def smears(folder: Path, count: int) -> Path:
    """Fill a folder with so many pictures, more than 41, of which "041.png" is bad; return it."""
    for number in range(count):
        (folder / f"{number:03}.png").write_bytes(encoded(Image.fromarray(smear(64, number))))
    (folder / "041.png").write_bytes(b"bad")
    return folder


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims to be huge."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND"]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def manifest(io_spec: IOSpec, labels: tuple[str, ...], *, temperature: float = 1.5) -> dict[str, Any]:
    """Return a manifest that lacks only `files` and `golden`."""
    share = [labels[-1]]
    return {
        "format": "leukoscope-bundle",
        "version": 1,
        "name": "test-tiny-int8",
        "task": {"name": "test", "title": "A test", "kind": "field", "labels": list(labels)},
        "input": {
            "name": io_spec.input_name,
            "height": io_spec.input_px,
            "width": io_spec.input_px,
            "channels": "RGB",
            "layout": "NHWC",
            "dtype": "uint8",
        },
        "preprocess": {"crop": "centre-square", "resample": "bilinear"},
        "outputs": {
            "logits": {"name": io_spec.logits_name},
            "class_map": {"name": io_spec.class_map_name, "height": io_spec.map_height, "width": io_spec.map_width},
        },
        "temperature": temperature,
        "operating_points": [
            {"name": "malignant", "positive": share, "threshold": 0.25, "sensitivity": 0.99, "specificity": 0.9}
        ],
        "quantization": {
            "recipe": "int8",
            "weights": "int8 per-channel",
            "activations": "int8",
            "calibration": {"images": 8, "split": "train", "sha256": "ab" * 32},
        },
        "training": {
            "run": "run-0",
            "weights_sha256": "cd" * 32,
            "data_sha256": "ef" * 32,
            "protocol": "stratified",
            "seed": 0,
            "backbone": "tiny",
            "pretrained": None,
            "sources": [{"name": "none", "title": "No source", "licence": "CC0", "citation": "nobody"}],
            "code": "0.1.0",
        },
        "metrics": {
            "reference": {"macro_f1": {"value": 0.991, "low": 0.98, "high": 0.999}},
            "this": {"macro_f1": {"value": 0.99, "low": 0.98, "high": 0.997}},
            "parity": {
                "passed": True,
                "rows": [
                    {"step": "fp32 -> int8", "measure": "top-1", "value": 0.99, "limit": ">= 0.98", "passed": True}
                ],
            },
        },
        "limits": {"intended": "tests", "not_for": "anything else", "notes": ["rendered pictures only"]},
    }


def make_bundle(
    folder: Path,
    models: dict[str, bytes],
    io_spec: IOSpec,
    labels: tuple[str, ...] = LABELS,
    *,
    cases: int = 2,
    tolerance: tuple[float, float] = (0.2, 0.4),
) -> Path:
    """Write a valid bundle.

    Args:
        folder: to make.
        models: files of one model or several, of `edge_runtime.manifest.MODEL_FILES` -> bytes.
        io_spec: what the models look like.
        labels: as many as the models have logits.
        cases: golden pictures to make.
        tolerance: absolute, of logits and class map.

    Returns:
        `folder`.
    """
    from edge_runtime.golden import expected

    files = dict(models)
    engine = open_engine(None, models, io_spec)
    for case in range(cases):
        picture = encoded(Image.fromarray(smear(seed=case)))
        pixels = prepare(decode(picture), Preprocess(io_spec.input_px))
        files[f"golden/{case}.png"] = picture
        outputs = expected(pixels, *engine.run(pixels), labels)
        files[f"golden/{case}.json"] = json.dumps(outputs).encode()
    files["MODEL_CARD.md"] = b"# A test\n"
    stated = manifest(io_spec, labels)
    stated["golden"] = {
        "tolerance": {"logits": tolerance[0], "class_map": tolerance[1]},
        "cases": [{"picture": f"golden/{n}.png", "expected": f"golden/{n}.json"} for n in range(cases)],
    }
    stated["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()
    }
    (folder / "golden").mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(stated), encoding="utf-8")
    return folder


def spoil(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a bundle's manifest in place."""
    path = folder / "manifest.json"
    stated = copy.deepcopy(json.loads(path.read_text(encoding="utf-8")))
    change(stated)
    path.write_text(json.dumps(stated), encoding="utf-8")
    return folder


def replace_file(folder: Path, name: str, content: bytes) -> Path:
    """Exchange a file and correct its entry in `files`: an attacker who knows the format."""
    (folder / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return spoil(folder, lambda stated: stated["files"].update({name: entry}))


def signing_key(seed: int) -> Any:
    """Return the private key of a seed, 0..255."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def key_line(seed: int) -> str:
    """Return the public key of a seed as a trust file has it."""
    return "ed25519:" + base64.b64encode(signing_key(seed).public_key().public_bytes_raw()).decode()


def signature(folder: Path, seed: int = 1, serial: Any = 5, **claims: Any) -> dict[str, Any]:
    """Return what ``manifest.sig`` must say, by the letter of ``docs/bundle-format.md``.

    Args:
        folder: of the bundle.
        seed: of the key that signs.
        serial: to sign.
        claims: what is signed in the place of the truth: key, name, manifest_sha256.
    """
    text = (folder / "manifest.json").read_bytes()
    truth = {
        "key": key_line(seed),
        "name": json.loads(text)["name"],
        "manifest_sha256": hashlib.sha256(text).hexdigest(),
        "serial": serial,
    }
    said = truth | claims
    lines = (
        "leukoscope-signature 1",
        f"key {said['key']}",
        f"name {said['name']}",
        f"manifest-sha256 {said['manifest_sha256']}",
        f"serial {said['serial']}",
    )
    value = signing_key(seed).sign(("\n".join(lines) + "\n").encode())
    return {
        "format": "leukoscope-signature",
        "version": 1,
        **said,
        "signature": base64.b64encode(value).decode(),
    }


def sign(folder: Path, seed: int = 1, serial: Any = 5, **claims: Any) -> Path:
    """Sign a bundle, as `signature`."""
    (folder / "manifest.sig").write_text(json.dumps(signature(folder, seed, serial, **claims)), encoding="utf-8")
    return folder


TINY_IO = IOSpec("pixels", 32, "logits", "class_map", 4, 4, 4.0, 8.0, len(LABELS))
"""What the committed tiny models look like; see fixtures/make_tiny.py."""


def tiny_openvino() -> dict[str, bytes]:
    """Return the tiny model as OpenVINO's IR, by name of file; the test is skipped where OpenVINO is not installed."""
    import pytest

    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from export.to_openvino import to_openvino

    return to_openvino(tiny("onnx"))


def tiny(name: str) -> bytes:
    """Return a committed tiny model: "int8", "float32" or "onnx"."""
    return (HERE / "fixtures" / ("tiny.onnx" if name == "onnx" else f"tiny_{name}.tflite")).read_bytes()


def tiny_bundle(folder: Path, *kinds: str) -> Path:
    """Write a valid bundle around tiny models: "int8" (default), "float32" (also model.tflite) or "onnx"."""
    models = {("model.onnx" if kind == "onnx" else "model.tflite"): tiny(kind) for kind in kinds or ("int8",)}
    return make_bundle(folder, models, TINY_IO)
