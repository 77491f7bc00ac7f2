"""``archive``: a list of very many pictures in; Parquet out, a row per picture or cell. Killed, it goes on later."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import DEFAULT_MODEL
from ..errors import OutputError, UsageError
from ..guard import complain, plain
from .opening import ENGINE_NAMES, add_command, isolate_option, open_classifier, quiet_libraries, trust_option
from .output import FAILED, Pace, TerminalLine
from .scan import MODEL as SCAN_MODEL

if TYPE_CHECKING:
    from ..archive.cluster import Cluster
    from ..archive.crew import Crew
    from ..archive.plan import Plan, Settings
    from .opening import Commands

SHARD_PICTURES = {"classify": 1000, "scan": 100}
"""Of each mode, unless that makes fewer than `WORKER_SHARDS` per worker: what a kill may cost is seconds to minutes."""

WORKER_SHARDS = 4
PATIENCE_S = 120.0
MAX_WORKERS = 1024

EXAMPLES = """\
examples:
  python -m edge_runtime archive --out answers/ smears/
  python -m edge_runtime archive --out answers/ --list pictures.txt --model blood-cells --workers 16
  python -m edge_runtime archive --out cells/ --scan fields/
  python -m edge_runtime archive --out answers/                     # go on after a stop
  python -m edge_runtime archive --out /shared/answers --list /shared/list.parquet --ray auto
  find /smears -name '*.jpg' | python -m edge_runtime archive --out answers/ --list -
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    archive = add_command(
        commands,
        "archive",
        "classify or scan very many pictures into Parquet, by many processes",
        "Classify or scan very many pictures into Parquet files, by processes of this machine or of a Ray cluster. "
        "The list is dealt into shards; a shard is done when its file is there, so a run that was stopped or killed "
        "goes on with the same command, or with --out alone. A bad picture gets a row with its error, and the exit "
        "status is 1.",
        EXAMPLES,
    )
    archive.add_argument("pictures", nargs="*", metavar="PICTURE", help="file or folder (searched)")
    archive.add_argument(
        "--list",
        metavar="FILE",
        help="one path per line, or CSV or Parquet with a column path; text and CSV may be gzipped; - for stdin",
    )
    archive.add_argument("--out", metavar="DIR", required=True, help="write part-*.parquet and the plan there")
    archive.add_argument(
        "--scan",
        action="store_true",
        help="find and classify the white cells of each picture, as the command scan does",
    )
    archive.add_argument(
        "--um-per-px", type=float, metavar="X", help="with --scan: micrometres per pixel; default: measured in each"
    )
    archive.add_argument(
        "--shard",
        type=int,
        metavar="N",
        help="pictures per file; default: the plan's, else {classify}, with --scan {scan}, or fewer so that all "
        "workers have some".format(**SHARD_PICTURES),
    )
    archive.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, one thread each; default: the CPUs, of the cluster with --ray",
    )
    archive.add_argument("--ray", metavar="ADDRESS", help="spread over a Ray cluster: auto, HOST:PORT, or local")
    archive.add_argument(
        "--timeout",
        type=float,
        default=PATIENCE_S,
        metavar="SECONDS",
        help="a picture, or a tile of a large one, that takes longer is given up; default: %(default)g",
    )
    archive.add_argument("--json", action="store_true", help="at the end, one JSON object instead of lines")
    archive.add_argument(
        "--model", metavar="MODEL", help=f"name or path; default: {DEFAULT_MODEL}, with --scan {SCAN_MODEL}"
    )
    archive.add_argument("--engine", choices=ENGINE_NAMES, help="default: the plan's, else the first that is installed")
    isolate_option(archive)
    trust_option(archive)
    archive.set_defaults(run=_archive)


def _archive(options: argparse.Namespace) -> int:
    _check(options)
    from ..archive.parts import claimed
    from ..archive.plan import read_plan
    from ..files import make_folder, require_writable

    out = Path(options.out).resolve()
    asked, sources = _Asked(), bool(options.pictures) or options.list is not None
    if not sources and read_plan(out) is None:
        raise UsageError(f"{out}: no archive there to go on with", todo="name pictures, folders, or a --list")
    with ExitStack() as stack:
        make_folder(out)
        stack.enter_context(claimed(out))
        require_writable(out)
        stack.enter_context(asked.listening())
        try:
            plan, unlisted = _plan(options, out, read_plan(out), sources)
            return _work(options, plan, unlisted, asked)
        except KeyboardInterrupt:
            done = read_plan(out)
            if done is None:
                complain("stopped before the plan was made; start again", "note")
            else:
                done.tidy()
                parts = len(done.offsets) - len(done.missing())
                said = f"stopped with {parts:,} of {len(done.offsets):,} shards done"
                complain(f"{said}; go on: python -m edge_runtime archive --out {shlex.quote(options.out)}", "note")
            return asked.status


def _check(options: argparse.Namespace) -> None:
    if options.list is not None and options.pictures:
        raise UsageError("pictures and --list", got="both", expected="one of them")
    if not 1 <= options.timeout <= 86400:
        raise UsageError("--timeout", got=options.timeout, expected="1 to 86400 seconds")
    if options.workers is not None and not 1 <= options.workers <= MAX_WORKERS:
        raise UsageError("--workers", got=options.workers, expected=f"1 to {MAX_WORKERS}")
    if options.um_per_px is not None and not options.scan:
        raise UsageError("--um-per-px needs --scan")
    try:
        import pyarrow  # noqa: F401 - before anything is begun
    except ImportError as error:
        raise UsageError("archive is not installed", got=error, todo='pip install "leukoscope[archive]"') from None
    from ..archive.plan import MAX_SHARD_PICTURES

    if options.shard is not None and not 1 <= options.shard <= MAX_SHARD_PICTURES:
        raise UsageError("--shard", got=options.shard, expected=f"1 to {MAX_SHARD_PICTURES}")


def _plan(options: argparse.Namespace, out: Path, made: Plan | None, sources: bool) -> tuple[Plan, int]:
    """Return the plan, as it is or made now, and how many folders could not be listed."""
    from ..archive.lists import listed, named, of_this_place
    from ..archive.plan import make_plan, require_same_list
    from ..machine import usable_cpus
    from ..preprocess import PICTURE_SUFFIXES
    from ..slides import SLIDE_SUFFIXES

    settings = _settings(options, made, sources)
    if made is not None:
        made.require(settings)
        if not sources:
            return made, 0
    unlisted: list[OSError] = []
    names = (
        named(
            options.pictures, unlisted.append, str(out), PICTURE_SUFFIXES | (SLIDE_SUFFIXES if options.scan else set())
        )
        if options.list is None
        else listed(options.list)
    )
    shown = _counted(of_this_place(names, settings.root), options.json and sys.stdout.isatty())
    if made is None:
        workers = options.workers or usable_cpus()
        made = make_plan(out, shown, settings, 1 if options.shard else WORKER_SHARDS * workers)
    else:
        require_same_list(made, shown)
    for error in unlisted:
        complain(f"{error.filename}: cannot be listed: {error.strerror}")
    return made, len(unlisted)


def _settings(options: argparse.Namespace, made: Plan | None, sources: bool) -> Settings:
    """Return what is asked for; what is not said is as planned, where there is a plan."""
    from ..archive.plan import Settings
    from ..scan import Scanner

    planned = None if made is None else made.settings
    mode = "scan" if options.scan else "classify"
    um_per_px, root = options.um_per_px, os.getcwd()
    if planned is not None:
        root = planned.root
        if not sources and not options.scan:  # only --out: all as planned
            mode = planned.mode
        if um_per_px is None and mode == planned.mode:
            um_per_px = planned.um_per_px
        if options.engine is None:
            options.engine = planned.engine
        options.isolate = options.isolate or planned.isolate
    usual = SCAN_MODEL if mode == "scan" else DEFAULT_MODEL
    model = options.model or (planned.model if planned is not None and planned.mode == mode else usual)
    options.threads = 1
    classifier = open_classifier(model, options)
    if mode == "scan":
        Scanner(classifier, um_per_px)  # is the bundle one for cells?
    shard = options.shard or (planned.shard_pictures if planned is not None else SHARD_PICTURES[mode])
    bundle = classifier.bundle
    name = model if os.path.basename(model) == model and not os.path.isdir(model) else str(bundle.root)
    return Settings(mode, name, bundle.id, classifier.engine.name, options.isolate, um_per_px, shard, root)


def _counted(names: Iterator[str], silent: bool) -> Iterator[str]:
    line = TerminalLine(silent)
    try:
        for count, name in enumerate(names):
            if count % 10_000 == 0:
                line.draw(f"{count:,} pictures listed")
            yield name
    finally:
        line.clear()


def _work(options: argparse.Namespace, plan: Plan, unlisted: int, asked: _Asked) -> int:
    from ..archive.parts import look_through

    plan.tidy()
    silent = options.json and sys.stdout.isatty()
    line = TerminalLine(silent)

    def looked_at(count: int) -> None:
        if count % 1000 == 0:
            line.draw(f"{count:,} parts looked at")

    found = look_through(plan, looked_at)
    line.clear()
    for shard in found.damaged:
        complain(f"{plan.part(shard)}: damaged; it is done again", "note")
    missing = found.missing
    jobs = [plan.job(shard).count for shard in missing]
    before = plan.pictures - sum(jobs)
    if before and not options.json:
        complain(f"{before:,} of {plan.pictures:,} pictures were done before", "note")
    whole = {"parts": len(plan.offsets), "rows": found.rows, "errors": found.errors}
    nodes: Counter[str] = Counter()
    facts: dict[str, Any] = {"workers": 0, "pictures": 0, "abstained": 0, "deaths": 0}
    start_s = time.monotonic()
    with ExitStack() as stack:
        if missing:
            crew, facts["workers"] = _crew(options, plan, stack, len(missing))
            asked.listen()  # Ray has put its own handler there
            start_s = time.monotonic()
            pace = Pace(plan.pictures, before, silent)
            stack.callback(pace.clear)
            for done in crew.run(map(plan.job, missing)):
                if done is not None:
                    whole["rows"] += done.rows
                    whole["errors"] += done.errors
                    facts["pictures"] += done.pictures
                    facts["abstained"] += done.abstained
                    if done.node is not None:
                        nodes[done.node] += done.pictures
                pace.show(before + facts["pictures"] + crew.in_hand)
            facts["deaths"] = crew.deaths
    seconds = time.monotonic() - start_s
    facts |= {"seconds": round(seconds, 3), "pictures_per_s": round(facts["pictures"] / max(seconds, 1e-9), 1)}
    if nodes:
        facts["nodes"] = dict(nodes)
    if plan.missing():
        raise OutputError(f"{plan.out}: parts are missing", todo="run again")
    _say(options, plan, whole, facts)
    return FAILED if whole["errors"] or unlisted else 0


def _crew(options: argparse.Namespace, plan: Plan, stack: ExitStack, shards: int) -> tuple[Crew | Cluster, int]:
    """Return what does the shards, and how many workers that has."""
    crew: Crew | Cluster
    if options.ray is not None:
        from ..archive.cluster import Cluster, joined

        stack.enter_context(_silence())  # where Ray, in a thread of its own, tells of nodes that died
        with quiet_libraries():  # Ray's core remarks on its own log level
            workers = min(stack.enter_context(joined(options.ray, options.workers)), shards)
        crew = Cluster(plan, workers, options.timeout)
    else:
        from ..archive.crew import Crew
        from ..machine import usable_cpus

        workers = min(options.workers or usable_cpus(), shards)
        crew = Crew(plan, workers, options.timeout)
    stack.callback(plan.tidy)
    stack.callback(crew.close)
    return crew, workers


@contextmanager
def _silence() -> Iterator[None]:
    """Let what others print on standard output lead nowhere."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _say(options: argparse.Namespace, plan: Plan, whole: dict[str, Any], now: dict[str, Any]) -> None:
    from .. import report

    settings = plan.settings
    if options.json:
        facts = {"out": str(plan.out), "mode": settings.mode, "pictures": plan.pictures, **whole}
        ids = {"bundle_id": settings.bundle_id, "engine": settings.engine, "note": report.NOTE}
        print(report.json_line({**facts, "now": now, **ids}))
        return
    print(f"{plan.pictures:,} pictures, {whole['rows']:,} rows, {whole['errors']:,} pictures with an error")
    if now["pictures"]:
        workers = f"{now['workers']} worker" + ("" if now["workers"] == 1 else "s")
        pace = f"{now['pictures']:,} of them now, in {now['seconds']:.0f} s by {workers}"
        print(f"{pace}: {now['pictures_per_s']:.0f} pictures/s")
    for node, pictures in now.get("nodes", {}).items():
        print(f"node {node[:8]}: {pictures:,} pictures")
    if now["deaths"]:
        print(f"worker processes that died and were started again: {now['deaths']}")
    print(f"written to {plain(options.out)}: {whole['parts']:,} files part-*.parquet, of {settings.bundle_id}")
    print(report.NOTE)


class _Asked:
    """Makes SIGTERM what Ctrl-C is, and remembers which it was."""

    def __init__(self) -> None:
        self.status = 128 + signal.SIGINT

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to SIGTERM."""
        before = signal.getsignal(signal.SIGTERM)
        self.listen()
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def listen(self) -> None:
        """Do so from now on, whoever did before."""
        signal.signal(signal.SIGTERM, self._heard)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        self.status = 128 + number
        raise KeyboardInterrupt
