"""Fixtures of the runtime's tests: a valid bundle to open, and pictures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # bundle_maker, whatever the import mode

from bundle_maker import smear, tiny_bundle


@pytest.fixture(autouse=True)
def device_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where this device's settings would be in this test: nobody's own ones may choose its engine."""
    path = tmp_path / "settings" / "device.json"
    monkeypatch.setenv("LEUKOSCOPE_CONFIG", str(path))
    return path


@pytest.fixture(scope="session")
def valid_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a valid INT8 bundle that no test may change."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "valid")


@pytest.fixture
def bundle_folder(valid_bundle: Path, tmp_path: Path) -> Path:
    """Return a valid INT8 bundle of the test's own."""
    return Path(shutil.copytree(valid_bundle, tmp_path / "bundle"))


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    """Return a PNG of a drawn field."""
    path = tmp_path / "smear.png"
    Image.fromarray(smear(96, 7)).save(path)
    return path
