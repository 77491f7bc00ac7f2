"""Cost: what one answer takes - the class map, the whole picture, and a command from process start to printed JSON.

What comes in are the shipped bundles and references; what goes out are plain dictionaries for ``results/cost.json``.
Every way that is timed is first checked to give the right answer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.bundle import default_bundles, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.commands.opening import add_command
from edge_runtime.engines import open_engine
from edge_runtime.files import write_text
from edge_runtime.preprocess import decode, prepare
from export.interleave import interleave, latency, ratio

if TYPE_CHECKING:
    from edge_runtime.commands.opening import Commands

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "cost.json"


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    cost = add_command(commands, "cost", "time the shipped bundles and the whole command")
    cost.add_argument("--rounds", type=int, default=500, help="timed runs of each way; default: %(default)s")
    cost.add_argument("--processes", type=int, default=30, help="fresh processes; default: %(default)s")
    cost.set_defaults(run=_measure)


def _measure(args: argparse.Namespace) -> None:
    from .tables import write_pages

    found: dict[str, object] = {"machine": machine()}
    names = list(default_bundles())
    for title, measure in (
        ("class_map", lambda name: [class_map_cost(name, args.rounds, threads) for threads in (1, 2)]),
        ("inference", lambda name: [inference_cost(name, max(args.rounds // 5, 20), threads) for threads in (1, 2)]),
        ("answer", lambda name: answer_cost(name, sample(name), args.rounds)),
        ("command", lambda name: command_cost(name, sample(name), args.processes)),
    ):
        sys.stderr.write(f"{title} ...\n")
        found[title] = {name: measure(name) for name in names}
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    write_pages()
    sys.stderr.write(f"{RESULTS} and the pages' tables are written\n")


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "unknown")
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def without_class_map(model: bytes) -> bytes:
    """Return the same TFLite graph with `class_map` no longer an output (it is still computed: logits need it)."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    (subgraph,) = graph.subgraphs
    kept = [i for i in subgraph.outputs if b"class_map" not in bytes(subgraph.tensors[i].name)]
    if len(kept) != 1:
        raise ValueError(f"{len(kept)} outputs left, expected 1")
    subgraph.outputs = kept
    for signature in graph.signatureDefs or []:
        signature.outputs = [entry for entry in signature.outputs if entry.name != b"class_map"]
    builder = flatbuffers.Builder(len(model))
    builder.Finish(graph.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def class_map_cost(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Time a shipped INT8 graph with and without the class map as an output, interleaved."""
    from ai_edge_litert.interpreter import Interpreter

    model = open_bundle(name).read("model.tflite")
    pixels = _sample_pixels(name)[None]

    def runner(content: bytes) -> Callable[[], dict[str, Any]]:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        (given,) = interpreter.get_input_details()
        outputs = interpreter.get_output_details()

        def run() -> dict[str, Any]:
            interpreter.set_tensor(given["index"], pixels)
            interpreter.invoke()
            return {out["name"]: interpreter.get_tensor(out["index"]) for out in outputs}

        return run

    ways = {"with": runner(model), "without": runner(without_class_map(model))}
    answers = {way: run() for way, run in ways.items()}
    if not np.array_equal(answers["with"]["logits"], answers["without"]["logits"]):
        raise ValueError("the two graphs disagree")
    times = interleave(ways, rounds)
    value, low, high = ratio(times["with"], times["without"])
    return {
        "bundle": name,
        "threads": threads,
        "ratio": {"value": value, "low": low, "high": high},
        **{way: dataclasses.asdict(latency(found)) for way, found in times.items()},
    }


def inference_cost(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Time the INT8 bundle against its fp32 reference in PyTorch, classification and Grad-CAM, interleaved."""
    import torch

    from train.network import autograd_gradcam
    from train.run_folder import read_run

    torch.set_num_threads(threads)
    run = read_run(ROOT / "references" / name)
    bundle = open_bundle(name)
    engine = open_engine("litert", bundle, threads=threads)
    pixels = _sample_pixels(name)
    tensor = torch.from_numpy(pixels[None])

    def eager() -> Any:
        with torch.inference_mode():
            return run.network(tensor)

    top = int(np.argmax(engine.run(pixels)[0]))
    if top != int(eager()[0].argmax()):
        raise ValueError("bundle and reference disagree on the sample")
    ways: dict[str, Callable[[], object]] = {
        "INT8 bundle, class and heatmap": lambda: engine.run(pixels),
        "PyTorch fp32, class": eager,
        "PyTorch fp32, class and autograd Grad-CAM": lambda: (eager(), autograd_gradcam(run.network, tensor, top)),
    }
    times = interleave(ways, rounds)
    base = times["INT8 bundle, class and heatmap"]
    return {
        "bundle": name,
        "threads": threads,
        "ways": {
            way: dataclasses.asdict(latency(found))
            | {"ratio": dict(zip(("value", "low", "high"), ratio(found, base), strict=True))}
            for way, found in times.items()
        },
    }


def answer_cost(name: str, picture: Path, rounds: int) -> dict[str, Any]:
    """Time the parts of one answer in a warm process: decode, prepare, infer, judge, all."""
    classifier = Classifier.open(name, threads=1)
    encoded = picture.read_bytes()
    wanted = classifier.classify(encoded).label
    preprocess = classifier.preprocess
    upright = decode(encoded)
    pixels = prepare(upright, preprocess)
    logits, class_map = classifier.engine.run(pixels)

    def whole() -> None:
        if classifier.classify(encoded).label != wanted:
            raise ValueError("the answer changed")

    ways: dict[str, Callable[[], object]] = {
        "decode": lambda: decode(encoded),
        "prepare": lambda: prepare(upright, preprocess),
        "infer": lambda: classifier.engine.run(pixels),
        "judge": lambda: classifier.judge(pixels, pixels, logits, class_map),
        "all": whole,
    }
    times = interleave(ways, rounds)
    size = f"{upright.width} x {upright.height}"
    parts = {way: dataclasses.asdict(latency(found)) for way, found in times.items()}
    return {"bundle": name, "picture": f"{picture.name}, {size} px", "threads": 1, "parts": parts}


def command_cost(name: str, picture: Path, runs: int) -> dict[str, Any]:
    """Time fresh processes from start to printed JSON; peak resident memory from the kernel's own account."""
    command = [sys.executable, "-m", "edge_runtime", "classify", "--json", "--model", name, str(picture)]
    warmup = 2  # fills the file cache and writes byte-compiled files
    launcher = [sys.executable, str(Path(__file__).with_name("cold_start.py")), str(runs + warmup)]
    done = subprocess.run([*launcher, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if "label" not in json.loads(found["printed"]):
        raise ValueError(f"the command gave no label: {found['printed']}")
    times, rss = np.array(found["seconds"][warmup:]), found["rss_mb"][warmup:]
    return {
        "bundle": name,
        "picture": picture.name,
        "runs": runs,
        "seconds": {f"p{q}": float(np.percentile(times, q)) for q in (50, 90, 99)},
        "peak_rss_mb": float(max(rss)),
    }


def sample(name: str) -> Path:
    """Return the first sample of a bundle's task."""
    return sorted((ROOT / "samples" / name).iterdir())[0]


def _sample_pixels(name: str) -> Any:
    return prepare(decode(sample(name)), Classifier.open(name).preprocess)
