"""``bench``: find the best engine and number of threads for this device, and remember them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import LeukoscopeError, UsageError
from ..guard import complain, plain
from .opening import add_command, quiet_libraries, read_trust_option, trust_option
from .output import FAILED, Bar

if TYPE_CHECKING:
    from pathlib import Path

    from ..bench import Bench, Row
    from .opening import Commands

EXAMPLES = """\
examples:
  python -m edge_runtime bench                       # all bundles that came along; up to a minute on a small board
  python -m edge_runtime bench work/bundle --rounds 300
  python -m edge_runtime bench --forget

Once measured, other commands use the choice unless --engine or --threads says otherwise. It is kept in
$LEUKOSCOPE_CONFIG, else leukoscope/device.json in your settings ($XDG_CONFIG_HOME, ~/.config).
"""

DRIFT = "Times drift with heat, clocks and load: compare them within one run, on an otherwise idle device."

UNSTEADY = "times lie far apart: the device is busy or throttled, and the choice may be luck (measure again when idle)"


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    bench = add_command(
        commands,
        "bench",
        "find the fastest engine and thread count here, and remember them",
        "Time every installed engine that has a model in a bundle, with 1 thread to as many as there are CPUs, in "
        "turns; those that fail the golden test are left out. The fewest threads within 5 % of the fastest median win.",
        EXAMPLES,
    )
    bench.add_argument("models", nargs="*", metavar="MODEL", help="names or paths; default: all that came along")
    bench.add_argument("--json", action="store_true", help="one JSON object per bundle and line")
    bench.add_argument("--rounds", type=int, default=40, metavar="N", help="turns of each; default: %(default)s")
    what = bench.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="measure, but remember nothing")
    what.add_argument(
        "--forget", action="store_true", help="forget what is remembered of these bundles; measure nothing"
    )
    trust_option(bench)
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from ..device_settings import settings_path

    if options.rounds < 1:
        raise UsageError("--rounds", got=options.rounds, expected="at least 1")
    path = settings_path()
    if options.forget:
        return _forget(options, path)
    from .. import report
    from ..bundle import default_bundles, open_bundle
    from ..device_settings import Choice, machine, remember

    models = options.models or default_bundles()
    if not models:
        raise UsageError("no bundle to bench", expected="the path of a bundle")
    trust = read_trust_option(options)
    here, failures = machine(), 0
    for model in models:
        try:
            found = _measure(open_bundle(model, trust), options.rounds)
        except UsageError:
            raise
        except LeukoscopeError as error:
            failures += 1
            complain(str(error))
            if options.json:
                print(report.json_line({"model": model, "best": None, "error": str(error)}))
            continue
        failures += found.best is None
        kept = None
        if found.best is not None and not options.dry_run:
            best = found.best
            try:  # apart from measuring: what was measured is told, remembered or not
                if path is None:
                    complain("not remembered: no home is known (set LEUKOSCOPE_CONFIG=FILE)", "warning")
                else:
                    remember({found.bundle_id: Choice(best.engine, best.threads, round(best.p50_ms, 4))}, path)
                    kept = path
            except LeukoscopeError as error:
                failures += 1
                complain(f"not remembered: {error}")
        if found.best is not None and not found.best.steady:
            complain(f"{found.bundle_id}: {UNSTEADY}", "warning")
        print(report.json_line(_facts(model, found, here, kept)) if options.json else _text(found, here, kept))
    if not options.json:
        print(DRIFT)
    return FAILED if failures else 0


def _measure(bundle: Any, rounds: int) -> Bench:
    from ..bench import bench
    from ..machine import usable_cpus

    bar = Bar(rounds, silent=False)
    try:
        with quiet_libraries():
            return bench(bundle, rounds, usable_cpus(), lambda done, _: bar.show(done))
    finally:
        bar.clear()


def _forget(options: argparse.Namespace, path: Path | None) -> int:
    from ..bundle import open_bundle
    from ..device_settings import forget

    names = [open_bundle(model).id for model in options.models] or None
    gone = 0 if path is None else forget(names, path)
    print(f"{gone} forgotten" + (f" in {path}" if gone else ""))
    return 0


def _facts(model: str, found: Bench, here: dict[str, Any], kept: Path | None) -> dict[str, Any]:
    from ..bench import SETTLE, TURN, WARM_UP

    return {
        "model": model,
        "bundle_id": found.bundle_id,
        "machine": here,
        "runs": {"warm_up": WARM_UP, "rounds": found.rounds, "settle": SETTLE, "counted": TURN},
        "rows": [row.to_dict() for row in found.rows],
        "best": found.best.to_dict() if found.best else None,
        "remembered": str(kept) if kept else None,
    }


def _text(found: Bench, here: dict[str, Any], kept: Path | None) -> str:
    from ..bench import SETTLE, TURN, WARM_UP

    lines = [
        plain(f"{found.bundle_id} on {here['cpu']}, {here['cpus']} CPUs"),
        f"{WARM_UP} runs to warm up, then {found.rounds} turns of {SETTLE} uncounted and {TURN} counted runs; "
        "one answer (inference, and whether to decline), ms:",
        f"  {'engine':<28}{'threads':>8}{'p50':>9}{'p90':>9}{'p99':>9}",
        *map(_line, found.rows),
    ]
    best = found.best
    if best is None:
        lines.append("best: none; no engine here gives the golden answers")
    else:
        where = f"; remembered in {kept}" if kept else ""
        lines.append(
            f"best: {best.engine}, {best.threads} thread{'s' * (best.threads > 1)}, {best.p50_ms:.2f} ms{where}"
        )
    return "\n".join(lines)


def _line(row: Row) -> str:
    name = f"  {row.engine + ' ' + row.version:<28}{row.threads:>8}"
    return (
        f"{name}  {plain(row.error)}" if row.error else f"{name}{row.p50_ms:>9.2f}{row.p90_ms:>9.2f}{row.p99_ms:>9.2f}"
    )
