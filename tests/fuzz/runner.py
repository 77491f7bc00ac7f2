"""Runner: hands numbers of cases to workers, and counts what became of them; a worker that dies is replaced.

What comes in are the kind, the numbers and the seed; what goes out is a `Tally`. Death by a signal, silence for too
long and everything that ``cases`` and ``worker`` call a finding are kept with the number of the case, which is all that
is needed to see it again: ``python -m tests.fuzz --kind bundles --first 4711 --cases 1``.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.fuzz.worker")
HANG_S = 120.0
"""A worker that says nothing for so long is ended, seconds."""


@dataclass
class Tally:
    """What became of all cases; `findings` are (number, mutators, what)."""

    cases: int = 0
    groups: Counter[str] = field(default_factory=Counter)
    mutators: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    engine_deaths: list[dict[str, Any]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[float, int] = (0.0, -1)

    def add(self, line: dict[str, Any]) -> None:
        """Count a worker's result."""
        result = line["result"]
        self.cases += 1
        self.groups[result["group"]] += 1
        self.mutators[result["mutators"][0]] += 1
        self.outcomes[result["outcome"]] += 1
        self.slowest = max(self.slowest, (round(line["seconds"], 2), result["number"]))
        self.largest = max(self.largest, (round(line["peak_mib"]), result["number"]))
        for what in result["findings"]:
            self.findings.append({"case": result["number"], "mutators": result["mutators"], "what": what})

    def died(self, number: int, stage: str, how: str) -> None:
        """Count a case that took its process along."""
        self.cases += 1
        found = {"case": number, "stage": stage, "what": how}
        if stage.startswith("engine: "):
            self.outcomes["engine died"] += 1
            self.engine_deaths.append(found)
        else:
            self.outcomes["process died"] += 1
            self.findings.append(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON takes them."""
        whats = [finding["what"] for finding in self.findings]
        return {
            "cases": self.cases,
            "by_group": dict(sorted(self.groups.items())),
            "by_mutator": dict(self.mutators.most_common()),
            "outcomes": dict(self.outcomes.most_common()),
            "answers": self.outcomes["answer"],
            "findings": len(self.findings),
            "crashes": sum(what.startswith("signal") for what in whats),
            "hangs": sum(what.startswith(("hang", "slow")) for what in whats),
            "tracebacks": sum(what.startswith("traceback") for what in whats),
            "engine_deaths": len(self.engine_deaths),
            "engine_deaths_by_how": dict(Counter(death["what"] for death in self.engine_deaths)),
            "engine_death_cases": [death["case"] for death in self.engine_deaths][:50],
            "slowest_s": self.slowest[0],
            "slowest_case": self.slowest[1],
            "peak_rss_mib": self.largest[0],
            "peak_rss_case": self.largest[1],
            "kept": self.findings[:100],
        }


class Numbers:
    """The numbers of cases, each handed out once, to whichever worker asks."""

    def __init__(self, first: int, count: int) -> None:
        self._left = iter(range(first, first + count))
        self._turn = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._turn:
            return next(self._left)


def fuzz(kind: str, first: int, count: int, seed: int, processes: int, progress: Callable[[Tally], object]) -> Tally:
    """Run cases.

    Args:
        kind: of `cases.KINDS`.
        first: number of the first case.
        count: how many.
        seed: of all cases.
        processes: workers at a time.
        progress: is called after each case.

    Returns:
        What became of them.
    """
    numbers, tally, turn = Numbers(first, count), Tally(), threading.Lock()

    def serve() -> None:
        worker: Worker | None = None
        for number in numbers:
            worker = worker or Worker(kind, seed)
            line = worker.run(number)
            with turn:
                if line is not None:
                    tally.add(line)
                else:
                    tally.died(number, worker.stage, worker.end)
                progress(tally)
            if line is None:
                worker = None
        if worker is not None:
            worker.close()

    threads = [threading.Thread(target=serve) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


class Worker:
    """A process of ``worker``.

    Attributes:
        stage: what it did last.
        end: how it ended, once it has.
    """

    def __init__(self, kind: str, seed: int) -> None:
        command = [*COMMAND, kind, str(seed)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._read = b""
        self.stage, self.end = "start", ""
        if self._result() is None:
            raise SystemExit(f"a worker did not start: {self.end}")

    def run(self, number: int) -> dict[str, Any] | None:
        """Run a case; return its line, or None where the process ended of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % number)
        return self._result()

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()

    def _result(self) -> dict[str, Any] | None:
        while True:
            text = self._line()
            if text is None:
                return None
            line: dict[str, Any] = json.loads(text)
            if "stage" not in line:
                return line
            self.stage = line["stage"]

    def _line(self) -> bytes | None:
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._process.stdout], [], [], HANG_S)
            chunk = self._process.stdout.read(65_536) if ready else b""
            if chunk:
                self._read += chunk
                continue
            if not ready:
                self._process.kill()
            status = self._process.wait()
            ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            self.end = ended if ready else f"hang: silent for {HANG_S:.0f} s"
            return None
        line, _, self._read = self._read.partition(b"\n")
        return line
