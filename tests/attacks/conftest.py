"""Fixtures of the attacks: a valid bundle of the test's own, ready to be spoilt."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "edge_runtime"))  # bundle_maker

from bundle_maker import tiny_bundle

from edge_runtime import engines


@pytest.fixture(scope="session")
def whole_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a valid bundle that no test may change."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "whole")


@pytest.fixture
def bundle_folder(whole_bundle: Path, tmp_path: Path) -> Path:
    """Return a valid bundle of the test's own."""
    return Path(shutil.copytree(whole_bundle, tmp_path / "bundle"))


@pytest.fixture
def no_engine_may_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when any byte of a hostile bundle reaches an engine."""

    def load(files: Mapping[str, bytes], threads: int) -> None:
        pytest.fail("a hostile byte reached an engine")

    for name, row in engines.ENGINES.items():
        monkeypatch.setitem(engines.ENGINES, name, replace(row, load=load))
