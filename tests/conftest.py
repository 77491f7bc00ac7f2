"""Fixtures: one small, real run - rendered fields, indexed, split, fitted, evaluated - shared by all that need one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REFERENCES = ROOT / "references"
SHARED_DATA = ROOT.parent / "shared" / "data"

# A shell starts what is to run in the background with SIGINT ignored, and so would be all that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the checkout; tests that need them are skipped where they are not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real smear data beside the checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def rendered_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with rendered fields of the four ALL classes, 30 each: ``rendered/<class>/NNNN.png``."""
    from train.render import write_rendered
    from train.tasks import TASKS

    data = tmp_path_factory.mktemp("data")
    write_rendered(data / "rendered", TASKS["all-subtypes"].labels, 30, seed=1, kind="field", px=256)
    return data


@pytest.fixture(scope="session")
def rendered_index(rendered_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index folder of `rendered_data`, split."""
    from train.cli import main

    folder = tmp_path_factory.mktemp("index") / "all-subtypes"
    assert main(["index", "--task", "all-subtypes", "--data", str(rendered_data), "--out", str(folder)]) == 0
    assert main(["split", str(folder), "--seed", "0"]) == 0
    return folder


@pytest.fixture(scope="session")
def rendered_run(rendered_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder: MobileNetV2 fine-tuned on rendered fields from the committed reference, and evaluated.

    It starts from weights that know smears, so a few short epochs give a network that is sure of itself, as parity
    gates need.
    """
    from train.cli import main

    folder = tmp_path_factory.mktemp("run") / "rendered"
    weights = REFERENCES / "all-subtypes" / "weights.safetensors"
    schedule = ["--epochs", "8", "--head-epochs", "2", "--batch", "8", "--small-px", "128", "--lr", "5e-4"]
    options = ["--weights", str(weights), "--accelerator", "cpu", "--out", str(folder)]
    assert main(["fit", str(rendered_index), "--protocol", "grouped", *schedule, *options]) == 0
    assert main(["evaluate", str(folder)]) == 0
    return folder
