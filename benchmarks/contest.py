"""Contest: several ways of doing the same thing, each in a process of its own, timed in turns.

What comes in are `Way`s, which may belong to different environments or even to different revisions of this project;
what goes out are the times of each, round by round. In a round every way has one turn, in an order shuffled anew, so
that heat, clocks and other programs hit all alike, and rounds can be compared in pairs. A turn is several runs; the
first ones are not counted, for caches and threads have to find back after the others' turns. The next turn begins when
no thread of the last way's runs any more: an engine's pool looks out for more work for up to 50 ms, on a CPU that
others need. What a way does and how its answer is checked is in ``contender``; what the times mean is for those who
asked.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CONTENDER = Path(__file__).with_name("contender.py")

PATIENCE_S = 600.0
"""How long loading, or a turn, may take."""

REST_S = 0.5
"""How long is waited, at most, for threads that go on after a turn."""


class ContestError(Exception):
    """A way could not be started, failed, or changed its answer; the message names it."""


@dataclass(frozen=True)
class Way:
    """One way of doing something.

    Attributes:
        name: as in tables.
        file: Python file that holds `function`.
        function: returns (run, tell); see ``contender``.
        arguments: its keywords; JSON takes them.
        python: interpreter of the environment it needs.
        folder: working directory, and the first place where its imports are looked for.
        environment: variables beside those of this process.
    """

    name: str
    file: Path
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    folder: Path = Path(__file__).resolve().parent.parent
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was measured of one way.

    Attributes:
        load_ms: from nothing imported to ready, milliseconds.
        first_ms: of the first run.
        times_ms: (rounds, runs) float64, of every counted run; NaN in rounds that it sat out.
        waited_ms: (rounds, runs) float64, how much of that it waited for a CPU that other programs had; NaN where the
            system does not tell.
        answer: what the way said, the same in every run.
        peak_rss_mb: of its process, MB.
    """

    load_ms: float
    first_ms: float
    times_ms: npt.NDArray[np.float64]
    waited_ms: npt.NDArray[np.float64]
    answer: Any
    peak_rss_mb: float


def contest(
    ways: Sequence[Way],
    rounds: int,
    runs: int = 3,
    not_counted: int = 2,
    warmup: int = 10,
    most_s: float = math.inf,
) -> dict[str, Outcome]:
    """Let ways take turns.

    Args:
        ways: with different names.
        rounds: in each of which every way has one turn.
        runs: of a turn, counted.
        not_counted: before these.
        warmup: runs of each way before the first round.
        most_s: a way whose counted runs have taken so many seconds sits out the other rounds.

    Returns:
        By name, in the order of `ways`.

    Raises:
        ContestError: a way could not be started, failed, took too long, or gave another answer than at first.
    """
    from tqdm import tqdm

    order, shuffle = list(range(len(ways))), np.random.default_rng(0).shuffle
    times = np.full((len(ways), rounds, runs, 2), np.nan)
    left_ns = [1e9 * most_s] * len(ways)
    with ExitStack() as stack:
        contenders = [stack.enter_context(_Contender(way)) for way in ways]
        ready = [contender.hear() for contender in contenders]
        for contender in contenders:
            contender.turn(0, warmup)
        last: list[dict[str, Any]] = ready
        for done in tqdm(range(rounds), desc="contest", unit="round", leave=False, disable=None):
            shuffle(order)
            for place in order:
                if left_ns[place] <= 0:
                    continue
                last[place] = last[place] | contenders[place].turn(runs, not_counted)
                times[place, done, :, 0], times[place, done, :, 1] = last[place]["ns"], last[place]["waited_ns"]
                left_ns[place] -= sum(last[place]["ns"])
    return {
        way.name: Outcome(
            found["load_ns"] / 1e6,
            found["first_ns"] / 1e6,
            times[place, ..., 0] / 1e6,
            times[place, ..., 1] / 1e6,
            found["answer"],
            found["peak_rss_mb"],
        )
        for place, (way, found) in enumerate(zip(ways, last, strict=True))
    }


class _Contender:
    """A way's process. What it writes to standard error is kept, for the message should it end."""

    def __init__(self, way: Way) -> None:
        self.way = way

    def __enter__(self) -> _Contender:
        way = self.way
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        try:
            self._process = subprocess.Popen(
                [way.python, str(CONTENDER), str(way.file), way.function, json.dumps(way.arguments)],
                cwd=way.folder,
                env={**os.environ, "PYTHONPATH": str(way.folder), **way.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
        except OSError as error:
            self._said.close()
            raise ContestError(f"{way.name}: cannot be started: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes and waits
        self._said.close()

    def turn(self, runs: int, not_counted: int) -> dict[str, Any]:
        """Give it a turn; return what it measured."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"[{runs}, {not_counted}]\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why it ended, `hear` finds out
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Return what it says next, when its threads have come to rest."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE_S)[0]:
            raise ContestError(f"{self.way.name}: no answer for {PATIENCE_S:g} s")
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._said.seek(0)
            lines = self._said.read().split("\n")
            last = next((text for text in reversed(lines) if text.strip()), "nothing on standard error")
            raise ContestError(f"{self.way.name}: ended with status {status}: {last}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise ContestError(f"{self.way.name}: {found['error']}")
        end = time.monotonic() + REST_S
        while _runs(self._process.pid) and time.monotonic() < end:
            time.sleep(0.001)
        return found


def _runs(process: int) -> bool:
    """Say whether a thread of a process has a CPU, or waits for one or a disk; False where the system does not tell."""
    try:
        states = [
            stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{process}/task").glob("*/stat")
        ]
    except OSError:  # one of them has just ended
        return True
    return "R" in states or "D" in states
