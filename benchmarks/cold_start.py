"""Cold start: run commands in fresh processes, in turns, from this small one; print how long each took and its memory.

Usage: ``python cold_start.py RUNS COMMANDS``, the latter a JSON object: name -> list of arguments. It stands alone
because what the kernel says of a child's peak resident memory (``wait4``; its ``VmHWM`` is gone when it ends) is never
less than what the process it was started from held: from one that holds PyTorch, every command would seem to need as
much. It is a maximum, no sum, so this program's own memory, printed as ``floor_rss_mb``, adds nothing to a larger one.
A command that fails is not started again, and why stands in its place.
"""

import json
import os
import subprocess
import sys
import time


def main(runs: int, commands: dict[str, list[str]]) -> None:
    """Print {"floor_rss_mb": ..., "found": {name: {"seconds": [], "rss_mb": [], "printed": "", "failed": ""}}}."""
    found = {name: {"seconds": [], "rss_mb": [], "printed": "", "failed": ""} for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            one = found[name]
            if one["failed"]:
                continue
            started = time.perf_counter()
            try:
                one["printed"], rss_mb = _run(command)
            except OSError as error:
                one["failed"] = str(error)
                continue
            one["seconds"].append(time.perf_counter() - started)
            one["rss_mb"].append(rss_mb)
    sys.stdout.write(json.dumps({"floor_rss_mb": _run(["true"])[1], "found": found}))


def _run(command: list[str]) -> tuple[str, float]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise OSError(f"exit status {process.returncode}")
    return printed, usage.ru_maxrss / 1024  # Linux: kilobytes


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
