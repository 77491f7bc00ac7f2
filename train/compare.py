"""Compare: several runs in one table and one picture - what each is worth, beside its control, and what it costs.

What comes in are evaluated run folders, of which only ``run.json`` is read; what goes out are ``compare.md``,
``compare.csv``, ``compare.json`` and ``compare.png``. Runs that differ in their protocol alone share a line. What an
architecture costs is measured by `train.cost`.

It collects and does not train: backbones need weights from different places, and a loop in the shell says so best.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.errors import UsageError
from edge_runtime.files import make_folder, write_text

from .cost import ROUNDS, Shape, measure_costs
from .errors import DataError
from .index import PROTOCOLS
from .layout import markdown
from .reproduce import augmentation_name
from .resampling import Interval
from .run_folder import WEIGHTS, read_info
from .tables import best_control, interval_text

EPILOG = """train what is to be compared with a loop of your shell:
  for b in mobilenetv2 densenet121; do for p in stratified grouped; do
    python -m train fit work/all-subtypes --backbone $b --protocol $p --out work/study/$b-$p
    python -m train evaluate work/study/$b-$p
  done; done
  python -m train compare work/study/* --out work/compare
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="evaluated run folders; weights not needed")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument("--threads", type=int, default=1, help="of the measured latency (default 1)")


def run(args: argparse.Namespace) -> None:
    """Collect runs, measure what their networks cost, write the table and the picture."""
    from .plots import write_png

    if args.threads < 1:
        raise UsageError("--threads must be at least 1", got=args.threads)
    lines = pair_runs({str(folder): read_info(folder) for folder in args.runs})
    make_folder(args.out)  # a place that cannot be written is known before, not after
    costs = measure_costs([_shape(line) for line in lines], args.threads)
    for line in lines:
        line["cost"] |= costs[_shape(line)]
        line["cost"]["latency_relative"] = line["cost"]["latency_p50_ms"] / lines[0]["cost"]["latency_p50_ms"]
    how = {
        "engine": "PyTorch fp32, eager",
        "batch": 1,
        "threads": args.threads,
        "rounds": ROUNDS,
        "relative_to": lines[0]["backbone"],
    }
    markdown = to_markdown(lines, how)
    write_text(args.out / "compare.md", markdown)
    write_text(args.out / "compare.csv", to_csv(lines))
    write_text(
        args.out / "compare.json", json.dumps({"latency": how, "lines": lines}, indent=2, allow_nan=False) + "\n"
    )
    write_png(picture(lines), args.out / "compare.png")
    sys.stdout.write(markdown)


def pair_runs(infos: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Gather the runs that differ in nothing but the protocol, in the order given.

    Args:
        infos: run folder -> its ``run.json``.

    Returns:
        Lines: ``task``, ``labels``, ``backbone``, ``input_px``, ``pretrained``, ``taught``, ``epochs``, ``precision``,
        ``augmentation``, ``standardised``; ``protocols``: protocol -> ``run``, ``n``, ``groups``, ``macro_f1``,
        ``control`` and ``control_macro_f1`` (the best one); ``cost``: what the runs say of it.

    Raises:
        DataError: a run is not evaluated.
    """
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for folder, info in infos.items():
        if "metrics" not in info:
            raise DataError(f"{folder}: not evaluated", todo=f"run: python -m train evaluate {folder}")
        same = ("task", "labels", "backbone", "input_px", "pretrained", "data_sha256", "config")
        newer = (bool(info.get("teacher")), standardisation(info), _precision(info))
        identity = json.dumps([*(info[key] for key in same), *newer], sort_keys=True)
        number = 0  # runs that are equal even in their protocol stand on lines of their own
        while info["protocol"] in lines.setdefault((identity, number), _line(info))["protocols"]:
            number += 1
        line = lines[identity, number]
        test, control = info["metrics"]["test"], best_control(info["metrics"])
        line["protocols"][info["protocol"]] = {
            "run": folder,
            "n": test["n"],
            "groups": test["interval"]["units"],
            "macro_f1": test["macro_f1"],
            "control": control["name"],
            "control_macro_f1": control["macro_f1"],
        }
        line["cost"] = info.get("cost", {}) | line["cost"]
    return list(lines.values())


def _line(info: dict[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in ("task", "labels", "backbone", "input_px", "pretrained")} | {
        "taught": bool(info.get("teacher")),
        "epochs": info["config"]["epochs"],
        "precision": _precision(info),
        "augmentation": augmentation_name(info),
        "standardised": standardisation(info),
        "protocols": {},
        "cost": {},
    }


def _precision(info: dict[str, Any]) -> str:
    return str(info.get("precision", "32-true"))


def _shape(line: dict[str, Any]) -> Shape:
    return line["backbone"], len(line["labels"]), line["input_px"]


def to_markdown(lines: Sequence[dict[str, Any]], how: dict[str, Any]) -> str:
    """Lay out the table for people, with what must be known to read it.

    Args:
        lines: from `pair_runs`, with their costs.
        how: the latency was measured.
    """
    head = ["task", "backbone", "from", "schedule"]
    for protocol in PROTOCOLS:
        head += [f"macro-F1, {protocol}", "best control"]
    head += ["parameters, M", "GMAC", "s / epoch", f"latency p50, ms, {how['threads']} thread(s)", "relative"]
    rows = []
    for line in lines:
        cost, cells = line["cost"], [line["task"], _title(line), _origin(line), _schedule(line)]
        for protocol in PROTOCOLS:
            found = line["protocols"].get(protocol)
            cells += (
                [
                    f"{interval_text(found['macro_f1'])}, n = {found['n']} in {found['groups']} groups",
                    f"{found['control']}: {interval_text(found['control_macro_f1'])}",
                ]
                if found
                else ["-", "-"]
            )
        seconds = cost.get("seconds_per_epoch")
        cells += [
            f"{cost['parameters'] / 1e6:.2f}",
            f"{cost['macs'] / 1e9:.2f}",
            "-" if seconds is None else f"{seconds:.0f}",
            f"{cost['latency_p50_ms']:.1f}",
            f"{cost['latency_relative']:.2f}",
        ]
        rows.append(cells)
    notes = [
        "Macro-F1 on the test split of each protocol, with 95 % bootstrap intervals over whole groups. Controls know "
        "colours only. Stratified: pictures dealt out one by one. Grouped: whole patients or clusters.",
        f"Latency: {how['engine']}, batch {how['batch']}, median of {how['rounds']} calls by turns in one process; "
        f"relative to {how['relative_to']}. Seconds an epoch: median, on the machine that trained.",
    ]
    return "\n".join([markdown(head, rows), "", *notes]) + "\n"


def to_csv(lines: Sequence[dict[str, Any]]) -> str:
    """Lay out the same for programs: one line each, numbers in full, empty where there is none."""
    rows = []
    for line in lines:
        row = {key: line[key] for key in ("task", "backbone", "input_px", "pretrained", "taught", "epochs")}
        row |= {key: line[key] for key in ("precision", "augmentation")}
        row["standardised"] = "; ".join(line["standardised"])
        for protocol in PROTOCOLS:
            found = line["protocols"].get(protocol, {})
            row |= {f"{protocol}_{key}": found.get(key, "") for key in ("run", "n", "groups", "control")}
            for key in ("macro_f1", "control_macro_f1"):
                interval: dict[str, Any] = found.get(key) or {}
                row |= {f"{protocol}_{key}_{end}": interval.get(end, "") for end in ("value", "low", "high")}
        for key in ("parameters", "macs", "seconds_per_epoch", "latency_p50_ms", "latency_threads", "latency_relative"):
            row[key] = line["cost"].get(key, "")
        rows.append(row)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def picture(lines: Sequence[dict[str, Any]]) -> Any:
    """Draw every line's macro-F1 and its best control's, under both protocols, as a matplotlib figure."""
    from .plots import Series, interval_picture

    names = [f"{line['task']}, {_title(line)}, {_schedule(line)}" for line in lines]

    def values(protocol: str, key: str) -> list[Interval | None]:
        return [line["protocols"].get(protocol, {}).get(key) for line in lines]

    looks = {"stratified": ("tab:orange", "s", "1"), "grouped": ("tab:blue", "o", "x")}
    series = [
        Series(f"{protocol}: {what}", values(protocol, key), marker, colour if key == "macro_f1" else "tab:grey")
        for protocol, (colour, sign, control_sign) in looks.items()
        for what, key, marker in (
            ("network", "macro_f1", sign),
            ("best control", "control_macro_f1", control_sign),
        )
    ]
    return interval_picture(names, series, "macro-F1, test split, 95 % interval over groups")


def standardisation(info: dict[str, Any]) -> list[str]:
    """Return what a run's ``run.json`` says was done to its pixels, in words."""
    stated = info.get("preprocess", {})
    return [f"{what} {stated[what]}" for what in ("background", "stain") if stated.get(what, "keep") != "keep"]


def _title(line: dict[str, Any]) -> str:
    from .backbones import BACKBONES

    return BACKBONES[line["backbone"]].title


def _origin(line: dict[str, Any]) -> str:
    named = {"none": "scratch", "imagenet": "ImageNet (hub)", WEIGHTS: "an earlier run"}
    return named.get(line["pretrained"], line["pretrained"])


def _schedule(line: dict[str, Any]) -> str:
    extra = [f"augmentation {line['augmentation']}"] if line["augmentation"] != "full" else []
    extra += [line["precision"]] if line["precision"] != "32-true" else []
    extra += ["taught"] if line["taught"] else []
    extra += line["standardised"]
    return ", ".join([f"{line['epochs']} epochs", f"{line['input_px']} px", *extra])
