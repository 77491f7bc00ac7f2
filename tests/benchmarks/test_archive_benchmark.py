"""The benchmark of archives measures what it says: memory that does not grow with the list."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import archive as benchmark

pytest.importorskip("pyarrow")


def test_a_list_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "PLANNED", 300_000)
    found = benchmark.planning(tmp_path)
    assert found["pictures"] == 300_000 and found["list_mb"] > 14
    assert found["rss_growth_mib"] < 3  # its names alone, held, would take 30


def test_a_way_is_summed_up_against_the_plain_classifier_of_its_round() -> None:
    rounds = {
        "classify, one thread": [{"pictures_per_s": pace, "running_per_s": pace} for pace in (100.0, 50.0, 10.0)],
        "2 workers": [
            {"pictures_per_s": 90.0, "running_per_s": pace, "worker_peak_rss_mib": 100.0 + pace}
            for pace in (190.0, 90.0, 20.0)
        ],
    }
    found = benchmark.summary(rounds)["2 workers"]
    assert found["of_classify"] == 1.9 and found["of_classify_least_most"] == [1.8, 2.0]
    assert found["running_per_s"] == 90.0 and found["worker_peak_rss_mib"] == 290.0
