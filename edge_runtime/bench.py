"""Bench: which engine, with how many threads, answers fastest on this very device; a bundle in, a `Bench` out.

What is timed is what a user waits for: inference and judging, which has a core of its own where the threads leave one.
A fast engine that is wrong must not win, so each candidate first runs the bundle's golden pictures, and one that fails
is not timed. The others are timed in turns, in another order every round: what heat, clocks and other programs do to
one they do to all. A turn is several runs, the first of which do not count: threads and caches have to find back after
another candidate's turn, which in use there is none of. Nothing is printed or remembered here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bundle import Bundle
from .classifier import Classifier
from .engines import ENGINES, MAX_THREADS, installed_engines
from .errors import EngineError
from .golden import verify
from .machine import package_version
from .preprocess import Pixels, decode, prepare

WARM_UP = 5
"""Runs of each candidate before the first round; not counted."""

SETTLE, TURN = 2, 3
"""Runs of a turn: not counted, then counted."""

STEADY = 1.5
"""A 90th percentile above so many medians says that the device was busy or throttled meanwhile."""

MARGIN = 0.05
"""Fewer threads are preferred where they cost no more than this share of the fastest: they leave cores to others, and
heat the board less."""


@dataclass(frozen=True)
class Row:
    """A candidate: an engine with a number of threads.

    Attributes:
        engine: of `engines.ENGINES`.
        version: of its package.
        threads: for one inference.
        error: why it was not timed: it cannot run the model, or failed the golden test; "" where it was.
        p50_ms: of one answer to prepared pixels, milliseconds; NaN where it was not timed. So are the others.
        p90_ms: likewise.
        p99_ms: likewise.
    """

    engine: str
    version: str
    threads: int
    error: str = ""
    p50_ms: float = float("nan")
    p90_ms: float = float("nan")
    p99_ms: float = float("nan")

    @property
    def steady(self) -> bool:
        """Return whether the times are close enough together to choose by."""
        return self.p90_ms <= STEADY * self.p50_ms

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            key: (None if value != value else round(value, 4)) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        bundle_id: of the bundle.
        rounds: each timed candidate had one turn in each.
        rows: the candidates, in the order of the engines' table.
        best: of `rows`; None where none passed.
    """

    bundle_id: str
    rounds: int
    rows: tuple[Row, ...]
    best: Row | None


def bench(bundle: Bundle, rounds: int, cpus: int, progress: Callable[[int, int], None] = lambda *_: None) -> Bench:
    """Time every installed engine that has a model in a bundle, with 1 thread to as many as there are CPUs.

    Args:
        bundle: open.
        rounds: at least 1.
        cpus: how many may be used.
        progress: called with (done, total) rounds.

    Raises:
        BundleError: a file of it is altered.
        EngineError: no engine is installed that could run it.
    """
    engines = [name for name in installed_engines() if ENGINES[name].model_name in bundle.models]
    if not engines:
        todo = " or ".join(row.install for row in ENGINES.values() if row.model_name in bundle.models)
        raise EngineError("no inference engine is installed", todo=todo)
    rows: list[Row] = []
    timed: dict[int, Classifier] = {}  # place in rows -> what is timed
    for name in engines:
        version = package_version(ENGINES[name].module) or "unknown"
        for threads in thread_counts(cpus):
            classifier, error = _candidate(bundle, name, threads)
            if classifier is not None:
                timed[len(rows)] = classifier
            rows.append(Row(name, version, threads, error))
    pixels = _golden_pixels(bundle)
    runs = {place: _runner(classifier, pixels) for place, classifier in timed.items()}
    times_ms = interleaved(runs, rounds, progress)
    for place, values in times_ms.items():
        p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
        row = rows[place]
        rows[place] = Row(row.engine, row.version, row.threads, "", p50, p90, p99)
    return Bench(bundle.id, rounds, tuple(rows), best_of(rows))


def thread_counts(cpus: int) -> tuple[int, ...]:
    """Return the numbers of threads to try: 1, 2, 3, 4, then doubled, and all CPUs."""
    counts = [count for count in (1, 2, 3, 4, 8, 16, 32) if count < cpus]
    return (*counts, min(cpus, MAX_THREADS))


def best_of(rows: Sequence[Row]) -> Row | None:
    """Return the candidate with the fewest threads among those within `MARGIN` of the fastest; None: none was timed."""
    timed = [row for row in rows if not row.error]
    if not timed:
        return None
    limit = min(row.p50_ms for row in timed) * (1 + MARGIN)
    return min((row for row in timed if row.p50_ms <= limit), key=lambda row: (row.threads, row.p50_ms))


def interleaved(
    runs: dict[int, Callable[[], object]], rounds: int, progress: Callable[[int, int], None]
) -> dict[int, list[float]]:
    """Give each of `runs` a turn a round, in another order each time, after `WARM_UP` calls of each.

    Returns:
        Milliseconds of the counted calls, by key.
    """
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    order, shuffle = list(runs), random.Random(0).shuffle
    times_ms: dict[int, list[float]] = {key: [] for key in order}
    for done in range(rounds):
        progress(done, rounds)
        shuffle(order)
        for key in order:
            for _ in range(SETTLE):
                runs[key]()
            for _ in range(TURN):
                start = time.perf_counter()
                runs[key]()
                times_ms[key].append(1000.0 * (time.perf_counter() - start))
    return times_ms


def _candidate(bundle: Bundle, engine: str, threads: int) -> tuple[Classifier | None, str]:
    """Open a candidate and hold it to the golden pictures: (classifier, "") or (None, why not)."""
    try:
        classifier = Classifier.open(bundle, engine, threads)
        report = verify(classifier)
    except EngineError as error:
        return None, str(error)
    if report.passed:
        return classifier, ""
    failed = sum(not case.passed for case in report.cases)
    return None, f"wrong: {failed} of {len(report.cases)} golden pictures failed"


def _golden_pixels(bundle: Bundle) -> Pixels:
    picture = bundle.manifest.golden.cases[0][0]
    return prepare(decode(bundle.read(picture), picture), bundle.manifest.preprocess)


def _runner(classifier: Classifier, pixels: Pixels) -> Callable[[], object]:
    return lambda: classifier.classify_pixels(pixels)
