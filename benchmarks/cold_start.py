"""Cold start: run a command in fresh processes, from this small one, and print how long each took and its peak memory.

Usage: ``python cold_start.py RUNS COMMAND...``. It stands alone because a child begins with its parent's peak resident
set: started from a process that holds PyTorch, every command would seem to need as much.
"""

import json
import os
import subprocess
import sys
import time


def main(runs: int, command: list[str]) -> None:
    """Print {"seconds": [...], "rss_mb": [...], "printed": last output} as JSON."""
    seconds, rss_mb, printed = [], [], ""
    for _ in range(runs):
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            printed = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds.append(time.perf_counter() - started)
        rss_mb.append(usage.ru_maxrss / 1024)  # Linux: kilobytes
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    sys.stdout.write(json.dumps({"seconds": seconds, "rss_mb": rss_mb, "printed": printed}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
