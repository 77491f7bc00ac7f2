"""Pack: the only writer of bundles. From an `Export` to a folder that ``edge_runtime`` opens and verifies.

What comes in are model files with their ladder and metrics; what goes out is the folder of ``docs/bundle-format.md``,
with golden pictures that are rendered (the real ones may not be shipped) and a model card. It is written under a
temporary name, opened and verified with the device's own code, and only then renamed: a bundle is there whole or not
at all. A failed gate is a refusal, unless the caller takes the bundle degraded, and then the manifest says so. The same
run gives the same bytes: there are no dates and no paths inside.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime import __version__
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import LeukoscopeError, OutputError
from edge_runtime.files import make_folder, require_writable
from edge_runtime.manifest import FORMAT, MANIFEST_NAME, VERSION
from edge_runtime.preprocess import Preprocess, decode, prepare
from train.index import NEAR_DUPLICATE_BITS
from train.sources import SOURCES

from .abstention import Fitted, fit_abstention
from .calibration import SPLIT
from .converter_process import installed_version
from .errors import ExportError, GateError
from .model_card import model_card
from .quality_limits import quality
from .recipes import Recipe
from .to_tflite import CONVERTERS

if TYPE_CHECKING:
    from edge_runtime.engines import Engine
    from train.run_folder import Run

    from .pipeline import Export

FP32_TOLERANCE = 1e-3
LOGITS_STEPS, CLASS_MAP_STEPS = 8, 20
"""Tolerance of a quantized model, in its own steps; measured between correct kernels, see ``docs/bundle-format.md``."""

GOLDEN_CASES = 3
GOLDEN_TRIES = 12
GOLDEN_COLOURS = 64
"""Of the golden pictures' palette: keeps them small, and decodes to the same bytes everywhere (a JPEG may not)."""

GOLDEN_PX = {"cell": (208, 240), "field": (256, 288)}
"""Kind -> height and width of the golden pictures: neither square nor of the input size, so as to test preparation."""

NOT_FOR = (
    "diagnosis, treatment or triage of a patient; pictures from other stains, microscopes, magnifications or species "
    "than those named; any use in which nobody looks at the smear. Decision support for research, not a medical device."
)


def write_bundle(export: Export, out: Path, allow_degraded: bool = False, force: bool = False) -> Bundle:
    """Write a bundle, check it, and put it in place.

    Args:
        export: from `pipeline.export_recipe`.
        out: folder to make.
        allow_degraded: write it although a gate failed; its manifest then says so, and the runtime on every run.
        force: replace a bundle that is there.

    Returns:
        The bundle, opened.

    Raises:
        GateError: a gate failed; names it.
        ExportError: something is in the way, or the written bundle does not verify.
        OutputError: it cannot be written.
    """
    failed = [row for row in export.rows if not row.passed]
    if not export.models or (failed and not allow_degraded):
        row = failed[0]
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise GateError(
            f"not packed: {row.step}: {row.measure}{more}",
            got=f"{row.value:g}" + (f" ({row.note})" if row.note else ""),
            expected=row.limit,
            todo="--allow-degraded writes the bundle and marks it" if export.models else None,
        )
    check_out(out, force)
    files = assemble(export)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written", got=error.strerror) from None
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        folder.chmod(0o755)
        check_bundle(folder)
        _put_in_place(folder, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written", got=error.strerror) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return open_bundle(out)


def check_out(out: Path, force: bool) -> None:
    """Refuse to write over what is there; with `force`, over what is not a bundle; and where nothing can be written.

    Raises:
        ExportError: something is in the way.
        OutputError: the folder around it cannot be made or written to.
    """
    if not out.name:  # what one stands in cannot be replaced
        raise ExportError(f"{out}: has no name to write a bundle under", todo="give another --out")
    make_folder(out.parent)
    require_writable(out.parent)
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise ExportError(f"{out}: is there already", todo="give another --out, or replace it with --force")
    if not out.is_dir() or out.is_symlink() or (any(out.iterdir()) and not (out / MANIFEST_NAME).is_file()):
        raise ExportError(f"{out}: is not a bundle and will not be replaced", todo="give another --out")


def check_bundle(folder: Path) -> None:
    """Open a written bundle with the device's own code and verify it with every engine that can run it here.

    Raises:
        ExportError: a golden picture does not give what it must.
        BundleError: it does not open; an error of this program, not of the user.
    """
    from edge_runtime.classifier import Classifier
    from edge_runtime.engines import ENGINES, installed_engines
    from edge_runtime.golden import verify

    bundle = open_bundle(folder)
    for engine in installed_engines():
        if ENGINES[engine].model_name not in bundle.models:
            continue
        try:
            report = verify(Classifier.open(bundle, engine))
        except LeukoscopeError as error:
            raise ExportError(f"the bundle does not verify with {engine}", got=str(error)) from None
        for case in report.cases:
            if not case.passed:
                raise ExportError(
                    f"the bundle does not verify with {engine}: {case.picture}",
                    got=case.error
                    or f"{case.label_got}, logits {case.logits_diff:.3g}, map {case.class_map_diff:.3g} away",
                    expected=f"{case.label_expected}, within {report.logits_tolerance:.3g} and "
                    f"{report.class_map_tolerance:.3g}",
                )


def assemble(export: Export) -> dict[str, bytes]:
    """Return the files of the bundle, the manifest last."""
    golden, files = golden_files(export)
    declining = fit_abstention(export)
    stated = manifest(export, golden, declining)
    files = dict(export.models) | files | declining.files | {"MODEL_CARD.md": model_card(stated).encode()}
    stated["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in sorted(files.items())
    }
    return files | {MANIFEST_NAME: (json.dumps(stated, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()}


def manifest(export: Export, golden: dict[str, Any], declining: Fitted) -> dict[str, Any]:
    """Return the manifest, all but ``files``."""
    run, io_spec, recipe = export.source.run, export.source.io, export.recipe
    info, task = run.info, run.task
    protocol = info["metrics"]["protocol"]
    quantization: dict[str, Any] = {
        "recipe": recipe.line,
        "target": recipe.target.name,
        "options": dict(recipe.options),
        "weights": recipe.target.weights,
        "activations": recipe.target.activations,
        "calibration": None,
        "tools": tool_versions(recipe),
    }
    if export.calibration is not None:
        quantization["calibration"] = {
            "images": len(export.calibration.numbers),
            "split": SPLIT,
            "sha256": export.calibration.sha256,
            "per_class": export.calibration.per_class,
            "seed": export.calibration.seed,
            "disjoint": "from validation and test, by file hash and by perceptual hash "
            f"({NEAR_DUPLICATE_BITS} of 256 bits)",
        }
    return {
        "format": FORMAT,
        "version": VERSION if run.preprocess.standardises else 1,  # readers of version 1 can still open the others
        "name": export.name,
        "task": {"name": task.name, "title": task.title, "kind": task.kind, "labels": list(task.labels)},
        "input": {
            "name": io_spec.input_name,
            "height": io_spec.input_px,
            "width": io_spec.input_px,
            "channels": "RGB",
            "layout": "NHWC",
            "dtype": "uint8",
        },
        "preprocess": _preprocess(run.preprocess),
        "outputs": {
            "logits": {"name": io_spec.logits_name},
            "class_map": {
                "name": io_spec.class_map_name,
                "height": io_spec.map_height,
                "width": io_spec.map_width,
                "first_px": io_spec.map_first_px,
                "step_px": io_spec.map_step_px,
            },
        },
        "temperature": info["temperature"],
        "operating_points": info["operating_points"],
        "abstention": declining.stated,
        "quality": quality(export.source),
        "quantization": quantization,
        "training": {
            "run": run.folder.resolve().name,
            "weights_sha256": info["weights_sha256"],
            "data_sha256": info["data_sha256"],
            "protocol": run.protocol,
            "seed": info["seed"],
            "backbone": run.backbone,
            "pretrained": None if info["pretrained"] == "none" else info["pretrained"],
            "sources": [
                {"name": s.name, "title": s.title, "licence": s.licence, "citation": s.citation}
                for s in (SOURCES[name] for name in info["sources"])
            ],
            "code": __version__,
            "pictures": protocol["pictures"],
            "groups": protocol["groups"],
        },
        "metrics": {
            "reference": _slim(info["metrics"]) | {"controls": [_slim(c) for c in info["metrics"].get("controls", [])]},
            "this": _slim(export.metrics) | {"abstention": declining.measured},
            "parity": {
                "passed": export.passed,
                "pictures": protocol["pictures"]["test"],
                "paired": export.found.to_dict() if export.found else {},
                "rows": [row.to_dict() for row in export.rows],
            },
        },
        "limits": {"intended": task.intended or task.title, "not_for": NOT_FOR, "notes": _notes(export)},
        "golden": golden,
    }


def _preprocess(preprocess: Preprocess) -> dict[str, str]:
    stated = {"crop": preprocess.crop, "resample": preprocess.resample}
    standardisation = {"background": preprocess.background, "stain": preprocess.stain}
    return stated | (standardisation if preprocess.standardises else {})


def _slim(found: dict[str, Any]) -> dict[str, Any]:
    """Return metrics with the test split's numbers on top, without the tables that only plots need."""
    dropped = ("reliability", "test", "validation", "protocol", "controls")
    flat = found | found.get("test", {})
    slim: dict[str, Any] = {}
    for key, value in flat.items():
        if key in dropped:
            continue
        if key == "per_source":
            bulky = ("confusion", *dropped)
            value = {name: {k: v for k, v in part.items() if k not in bulky} for name, part in value.items()}
        slim[key] = value
    return slim


def _notes(export: Export) -> list[str]:
    protocol = export.source.run.info["metrics"]["protocol"]
    notes = [
        f"Measured on {protocol['pictures']['test']} pictures of {protocol['groups']['test']} groups, "
        f"{protocol['name']}: {protocol['text']}. No hospital outside the named sources was tested.",
        "The heatmap shows which positions speak for a class, not why; it is coarse "
        f"({export.source.io.map_height} x {export.source.io.map_width} cells).",
        "Golden pictures are rendered, not photographed; what the model says about them has no medical meaning.",
    ]
    failed = [f"{row.step}: {row.measure} {row.value:g} (limit {row.limit})" for row in export.rows if not row.passed]
    return notes + ([f"DEGRADED: written although these gates failed: {'; '.join(failed)}."] if failed else [])


def tool_versions(recipe: Recipe) -> dict[str, str]:
    """Return the versions of the packages that a recipe's bytes depend on."""
    return {
        name: (CONVERTERS[name].version() if name in CONVERTERS else installed_version(name)) or "unknown"
        for name in recipe.tools
    }


def golden_files(export: Export) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Render golden pictures and compute what they must give, through the device's own code.

    Returns:
        The manifest's ``golden``, and the files.
    """
    from edge_runtime.engines import open_engine
    from edge_runtime.golden import expected

    # one thread, as any device can have: the expected numbers must not depend on the exporter's core count
    run = export.source.run
    engine = open_engine(export.recipe.target.engine, export.models, export.source.io, threads=1)
    tolerance = golden_tolerance(export, engine.output_steps)
    cases, files = [], {}
    for number, label in enumerate(golden_labels(run.task.kind, run.task.labels)):
        picture, logits, class_map = _golden_picture(run, engine, label, 2 * tolerance["logits"])
        pixels = prepare(decode(picture), run.preprocess)
        answer = expected(pixels, logits, class_map, run.task.labels)
        names = {"picture": f"golden/{number}.png", "expected": f"golden/{number}.json"}
        files[names["picture"]] = picture
        files[names["expected"]] = (json.dumps(answer) + "\n").encode()
        cases.append(names)
    return {"tolerance": tolerance, "cases": cases}, files


def golden_tolerance(export: Export, steps: tuple[float | None, float | None]) -> dict[str, float]:
    """Return how far a correct kernel's logits and class map may be from the golden ones, absolute.

    Args:
        export: what ships.
        steps: quantization step of logits and class map; None where that output is float.
    """
    outputs = export.outputs
    tolerance = {}
    for name, values, step, allowed in (
        ("logits", outputs.logits, steps[0], LOGITS_STEPS),
        ("class_map", outputs.class_map, steps[1], CLASS_MAP_STEPS),
    ):
        if export.recipe.target.exact:
            tolerance[name] = FP32_TOLERANCE
            continue
        # a float output of a quantized graph: what was rounded inside is as coarse as eight bits over its span
        step = step or float(values.max() - values.min()) / 255
        tolerance[name] = max(FP32_TOLERANCE, allowed * step)
    return tolerance


def golden_labels(kind: str, labels: tuple[str, ...]) -> list[str]:
    """Return which classes to render: spread over the task's, or over the renderer's where it knows none of them."""
    from train.render import RENDERERS

    known = RENDERERS[kind][1]
    usable = [label for label in labels if label in known] or list(known)
    places = np.unique(np.linspace(0, len(usable) - 1, min(GOLDEN_CASES, len(usable))).round().astype(int))
    return [usable[place] for place in places]


def _golden_picture(run: Run, engine: Engine, label: str, margin: float) -> tuple[bytes, Any, Any]:
    """Render until the answer is clear: it leads by more than `margin`, so that no correct kernel says otherwise."""
    best: tuple[float, bytes, Any, Any] | None = None
    for attempt in range(GOLDEN_TRIES):
        picture = render_golden(run.task.kind, label, attempt)
        logits, class_map = engine.run(prepare(decode(picture), run.preprocess))
        second, first = np.sort(logits)[-2:]
        lead = float(first - second)
        if best is None or lead > best[0]:
            best = (lead, picture, logits, class_map)
        if lead > margin:
            break
    assert best is not None  # GOLDEN_TRIES > 0
    if best[0] <= margin:
        raise ExportError(
            f"no rendered picture of {label} gets a clear answer",
            got=f"lead of {best[0]:.3g} over the second class",
            expected=f"more than {margin:.3g}, twice the golden tolerance",
        )
    return best[1:]


def render_golden(kind: str, label: str, attempt: int) -> bytes:
    """Render one golden picture as a palette PNG, the same bytes for the same arguments."""
    from PIL import Image

    from train.render import RENDERERS

    height, width = GOLDEN_PX[kind]
    rendering = RENDERERS[kind][0](label, np.random.default_rng([attempt, *label.encode()]), width)
    top = (width - height) // 2
    picture = Image.fromarray(rendering.pixels[top : top + height])
    stream = io.BytesIO()
    picture.quantize(GOLDEN_COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename; what was there goes aside first and is deleted last."""
    if not out.exists():
        os.rename(folder, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    os.rename(out, old / "bundle")
    try:
        os.rename(folder, out)
    except OSError:
        os.rename(old / "bundle", out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
