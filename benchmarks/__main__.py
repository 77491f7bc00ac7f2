"""`python -m benchmarks`: measure everything and write ``results/cost.json``, then the README's tables."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edge_runtime.files import write_text
from edge_runtime.guard import guarded

RESULTS = Path(__file__).parent / "results" / "cost.json"


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="timed runs of each way (default 500)")
    parser.add_argument("--processes", type=int, default=30, help="fresh processes (default 30)")
    parser.set_defaults(run=_measure)
    return guarded(parser)


def _measure(args: argparse.Namespace) -> None:
    from edge_runtime.bundle import default_bundles

    from . import cost
    from .tables import write_pages

    found: dict[str, object] = {"machine": cost.machine()}
    names = list(default_bundles())
    for title, measure in (
        ("class_map", lambda name: [cost.class_map_cost(name, args.rounds, threads) for threads in (1, 2)]),
        (
            "inference",
            lambda name: [cost.inference_cost(name, max(args.rounds // 5, 20), threads) for threads in (1, 2)],
        ),
        ("answer", lambda name: cost.answer_cost(name, cost.sample(name), args.rounds)),
        ("command", lambda name: cost.command_cost(name, cost.sample(name), args.processes)),
    ):
        sys.stderr.write(f"{title} ...\n")
        found[title] = {name: measure(name) for name in names}
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    write_pages()
    sys.stderr.write(f"{RESULTS} and the README's tables are written\n")


sys.exit(main())
