"""Command line of export: one run in, one bundle out, the parity table in between."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.errors import UsageError
from edge_runtime.guard import guarded

from .recipes import CALIBRATION_IMAGES, RECIPES

EXAMPLES = """examples:
  python -m export work/run --recipe int8 --out work/bundle
  python -m export work/run --recipe fp32 --out work/reference --force

exit status: 0 written; 1 a gate or a stage failed; 2 wrong usage.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="From a run folder to a bundle, with proof of what it kept. Research software, not a diagnosis.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipes = "; ".join(f"{row.name}: {row.title}" for row in RECIPES.values())
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, fitted and evaluated")
    parser.add_argument("--recipe", choices=list(RECIPES), required=True, help=recipes)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="bundle folder to write")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="where the run's index lies now, if it was moved")
    parser.add_argument(
        "--calibration-images", type=int, default=CALIBRATION_IMAGES, metavar="N", help=f"default {CALIBRATION_IMAGES}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the calibration set (default 0)")
    parser.add_argument("--allow-degraded", action="store_true", help="write the bundle although a gate failed, marked")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> None:
    from train.run_folder import read_run

    from .pack import check_out, write_bundle
    from .parity import format_table
    from .pipeline import export_run

    if args.calibration_images < 1 or args.seed < 0:
        raise UsageError("--calibration-images must be at least 1 and --seed at least 0")
    check_out(args.out, args.force)  # before minutes of work
    run = read_run(args.run_folder)
    export = export_run(
        run, RECIPES[args.recipe], args.index, args.calibration_images, args.seed, go_on=args.allow_degraded
    )
    sizes = {name: len(content) for name, content in export.models.items()}
    if not args.json:
        print(f"{export.name}: parity on the test split\n{format_table(export.rows)}")
        for name, size_bytes in sizes.items():
            print(f"{name}: {size_bytes / 1e6:.2f} MB")
        sys.stdout.flush()
    found = {"name": export.name, "passed": export.passed, "rows": [row.to_dict() for row in export.rows]}
    try:
        bundle = write_bundle(export, args.out, args.allow_degraded, args.force)
    finally:
        if args.json:
            written = args.out.is_dir() and export.models and (export.passed or args.allow_degraded)
            print(json.dumps(found | {"models": sizes, "bundle": str(args.out) if written else None}, indent=2))
    if not args.json:
        mark = "" if export.passed else ", DEGRADED: a gate failed"
        print(f"{bundle.id}: {bundle.size_bytes / 1e6:.2f} MB -> {args.out}{mark}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return guarded(build_parser(), arguments)
