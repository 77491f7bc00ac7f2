"""``bench``: only engines that are right are timed, fewer threads win ties, and the command line uses what it chose."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bundle_maker import tiny_bundle

from edge_runtime import device_settings as settings_module
from edge_runtime import machine
from edge_runtime.bench import SETTLE, TURN, WARM_UP, Row, bench, best_of, interleaved, thread_counts
from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.device_settings import ENGINE_MODULES, Choice, SettingsError, forget, recall, remember, settings_path
from edge_runtime.engines import ENGINES, Engine


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a model for two engines."""
    return tiny_bundle(tmp_path_factory.mktemp("both") / "bundle", "float32", "onnx")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, object]]:
    """Return the (engine, threads) that classifiers are opened with, as they are."""
    real, seen = Classifier.open.__func__, []  # type: ignore[attr-defined]

    def note(cls, model, engine=None, threads=None, trust=None, isolate=False):
        seen.append((engine, threads))
        return real(cls, model, engine, threads, trust, isolate)

    monkeypatch.setattr(Classifier, "open", classmethod(note))
    return seen


def row(engine: str, threads: int, p50_ms: float, error: str = "") -> Row:
    return Row(engine, "1", threads, error, p50_ms, p50_ms, p50_ms)


def test_fewer_threads_win_within_five_percent_and_only_there() -> None:
    assert best_of([row("a", 1, 10.4), row("a", 2, 10.0)]) == row("a", 1, 10.4)
    assert best_of([row("a", 1, 10.6), row("a", 2, 10.0)]) == row("a", 2, 10.0)
    assert best_of([row("a", 2, 10.4), row("b", 2, 10.0), row("a", 4, 9.95)]) == row("b", 2, 10.0)
    assert best_of([row("a", 1, 1.0, "wrong"), row("b", 4, 50.0)]) == row("b", 4, 50.0)
    assert best_of([row("a", 1, 1.0, "wrong")]) is None and best_of([]) is None


def test_times_that_lie_far_apart_are_not_steady() -> None:
    assert dataclasses.replace(row("a", 1, 10.0), p90_ms=14.0).steady
    assert not dataclasses.replace(row("a", 1, 10.0), p90_ms=16.0).steady


def test_thread_counts_reach_all_cpus_and_no_further() -> None:
    assert [thread_counts(cpus) for cpus in (1, 2, 4, 6, 8)] == [
        (1,), (1, 2), (1, 2, 3, 4), (1, 2, 3, 4, 6), (1, 2, 3, 4, 8)
    ]  # fmt: skip
    assert thread_counts(500)[-1] == 64


def test_candidates_take_turns_and_all_their_runs_are_as_stated() -> None:
    calls: list[int] = []
    times = interleaved({key: lambda k=key: calls.append(k) for key in (0, 1, 2)}, 20, lambda *_: None)
    assert Counter(calls) == dict.fromkeys((0, 1, 2), WARM_UP + 20 * (SETTLE + TURN))
    assert {len(values) for values in times.values()} == {20 * TURN}
    turns = calls[3 * WARM_UP :: SETTLE + TURN]
    rounds = {tuple(turns[start : start + 3]) for start in range(0, len(turns), 3)}
    assert all(sorted(turn) == [0, 1, 2] for turn in rounds) and len(rounds) > 1  # another order


def test_every_engine_with_a_model_is_timed_after_the_golden_test(both: Path) -> None:
    shown: list[int] = []
    found = bench(open_bundle(both), 3, 2, lambda done, _: shown.append(done))
    names = [(row.engine, row.threads) for row in found.rows]
    assert names == [(name, threads) for name in ("litert", "onnxruntime") for threads in (1, 2)]
    assert all(not row.error and 0 < row.p50_ms <= row.p90_ms <= row.p99_ms for row in found.rows)
    assert found.best in found.rows and shown == [0, 1, 2]
    assert {row.version for row in found.rows} == {machine.package_version(ENGINES[n].module) for n, _ in names}


def test_a_fast_wrong_engine_does_not_win(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Engine.run

    def wrong(self: Engine, pixels: np.ndarray):
        logits, class_map = (np.zeros_like(values) for values in real(self, pixels))
        return (logits, class_map) if self.name == "onnxruntime" else real(self, pixels)

    monkeypatch.setattr(Engine, "run", wrong)
    found = bench(open_bundle(both), 2, 1)
    litert, onnx = found.rows
    assert found.best == litert and onnx.error == "wrong: 2 of 2 golden pictures failed"
    assert onnx.to_dict()["p50_ms"] is None and "NaN" not in json.dumps(onnx.to_dict())


def test_an_engine_that_cannot_load_it_gets_its_line(run, both: Path, tmp_path: Path) -> None:
    import shutil

    from bundle_maker import replace_file

    spoilt = shutil.copytree(both, tmp_path / "spoilt")
    replace_file(spoilt, "model.onnx", b"not a model")
    status, out, err = run("bench", spoilt, "--rounds", 2, "--dry-run", "--json")
    rows = json.loads(out)["rows"]
    assert status == 0 and json.loads(out)["best"]["engine"] == "litert"
    assert all("cannot load it" in row["error"] for row in rows if row["engine"] == "onnxruntime")
    assert not [line for line in err if line.startswith("error")]
    replace_file(spoilt, "model.tflite", b"xxxxTFL3 not a model either")
    status, out, _ = run("bench", spoilt, "--rounds", 2)
    assert status == 1 and "best: none" in out


def test_the_choice_is_remembered_used_and_forgotten(run, both: Path, picture_file, device_settings, opened) -> None:
    status, out, _ = run("bench", both, "--rounds", 2, "--json")
    fact = json.loads(out)
    best = fact["best"]
    assert status == 0 and fact["remembered"] == str(device_settings) and device_settings.is_file()
    bundle_id = open_bundle(both).id
    choice = recall(bundle_id, device_settings)
    assert choice is not None and (choice.engine, choice.threads) == (best["engine"], best["threads"])
    remember({bundle_id: Choice("onnxruntime", 2, 1.5)}, device_settings)  # not what would be chosen without
    for options, expected in (
        ([], ("onnxruntime", 2)),
        (["--engine", "litert"], ("litert", None)),
        (["--threads", "1"], (None, 1)),
    ):
        opened.clear()
        assert run("classify", "--model", both, picture_file, *options)[0] == 0
        assert opened == [expected]
    assert "1 forgotten" in run("bench", "--forget", both)[1] and not device_settings.exists()
    opened.clear()
    assert run("classify", "--model", both, picture_file)[0] == 0 and opened == [(None, None)]
    assert run("bench", "--forget")[1] == "0 forgotten\n"


def test_a_dry_run_remembers_nothing(run, both: Path, device_settings: Path) -> None:
    status, out, _ = run("bench", both, "--rounds", 2, "--dry-run")
    assert status == 0 and "best: " in out and "remembered" not in out and not device_settings.exists()
    assert "drift" in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected leukoscope-device 1"),
        (b"{", "expected leukoscope-device 1"),
        (b'{"format": "something else"}', "got something else"),
        (b"[" * 100_000, "expected leukoscope-device 1"),
        (b'{"format": "leukoscope-device", "version": 1, "machine": {}, "choices": []}', "damaged"),
        (b'{"format": "leukoscope-device", "version": 2, "machine": {}, "choices": {}}', "expected"),
        ("elsewhere", "another machine"),
        ({"engine": "litert", "threads": 0, "latency_p50_ms": 1.0}, "damaged"),
        ({"engine": "litert", "threads": True, "latency_p50_ms": 1.0}, "damaged"),
        ({"engine": "rm -rf", "threads": 1, "latency_p50_ms": 1.0}, "damaged"),
        ("litert", "damaged"),
    ],
)
def test_a_wrong_file_is_a_warning_and_nothing_more(
    run, valid_bundle: Path, picture_file: Path, device_settings: Path, content: object, words: str
) -> None:
    bundle_id = open_bundle(valid_bundle).id
    remember({bundle_id: Choice("litert", 1, 1.0)}, device_settings)
    stated = json.loads(device_settings.read_text())
    if isinstance(content, bytes):
        device_settings.write_bytes(content)
    elif content == "elsewhere":
        device_settings.write_text(json.dumps({**stated, "machine": {**stated["machine"], "cpus": 1000}}))
    else:
        device_settings.write_text(json.dumps({**stated, "choices": {bundle_id: content}}))
    status, out, err = run("classify", "--json", "--model", valid_bundle, picture_file)
    assert status == 0 and json.loads(out)["label"]
    assert len(err) == 1 and err[0].startswith(f"warning: {device_settings}") and words in err[0]
    remember({bundle_id: Choice("litert", 2, 1.0)}, device_settings)  # measuring again puts it right
    assert recall(bundle_id, device_settings) == Choice("litert", 2, 1.0)


def test_an_engine_that_is_not_installed_is_never_the_choice(
    device_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"cpu": "a board", "cpus": 4, "engines": {"litert": "2.3.0"}}
    monkeypatch.setattr(settings_module, "machine", lambda: here)
    remember({"a@1": Choice("litert", 1, 1.0), "b@2": Choice("tflite-runtime", 1, 1.0)}, device_settings)
    assert recall("a@1", device_settings) == Choice("litert", 1, 1.0)
    with pytest.raises(SettingsError, match="got tflite-runtime, which is not installed"):
        recall("b@2", device_settings)


def test_a_foreign_file_is_not_removed(run, device_settings: Path) -> None:
    device_settings.parent.mkdir()
    device_settings.write_text("precious")
    status, _, err = run("bench", "--forget")
    assert status == 1 and len(err) == 1 and device_settings.read_text() == "precious"


def test_one_bundle_forgotten_leaves_the_others(device_settings: Path) -> None:
    choice = Choice("litert", 1, 1.0)
    remember({"a@1": choice}, device_settings)
    remember({"b@2": choice}, device_settings)
    assert forget(["a@1", "c@3"], device_settings) == 1
    assert recall("a@1", device_settings) is None and recall("b@2", device_settings) == choice


def test_where_the_file_is() -> None:
    assert settings_path({"LEUKOSCOPE_CONFIG": "/x/y.json", "HOME": "/home/me"}) == Path("/x/y.json")
    assert settings_path({"XDG_CONFIG_HOME": "/c", "HOME": "/home/me"}) == Path("/c/leukoscope/device.json")
    assert settings_path({"XDG_CONFIG_HOME": "c", "HOME": "/h"}) == Path("/h/.config/leukoscope/device.json")
    assert settings_path({}) is None


def test_without_a_home_nothing_is_remembered_and_nothing_fails(
    run, both: Path, picture_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEUKOSCOPE_CONFIG", "XDG_CONFIG_HOME", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    status, _, err = run("bench", both, "--rounds", 2)
    assert status == 0 and any("no home is known" in line for line in err)
    assert run("classify", "--model", both, picture_file)[::2] == (0, [])
    assert recall("a@1", None) is None


def test_settings_that_cannot_be_written_are_one_line(run, both: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEUKOSCOPE_CONFIG", str(tmp_path / "file" / "device.json"))
    status, _, err = run("bench", both, "--rounds", 2)
    assert status == 1 and [line for line in err if line.startswith("error: ")]


def test_the_tables_agree() -> None:
    assert {name: row.module for name, row in ENGINES.items()} == ENGINE_MODULES


def test_usage_errors(run) -> None:
    assert run("bench", "--rounds", 0)[0] == run("bench", "--forget", "--dry-run")[0] == 2
    status, _, err = run("bench", "no-such-bundle")
    assert status == 1 and len(err) == 1


def test_only_the_command_line_looks_at_it(both: Path, device_settings: Path) -> None:
    remember({open_bundle(both).id: Choice("onnxruntime", 2, 1.0)}, device_settings)
    assert Classifier.open(both).engine.name == "litert"


def test_package_versions_are_those_of_the_records() -> None:
    from importlib.metadata import version

    assert machine.package_version("ai_edge_litert") == version("ai-edge-litert")
    assert machine.package_version("json") == "unknown" and machine.package_version("no_such_module") is None


def test_what_is_timed_is_the_whole_answer(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Classifier._judge_pixels

    def slow_to_judge(classifier: Classifier, pixels, plain):
        time.sleep(0.05 if classifier.engine.threads == 2 else 0)
        return real(classifier, pixels, plain)

    monkeypatch.setattr(Classifier, "_judge_pixels", slow_to_judge)
    found = bench(open_bundle(both), 3, 2)
    assert all(row.p50_ms >= 50 for row in found.rows if row.threads == 2)
    assert found.best is not None and found.best.threads == 1
