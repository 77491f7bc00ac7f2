"""`python -m benchmarks.compare_proof`: does `compare` find what is there, and nothing where nothing is?

What comes in is this checkout's ``edge_runtime``, compared with itself and with copies that are slower by a known
share; what goes out is ``results/compare.json``. A copy is made slower by spinning after each `classify_pixels` for a
share of the processor time that the call itself took: a real revision, slower by just that share whatever the machine
does meanwhile. All comparisons are those of the command, with its defaults, one after the other, the kinds mixed. Each
is written as soon as it is done; a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.files import write_text
from edge_runtime.guard import Parser, guarded

from .compare import compare
from .cost import machine
from .revisions import ROOT, Side, open_side

RESULTS = Path(__file__).parent / "results" / "compare.json"
UNFINISHED = RESULTS.with_suffix(".json.part")
WORKLOAD = "pixels"

SLOWER = """

def _slowed(classify_pixels, share):
    def slow(self, pixels):
        start = time.thread_time()
        found = classify_pixels(self, pixels)
        end = start + (1 + share) * (time.thread_time() - start)
        while time.thread_time() < end:
            pass
        return found

    return slow


Classifier.classify_pixels = _slowed(Classifier.classify_pixels, {share!r})
"""


@dataclass(frozen=True)
class Kind:
    """Comparisons of one kind.

    Attributes:
        a: share by which A is made slower, 0 for not at all.
        b: likewise B.
        count: how many.
        finds: the verdicts that are right.
    """

    a: float
    b: float
    count: int
    finds: tuple[str, ...]


KINDS = {
    "0": Kind(0.0, 0.0, 100, ("same", "unknown")),
    "+3": Kind(0.0, 0.03, 5, ("slower",)),
    "+5": Kind(0.0, 0.05, 20, ("slower",)),
    "+10": Kind(0.0, 0.10, 5, ("slower",)),
    "-5": Kind(1 / 0.95 - 1, 0.0, 5, ("faster",)),
}
"""By how many percent B is slower -> how that is made, and how often it is compared."""


def plan() -> list[tuple[str, int]]:
    """Return (kind, number) of all comparisons, each kind spread over the whole."""
    every = [(kind, number) for kind, row in KINDS.items() for number in range(row.count)]
    return sorted(every, key=lambda one: ((one[1] + 0.5) / KINDS[one[0]].count, one[0]))


def slow_down(folder: Path, share: float) -> None:
    """Make the ``edge_runtime`` of a folder slower: `classify_pixels` takes (1 + share) times as long."""
    with (folder / "edge_runtime" / "classifier.py").open("a", encoding="utf-8") as file:
        file.write(SLOWER.format(share=share))


def main() -> int:
    """Run the command line; return its exit status."""
    parser = Parser(prog="python -m benchmarks.compare_proof", description=__doc__, allow_abbrev=False)
    parser.set_defaults(run=lambda _: _prove())
    return guarded(parser)


def _prove() -> None:
    from tqdm import tqdm

    from .tables import write_pages

    found: dict[str, Any] = {"machine": machine(), "workload": WORKLOAD, "comparisons": []}
    if UNFINISHED.exists():
        found = json.loads(UNFINISHED.read_text(encoding="utf-8"))
    done = {(one["kind"], one["number"]) for one in found["comparisons"]}
    with tempfile.TemporaryDirectory(prefix="leukoscope-compare-proof-") as scratch:
        sides: dict[tuple[str, float], Side] = {}
        for kind, number in tqdm(plan(), desc="compare", unit="comparison", disable=None):
            if (kind, number) in done:
                continue
            shares = {"a": KINDS[kind].a, "b": KINDS[kind].b}
            for side in shares.items():
                if side not in sides:
                    sides[side] = open_side(str(ROOT), Path(scratch, f"{side[0]}{len(sides)}"))
                    slow_down(sides[side].folder, side[1]) if side[1] else None
            start, load = time.monotonic(), os.getloadavg()[0]
            one = compare(WORKLOAD, *(sides[side] for side in shares.items()), Path(scratch))
            seconds = round(time.monotonic() - start, 2)
            told = {"kind": kind, "number": number, "seconds": seconds, "load_before": round(load, 2)}
            found["comparisons"].append({**told, **one})
            write_text(UNFINISHED, json.dumps(found, indent=1) + "\n")
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    UNFINISHED.unlink()
    write_pages()
    sys.stderr.write(f"{RESULTS} and the pages' tables are written\n")


if __name__ == "__main__":
    sys.exit(main())
