"""Arm: what was computed with Arm's instructions beside what x86 computed, integer by integer.

    python -m benchmarks.arm build/arm/outputs

What comes in is the folder ``tests/arm/run_arm.sh`` filled: ``RELEASE/ENGINE/SIDE`` with what ``verify``,
``classify --json`` and ``raw_outputs.py`` gave there, where the side "native" is x86 and the others are processors
under qemu-user; what goes out is ``results/arm.json``, a comparison of each side with x86's LiteRT on the same release,
and exit status 1 when a processor fails `verify` or gives another answer. Outputs that cannot be read are a result,
too: a control, which is there to fail, may leave none. Nothing is run here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import LeukoscopeError, UsageError
from edge_runtime.files import write_text
from edge_runtime.guard import Parser, guarded

from .cost import machine

RESULTS = Path(__file__).parent / "results" / "arm.json"
NATIVE = "native"
MACHINES = ("x86_64", "aarch64")
"""What Python says of the machine there, and on all other sides: without an emulator, x86 would agree with itself."""

REFERENCE = ("litert", NATIVE)
"""Engine and side that all of a release are compared with: what the golden outputs were made by."""

CONTROLS = "max bare"
"""Sides that are there to fail: a comparison that finds nothing wrong with them would find nothing at all."""

TIMES = "timings_ms"
DECISIONS = ("label", "plausible", "abstained", "refused", "flags")
"""What a user acts on; `refused`: the reasons, without the numbers."""

Raw = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """One bundle on one side, against x86.

    Attributes:
        pictures: how many.
        pixels_equal: of these, with the same prepared pixels, byte for byte.
        bit_identical: of these, with all integers equal, logits and class map.
        values: integers compared.
        values_equal: of these.
        logits_steps: largest difference of a logit, in quantization steps.
        class_map_steps: likewise of a value of the class map.
        top1_equal: pictures with the same largest logit.
        quality_equal: pictures with all numbers of `quality.measure` equal, bit for bit.
        distance_difference: largest relative difference of a picture's distance from the training pictures; None where
            the bundle knows none.
        distance_margin: the smallest relative distance of x86's from the limit: what a difference must reach to change
            an answer; None likewise.
        json_equal: pictures whose line of `classify --json` is the same but for its times.
        decisions_equal: pictures with the same label, plausible labels, reasons of refusal and answers to questions.
        verified: golden pictures that passed `verify` there.
        golden: golden pictures.
    """

    pictures: int
    pixels_equal: int
    bit_identical: int
    values: int
    values_equal: int
    logits_steps: int
    class_map_steps: int
    top1_equal: int
    quality_equal: int
    distance_difference: float | None
    distance_margin: float | None
    json_equal: int
    decisions_equal: int
    verified: int
    golden: int

    @property
    def passed(self) -> bool:
        """Whether the golden pictures pass there, and everybody gets the same answers as on x86."""
        return self.verified == self.golden > 0 and self.decisions_equal == self.pictures

    @property
    def identical(self) -> bool:
        """Whether nothing differs at all, but for times."""
        alike = (self.pixels_equal, self.bit_identical, self.quality_equal, self.json_equal)
        return self.passed and all(count == self.pictures for count in alike)


class OutputsError(LeukoscopeError):
    """A side left no outputs, or none that can be compared."""


def main() -> int:
    """Run the command line; return its exit status."""
    parser = Parser(prog="python -m benchmarks.arm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("outputs", type=Path, help="the folder that tests/arm/run_arm.sh filled")
    parser.add_argument("--controls", default=CONTROLS, metavar="SIDES", help="may fail; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    parser.set_defaults(run=_run)
    return guarded(parser)


def _run(options: argparse.Namespace) -> int:
    sides = list_sides(options.outputs)
    rows = []
    for release, engine, side in sides:
        row = compare_side(options.outputs, release, engine, side)
        row["control"] = side in options.controls.split()
        rows.append(row)
        sys.stderr.write(f"{line(row)}\n")
    found = {"x86": machine(), "qemu": _emulator(options.outputs), "sides": rows}
    write_text(options.out, json.dumps(found, indent=1) + "\n")
    controls = [one for row in rows if row["control"] for one in row["bundles"].values()]
    if controls and all(one.get("identical") for one in controls):
        sys.stderr.write("note: the controls do not differ either, so nothing here shows that a difference is seen\n")
    return int(any(failed(row) for row in rows if not row["control"]))


def _emulator(outputs: Path) -> str:
    """Return what emulated, as it says itself; "" where nobody wrote it down."""
    try:
        return " ".join((outputs / "qemu.txt").read_text(encoding="utf-8").split("\n")[0].split())
    except OSError:
        return ""


def list_sides(outputs: Path) -> list[tuple[str, str, str]]:
    """List (release, engine, side) of a folder, x86 first.

    Raises:
        UsageError: nothing there, or nothing to compare it with.
    """
    found = [tuple(path.relative_to(outputs).parts) for path in sorted(outputs.glob("*/*/*")) if path.is_dir()]
    if not found:
        raise UsageError(f"{outputs}: no outputs", todo="run tests/arm/run_arm.sh")
    if all(side[1:] == REFERENCE for side in found):
        raise UsageError(f"{outputs}: nothing beside {'/'.join(REFERENCE)}", todo="run it with --cpus cortex-a72, say")
    for release in sorted({release for release, _, _ in found}):
        if (release, *REFERENCE) not in found:
            raise UsageError(
                f"{outputs}: {release}: no {'/'.join(REFERENCE)}", todo="run it with --engines litert, too"
            )
    found.sort(key=lambda side: (side[0], side[1], side[2] != NATIVE, side[2]))
    return [(release, engine, side) for release, engine, side in found]


def failed(row: Mapping[str, Any]) -> bool:
    """Return whether a side left no outputs or did not pass."""
    return any("error" in found or not found["passed"] for found in row["bundles"].values())


def compare_side(outputs: Path, release: str, engine: str, side: str) -> dict[str, Any]:
    """Compare everything of a side with x86's LiteRT.

    Args:
        outputs: as `run_arm.sh` filled it.
        release: of Debian.
        engine: extra of the wheel.
        side: "native" or a processor.

    Returns:
        What ran there, and bundle -> `Comparison` or error, as JSON takes it.
    """
    theirs, ours = outputs / release / engine / side, outputs.joinpath(release, *REFERENCE)
    row: dict[str, Any] = {"release": release, "engine": engine, "side": side, "bundles": {}}
    for model in sorted(path.stem.removeprefix("raw-") for path in ours.glob("raw-*.npz")):
        try:
            found = compare_bundle(ours, theirs, model)
            facts = read_raw(theirs / f"raw-{model}.npz")
            _require_ran(facts, engine, MACHINES[side != NATIVE])
        except OutputsError as error:
            row["bundles"][model] = {"error": str(error)}
            continue
        row |= {key: str(facts[key]) for key in ("machine", "python")} | {"packages": facts["packages"].tolist()}
        row["bundles"][model] = {**asdict(found), "passed": found.passed, "identical": found.identical}
    if not row["bundles"]:
        raise OutputsError(f"{ours}: no raw outputs", todo="run tests/arm/run_arm.sh again")
    return row


def _require_ran(facts: Raw, engine: str, machine: str) -> None:
    """Refuse what another engine or machine computed than its folder says.

    Raises:
        OutputsError: it did.
    """
    ran, meant = f"{facts['engine']} on {facts['machine']}", f"{engine} on {machine}"
    if ran != meant:
        raise OutputsError("outputs of something else", got=ran, expected=meant)


def line(row: Mapping[str, Any]) -> str:
    """Return what is found of a side in one line, for people."""
    parts = []
    for model, found in row["bundles"].items():
        if "error" in found:
            parts.append(f"{model}: {found['error']}")
            continue
        parts.append(
            f"{model}: {found['bit_identical']} of {found['pictures']} bit-identical, at most {found['logits_steps']} "
            f"steps in logits and {found['class_map_steps']} in the class map, {found['json_equal']} JSON lines and "
            f"{found['decisions_equal']} answers equal, golden {found['verified']} of {found['golden']}"
        )
    role = "control" if row["control"] else "FAILED" if failed(row) else "passed"
    return f"{row['release']}, {row['engine']}, {row['side']} ({role}): " + "; ".join(parts)


def compare_bundle(ours: Path, theirs: Path, model: str) -> Comparison:
    """Compare what two sides have of one bundle.

    Args:
        ours: folder of the reference.
        theirs: of the candidate.
        model: the bundle.

    Raises:
        OutputsError: a file is missing or broken, or they are not of the same pictures.
    """
    a, b = (read_raw(folder / f"raw-{model}.npz") for folder in (ours, theirs))
    raw = compare_raw(a, b)
    lines = [read_lines(folder / f"classify-{model}.jsonl") for folder in (ours, theirs)]
    if len(lines[0]) != raw["pictures"]:
        raise OutputsError(f"{ours}: {model}: classified others than raw_outputs.py had", got=len(lines[0]))
    if [one["picture"] for one in lines[0]] != [one["picture"] for one in lines[1]]:
        raise OutputsError(f"{theirs}: {model}: classified other pictures than x86")
    verdicts = {verdict["model"]: verdict for verdict in read_lines(theirs / "verify.jsonl")}
    cases = verdicts.get(model, {}).get("cases", [])
    return Comparison(
        **raw,
        json_equal=sum(_timeless(one) == _timeless(two) for one, two in zip(*lines, strict=True)),
        decisions_equal=sum(decision(one) == decision(two) for one, two in zip(*lines, strict=True)),
        verified=sum(case["passed"] for case in cases),
        golden=len(cases),
    )


def compare_raw(a: Raw, b: Raw) -> dict[str, Any]:
    """Compare raw outputs; return all of a `Comparison` that they tell.

    Args:
        a: the reference, as ``tests/arm/raw_outputs.py`` writes it.
        b: the candidate.

    Raises:
        OutputsError: of other pictures, or of a graph with other scales.
    """
    for key in ("pictures", "scales", "zero_points", "distance_limit"):
        if not np.array_equal(a[key], b[key], equal_nan=key == "distance_limit"):
            raise OutputsError(
                f"raw outputs with other {key}", todo="let both sides run on the same bundle and pictures"
            )
    if len(a["pictures"]) == 0:
        raise OutputsError("raw outputs of no pictures")
    for key in ("logits", "class_map", "quality"):
        if a[key].shape != b[key].shape or a[key].dtype != b[key].dtype or not a[key].size:
            shapes = (f"{array.dtype} {array.shape}" for array in (b[key], a[key]))
            raise OutputsError(f"raw outputs with other {key}", got=next(shapes), expected=next(shapes))
    steps = {key: np.abs(b[key].astype(np.int64) - a[key].astype(np.int64)) for key in ("logits", "class_map")}
    count = len(a["pictures"])
    per_picture = np.concatenate([found.reshape(count, -1) for found in steps.values()], axis=1)  # (N, values)
    known = bool(np.isfinite(a["distance"]).all() and np.isfinite(a["distance_limit"]))
    away = np.abs(a["distance"] - a["distance_limit"]) / a["distance_limit"] if known else np.zeros(0)
    differ = np.abs(b["distance"] - a["distance"]) / a["distance"] if known else np.zeros(0)
    return {
        "pictures": count,
        "pixels_equal": int((a["pixels_sha256"] == b["pixels_sha256"]).sum()),
        "bit_identical": int((per_picture == 0).all(axis=1).sum()),
        "values": per_picture.size,
        "values_equal": int((per_picture == 0).sum()),
        "logits_steps": int(steps["logits"].max()),
        "class_map_steps": int(steps["class_map"].max()),
        "top1_equal": int((a["logits"].argmax(axis=1) == b["logits"].argmax(axis=1)).sum()),
        "quality_equal": int((a["quality"] == b["quality"]).all(axis=1).sum()),
        "distance_difference": float(differ.max()) if known else None,
        "distance_margin": float(away.min()) if known else None,
    }


def decision(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user acts on, of a line of `classify --json`, or its error."""
    if "error" in prediction:
        return {"error": prediction["error"]}
    found = {**prediction, "refused": [refusal["reason"] for refusal in prediction["refusals"]]}
    found["flags"] = {name: flag["yes"] for name, flag in prediction["flags"].items()}
    return {key: found[key] for key in DECISIONS}


def _timeless(prediction: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in prediction.items() if key != TIMES}


def read_raw(path: Path) -> Raw:
    """Read a file of ``tests/arm/raw_outputs.py``.

    Raises:
        OutputsError: not there or not whole.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise OutputsError(f"{path.name}: no outputs", got=type(error).__name__) from None


def read_lines(path: Path) -> Sequence[dict[str, Any]]:
    """Read lines of JSON.

    Raises:
        OutputsError: not there, or not JSON.
    """
    try:
        return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise OutputsError(f"{path.name}: no outputs", got=type(error).__name__) from None


if __name__ == "__main__":
    sys.exit(main())
