"""Cost: what one answer takes - the class map, the whole picture, and a command from process start to printed JSON.

What comes in are the shipped bundles; what goes out are plain dictionaries for ``results/cost.json``.
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
from edge_runtime.errors import LeukoscopeError, UsageError
from edge_runtime.files import write_text
from edge_runtime.machine import cpu_name, usable_cpus
from edge_runtime.preprocess import decode, prepare
from export.interleave import interleave, latency, ratio

from .lineup import BARE, EAGER, FILES
from .lineup import FILE as WAYS
from .peer_models import BUNDLE, MODELS, PICTURE, QUIET, make_models

if TYPE_CHECKING:
    from edge_runtime.commands.opening import Commands

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "cost.json"
LIGHT_STARTS = (BARE, "tflite-runtime", "ONNX Runtime INT8", "OpenVINO INT8")
HEAVY_STARTS = ("TensorFlow's interpreter", EAGER, "Ultralytics, PyTorch", "Ultralytics, ncnn")
"""Ways from a file whose start is timed, too; those that take seconds are started a sixth as often."""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    cost = add_command(commands, "cost", "time the shipped bundles and the whole command")
    cost.add_argument("--rounds", type=int, default=500, help="timed runs of each way; default: %(default)s")
    cost.add_argument("--processes", type=int, default=30, help="fresh processes; default: %(default)s")
    cost.set_defaults(run=_measure)


def _measure(args: argparse.Namespace) -> None:
    from .tables import write_pages

    for name in ("rounds", "processes"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name}", got=getattr(args, name), expected="at least 1")
    found: dict[str, object] = {"machine": machine(), "load_before": os.getloadavg()[0]}
    make_models()
    names = list(default_bundles())
    sys.stderr.write("graphs with and without class map ...\n")
    found["class_map"] = {name: [class_map_cost(name, args.rounds, threads) for threads in (1, 2)] for name in names}
    sys.stderr.write("the parts of an answer ...\n")
    pictures = [(name, sample(name).read_bytes(), sample(name).name) for name in names]
    pictures.append((BUNDLE, (MODELS / PICTURE).read_bytes(), PICTURE))
    found["answer"] = [
        {"bundle": name, **answer_cost(name, encoded, title, args.rounds)} for name, encoded, title in pictures
    ]
    sys.stderr.write("fresh processes ...\n")
    found["start"] = start_cost(args.processes, max(args.processes // 6, 1))
    sys.stderr.write("energy ...\n")
    found["energy"] = energy_cost()
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    write_pages()
    sys.stderr.write(f"{RESULTS} and the pages' tables are written\n")


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


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


def answer_cost(name: str, encoded: bytes, title: str, rounds: int) -> dict[str, Any]:
    """Time the parts of one answer in a warm process, and the whole.

    Args:
        name: of a shipped bundle.
        encoded: a picture.
        title: of the picture.
        rounds: timed runs of each part.
    """
    from edge_runtime.heatmap import heatmap
    from edge_runtime.report import prediction_json

    classifier = Classifier.open(name, threads=1)
    wanted = classifier.classify(encoded)
    preprocess, best = classifier.preprocess, int(np.argmax(wanted.logits))
    upright = decode(encoded)
    pixels = prepare(upright, preprocess)
    logits, class_map = classifier.engine.run(pixels)
    if not np.array_equal(logits, wanted.logits):
        raise ValueError("the parts are not those of the whole")

    def whole() -> None:
        found = classifier.classify(encoded)
        prediction_json(title, found)
        if found.label != wanted.label:
            raise ValueError("the answer changed")

    ways: dict[str, Callable[[], object]] = {
        "decode": lambda: decode(encoded),
        "resize": lambda: prepare(upright, preprocess),
        "infer": lambda: classifier.engine.run(pixels),
        "explain": lambda: heatmap(class_map, best),
        "judge": lambda: classifier.judge(pixels, pixels, logits, class_map),
        "output": lambda: prediction_json(title, wanted),
        "all": whole,
    }
    times = interleave(ways, rounds)
    parts = {way: dataclasses.asdict(latency(found)) for way, found in times.items()}
    return {"picture": f"{title}, {upright.width} x {upright.height}", "threads": 1, "parts": parts}


def start_cost(runs: int, heavy_runs: int) -> dict[str, Any]:
    """Time fresh processes from start to printed answer, and their peak resident memory: this runtime's and peers'."""
    picture = MODELS / PICTURE
    ours = [sys.executable, "-m", "edge_runtime", "classify", "--json"]
    commands = {
        f"`classify --json {sample(name).name}`": [*ours, "--model", name, str(sample(name))]
        for name in default_bundles()
    }
    commands["`classify --json`, 1024 x 768"] = [*ours, "--model", BUNDLE, str(picture)]
    rows = [row for row in FILES if row.name in (*LIGHT_STARTS, *HEAVY_STARTS) and not row.missing()]
    peers = {row.name: [row.way(1).python, str(WAYS), row.function, json.dumps(row.way(1).arguments)] for row in rows}
    light = {name: command for name, command in peers.items() if name in LIGHT_STARTS}
    heavy = {name: command for name, command in peers.items() if name in HEAVY_STARTS}
    first = _starts({**commands, **light}, runs)
    second = _starts(heavy, heavy_runs)
    missing = {**first["missing"], **second["missing"]}
    for name in commands:
        if name in missing:
            raise LeukoscopeError(f"{name} failed", got=missing[name])
    return {
        "floor_rss_mb": first["floor_rss_mb"],
        "found": {**first["found"], **second["found"]},
        "missing": {f"{name} (start)": why for name, why in missing.items()},
    }


def _starts(commands: dict[str, list[str]], runs: int) -> dict[str, Any]:
    """Return {"floor_rss_mb": ..., "found": {name: figures}, "missing": {name: why it failed}}."""
    warmup = 1  # fills the file cache and writes byte-compiled files
    launcher = [sys.executable, str(Path(__file__).with_name("cold_start.py")), str(runs + warmup)]
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launcher, json.dumps(commands)], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    found, missing = {}, {}
    for name, one in told["found"].items():
        last = "".join(one["printed"].splitlines()[-1:])  # engines print, too
        if one["failed"] or not ('"label"' in last or '"answer"' in last):
            missing[name] = one["failed"] or f"no answer: {last[:200]}"
            continue
        found[name] = {
            "runs": runs,
            "seconds": {f"p{q}": float(np.percentile(one["seconds"][warmup:], q)) for q in (50, 90, 99)},
            "peak_rss_mb": float(max(one["rss_mb"][warmup:])),
        }
    return {"floor_rss_mb": told["floor_rss_mb"], "found": found, "missing": missing}


def energy_cost() -> dict[str, Any] | None:
    """Say what an answer takes, from a JPEG to a JSON line; None where this machine does not tell."""
    from edge_runtime.report import prediction_json

    from .energy import find_source, measure

    classifier, encoded = Classifier.open(BUNDLE, threads=1), (MODELS / PICTURE).read_bytes()
    found = measure(lambda: prediction_json(PICTURE, classifier.classify(encoded)), find_source())
    return None if found is None else dataclasses.asdict(found)


def sample(name: str) -> Path:
    """Return the first sample of a bundle's task."""
    return sorted((ROOT / "samples" / name).iterdir())[0]


def _sample_pixels(name: str) -> Any:
    return prepare(decode(sample(name)), Classifier.open(name).preprocess)
