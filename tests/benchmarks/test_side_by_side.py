"""The comparison: ways answer as they say, what is wrong or absent is named, tables and aims follow from results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cost_tables, lineup, side_by_side, ways
from benchmarks.aims import aims, fastest_floor, nearest_peer
from benchmarks.contest import Outcome
from benchmarks.lineup import (
    BARE,
    FILES,
    FLOOR,
    GRADCAM,
    LEAN_GRADCAM,
    ONE_CPU,
    PIXELS,
    RUNTIME,
    SERIES,
    THROUGHPUT,
    UNJUDGED,
    Row,
)
from benchmarks.peer_models import PICTURE, PICTURE_SIZE, REFERENCE, render_picture
from benchmarks.peer_models import PIXELS as PIXELS_FILE
from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.preprocess import decode, prepare
from train.network import autograd_gradcam
from train.run_folder import read_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of models with what needs no converter: pictures, the shipped graph, what the runtime says of them."""
    folder = tmp_path_factory.mktemp("models")
    bundle, encoded = open_bundle("blood-cells"), render_picture()
    pixels = prepare(decode(encoded), bundle.manifest.preprocess)
    (folder / PICTURE).write_bytes(encoded)
    np.save(folder / PIXELS_FILE, pixels)
    (folder / "int8.tflite").write_bytes(bundle.read("model.tflite"))
    best = int(Classifier.open(bundle).classify_pixels(pixels).logits.argmax())
    (folder / REFERENCE).write_text(json.dumps({"labels": bundle.manifest.task.labels, "class": best}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineup, "MODELS", folder)
        patch.setattr(side_by_side, "MODELS", folder)
        yield folder


def _row(series: tuple[Row, ...], name: str) -> Row:
    return next(row for row in series if row.name == name)


def _reference(models: Path) -> tuple[int, str]:
    told = json.loads((models / REFERENCE).read_text(encoding="utf-8"))
    return told["class"], told["labels"][told["class"]]


@pytest.mark.parametrize("name", [RUNTIME, UNJUDGED, BARE])
def test_ways_of_this_environment_answer_from_pixels_and_files(models: Path, name: str) -> None:
    number, label = _reference(models)
    for series, expected in ((PIXELS, number), (FILES, label)):
        row = _row(series, name)
        run, tell = getattr(ways, row.function)(**row.way(1).arguments)
        assert tell(run()) == expected == tell(run())


def test_only_the_judged_way_gives_reasons(models: Path) -> None:
    for name, judged in ((RUNTIME, True), (UNJUDGED, False)):
        run, _ = ways.runtime_pixels(**_row(PIXELS, name).way(1).arguments)
        # the number of the class aside, a bundle without limits can exclude nothing
        assert (len(run().plausible) < 10) == judged


def test_floors_say_how_far_their_pixels_are_off(models: Path) -> None:
    for name, most in ((f"{FLOOR}OpenCV", 0.0), (f"{FLOOR}Pillow", 0.0), (f"{FLOOR}Pillow, halved by libjpeg", 1.0)):
        run, tell = ways.floor(**_row(FILES, name).way(1).arguments)
        number, off = tell(run())
        assert number == _reference(models)[0]
        assert off <= most
    assert off > 0  # halving is not the same as decoding


def test_instances_answer_side_by_side(models: Path) -> None:
    run, tell = ways.runtime_instances(str(models), threads=1, instances=2, pictures=3)
    assert tell(run()) == [_reference(models)[0]] * 6


def test_autograd_gradcam_is_one_pass_and_gives_the_heatmap(models: Path) -> None:
    network = read_run(ROOT / "references" / "blood-cells").network
    pixels = np.load(models / PIXELS_FILE)[None]
    number, passes = _reference(models)[0], []
    network.features.register_forward_hook(lambda *_: passes.append(1))
    wanted = autograd_gradcam(network, torch.from_numpy(pixels), number).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.run_folder.read_run", lambda _: SimpleNamespace(network=network))
        threads = torch.get_num_threads()
        for name in (GRADCAM, LEAN_GRADCAM):
            answer = ways.ENGINES["torch"](models, threads, _row(PIXELS, name).arguments["form"])
            passes.clear()
            logits, heat = answer(pixels)
            assert int(logits.argmax()) == number and len(passes) == 1
            assert np.abs(heat[0] - wanted).max() < 1e-5


def test_a_program_that_answers_once(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = _row(FILES, BARE)
    ways.main(row.function, json.dumps(dict(row.way(1).arguments)))
    assert json.loads(capsys.readouterr().out) == {"answer": _reference(models)[1]}


def test_the_picture_is_always_the_same() -> None:
    assert render_picture() == render_picture()
    assert decode(render_picture()).size == PICTURE_SIZE


def test_a_short_run_measures_names_and_explains(models: Path) -> None:
    absent = replace(_row(PIXELS, BARE), name="not made", environment="no such environment")
    failing = replace(_row(PIXELS, BARE), name="failing", arguments={"engine": "litert", "model": "gone.tflite"})
    wrong = replace(_row(PIXELS, BARE), name="unmade model", needs=("gone.onnx",))
    rows = (_row(PIXELS, RUNTIME), _row(PIXELS, ONE_CPU), _row(PIXELS, BARE), absent, failing, wrong)
    found, missing = side_by_side.measure_rows(rows, 1, rounds=3)
    assert [one["name"] for one in found] == [RUNTIME, ONE_CPU, BARE]
    assert "make peers" in missing["not made"]
    assert "gone.tflite" in missing["failing"]
    assert "gone.onnx" in missing["unmade model"] and "peer-models" in missing["unmade model"]
    for one in found:
        assert one["samples"] == 3 * side_by_side.RUNS
        assert 0 < one["p50_ms"] <= one["p90_ms"] <= one["p99_ms"]
        assert one["load_ms"] > 0 and 10 < one["peak_rss_mb"] < 300
    assert found[0]["ratios"][RUNTIME] == [1.0, 1.0, 1.0]
    low, high = found[0]["ratios"][BARE][1:]
    assert low <= found[0]["ratios"][BARE][0] <= high


def test_a_wrong_answer_is_not_timed(models: Path) -> None:
    told = (models / REFERENCE).read_text(encoding="utf-8")
    number, _ = _reference(models)
    other = (number + 1) % 10
    (models / REFERENCE).write_text(json.dumps({**json.loads(told), "class": other}))
    try:
        found, missing = side_by_side.measure_rows((_row(PIXELS, BARE),), 1, rounds=2)
    finally:
        (models / REFERENCE).write_text(told)
    assert found == []
    assert f"it says {number}" in missing[BARE] and f"({other})" in missing[BARE]


def test_ratios_are_of_the_same_rounds() -> None:
    rows = (_row(PIXELS, RUNTIME), _row(PIXELS, BARE))
    drift = np.linspace(1, 3, 20)[:, None] * np.ones((1, 4))  # the machine gets three times slower
    outcomes = {
        row.name: Outcome(9, 9, factor * drift, 0 * drift, 7, 50) for row, factor in zip(rows, (1.5, 1.0), strict=True)
    }
    alone = {row.name: Outcome(5, 6, np.ones((1, 1)), np.zeros((1, 1)), 7, 40) for row in rows}
    ours, bare = side_by_side.summaries(rows, outcomes, alone)
    assert ours["ratios"][BARE] == [1.5, 1.5, 1.5]  # and the interval is none the wider for it
    assert bare["ratios"][RUNTIME][0] == pytest.approx(1 / 1.5, abs=1e-3)
    assert (ours["load_ms"], ours["first_ms"], ours["peak_rss_mb"]) == (5, 6, 50)


def test_a_way_that_sat_out_is_held_against_the_rounds_that_it_took_part_in() -> None:
    rows = (_row(PIXELS, RUNTIME), _row(PIXELS, BARE))
    drift = np.linspace(1, 3, 20)[:, None] * np.ones((1, 4))
    early = np.where(np.arange(20)[:, None] < 5, 4 * drift, np.nan)
    outcomes = {RUNTIME: Outcome(9, 9, drift, 0 * drift, 7, 50), BARE: Outcome(9, 9, early, 0 * drift, 7, 50)}
    ours, slow = side_by_side.summaries(rows, outcomes, outcomes)
    assert (ours["samples"], slow["samples"]) == (80, 20)
    assert slow["ratios"][RUNTIME] == [4.0, 4.0, 4.0] and ours["ratios"][BARE] == [0.25, 0.25, 0.25]
    assert slow["p50_ms"] == pytest.approx(np.median(early[:5])) and slow["p99_ms"] > 0


def test_every_row_can_be_told_apart_and_is_in_ways() -> None:
    for rows in SERIES.values():
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            assert hasattr(ways, row.function)
            assert row.arguments.get("engine", "litert") in ways.ENGINES
            assert row.arguments.get("decoder", "Pillow") in ways.DECODERS
    lists = Path(lineup.__file__).parent / "peers"
    environments = {row.environment for rows in SERIES.values() for row in rows} - {""}
    assert environments == {path.stem for path in lists.glob("*.txt") if not path.stem.endswith(".no-deps")}
    assert THROUGHPUT[0].function == "runtime_instances"


def _entry(name: str, p50_ms: float, **ratios: float) -> dict[str, Any]:
    bases = {
        "runtime": RUNTIME,
        "unjudged": UNJUDGED,
        "one": ONE_CPU,
        "bare": BARE,
        "floor": f"{FLOOR}fast",
        "full": f"{FLOOR}full",
    }
    return {
        "name": name,
        "precision": "INT8",
        "gives": "heatmap",
        "network": "",
        "p50_ms": p50_ms,
        "p90_ms": p50_ms,
        "p99_ms": p50_ms,
        "samples": 1024,
        "load_ms": 1.0,
        "first_ms": 2.0,
        "peak_rss_mb": 60.0,
        "ratios": {bases[key]: [value, value - 0.01, value + 0.01] for key, value in ratios.items()},
    }


@pytest.fixture
def results() -> tuple[dict[str, Any], dict[str, Any]]:
    """Small results of both kinds."""
    pixels = [
        _entry(RUNTIME, 3.0, runtime=1, bare=1.8),
        _entry(UNJUDGED, 1.7, bare=1.05),
        _entry(BARE, 1.6, runtime=0.55),
        _entry(lineup.EAGER, 13.0, runtime=4.3, unjudged=8.1, one=3.9),
    ]
    files = [
        _entry(RUNTIME, 8.0, runtime=1, floor=1.3, full=1.1, bare=0.6),
        _entry(UNJUDGED, 7.0, floor=1.1, full=0.9),
        {**_entry(f"{FLOOR}fast", 5.0), "pixels_off": 0.0},
        {**_entry(f"{FLOOR}full", 7.0), "pixels_off": 0.0},
        {**_entry(f"{FLOOR}careless", 1.0), "pixels_off": 0.1},
        _entry("ONNX Runtime INT8", 9.0, runtime=1.005, one=0.9),
        _entry("tflite-runtime", 8.9, runtime=1.2, one=0.8),  # its runs were those of quieter rounds
        _entry(BARE, 12.0, runtime=1.5, one=1.3),
    ]
    throughput = [{**_entry("this runtime, 1 instance", 16.0), "pictures": 16, "pictures_per_s": 333.0}]
    starts = {
        "`classify --json a.jpg`": {"runs": 3, "seconds": {"p50": 0.2, "p90": 0.3, "p99": 0.3}, "peak_rss_mb": 70.0},
        "ONNX Runtime INT8": {"runs": 3, "seconds": {"p50": 0.4, "p90": 0.5, "p99": 0.5}, "peak_rss_mb": 90.0},
    }
    quantiles = {"p50_ms": 1.0, "p90_ms": 1.5, "p99_ms": 2.0}
    series = {"pixels": {"1": pixels, "2": pixels[:3]}, "files": {"1": files, "2": files[:1]}}
    beside = {
        "machine": {"cpu": "a CPU", "cores": 4, "system": "a system", "python": "3.10"},
        "load_before": 0.25,
        "series": {**series, "throughput": {"1": throughput, "2": []}},
        "missing": {"ncnn INT8": "no tools"},
    }
    cost = {
        "machine": beside["machine"],
        "answer": [{"bundle": "b", "picture": "p.jpg, 9 x 9", "parts": {"decode": quantiles, "all": quantiles}}],
        "class_map": {"b": [{"threads": 1, "ratio": {"value": 1.0, "low": 0.9, "high": 1.1}}]},
        "start": {"floor_rss_mb": 12.0, "found": starts},
        "energy": None,
    }
    return beside, cost


def test_aims_say_met_short_or_not_measured(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    found = [(one.of, one.limit, one.found[:1], one.verdict) for one in aims(*results)]
    assert found == [
        (UNJUDGED, 1.10, (1.05,), "met"),
        (RUNTIME, 1.10, (1.8,), "SHORT"),
        (ONE_CPU, 1.10, (), "not measured"),
        (f"{UNJUDGED}, by {FLOOR}fast", 1.15, (1.1,), "met"),
        (f"{RUNTIME}, by {FLOOR}fast", 1.15, (1.3,), "SHORT"),
        (f"{ONE_CPU}, by {FLOOR}fast", 1.15, (), "not measured"),
        (UNJUDGED, 8.0, (8.1,), "met"),
        (RUNTIME, 8.0, (4.3,), "SHORT"),
        (ONE_CPU, 8.0, (3.9,), "SHORT"),
        (UNJUDGED, 30.0, (), "not measured"),
        (RUNTIME, 30.0, (), "not measured"),
        (ONE_CPU, 30.0, (), "not measured"),
        (UNJUDGED, 30.0, (), "not measured"),  # the last map's gradient only
        (RUNTIME, 30.0, (), "not measured"),
        (ONE_CPU, 30.0, (), "not measured"),
        (f"ONNX Runtime INT8, by {RUNTIME}", 1.0, (1.005,), "met, but not beyond doubt"),
        (f"tflite-runtime, by {ONE_CPU}", 1.0, (0.8,), "SHORT"),
        ("`classify --json a.jpg`", 0.25, (0.2,), "met"),
        ("`classify --json a.jpg`", 65.0, (70.0,), "SHORT"),
    ]


def test_a_careless_decoder_is_no_floor_and_a_floor_no_peer(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    files = {one["name"]: one for one in results[0]["series"]["files"]["1"]}
    assert fastest_floor(files) == f"{FLOOR}fast"
    assert nearest_peer(files, RUNTIME) == "ONNX Runtime INT8"
    assert fastest_floor({}) == nearest_peer({}, RUNTIME) == ""


def test_tables_come_from_results(
    results: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, found in zip(("side-by-side.json", "cost.json"), results, strict=True):
        (tmp_path / name).write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setattr(cost_tables, "RESULTS", tmp_path)
    short = cost_tables.short_table()
    assert "| this runtime, not judged (INT8) | heatmap | 1.70 | 1.70 |  | 60 |" in short
    assert "| ONNX Runtime INT8 | heatmap | 9.00 | 9.00 | 1.00 [0.99, 1.01] | 60 |" in short
    assert "floor: fast" in short and "floor: full" not in short and "floor: careless" not in short
    tables = {name: make() for name, make in cost_tables.TABLES.items()}
    assert all(tables.values())
    assert "| `side-by-side` | 4 cores of a CPU, Python 3.10 | load 0.2 before |" in tables["machines"]
    assert "the load before was not recorded" in tables["machines"]
    assert tables["aims"].count("SHORT") == 6 and tables["aims"].count("not measured") == 8
    assert "| floor: careless (INT8) |" in tables["files-1"]
    assert "333" in tables["throughput"] and "no tools" in tables["not-measured"]
    assert "does not tell" in tables["energy"]
