"""Converter process: runs a converter where nobody sees it, and turns whatever comes of that into bytes or one line.

Converters write extra files, talk on both streams and like to download things. Here each runs in a process and a
temporary folder of its own, with no network to reach for and no randomness of hashes, for a limited time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from .errors import ExportError

TIMEOUT_S = 900
_NOWHERE = "http://127.0.0.1:9"
_ENVIRONMENT = {
    **{name: _NOWHERE for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")},
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
}


def installed_version(name: str, *folders: Path) -> str | None:
    """Return a converter's version, None where it is not installed.

    Args:
        name: as packages are installed by.
        folders: looked into before this environment.
    """
    found = distributions(name=name, path=[*map(str, folders), *sys.path])
    return next((package.version for package in found), None)


def run_converter(name: str, module: str, arguments: Sequence[str], folder: Path, written: Path) -> bytes:
    """Run ``python -m module arguments`` and return what it wrote.

    Args:
        name: of the converter, for people.
        module: started by this Python.
        arguments: its command line.
        folder: where it runs.
        written: the file it has to write.

    Raises:
        ExportError: it fails, writes nothing, or takes longer than `TIMEOUT_S`.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=os.environ | _ENVIRONMENT,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"{name} did not finish", got=f"{TIMEOUT_S} s") from None
    if done.returncode or not written.is_file():
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        got = said[-1][:200] if said else f"exit status {done.returncode}"
        raise ExportError(f"{name} cannot convert this graph", got=got)
    return written.read_bytes()
