"""Tables: lay out what an evaluation found, for people.

What comes in are ``run.json`` dicts and what the evaluations of bundles, external sets and the audit found; what goes
out is text, or rows for `train.report`, in which the network stands beside its controls. Nothing is measured, read or
printed here; a figure that is not defined shows as "-".
"""

from __future__ import annotations

from typing import Any

from .layout import columns
from .resampling import Interval

SHOULD = {"holds": "hold", "falls": "fall to chance", "tells": "-"}
"""What a treatment of the audit should do to the figures; "tells" has no right answer."""

HEADLINES = (
    ("macro_f1", "macro-F1"),
    ("balanced_accuracy", "balanced accuracy"),
    ("accuracy", "accuracy"),
    ("macro_auroc", "macro AUROC"),
    ("ece", "ECE"),
    ("nll", "NLL, nats"),
)
"""Figures of a split: key in ``run.json``, and what they are called."""

INTERVALS = (
    "[low, high]: 95 % bootstrap over whole groups. A width of zero says that no error was seen, not that none\n"
    "will come; an interval over few groups is rough. Research software, not a diagnosis."
)


def run_report(infos: dict[str, dict[str, Any]]) -> str:
    """Lay out the tables of evaluated runs: network beside controls, other figures, and every class.

    Args:
        infos: run folder -> its ``run.json``; all of one task.
    """
    protocols = [info["protocol"] for info in infos.values()]
    unique = len(set(protocols)) == len(protocols)
    titles = protocols if unique else [f"{p} ({f})" for p, f in zip(protocols, infos, strict=True)]
    metrics = {title: info["metrics"] for title, info in zip(titles, infos.values(), strict=True)}
    parts = [f"{next(iter(infos.values()))['task']}: network beside its controls, on the test split"]
    head = ["", *(f"{name}: {what}" for name in metrics for what in ("macro-F1", "balanced accuracy"))]
    rows = [["network", *_cells([found["test"] for found in metrics.values()])]]
    named = {name: {row["name"]: row for row in found["controls"]} for name, found in metrics.items()}
    for control in dict.fromkeys(name for rows_by_name in named.values() for name in rows_by_name):
        rows.append([control, *_cells([rows_by_name.get(control) for rows_by_name in named.values()])])
    parts.append(_ruled(head, rows))
    parts.append(_figures(metrics))
    for name, found in metrics.items():
        parts.append(f"{name}, class by class\n{_ruled(*class_rows(found['test']))}")
    return "\n\n".join([*parts, _footer(metrics)])


def bundle_report(reference: dict[str, Any], found: dict[str, Any]) -> str:
    """Lay out the tables of a bundle beside its full-precision reference.

    Args:
        reference: the run's ``metrics``.
        found: from `evaluate_bundle`.
    """
    sides = {"reference": reference, "bundle": found}
    paired, drop = found["paired"], found["paired"]["largest_recall_drop_pp"]
    rows = [[name, *_cells([side["test"]])] for name, side in sides.items()]
    rows += [[control["name"], *_cells([control])] for control in reference["controls"]]
    parts = [
        f"{found['bundle']} through {found['engine']}, beside {found['run']} and its controls, on the test split",
        _ruled(["", "macro-F1", "balanced accuracy"], rows),
        _figures(sides),
        _ruled(
            ["bundle against reference", "paired"],
            [
                ["macro-F1 difference, pp", interval_text(paired["macro_f1_difference_pp"], 2)],
                ["top-1 agreement", interval_text(paired["top1_agreement"], 4)],
                [f"largest recall drop, pp ({drop['label']})", interval_text(drop, 2)],
                ["prepared to the pixels of training", f"{found['pixels_as_trained']:.1%}"],
            ],
        ),
        f"bundle, class by class\n{_ruled(*class_rows(found['test']))}",
        f"reference, class by class\n{_ruled(*class_rows(reference['test']))}",
    ]
    return "\n\n".join([*parts, _footer({found["protocol"]["name"]: found})])


def audit_report(info: dict[str, Any], found: dict[str, Any]) -> str:
    """Lay out the table of a shortcut audit.

    Args:
        info: the run's ``run.json``.
        found: from `train.audit.audit_run`.
    """
    worst, protocol = found["worst"], found["protocol"]
    parts = [
        f"{info['task']}, {info['backbone']}: shortcut audit on {found['n']} {found['split']} pictures "
        f"of {protocol['groups'][found['split']]} groups",
        _ruled(*audit_rows(found)),
        f"worst case of what should hold: {worst['name']}, macro-F1 {interval_text(worst['macro_f1'])}\n"
        f"chance: balanced accuracy {found['chance_balanced_accuracy']:.3f}\n"
        f"white cells found in {found['cells_found']} of {found['n']} pictures; the others keep their background"
        + (f"\nwithout effect: {', '.join(found['without_effect'])}" if found["without_effect"] else ""),
    ]
    return "\n\n".join([*parts, _footer({protocol["name"]: found})])


def audit_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of an audit, the untouched pictures first."""
    points = [point["name"] for point in found["as_is"]["operating_points"]]
    head = ["pictures", "should", "changed", "macro-F1", "difference, pp", "balanced accuracy"]
    head += [f"AUROC, {name}" for name in points]

    def cells(row: dict[str, Any]) -> list[str]:
        aurocs = [interval_text(point["test"]["auroc"]) for point in row["operating_points"]]
        figures = [interval_text(row["macro_f1"]), interval_text(row.get("macro_f1_difference_pp"), 1)]
        return [*figures, interval_text(row["balanced_accuracy"]), *aurocs]

    rows = [["as they are", "", "", *cells(found["as_is"])]]
    for row in found["rows"]:
        rows.append([row["name"], SHOULD[row["expected"]], f"{row['changed']} of {found['n']}", *cells(row)])
    return head, rows


def heatmap_report(info: dict[str, Any], found: dict[str, Any]) -> str:
    """Lay out the tables of what a run's heatmaps are worth.

    Args:
        info: the run's ``run.json``.
        found: from `train.heatmap_audit.measure_run`.
    """
    parts = [
        f"{info['task']}, {info['backbone']}: heatmaps on {found['n']} test pictures with a white cell, "
        f"{found['protocol']} protocol",
        *(_ruled(*rows) for rows in heatmap_rows(found["ways"])),
        f"drawn by chance: Spearman with the trained network's map\n{_ruled(*sanity_rows(found['sanity']))}",
        "[low, high]: 95 % bootstrap over pictures. Research software, not a diagnosis.",
    ]
    return "\n\n".join(parts)


WAYS = (
    ("pointing", "pointing game"),
    ("top_share", "top 20 % on cells"),
    ("beats_darkness", "less stain darkness"),
    ("heat_share", "heat on cells"),
)
FAITHFUL = (
    ("deletion", "deletion AUC (low)"),
    ("insertion", "insertion AUC (high)"),
    ("spearman", "Spearman with the first"),
    ("stable: shift", "moved"),
    ("stable: JPEG", "JPEG"),
    ("stable: stain", "other stain"),
)
"""Numbers of an explanation: key, and what they are called."""


def heatmap_rows(ways: dict[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Return head and rows of the tables of ways to explain: where the heat lies, and whether it can be trusted."""
    return [
        (
            ["heatmap", *(title for _, title in columns)],
            [[name, *(interval_text(row.get(key), 2) for key, _ in columns)] for name, row in ways.items()],
        )
        for columns in (WAYS, FAITHFUL)
    ]


def sanity_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of sanity checks, see `train.heatmap_quality.sanity`."""
    titles = list(next(iter(found.values()))["spearman"])
    rows = [
        [spoilt, *(interval_text(row["spearman"][title], 2) for title in titles), f"{row['flat']:.0%}"]
        for spoilt, row in found.items()
    ]
    return ["drawn by chance", *titles, "maps that are flat"], rows


def external_report(info: dict[str, Any], found: dict[str, Any]) -> str:
    """Lay out the tables of a run on another index's pictures.

    Args:
        info: the run's ``run.json``.
        found: from `train.external.evaluate_external`.
    """
    parts = [
        f"{info['task']}, {info['backbone']}: on {found['index']}, {found['split']} of its pictures",
        "\n".join(external_notes(found)),
        _ruled(*external_rows(found)),
        _figures({"external": found}),
        f"class by class, all classes compete\n{_ruled(*class_rows(found['test']))}",
    ]
    return "\n\n".join([*parts, INTERVALS])


def external_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table that sets both views of an external set beside its controls."""
    rows = [["network, all its classes compete", *_cells([found["test"]])]]
    rows += [["network, shared classes only", *_cells([found["restricted"]])]]
    for control in found["controls"]:
        rows.append([f"{control['name']}, fitted where the run was trained", *_cells([control])])
    return ["", "macro-F1", "balanced accuracy"], rows


def best_control(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the control with the highest macro-F1 that never saw a cell."""
    blind = [row for row in metrics["controls"] if row["asks"] == "class" and "macro_f1_difference_pp" not in row]
    return max(blind, key=lambda row: row["macro_f1"]["value"])


def external_notes(found: dict[str, Any]) -> list[str]:
    """Say in words what an external set is, and what was done about classes that the two sides do not share."""
    sources = [
        f"{name} ({part['pictures']} pictures, {part['groups']} groups; "
        + ("other pictures of it were trained on)" if part["trained_on"] else "not trained on)")
        for name, part in found["sources"].items()
    ]
    lines = [f"sources: {', '.join(sources)}", f"shared classes: {', '.join(found['shared_classes'])}"]
    if found["absent_classes"]:
        lines.append(f"absent, but competing: {', '.join(found['absent_classes'])}")
    if found["classes_left_out"]:
        left_out = ", ".join(f"{label} ({count})" for label, count in found["classes_left_out"].items())
        lines.append(f"left out, for the network has no such class: {left_out}")
    known = found["known"]
    lines.append(
        f"near duplicates of a training or validation picture: {known['near_duplicates']} of {found['n']}; pictures of "
        f"a patient that is there: {known['patients']}"
    )
    return lines


def _figures(sides: dict[str, dict[str, Any]]) -> str:
    """Lay out one column per side: the test split's figures, each operating point, each source."""
    columns = {name: dict(_figure_rows(found)) for name, found in sides.items()}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return _ruled(["", *sides], [[name, *(column.get(name, "-") for column in columns.values())] for name in names])


def _figure_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    test = found["test"]
    rows = [("pictures / groups", f"{test['n']} / {test['interval']['units']}")]
    for key, title in HEADLINES:
        rows.append((title, interval_text(test[key])))
    rows.append(("temperature", f"{test['temperature']:.3f}"))
    for source, part in found["per_source"].items():
        rows.append((f"macro-F1, {source} alone", interval_text(part["macro_f1"])))
    for point in found["operating_points"]:
        for scope, answers in (("", point["test"]), *((f", {s} alone", a) for s, a in point["per_source"].items())):
            for key, title in (("auroc", "AUROC"), ("sensitivity", "sensitivity"), ("specificity", "specificity")):
                if answers[key] is not None:
                    rows.append((f"{point['name']}: {title}{scope}", interval_text(answers[key])))
        rows.append((f"{point['name']}: threshold", f"{point['threshold']:.4f}"))
    for control in found.get("controls", ()):
        for point in control.get("operating_points", ()):
            for scope, part in (("", point["test"]), *((f", {s} alone", a) for s, a in point["per_source"].items())):
                if part["auroc"] is not None:
                    rows.append((f"{point['name']}: AUROC{scope}, by {control['name']}", interval_text(part["auroc"])))
        if "macro_f1_difference_pp" in control:
            rows.append(
                (f"{control['name']}: macro-F1 change, pp", interval_text(control["macro_f1_difference_pp"], 2))
            )
    return rows


def class_rows(test: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of classes; classes without a picture are left out.

    Args:
        test: as `train.metrics.evaluate_predictions` gives it.
    """
    names = ("sensitivity", "specificity", "precision", "f1", "auroc")
    rows = []
    for label, row in test["per_class"].items():
        if row["support"]:
            cells = [interval_text(row[name]) for name in names]
            if row["groups"] == 1:  # resampled, the one group is always there: its sensitivity seems to be certain
                cells[0] = f"{row['sensitivity']['value']:.3f} [one group]"
            rows.append([label, f"{row['support']} / {row['groups']}", *cells])
    return ["class", "pictures / groups", "sensitivity", "specificity", "precision", "F1", "AUROC"], rows


def _footer(metrics: dict[str, dict[str, Any]]) -> str:
    lines = [f"{found['protocol']['name']}: {found['protocol']['text']}." for found in metrics.values()]
    return "\n".join([*dict.fromkeys(lines), INTERVALS])


def _cells(rows: list[dict[str, Any] | None]) -> list[str]:
    return [interval_text(row[key]) if row else "-" for row in rows for key in ("macro_f1", "balanced_accuracy")]


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """Write "value [low, high]", or "-" where there is no number."""
    if interval is None:
        return "-"
    value, low, high = (f"{interval[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _ruled(head: list[str], rows: list[list[str]]) -> str:
    return columns(head, rows, rule=True)
