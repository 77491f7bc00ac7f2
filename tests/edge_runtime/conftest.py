"""Fixtures of the runtime's tests: a valid bundle to open, and pictures."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # bundle_maker, whatever the import mode

from bundle_maker import smear, tiny_bundle

from edge_runtime import bundle
from edge_runtime.cli import main


@pytest.fixture(autouse=True)
def device_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where this device's settings would be in this test: nobody's own ones may choose its engine."""
    path = tmp_path / "settings" / "device.json"
    monkeypatch.setenv("LEUKOSCOPE_CONFIG", str(path))
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, list[str]]]:
    """Return a function that runs a command line: (status, standard output, lines of standard error)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's own way out
            status = int(stop.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return status, out, err.splitlines()

    return call


@pytest.fixture
def memory_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder in memory, where there is such a place: whoever waits for the medium there waits for nothing."""
    place = "/dev/shm"
    if not os.access(place, os.W_OK):
        yield tmp_path_factory.mktemp("memory")
        return
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def valid_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a valid INT8 bundle that no test may change."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "valid")


@pytest.fixture
def bundle_folder(valid_bundle: Path, tmp_path: Path) -> Path:
    """Return a valid INT8 bundle of the test's own."""
    return Path(shutil.copytree(valid_bundle, tmp_path / "bundle"))


@pytest.fixture
def default_bundles(valid_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the package hold one bundle, the valid one, under the default name; return the folder."""
    folder = tmp_path / "bundles"
    shutil.copytree(valid_bundle, folder / "all-subtypes")
    monkeypatch.setattr(bundle, "DEFAULT_BUNDLES", folder)
    return folder


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    """Return a PNG of a drawn field."""
    path = tmp_path / "smear.png"
    Image.fromarray(smear(96, 7)).save(path)
    return path
