"""Side by side: this runtime and what else a user could take, timed in turns in one run.

What comes in are the rows of ``lineup``; what goes out is ``results/side-by-side.json``. A row whose environment is not
there, that fails, or that does not say what the full-precision network says is not timed, and its name and why stand
in the results. As MLPerf's single stream has it, one question is asked after the other: 1,024 of them, so that a 99th
percentile means something, or as many as take `MOST_S`. A ratio is of medians, its interval from a paired bootstrap
over the rounds that both took part in.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bench import thread_counts
from edge_runtime.commands.opening import add_command
from edge_runtime.errors import UsageError
from edge_runtime.files import write_text
from edge_runtime.machine import usable_cpus
from export.interleave import ratio

from .contest import ContestError, Outcome, contest
from .lineup import BARE, FILES, FLOOR, LEFT_OUT, ONE_CPU, RUNTIME, SERIES, THREADS, THROUGHPUT, UNJUDGED, Row
from .peer_models import MODELS, REFERENCE, make_models

if TYPE_CHECKING:
    from edge_runtime.commands.opening import Commands

RESULTS = Path(__file__).parent / "results" / "side-by-side.json"
RUNS, NOT_COUNTED = 16, 1
"""Of a turn: long enough that what others left in the caches is a small part of it."""

WARMUP = 10
SAMPLES, MOST_S = 1024, 60.0
"""Counted runs of each way, and after how many seconds of them it sits out the rest."""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    measure = add_command(commands, "side-by-side", "time this runtime beside all peers that are there")
    measure.add_argument("--samples", type=int, default=SAMPLES, help="timed runs of each way; default: %(default)s")
    measure.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure, write the results, then the tables."""
    from .cost import machine
    from .tables import write_pages

    if args.samples < 2 * RUNS:  # an interval needs two rounds
        raise UsageError("--samples", got=args.samples, expected=f"at least {2 * RUNS}")
    load = os.getloadavg()[0]  # of others, so before anything is made: what a busy machine says is little
    made = make_models()
    found: dict[str, Any] = {"machine": machine(), "load_before": load, "series": {}, "missing": dict(LEFT_OUT)}
    for name, rows in SERIES.items():
        found["series"][name] = {}
        rounds = math.ceil(args.samples / RUNS)
        for threads in thread_counts(usable_cpus()) if rows is THROUGHPUT else THREADS:
            sys.stderr.write(f"{name}, {threads} thread{'s' * (threads > 1)} ...\n")
            # At many pictures a run, fewer rounds see as many.
            measured, missing = measure_rows(rows, threads, rounds if rows is not THROUGHPUT else max(rounds // 8, 2))
            found["series"][name][str(threads)] = measured
            found["missing"] |= {f"{row} ({name})": why for row, why in missing.items()}
    found["missing"] |= {f"models: {name}": why for name, why in made.items()}
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    write_pages()
    sys.stderr.write(f"{RESULTS} and the pages' tables are written\n")


def measure_rows(rows: Sequence[Row], threads: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Let the rows that can run take turns.

    Args:
        rows: of one series.
        threads: of each; rows that are not measured with so many are passed over.
        rounds: of the contest.

    Returns:
        One entry for each way that was timed, and name -> why for those that were not.
    """
    wanted = json.loads((MODELS / REFERENCE).read_text(encoding="utf-8"))
    missing: dict[str, str] = {}
    alone: dict[str, Outcome] = {}  # loads and first runs: in the contest all load at once
    fit = []
    for row in rows:
        if row.threads and threads not in row.threads:
            continue
        why = row.missing()
        if not why:
            try:
                alone |= contest([row.way(threads)], 1, 1, 0, 0)
                why = _wrong(row, alone[row.name].answer, wanted)
            except ContestError as error:
                why = str(error).removeprefix(f"{row.name}: ")
        if why:
            missing[row.name] = why
        else:
            fit.append(row)
    if not fit:
        return [], missing
    runs, warmup = (2, 2) if fit[0] in THROUGHPUT else (RUNS, WARMUP)
    while True:
        try:
            outcomes = contest([row.way(threads) for row in fit], rounds, runs, NOT_COUNTED, warmup, MOST_S)
            return summaries(fit, outcomes, alone), missing
        except ContestError as error:  # one that fails later than at once must not cost the others their turns
            failed = next(row for row in fit if str(error).startswith(f"{row.name}: "))
            missing[failed.name] = str(error).removeprefix(f"{failed.name}: ")
            fit.remove(failed)


def _wrong(row: Row, answer: Any, wanted: Mapping[str, Any]) -> str:
    """Say how an answer is not the full-precision network's; "" where it is, or where another network was asked."""
    expected = (wanted["class"], wanted["labels"][wanted["class"]])
    if row.name.startswith(FLOOR):
        answer = answer[0]  # beside it: how far the pixels are off
    said = set(answer) if isinstance(answer, list) else {answer}
    if not row.network and not said <= set(expected):
        return f"it says {', '.join(map(str, sorted(said)))}, the full-precision network {expected[1]} ({expected[0]})"
    return ""


def summaries(
    rows: Sequence[Row], outcomes: Mapping[str, Outcome], alone: Mapping[str, Outcome]
) -> list[dict[str, Any]]:
    """Say what a contest found, row by row.

    Args:
        rows: that took part.
        outcomes: by name.
        alone: by name, of a process that had the machine to itself when it loaded.

    Returns:
        For each: what it is, its times, and its ratios to the ways that others are held against (time of this way by
        time of that).
    """
    medians = {name: np.median(outcome.times_ms, axis=1) for name, outcome in outcomes.items()}
    bases = [name for name in medians if name in (RUNTIME, UNJUDGED, ONE_CPU, BARE) or name.startswith(FLOOR)]
    found = []
    for row in rows:
        outcome = outcomes[row.name]
        times = outcome.times_ms[~np.isnan(outcome.times_ms)]
        p50, p90, p99 = np.percentile(times, (50, 90, 99))
        entry = {
            "name": row.name,
            "precision": row.precision,
            "gives": row.gives,
            "network": row.network,
            "load_ms": alone[row.name].load_ms,
            "first_ms": alone[row.name].first_ms,
            "samples": times.size,
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "peak_rss_mb": outcome.peak_rss_mb,
            "ratios": {base: _ratio(medians[row.name], medians[base]) for base in bases},
        }
        if row in FILES and row.name.startswith(FLOOR):
            entry["pixels_off"] = float(outcome.answer[1])
        if row in THROUGHPUT:
            answered = len(outcome.answer)
            entry |= {"pictures": answered, "pictures_per_s": 1000 * answered / p50}
        found.append({key: round(value, 6) if isinstance(value, float) else value for key, value in entry.items()})
    return found


def _ratio(times: npt.NDArray[np.float64], base: npt.NDArray[np.float64]) -> list[float]:
    """Return ratio, low and high of the rounds that both took part in."""
    both = ~np.isnan(times + base)
    return [round(value, 4) for value in ratio(times[both], base[both])]
