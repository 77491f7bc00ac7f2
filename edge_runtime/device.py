"""The device: is this machine fit to classify smears, and what would make it fitter? A machine in, `Check` rows out.

The checks are two tables, of ``hardware`` and ``installation``; each looks at one thing and says what it found, whether
that is a problem, and what to do. Here is what they look through: the kernel's files are read below a root and programs
are asked through one function, so that tests can show recorded machines. Nothing is changed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .machine import ROOT, board, read_text, usable_cpus

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        name: of what was looked at.
        result: `OK`; `WARNING`: it works, but slower or less safely than it could; `FAILED`: it does not.
        found: what there is, in one line.
        todo: what to do about it, or "".
    """

    name: str
    result: str
    found: str
    todo: str = ""


def ask(command: Sequence[str]) -> str | None:
    """Run a program and return what it prints; None where it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def clock_synchronised() -> bool | None:
    """Ask the kernel whether its clock is set from outside, by adjtimex(2), changing nothing; None: no answer."""
    import ctypes

    buffer = (ctypes.c_char * 512)()  # struct timex, all zeros; it is 208 bytes
    try:
        state = ctypes.CDLL(None).adjtimex(buffer)
    except (AttributeError, OSError, TypeError):  # not Linux
        return None
    return None if state < 0 else state != 5  # TIME_ERROR


@dataclass(frozen=True)
class Device:
    """A machine to look at; by default this one.

    Attributes:
        root: below which the kernel's files are.
        arch: as ``uname -m`` says.
        bits: of Python's pointers.
        cpus: that this process may use.
        ask: runs a program: arguments -> output or None.
        may_use: whether a file below the root can be read and written.
        has_module: whether a Python package is installed.
        free_bytes: of the file system a folder is on.
        synchronised: whether the kernel says that the clock is set from outside; None: it does not say.
    """

    root: Path = ROOT
    arch: str = field(default_factory=platform.machine)
    bits: int = 64 if sys.maxsize > 2**32 else 32
    cpus: int = field(default_factory=usable_cpus)
    ask: Callable[[Sequence[str]], str | None] = ask
    may_use: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK)
    has_module: Callable[[str], bool] = lambda module: find_spec(module) is not None
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    synchronised: Callable[[], bool | None] = clock_synchronised

    def text(self, path: str) -> str | None:
        """Return a file of the kernel; None where there is none."""
        return read_text(self.root / path)

    def number(self, path: str) -> int | None:
        """Return the number that a file of the kernel holds; None where there is none."""
        text = self.text(path)
        return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None

    @property
    def is_raspberry_pi(self) -> bool:
        """Whether it is one, by its device tree."""
        return (board(self.root) or "").startswith("Raspberry Pi")

    @property
    def is_jetson(self) -> bool:
        """Whether it is one, by the release file of its Linux."""
        return self.text("etc/nv_tegra_release") is not None


def examine(device: Device) -> Iterator[Check]:
    """Look at everything; slow checks come as they are done."""
    from .hardware import HARDWARE
    from .installation import INSTALLATION

    for check in (*HARDWARE, *INSTALLATION):
        yield from check(device)
