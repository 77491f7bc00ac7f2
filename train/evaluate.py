"""Evaluate: what a run, or the bundle made of it, is worth - beside what one gets without looking at a cell.

What comes in are run folders and their indexes; what goes out are metrics with intervals, the temperature and the
thresholds (both chosen on validation), all written into ``run.json``, two pictures, and a table in which the network
stands beside its controls. A bundle is judged by `train.bundle_evaluation`. Nothing is chosen here by looking at the
test split.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import UsageError
from edge_runtime.files import write_text

from .controls import Features, burnt_in_control, control_features, controls
from .errors import DataError
from .index import SPLITS, Index, read_index
from .metrics import (
    evaluate_operating_point,
    evaluate_predictions,
    fit_temperature,
    operating_point,
    probabilities,
)
from .per_group import per_group
from .resampling import RESAMPLES
from .run_folder import Run, read_run, update_info
from .tables import bundle_report, run_report

if TYPE_CHECKING:
    from edge_runtime.preprocess import Pixels

    from .network import SelfExplaining

SEED = 0
"""Of the bootstrap. Fixed: an interval must not depend on who computes it."""

PROTOCOL_TEXT = {
    "stratified": "dealt out picture by picture; the same patient or slide may be on both sides",
    "grouped": "dealt out by whole groups (patient, or near-duplicate and colour cluster); no group is on two sides",
}

Logits = npt.NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; several share one table")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="where the run's index lies now, if it was moved")
    parser.add_argument("--bundle", metavar="DIR", help="judge this bundle of the run, through edge_runtime")
    parser.add_argument("--engine", help="of the bundle; default: the first that is installed")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where a bundle's result goes (default RUN/bundle-evaluation.json)"
    )
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON instead of tables")


def run(args: argparse.Namespace) -> None:
    """Evaluate runs, or one run's bundle, and print the tables."""
    if args.bundle is None and (args.out or args.engine):
        raise UsageError("--out and --engine belong to --bundle")
    if args.bundle is not None and len(args.runs) > 1:
        raise UsageError("--bundle is judged beside one run", got=f"{len(args.runs)} runs")
    runs = [read_run(folder) for folder in args.runs]
    if len({run.task.name for run in runs}) > 1:
        raise UsageError("runs of different tasks share no table", got=", ".join(run.task.name for run in runs))
    indexes = [index_of(run, args.index) for run in runs]
    if args.bundle is not None:
        from .bundle_evaluation import evaluate_bundle

        found = evaluate_bundle(runs[0], indexes[0], args.bundle, args.engine)
        out = args.out or runs[0].folder / "bundle-evaluation.json"
        write_text(out, json.dumps(found, indent=2, allow_nan=False) + "\n")
        _say(json.dumps(found, indent=2) if args.json else bundle_report(runs[0].info["metrics"], found))
        return
    features: dict[str, Features] = {}  # both protocols are judged on one index: its colours are computed once
    infos = {}
    for one, index in zip(runs, indexes, strict=True):
        if index.sha256 not in features:
            from .pixels import load_pixels

            features[index.sha256] = control_features(load_pixels(index))
        infos[str(one.folder)] = evaluate_run(one, index, features[index.sha256])
    _say(json.dumps(infos, indent=2, allow_nan=False) if args.json else run_report(infos))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def index_of(run: Run, folder: Path | None = None) -> Index:
    """Read the index a run was trained on; see `index_of_info`."""
    return index_of_info(run.folder, run.info, folder)


def index_of_info(run_folder: Path, info: dict[str, Any], folder: Path | None = None) -> Index:
    """Read the index a run was trained on.

    Args:
        run_folder: whose.
        info: its ``run.json``.
        folder: where the index lies now; None: where `fit` found it.

    Raises:
        DataError: it is not there, or it is another one: under other splits, test pictures may have been trained on.
    """
    folder = folder or Path(info["index"])
    if not (folder / "index.json").is_file():
        raise DataError(f"{run_folder}: its index is not at {folder}", todo="say where it lies with --index FOLDER")
    index = read_index(folder)
    if index.task.name != info["task"] or index.sha256 != info["data_sha256"]:
        raise DataError(
            f"{folder}: not the index that {run_folder} was trained on; its test split may hold training pictures",
            got=f"{index.task.name}, sha256 {index.sha256[:12]}",
            expected=f"{info['task']}, sha256 {info['data_sha256'][:12]}",
            todo=f"give that index with --index FOLDER, or train again: python -m train fit {folder} --out RUN",
        )
    return index


def require_evaluated(run: Run) -> None:
    """Raise `DataError` unless the run has metrics, a temperature and thresholds."""
    if "metrics" not in run.info:
        raise DataError(f"{run.folder}: not evaluated", todo=f"run: python -m train evaluate {run.folder}")


def best_device() -> str:
    """Return "cuda" where there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def network_outputs(
    network: SelfExplaining, pixels: Pixels, numbers: Sequence[int], batch: int = 32, progress: str | None = "evaluate"
) -> tuple[Logits, npt.NDArray[np.float32]]:
    """Run a network over pictures, in eval mode, on the device its weights are on.

    Args:
        network: put into eval mode.
        pixels: (all, H, W, 3) uint8.
        numbers: N rows of `pixels`, in the order of the result.
        batch: pictures at a time.
        progress: title of the progress bar; None: no bar.

    Returns:
        Logits (N, K) and class map (N, h, w, K), float32.
    """
    import torch
    from tqdm import tqdm

    network.eval()
    device = next(network.parameters()).device
    logits, maps = [], []
    with (
        torch.inference_mode(),
        tqdm(
            total=len(numbers), desc=progress, unit="picture", leave=False, disable=True if progress is None else None
        ) as bar,
    ):
        for start in range(0, len(numbers), batch):
            chosen = np.ascontiguousarray(pixels[list(numbers[start : start + batch])])
            out, class_map = network(torch.from_numpy(chosen).to(device))
            logits.append(out.float().cpu().numpy())
            maps.append(class_map.float().cpu().numpy())
            bar.update(len(chosen))
    return np.concatenate(logits), np.concatenate(maps)


def evaluate_run(
    run: Run, index: Index, features: Features | None = None, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Measure a run and write the result into its folder.

    Args:
        run: to be judged.
        index: the one it was trained on, see `index_of`.
        features: of the controls, where they have been computed; else they are computed here.
        resamples: of every interval.

    Returns:
        The new ``run.json``: with ``temperature`` and ``operating_points`` as the bundle wants them, ``metrics``, and
        ``per_group`` of the test split, see `train.per_group`.
    """
    from .pixels import load_pixels
    from .plots import confusion_picture, reliability_picture, write_png

    pixels, protocol, labels = load_pixels(index, run.preprocess), run.protocol, run.task.labels
    network = run.network.to(best_device())
    val, test = index.select(protocol, "val"), index.select(protocol, "test")
    val_logits, _ = network_outputs(network, pixels, val, progress="validation")
    test_logits, _ = network_outputs(network, pixels, test, progress="test")
    val_targets = index.targets(val)
    temperature = fit_temperature(val_logits, val_targets)
    val_p = probabilities(val_logits, temperature)
    points = [
        {"name": point.name, "positive": list(point.positive)}
        | operating_point(val_p, val_targets, [labels.index(k) for k in point.positive], point.min_sensitivity)
        for point in run.task.operating_points
    ]
    groups = [index.rows[i].group for i in val]
    metrics: dict[str, Any] = {"protocol": describe_protocol(index, protocol)}
    metrics["validation"] = evaluate_predictions(val_logits, val_targets, labels, temperature, groups, SEED, resamples)
    metrics |= measure(test_logits, index, test, temperature, points, resamples)
    metrics["controls"] = controls(index, features or control_features(load_pixels(index)), protocol, SEED, resamples)
    covered = burnt_in_control(
        lambda x: network_outputs(network, x, range(len(x)), progress="blanked")[0],
        test_logits,
        index,
        pixels,
        test,
        SEED,
        resamples,
    )
    metrics["controls"] += [covered] if covered else []
    found = {
        "temperature": temperature,
        "operating_points": points,
        "metrics": metrics,
        "per_group": per_group(
            test_logits.argmax(1), index.targets(test), [index.rows[i].group for i in test], labels, SEED, resamples
        ),
    }
    test_metrics = metrics["test"]
    write_png(confusion_picture(test_metrics["confusion"], labels), run.folder / "confusion.png")
    write_png(
        reliability_picture(test_metrics["reliability"], test_metrics["ece"]["value"]), run.folder / "reliability.png"
    )
    return update_info(run.folder, found)


def describe_protocol(index: Index, protocol: str) -> dict[str, Any]:
    """Say how the splits were made and what they hold: ``name``, ``text``, ``split_seed``, ``pictures``, ``groups``."""
    numbers = {split: index.select(protocol, split) for split in SPLITS}
    return {
        "name": protocol,
        "text": PROTOCOL_TEXT[protocol],
        "split_seed": index.info.get("split_seed"),
        "pictures": {split: len(rows) for split, rows in numbers.items()},
        "groups": {split: len({index.rows[i].group for i in rows}) for split, rows in numbers.items()},
    }


def measure(
    logits: Logits,
    index: Index,
    numbers: Sequence[int],
    temperature: float,
    points: Sequence[dict[str, Any]],
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Measure predictions on a split, over all sources and within each.

    Args:
        logits: (N, K).
        index: whose pictures.
        numbers: N rows of it.
        temperature: of the probabilities.
        points: ``name``, ``positive`` labels and ``threshold`` of each operating point.
        resamples: of every interval.

    Returns:
        ``test`` and ``per_source`` (empty where there is one source) as `evaluate_predictions` gives them;
        ``operating_points``: ``name``, ``positive``, ``threshold``, and ``test`` and ``per_source`` as
        `evaluate_operating_point` gives them.
    """
    labels, targets = index.task.labels, index.targets(numbers)
    groups = np.array([index.rows[i].group for i in numbers])

    def predictions(rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return evaluate_predictions(logits[rows], targets[rows], labels, temperature, groups[rows], SEED, resamples)

    return {
        "test": predictions(np.ones(len(targets), dtype=bool)),
        "per_source": {name: predictions(rows) for name, rows in _by_source(index, numbers).items()},
        "operating_points": measure_points(logits, index, numbers, temperature, points, resamples),
    }


def measure_points(
    logits: Logits,
    index: Index,
    numbers: Sequence[int],
    temperature: float,
    points: Sequence[dict[str, Any]],
    resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
    """Measure operating points on a split, over all sources and within each; see `measure`."""
    labels, targets = index.task.labels, index.targets(numbers)
    groups = np.array([index.rows[i].group for i in numbers])
    p = probabilities(logits, temperature)

    def answers(point: dict[str, Any], rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        positive = [labels.index(k) for k in point["positive"]]
        return evaluate_operating_point(
            p[rows], targets[rows], positive, point["threshold"], groups[rows], SEED, resamples
        )

    return [
        {key: point[key] for key in ("name", "positive", "threshold")}
        | {"test": answers(point, np.ones(len(targets), dtype=bool))}
        | {"per_source": {name: answers(point, rows) for name, rows in _by_source(index, numbers).items()}}
        for point in points
    ]


def _by_source(index: Index, numbers: Sequence[int]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which of the pictures are each source's; empty where there is one source."""
    source = np.array([index.rows[i].source for i in numbers])
    names = sorted(set(source.tolist()))
    return {name: source == name for name in names} if len(names) > 1 else {}
