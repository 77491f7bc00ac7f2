"""Results as text: for people, as JSON lines, as CSV, as tables. Values in, strings out; nothing is printed here.

Everything that comes from outside (names of files, texts of a manifest) passes `plain` before it stands in a line for
people, so that a file's name can neither break a line nor send control codes to a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .guard import plain
from .manifest import STANDARDISATION, Manifest
from .quality_limits import MEASURES

if TYPE_CHECKING:
    from .bundle import Bundle
    from .classifier import Prediction
    from .explanation import Explanation
    from .golden import VerifyReport
    from .trust import Signer

NOTE = "Research decision support, not a diagnosis."


def json_line(values: Mapping[str, Any]) -> str:
    """Return one line of JSON, ASCII only, without NaN."""
    return json.dumps(values, ensure_ascii=True, allow_nan=False)


def prediction_json(picture: str, prediction: Prediction, explanation: Explanation | None = None) -> str:
    """Return a prediction as one line of JSON; `picture` comes first."""
    return json_line(prediction_facts(picture, prediction, explanation))


def prediction_facts(picture: str, prediction: Prediction, explanation: Explanation | None = None) -> dict[str, Any]:
    """Return a prediction, under the name of its picture, as JSON takes it."""
    explained = {} if explanation is None else {"explanation": explanation.to_dict()}
    return {"picture": picture, **prediction.to_dict(), **explained}


def prediction_line(picture: str, prediction: Prediction, top: int, explanation: Explanation | None = None) -> str:
    """Return a prediction as one line for people; where there is no answer, why, and what it would have been.

    Args:
        picture: its name.
        prediction: the answer.
        top: how many labels to name, at least 1.
        explanation: of it, or None.
    """
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    others = [f"{label} {100 * value:.1f} %" for label, value in ranked if label != prediction.label][: top - 1]
    said = f"{prediction.label} {100 * prediction.probability:.1f} %" + (f" ({', '.join(others)})" if others else "")
    seen = "" if explanation is None else _seen(explanation)
    time = f"{prediction.timings_ms['total']:.0f} ms"
    if prediction.abstained:  # nor are the questions answered
        reasons = "; ".join(refusal.text for refusal in prediction.refusals)
        parts = [f"no answer: {reasons}", f"would have said {said}", _not_excluded(prediction), seen, time]
        return f"{plain(picture)}: " + "; ".join(part for part in parts if part)
    flags = ", ".join(
        f"{name}: {'yes' if flag.yes else 'no'} ({flag.score:.3f} {'>=' if flag.yes else '<'} {flag.threshold:.3f})"
        for name, flag in prediction.flags.items()
    )
    parts = [said, _not_excluded(prediction), flags, seen, time]
    return f"{plain(picture)}: " + "; ".join(part for part in parts if part)


def _not_excluded(prediction: Prediction) -> str:
    """Name the labels that are left, where they are several; nothing where the bundle does not say."""
    everything = len(prediction.plausible) == len(prediction.probabilities)
    if everything and any(refusal.reason == "ambiguous" for refusal in prediction.refusals):
        return "no label excluded"
    several = len(prediction.plausible) > 1 and not everything
    return f"not excluded: {', '.join(prediction.plausible)}" if several else ""


def _seen(explanation: Explanation) -> str:
    """Say where the heat lies, in words."""
    if explanation.centroid is None:
        return "no heat: nothing in the picture speaks for the answer"
    x, y = explanation.centroid
    share = explanation.inside_cell
    inside = "no white cell found" if share is None else f"{share:.0%} of the heat on white cells"
    return f"{inside}, centre {x:.2f}, {y:.2f}; runner-up {explanation.runner_up}"


JUDGED = ("plausible", "abstained", "refusals")
"""Columns of how far to trust it; several labels or refusals in one cell are joined by "; "."""

EXPLAINED = ("runner_up", "inside_cell", "centre_x", "centre_y", "box_left", "box_top", "box_width", "box_height")
"""Columns of an explanation; places are shares of the square that the model saw."""


def csv_header(manifest: Manifest, explained: bool = False) -> str:
    """Return the head of a CSV table for a bundle's predictions, with an explanation's columns where asked for."""
    labels = [f"p {label}" for label in manifest.task.labels]
    flags = [point.name for point in manifest.operating_points]
    answer = ["picture", "label", "probability", *labels, *flags]
    return _csv([*answer, *(EXPLAINED if explained else ()), *JUDGED, "total_ms", "bundle_id", "degraded", "error"])


def csv_row(picture: str, prediction: Prediction, explanation: Explanation | None = None) -> str:
    """Return a prediction as a row under `csv_header`."""
    explained = [] if explanation is None else _explained_cells(explanation)
    return _csv(
        [
            picture,
            prediction.label,
            f"{prediction.probability:.6f}",
            *(f"{value:.6f}" for value in prediction.probabilities.values()),
            *("yes" if flag.yes else "no" for flag in prediction.flags.values()),
            *explained,
            "; ".join(prediction.plausible),
            "yes" if prediction.abstained else "no",
            "; ".join(refusal.text for refusal in prediction.refusals),
            f"{prediction.timings_ms['total']:.3f}",
            prediction.bundle_id,
            "yes" if prediction.degraded else "no",
            "",
        ]
    )


def _explained_cells(explanation: Explanation) -> list[str]:
    numbers = (explanation.inside_cell, *(explanation.centroid or (None,) * 2), *(explanation.box or (None,) * 4))
    return [explanation.runner_up, *("" if number is None else f"{number:.4f}" for number in numbers)]


def csv_error(picture: str, error: str, manifest: Manifest, explained: bool = False) -> str:
    """Return the row of a picture that could not be classified."""
    asked = len(manifest.task.labels) + len(manifest.operating_points)
    empty = asked + (len(EXPLAINED) if explained else 0) + len(JUDGED) + 5
    return _csv([picture, *[""] * empty, error])


def _csv(cells: Sequence[str]) -> str:
    """Return one record as RFC 4180 has it, without its line end."""
    return ",".join('"' + cell.replace('"', '""') + '"' if set(cell) & set('",\r\n') else cell for cell in cells)


def bundle_facts(name: str, bundle: Bundle) -> dict[str, Any]:
    """Return what ``models`` says about a bundle, as JSON takes it."""
    manifest = bundle.manifest
    measure = manifest.macro_f1
    return {
        "model": name,
        "id": bundle.id,
        "task": manifest.task.name,
        "labels": list(manifest.task.labels),
        "backbone": manifest.backbone,
        "recipe": manifest.recipe,
        "files": list(bundle.models),
        "model_bytes": sum(manifest.files[file].size_bytes for file in bundle.models),
        "parity_passed": manifest.parity_passed,
        "macro_f1": {"value": measure.value, "low": measure.low, "high": measure.high} if measure else None,
    }


def models_table(facts: Sequence[Mapping[str, Any]]) -> str:
    """Return the table that ``models`` prints."""
    rows = [("model", "task", "labels", "backbone", "recipe", "size", "parity", "macro-F1")]
    for fact in facts:
        measure = fact["macro_f1"]
        score = "-" if measure is None else f"{measure['value']:.3f}"
        if measure is not None and measure["low"] is not None:
            score += f" ({measure['low']:.3f} to {measure['high']:.3f})"
        size = f"{fact['model_bytes'] / 1e6:.2f} MB"
        parity = "passed" if fact["parity_passed"] else "FAILED"
        labels = str(len(fact["labels"]))
        rows.append((fact["model"], fact["task"], labels, fact["backbone"], fact["recipe"], size, parity, score))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in padded)


_BEYOND = {"low": "below", "high": "above"}


def info_text(bundle: Bundle) -> str:
    """Return what ``info`` prints: a bundle's manifest for people."""
    manifest, raw = bundle.manifest, bundle.manifest.raw
    training, quantization, limits = raw["training"], raw["quantization"], raw["limits"]
    calibration = quantization["calibration"]
    calibrated = f"{calibration['images']} pictures of {calibration['split']}" if calibration else "none"
    facts = [
        ("bundle", bundle.id),
        ("folder", str(bundle.root)),
        *([("signed by", _signer(bundle.signer))] if bundle.signer else []),
        ("task", f"{manifest.task.title} ({manifest.task.name}, one {manifest.task.kind} a picture)"),
        ("labels", ", ".join(manifest.task.labels)),
        ("input", f"{manifest.io.input_px} x {manifest.io.input_px} px RGB, {raw['preprocess']['crop']}"),
        *((key, raw["preprocess"][key]) for key in STANDARDISATION if key in raw["preprocess"]),
        ("class map", f"{manifest.io.map_height} x {manifest.io.map_width}"),
        ("temperature", f"{manifest.temperature:g}"),
        *(
            (
                "question",
                f"{p.name}: {' + '.join(p.positive)} >= {p.threshold:g}"
                f" (validation: sensitivity {p.sensitivity:.3f}, specificity {p.specificity:.3f})",
            )
            for p in manifest.operating_points
        ),
        *(
            ("no answer", f"{MEASURES[name].reason}: {name} {_BEYOND[MEASURES[name].side]} {limit:g}")
            for name, limit in manifest.quality.items()
        ),
        *_declines(manifest),
        ("quantization", f"{manifest.recipe}: weights {quantization['weights']}"),
        ("", f"activations {quantization['activations']}"),
        ("calibration", calibrated),
        ("training", f"{training['run']}: {training['backbone']}, {training['protocol']}, seed {training['seed']}"),
        *(("source", f"{s['name']}: {s['title']} ({s['licence']})") for s in training["sources"]),
        *(
            (
                "parity",
                f"{row['step']}, {row['measure']}: {row['value']} (limit {row['limit']})"
                f" {'passed' if row['passed'] else 'FAILED'}",
            )
            for row in raw["metrics"]["parity"]["rows"]
        ),
        *(("metric", f"{key}: {_measure(value)}") for key, value in raw["metrics"]["this"].items()),
        ("golden", f"{len(manifest.golden.cases)} pictures; see: python -m edge_runtime verify"),
        ("intended", limits["intended"]),
        ("not for", limits["not_for"]),
        *(("note", note) for note in limits["notes"]),
        *(("file", f"{name} {info.size_bytes} bytes, {info.sha256[:12]}") for name, info in manifest.files.items()),
    ]
    return "\n".join(f"{key:<13}{plain(value)}" for key, value in facts)


def _declines(manifest: Manifest) -> list[tuple[str, str]]:
    """Say when the bundle declines to answer for what the network makes of a picture, and what that costs."""
    limits = manifest.abstention
    if limits is None:
        return []
    lines = [("no answer", f"ambiguous: several labels plausible, of which the true one is in {limits.coverage:.3g}")]
    if limits.distance_limit is not None:
        lines.append(
            ("no answer", f"unfamiliar: distance from the training pictures above {limits.distance_limit:.3g}")
        )
    return lines


def _measure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and {"value", "low", "high"} <= set(value):
        return f"{_measure(value['value'])} ({_measure(value['low'])} to {_measure(value['high'])})"
    return json.dumps(value, ensure_ascii=False)


def signer_facts(signer: Signer | None) -> dict[str, Any]:
    """Return who signed a bundle, as JSON takes it: nothing where no signature was looked at."""
    if signer is None:
        return {}
    return {"signed_by": {"key": str(signer.key), "fingerprint": signer.key.fingerprint, "serial": signer.serial}}


def _signer(signer: Signer) -> str:
    return f"key {signer.key.fingerprint}, serial {signer.serial}"


def verify_text(report: VerifyReport, signer: Signer | None = None) -> str:
    """Return what ``verify`` prints about one bundle, and who signed it if a signature was checked."""
    lines = [f"ok signed by {_signer(signer)}"] if signer else []
    for case in report.cases:
        label = case.label_got or "no label"
        found = (
            f"pixels {'equal' if case.pixels_equal else 'DIFFER'}, "
            f"label {label if case.label_got == case.label_expected else f'{label}, NOT {case.label_expected}'}, "
            f"logits {case.logits_diff:.3g} (limit {report.logits_tolerance:.3g}), "
            f"class map {case.class_map_diff:.3g} (limit {report.class_map_tolerance:.3g})"
        )
        lines.append(plain(f"  {'ok' if case.passed else 'FAILED'} {case.picture}: {case.error or found}"))
    passed = sum(case.passed for case in report.cases)
    verdict = "verified" if report.passed else "FAILED"
    lines.append(f"{report.bundle_id} with {report.engine}: {verdict}, {passed} of {len(report.cases)} golden pictures")
    return "\n".join(lines)
