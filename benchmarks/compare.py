"""`python -m benchmarks compare A B`: is B slower than A? Two revisions or folders in, a verdict per workload out.

A and B run as processes of their own (``contest``): both on one and the same CPU, in turns, in an order shuffled round
by round. After a block of rounds both are started anew, by turns A or B first, with the hash seed of the block and
addresses as the system draws them: two processes of the same code differ by some tenths of a percent for as long as
they live, so that without restarts more rounds would only make an accident certain. What counts of a run is the time
that passed less the time that it waited while another program had its CPU: a busy machine makes a comparison less
sharp, not wrong. What the times mean is decided in ``permutation``. The level of false alarms holds for each workload.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.commands.opening import add_command
from edge_runtime.errors import LeukoscopeError, UsageError
from edge_runtime.guard import complain

from .contest import ContestError, Outcome, Way, contest
from .permutation import EFFECT, LEAST_BLOCKS, LEVEL, MARGIN, VERDICTS, effects, judge
from .revisions import ROOT, Side, open_side

if TYPE_CHECKING:
    from edge_runtime.commands.opening import Commands

EXAMPLES = f"""\
examples:
  python -m benchmarks compare main HEAD
  python -m benchmarks compare HEAD . --workload pixels --workload file
  python -m benchmarks compare v0.1.0 ../unpacked-wheel --seconds 60 --json > compared.json

Exit status: 0; 1 when B is slower in a workload, or something failed; 2 when the command makes no sense.
"Slower" and "faster" are by more than {100 * MARGIN:g} %, with at most {100 * LEVEL:g} % false alarms a workload.
"""

BLOCKS = 10
"""Of a comparison, where not told otherwise."""


@dataclass(frozen=True)
class Workload:
    """Something that is timed; its function in ``workloads`` has its name.

    Attributes:
        summary: for the help.
        picture: beneath the checkout; "" where a field is rendered.
        model: default bundle that answers.
        rounds: of a block.
        runs: of a turn, counted.
        not_counted: before these.
        warmup: runs of a fresh process before the first round.
    """

    summary: str
    picture: str
    model: str
    rounds: int
    runs: int
    not_counted: int
    warmup: int


WORKLOADS = {
    "pixels": Workload(
        "prepared pixels to Prediction", "samples/all-subtypes/early.jpg", "all-subtypes", 6, 4, 2, warmup=8
    ),
    "file": Workload("a JPEG file to Prediction", "samples/all-subtypes/early.jpg", "all-subtypes", 6, 4, 2, warmup=8),
    "scan": Workload("a rendered field to its cells", "", "blood-cells", 3, 1, 1, warmup=1),
    "start": Workload(
        "a fresh process to its JSON", "samples/all-subtypes/early.jpg", "all-subtypes", 3, 1, 0, warmup=1
    ),
}
"""Name -> what is timed."""


@dataclass(frozen=True, eq=False)
class Timed:
    """What was measured of A and B.

    Attributes:
        a_ms: (blocks, rounds, runs) float64, milliseconds of A that count.
        b_ms: likewise of B, in the same rounds.
        waited: share of all time that was waited for the CPU and does not count, 0..1; NaN: the system does not tell.
        answers: of A and B.
    """

    a_ms: npt.NDArray[np.float64]
    b_ms: npt.NDArray[np.float64]
    waited: float
    answers: tuple[Any, Any]


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    compare = add_command(
        commands,
        "compare",
        "say whether one revision is slower than another",
        "Time two revisions in turns and say whether B is slower than A. A and B are git revisions, or folders that "
        "hold an edge_runtime: a checkout, an unpacked wheel.",
        EXAMPLES,
    )
    compare.add_argument("a", metavar="A", help="revision or folder, what B is measured by")
    compare.add_argument("b", metavar="B", help="revision or folder")
    summaries = "; ".join(f"{name}: {workload.summary}" for name, workload in WORKLOADS.items())
    compare.add_argument(
        "--workload", action="append", choices=tuple(WORKLOADS), help=f"may be repeated; default: all. {summaries}"
    )
    effort = compare.add_mutually_exclusive_group()
    usual = ", ".join(f"{BLOCKS * workload.rounds} ({name})" for name, workload in WORKLOADS.items())
    effort.add_argument("--rounds", type=int, metavar="N", help=f"of each workload, to full blocks; default: {usual}")
    effort.add_argument("--seconds", type=float, metavar="S", help="for each workload, about, instead of --rounds")
    compare.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    compare.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    for name in ("rounds", "seconds"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e6:
            raise UsageError(f"--{name}", got=value, expected="more than 0, and less than 1000000")
    names = list(dict.fromkeys(options.workload or WORKLOADS))
    with tempfile.TemporaryDirectory(prefix="leukoscope-compare-") as folder:
        sides = [open_side(given, Path(folder, name)) for given, name in ((options.a, "a"), (options.b, "b"))]
        found, failed = [], False
        for name in names:
            try:
                found.append(compare(name, sides[0], sides[1], Path(folder), options.rounds, options.seconds))
            except LeukoscopeError as error:  # a revision of before `scan`, say: the others are compared all the same
                complain(str(error))
                failed = True
    if failed and not found:
        return LeukoscopeError.exit_status
    if options.json:
        told = {"a": _told(sides[0]), "b": _told(sides[1]), "level": LEVEL, "margin": MARGIN, "effect": EFFECT}
        sys.stdout.write(json.dumps({**told, "workloads": found}, indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(f"A: {sides[0].described}\nB: {sides[1].described}\n\n{table(found)}\n")
    for one in found:
        if not one["same_answer"]:
            complain(f"{one['workload']}: A and B give different answers", "warning")
    if any(one["waited"] is None for one in found):
        complain("this system does not tell who waits for a CPU: what other programs took of it counts", "warning")
    return int(failed or any(one["verdict"] == "slower" for one in found))


def compare(
    name: str, a: Side, b: Side, scratch: Path, rounds: int | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """Compare A and B by one workload.

    Args:
        name: of `WORKLOADS`.
        a: what B is measured by.
        b: the other.
        scratch: folder for a rendered field.
        rounds: rounded up to full blocks; default: `BLOCKS` of them.
        seconds: the first block says how many blocks that is; only where `rounds` is None.

    Returns:
        The finding, as JSON takes it.

    Raises:
        LeukoscopeError: A or B cannot be started, fails, or changes its answer.
    """
    workload = WORKLOADS[name]
    blocks = math.ceil(rounds / workload.rounds) if rounds is not None else None if seconds else BLOCKS
    timed = measure(name, a, b, scratch, blocks, seconds or 0.0)
    found = effects(timed.a_ms, timed.b_ms)
    finding = judge(found)
    known = finding.blocks >= LEAST_BLOCKS
    return {
        "workload": name,
        "verdict": finding.verdict,
        "ratio": round(finding.ratio, 5),
        "low": round(finding.low, 5) if known else None,
        "high": round(finding.high, 5) if known else None,
        "p": round(finding.p, 6),
        "a_ms": round(float(np.median(timed.a_ms)), 4),
        "b_ms": round(float(np.median(timed.b_ms)), 4),
        "rounds": finding.blocks * workload.rounds,
        "needed_rounds": finding.needed_blocks * workload.rounds,
        "block_ratios": [round(float(value), 5) for value in np.exp(found)],
        "waited": None if math.isnan(timed.waited) else round(timed.waited, 4),
        "same_answer": timed.answers[0] == timed.answers[1],
    }


def measure(name: str, a: Side, b: Side, scratch: Path, blocks: int | None, seconds: float = 0.0) -> Timed:
    """Time A and B in blocks of turns; arguments and errors as of `compare`, but `blocks`: None, as `seconds` say."""
    from tqdm import tqdm

    workload = WORKLOADS[name]
    picture = str(ROOT / workload.picture) if workload.picture else _field(scratch)
    cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    arguments = {"cpu": cpu, "picture": picture, "model": workload.model}
    taken: list[tuple[Outcome, Outcome]] = []
    started = time.monotonic()
    with tqdm(total=blocks, desc=name, unit="block", leave=False, disable=None) as bar:
        while blocks is None or len(taken) < blocks:
            taken.append(_block(name, a, b, arguments, len(taken)))
            if blocks is None:  # files were compiled in the first block, so that this is rather too few
                bar.total = blocks = max(1, int(seconds / (time.monotonic() - started)))
            bar.update()
    times = np.array([[one.times_ms for one in both] for both in taken])  # (blocks, 2, rounds, runs)
    waits = np.array([[one.waited_ms for one in both] for both in taken])
    counted = np.maximum(
        times - np.nan_to_num(waits), 1e-6
    )  # their clocks are read one after the other: never 0 or less
    answers = taken[-1][0].answer, taken[-1][1].answer
    return Timed(counted[:, 0], counted[:, 1], float(waits.sum() / times.sum()), answers)


def _block(name: str, a: Side, b: Side, arguments: dict[str, Any], number: int) -> tuple[Outcome, Outcome]:
    """Start A and B anew and let them take turns; return the outcomes of A and of B."""
    workload = WORKLOADS[name]
    ways = [
        Way(
            f"{letter} ({side.given})",
            Path(__file__).with_name("workloads.py"),
            name,
            {"folder": str(side.folder), **arguments},
            folder=side.folder,
            environment={"PYTHONHASHSEED": str(number)},
        )
        for letter, side in (("A", a), ("B", b))
    ]
    # The order of turns is the same in every block: where A and B change places from block to block, whatever the
    # place in the order does adds up to nothing.
    order = ways if number % 2 == 0 else ways[::-1]
    try:
        found = contest(order, workload.rounds, workload.runs, workload.not_counted, workload.warmup)
    except ContestError as error:
        raise LeukoscopeError(f"{name}: {error}") from None
    return found[ways[0].name], found[ways[1].name]


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return findings as a table for people."""
    head = ("workload", "B / A", f"{100 * (1 - LEVEL):g} % interval", "p", "A ms", "B ms", "verdict")
    rows = [head]
    for one in found:
        interval = "" if one["low"] is None else f"{one['low']:.3f} to {one['high']:.3f}"
        times = (f"{one['a_ms']:.2f}", f"{one['b_ms']:.2f}")
        rows.append((one["workload"], f"{one['ratio']:.3f}", interval, f"{one['p']:.2g}", *times, told(one)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def told(one: dict[str, Any]) -> str:
    """Return a finding's verdict in words."""
    if one["verdict"] != "unknown":
        return VERDICTS[one["verdict"]]
    why = "too noisy" if one["low"] is not None else "too few rounds"
    return f"{VERDICTS['unknown']}: {why}, needs about {one['needed_rounds']} rounds"


def _told(side: Side) -> dict[str, Any]:
    return {"given": side.given, "commit": side.commit or None, "changed": side.changed}


def _field(scratch: Path) -> str:
    """Render the field that is scanned; return its path."""
    from PIL import Image

    from train.render import render_field

    path = scratch / "field.png"
    if not path.exists():
        Image.fromarray(render_field("Early", np.random.default_rng(0)).pixels).save(path)
    return str(path)
