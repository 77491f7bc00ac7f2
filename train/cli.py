"""Command line of training: one subcommand per step, each a thin call into the module that does it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.errors import UsageError
from edge_runtime.guard import Parser, complain, guarded

from .errors import DataError
from .index import PROTOCOLS
from .tasks import TASKS

EXAMPLES = """examples:
  python -m train index --task all-subtypes --data DATA --out work/all-subtypes
  python -m train split work/all-subtypes --seed 0
  python -m train index --describe work/all-subtypes
  python -m train fit work/all-subtypes --protocol grouped --weights imagenet --out work/run
  python -m train evaluate work/run
  python -m train audit work/run
  python -m train explain work/run smears/ --method gradcam lime --out work/explain
  python -m train audit-heatmaps work/run --method class-map lime
  python -m train external work/run work/another-laboratory
  python -m train report work/run --out report.html
  python -m train compare work/run work/run-2 --out work/compare
  python -m train render --task blood-cells --per-class 40 --out work/rendered
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    parser = Parser(
        prog="python -m train",
        description="From public smear sets to a run folder. Research software, not a diagnosis.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    index = commands.add_parser("index", help="read, hash and describe the pictures of a task")
    aim = index.add_mutually_exclusive_group(required=True)
    aim.add_argument("--task", choices=list(TASKS), help="index the pictures of this task: needs --data and --out")
    aim.add_argument("--describe", type=Path, metavar="INDEX", help="print the data card of an index that is there")
    index.add_argument("--data", type=Path, help="folder with one folder per source")
    index.add_argument("--out", type=Path, help="index folder to write")
    index.add_argument("--sources", nargs="+", metavar="SOURCE", help="default: the task's, but no external test sets")
    index.add_argument("--labels", nargs="+", metavar="CLASS", help="only these of the task's classes")
    index.add_argument("--limit", type=int, metavar="N", help="at most N pictures per source and class, for trials")
    index.add_argument("--json", action="store_true", help="print the data card as JSON")
    index.set_defaults(run=_index)

    split = commands.add_parser("split", help="deal out train, val and test under both protocols")
    split.add_argument("index", type=Path)
    split.add_argument("--seed", type=int, default=0)
    split.set_defaults(run=_split)

    from . import audit, compare, evaluate, explain, external, fit, heatmap_audit, render, report

    for module, name, text in (
        (fit, "fit", "fine-tune a backbone; resumes where it was stopped"),
        (evaluate, "evaluate", "metrics with intervals, beside their controls"),
        (external, "external", "what a run is worth on pictures of an index it was not trained on"),
        (audit, "audit", "what a run rests on: background, stain, colour, sharpness changed one at a time"),
        (explain, "explain", "where runs saw a class in pictures: several methods side by side, and raw arrays"),
        (heatmap_audit, "audit-heatmaps", "what a run's heatmaps are worth: cells, deletion, stability, sanity checks"),
        (report, "report", "one HTML file with everything that is known of some runs"),
        (compare, "compare", "several runs in one table and one picture, with what they cost"),
        (render, "render", "render stained smears with known masks"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _index(args: argparse.Namespace) -> None:
    builds = ("data", "out", "sources", "labels", "limit")
    given = [f"--{name}" for name in builds if getattr(args, name) is not None]
    if args.describe is not None and given:
        raise UsageError("index --describe takes no option but --json", got=", ".join(given))
    if args.task is not None and (args.json or not {"--data", "--out"} <= set(given)):
        raise UsageError("index --task needs --data and --out, and takes no --json", got=", ".join(given) or "neither")
    (_build if args.task is not None else _describe)(args)


def _build(args: argparse.Namespace) -> None:
    from .index import build_index, seed_of

    task = TASKS[args.task]
    if args.labels:
        try:
            task = task.restricted(args.labels)
        except DataError as error:
            raise UsageError("--labels", got=error.got, expected=error.expected) from None
    seed = seed_of(args.out)
    index = build_index(task, args.data, args.out, args.sources, args.limit)
    if seed is not None:
        again = f"python -m train split {args.out} --seed {seed}"
        complain(f"the splits in {args.out} are gone; {again} deals the same pictures out as before", "note")
    _tell("note", index.info["remarks"])
    _tell("left out", index.info["unreadable"])
    _tell("left out, one picture under two labels", index.info["contradictory"])
    _tell("left out", index.info["repeated"])
    examples = index.info["left_out_examples"]
    for name, count in index.info["labels_left_out"].items():
        complain(f"{count} labelled {name}, which is no class here, as {examples[name]}", "left out")
    print(f"{len(index.rows)} pictures, {index.info['exact_duplicates']} exact duplicates dropped -> {args.out}")
    _print_counts(Counter((row.source, row.label) for row in index.rows))


TOLD = 20
"""Lines of one kind on standard error; all of them are in ``index.json``."""


def _tell(kind: str, lines: Sequence[str]) -> None:
    for line in lines[:TOLD]:
        complain(line, kind)
    if len(lines) > TOLD:
        complain(f"and {len(lines) - TOLD} more, all named in index.json", kind)


def _describe(args: argparse.Namespace) -> None:
    from .data_card import format_card
    from .describe import describe
    from .index import read_index

    card = describe(read_index(args.describe))
    print(json.dumps(card, indent=2) if args.json else format_card(card))


def _split(args: argparse.Namespace) -> None:
    from .index import read_index
    from .split import split_index

    index = split_index(read_index(args.index), args.seed)
    for protocol in PROTOCOLS:
        print(f"{protocol}:")
        _print_counts(Counter((getattr(row, protocol), row.label) for row in index.rows))


def _print_counts(counts: Counter[tuple[str, str]]) -> None:
    labels = sorted({label for _, label in counts})
    width = max(len(name) for name, _ in counts)
    for name in dict.fromkeys(name for name, _ in counts):
        print(f"  {name:{width}}  " + "  ".join(f"{label} {counts[name, label]}" for label in labels))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return guarded(build_parser(), arguments)
