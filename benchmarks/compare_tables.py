"""Compare tables: the figures of ``docs/comparing.md``, from ``results/compare.json`` and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from train.layout import markdown

from .compare_proof import KINDS, plan
from .permutation import VERDICTS

RESULTS = Path(__file__).parent / "results" / "compare.json"


def proof_table() -> str:
    """What was planted, what was said of it, and which ratios were found."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = []
    for kind in KINDS:
        these = [one for one in found["comparisons"] if one["kind"] == kind]
        said = [sum(one["verdict"] == verdict for one in these) for verdict in VERDICTS]
        ratios = [one["ratio"] for one in these]
        spread = f"{np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        rows.append([f"{kind} %" if kind != "0" else "nothing", str(len(these)), *map(str, said), spread])
    head = ("planted", "comparisons", *VERDICTS.values(), "B / A found: median (all)")
    every = found["comparisons"]
    seconds, load = (np.median([one[key] for one in every]) for key in ("seconds", "load_before"))
    waits = [one["waited"] for one in every if one["waited"] is not None]
    waited = f"{100 * np.median(waits):.1f} % of" if waits else "an unknown share of"
    where = found["machine"]
    stopped = "" if len(every) == len(plan()) else f" Stopped after {len(every)} of {len(plan())} comparisons."
    return (
        f"{markdown(head, rows)}\n\n"
        f"Workload `{found['workload']}`, {every[0]['rounds']} rounds, on {where['cores']} cores of {where['cpu']}; a "
        f"comparison took {seconds:.0f} s. Medians of all comparisons: the machine's load before was {load:.1f}, and "
        f"{waited} the runs' time was waited for a CPU that other programs had.{stopped}"
    )


TABLES = {"compare": proof_table}
"""Place in the page -> what writes it."""
