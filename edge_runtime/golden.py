"""The golden test: does this model, on this device, with this engine, still say what it said when it was exported?

What comes in is an open `Classifier`; what goes out is a `VerifyReport`, one `CaseReport` per golden picture. The shape
of the expected file is defined by `expected` alone: ``export`` writes it, `verify` reads it. Tolerances come from the
bundle; why they are what they are is in ``docs/bundle-format.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .digest import sha256_hex
from .errors import BundleError, EngineError
from .json_reader import load_object
from .preprocess import Pixels, decode, prepare

if TYPE_CHECKING:
    from .classifier import Classifier

_MAX_EXPECTED_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class CaseReport:
    """One golden picture.

    Attributes:
        picture: its name in the bundle.
        pixels_equal: the prepared pixels are the same bytes as at export.
        label_got: what this device says.
        label_expected: what was said at export.
        logits_diff: largest absolute difference of a logit; infinite when a value was not finite.
        class_map_diff: largest absolute difference of a class map value; likewise.
        passed: all of it within the bundle's tolerance.
        error: why there are no numbers, or "".
    """

    picture: str
    pixels_equal: bool
    label_got: str
    label_expected: str
    logits_diff: float
    class_map_diff: float
    passed: bool
    error: str = ""


@dataclass(frozen=True)
class VerifyReport:
    """All golden pictures of a bundle. Tolerances are absolute differences."""

    bundle_id: str
    engine: str
    logits_tolerance: float
    class_map_tolerance: float
    cases: tuple[CaseReport, ...]

    @property
    def passed(self) -> bool:
        """Return whether every case passed, and there was one."""
        return bool(self.cases) and all(case.passed for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON takes it: a difference that is not finite becomes None."""
        return {
            "bundle_id": self.bundle_id,
            "engine": self.engine,
            "passed": self.passed,
            "tolerance": {"logits": self.logits_tolerance, "class_map": self.class_map_tolerance},
            "cases": [
                {
                    "picture": case.picture,
                    "passed": case.passed,
                    "pixels_equal": case.pixels_equal,
                    "label": {"got": case.label_got, "expected": case.label_expected},
                    "logits_diff": case.logits_diff if np.isfinite(case.logits_diff) else None,
                    "class_map_diff": case.class_map_diff if np.isfinite(case.class_map_diff) else None,
                    "error": case.error,
                }
                for case in self.cases
            ],
        }


@dataclass(frozen=True, eq=False)
class Expected:
    """What a golden picture must give: logits (K,), class map (h, w, K), float32."""

    label: str
    pixels_sha256: str
    logits: npt.NDArray[np.float32]
    class_map: npt.NDArray[np.float32]


def expected(
    pixels: Pixels, logits: npt.NDArray[np.float32], class_map: npt.NDArray[np.float32], labels: tuple[str, ...]
) -> dict[str, Any]:
    """Return the content of a golden's expected file.

    Args:
        pixels: (H, W, 3) uint8, as prepared.
        logits: (K,) float32, of the model that ships.
        class_map: (h, w, K) float32.
        labels: K labels.
    """
    if not (np.isfinite(logits).all() and np.isfinite(class_map).all()):
        raise EngineError("a golden output is NaN or infinite", expected="finite values")
    return {
        "label": labels[int(np.argmax(logits))],
        "pixels_sha256": _sha256(pixels),
        "logits": logits.astype(np.float64).tolist(),
        "class_map": class_map.astype(np.float64).tolist(),
    }


def parse_expected(text: bytes, labels: tuple[str, ...], shape: tuple[int, int], source: str) -> Expected:
    """Read a golden's expected file.

    Args:
        text: its bytes, checked by `Bundle.read`.
        labels: K labels.
        shape: (h, w) of the class map.
        source: what errors call the file.

    Raises:
        BundleError: not JSON, a key missing, or numbers of another shape or not finite.
    """
    stated = load_object(text, source, _MAX_EXPECTED_BYTES)
    for key in ("label", "pixels_sha256", "logits", "class_map"):
        if key not in stated:
            raise BundleError(f"{source}: {key}: missing")
    arrays = {}
    for key, wanted in (("logits", (len(labels),)), ("class_map", (*shape, len(labels)))):
        try:
            numbers = np.array(stated[key])
        except ValueError:  # rows of different lengths
            numbers = np.array("")
        if numbers.dtype.kind not in "if":
            raise BundleError(f"{source}: {key}: not numbers")
        with np.errstate(over="ignore"):
            values = numbers.astype(np.float32)
        if values.shape != wanted or not np.isfinite(values).all():
            raise BundleError(f"{source}: {key}", got=f"shape {values.shape}", expected=f"{wanted}, all finite")
        arrays[key] = values
    if stated["label"] not in labels:
        raise BundleError(f"{source}: label", got=repr(stated["label"]), expected="one of task.labels")
    return Expected(stated["label"], str(stated["pixels_sha256"]), arrays["logits"], arrays["class_map"])


def verify(classifier: Classifier) -> VerifyReport:
    """Check every file of a bundle and run its golden pictures.

    A model or a picture that fails is a case that did not pass; a file that is not what the manifest says is an error.

    Raises:
        BundleError: a file is altered or missing, or an expected file is not what it must be.
    """
    bundle = classifier.bundle
    io, labels, golden = bundle.manifest.io, classifier.labels, bundle.manifest.golden
    contents = {name: b"" for name in bundle.manifest.files}
    in_cases = {name for case in golden.cases for name in case}
    for name in contents:
        content = bundle.read(name)  # all of them, used here or not: this is the command that says "whole"
        contents[name] = content if name in in_cases else b""
    reports = []
    for picture, answer in golden.cases:
        source = str(bundle.root / answer)
        wanted = parse_expected(contents[answer], labels, (io.map_height, io.map_width), source)
        pixels = prepare(decode(contents[picture], str(bundle.root / picture)), classifier.preprocess)
        equal = _sha256(pixels) == wanted.pixels_sha256
        try:
            logits, class_map = classifier.engine.run(pixels)
        except EngineError as error:
            infinite = float("inf")
            reports.append(CaseReport(picture, equal, "", wanted.label, infinite, infinite, False, str(error)))
            continue
        logits_diff = float(np.abs(logits - wanted.logits).max())
        map_diff = float(np.abs(class_map - wanted.class_map).max())
        label = labels[int(np.argmax(logits))]
        within = logits_diff <= golden.logits_tolerance and map_diff <= golden.class_map_tolerance
        passed = equal and within and label == wanted.label
        reports.append(CaseReport(picture, equal, label, wanted.label, logits_diff, map_diff, passed))
    return VerifyReport(
        bundle.id,
        classifier.engine.name,
        golden.logits_tolerance,
        golden.class_map_tolerance,
        tuple(reports),
    )


def _sha256(pixels: Pixels) -> str:
    return sha256_hex(np.ascontiguousarray(pixels).tobytes())
