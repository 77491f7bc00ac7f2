"""The manifest: from the bytes of ``manifest.json`` to frozen dataclasses, or a `BundleError` that names the key.

This is the reader's half of ``docs/bundle-format.md``; ``export`` passes what it wrote through `parse_manifest` too, so
a manifest that this file refuses is never shipped. A missing key is an error; nothing but the places of the class map's
cells has a default, and only standardisation is new in version 2, and unknown to version 1. No file is opened, and
neither numpy nor an engine is imported, so that ``models`` and ``info`` stay instant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import BundleError
from .json_reader import MAX_TEXT_LENGTH, Node, is_number, load_object
from .quality_limits import MEASURES, Limits

if TYPE_CHECKING:
    from .preprocess import Preprocess

FORMAT = "leukoscope-bundle"
VERSION = 2
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
MODEL_FILES = {
    "model.tflite": ("model.tflite",),
    "model.onnx": ("model.onnx",),
    "model.xml": ("model.xml", "model.bin"),
}
"""The file that a model goes by -> all the files it consists of."""
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_LABELS = 1000

STANDARDISATION = ("background", "stain")
"""Keys of ``preprocess`` that version 2 added."""

_NAME = re.compile(r"[a-z0-9-]+")
_FILE = re.compile(r"(?:golden/)?[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class IOSpec:
    """What goes into the graph and what comes out of it.

    Attributes:
        input_name: graph input, (1, input_px, input_px, 3) uint8 RGB.
        input_px: height and width of the input, pixels.
        logits_name: graph output, (1, classes).
        class_map_name: graph output, (1, map_height, map_width, classes).
        map_height: rows of the class map.
        map_width: columns of the class map.
        map_first_px: centre of what the first row and column of the class map look at, pixels from the input's edge.
        map_step_px: from there to the next, pixels.
        classes: number of labels.
    """

    input_name: str
    input_px: int
    logits_name: str
    class_map_name: str
    map_height: int
    map_width: int
    map_first_px: float
    map_step_px: float
    classes: int


@dataclass(frozen=True)
class TaskInfo:
    """The question. `kind` is "field" or "cell"; `labels` stand in the order of the logits."""

    name: str
    title: str
    kind: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class OperatingPoint:
    """A yes/no question with a stored threshold.

    Attributes:
        name: what "yes" means.
        positive: labels whose probabilities are added up.
        threshold: "yes" when the sum is >= this, 0..1.
        sensitivity: on the validation split, 0..1.
        specificity: on the validation split, 0..1.
    """

    name: str
    positive: tuple[str, ...]
    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class AbstentionLimits:
    """When a bundle declines to answer, see `edge_runtime.abstention`.

    Attributes:
        coverage: share of pictures whose true label is meant to be plausible, class by class, above 0 and up to 1.
        margins: in the order of the labels, nats, 0 or more: how much less probable than the top label each may be and
            still be plausible.
        familiarity_file: of the bundle, for `familiarity.parse_familiarity`; None where nothing is unfamiliar to it.
        distance_limit: the largest distance from the training pictures that is accepted, > 0; None likewise.
    """

    coverage: float
    margins: tuple[float, ...]
    familiarity_file: str | None
    distance_limit: float | None


@dataclass(frozen=True)
class Golden:
    """The bundle's test of itself.

    Attributes:
        logits_tolerance: largest absolute difference of a logit, > 0.
        class_map_tolerance: largest absolute difference of a class map value, > 0.
        cases: (picture, expected) names of files in the bundle.
    """

    logits_tolerance: float
    class_map_tolerance: float
    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FileInfo:
    """What a file of the bundle must be: 64 lower-case hex digits and a size in bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Measure:
    """A measured value, and where known its 95 % interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about its model, checked.

    Attributes:
        version: of the format.
        name: ``<task>-<backbone>-<recipe>``.
        task: the question and its labels.
        io: the graph's input and outputs.
        temperature: probabilities = softmax(logits / temperature), > 0.
        operating_points: questions with a stored threshold, maybe none.
        abstention: when it declines to answer; None: never.
        recipe: of the quantization, such as "int8".
        backbone: such as "mobilenet_v2".
        parity_passed: False for a bundle written with ``--allow-degraded``.
        macro_f1: of this model, 0..1, or None when the manifest does not state it.
        quality: what a picture must be like to be answered; empty where the manifest does not say.
        golden: the bundle's test of itself.
        files: name -> hash and size.
        raw: the manifest as parsed from JSON.
    """

    version: int
    name: str
    task: TaskInfo
    io: IOSpec
    temperature: float
    operating_points: tuple[OperatingPoint, ...]
    abstention: AbstentionLimits | None
    recipe: str
    backbone: str
    parity_passed: bool
    macro_f1: Measure | None
    quality: Limits
    golden: Golden
    files: dict[str, FileInfo]
    raw: dict[str, Any] = field(repr=False)

    @property
    def preprocess(self) -> Preprocess:
        """How a picture becomes this model's pixels."""
        from .preprocess import Preprocess

        stated = self.raw["preprocess"]
        chosen = {key: stated[key] for key in ("crop", "resample", *STANDARDISATION) if key in stated}
        return Preprocess(self.io.input_px, **chosen)


def parse_manifest(text: bytes, source: str = MANIFEST_NAME) -> Manifest:
    """Parse and check a manifest.

    Args:
        text: the bytes of ``manifest.json``.
        source: what errors call the file.

    Raises:
        BundleError: anything ``docs/bundle-format.md`` does not allow; names the key.
    """
    top = Node(load_object(text, source, MAX_MANIFEST_BYTES), source, "")
    version = top.version(FORMAT, VERSION)
    name = top.line("name")
    if not _NAME.fullmatch(name):
        raise top.wrong("name", repr(name), "lower-case letters, digits and hyphens")
    task = _task(top.node("task"))
    io = _io(top, len(task.labels))
    _preprocess(top.node("preprocess"), version, task.kind)
    temperature = top.number("temperature", above=0.0)
    operating_points = _operating_points(top, task.labels)
    recipe = _quantization(top.node("quantization"))
    backbone = _training(top.node("training"))
    parity_passed, macro_f1 = _metrics(top.node("metrics"))
    limits = top.node("limits")
    for key in ("intended", "not_for"):
        limits.text(key)
    limits.texts("notes")
    files = _files(top.node("files"))
    golden = _golden(top.node("golden"), files)
    abstention = _abstention(top.node("abstention"), task.labels, files) if "abstention" in top.value else None
    return Manifest(
        version,
        name,
        task,
        io,
        temperature,
        operating_points,
        abstention,
        recipe,
        backbone,
        parity_passed,
        macro_f1,
        _quality(top.node("quality")) if "quality" in top.value else {},
        golden,
        files,
        top.value,
    )


def _task(node: Node) -> TaskInfo:
    labels = node.lines("labels")
    if not 2 <= len(labels) <= MAX_LABELS:
        raise node.wrong("labels", f"{len(labels)} labels", f"2 to {MAX_LABELS}")
    return TaskInfo(node.line("name"), node.line("title"), node.choice("kind", "field", "cell"), labels)


def _io(top: Node, classes: int) -> IOSpec:
    entry = top.node("input")
    input_name, input_px = entry.text("name"), entry.integer("height", 16, 2048)
    if entry.integer("width", 16, 2048) != input_px:
        raise entry.wrong("width", entry.value["width"], f"{input_px}, as input.height")
    entry.choice("channels", "RGB")
    entry.choice("layout", "NHWC")
    entry.choice("dtype", "uint8")
    outputs = top.node("outputs")
    logits, class_map = outputs.node("logits").text("name"), outputs.node("class_map")
    map_name = class_map.text("name")
    if map_name == logits:
        raise class_map.wrong("name", repr(map_name), "another output than outputs.logits.name")
    height, width = class_map.integer("height", 1, input_px), class_map.integer("width", 1, input_px)
    if width != height:  # one step leads from row to row and from column to column
        raise class_map.wrong("width", width, f"{height}, as outputs.class_map.height")
    step_px = class_map.number("step_px", low=1.0, high=input_px) if "step_px" in class_map.value else input_px / width
    first_px = class_map.number("first_px", low=0.0, high=input_px) if "first_px" in class_map.value else step_px / 2
    return IOSpec(input_name, input_px, logits, map_name, height, width, first_px, step_px, classes)


def _preprocess(node: Node, version: int, kind: str) -> None:
    node.choice("crop", "centre-square")
    node.choice("resample", "bilinear")
    if version > 1:
        node.choice("background", "keep", f"neutral-{kind}")
        node.choice("stain", "keep", "reinhard")
        return
    for key in STANDARDISATION:
        if key in node.value:  # whoever knows only version 1 would ignore it, and see other pixels than the network did
            raise node.wrong(key, repr(node.value[key]), "no such key in version 1")


def _operating_points(top: Node, labels: tuple[str, ...]) -> tuple[OperatingPoint, ...]:
    points: dict[str, OperatingPoint] = {}
    for node in top.nodes("operating_points"):
        name, positive = node.line("name"), node.lines("positive")
        if name in points:
            raise node.wrong("name", repr(name), "different names")
        unknown = [label for label in positive if label not in labels]
        if unknown or not positive:
            raise node.wrong("positive", repr(unknown[0]) if unknown else "no labels", "some of task.labels")
        threshold, sensitivity, specificity = (
            node.number(key, low=0.0, high=1.0) for key in ("threshold", "sensitivity", "specificity")
        )
        points[name] = OperatingPoint(name, positive, threshold, sensitivity, specificity)
    return tuple(points.values())


def _abstention(node: Node, labels: tuple[str, ...], files: dict[str, FileInfo]) -> AbstentionLimits:
    coverage, stated = node.number("coverage", above=0.0), node.node("margins")
    if coverage > 1:
        raise node.wrong("coverage", coverage, "more than 0 and at most 1")
    unknown = [label for label in stated.value if label not in labels]
    if unknown:
        raise stated.wrong(unknown[0], "no such label", "those of task.labels")
    margins = tuple(stated.number(label, low=0.0) for label in labels)
    if node.need("familiarity") is None:
        return AbstentionLimits(coverage, margins, None, None)
    familiarity = node.node("familiarity")
    name = familiarity.text("file")
    if name not in files:
        raise familiarity.wrong("file", repr(name), "one of files")
    return AbstentionLimits(coverage, margins, name, familiarity.number("limit", above=0.0))


def _quantization(node: Node) -> str:
    recipe = node.line("recipe")
    for key in ("weights", "activations"):
        node.text(key)
    if node.need("calibration") is not None:
        calibration = node.node("calibration")
        calibration.integer("images", 1)
        calibration.text("split")
        calibration.sha256("sha256")
    return recipe


def _training(node: Node) -> str:
    for key in ("run", "protocol", "code"):
        node.text(key)
    for key in ("weights_sha256", "data_sha256"):
        node.sha256(key)
    node.integer("seed", 0)
    if node.need("pretrained") is not None:
        node.text("pretrained")
    for source in node.nodes("sources"):
        for key in ("name", "title", "licence", "citation"):
            source.text(key)
    return node.line("backbone")


def _metrics(node: Node) -> tuple[bool, Measure | None]:
    node.node("reference")
    this, parity = node.node("this"), node.node("parity")
    passed = parity.boolean("passed")
    rows = parity.nodes("rows")
    for row in rows:
        row.text("step")
        row.text("measure")
        for key in ("value", "limit"):
            if not is_number(row.need(key)):
                row.text(key)
        # A bundle must not call itself whole while one of its own gates failed.
        if not row.boolean("passed") and passed:
            raise row.wrong("passed", "false", "true, because metrics.parity.passed is true")
    if passed and not rows:
        raise parity.wrong("rows", "no rows", "the gates that passed")
    if "macro_f1" not in this.value:
        return passed, None
    if is_number(this.value["macro_f1"]):
        return passed, Measure(this.number("macro_f1", low=0.0, high=1.0), None, None)
    measure = this.node("macro_f1")
    value, low, high = (measure.number(key, low=0.0, high=1.0) for key in ("value", "low", "high"))
    return passed, Measure(value, low, high)


def _quality(node: Node) -> Limits:
    limits = {}
    for name, meaning in MEASURES.items():
        if name in node.value:  # measures of later programs are as unknown as their keys
            entry = node.node(name)
            other = "high" if meaning.side == "low" else "low"
            if other in entry.value:  # not to be passed over: somebody relies on it
                raise entry.wrong(other, "a limit", f"{meaning.side} alone")
            limits[name] = entry.number(meaning.side, low=0.0, high=meaning.greatest)
    return limits


def _files(node: Node) -> dict[str, FileInfo]:
    files = {}
    for name in node.value:
        # The pattern has no "..", no leading "/", no "\\" and no ":", so a name cannot leave the bundle.
        if not _FILE.fullmatch(name) or len(name) > MAX_TEXT_LENGTH:
            raise node.wrong(name, "a name not allowed", "letters, digits, '_', '.' and '-', at most below golden/")
        if name in (MANIFEST_NAME, SIGNATURE_NAME):
            raise node.wrong(name, f"the {'manifest itself' if name == MANIFEST_NAME else 'signature'}", "other files")
        entry = node.node(name)
        files[name] = FileInfo(entry.sha256("sha256"), entry.integer("bytes", 0, MAX_FILE_BYTES))
    models = [name for name in MODEL_FILES if name in files]
    if not models:
        raise BundleError(f"{node.source}: files: no model", expected=" or ".join(MODEL_FILES))
    for part in (part for name in models for part in MODEL_FILES[name]):
        if part not in files:
            raise BundleError(f"{node.source}: files: a model without {part}", got=", ".join(models), expected=part)
    return files


def _golden(node: Node, files: dict[str, FileInfo]) -> Golden:
    tolerance = node.node("tolerance")
    logits, class_map = (tolerance.number(key, above=0.0) for key in ("logits", "class_map"))
    cases = node.nodes("cases")
    if not cases:
        raise node.wrong("cases", "no cases", "at least one")
    for case in cases:
        for key in ("picture", "expected"):
            if case.text(key) not in files or not case.value[key].startswith("golden/"):
                raise case.wrong(key, repr(case.value[key]), "one of files, below golden/")
    pairs = tuple((str(case.value["picture"]), str(case.value["expected"])) for case in cases)
    return Golden(logits, class_map, pairs)
