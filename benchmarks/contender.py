"""Contender: one way of doing something, alone in its process; `contest` starts it and tells it when to run.

    python contender.py FILE FUNCTION ARGUMENTS

FILE holds FUNCTION, which takes ARGUMENTS (a JSON object) as keywords and returns (run, tell): ``run()`` is what is
timed; ``tell`` turns what it returned into its answer, anything JSON can hold. FUNCTION loads the model, and imports
what it needs, so that this is timed, too. Every run has to give the answer of the first one: a way that is fast and
wrong must not win.

Each line of standard input, ``[runs, not counted]``, is one turn. Each line of standard output is a JSON object: first
what loading and the first run took, then each turn's nanoseconds, and how many of them the run waited for a CPU that
another program had (NaN where the system does not tell). This file stands alone (standard library only), because ways
that are compared may need different environments, or none of this project's.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def main(file: str, function: str, arguments: str) -> None:
    """Load, run once, then take turns until standard input ends."""
    # Whatever an engine prints goes to standard error: the other end of this pipe expects nothing but JSON.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)

        def say(found: dict[str, Any]) -> None:
            pipe.write(json.dumps({**found, "peak_rss_mb": _peak_rss_mb()}) + "\n")
            pipe.flush()

        try:
            _take_turns(_load(file, function), json.loads(arguments), say)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side has to hear of it
            say({"error": f"{type(error).__name__}: {error}"})


def _load(file: str, function: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("way", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[..., Any] = getattr(module, function)
    return made


def _take_turns(make: Callable[..., Any], arguments: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    started = time.perf_counter_ns()
    run, tell = make(**arguments)
    loaded = time.perf_counter_ns()
    first = run()
    answered = time.perf_counter_ns()
    answer = tell(first)
    say({"load_ns": loaded - started, "first_ns": answered - loaded, "answer": answer})
    waited_ns = _waits()
    for line in sys.stdin:
        runs, not_counted = json.loads(line)
        times, waits = [], []
        for place in range(not_counted + runs):
            # Programs are interrupted above all where a system call ends: clock, account, run, clock, account, so that
            # what is waited when an account has been read is counted to time and waits alike, or to none of them.
            start = time.perf_counter_ns()
            before = waited_ns()
            found = run()
            end = time.perf_counter_ns()
            waited = waited_ns() - before
            if tell(found) != answer:
                raise ValueError(f"another answer: {tell(found)}, before {answer}")
            if place >= not_counted:
                times.append(end - start)
                waits.append(waited)
        say({"ns": times, "waited_ns": waits})


def _waits() -> Callable[[], float]:
    """Return what tells how long the main thread could run and was not let, ns; NaN: the system tells nothing."""
    try:
        account = os.open("/proc/self/schedstat", os.O_RDONLY)
        ran_ns, _, _ = map(int, os.pread(account, 100, 0).split())
    except (OSError, ValueError):
        ran_ns = 0
    if not ran_ns:  # a kernel that keeps no such accounts has zeros there
        return lambda: math.nan
    return lambda: int(os.pread(account, 100, 0).split()[1])


def _peak_rss_mb() -> float:
    """Peak resident memory of this program, MB; not of the parent that it was forked from, as ru_maxrss may be."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    # Python puts this file's folder first: what lies beside it must not stand in for packages of the same name.
    sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.realpath(__file__))]
    main(*sys.argv[1:])
