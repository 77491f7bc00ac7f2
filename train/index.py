"""Index: one table that says what every picture is, where it came from, and which split it belongs to.

What comes in is a folder of data sets and a task; what goes out is an index folder: ``index.csv`` (a row per picture),
``index.json`` (task, data folder, what was left out and why) and the prepared pixels, cached by `train.pixels`.
Exact duplicates are dropped, near duplicates and colour clusters are found here; `train.split` fills in the splits.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.files import make_folder, write_text
from edge_runtime.preprocess import Box

from .collect import collect, require_classes, without_duplicates
from .errors import DataError
from .source_readers import Sample
from .sources import SOURCES
from .tasks import TASKS, Task

PROTOCOLS = ("stratified", "grouped")
SPLITS = ("train", "val", "test")

NEAR_DUPLICATE_BITS = 30
"""Two pictures are near duplicates when their 256-bit perceptual hashes differ in at most this many bits.

On Taleqani the pair count rises to 87 at 30 bits, is flat up to 60 (97), and unrelated pictures begin above 70.
"""

COLOUR_CLUSTER_SIZE = 25
"""Mean pictures per colour cluster where no patient is known."""


@dataclass(frozen=True)
class Row:
    """One picture of the index.

    Attributes:
        path: relative to the data folder.
        box: part of the picture, or None.
        source: row of `train.sources.SOURCES`.
        raw_label: the authors' label.
        label: the task's class.
        diagnosis: of the patient, where known; else "".
        group: what must not be torn apart: ``source:patient`` or ``source:cluster``.
        sha256: of the picture file.
        phash: 256-bit perceptual hash of the prepared pixels, 64 hex digits.
        stratified: split under the by-image protocol: "train", "val", "test" or "" before `split`.
        grouped: split under the by-group protocol.
    """

    path: str
    box: Box | None
    source: str
    raw_label: str
    label: str
    diagnosis: str
    group: str
    sha256: str
    phash: str
    stratified: str = ""
    grouped: str = ""

    @property
    def key(self) -> str:
        """Identity of the picture: hash of the file, and the box where there is one."""
        return self.sha256 if self.box is None else f"{self.sha256}:{','.join(map(str, self.box))}"


@dataclass(frozen=True)
class Index:
    """An index folder in memory.

    Attributes:
        folder: where it lies.
        data: root of the data sets.
        task: what is asked; perhaps with some of its classes only.
        rows: pictures.
        info: ``index.json``.
    """

    folder: Path
    data: Path
    task: Task
    rows: tuple[Row, ...]
    info: dict[str, Any]

    def select(self, protocol: str, split: str) -> list[int]:
        """Return the row numbers of one split.

        Raises:
            DataError: the index has not been split.
        """
        numbers = [i for i, row in enumerate(self.rows) if getattr(row, protocol) == split]
        if not numbers:
            raise DataError(
                f"{self.folder}: no {split} pictures under the {protocol} protocol",
                todo=f"run: python -m train split {self.folder}",
            )
        return numbers

    def targets(self, numbers: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return the class numbers of `numbers`: (N,) int64, 0..K-1."""
        order = {label: k for k, label in enumerate(self.task.labels)}
        return np.array([order[self.rows[i].label] for i in numbers], dtype=np.int64)

    @property
    def sha256(self) -> str:
        """Hash of what the index says about the data: pictures, labels, groups and splits."""
        lines = sorted(f"{r.key} {r.label} {r.group} {r.stratified} {r.grouped}" for r in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def write_index(index: Index) -> None:
    """Write ``index.csv`` and ``index.json``, each to a temporary name first."""
    make_folder(index.folder)
    lines = [",".join(COLUMNS)]
    for row in index.rows:
        cells = dataclasses.asdict(row) | {"box": " ".join(map(str, row.box)) if row.box else ""}
        lines.append(",".join(_quoted(str(cells[column])) for column in COLUMNS))
    write_text(index.folder / "index.csv", "\n".join(lines) + "\n")
    info = index.info | {
        "task": index.task.name,
        "labels": list(index.task.labels),
        "data": str(index.data.resolve()),
        "sha256": index.sha256,
    }
    write_text(index.folder / "index.json", json.dumps(info, indent=2) + "\n")


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\n\r') else cell


FORMAT, VERSION = "leukoscope-index", 1

KINDS: dict[str, type] = {
    "task": str,
    "data": str,
    "sha256": str,
    "sources": list,
    "unreadable": list,
    "contradictory": list,
    "exact_duplicates": int,
    "labels_left_out": dict,
}
"""What ``index.json`` must hold, whenever it was written; younger keys may be missing."""


def read_index(folder: Path) -> Index:
    """Read an index folder.

    Raises:
        DataError: missing, not an index, of another version, of an unknown task or class, or changed by hand.
    """
    try:
        info = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
            head, *table = list(csv.reader(stream)) or [[]]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{folder}: no index here",
            got=f"no {Path(error.filename).name}",
            todo="run: python -m train index --task TASK --data FOLDER --out INDEX",
        ) from None
    except (ValueError, csv.Error) as error:
        raise DataError(f"{folder}: not an index", got=error, todo="index again") from None
    task = _task_of(folder / "index.json", info)
    if tuple(head) != COLUMNS:
        raise DataError(
            f"{folder / 'index.csv'}: not the columns of an index", got=", ".join(head), expected=", ".join(COLUMNS)
        )
    rows = tuple(_read_row(f"{folder / 'index.csv'}: row {n}", cells, task) for n, cells in enumerate(table, 1))
    index = Index(folder, Path(info["data"]), task, rows, info)
    if index.sha256 != info["sha256"]:
        raise DataError(
            f"{folder}: index.csv is not the one that index.json was written with",
            got=f"sha256 {index.sha256[:12]}",
            expected=info["sha256"][:12],
            todo="index again; to change labels, change the data",
        )
    return index


def _task_of(path: Path, info: Any) -> Task:
    """Check what ``index.json`` says and return the task that the index is of."""
    stated = (info.get("format"), info.get("version")) if isinstance(info, dict) else ("none", "none")
    if stated != (FORMAT, VERSION):
        raise DataError(
            f"{path}: not an index of this version",
            got="format {}, version {}".format(*stated),
            expected=f"format {FORMAT}, version {VERSION}",
            todo="index again",
        )
    for key, kind in KINDS.items():
        if not isinstance(info.get(key), kind):
            raise DataError(f"{path}: {key}", got=repr(info.get(key)), expected=f"a {kind.__name__}")
    if info["task"] not in TASKS:
        raise DataError(f"{path}: no such task", got=info["task"], expected=f"one of {', '.join(TASKS)}")
    task = TASKS[info["task"]]
    labels = info.get("labels", list(task.labels))
    if not isinstance(labels, list) or labels != [label for label in task.labels if label in labels]:
        raise DataError(f"{path}: labels are not the task's, in its order", got=labels, expected=list(task.labels))
    return task.restricted(labels)


def _read_row(where: str, cells: list[str], task: Task) -> Row:
    if len(cells) != len(COLUMNS):
        raise DataError(where, got=f"{len(cells)} cells", expected=len(COLUMNS))
    named: dict[str, Any] = dict(zip(COLUMNS, cells, strict=True))
    for column, known in (
        ("source", tuple(SOURCES)),
        ("label", task.labels),
        *((protocol, ("", *SPLITS)) for protocol in PROTOCOLS),
    ):
        if named[column] not in known:
            raise DataError(
                f"{where}: {column}", got=repr(named[column]), expected=f"one of {', '.join(filter(None, known))}"
            )
    for column, form in (("box", r"(-?\d+( -?\d+){3})?"), ("phash", "[0-9a-f]{64}")):
        if not re.fullmatch(form, named[column], re.ASCII):
            raise DataError(f"{where}: {column}", got=repr(named[column]))
    return Row(**named | {"box": tuple(map(int, named["box"].split())) or None})


def seed_of(folder: Path) -> int | None:
    """Return the seed by which the index in a folder was split; None: it was not, or no index can be read there."""
    try:
        return read_index(folder).info.get("split_seed")
    except DataError:
        return None


def build_index(
    task: Task, data: Path, folder: Path, sources: Sequence[str] | None = None, limit: int | None = None
) -> Index:
    """Read the data sets of a task, prepare and hash every picture, drop exact duplicates and find groups.

    Args:
        task: what is asked, `Task.restricted` where not all of it.
        data: folder that holds one folder per source, as `train.sources` names them.
        folder: index folder to write.
        sources: which of the task's sources; default: all that the data folder holds, but no external ones.
        limit: at most so many pictures per source and class, the first by name; for trials.

    Returns:
        The index, without splits.

    Raises:
        UsageError: as `collect`.
        OutputError: the folder cannot be made.
        DataError: as `collect`, or not one picture could be read.
    """
    from .groups import assign_groups, perceptual_hashes
    from .pixels import prepare_all

    found = collect(task, data, sources, limit)
    make_folder(folder)  # a place that cannot be written is known before the pictures are read, not after
    prepared = prepare_all([(s.path, s.box, SOURCES[n].central_px) for n, s, _ in found.samples], folder)
    hashes = perceptual_hashes(prepared.pixels)
    rows = [
        _row(*found.samples[number], data, sha256, phash)
        for number, sha256, phash in zip(prepared.numbers, prepared.sha256, hashes, strict=True)
    ]
    kept, repeated, contradictory = without_duplicates(rows)
    require_classes(task, {rows[position].label for position in kept}, f"{len(kept)} pictures that can be used")
    pixels = prepared.keep(kept)
    rows = assign_groups([rows[position] for position in kept], pixels)
    counts = Counter((row.source, row.label) for row in rows)
    info: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "sources": found.sources,
        "counts": {f"{source}: {label}": n for (source, label), n in sorted(counts.items())},
        "labels_left_out": dict(found.left_out),
        "left_out_examples": found.examples,
        "remarks": found.remarks,
        "unreadable": prepared.unreadable,
        "exact_duplicates": len(repeated),
        "repeated": repeated,
        "contradictory": contradictory,
    } | ({} if limit is None else {"limit": limit})
    index = Index(folder, data, task, tuple(rows), info)
    prepared.publish(index, kept)
    write_index(index)
    return index


def _row(source: str, sample: Sample, label: str, data: Path, sha256: str, phash: str) -> Row:
    return Row(
        path=str(sample.path.relative_to(data)),
        box=sample.box,
        source=source,
        raw_label=sample.raw_label,
        label=label,
        diagnosis=sample.diagnosis or "",
        group=f"{source}:{sample.group}" if sample.group else "",
        sha256=sha256,
        phash=phash,
    )
