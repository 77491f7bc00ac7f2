"""Room: how much memory this process may still take before the kernel ends it, or somebody else.

What comes in are the kernel's files below a root, ``/`` unless a test says otherwise; what goes out is a number of
bytes: what the machine has available, or less where a control group (a container, a systemd unit) or the process itself
(``ulimit -v``) has a limit. Linux grants memory that is not there and kills whoever touches it, so a large picture has
to ask before. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .machine import ROOT, read_text

_V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "")
"""Where control groups are, their limit, what they use, and how the keys of their memory.stat begin."""


def room_bytes(root: Path = ROOT) -> int | None:
    """Return how many bytes may still be taken; None where nobody says (no Linux, no /proc)."""
    known = [_available(root), *_left_in_groups(root), _left_to_itself(root)]
    return min((number for number in known if number is not None), default=None)


def _available(root: Path) -> int | None:
    facts = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE))
    if "MemAvailable" not in facts:
        return None
    return 1024 * (int(facts["MemAvailable"]) + int(facts.get("SwapFree", 0)))


def _left_in_groups(root: Path) -> Iterator[int]:
    own = read_text(root / "proc/self/cgroup") or ""
    for pattern, (top, limit, used, prefix) in ((r"^\d+:memory:/(.*)$", _V1), (r"^0::/(.*)$", _V2)):
        found = re.search(pattern, own, re.MULTILINE)
        # In a container the path is the host's, and what is seen at the top is the container's own group.
        path = root / top / (found[1] if found else "")
        while path.is_relative_to(root / top):
            limit_bytes, used_bytes = _number(path / limit), _number(path / used)
            if limit_bytes is not None and used_bytes is not None:
                yield max(0, limit_bytes - used_bytes + _cached(path, prefix))
            path = path.parent


def _left_to_itself(root: Path) -> int | None:
    """Return what the process' own limit (``ulimit -v``) leaves it."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = (read_text(root / "proc/self/statm") or "").partition(" ")[0]
    if own == resource.RLIM_INFINITY or not pages.isdecimal():
        return None
    return max(0, own - int(pages) * resource.getpagesize())


def _number(path: Path) -> int | None:
    text = read_text(path) or ""
    return int(text) if text.isdecimal() else None  # "max": no limit


def _cached(group: Path, prefix: str) -> int:
    """Return what a group uses for copies of files, which the kernel gives up when memory is asked for."""
    facts = dict(re.findall(r"^(\w+) (\d+)$", read_text(group / "memory.stat") or "", re.MULTILINE))
    return sum(int(facts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
