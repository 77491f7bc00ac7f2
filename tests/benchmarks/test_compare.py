"""Compare: a slowdown is found, noise is not, on simulated and on recorded times; the command, on real processes."""

from __future__ import annotations

import json
import math
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare, permutation, revisions, workloads
from benchmarks.__main__ import main
from benchmarks.compare_proof import KINDS, plan, slow_down
from benchmarks.contest import Outcome, Way
from benchmarks.permutation import LEAST_BLOCKS, LEVEL, chances, effects, judge

RECORDED = Path(__file__).with_name("recorded_turns.json")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recorded() -> np.ndarray:
    """(blocks, 2, rounds) float64: milliseconds of turns of two processes of the same code, on a busy machine."""
    found = np.array(json.loads(RECORDED.read_text(encoding="utf-8"))["turns_ms"])
    assert found.ndim == 3 and found.shape[1] == 2 and found.shape[0] >= 40
    return found


def drawn(recorded: np.ndarray, rng: np.random.Generator, blocks: int, share: float = 0.0) -> permutation.Finding:
    """Judge blocks drawn from the recorded ones, as A and B or the other way round, B slower by `share`."""
    taken = recorded[rng.integers(0, len(recorded), blocks)]
    swapped = rng.random(blocks) < 0.5
    taken[swapped] = taken[swapped][:, ::-1]
    return judge(effects(taken[:, 0, :, None], (1 + share) * taken[:, 1, :, None]))


def test_chances_are_those_of_all_signs() -> None:
    for count in (1, 2, 5, 8):
        sums = [sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in product((0, 1), repeat=count)]
        wanted = [np.mean(np.array(sums) <= most) for most in range(count * (count + 1) // 2 + 1)]
        assert np.allclose(chances(count), wanted, atol=1e-15)
    assert 2 * chances(LEAST_BLOCKS)[0] <= LEVEL < 2 * chances(LEAST_BLOCKS - 1)[0]


def test_false_alarms_keep_to_their_level_where_the_difference_is_just_the_margin() -> None:
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(4000):
        noise = 0.02 * rng.standard_t(2, compare.BLOCKS)  # tails so heavy that the variance is infinite
        finding = judge(math.log1p(permutation.MARGIN) + noise)
        assert (finding.verdict in ("slower", "faster")) == (finding.p <= LEVEL)
        alarms += finding.verdict in ("slower", "faster")
    assert alarms <= 4000 * LEVEL + 3 * math.sqrt(4000 * LEVEL)


def test_recorded_noise_gives_no_alarm(recorded: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    verdicts = [drawn(recorded, rng, compare.BLOCKS).verdict for _ in range(1000)]
    assert verdicts.count("slower") + verdicts.count("faster") <= 10
    assert verdicts.count("same") >= 900


@pytest.mark.parametrize(("share", "verdict"), [(0.05, "slower"), (1 / 1.05 - 1, "faster")])
def test_a_difference_of_5_percent_is_found_in_recorded_noise(recorded: np.ndarray, share: float, verdict: str) -> None:
    rng = np.random.default_rng(3)
    found = [drawn(recorded, rng, compare.BLOCKS, share) for _ in range(1000)]
    assert sum(one.verdict == verdict for one in found) >= 950
    assert sum(one.low <= 1 + share <= one.high for one in found) >= 970
    assert abs(np.median([one.ratio for one in found]) - 1 - share) < 0.003


def test_swapped_sides_swap_the_verdict(recorded: np.ndarray) -> None:
    rng, opposite = np.random.default_rng(4), {"slower": "faster", "faster": "slower"}
    for share in rng.uniform(-0.1, 0.1, 200):
        taken = recorded[rng.integers(0, len(recorded), 10)] * np.array([1, 1 + share])[:, None]
        one = judge(effects(taken[:, 0, :, None], taken[:, 1, :, None]))
        other = judge(effects(taken[:, 1, :, None], taken[:, 0, :, None]))
        assert other.verdict == opposite.get(one.verdict, one.verdict)
        assert other.p == one.p and other.needed_blocks == one.needed_blocks
        assert np.allclose([1 / other.ratio, 1 / other.high, 1 / other.low], [one.ratio, one.low, one.high])


def test_too_few_blocks_tell_nothing_however_large_the_difference() -> None:
    for count in range(1, LEAST_BLOCKS):
        finding = judge(np.full(count, math.log(2.0)))
        assert finding.verdict == "unknown" and finding.p > LEVEL and finding.needed_blocks >= LEAST_BLOCKS
        assert finding.low == 0 and finding.high == math.inf
    assert judge(np.full(LEAST_BLOCKS, math.log(2.0))).verdict == "slower"


def test_noise_that_is_too_large_is_said_and_the_rounds_it_needs_are_enough() -> None:
    rng, noise = np.random.default_rng(5), 0.08
    finding = judge(noise * rng.standard_normal(12))
    assert finding.verdict == "unknown" and 40 < finding.needed_blocks < 1000
    later = [judge(noise * rng.standard_normal(finding.needed_blocks)).verdict for _ in range(20)]
    assert later.count("same") >= 18


def test_one_disturbed_turn_moves_nothing() -> None:
    a, b = np.ones((9, 5, 3)), np.ones((9, 5, 3))
    b[:, 2] = 40.0
    a[3] = a[3] * 7  # a block in which both were slow
    b[3] = b[3] * 7
    assert np.array_equal(effects(a, b), np.zeros(9))


def package(folder: Path) -> Path:
    """Copy the package to a folder."""
    shutil.copytree(ROOT / "edge_runtime", folder / "edge_runtime", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two folders: the package, and one whose `classify_pixels` takes twice as long."""
    plain, slow = (package(tmp_path_factory.mktemp(name)) for name in ("plain", "slow"))
    slow_down(slow, 1.0)
    return str(plain), str(slow)


def test_twice_as_slow_is_found_in_the_fewest_rounds(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: compare.Workload(**{**vars(row), "rounds": 1}) for name, row in compare.WORKLOADS.items()}
    monkeypatch.setattr(compare, "WORKLOADS", rows)
    assert main(["compare", *folders, "--workload", "pixels", "--rounds", str(LEAST_BLOCKS), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["a"] == {"given": folders[0], "commit": None, "changed": False}
    (one,) = said["workloads"]
    assert one["verdict"] == "slower" and one["rounds"] == LEAST_BLOCKS and one["same_answer"]
    assert 1 < one["low"] < one["ratio"] < one["high"] and 1.5 < one["ratio"] < 2.7 and one["p"] <= LEVEL
    assert len(one["block_ratios"]) == LEAST_BLOCKS and 0 <= one["waited"] < 1


def test_a_single_block_ends_with_a_table_that_says_what_is_missing(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", folders[0], folders[1], "--workload", "file", "--seconds", "0.1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"A: {folders[0]} (not under git)" and out[3].split()[:4] == ["workload", "B", "/", "A"]
    assert out[4].startswith("file ") and "cannot tell: too few rounds, needs about " in out[4]


@pytest.mark.parametrize("name", ["scan", "start"])
def test_every_workload_runs(name: str, folders: tuple[str, str], tmp_path: Path) -> None:
    a, b = (revisions.open_side(folder, tmp_path / letter) for folder, letter in zip(folders, "ab", strict=True))
    timed = compare.measure(name, a, b, tmp_path, blocks=1)
    row = compare.WORKLOADS[name]
    assert timed.a_ms.shape == timed.b_ms.shape == (1, row.rounds, row.runs)
    assert min(timed.a_ms.min(), timed.b_ms.min()) > 1 and timed.answers[0] == timed.answers[1] != []


@pytest.mark.parametrize("name", ["pixels", "file", "scan"])
def test_a_workload_is_on_one_cpu_before_anything_is_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(workloads, "_stay_on", lambda cpu: done.append(f"stays on {cpu}"))

    def open_(*_: object) -> None:
        done.append("opens")
        raise RuntimeError

    monkeypatch.setattr(workloads, "_open", open_)
    with pytest.raises(RuntimeError):
        getattr(workloads, name)(str(ROOT), 3, "a.jpg", "all-subtypes")
    assert done == ["stays on 3", "opens"]  # else a spare CPU is seen, and judges on a thread that nobody times


def test_a_system_that_does_not_tell_waits_is_named(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def contest(ways: list[Way], rounds: int, runs: int, *_: object) -> dict[str, Outcome]:
        times = np.ones((rounds, runs))
        return {way.name: Outcome(1, 1, times, times * np.nan, "x", 1) for way in ways}

    monkeypatch.setattr(compare, "contest", contest)
    assert main(["compare", *folders, "--workload", "pixels", "--json"]) == 0
    said = capsys.readouterr()
    (one,) = json.loads(said.out)["workloads"]
    assert one["waited"] is None and one["verdict"] == "same" and one["a_ms"] == 1
    assert said.err.startswith("warning: this system does not tell who waits") and said.err.count("\n") == 1


def test_revisions_and_folders(tmp_path: Path) -> None:
    import subprocess

    def git(*words: str) -> str:
        user = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        return subprocess.run(["git", *user, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    (tmp_path / "edge_runtime").mkdir()
    code = tmp_path / "edge_runtime" / "__init__.py"
    code.write_text("one = 1\n")
    assert revisions.open_side(str(tmp_path), tmp_path / "0").described == f"{tmp_path} (not under git)"
    git("init", "--quiet")
    (tmp_path / "README").write_text("nothing here\n")
    git("add", "README")
    git("commit", "--quiet", "-m", "before")
    git("add", "edge_runtime")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "HEAD").strip()
    clean = revisions.open_side(str(tmp_path), tmp_path / "1")
    assert (clean.commit, clean.changed) == (commit, False) and clean.described == f"{tmp_path} ({commit[:10]})"
    code.write_text("one = 2\n")
    changed = revisions.open_side(str(tmp_path), tmp_path / "2")
    assert changed.changed and changed.described == f"{tmp_path} ({commit[:10]} with uncommitted changes)"
    assert (changed.folder / "edge_runtime" / "__init__.py").read_text() == "one = 2\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(revisions, "ROOT", tmp_path)
        revision = revisions.open_side("HEAD", tmp_path / "3")
        assert (revision.folder / "edge_runtime" / "__init__.py").read_text() == "one = 1\n"
        assert revision.described == f"HEAD ({commit[:10]})" and not (revision.folder / "README").exists()
        with pytest.raises(revisions.UsageError, match="HEAD~1: a revision without edge_runtime"):
            revisions.open_side("HEAD~1", tmp_path / "4")
        patch.chdir(tmp_path)
        package(tmp_path / "a name")
        package(tmp_path / "v1")
        git("tag", "v1")
        with pytest.raises(revisions.UsageError, match=r"v1: both a revision and a folder .*/v1 for the folder, "):
            revisions.open_side("v1", tmp_path / "5")
        assert revisions.open_side("./v1", tmp_path / "6").described == "./v1 (not under git)"
        assert revisions.open_side("a name", tmp_path / "7").commit == ""
        assert revisions.open_side(commit[:10], tmp_path / "8").described == commit[:10]
        assert revisions.open_side(".", tmp_path / "9").changed
    assert git("status", "--porcelain", "--", "edge_runtime") == " M edge_runtime/__init__.py\n"
    assert git("worktree", "list").count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (
            ["no-such-revision", "."],
            2,
            "what is to be compared: got no-such-revision, expected a git revision, or a fo",
        ),
        (["--", "--exec=x", "."], 2, "what is to be compared: got --exec=x"),
        (["{tmp}", "."], 2, "{tmp}: a folder without edge_runtime (give a checkout or an unpacked wheel)"),
        ([".", ".", "--rounds", "0"], 2, "--rounds: got 0, expected more than 0"),
        ([".", ".", "--seconds", "nan"], 2, "--seconds: got nan, expected more than 0"),
        ([".", ".", "--rounds", "1", "--seconds", "1"], 2, "not allowed with argument --rounds"),
        ([".", ".", "--workload", "none"], 2, "invalid choice: 'none'"),
        ([".", "{broken}", "--workload", "pixels"], 1, "pixels: B ({broken}): RuntimeError: cannot start"),
        ([".", "{dying}", "--workload", "pixels"], 1, "pixels: B ({dying}): ended with status 7"),
        ([".", "{old}", "--workload", "scan"], 1, "scan: B ({old}): RuntimeError: it has no edge_runtime.scan"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    arguments: list[str],
    status: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    places = {"tmp": tmp_path, **{name: tmp_path / name for name in ("broken", "dying", "old")}}
    for name, code in (("broken", "raise RuntimeError('cannot start')"), ("dying", "import os; os._exit(7)")):
        if f"{{{name}}}" in arguments:
            (tmp_path / name / "edge_runtime").mkdir(parents=True)
            (tmp_path / name / "edge_runtime" / "__init__.py").write_text(code)
    if "{old}" in arguments:
        (package(tmp_path / "old") / "edge_runtime" / "scan.py").unlink()
    try:
        found = main(["compare", *(one.format(**places) for one in arguments)])
    except SystemExit as end:
        found = int(end.code or 0)
    captured = capsys.readouterr()
    assert found == status and captured.out == ""
    assert captured.err.startswith("error: ") and says.format(**places) in captured.err
    assert captured.err.count("\n") == 1


def test_the_proof_mixes_its_kinds_and_plants_what_it_says(tmp_path: Path) -> None:
    assert len(plan()) == len(set(plan())) == sum(row.count for row in KINDS.values())
    first = {kind: [one[0] for one in plan()[:27]].count(kind) for kind in KINDS}
    assert first == {kind: row.count // 5 for kind, row in KINDS.items()}
    for kind, row in KINDS.items():
        assert (1 + row.b) / (1 + row.a) == pytest.approx(1 + int(kind) / 100)
