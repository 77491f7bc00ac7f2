"""Command line of export: pack | debug | targets | sweep | diff | keygen | sign."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import UsageError
from edge_runtime.guard import Parser, guarded

from . import diff, signing
from .recipes import CALIBRATION_IMAGES, OPTIONS, TARGETS, Recipe, parse_recipe

if TYPE_CHECKING:
    from train.run_folder import Run

EXAMPLES = """examples:
  python -m export targets
  python -m export pack work/run --recipe tflite-int8 --out work/bundle
  python -m export pack work/run --recipe tflite-int8:rounding=nearest --out work/other --allow-degraded
  python -m export debug work/run --recipe tflite-int8
  python -m export sweep work/run --out work/sweep
  python -m export diff work/bundle work/other
  python -m export sign work/bundle --key signing.pem

exit status: 0 written; 1 a gate or a stage failed; 2 wrong usage.
"""

SWEEPS = Path(__file__).resolve().parent.parent / "references" / "sweeps"
"""What sweeps of all backbones have found, as the checkout has it."""

RECIPE_HELP = "TARGET, or TARGET:OPTION=VALUE,...; see: python -m export targets"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="python -m export",
        description="From a run folder to a bundle, with proof of what it kept. Research software, not a diagnosis.",
        epilog=EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    pack = commands.add_parser(
        "pack",
        help="make one bundle of a run",
        description="Convert a run, measure it after every stage, and write the bundle if every gate passed.",
        epilog=EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    _run_options(pack)
    pack.add_argument("--recipe", required=True, metavar="RECIPE", help=RECIPE_HELP)
    pack.add_argument("--out", type=Path, required=True, metavar="DIR", help="bundle folder to write")
    pack.add_argument("--allow-degraded", action="store_true", help="write the bundle although a gate failed, marked")
    pack.add_argument("--force", action="store_true", help="replace a bundle that is there")
    pack.add_argument("--json", action="store_true", help="print the result as JSON")
    pack.set_defaults(run=_pack)

    debug = commands.add_parser(
        "debug",
        help="say why a gate fails, and which recipe would pass",
        description="Make a recipe's model and say where it loses: layers by their signal-to-quantization-noise ratio, "
        "classes and pictures whose answer changed. Where a gate fails, other recipes are tried on the validation "
        "split. Nothing is written.",
        epilog=EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    _run_options(debug)
    debug.add_argument("--recipe", required=True, metavar="RECIPE", help=RECIPE_HELP)
    debug.add_argument("--json", action="store_true", help="print it as JSON")
    debug.set_defaults(run=_debug)

    targets = commands.add_parser(
        "targets",
        help="list what can be made, for what, and how it went",
        description="List the targets, their options, and what became of every backbone.",
        allow_abbrev=False,
    )
    targets.add_argument("--json", action="store_true", help="print it as JSON")
    targets.set_defaults(run=_targets)

    sweep = commands.add_parser(
        "sweep",
        help="make every target of a run and compare them",
        description="Make a bundle of every target, measure each on the test split through the engine that will run "
        "it, and write accuracy, size and latency side by side. Stopped, it goes on where it was.",
        epilog=EXAMPLES.replace(
            "0 written; 1 a gate or a stage failed", "0 all made, gates or not; 1 one was not made"
        ),
        formatter_class=raw,
        allow_abbrev=False,
    )
    _run_options(sweep)
    sweep.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of bundles, table and picture")
    sweep.add_argument("--recipes", nargs="+", metavar="RECIPE", help=f"default: every target. {RECIPE_HELP}")
    sweep.add_argument("--threads", type=int, default=1, metavar="N", help="while latency is measured (default 1)")
    sweep.add_argument("--rounds", type=int, default=100, metavar="N", help="timed runs of each (default 100)")
    sweep.add_argument("--force", action="store_true", help="make again what is there")
    sweep.add_argument("--json", action="store_true", help="print the result as JSON")
    sweep.set_defaults(run=_sweep)
    diff.add_commands(commands)
    signing.add_commands(commands)
    return parser


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, fitted and evaluated")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="where the run's index lies now, if it was moved")
    parser.add_argument(
        "--calibration-images", type=int, default=CALIBRATION_IMAGES, metavar="N", help=f"default {CALIBRATION_IMAGES}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the calibration set (default 0)")


def _check_calibration(args: argparse.Namespace) -> None:
    if args.calibration_images < 1 or args.seed < 0:
        raise UsageError("--calibration-images must be at least 1 and --seed at least 0")


def _check_recipe(run: Run, recipe: Recipe) -> None:
    from .pipeline import check_layers
    from .to_tflite import installed_converter

    if "converter" in recipe.options:
        installed_converter(recipe.options["converter"])
    check_layers(run, [recipe])


def _pack(args: argparse.Namespace) -> None:
    from train.run_folder import read_run

    from .debug import debug
    from .pack import check_out, write_bundle
    from .parity import format_table
    from .pipeline import export_recipe, open_source

    _check_calibration(args)
    recipe, run = parse_recipe(args.recipe), read_run(args.run_folder)
    check_out(args.out, args.force)  # before minutes of work
    _check_recipe(run, recipe)
    source = open_source(run, args.index, args.calibration_images, args.seed)
    checkpoint = args.out.with_name(f".{args.out.name}.qat")
    export = export_recipe(source, recipe, args.allow_degraded, checkpoint)
    sizes = {name: len(content) for name, content in export.models.items()}
    if not args.json:
        print(f"{export.name}: parity on the test split\n{format_table(export.rows)}")
        for name, size_bytes in sizes.items():
            print(f"{name}: {size_bytes / 1e6:.2f} MB")
        sys.stdout.flush()
    found = {"name": export.name, "passed": export.passed, "rows": [row.to_dict() for row in export.rows]}
    if export.models and not export.passed:
        diagnosis = debug(export)
        found["diagnosis"] = diagnosis.to_dict()
        if not args.json:
            print(
                f"\n{diagnosis.text()}\n\nfor a recipe that would pass: python -m export debug {args.run_folder} "
                f"--recipe {recipe.name}\n",
                flush=True,
            )
    bundle = None
    try:
        bundle = write_bundle(export, args.out, args.allow_degraded, args.force)
    finally:
        if args.json:
            print(json.dumps(found | {"models": sizes, "bundle": str(args.out) if bundle else None}, indent=2))
    if not args.json:
        mark = "" if export.passed else ", DEGRADED: a gate failed"
        print(f"{bundle.id}: {bundle.size_bytes / 1e6:.2f} MB -> {args.out}{mark}")


def _debug(args: argparse.Namespace) -> None:
    from train.run_folder import read_run

    from .debug import debug
    from .pipeline import export_recipe, open_source

    _check_calibration(args)
    recipe = parse_recipe(args.recipe)
    if not recipe.target.calibrated:
        raise UsageError(
            "--recipe", got=recipe.name, expected="one that is calibrated: others have no quantized layers"
        )
    run = read_run(args.run_folder)
    _check_recipe(run, recipe)
    source = open_source(run, args.index, args.calibration_images, args.seed)
    found = debug(export_recipe(source, recipe, go_on=True), search=True)
    print(json.dumps(found.to_dict(), indent=2) if args.json else found.text())


def _targets(args: argparse.Namespace) -> None:
    from train.layout import columns

    from .sweep_table import read_sweep, state_table

    sweeps = [read_sweep(file) for file in sorted(SWEEPS.glob("*.json"))]
    if args.json:
        stated = [
            {"target": row.name, "title": row.title, "engine": row.engine, "runs_on": row.runs_on}
            | {"weights": row.weights, "activations": row.activations, "options": list(row.options)}
            for row in TARGETS.values()
        ]
        print(json.dumps({"targets": stated, "options": _option_facts(), "sweeps": sweeps}, indent=2))
        return
    head = ("target", "what", "runs on", "weights", "activations", "options")
    rows = [
        (row.name, row.title, row.runs_on, row.weights, row.activations, " ".join(row.options))
        for row in TARGETS.values()
    ]
    print(columns(head, rows, rule=True))
    print("\nOptions, TARGET:OPTION=VALUE,..., the default first:")
    for option in OPTIONS.values():
        print(f"  {option.name}={'|'.join(option.choices) or option.example}: {option.title}")
    for task in dict.fromkeys(found["task"] for found in sweeps):
        mine = [found for found in sweeps if found["task"] == task]
        print(f"\nWhat became of {task}: MB of the model's files; !: a gate failed; -: not tried")
        print(columns(*state_table(mine, list(TARGETS)), rule=True))


def _option_facts() -> list[dict[str, Any]]:
    return [
        {"option": row.name, "title": row.title, "choices": list(row.choices), "example": row.example}
        for row in OPTIONS.values()
    ]


def _sweep(args: argparse.Namespace) -> int:
    from train.run_folder import read_run

    from .sweep import NOT_MADE, Settings, sweep
    from .sweep_table import PICTURE, TABLE

    _check_calibration(args)
    if args.rounds < 2 or not 1 <= args.threads <= 64:
        raise UsageError("--rounds must be at least 2 and --threads 1 to 64")
    recipes: dict[str, Recipe] = {}
    for name in args.recipes or TARGETS:
        recipe = parse_recipe(name)
        recipes[recipe.name] = recipe
    settings = Settings(args.index, args.calibration_images, args.seed, args.threads, args.rounds, args.force)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    found = sweep(read_run(args.run_folder), list(recipes.values()), args.out, settings, say)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print((args.out / TABLE).read_text(encoding="utf-8"), end="")
        print(f"-> {args.out / TABLE}, {args.out / PICTURE}")
    return int(any(entry["state"] == NOT_MADE for entry in found["targets"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    return guarded(build_parser(), arguments)
