"""Study: the tables of ``docs/study.md`` - seven backbones under both protocols, within and across laboratories.

What comes in are the runs of ``references`` and what `train compare` measured of their architectures
(``references/study/compare.json``); what goes out are tables. ``references/study/README.md`` says how the runs were
made; ``python -m benchmarks.study WORK`` copies what they left - ``run.json`` and ``curves.csv``, no weights - here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.files import make_folder, write_text
from edge_runtime.guard import guarded
from train.backbones import BACKBONES
from train.compare import pair_runs, to_markdown
from train.layout import markdown
from train.reproduce import commands
from train.run_folder import read_info
from train.tables import best_control, interval_text

REFERENCES = Path(__file__).resolve().parent.parent / "references"
STUDY = REFERENCES / "study"
COSTS = STUDY / "compare.json"
THROUGHPUT = Path(__file__).parent / "results" / "training.json"
TASKS = ("all-subtypes", "blood-cells")
SHIPPED = ("all-subtypes", "all-subtypes-stratified", "blood-cells")
"""Runs in ``references`` that belong to the study, too: those of the shipped bundles."""

ABLATION = {
    "blood-cells-none": "nothing",
    "blood-cells-mobilenetv2-grouped": "augmentation",
    "blood-cells-distilled": "distillation (Xception)",
    "blood-cells-neutral": "background neutralised",
}
"""Runs that differ in one thing each."""

RECIPES = {
    "blood-cells-first-light": "blood-cells, shipped before",
    "blood-cells": "blood-cells, shipped now",
    "all-subtypes": "all-subtypes, shipped",
}

ACROSS = {"pbc-to-deepapl": ("pbc", "deepapl"), "deepapl-to-pbc": ("deepapl", "pbc")}
"""Runs that learnt from one laboratory and were judged on another."""


def study_runs() -> dict[str, dict[str, Any]]:
    """Return the runs of the seven backbones, name -> ``run.json``: by task, in the order of the backbone table."""
    folders = [REFERENCES / name for name in SHIPPED]
    for task in TASKS:
        folders += sorted(path for path in STUDY.glob(f"{task}-*-*") if path.is_dir())
    infos = {folder.name: info for folder in folders if "metrics" in (info := read_info(folder))}
    order = list(BACKBONES)
    return dict(sorted(infos.items(), key=lambda one: (TASKS.index(one[1]["task"]), order.index(one[1]["backbone"]))))


def backbones_table() -> str:
    """Every backbone under both protocols, beside the best control, with what it costs."""
    measured = json.loads(COSTS.read_text(encoding="utf-8"))
    costs = {(line["backbone"], line["input_px"], len(line["labels"])): line["cost"] for line in measured["lines"]}
    lines = pair_runs(study_runs())
    for line in lines:
        line["cost"] |= costs[line["backbone"], line["input_px"], len(line["labels"])]
    return to_markdown(lines, measured["latency"]).rstrip()


def within_table() -> str:
    """The blood-cells runs within each laboratory: whole patients kept apart."""
    rows = []
    for info in study_runs().values():
        if (info["task"], info["protocol"]) == ("blood-cells", "grouped"):
            metrics = info["metrics"]
            (blast,) = metrics["operating_points"]
            rows.append(
                [
                    f"{BACKBONES[info['backbone']].title}, {info['input_px']} px",
                    *(interval_text(metrics["per_source"][name]["macro_f1"]) for name in ("deepapl", "pbc")),
                    interval_text(blast["per_source"]["deepapl"]["auroc"]),
                ]
            )
    return markdown(("backbone", "macro-F1, DeepAPL alone", "macro-F1, PBC alone", "blast AUROC, DeepAPL alone"), rows)


def across_table() -> str:
    """One laboratory's network on another's cells."""
    rows = []
    for name, (own, other) in ACROSS.items():
        info = read_info(STUDY / name)
        (found,) = info["external"].values()
        rows.append(_across_row(f"{own} -> {other}", info, found))
    for name, title in RECIPES.items():
        info = read_info(REFERENCES / name)
        for key, found in info.get("external", {}).items():
            rows.append(_across_row(f"both -> {key.partition('@')[0]} ({title})", info, found))
    head = (
        "trained on -> judged on",
        "classes",
        "own test split",
        "other laboratory",
        "best control there",
        "pictures",
    )
    return markdown(head, rows)


def _across_row(title: str, info: dict[str, Any], found: dict[str, Any]) -> list[str]:
    control = best_control(found)
    return [
        title,
        str(len(found["shared_classes"])),
        interval_text(info["metrics"]["test"]["macro_f1"]),
        interval_text(found["restricted"]["macro_f1"]),
        f"{control['name']}: {control['macro_f1']['value']:.3f}",
        f"{found['n']}, {sum(part['groups'] for part in found['sources'].values())} groups",
    ]


def ablation_table() -> str:
    """What one thing, switched on alone, gives on the grouped protocol and in the audit."""
    return _audited({title: read_info(STUDY / name) for name, title in ABLATION.items()}, ("test",))


def recipes_table() -> str:
    """The shipped recipe beside the one before: the audit that it was chosen by, and the one that judges it."""
    return _audited({title: read_info(REFERENCES / name) for name, title in RECIPES.items()}, ("val", "test"))


def _audited(infos: dict[str, dict[str, Any]], splits: Sequence[str]) -> str:
    keys = {"val": "audit_val", "test": "audit"}
    head = ["", "macro-F1, grouped test", "DeepAPL alone"]
    for split in splits:
        head += [f"worst case of the audit, {split}", "difference, pp"]
    rows = []
    for title, info in infos.items():
        metrics = info["metrics"]
        cells = [interval_text(metrics["test"]["macro_f1"])]
        deepapl = metrics["per_source"].get("deepapl")  # all-subtypes has one source
        cells.append(interval_text(deepapl["macro_f1"]) if deepapl else "-")
        for split in splits:
            if keys[split] not in info:
                cells += ["-", "-"]
                continue
            worst = info[keys[split]]["worst"]
            cells += [
                f"{worst['name']}: {interval_text(worst['macro_f1'])}",
                interval_text(worst["macro_f1_difference_pp"], 1),
            ]
        rows.append([title, *cells])
    return markdown(head, rows)


def leukemia_table() -> str:
    """The leukemia task beside its best control: on what real data allows, and on rendered fields with all classes."""
    rows = []
    for name in ("leukemia", "leukemia-rendered"):
        info = read_info(STUDY / name)
        test, control = info["metrics"]["test"], best_control(info["metrics"])
        rows.append(
            [
                ", ".join(info["sources"]),
                ", ".join(info["labels"]),
                f"{test['n']} in {test['interval']['units']} groups",
                interval_text(test["macro_f1"]),
                f"{control['name']}: {interval_text(control['macro_f1'])}",
            ]
        )
    return markdown(("sources", "classes", "test pictures", "macro-F1, grouped", "best control"), rows)


def throughput_table() -> str:
    """Pictures per second of ``train fit``'s loop and of torchvision's, from one run."""
    found = json.loads(THROUGHPUT.read_text(encoding="utf-8"))
    rates, ratio = found["pictures_per_second"], found["ratio"]
    head = ("pictures per second, by turns", "leukoscope", "torchvision's loop", "ratio: median, range of rounds")
    setting = ", ".join(
        (
            f"{BACKBONES[found['backbone']].title}, {found['input_px']} px, batch {found['batch']}",
            f"{found['threads']} threads, {found['workers']} loader workers",
            f"{found['allocator']}, {found['rounds']} rounds",
        )
    )
    figures = (f"{rates[name]:.1f}" for name in ("leukoscope", "torchvision"))
    return markdown(head, [[setting, *figures, f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"]])


def commands_table() -> str:
    """How every run of the study is made again; capitals stand for what lies elsewhere."""
    infos = study_runs() | {path.parent.name: read_info(path.parent) for path in sorted(STUDY.glob("*/run.json"))}
    rows = []
    for name, info in infos.items():
        (fit,) = (line for line in commands(Path(name), info) if " train fit " in line)
        rows.append([f"`{name}`", f"`{fit.partition(' train ')[2]}`"])
    return markdown(("run", "`python -m train ...`"), rows)


TABLES = {
    "backbones": backbones_table,
    "within": within_table,
    "across": across_table,
    "ablation": ablation_table,
    "recipes": recipes_table,
    "leukemia": leukemia_table,
    "throughput": throughput_table,
    "commands": commands_table,
}
"""Name in ``docs/study.md`` -> what writes it."""


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("work", type=Path, metavar="WORK", help="folder of finished runs")
    parser.set_defaults(run=_collect)
    return guarded(parser)


def _collect(args: argparse.Namespace) -> None:
    """Copy what finished runs left, compactly, into ``references/study``."""
    for folder in sorted(path.parent for path in args.work.glob("*/run.json")):
        make_folder(STUDY / folder.name)
        write_text(STUDY / folder.name / "run.json", json.dumps(read_info(folder), separators=(",", ":")) + "\n")
        write_text(STUDY / folder.name / "curves.csv", (folder / "curves.csv").read_text(encoding="utf-8"))
        sys.stdout.write(f"{folder.name}\n")


if __name__ == "__main__":
    sys.exit(main())
