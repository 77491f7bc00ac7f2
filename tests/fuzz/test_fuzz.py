"""The fuzzer itself is right, properties hold of what hypothesis makes with it, and a short run of it finds nothing."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime import demands
from edge_runtime.classifier import Classifier
from edge_runtime.manifest import parse_manifest
from edge_runtime.preprocess import Preprocess, decode, prepare
from tests.fuzz import runner
from tests.fuzz.anatomy import ANATOMIES, mended
from tests.fuzz.bombs import BOMBS
from tests.fuzz.cases import KINDS, BundleCases, command, tried
from tests.fuzz.make_seeds import SEEDS
from tests.fuzz.make_seeds import seeds as made
from tests.fuzz.mutate_bundles import MANIFEST, MUTATORS, make_wholes, read_wholes
from tests.fuzz.mutate_json import mutate_text, mutate_tree, written
from tests.fuzz.mutate_pictures import MUTATORS as PICTURE_MUTATORS
from tests.fuzz.mutate_pictures import mutated, picture, seeds
from tests.fuzz.runner import Tally, fuzz


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wholes")
    make_wholes(folder)
    return folder


def test_the_seeds_are_those_that_are_made_and_small() -> None:
    assert sorted(made()) == sorted(seeds())
    assert sum(len(content) for content in seeds().values()) < 300_000
    assert {name.rpartition(".")[2] for name in seeds()} == set(ANATOMIES) == set(BOMBS)


@pytest.mark.parametrize("name", sorted(path.name for path in SEEDS.iterdir()))
def test_every_seed_is_a_picture_with_an_anatomy(name: str) -> None:
    content, kind = seeds()[name], name.rpartition(".")[2]
    found: list[str] = []
    assert tried(lambda: decode(content), found) == "answer" and not found
    parts = ANATOMIES[kind](content)
    assert len(parts.members) >= 1 and len(parts.fields) >= 8 and parts.bulk
    assert all(0 <= start < end <= len(content) for start, end in (*parts.members, *parts.bulk))
    assert mended(kind, content) == content


@pytest.mark.parametrize("kind", ANATOMIES)
@pytest.mark.parametrize("mutator", PICTURE_MUTATORS)
def test_every_mutator_changes_pictures_of_every_format(kind: str, mutator: str) -> None:
    content = next(content for name, content in seeds().items() if name.endswith(f".{kind}"))
    changed = {PICTURE_MUTATORS[mutator](Random(n), content, ANATOMIES[kind](content)) for n in range(20)}
    assert changed - {content}


def test_a_number_is_always_the_same_case() -> None:
    for number in range(60):
        assert picture(3, number) == picture(3, number)
        assert picture(3, number).content != picture(4, number).content


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(path.name for path in SEEDS.iterdir())), st.randoms(use_true_random=False))
def test_mutated_pictures_give_an_answer_or_a_clear_line(name: str, random: Random) -> None:
    content, findings = mutated(random, name, seeds()[name]).content, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demands, "room_bytes", lambda: 200_000_000)  # the bombs are for the runner's workers
        tried(lambda: prepare(decode(content), Preprocess(32)), findings)
    assert findings == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(("plain", "full", "onnx")), st.booleans(), st.randoms(use_true_random=False))
def test_mutated_manifests_are_read_or_refused_in_a_clear_line(
    wholes: Path, name: str, as_text: bool, random: Random
) -> None:
    text = (wholes / name / MANIFEST).read_bytes()
    changed = mutate_text(random, text) if as_text else written(mutate_tree(random, json.loads(text)))
    findings: list[str] = []
    tried(lambda: parse_manifest(changed, MANIFEST), findings)
    assert findings == []


def test_whole_bundles_answer_and_every_mutator_is_drawn(wholes: Path) -> None:
    contents = read_wholes(wholes)
    assert set(contents) == {"plain", "full", "onnx"}
    for name in contents:
        Classifier.open(wholes / name, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        cases = BundleCases(Path(folder))
        assert {cases.case(0, number).mutators[0] for number in range(200)} == set(MUTATORS)


def test_findings_are_found(tmp_path: Path) -> None:
    """What must not be is noticed: a traceback, a line that is none, noise, and a lie of the exit status."""
    findings: list[str] = []

    def broken() -> None:
        raise ZeroDivisionError

    assert tried(broken, findings) == "traceback" and "ZeroDivisionError" in findings.pop()
    assert command(["classify", str(tmp_path / "gone.png"), "--model", str(tmp_path / "x")], findings) == 1
    assert findings == []
    (tmp_path / "keys.txt").write_text("\n")
    assert command(["info", "nothing\nhere", "--threads"], findings) == 2
    assert findings == []


def _fake(script: str) -> tuple[str, ...]:
    return (sys.executable, "-u", "-c", script)


_DEADLY = """
import json, os, signal, sys, time
print(json.dumps({"ready": True}))
for line in sys.stdin:
    number = int(line)
    print(json.dumps({"number": number, "stage": "engine: load" if number == 3 else "decode"}))
    if number in (1, 3):
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 2:
        time.sleep(60)
    result = {"number": number, "group": "png", "mutators": ["cut"], "outcome": "answer", "findings": []}
    print(json.dumps({"result": result, "seconds": number, "peak_mib": 10}))
"""


def test_deaths_and_hangs_are_counted_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "COMMAND", _fake(_DEADLY))
    monkeypatch.setattr(runner, "HANG_S", 2.0)
    tally = fuzz("pictures", 0, 6, 0, 2, lambda tally: None)
    found = tally.to_dict()
    assert (found["cases"], found["answers"], found["crashes"], found["hangs"]) == (6, 3, 1, 1)
    assert found["engine_deaths"] == 1 and found["engine_death_cases"] == [3]
    assert sorted(finding["case"] for finding in tally.findings) == [1, 2]
    assert (found["slowest_s"], found["slowest_case"]) == (5, 5)


@pytest.fixture(params=sorted(KINDS))
def short_run(request: pytest.FixtureRequest) -> Iterator[Tally]:
    yield fuzz(request.param, 0, 300, seed=1, processes=2, progress=lambda tally: None)


@pytest.mark.skipif(sys.platform != "linux", reason="workers limit and measure their memory as Linux does")
def test_a_short_run_finds_nothing(short_run: Tally) -> None:
    found = short_run.to_dict()
    assert found["kept"] == []
    assert found["cases"] == 300 and found["answers"] > 60
    assert found["peak_rss_mib"] < 1300
