"""Tables: the README's figures, written from what was measured and from nothing else; and those of the other pages.

What comes in are ``references/*/run.json`` and ``bundle-evaluation.json`` (accuracy) and the shipped manifests
(parity); what goes out are tables. A test compares the pages with what this module would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_runtime.bundle import default_bundles, open_bundle
from edge_runtime.files import write_text
from export.sweep_table import sweep_report
from train.layout import markdown

from . import (
    abstention_tables,
    arm_tables,
    compare_tables,
    cost_tables,
    explanation_tables,
    hardening_tables,
    rig_tables,
    scan_tables,
    speed_tables,
    study,
)
from .markdown import with_tables

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = {"stratified": "-stratified", "grouped": ""}
"""Protocol -> what its folder in ``references`` adds to the task's name; the grouped one is shipped."""


def accuracy_table() -> str:
    """Macro-F1 of both protocols, reference and INT8, beside the controls; then the yes/no question."""
    head = ("task, protocol", "test pictures / groups", "fp32 reference", "INT8 bundle", *CONTROLS)
    rows, points = [], []
    for task in default_bundles():
        for protocol, suffix in PROTOCOLS.items():
            folder = ROOT / "references" / f"{task}{suffix}"
            if not folder.is_dir():  # measured for one protocol only
                continue
            reference = _read(folder / "run.json")["metrics"]
            bundle = _read(folder / "bundle-evaluation.json")
            controls = {row["name"]: row for row in reference["controls"]}
            held = reference["protocol"]
            size = f"{held['pictures']['test']} / {held['groups']['test']}"
            figures = [_interval(side["test"]["macro_f1"]) for side in (reference, bundle)]
            rows.append(
                [f"{task}, {protocol}", size, *figures, *(_plain(controls[name]["macro_f1"]) for name in CONTROLS)]
            )
            points += _points(task, protocol, reference, bundle)
    return "\n\n".join(
        (
            "Macro-F1 on the test split; controls see colours only:",
            markdown(head, rows),
            "The yes/no question of each task, at the threshold stored in the bundle (chosen on validation):",
            markdown(("question, protocol, pictures", "model", "AUROC", "sensitivity", "specificity"), points),
        )
    )


CONTROLS = ("colour, 1-NN", "colour, LDA", "background ring, 1-NN", "background ring, LDA")


def sweeps_table() -> str:
    """What `export sweep` found, backbone by backbone, and why a gate failed where one did."""
    sweeps = [_read(file) for file in sorted((ROOT / "references" / "sweeps").glob("*.json"))]
    return "\n\n".join(sweep_report(found) for found in sorted(sweeps, key=lambda found: found["task"]))


def _points(task: str, protocol: str, reference: dict[str, Any], bundle: dict[str, Any]) -> list[list[str]]:
    rows = []
    for k, point in enumerate(reference["operating_points"]):
        for name, side in (("fp32", reference), ("INT8", bundle)):
            found = side["operating_points"][k]
            parts = {"all sources": found["test"], **found["per_source"]}
            for where, values in parts.items():
                if values["positives"] and values["positives"] < values["n"]:
                    cells = [_interval(values[key]) for key in ("auroc", "sensitivity", "specificity")]
                    rows.append([f"{point['name']}, {protocol}, {where if len(parts) > 1 else task}", name, *cells])
    return sorted(rows, key=lambda row: (row[0], row[1]))


def parity_table() -> str:
    """Every row of the shipped bundles' parity ladders."""
    parts = []
    for task in default_bundles():
        bundle = open_bundle(task)
        parity = bundle.manifest.raw["metrics"]["parity"]
        rows = [
            [row["step"], row["measure"], f"{row['value']:g}", row["limit"], row.get("note", "")]
            for row in parity["rows"]
        ]
        title = f"`{task}`, {parity['pictures']} test pictures, model {len(bundle.read('model.tflite')) / 1e6:.2f} MB:"
        parts.append(f"{title}\n\n{markdown(('step', 'measure', 'value', 'limit', ''), rows)}")
    return "\n\n".join(parts)


PAGES = {
    ROOT / "README.md": {"accuracy": accuracy_table, "parity": parity_table, "cost": cost_tables.short_table},
    ROOT / "docs" / "benchmarks.md": cost_tables.TABLES,
    ROOT / "docs" / "study.md": study.TABLES,
    ROOT / "docs" / "explanations.md": explanation_tables.TABLES,
    ROOT / "docs" / "targets.md": {"sweeps": sweeps_table},
    ROOT / "docs" / "scan.md": scan_tables.TABLES,
    ROOT / "docs" / "abstention.md": abstention_tables.TABLES,
    ROOT / "docs" / "comparing.md": compare_tables.TABLES,
    ROOT / "docs" / "serve.md": rig_tables.SERVE,
    ROOT / "docs" / "watch.md": rig_tables.WATCH,
    ROOT / "docs" / "speed.md": speed_tables.TABLES,
    ROOT / "docs" / "archive.md": rig_tables.ARCHIVE,
    ROOT / "docs" / "hardening.md": hardening_tables.TABLES,
    ROOT / "docs" / "arm.md": arm_tables.TABLES,
}
"""Page -> its tables."""


def write_pages() -> None:
    """Write the tables of all pages anew."""
    for page, tables in PAGES.items():
        write_text(page, with_tables(page.read_text(encoding="utf-8"), tables))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.4f} [{found['low']:.3f}, {found['high']:.3f}]"


def _plain(found: dict[str, float]) -> str:
    return f"{found['value']:.3f}"


if __name__ == "__main__":
    write_pages()
