"""How much memory may still be taken: the least of what machine, control groups and the process' own limit leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.room import room_bytes

GROUPS = (
    # (files below the root, bytes that are left)
    ({"proc/meminfo": "MemAvailable:  1000 kB\nSwapFree:  24 kB"}, 1024 * 1024),
    ({}, None),
    ({"proc/meminfo": "nonsense"}, None),
    (
        {
            "proc/meminfo": "MemAvailable:  1000000 kB",
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/memory.max": "max",
            "sys/fs/cgroup/a/b/memory.current": "700",
            "sys/fs/cgroup/a/memory.max": "1000",
            "sys/fs/cgroup/a/memory.current": "900",
            "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 30\nactive_file 20\n",
        },
        150,
    ),
    (
        {  # a container: the path is the host's
            "proc/self/cgroup": "4:memory:/docker/1\n0::/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1200",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 30\ninactive_file 9999",
        },
        0,
    ),
)


@pytest.mark.parametrize(("files", "left"), GROUPS)
def test_room_is_what_the_tightest_group_leaves(tmp_path: Path, files: dict[str, str], left: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert room_bytes(tmp_path) == left


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space is Linux' own")
def test_memory_heeds_the_process_own_limit() -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30));"
        "from edge_runtime.room import room_bytes; print(room_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**29 < int(done.stdout) < 2**30
