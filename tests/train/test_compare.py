"""Compare: who shares a line, what stands in the files, and whose cost is counted."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from edge_runtime.errors import UsageError
from train import compare
from train.augment import AUGMENTATIONS
from train.compare import pair_runs, picture, to_csv, to_markdown
from train.cost import measure_costs
from train.errors import DataError
from train.schedule import FitConfig

LABELS = ["Benign", "Early", "Pre", "Pro"]


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.01}


def run_info(protocol: str = "grouped", f1: float = 0.9, epochs: int = 12, **other: Any) -> dict[str, Any]:
    controls = [
        {"name": "majority", "asks": "class", "macro_f1": interval(0.1)},
        {"name": "colour, LDA", "asks": "class", "macro_f1": interval(0.7)},
        {"name": "source from ring, LDA", "asks": "source", "macro_f1": interval(0.99)},
        {
            "name": "network, burnt-in mark blanked",
            "asks": "class",
            "macro_f1": interval(0.89),
            "macro_f1_difference_pp": interval(-1),
        },
    ]
    config = dataclasses.asdict(FitConfig(epochs=epochs)) | {"augmentation": dataclasses.asdict(AUGMENTATIONS["full"])}
    return {
        "format": "leukoscope-run",
        "version": 1,
        "task": "all-subtypes",
        "labels": LABELS,
        "backbone": "custom",
        "input_px": 64,
        "pretrained": "none",
        "teacher": None,
        "protocol": protocol,
        "index": "work/index",
        "data_sha256": "0" * 64,
        "config": config,
        "metrics": {"test": {"n": 40, "interval": {"units": 8}, "macro_f1": interval(f1)}, "controls": controls},
    } | other


def test_runs_that_differ_in_their_protocol_share_a_line() -> None:
    infos = {
        "g": run_info("grouped", 0.8, cost={"seconds_per_epoch": 12.5, "parameters": 1, "macs": 1}),
        "s": run_info("stratified", 0.9),
        "long": run_info("grouped", 0.85, epochs=24),
        "again": run_info("grouped", 0.81),
        "taught": run_info("grouped", 0.86, teacher="0123"),
    }
    lines = pair_runs(infos)
    assert [{p: one["run"] for p, one in line["protocols"].items()} for line in lines] == [
        {"grouped": "g", "stratified": "s"},
        {"grouped": "long"},
        {"grouped": "again"},
        {"grouped": "taught"},
    ]
    assert lines[0]["cost"]["seconds_per_epoch"] == 12.5 and lines[1]["cost"] == {}
    assert lines[0]["protocols"]["grouped"]["control"] == "colour, LDA"  # neither the network's own nor the source's
    assert lines[3]["taught"] and not lines[0]["taught"]


def test_files_say_the_same(tmp_path: Path, capsys) -> None:
    infos = {
        "g": run_info("grouped", 0.8, cost={"seconds_per_epoch": 12.5, "parameters": 1, "macs": 1}),
        "s": run_info("stratified", 0.9),
        "wide": run_info("grouped", 0.7, input_px=96, precision="bf16-mixed", preprocess={"stain": "reinhard"}),
    }
    for name, info in infos.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(info))
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    compare.run(parser.parse_args([*(str(tmp_path / name) for name in infos), "--out", str(tmp_path / "out")]))
    markdown = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == markdown
    head, _, first, second, *notes = markdown.splitlines()
    assert head.count("|") == first.count("|") == second.count("|")
    assert "0.800 [0.780, 0.810], n = 40 in 8 groups" in first and "0.900 [0.880, 0.910]" in first
    assert first.count("colour, LDA: 0.700") == 2 and "scratch" in first and "12 epochs, 64 px" in first
    assert "| - | - |" in second and "| - |" in second.split("GMAC")[0]  # no stratified run, no seconds
    assert "1 thread(s)" in head and "relative to custom" in " ".join(notes)
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    costs = [line["cost"] for line in found["lines"]]
    assert costs[0]["latency_relative"] == 1 and costs[1]["macs"] > 2 * costs[0]["macs"]
    assert costs[0]["parameters"] == costs[1]["parameters"] > 1_000_000  # counted, not what the run says
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "compare.csv").read_text())))
    assert [row["grouped_macro_f1_value"] for row in rows] == ["0.8", "0.7"]
    assert (rows[1]["precision"], rows[1]["standardised"]) == ("bf16-mixed", "stain reinhard")
    assert "96 px, bf16-mixed, stain reinhard" in second and rows[0]["precision"] == "32-true"
    assert rows[1]["stratified_macro_f1_low"] == "" and rows[0]["seconds_per_epoch"] == "12.5"
    with Image.open(tmp_path / "out" / "compare.png") as drawn:
        assert drawn.width > 400


def test_table_and_picture_of_one_line() -> None:
    lines = pair_runs({"g": run_info()})
    lines[0]["cost"] = {"parameters": 2_229_000, "macs": 300_000_000, "latency_p50_ms": 14.2, "latency_relative": 1.0}
    how = {"engine": "PyTorch", "batch": 1, "threads": 1, "rounds": 3, "relative_to": "custom"}
    assert "| 2.23 | 0.30 | - | 14.2 | 1.00 |" in to_markdown(lines, how)
    assert len(list(csv.DictReader(io.StringIO(to_csv(lines))))) == 1
    figure = picture(lines)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["all-subtypes, Custom CNN, 12 epochs, 64 px"]
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"grouped: network", "grouped: best control"} <= legend


def test_equal_shapes_are_measured_once_and_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    found = measure_costs([("custom", 4, 64), ("custom", 4, 64), ("custom", 10, 64)], threads=1, rounds=2)
    assert set(found) == {("custom", 4, 64), ("custom", 10, 64)} and torch.get_num_threads() == before
    four, ten = found["custom", 4, 64], found["custom", 10, 64]
    assert ten["parameters"] - four["parameters"] == 6 * 256 + 6
    assert four["latency_p50_ms"] > 0 and four["latency_threads"] == 1


def test_what_is_refused(tmp_path: Path) -> None:
    info = run_info()
    del info["metrics"]
    with pytest.raises(DataError, match=r"not evaluated.*python -m train evaluate r"):
        pair_runs({"r": info})
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    with pytest.raises(UsageError, match="--threads"):
        compare.run(parser.parse_args(["r", "--out", str(tmp_path), "--threads", "0"]))
