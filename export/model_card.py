"""Model card: the manifest in words and tables, as ``MODEL_CARD.md``. Everything in it comes from the manifest."""

from __future__ import annotations

from typing import Any

from edge_runtime.manifest import STANDARDISATION

from .recipes import CALIBRATION_IMAGES, TARGETS, Recipe


def model_card(stated: dict[str, Any]) -> str:
    """Return the card of a bundle.

    Args:
        stated: the manifest, with or without ``files``.

    Returns:
        Markdown, the same text for the same manifest.
    """
    return (
        "\n\n".join(
            part
            for part in (
                f"# {stated['name']}",
                _head(stated),
                _use(stated["limits"]),
                _data(stated["training"]),
                _metrics(stated),
                _points(stated),
                _abstention(stated),
                _parity(stated["metrics"]["parity"]),
                _quantization(stated["quantization"]),
                _reproduce(stated),
            )
            if part
        )
        + "\n"
    )


def _head(stated: dict[str, Any]) -> str:
    task, training = stated["task"], stated["training"]
    passed = stated["metrics"]["parity"]["passed"]
    warning = "" if passed else "**DEGRADED: this model did not pass its parity gates.** "
    view = "one microscope field" if task["kind"] == "field" else "one cell in the middle of a square crop"
    side, class_map = stated["input"]["height"], stated["outputs"]["class_map"]
    changed = [f"{key} {stated['preprocess'][key]}" for key in STANDARDISATION if key in stated["preprocess"]]
    return (
        f"{warning}{task['title']}. Research decision support, not a medical device.\n\n"
        f"- labels: {', '.join(task['labels'])}\n"
        f"- takes: {view}, resized to {side} x {side} px{', ' if changed else ''}{', '.join(changed)}; uint8 RGB, "
        "normalised inside the graph\n"
        f"- gives: logits and a {class_map['height']} x {class_map['width']} class map whose mean they are; the map is "
        "the explanation\n"
        f"- backbone: {training['backbone']}, pretrained on {training['pretrained'] or 'nothing'}; recipe "
        f"{stated['quantization']['recipe']}"
    )


def _use(limits: dict[str, Any]) -> str:
    notes = "\n".join(f"- {note}" for note in limits["notes"])
    return f"## Use\n\nIntended: {limits['intended']}.\n\nNot for: {limits['not_for']}\n\n{notes}"


def _data(training: dict[str, Any]) -> str:
    rows = [f"| {s['title']} | {s['citation']} | {s['licence']} |" for s in training["sources"]]
    counts = ", ".join(f"{n} {split}" for split, n in training.get("pictures", {}).items())
    table = "\n".join(["| source | citation | licence |", "|---|---|---|", *rows])
    return f"## Data\n\n{table}\n\nProtocol {training['protocol']}" + (f": {counts} pictures." if counts else ".")


def _metrics(stated: dict[str, Any]) -> str:
    reference, this = stated["metrics"]["reference"], stated["metrics"]["this"]
    rows = [
        _line(title, reference.get(key), this.get(key))
        for key, title in (
            ("macro_f1", "macro-F1"),
            ("balanced_accuracy", "balanced accuracy"),
            ("accuracy", "accuracy"),
            ("macro_auroc", "macro AUROC"),
            ("ece", "ECE"),
        )
        if key in this
    ]
    for source, part in this.get("per_source", {}).items():
        other = reference.get("per_source", {}).get(source, {})
        rows.append(_line(f"macro-F1, {source} alone", other.get("macro_f1"), part.get("macro_f1")))
    for control in reference.get("controls", []):
        for key, title in (("macro_f1", "macro-F1"), ("balanced_accuracy", "balanced accuracy")):
            if control.get(key) is not None:
                rows.append(f"| control, {control.get('name', '?')}: {title} | {_interval(control[key])} | |")
    table = "\n".join(["| on the test split | full precision | this model |", "|---|---|---|", *rows])
    classes = this.get("per_class", {})
    names = ("sensitivity", "specificity", "f1", "auroc")
    lines = [
        f"| {label} | {row['support']} | " + " | ".join(_interval(row.get(name)) for name in names) + " |"
        for label, row in classes.items()
    ]
    head = ["| class | pictures | sensitivity | specificity | F1 | AUROC |", "|---|---|---|---|---|---|"]
    per_class = "\n".join([*head, *lines])
    unit = this.get("interval", {})
    note = (
        f"[low, high]: 95 % bootstrap over {unit['units']} {unit['unit']}s. Controls do not look at a cell's shape: "
        "what they reach, the pictures give away without it."
        if unit
        else ""
    )
    return "\n\n".join(part for part in ("## Metrics", table, per_class if lines else "", note) if part)


def _points(stated: dict[str, Any]) -> str:
    measured = {point["name"]: point["test"] for point in stated["metrics"]["this"].get("operating_points", [])}
    rows = []
    for point in stated["operating_points"]:
        test = measured.get(point["name"], {})
        rows.append(
            f"| {point['name']} | {' + '.join(point['positive'])} | {point['threshold']:.4f} | "
            f"{point['sensitivity']:.3f} / {point['specificity']:.3f} | {_interval(test.get('sensitivity'))} | "
            f"{_interval(test.get('specificity'))} | {_interval(test.get('auroc'))} |"
        )
    if not rows:
        return ""
    head = (
        "| operating point | positive | threshold | validation sensitivity / specificity | "
        "sensitivity | specificity | AUROC |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def _abstention(stated: dict[str, Any]) -> str:
    if "abstention" not in stated:
        return ""
    limits, found = stated["abstention"], stated["metrics"]["this"]["abstention"]
    rows = "\n".join(
        f"| {label} | {margin:.3g} | {_interval(found['per_class'][label]['coverage'])} | "
        f"{_interval(found['per_class'][label]['answered'])} |"
        for label, margin in limits["margins"].items()
    )
    return (
        "## When it declines to answer\n\n"
        f"When more than one label is plausible (labels are kept so that the true one is among them in "
        f"{limits['coverage']:.0%} of a class's pictures), or the picture is farther than "
        f"{limits['familiarity']['limit']:.3g} from the training pictures. On the test split: true label plausible "
        f"{_interval(found['coverage'])}, answered {_interval(found['answered'])}, of these right "
        f"{_interval(found['accuracy'])}, their ECE {_interval(found.get('ece'))}; unfamiliar "
        f"{_interval(found['unfamiliar'])}.\n\n"
        f"| class | margin, nats | true label plausible | answered |\n|---|---|---|---|\n{rows}"
    )


def _parity(parity: dict[str, Any]) -> str:
    rows = [
        f"| {row['step']} | {row['measure']} | {row['value']:g} | {row['limit']} | "
        f"{'ok' if row['passed'] else '**FAILED**'} | {row.get('note', '')} |"
        for row in parity["rows"]
    ]
    table = "\n".join(["| step | measure | value | limit | | note |", "|---|---|---|---|---|---|", *rows])
    return f"## Parity\n\nFrom the trained network to this file, on the whole test split.\n\n{table}"


def _quantization(quantization: dict[str, Any]) -> str:
    text = f"## Quantization\n\nWeights {quantization['weights']}, activations {quantization['activations']}."
    options = ", ".join(f"{key} {value}" for key, value in quantization.get("options", {}).items() if value)
    text += f" Chosen: {options}." if options else ""
    calibration = quantization["calibration"]
    if calibration is None:
        return text
    counts = ", ".join(f"{label} {count}" for label, count in calibration.get("per_class", {}).items())
    return (
        f"{text} Calibrated on {calibration['images']} pictures of the "
        f"{calibration['split']} split ({counts}), disjoint {calibration.get('disjoint', '')}; set "
        f"`{calibration['sha256'][:12]}`."
    )


def _reproduce(stated: dict[str, Any]) -> str:
    training, quantization = stated["training"], stated["quantization"]
    recipe = Recipe(TARGETS[quantization["target"]], quantization["options"]).name
    calibration = quantization["calibration"] or {"images": CALIBRATION_IMAGES, "seed": 0}
    drawn = ""
    if calibration["images"] != CALIBRATION_IMAGES:
        drawn += f" --calibration-images {calibration['images']}"
    if calibration["seed"]:
        drawn += f" --seed {calibration['seed']}"
    tools = ", ".join(f"{name} {version}" for name, version in quantization["tools"].items())
    return (
        "## Reproduce\n\n"
        "```\n"
        f"python -m train index --task {stated['task']['name']} --data DATA --out INDEX\n"
        "python -m train split INDEX\n"
        f"python -m train fit INDEX --protocol {training['protocol']} --backbone {training['backbone']} "
        f"--seed {training['seed']} --out RUN\n"
        "python -m train evaluate RUN\n"
        f"python -m export pack RUN --recipe {recipe}{drawn} --out BUNDLE\n"
        "python -m edge_runtime verify BUNDLE\n"
        "```\n\n"
        f"Run {training['run']}, weights `{training['weights_sha256'][:12]}`, data `{training['data_sha256'][:12]}`, "
        f"leukoscope {training['code']}; {tools}."
    )


def _line(title: str, reference: Any, this: Any) -> str:
    return f"| {title} | {_interval(reference)} | {_interval(this)} |"


def _interval(found: Any) -> str:
    if not isinstance(found, dict):
        return "-"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
