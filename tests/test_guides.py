"""The guides keep their word: their commands exist, the units are valid and closed, and what is marked can be run.

``tests/guide/run_guide.sh`` runs the marked blocks for real, in a clean Debian; that takes minutes and root.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
GUIDES = tuple(ROOT / "docs" / name for name in ("raspberry-pi.md", "jetson.md"))
UNITS = tuple(sorted((ROOT / "docs" / "systemd").glob("*.service")))
PROGRAM = "/opt/leukoscope/bin/leukoscope"


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a page whose info string is `kind`."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The arguments of all commands of this program in a text, without redirections and comments."""
    found = re.findall(
        rf"^(?:sudo )?(?:ExecStart=)?(?:python -m edge_runtime|{PROGRAM}|leukoscope) ([^\n<>&|`]*)", text, re.M
    )
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    parser = build_parser()
    text = "".join(blocks(page, "sh run") + blocks(page, "sh") + blocks(page, "ini"))
    found = commands(text)
    assert len(found) >= 6
    for arguments in found:
        parser.parse_args(arguments)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_files_it_speaks_of_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(((?!#|http)[^)]+)\)", text):
        assert (page.parent / link.split("#")[0]).exists(), link
    for path in re.findall(r"(?<![/\w])((?:docs|samples|tests)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path


def test_every_anchor_between_the_guides_is_there() -> None:
    pi, jetson = (page.read_text(encoding="utf-8") for page in GUIDES)
    titles = re.findall(r"^#+ (.*)$", pi, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    wanted = set(re.findall(r"raspberry-pi\.md#([\w-]+)", jetson))
    assert wanted and wanted <= anchors


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_it_says_what_was_tried_and_what_it_is_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "No board was at hand" in text and "not a diagnosis" in text and "rendered" in text


def test_what_is_marked_to_run_is_shell_and_reaches_from_install_to_remove() -> None:
    script = "".join(blocks(GUIDES[0], "sh run"))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for word in ("pip install", "classify", "doctor", "bench", "systemctl enable", "systemctl disable"):
        assert word in script
    subprocess.run(["bash", "-n", ROOT / "tests" / "guide" / "run_guide.sh"], check=True)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_start_what_there_is(unit: Path) -> None:
    (arguments,) = commands(unit.read_text(encoding="utf-8"))
    build_parser().parse_args(arguments)
    assert unit.name in GUIDES[0].read_text(encoding="utf-8") and unit.stem == f"leukoscope-{arguments[0]}"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units_and_finds_them_closed(unit: Path, tmp_path: Path) -> None:
    program = tmp_path / "leukoscope"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    here = tmp_path / unit.name
    here.write_text(unit.read_text(encoding="utf-8").replace(PROGRAM, str(program)), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", here]
    rated = subprocess.run(security, capture_output=True, text=True, check=False)
    if "unrecognized option" in rated.stderr:
        pytest.skip("this systemd-analyze cannot rate a unit that is not installed")
    assert rated.returncode == 0, rated.stdout[-200:]  # at most 2.0 of 10


def test_units_leave_proc_readable() -> None:
    """Engines choose their kernels by /proc/cpuinfo and are many times slower where they cannot read it."""
    assert len(UNITS) == 2
    for unit in UNITS:
        assert not re.search(r"^ProcSubset=", unit.read_text(encoding="utf-8"), re.MULTILINE)
