"""Run in the report: everything ``run.json`` and ``curves.csv`` hold of one run, as sections of the page.

Each section says on which split its figures are, how many pictures and groups that split has, and how the intervals
were made. A section whose figures have not been measured says which command measures them.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from .cautions import cautions
from .errors import DataError
from .page import Block, Commands, Picture, Section, Table, Text
from .plots import Series, confusion_picture, interval_picture, learning_curves, reliability_picture, to_svg
from .reproduce import augmentation_name, commands
from .tables import (
    HEADLINES,
    audit_rows,
    class_rows,
    external_notes,
    external_rows,
    heatmap_rows,
    interval_text,
    sanity_rows,
)

WORST_GROUPS = 10
"""Rows of the table of groups; the picture shows twice as many."""


def run_sections(folder: Path, info: dict[str, Any], card: dict[str, Any], name: str) -> list[Section]:
    """Return the sections of one run.

    Args:
        folder: the run's.
        info: its ``run.json``, with ``metrics``.
        card: data card of its index.
        name: unique on the page, for the pictures.

    Raises:
        DataError: the learning curves are missing or damaged.
    """
    metrics, title = info["metrics"], f"{folder.name}: "
    scope = scope_text(info["protocol"], "test split", metrics["test"])
    return [
        Section(f"Run {folder}", [_facts(folder, info), Text(["Take with care:"]), Text(cautions(info, card), True)]),
        Section(title + "learning curves", [_curves(folder, info, name)], 3),
        Section(title + "test split", _test(info, scope, name), 3),
        Section(title + "controls", [_controls(metrics, scope)], 3),
        Section(title + "sources and patients", [*_sources(metrics, scope), *_groups(folder, info, name)], 3),
        Section(title + "shortcut audit", _audit(folder, info, name), 3),
        Section(title + "explanations", _heatmaps(folder, info), 3),
        Section(title + "external sets", _external(folder, info), 3),
        Section(title + "how to make it again", _again(folder, info), 3),
    ]


def scope_text(protocol: str, split: str, found: dict[str, Any]) -> str:
    """Say which pictures figures are of, and how their intervals were made: the end of every caption."""
    how = found["interval"]
    return (
        f"{protocol} protocol, {split}, {found['n']} pictures in {how['units']} {how['unit']}s; {how['level']:.0%} "
        f"{how['method']} over {how['unit']}s, {how['resamples']} resamples, seed {how['seed']}"
    )


def _facts(folder: Path, info: dict[str, Any]) -> Table:
    config, cost = info["config"], info.get("cost", {})
    protocol = info["metrics"]["protocol"]
    sides = ", ".join(f"{split} {n} / {protocol['groups'][split]}" for split, n in protocol["pictures"].items())
    weights = {"none": "none: trained from scratch", "imagenet": "ImageNet"}.get(info["pretrained"], info["pretrained"])
    rows = [
        ["task", f"{info['task']}: {', '.join(info['labels'])}"],
        ["backbone, input", f"{info['backbone']}, {info['input_px']} px"],
        ["started from", weights],
        ["schedule", f"{config['epochs']} epochs, {config['head_epochs']} of them the head's; batch {config['batch']}"],
        ["augmentation", augmentation_name(info)],
        ["protocol", f"{info['protocol']}: {protocol['text']}"],
        ["pictures / groups", sides],
        ["sources", ", ".join(info["sources"])],
        ["sha256 of the weights", info["weights_sha256"]],
    ]
    if cost:
        rows.append(["parameters, multiply-accumulates", f"{cost['parameters']:,}, {cost['macs']:,} for one picture"])
        rows.append(["time", f"{cost['seconds_per_epoch']:.0f} s an epoch, median of the epochs"])
    return Table(f"{folder}: what was trained.", ["", "value"], rows)


def _curves(folder: Path, info: dict[str, Any], name: str) -> Picture:
    try:
        with (folder / "curves.csv").open(newline="", encoding="utf-8") as stream:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
        last, figure = rows[-1], learning_curves(rows)
    except (OSError, ValueError, TypeError, LookupError) as error:  # an IndexError: a head without rows
        raise DataError(f"{folder / 'curves.csv'}: no learning curves", got=f"{type(error).__name__} {error}") from None
    n = info["metrics"]["protocol"]["pictures"]
    alt = (
        f"Learning curves over {len(rows)} epochs; at the end training loss {last['train_loss']:.3f}, validation loss "
        f"{last['val_loss']:.3f}, validation macro-F1 {last['val_macro_f1']:.3f}."
    )
    caption = (
        f"Learning curves, {info['protocol']} protocol: loss on the train split ({n['train']} pictures), loss and "
        f"macro-F1 on the validation split ({n['val']} pictures), on which the epoch was chosen; no intervals."
    )
    return Picture(to_svg(figure, f"{name}-curves", alt), caption)


def _test(info: dict[str, Any], scope: str, name: str) -> list[Block]:
    test, labels = info["metrics"]["test"], info["labels"]
    figures = [[title, interval_text(test[key])] for key, title in HEADLINES]
    val = info["metrics"]["validation"]
    figures.append([f"temperature, fitted on validation ({val['n']} pictures)", f"{info['temperature']:.3f}"])
    right = sum(test["confusion"][k][k] for k in range(len(labels)))
    confusion = f"Confusion matrix: {right} of {test['n']} pictures are on the diagonal."
    ece = test["ece"]["value"]
    reliability = f"Reliability diagram: expected calibration error {ece:.3f} after temperature scaling."
    return [
        Table(f"Figures; {scope}.", ["figure", "value"], figures),
        Table(f"Class by class; {scope}.", *class_rows(test)),
        Picture(
            to_svg(confusion_picture(test["confusion"], labels), f"{name}-confusion", confusion),
            f"{confusion} Counts, coloured by share of the true class; no intervals; {scope}.",
        ),
        *_points(info["metrics"]["operating_points"], scope),
        Picture(
            to_svg(reliability_picture(test["reliability"], ece), f"{name}-reliability", reliability),
            f"{reliability} ECE {interval_text(test['ece'])} over 15 bins; {scope}.",
        ),
    ]


def _points(points: list[dict[str, Any]], scope: str) -> list[Block]:
    rows = []
    for point in points:
        for where, found in (("all sources", point["test"]), *point["per_source"].items()):
            rows.append(
                [
                    f"{point['name']}, {where}",
                    f"{found['positives']} of {found['n']}",
                    *(interval_text(found[key]) for key in ("auroc", "sensitivity", "specificity")),
                    f"{point['threshold']:.4f}",
                ]
            )
    head = ["question", "positives", "AUROC", "sensitivity", "specificity", "threshold, chosen on validation"]
    return [Table(f"Yes/no questions at the stored threshold; {scope}.", head, rows)] if rows else []


def _controls(metrics: dict[str, Any], scope: str) -> Table:
    rows = [["the network", "class", *_three(metrics["test"])]]
    rows += [[control["name"], control["asks"], *_three(control)] for control in metrics["controls"]]
    return Table(
        f"The network beside its controls, which were fitted on its train split; {scope}.",
        ["", "asked for", "pictures", "macro-F1", "balanced accuracy", "accuracy"],
        rows,
    )


def _three(found: dict[str, Any]) -> list[str]:
    keys = ("macro_f1", "balanced_accuracy", "accuracy")
    return [str(found["n"]), *(interval_text(found[key]) for key in keys)]


def _sources(metrics: dict[str, Any], scope: str) -> list[Block]:
    if not metrics["per_source"]:
        return [Text(["All pictures come from one source."])]
    rows = [
        [name, f"{found['n']} / {found['interval']['units']}", *_three(found)[1:]]
        for name, found in metrics["per_source"].items()
    ]
    head = ["source", "pictures / groups", "macro-F1", "balanced accuracy", "accuracy"]
    return [Table(f"Within each source; {scope}.", head, rows)]


def _groups(folder: Path, info: dict[str, Any], name: str) -> list[Block]:
    found = info.get("per_group")
    if not found:
        return [Text([f"Not measured patient by patient: run python -m train evaluate {folder}"])]
    rows = found["rows"]
    mean, how = found["mean_accuracy"], found["interval"]
    worst = [
        [
            row["group"],
            f"{row['right']} of {row['n']}",
            interval_text(row["accuracy"]),
            ", ".join(f"{mistake} ({n})" for mistake, n in list(row["mistakes"].items())[:3]) or "none",
        ]
        for row in rows[:WORST_GROUPS]
    ]
    shown = rows[: 2 * WORST_GROUPS]
    names = [f"{row['group']} ({row['n']})" for row in shown]
    figure = interval_picture(names, [Series("", [row["accuracy"] for row in shown])], "accuracy", mean["value"])
    alt = f"Accuracy of the {len(shown)} worst groups of {len(rows)}; the mean over all groups is {mean['value']:.3f}."
    split = f"{info['protocol']} protocol, test split"
    return [
        Text(
            [
                f"Mean accuracy over groups, in which a patient with few cells counts as much as one with many: "
                f"{interval_text(mean)} ({split}, {len(rows)} groups; {how['level']:.0%} {how['method']} over groups, "
                f"{how['resamples']} resamples)."
            ]
        ),
        Table(
            f"The {len(worst)} worst of {len(rows)} groups (patients, or clusters where no patient is named), by the "
            f"upper end of their interval; {split}; 95 % Wilson intervals over the group's pictures, which resemble "
            "each other, so the intervals are too narrow.",
            ["group", "right", "accuracy", "most frequent mistakes"],
            worst,
        ),
        Picture(to_svg(figure, f"{name}-groups", alt), f"{alt} Number of pictures in brackets; {split}; as above."),
    ]


def _audit(folder: Path, info: dict[str, Any], name: str) -> list[Block]:
    found = info.get("audit")
    if not found:
        return [Text([f"Not audited: run python -m train audit {folder}"])]
    scope = scope_text(info["protocol"], "test split", found)
    rows, worst = found["rows"], found["worst"]
    series = Series("", [row["macro_f1"] for row in rows])
    as_is = found["as_is"]["macro_f1"]["value"]
    figure = interval_picture([row["name"] for row in rows], [series], "macro-F1", as_is)
    alt = (
        f"Macro-F1 under {len(rows)} treatments; {as_is:.3f} as the pictures are, "
        f"{worst['macro_f1']['value']:.3f} in the worst case of those that should hold, {worst['name']}."
    )
    notes = [
        f"Worst case of what should hold: {worst['name']}, macro-F1 {interval_text(worst['macro_f1'])}.",
        f"Chance is a balanced accuracy of {found['chance_balanced_accuracy']:.3f}.",
        f"White cells were found in {found['cells_found']} of {found['n']} pictures; in the others background and cell "
        "stay as they are.",
    ]
    if found["without_effect"]:
        notes.append(f"Changed no picture here: {', '.join(found['without_effect'])}.")
    return [
        Table(f"One thing changed at a time; {scope}; differences are paired.", *audit_rows(found)),
        Picture(to_svg(figure, f"{name}-audit", alt), f"{alt} Dashed: as they are; {scope}."),
        Text(notes, points=True),
        Table("What is done to the pictures.", ["pictures", "treatment"], [[row["name"], row["text"]] for row in rows]),
    ]


def _heatmaps(folder: Path, info: dict[str, Any]) -> list[Block]:
    found = info.get("heatmaps")
    if not found:
        return [Text([f"Heatmaps not measured: run python -m train audit-heatmaps {folder}"])]
    how = found["interval"]
    scope = (
        f"{info['protocol']} protocol, {found['n']} test pictures with a white cell; {how['level']:.0%} "
        f"{how['method']} over pictures, {how['resamples']} resamples"
    )
    lies, trusted = heatmap_rows(found["ways"])
    return [
        Table(f"Where the heat lies, beside maps that ask no network; {scope}.", *lies),
        Table(f"Whether the answer goes with the heat, and the heat stays or goes as it should; {scope}.", *trusted),
        Table(f"Sanity: Spearman with the trained network's heatmap; {scope}.", *sanity_rows(found["sanity"])),
    ]


def _external(folder: Path, info: dict[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for name, found in info.get("external", {}).items():
        scope = scope_text("external", f"{name}, {found['split']} of its pictures", found["test"])
        blocks += [
            Text([f"{name}:"]),
            Text(external_notes(found), points=True),
            Table(f"The network beside its controls; {scope}.", *external_rows(found)),
            Table(f"Class by class, all classes compete; {scope}.", *class_rows(found["test"])),
            *_points(found["operating_points"], scope),
        ]
    return blocks or [Text([f"Not tried on another index: run python -m train external {folder} INDEX"])]


def _again(folder: Path, info: dict[str, Any]) -> list[Block]:
    versions = ", ".join(f"{package} {version}" for package, version in info["code"].items())
    return [
        Text(
            [
                f"Trained with {versions}; seed {info['seed']}, split seed {info['split_seed']}; sha256 of the data "
                f"{info['data_sha256']}. Words in capitals are places on your machine."
            ]
        ),
        Commands([*commands(folder, info), f"python -m train report {folder} --out report.html"]),
    ]
