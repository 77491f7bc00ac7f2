"""Worker: runs cases one after the other in a process that may die of them.

What comes in on standard input are numbers of cases; what goes out on standard output are lines of JSON: what is done
next, and what became of the case, with its time and the peak of its memory. The address space is limited, as a small
board's memory is. A case that takes too long is a finding; one that takes for ever is for ``runner`` to end.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .cases import KINDS

MEMORY_MIB = 1024
"""What a process may take for a case beyond what it has after its start: a board with 1 GB has no more."""

CPU_LIMIT_S = 20.0


def peak_mib() -> float:
    """Return the peak of the resident set since `reset_peak`."""
    rows = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(row for row in rows if row.startswith("VmHWM")).split()[1]) / 1024


def reset_peak() -> None:
    """Let the kernel measure the peak anew, from here."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def limit_memory(mib: int) -> None:
    """Limit the address space to what it is now and `mib` more."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Work until there are no more numbers: ``python -m tests.fuzz.worker KIND SEED``."""
    kind, seed = sys.argv[1], int(sys.argv[2])
    answers = open(os.dup(1), "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - for good
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def say(**facts: Any) -> None:
        answers.write(json.dumps(facts) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        os.environ["LEUKOSCOPE_CONFIG"] = str(Path(folder) / "device.json")
        cases = KINDS[kind](Path(folder))
        for number in (-1, -2):  # what is loaded once is loaded before memory is measured
            cases.run(seed, number, lambda stage: None)
        limit_memory(MEMORY_MIB)
        say(ready=True)
        for line in sys.stdin:
            number = int(line)
            reset_peak()
            before_mib, began_s = peak_mib(), time.process_time()
            result = cases.run(seed, number, lambda stage, number=number: say(number=number, stage=stage))
            seconds = time.process_time() - began_s
            if seconds > CPU_LIMIT_S:
                result.findings.append(f"slow: {seconds:.1f} s")
            say(
                result=dataclasses.asdict(result),
                seconds=seconds,
                peak_mib=peak_mib(),
                growth_mib=peak_mib() - before_mib,
            )


if __name__ == "__main__":
    main()
