"""Columns: what a row of an archive's part says. Predictions and scans in, rows (dictionaries) and their schema out.

``classify`` has one row per picture of the list, ``scan`` one per white cell and one per field, or tile, without any. A
picture that could not be answered has one row with ``error``. ``docs/archive.md`` says what each column means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..report import NOTE
from .plan import COLUMNS, Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from ..bundle import Bundle
    from ..classifier import Prediction
    from ..manifest import Manifest
    from ..refusal import Refusal
    from ..scan import FieldScan

Row = dict[str, Any]

HEAT_STEPS = 255
"""A heatmap's 0..1 is stored as 0..255: a byte for each of its cells."""

ERROR_LENGTH = 1000
"""Characters of an error at most."""

_SCAN_FIELD = {
    "part": "int32",
    "picture_width": "int32",
    "picture_height": "int32",
    "region_left": "int32",
    "region_top": "int32",
    "region_width": "int32",
    "region_height": "int32",
    "red_cell_px": "float32",
    "scale": "string",
    "field_refusals": "refusals",
}
_SCAN_CELL = {
    "cell": "int32",
    "left_out": "string",
    "left": "int32",
    "top": "int32",
    "width": "int32",
    "height": "int32",
    "centre_x": "float32",
    "centre_y": "float32",
    "nucleus_px": "float32",
    "cell_px": "float32",
    "cut": "bool",
    "crop_left": "int32",
    "crop_top": "int32",
    "crop_px": "int32",
    "filled": "float32",
}


def column_types(manifest: Manifest, mode: str) -> dict[str, str]:
    """Return the columns, name -> kind; kinds are the keys of `_types`.

    Args:
        manifest: of the bundle that answers.
        mode: of `plan.MODES`.
    """
    labels = {f"p {label}": "float32" for label in manifest.task.labels}
    flags = {f"flag {point.name}": "bool" for point in manifest.operating_points}
    answer = {
        "label": "string",
        "probability": "float32",
        **labels,
        **flags,
        "abstained": "bool",
        "plausible": "strings",
        "refusals": "refusals",
        "heatmap": "heatmap",
    }
    scanned = {**_SCAN_FIELD, **_SCAN_CELL} if mode == "scan" else {}
    last = {"total_ms": "float32", "bundle_id": "string", "degraded": "bool", "error": "string"}
    return {"row": "int64", "path": "string", **scanned, **answer, **last}


def schema(bundle: Bundle, settings: Settings, node: str | None = None) -> pa.Schema:
    """Return the Arrow schema of a part.

    Args:
        bundle: that answers.
        settings: of the plan.
        node: of a cluster, that writes the part; it stands in the part's metadata.
    """
    import pyarrow as pa

    manifest, io = bundle.manifest, bundle.manifest.io
    types = _types(io.map_height * io.map_width)
    said = {
        "leukoscope": settings.leukoscope,
        "columns": str(COLUMNS),
        "note": NOTE,
        "mode": settings.mode,
        "bundle_id": bundle.id,
        "engine": settings.engine,
        "labels": json.dumps(manifest.task.labels),
        "heatmap": json.dumps(
            {
                "height": io.map_height,
                "width": io.map_width,
                "steps": HEAT_STEPS,
                "first_px": io.map_first_px,
                "step_px": io.map_step_px,
                "input_px": io.input_px,
            }
        ),
        **({} if node is None else {"node": node}),
    }
    fields = [pa.field(name, types[kind]) for name, kind in column_types(manifest, settings.mode).items()]
    return pa.schema(fields, {f"leukoscope.{key}": value for key, value in said.items()})


def _types(heat_cells: int) -> dict[str, pa.DataType]:
    import pyarrow as pa

    numbers = [("value", pa.float32()), ("low", pa.float32()), ("high", pa.float32())]
    return {
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "bool": pa.bool_(),
        "string": pa.string(),
        "strings": pa.list_(pa.string()),
        "refusals": pa.list_(pa.struct([("reason", pa.string()), ("measure", pa.string()), *numbers])),
        "heatmap": pa.list_(pa.uint8(), heat_cells),
    }


def error_row(place: int, name: str, error: str, bundle_id: str) -> Row:
    """Return the row of a picture that could not be answered; what it lacks is null."""
    return {"row": place, "path": written(name), "bundle_id": bundle_id, "error": written(_line(error))}


def _line(error: str) -> str:
    """Return an error as one line of about `ERROR_LENGTH` characters: in a decoder's words anything may stand."""
    line = " ".join(error.split())
    return line if len(line) <= ERROR_LENGTH else f"{line[: ERROR_LENGTH // 2]} ... {line[-ERROR_LENGTH // 2 :]}"


def answer_row(place: int, name: str, prediction: Prediction) -> Row:
    """Return the row of a picture that was classified."""
    total = {"total_ms": prediction.timings_ms["total"]}
    return {"row": place, "path": written(name), **_answer(prediction), **total}


def scan_rows(place: int, name: str, part: int, field: FieldScan) -> Iterator[Row]:
    """Return the rows of a field, or of a part of one: of its cells, or one that says that there are none.

    Args:
        place: of the picture in the list.
        name: of the picture in the list.
        part: number of the part in its picture, from 0.
        field: what was found.
    """
    region = dict(zip(("region_left", "region_top", "region_width", "region_height"), field.region, strict=True))
    shared: Row = {
        "row": place,
        "path": written(name),
        "part": part,
        "picture_width": field.width,
        "picture_height": field.height,
        **region,
        "red_cell_px": field.red_cell_px,
        "scale": field.scale,
        "field_refusals": _refusals(field.refusals),
        "total_ms": field.timings_ms["total"],
        "bundle_id": field.bundle_id,
    }
    if not field.cells:
        yield shared
    for number, found in enumerate(field.cells, field.first):
        cell = found.cell
        yield {
            **shared,
            "cell": number,
            "left_out": field.left_out(found),
            **dict(zip(("left", "top", "width", "height"), cell.box, strict=True)),
            "centre_x": cell.centre[0],
            "centre_y": cell.centre[1],
            "nucleus_px": cell.nucleus_px,
            "cell_px": cell.cell_px,
            "cut": cell.cut,
            "crop_left": found.crop[0],
            "crop_top": found.crop[1],
            "crop_px": found.crop[2],
            "filled": found.filled,
            **_answer(found.prediction),
        }


def _answer(prediction: Prediction) -> Row:
    return {
        "label": prediction.label,
        "probability": prediction.probability,
        **{f"p {label}": value for label, value in prediction.probabilities.items()},
        **{f"flag {name}": flag.yes for name, flag in prediction.flags.items()},
        "abstained": prediction.abstained,
        "plausible": list(prediction.plausible),
        "refusals": _refusals(prediction.refusals),
        "heatmap": np.rint(HEAT_STEPS * prediction.heatmap).astype(np.uint8).reshape(-1).tolist(),
        "bundle_id": prediction.bundle_id,
        "degraded": prediction.degraded,
    }


def _refusals(refusals: Sequence[Refusal]) -> list[Row]:
    return [{name: getattr(one, name) for name in ("reason", "measure", "value", "low", "high")} for one in refusals]


def written(text: str) -> str:
    """Return a text as Parquet takes it: bytes of a file's name that are no UTF-8 are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()
