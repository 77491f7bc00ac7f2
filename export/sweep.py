"""Sweep: every target of a run, each as a bundle, side by side - accuracy, explanation, size, latency.

What comes in is an evaluated run; what goes out is a folder with one bundle per target (a failed gate is marked in it,
not hidden), ``sweep.json``, and the same as a table and a picture (see ``sweep_table``). Everything but latency is in
the bundles, measured through the engine that will run them on the whole test split; latency is measured at the end, for
all of them and the network in PyTorch by turns in one process. A sweep that was stopped goes on: a bundle is there
whole or not at all, and one that was made of the same weights, pictures, recipe, tools and evaluation is not made
again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime import __version__
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import BundleError, LeukoscopeError, OutputError, UsageError
from edge_runtime.files import write_text
from train.evaluate import index_of

from .calibration import choose_calibration
from .interleave import interleave, latency, ratio
from .pack import check_out, tool_versions, write_bundle
from .pipeline import Source, check_layers, export_recipe, open_source
from .recipes import Recipe
from .sweep_table import JSON, PICTURE, TABLE, pareto_picture, sweep_report

if TYPE_CHECKING:
    from train.run_folder import Run

PASSED, DEGRADED, NOT_MADE = "passed", "degraded", "not made"
TORCH = "PyTorch fp32"
WARM_UP = 10


@dataclass(frozen=True)
class Settings:
    """How a sweep is done.

    Attributes:
        index_folder: where the run's index lies now; None: where `fit` found it.
        images: size of the calibration set.
        seed: of the calibration set.
        threads: of every engine and of PyTorch, while latency is measured.
        rounds: timed runs of each.
        force: make bundles again that are there.
    """

    index_folder: Path | None
    images: int
    seed: int
    threads: int
    rounds: int
    force: bool


def sweep(
    run: Run, recipes: Sequence[Recipe], out: Path, settings: Settings, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Make every recipe's bundle that is not there yet, and measure all of them.

    Args:
        run: evaluated.
        recipes: what to make.
        out: folder of the bundles and of the results.
        settings: how.
        say: is told a line when a recipe is done.

    Returns:
        What ``sweep.json`` holds.

    Raises:
        UsageError: `out` is a bundle or a run, not a folder for a sweep; or a recipe keeps a layer that is not there.
        OutputError: nothing can be written there, or not any more.
        ExportError: what is in the way of a bundle is none, or the run cannot be exported at all.
    """
    if (out / "manifest.json").exists() or (out / "run.json").exists():
        raise UsageError(f"{out}: is a bundle or a run", expected="a folder for a sweep", todo="give another --out")
    check_layers(run, recipes)
    for recipe in recipes:
        check_out(out / recipe.slug, force=True)
    drawn = cache(lambda: _drawn(run, settings))
    source: Source | None = None
    checkpoints = out / ".qat"
    entries: list[dict[str, Any]] = []
    bundles: dict[str, Bundle] = {}
    for recipe in recipes:
        folder = out / recipe.slug
        bundle = None if settings.force else _kept(folder, run, recipe, drawn)
        how = "there already" if bundle else "made"
        error = ""
        if bundle is None:
            source = source or open_source(run, settings.index_folder, settings.images, settings.seed)
            for leftover in out.glob(f".{recipe.slug}.*"):  # of a sweep that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            try:
                bundle = write_bundle(
                    export_recipe(source, recipe, go_on=True, checkpoint=checkpoints / recipe.slug),
                    folder,
                    allow_degraded=True,
                    force=True,
                )
            except OutputError:  # so would all others be
                raise
            except LeukoscopeError as refused:
                error = str(refused)
        if bundle is None:
            entries.append({"recipe": recipe.name, "state": NOT_MADE, "reason": error})
            say(f"{recipe.name}: {NOT_MADE}: {error}")
            continue
        bundles[recipe.name] = bundle
        entries.append(describe(recipe, bundle, run))
        say(f"{recipe.name}: {how}, {entries[-1]['state']}")
    with contextlib.suppress(OSError):
        checkpoints.rmdir()
    times = measure_latency(run, bundles, recipes, settings.threads, settings.rounds)
    found = {
        "run": run.folder.resolve().name,
        "task": run.task.name,
        "backbone": run.backbone,
        "input_px": run.input_px,
        "protocol": run.protocol,
        "weights_sha256": run.info["weights_sha256"],
        "weights_bytes": _weights_bytes(run),
        "test_pictures": run.info["metrics"]["protocol"]["pictures"]["test"],
        "macro_f1": _interval(run.info["metrics"]["test"]["macro_f1"]),
        "latency": {"threads": settings.threads, "warm_up": WARM_UP} | times.pop(TORCH),
        "targets": [entry | times.get(entry["recipe"], {}) for entry in entries],
    }
    write_text(out / JSON, json.dumps(found, indent=1) + "\n")
    write_text(out / TABLE, sweep_report(found) + "\n")
    from train.plots import write_png

    write_png(pareto_picture(found), out / PICTURE)
    return found


def _drawn(run: Run, settings: Settings) -> str:
    """Return the hash of the calibration set that the settings ask for."""
    return choose_calibration(index_of(run, settings.index_folder), run.protocol, settings.images, settings.seed).sha256


def _kept(folder: Path, run: Run, recipe: Recipe, drawn: Callable[[], str]) -> Bundle | None:
    """Return the bundle in a folder if it is whole and making it again would give the same one.

    Args:
        folder: where it would be.
        run: of the sweep.
        recipe: of the bundle.
        drawn: gives the hash of the calibration set; asked only where there is a bundle that has one.
    """
    try:
        bundle = open_bundle(folder.resolve())
        for name in bundle.manifest.files:
            bundle.read(name)
    except BundleError:
        return None
    stated = bundle.manifest.raw
    quantization, training, info = stated["quantization"], stated["training"], run.info
    found = (
        *(quantization.get(key) for key in ("target", "options", "tools")),
        *(training.get(key) for key in ("weights_sha256", "data_sha256", "code")),
        *(stated.get(key) for key in ("temperature", "operating_points")),
        (quantization["calibration"] or {}).get("sha256"),
    )
    wanted: tuple[object, ...] = (
        *(recipe.target.name, dict(recipe.options), tool_versions(recipe)),
        *(info["weights_sha256"], info["data_sha256"], __version__),
        *(info.get("temperature"), info.get("operating_points")),
        None,
    )
    if recipe.target.calibrated and found[:-1] == wanted[:-1]:
        wanted = (*wanted[:-1], drawn())
    return bundle if found == wanted else None


def describe(recipe: Recipe, bundle: Bundle, run: Run) -> dict[str, Any]:
    """Return what a sweep says of a bundle, all but latency."""
    metrics = bundle.manifest.raw["metrics"]
    failed = [row for row in metrics["parity"]["rows"] if not row["passed"]]
    model_bytes = sum(bundle.manifest.files[name].size_bytes for name in recipe.target.models)
    return {
        "recipe": recipe.name,
        "state": DEGRADED if failed else PASSED,
        "reason": "; ".join(f"{row['measure']} {row['value']:g} ({row['limit']})" for row in failed),
        "bundle": bundle.id,
        "model_bytes": model_bytes,
        "size_ratio": model_bytes / _weights_bytes(run),
        "macro_f1": _interval(metrics["this"]["macro_f1"]),
        **metrics["parity"]["paired"],
    }


def measure_latency(
    run: Run, bundles: dict[str, Bundle], recipes: Sequence[Recipe], threads: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Time one picture through every bundle's engine and through the network in PyTorch, by turns.

    Args:
        run: whose network, eager, float32.
        bundles: name of a recipe -> its bundle.
        recipes: all of them.
        threads: of every engine.
        rounds: timed runs of each.

    Returns:
        Name of a recipe, or `TORCH` -> ``latency_ms``: ``p50``, ``p90``, ``p99``, ``samples``; for recipes ``speedup``:
        median of PyTorch / median of this, with its 95 % interval.
    """
    import torch

    from edge_runtime.engines import open_engine

    side = run.input_px
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    picture = torch.from_numpy(pixels[None])
    engines = {
        recipe.name: open_engine(recipe.target.engine, bundles[recipe.name], threads=threads)
        for recipe in recipes
        if recipe.name in bundles
    }
    ways: dict[str, Callable[[], object]] = {TORCH: lambda: run.network(picture)}
    ways |= {name: lambda engine=engine: engine.run(pixels) for name, engine in engines.items()}  # type: ignore[misc]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            times = interleave(ways, rounds, WARM_UP)
    finally:
        torch.set_num_threads(before)
    found: dict[str, dict[str, Any]] = {}
    for name, taken in times.items():
        stated = latency(taken)
        found[name] = {
            "latency_ms": {
                "p50": round(stated.p50_ms, 4),
                "p90": round(stated.p90_ms, 4),
                "p99": round(stated.p99_ms, 4),
                "samples": stated.samples,
            }
        }
        if name != TORCH:
            value, low, high = ratio(times[TORCH], taken)
            found[name]["speedup"] = {"value": round(value, 3), "low": round(low, 3), "high": round(high, 3)}
    return found


def _weights_bytes(run: Run) -> int:
    """Return the size of the network's weights in float32, bytes."""
    return sum(4 * parameter.numel() for parameter in run.network.parameters())


def _interval(stated: dict[str, Any]) -> dict[str, float]:
    return {key: float(stated[key]) for key in ("value", "low", "high")}
