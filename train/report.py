"""Report: everything that is known of some runs as one HTML file that opens anywhere, offline.

What comes in are evaluated run folders - ``run.json`` and ``curves.csv``, no weights - and their indexes, for the data
card; what goes out is the page. Nothing is measured here but the data card, and nothing is chosen: what was not
measured is named with the command that measures it. `train.report_run` and `train.report_data` say what stands on the
page, `train.page` how it looks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.files import make_folder, write_text

from .describe import describe
from .errors import DataError
from .evaluate import index_of_info
from .index import Index, read_index
from .page import Commands, Section, Table, Text, render_page
from .report_data import data_sections
from .report_run import run_sections
from .run_folder import read_info
from .tables import best_control, interval_text
from .tasks import TASKS

TITLE = "leukoscope: report on trained networks"
LEAD = "Research software. Not a medical device, not a diagnosis."

HOW_TO_READ = (
    "Every figure is of the test split, which neither training nor the choice of the epoch, the temperature or a "
    "threshold has seen, unless it says otherwise.",
    "stratified: pictures were dealt out one by one, so pictures of one patient are on both sides. grouped: whole "
    "patients, or whole near-duplicate and colour clusters where no patient is named, are on one side only. The "
    "grouped figure is the one to believe.",
    "value [low, high]: 95 % percentile bootstrap over whole groups. A width of zero says that no error was seen, not "
    "that none will come; an interval over few groups is rough.",
    "Macro-F1 is the mean of F1 over the classes that are present: rare ones count as much as frequent ones.",
    "A control never sees a cell: colour alone, the background ring alone, the most frequent class. A network is worth "
    "only what it has over them.",
    "The shortcut audit changes one thing in the test pictures at a time. What should hold: background, stain, light, "
    "sharpness. What should fall to chance: the cells taken out. Differences are paired, picture by picture.",
    "An external set is pictures of another index, judged with the run's own temperature and thresholds.",
)

LEAVE_ONE_SOURCE_OUT = (
    "Where classes have more than one source, train on one and judge on the other for the classes both hold. It is "
    "the hardest test that pooled public data can give, and needs no command of its own:"
)

LEAVE_ONE_SOURCE_OUT_COMMANDS = (
    "python -m train index --task TASK --data DATA --sources A --labels SHARED ... --out work/a",
    "python -m train split work/a",
    "python -m train fit work/a --out work/run-a",
    "python -m train evaluate work/run-a",
    "python -m train index --task TASK --data DATA --sources B --labels SHARED ... --out work/b",
    "python -m train external work/run-a work/b",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="evaluated run folders")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="HTML file to write")
    parser.add_argument(
        "--index", nargs="+", type=Path, default=[], metavar="FOLDER", help="where the runs' indexes lie now, if moved"
    )


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    infos = {str(folder): read_info(folder) for folder in args.runs}
    make_folder(args.out.parent)  # a place that cannot be written is known before, not after
    page = build_report(infos, args.index)
    write_text(args.out, page)
    sys.stdout.write(f"{args.out}: {len(infos)} runs, {len(page.encode()) / 1e6:.1f} MB\n")


def build_report(infos: dict[str, dict[str, Any]], index_folders: Sequence[Path] = ()) -> str:
    """Put the page together.

    Args:
        infos: run folder -> its ``run.json``.
        index_folders: where indexes lie that are not where `fit` found them.

    Raises:
        DataError: a run is not evaluated, or its index is not there.
    """
    for folder, info in infos.items():
        if "metrics" not in info:
            raise DataError(f"{folder}: not evaluated", todo=f"run: python -m train evaluate {folder}")
    moved = {index.sha256: index for index in map(read_index, index_folders)}
    indexes: dict[str, Index] = {}
    for folder, info in infos.items():
        sha256 = info["data_sha256"]
        if sha256 not in indexes:
            indexes[sha256] = moved[sha256] if sha256 in moved else index_of_info(Path(folder), info)
    cards = {sha256: describe(index) for sha256, index in indexes.items()}
    sections = [_about(infos), _overview(infos)]
    for sha256, card in cards.items():
        sections += data_sections(card, [folder for folder, info in infos.items() if info["data_sha256"] == sha256])
    for number, (folder, info) in enumerate(infos.items()):
        sections += run_sections(Path(folder), info, cards[info["data_sha256"]], f"run{number}")
    sections.append(
        Section(
            "Leave one source out",
            [Text([LEAVE_ONE_SOURCE_OUT]), Commands(LEAVE_ONE_SOURCE_OUT_COMMANDS)],
        )
    )
    return render_page(TITLE, LEAD, sections)


def _about(infos: dict[str, dict[str, Any]]) -> Section:
    tasks = dict.fromkeys(info["task"] for info in infos.values())
    meant = [f"{name}: {TASKS[name].title}. Meant for: {TASKS[name].intended or 'not stated'}." for name in tasks]
    return Section(
        "What this is, and what it is not",
        [
            Text(
                [
                    "Measurements of networks that sort pictures of stained blood smears into classes. They were made "
                    "on public data sets by the authors of the software; nobody has tried the networks on patients, "
                    "and no figure here says how they would do in a laboratory whose pictures are not among the data "
                    "sets named below.",
                    "No diagnosis may rest on them.",
                ]
            ),
            Text(meant, points=True),
            Text(["How to read the figures:"]),
            Text(HOW_TO_READ, points=True),
        ],
    )


def _overview(infos: dict[str, dict[str, Any]]) -> Section:
    rows = []
    for folder, info in infos.items():
        metrics = info["metrics"]
        test, control = metrics["test"], best_control(metrics)
        audit, external = info.get("audit"), info.get("external", {})
        rows.append(
            [
                folder,
                info["task"],
                f"{info['backbone']}, {info['input_px']} px",
                info["protocol"],
                f"{test['n']} / {test['interval']['units']}",
                interval_text(test["macro_f1"]),
                f"{control['name']}: {interval_text(control['macro_f1'])}",
                f"{audit['worst']['name']}: {interval_text(audit['worst']['macro_f1'])}" if audit else "not audited",
                "; ".join(f"{name}: {interval_text(found['test']['macro_f1'])}" for name, found in external.items())
                or "none",
            ]
        )
    head = ["run", "task", "backbone", "protocol", "test pictures / groups", "macro-F1", "best control"]
    caption = "Macro-F1 on the test split of each run's protocol, with 95 % bootstrap intervals over groups."
    return Section(
        "Runs side by side", [Table(caption, [*head, "worst case of the audit", "external, all classes compete"], rows)]
    )
