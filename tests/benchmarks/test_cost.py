"""What an answer costs: its parts belong to the whole, fresh processes are accounted for, wrong usage gets one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cost, peer_models
from benchmarks.__main__ import main
from edge_runtime.errors import LeukoscopeError

COLD_START = Path(cost.__file__).with_name("cold_start.py")


def _started(runs: int, commands: dict[str, list[str]]) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, str(COLD_START), str(runs), json.dumps(commands)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def test_fresh_processes_are_timed_in_turns_with_their_own_memory() -> None:
    large = "x = bytearray(60 << 20); import time; time.sleep(0.1); print('large')"
    commands = {"large": [sys.executable, "-c", large], "small": [sys.executable, "-c", "print('small')"]}
    told = json.loads(_started(2, commands).stdout)
    found = told["found"]
    assert {name: one["printed"] for name, one in found.items()} == {"large": "large\n", "small": "small\n"}
    assert all(len(one["seconds"]) == len(one["rss_mb"]) == 2 for one in found.values())
    assert min(found["large"]["seconds"]) > 0.1
    assert min(found["large"]["rss_mb"]) > 60 > 40 > max(found["small"]["rss_mb"]) >= told["floor_rss_mb"] > 2


def test_a_command_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [sys.executable, "-c", "print('a log line'); print('{\"label\": 1}')"]
    commands = {
        "good": answers,
        "bad": [sys.executable, "-c", "raise SystemExit(3)"],
        "gone": ["/no/such/program"],
        "silent": [sys.executable, "-c", ""],
    }
    told = cost._starts(commands, 1)
    assert list(told["found"]) == ["good"] and told["found"]["good"]["runs"] == 1
    assert told["missing"]["bad"] == "exit status 3" and told["missing"]["silent"] == "no answer: "
    assert "No such file" in told["missing"]["gone"]
    monkeypatch.setattr(cost, "_starts", lambda named, _: told | {"missing": dict.fromkeys(named, "exit status 1")})
    with pytest.raises(LeukoscopeError, match=r"classify --json .* failed: got exit status 1"):
        cost.start_cost(1, 1)


def test_parts_are_those_of_one_answer() -> None:
    found = cost.answer_cost("blood-cells", peer_models.render_picture(), "cell.jpg", rounds=3)
    assert found["picture"] == "cell.jpg, 1024 x 768"
    parts = {name: part["p50_ms"] for name, part in found["parts"].items()}
    assert list(parts) == ["decode", "resize", "infer", "explain", "judge", "output", "all"]
    assert all(value > 0 for value in parts.values())
    assert all(part["samples"] == 3 for part in found["parts"].values())


def test_models_are_made_once_and_what_cannot_be_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def make() -> None:
        made.append("a")
        (tmp_path / "a").write_text("a", encoding="utf-8")

    def fail() -> None:
        raise LeukoscopeError("no converter here")

    def fail_elsewhere() -> None:
        code = "import sys; sys.exit('Traceback\\nImportError: no such package')"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    def fail_without_a_word() -> None:
        raise AssertionError

    rows = (
        peer_models._Row(("a",), make),
        peer_models._Row(("b", "c"), fail),
        peer_models._Row(("d",), fail_elsewhere),
        peer_models._Row(("e",), fail_without_a_word),
    )
    monkeypatch.setattr(peer_models, "MODELS", tmp_path)
    monkeypatch.setattr(peer_models, "ROWS", rows)
    for _ in range(2):
        missing = peer_models.make_models()
        why = {"b": "no converter here", "c": "no converter here", "d": "ImportError: no such package"}
        assert missing == {**why, "e": "AssertionError"}
        assert "not made: b, c: no converter here\n" in capsys.readouterr().err
    assert made == ["a"]
    monkeypatch.setattr(peer_models, "_made_of", lambda: "another bundle")
    for _ in range(2):
        peer_models.make_models()
    assert made == ["a", "a"]  # models of the old one beside this runtime with the new one would be compared


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cost", "--rounds", "0"], "--rounds: got 0, expected at least 1"),
        (["side-by-side", "--samples", "31"], "--samples: got 31, expected at least 32"),
        (["nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_wrong_usage_gets_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    told = capsys.readouterr().err
    assert status == 2 and told.count("\n") == 1 and says in told
