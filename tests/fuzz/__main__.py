"""Fuzz: ``python -m tests.fuzz --kind pictures --cases 10000``; every case can be run again by its number.

Figures of a full run go to ``benchmarks/results/fuzz.json`` (``--save``); findings are written to standard error.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_runtime.files import write_text
from edge_runtime.guard import Parser, guarded

from .cases import KINDS
from .runner import ROOT, Tally, fuzz
from .worker import MEMORY_MIB

RESULTS = ROOT / "benchmarks" / "results" / "fuzz.json"
PACKAGES = ("pillow", "numpy", "ai-edge-litert", "onnxruntime", "openslide-bin")


def main() -> int:
    """Run the command line; return its exit status."""
    parser = Parser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--cases", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first case; default: 0")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="workers; default: %(default)s")
    parser.add_argument("--save", action="store_true", help=f"write the figures to {RESULTS.relative_to(ROOT)}")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    began_s = time.monotonic()
    with tqdm(total=options.cases, desc=options.kind, unit="case", disable=None) as bar:
        shown = 0

        def progress(tally: Tally) -> None:
            nonlocal shown
            for finding in tally.findings[shown:]:
                bar.write(str(finding), file=sys.stderr)
            shown = len(tally.findings)
            bar.set_postfix(findings=len(tally.findings), engine=len(tally.engine_deaths), refresh=False)
            bar.update()

        tally = fuzz(options.kind, options.first, options.cases, options.seed, options.processes, progress)
    found = {
        "first": options.first,
        "seed": options.seed,
        "memory_limit_mib": MEMORY_MIB,
        "minutes": round((time.monotonic() - began_s) / 60, 1),
        **tally.to_dict(),
    }
    if options.save:
        _save(options.kind, found, RESULTS)
    else:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 1 if tally.findings else 0


def _save(kind: str, found: dict[str, Any], path: Path) -> None:
    """Put the figures of one kind in the place of its older ones."""
    whole = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    versions = {package: version(package) for package in PACKAGES}
    whole |= {kind: {"versions": versions, "python": platform.python_version(), **found}}
    write_text(path, json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
