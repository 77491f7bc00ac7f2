"""The wheel and the source archive: what is in them, and that the wheel works where nothing else is installed.

Both are built from a copy of the checkout's packages. The bare environment gets its packages from the package index,
as a user's would; without one that part is skipped.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from edge_runtime import __version__
from edge_runtime.bundle import DEFAULT_BUNDLES
from edge_runtime.cli import COMMANDS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent


def sources() -> list[Path]:
    """Return what a wheel must hold, relative to the checkout: the package's code, page and bundles."""
    found = [path for path in (ROOT / "edge_runtime").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path.relative_to(ROOT) for path in found]


def build(source: Path, out: Path, *what: str) -> list[Path]:
    """Build with the setuptools of this environment, without a network."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *what, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return sorted(out.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel that was built from it; from a copy, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "checkout"
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train", "export", "edge_runtime"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy / name)
    archive, wheel = sorted(build(copy, folder / "out"), key=lambda path: path.suffix)
    assert (archive.name, wheel.name) == (
        f"leukoscope-{__version__}.tar.gz",
        f"leukoscope-{__version__}-py3-none-any.whl",
    )
    return archive, wheel


def test_the_wheel_holds_the_runtime_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        about = f"leukoscope-{__version__}.dist-info"
        of_package = {name for name in names if not name.startswith(f"{about}/")}
        assert of_package == {path.as_posix() for path in sources()}
        assert "edge_runtime/py.typed" in names and "edge_runtime/server/page/index.html" in names
        for bundle in DEFAULT_BUNDLES.iterdir():
            stated = json.loads((bundle / "manifest.json").read_text("utf-8"))["files"]
            assert {f"edge_runtime/bundles/{bundle.name}/{name}" for name in (*stated, "manifest.json")} <= names
        assert wheel.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert b"leukoscope = edge_runtime.cli:script" in wheel.read(f"{about}/entry_points.txt")
        for name in of_package:
            assert wheel.read(name) == (ROOT / name).read_bytes(), name


def test_the_archive_builds_the_same_wheel_and_holds_no_pictures(built: tuple[Path, Path], tmp_path: Path) -> None:
    archive, wheel = built
    with tarfile.open(archive) as packed:
        top = {name.split("/")[1] for name in packed.getnames() if "/" in name}
        packed.extractall(tmp_path, filter="data") if hasattr(tarfile, "data_filter") else packed.extractall(tmp_path)
    expected = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "edge_runtime", "pyproject.toml", "setup.cfg"}
    assert top == expected | {"leukoscope.egg-info"}
    (again,) = build(next(tmp_path.glob("leukoscope-*")), tmp_path / "out", "--wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {name: one.read(name) for name in one.namelist()} == {n: other.read(n) for n in other.namelist()}


def test_the_metadata_says_what_the_project_says(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        stated = message_from_bytes(wheel.read(f"leukoscope-{__version__}.dist-info/METADATA"))
    assert (stated["Name"], stated["Version"], stated["License-Expression"]) == (
        "leukoscope",
        __version__,
        "Apache-2.0",
    )
    assert stated["Requires-Python"] == ">=3.10" and stated["Description-Content-Type"] == "text/markdown"
    payload = stated.get_payload(decode=True)
    assert (
        isinstance(payload, bytes)
        and payload.decode("utf-8").strip() == (ROOT / "README.md").read_text("utf-8").strip()
    )
    needed = [line for line in stated.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(re.split(r"[<>=]", line)[0] for line in needed) == ["numpy", "pillow"]
    for extra in ("litert", "onnx", "openvino", "serve", "camera", "slides"):
        assert extra in stated.get_all("Provides-Extra", [])


class Bare:
    """An environment of its own, used from a folder where no checkout is near."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.here = folder / "venv", folder / "elsewhere"
        self.here.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.folder)], check=True, timeout=120)
        self.environment = {
            "PATH": f"{self.folder / 'bin'}:{os.defpath}",
            "HOME": str(self.here),
            **{name: value for name, value in os.environ.items() if name.lower().endswith(("_proxy", "cert_file"))},
        }

    def pip(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run this environment's pip on that one."""
        command = [sys.executable, "-m", "pip", "--python", str(self.folder), "--disable-pip-version-check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of it; nobody gets a traceback."""
        path = str(self.folder / "bin" / command[0])
        done = subprocess.run(
            [path, *command[1:]],
            capture_output=True,
            text=True,
            cwd=self.here,
            env=self.environment,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def bare(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """The wheel, installed where nothing else is: numpy and Pillow, no engine."""
    environment = Bare(tmp_path_factory.mktemp("bare"))
    reached = environment.pip("index", "versions", "pillow")
    if reached.returncode != 0:
        pytest.skip(f"no package index: {' '.join(reached.stderr.split())[-200:]}")
    done = environment.pip("install", str(built[1]))
    assert done.returncode == 0, done.stderr
    return environment


@pytest.mark.skipif(sys.platform == "win32", reason="a virtual environment looks different on Windows")
def test_the_wheel_works_alone_and_says_which_engine_to_get(bare: Bare) -> None:
    helped = bare.run("leukoscope", "--help")
    assert helped.returncode == 0 and all(f"\n    {name} " in helped.stdout for name in COMMANDS)
    assert bare.run("leukoscope", "--version").stdout == f"leukoscope {__version__}\n"
    listed = bare.run("leukoscope", "models")
    assert listed.returncode == 0 and "all-subtypes" in listed.stdout and "blood-cells" in listed.stdout
    checked = bare.run("leukoscope", "doctor")
    assert checked.returncode == 1 and 'none (pip install "leukoscope[litert]")' in checked.stdout
    pictures = str(ROOT / "samples" / "all-subtypes")
    for command in (["classify", pictures], ["verify"], ["scan", pictures]):
        done = bare.run("leukoscope", *command)
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and not done.stdout and len(set(lines)) == 1, done
        assert lines[0] == 'error: no inference engine is installed (pip install "leukoscope[litert]")'

    told = re.search(r"\((pip install .*)\)", lines[0])
    assert told is not None
    done = bare.pip(*shlex.split(told[1])[1:])  # what the line says, as it says it
    assert done.returncode == 0, done.stderr
    verified = bare.run("leukoscope", "verify")
    assert verified.returncode == 0 and verified.stdout.count("verified, 3 of 3 golden pictures") == 2, verified
    for options in ([], ["--isolate"]):
        answered = bare.run("python", "-m", "edge_runtime", "classify", "--json", *options, pictures)
        assert answered.returncode == 0, answered.stderr
        lines = answered.stdout.splitlines()
        assert [Path(json.loads(line)["picture"]).name for line in lines] == sorted(os.listdir(pictures))
    where = bare.run("python", "-c", "import edge_runtime; print(edge_runtime.__file__)").stdout
    assert where.startswith(str(bare.folder))
