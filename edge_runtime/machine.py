"""The machine: what its processor is, what it can do and how much of it this process may use.

What comes in are the kernel's files below a root, ``/`` unless a test says otherwise; what goes out are plain facts.
Nothing is judged here (``device`` does that) and nothing is measured (``bench`` does). Standard library only: the
command line asks at every start.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path("/")

CORES = {
    "0x41": {
        "0xd03": "Cortex-A53",
        "0xd04": "Cortex-A35",
        "0xd05": "Cortex-A55",
        "0xd07": "Cortex-A57",
        "0xd08": "Cortex-A72",
        "0xd09": "Cortex-A73",
        "0xd0a": "Cortex-A75",
        "0xd0b": "Cortex-A76",
        "0xd0c": "Neoverse-N1",
        "0xd41": "Cortex-A78",
        "0xd42": "Cortex-A78AE",
        "0xd44": "Cortex-X1",
        "0xd46": "Cortex-A510",
        "0xd4b": "Cortex-A78C",
        "0xd4d": "Cortex-A715",
        "0xd80": "Cortex-A520",
        "0xd81": "Cortex-A720",
    },
    "0x4e": {"0x003": "Denver 2", "0x004": "Carmel"},
}
"""Implementer -> part -> name, as Arm and NVIDIA number them (MIDR_EL1); 64-bit kernels print numbers only."""

FEATURES = {
    "aarch64": ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
    "x86_64": ("sse4_2", "avx2", "avx512_vnni", "avx_vnni", "amx_int8"),
}
"""Machine -> what the engines have faster integer kernels for, from the usual to the rare; words of /proc/cpuinfo."""


def read_text(path: Path) -> str | None:
    """Return a file of the kernel as text without zero bytes and outer blanks; None where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").replace("\0", "").strip()
    except OSError:
        return None


def cpu_info(root: Path = ROOT) -> dict[str, str]:
    """Return the first value of each key of /proc/cpuinfo; of the first core, where cores differ."""
    facts: dict[str, str] = {}
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    return facts


def cpu_features(info: dict[str, str]) -> frozenset[str]:
    """Return the features of `cpu_info`, in the kernel's words."""
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def board(root: Path = ROOT) -> str | None:
    """Return the board's name from its device tree, such as "Raspberry Pi 5 Model B Rev 1.0"; None on a PC."""
    return read_text(root / "proc/device-tree/model") or cpu_info(root).get("Model") or None


def cpu_name(root: Path = ROOT) -> str:
    """Return the processor's name: of the board and its core where there is a board, else what the kernel calls it."""
    info = cpu_info(root)
    parts = CORES.get(info.get("CPU implementer", ""), {})
    core = info.get("model name") or parts.get(info.get("CPU part", ""))
    if core is None and "CPU part" in info:
        core = f"CPU {info.get('CPU implementer', '?')}/{info['CPU part']}"
    if core is None:
        import platform

        core = platform.processor() or platform.machine() or "unknown processor"
    name = board(root)
    return " ".join((f"{name}, {core}" if name else core).split())


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(root: Path = ROOT) -> int | None:
    """Return how much memory this process could still take, bytes; None where nobody says.

    The least of three: what the machine has, what the process' control group may have (a service's ``MemoryMax``, a
    container's limit), and the process' own limit (``ulimit -v``).
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    left = [int(found[1]) * 1024] if found else []
    group = root / "sys/fs/cgroup" / _control_group(root)
    limit, used = (read_text(group / f"memory.{name}") or "" for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        # The kernel drops what it holds of files before it refuses memory.
        files = re.search(r"^inactive_file (\d+)", read_text(group / "memory.stat") or "", re.MULTILINE)
        left.append(max(0, int(limit) - int(used) + int(files[1] if files else 0)))
    try:
        import resource
    except ImportError:  # not a Unix
        return min(left, default=None)
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = (read_text(root / "proc/self/statm") or "").partition(" ")[0]
    if own != resource.RLIM_INFINITY and pages.isdigit():
        left.append(max(0, own - int(pages) * resource.getpagesize()))
    return min(left, default=None)


def _control_group(root: Path) -> str:
    """Return the process' place in the one hierarchy of control groups (version 2), "" where it is the top or none."""
    found = re.search(r"^0::/(.*)$", read_text(root / "proc/self/cgroup") or "", re.MULTILINE)
    return found[1] if found else ""


def package_version(module: str) -> str | None:
    """Return the version of an installed package, "unknown" where none is recorded beside it, None: not installed.

    From the name of its record, not through ``importlib.metadata``, whose own imports would cost each start 20 ms.
    """
    from importlib.util import find_spec

    spec = find_spec(module)
    if spec is None:
        return None
    for place in spec.submodule_search_locations or ():
        for record in sorted(Path(place).parent.glob(f"{module}-*.dist-info")):
            found = re.fullmatch(rf"{re.escape(module)}-([^-]+)\.dist-info", record.name)
            if found:
                return found[1]
    return "unknown"
