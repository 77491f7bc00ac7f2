"""The classifier: a picture in, a `Prediction` with its explanation out. What most programs use of this package.

    classifier = Classifier.open("all-subtypes")
    prediction = classifier.classify("smear.jpg")

Everything particular to a model (labels, input size, temperature, thresholds) comes from its bundle. Nothing is printed
or written here.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import DEFAULT_MODEL
from .abstention import plausible, refusals
from .aside import Aside
from .bundle import Bundle, open_bundle
from .engines import Engine, open_engine
from .errors import UsageError
from .familiarity import Familiarity, describe_pixels, joined, parse_familiarity
from .heatmap import Placement, heatmap
from .machine import usable_cpus
from .preprocess import Pixels, Preprocess, decode, from_array, from_picture, prepare, standardised

if TYPE_CHECKING:
    from typing import TypeAlias

    from PIL import Image

    from .refusal import Refusal
    from .trust import Trust

    Seen: TypeAlias = tuple[tuple[Refusal, ...], npt.NDArray[np.float64] | None]
    """The picture's faults, and what `familiarity.describe_pixels` says of it."""

    AnyPicture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Flag:
    """The answer to an operating point: `yes` when `score` (summed probability, 0..1) >= `threshold`."""

    yes: bool
    score: float
    threshold: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one picture.

    Attributes:
        label: the most probable one.
        probability: of that label, 0..1.
        probabilities: label -> probability, in the order of the logits; they sum to 1.
        logits: (K,) float32.
        class_map: (h, w, K) float32, evidence for each class at each position.
        heatmap: (h, w) float32, 0..1, of the predicted label.
        placement: of the class map's and heatmap's cells in the picture.
        pixels: (input_px, input_px, 3) uint8 RGB, what the model saw; heatmap and class map lie over it.
        plain: the same as they came, before standardisation (`pixels` itself where the bundle asks for none): cells can
            be found in these only. None where only standardised ones were given.
        flags: operating point -> answer.
        plausible: labels that cannot be excluded, in the order of the logits; all where the bundle does not say.
        refusals: why there is no answer; none where there is one. All else is there in any case, for people who look.
        timings_ms: "decode", "prepare", "infer", "judge" (whether to decline) and "total", milliseconds. Where there is
            a core to spare, pixels are judged while the engine infers, and "judge" is only what that left to wait for.
        bundle_id: of the bundle that answered.
        degraded: True when the bundle did not pass its parity gates.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    logits: npt.NDArray[np.float32]
    class_map: npt.NDArray[np.float32]
    heatmap: npt.NDArray[np.float32]
    placement: Placement
    pixels: Pixels
    plain: Pixels | None
    flags: dict[str, Flag]
    plausible: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    timings_ms: dict[str, float]
    bundle_id: str
    degraded: bool

    @property
    def abstained(self) -> bool:
        """Whether the model declines to answer."""
        return bool(self.refusals)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but class map and pixels, as JSON takes it; the heatmap as rows of numbers."""
        return {
            "label": self.label,
            "probability": round(self.probability, 6),
            "probabilities": {label: round(value, 6) for label, value in self.probabilities.items()},
            "logits": [round(float(value), 6) for value in self.logits],
            "heatmap": [[round(float(value), 4) for value in row] for row in self.heatmap],
            "placement": dataclasses.asdict(self.placement),
            "flags": {
                name: {"yes": flag.yes, "score": round(flag.score, 6), "threshold": flag.threshold}
                for name, flag in self.flags.items()
            },
            "abstained": self.abstained,
            "plausible": list(self.plausible),
            "refusals": [refusal.to_dict() for refusal in self.refusals],
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "bundle_id": self.bundle_id,
            "degraded": self.degraded,
        }


@dataclass(frozen=True)
class Classifier:
    """A bundle with its engine, ready to answer; any number of threads may ask.

    Attributes:
        bundle: open.
        engine: with the bundle's model.
        preprocess: the bundle's.
        familiarity: None where the bundle knows nothing of the kind.
        aside: judges the pixels while the engine infers; None: they are judged afterwards.
    """

    bundle: Bundle
    engine: Engine
    preprocess: Preprocess
    familiarity: Familiarity | None = None
    aside: Aside | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str] | Bundle = DEFAULT_MODEL,
        engine: str | None = None,
        threads: int | None = None,
        trust: Trust | None = None,
        isolate: bool = False,
    ) -> Classifier:
        """Open a bundle and load its model.

        Args:
            model: name of a default bundle, the path of a bundle, or an open one.
            engine: one of `engines.ENGINES`; default: the first that is installed and has a model in the bundle.
            threads: for one inference; default: as `engines.usual_threads` says.
            trust: whose signature the bundle must have (see `trust.read_trust`); default: no signature is looked at.
            isolate: run the engine in a process of its own that can do nothing else: for bundles of untrusted authors.

        Raises:
            BundleError: the bundle is missing, not what it must be, or not signed by who is trusted.
            EngineError: no engine for it.
            UsageError: unknown engine, threads out of range, `trust` for a bundle that is open already, or a system
                that cannot isolate.
        """
        if isinstance(model, Bundle) and trust is not None:
            raise UsageError("the bundle is open already", todo="give trust to open_bundle")
        bundle = model if isinstance(model, Bundle) else open_bundle(model, trust)
        limits, labels = bundle.manifest.abstention, bundle.manifest.task.labels
        file = None if limits is None else limits.familiarity_file
        familiarity = None if file is None else parse_familiarity(bundle.read(file), str(bundle.root / file), labels)
        opened = open_engine(engine, bundle, threads=threads, isolate=isolate)
        spare = usable_cpus() > opened.threads
        return cls(bundle, opened, bundle.manifest.preprocess, familiarity, Aside() if spare else None)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels, in the order of the logits."""
        return self.bundle.manifest.task.labels

    def classify(self, image: AnyPicture, name: str | None = None) -> Prediction:
        """Classify one picture.

        Args:
            image: a file's path, encoded bytes, a Pillow picture, or (H, W, 3) uint8 RGB of any size.
            name: what errors call it.

        Raises:
            ImageError: not a picture this program takes.
            EngineError: the engine failed, or returned a value that is not finite.
        """
        start = time.perf_counter()
        picture = picture_of(image, name)
        decoded = time.perf_counter()
        plain = prepare(picture, self.preprocess.plain)
        pixels = standardised(plain, self.preprocess)
        del picture  # its memory is needed for the inference
        return self._answer(pixels, plain, start, decoded, time.perf_counter())

    def classify_pixels(self, pixels: Pixels) -> Prediction:
        """Classify pixels that `preprocess.prepare` made: (input_px, input_px, 3) uint8 RGB, taken as they are."""
        start = time.perf_counter()
        return self._answer(pixels, None if self.preprocess.standardises else pixels, start, start, start)

    def _answer(
        self, pixels: Pixels, plain: Pixels | None, start: float, decoded: float, prepared: float
    ) -> Prediction:
        seen: Callable[[], Seen] = partial(self._judge_pixels, pixels, plain)
        if self.aside is not None:
            seen = self.aside.begin(seen)
        logits, class_map = self.engine.run(pixels)
        inferred = time.perf_counter()
        manifest = self.bundle.manifest
        values = softmax(logits, manifest.temperature)
        probabilities = {label: float(value) for label, value in zip(self.labels, values, strict=True)}
        flags = {}
        for point in manifest.operating_points:
            score = min(1.0, sum(probabilities[label] for label in point.positive))
            flags[point.name] = Flag(score >= point.threshold, score, point.threshold)
        io, best = manifest.io, int(np.argmax(logits))
        shown = heatmap(class_map, best)
        answered = time.perf_counter()
        kept, refused = self._judge(seen(), logits, class_map)
        end = time.perf_counter()
        moments = {
            "decode": decoded - start,
            "prepare": prepared - decoded,
            "infer": inferred - prepared,
            "judge": end - answered,
            "total": end - start,
        }
        return Prediction(
            self.labels[best],
            float(values[best]),
            probabilities,
            logits,
            class_map,
            shown,
            Placement(io.map_first_px, io.map_step_px, io.input_px),
            pixels,
            plain,
            flags,
            tuple(label for label, possible in zip(self.labels, kept, strict=True) if possible),
            refused,
            {name: 1000.0 * seconds for name, seconds in moments.items()},
            self.bundle.id,
            not manifest.parity_passed,
        )

    def judge(
        self,
        pixels: Pixels,
        plain: Pixels | None,
        logits: npt.NDArray[np.float32],
        class_map: npt.NDArray[np.float32],
    ) -> tuple[npt.NDArray[np.bool_], tuple[Refusal, ...]]:
        """Say which labels are plausible, and why there is no answer: the picture's faults, then the model's.

        Args:
            pixels: (input_px, input_px, 3) uint8 RGB, what the model saw.
            plain: the same before standardisation, or None.
            logits: (K,) float32.
            class_map: (h, w, K) float32.

        Returns:
            (K,) bool, and the refusals, none where there is an answer.
        """
        return self._judge(self._judge_pixels(pixels, plain), logits, class_map)

    def _judge_pixels(self, pixels: Pixels, plain: Pixels | None) -> Seen:
        """Do the part of `judge` that needs the pixels only, which is nearly all of it."""
        spoilt: tuple[Refusal, ...] = ()
        if self.bundle.manifest.quality:
            from . import quality  # bundles without limits start without it

            spoilt = quality.judge(plain, self.bundle.manifest.quality)
        return spoilt, None if self.familiarity is None else describe_pixels(pixels)

    def _judge(
        self, seen: Seen, logits: npt.NDArray[np.float32], class_map: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.bool_], tuple[Refusal, ...]]:
        spoilt, described = seen
        limits = self.bundle.manifest.abstention
        if limits is None:
            return np.ones(len(self.labels), np.bool_), spoilt
        kept = plausible(logits, self.bundle.manifest.temperature, limits.margins)
        known = self.familiarity
        far = None if known is None or described is None else known.distance(joined(described, class_map))
        return kept, spoilt + refusals(limits, int(kept.sum()), far)


def picture_of(image: AnyPicture, name: str | None = None) -> Image.Image:
    """Return whatever `Classifier.classify` takes as an upright RGB picture.

    Raises:
        ImageError: not a picture this program takes.
    """
    if isinstance(image, str | os.PathLike):
        return decode(Path(image), name)
    if isinstance(image, bytes):
        return decode(image, name)
    if isinstance(image, np.ndarray):
        return from_array(image, name or "array")
    return from_picture(image, name or "picture")


def softmax(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float64]:
    """Return probabilities, (K,) float64 that sum to 1: ``softmax(logits / temperature)``.

    Args:
        logits: (K,) float, finite.
        temperature: > 0; above 1 makes the model less sure.
    """
    if temperature <= 0:
        raise UsageError("wrong temperature", got=temperature, expected="more than 0")
    # The largest becomes 0 before the division, so that even a tiny temperature gives no infinity minus infinity.
    shifted = np.asarray(logits, dtype=np.float64) - np.float64(np.max(logits))
    with np.errstate(over="ignore", under="ignore"):
        powers = np.exp(shifted / temperature)
    return np.asarray(powers / powers.sum(), dtype=np.float64)
