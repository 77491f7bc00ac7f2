"""Collect: the labelled pictures of a task, and a name for everything that is left out.

What comes in is a task and a data folder with one folder per source; what goes out is a `Collected`: samples with the
task's classes, labels that are none, and the readers' remarks. Pictures are not opened here. `without_duplicates` then
keeps one of each set of identical files, and none of a set whose labels contradict each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import UsageError

from .errors import DataError
from .source_readers import Remark, Sample
from .sources import SOURCES
from .tasks import Task

if TYPE_CHECKING:
    from .index import Row

HINTS = 3
"""Unknown labels, and remarks, that the error about a missing class quotes: one of them is often its cause."""


@dataclass(frozen=True)
class Collected:
    """What the readers found.

    Attributes:
        sources: names, in the task's order.
        samples: (source, sample, class) of every picture of the task.
        left_out: "source: label" -> number of pictures with a label that is no class of the task.
        examples: "source: label" -> the first of them, relative to the data folder.
        remarks: of the readers.
    """

    sources: list[str]
    samples: list[tuple[str, Sample, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def collect(task: Task, data: Path, sources: Sequence[str] | None = None, limit: int | None = None) -> Collected:
    """Read the sources of a task.

    Args:
        task: what is asked.
        data: folder that holds one folder per source.
        sources: which; default: all of the task's that are there, but no other laboratory's test set.
        limit: at most so many pictures per source and class, the first by name; for trials.

    Raises:
        UsageError: a source that the task does not use, or a limit below 1.
        DataError: no such folder, a layout that is not the published one, or a class without a picture.
    """
    if limit is not None and limit < 1:
        raise UsageError("--limit", got=limit, expected="1 or more")
    found = Collected(_chosen(task, data, sources))
    for source in found.sources:
        taken: Counter[str] = Counter()
        for item in SOURCES[source].read(data / source):
            sample = item if isinstance(item, Remark) else _storable(item, source, data)
            if isinstance(sample, Remark):
                found.remarks.append(sample.text.encode(errors="backslashreplace").decode())
                continue
            label = task.class_of(source, sample.raw_label)
            if label is None:
                name = f"{source}: {sample.raw_label}"
                found.left_out[name] += 1
                found.examples.setdefault(name, str(sample.path.relative_to(data)))
            elif limit is None or taken[label] < limit:
                taken[label] += 1
                found.samples.append((source, sample, label))
    where = [_where(task, data, found.sources), *found.remarks[:HINTS]]
    if found.left_out:
        where.append("labels that are no class, as " + ", ".join(f"'{name}'" for name in list(found.left_out)[:HINTS]))
    require_classes(task, {label for _, _, label in found.samples}, "; ".join(where))
    return found


def _storable(sample: Sample, source: str, data: Path) -> Sample | Remark:
    """Return a sample, or why it cannot stand in an index, whose paths are UTF-8 and below the data folder."""
    if not sample.path.is_relative_to(data):
        return Remark(f"{source}: {sample.path}: lies outside the data folder")
    try:
        f"{sample.path.relative_to(data)} {sample.raw_label} {sample.group}".encode()
    except UnicodeEncodeError:
        return Remark(f"{source}: {sample.path}: its name is not UTF-8; rename it")
    return sample


def _where(task: Task, data: Path, chosen: list[str]) -> str:
    """Say where pictures were looked for: in the chosen sources, or that there was none to choose."""
    if chosen:
        return f"sources {', '.join(chosen)} in {data}"
    usual = [name for name in task.mapping if name not in task.external]
    there = [name for name in task.external if (data / name).is_dir()]
    unasked = f"; {', '.join(there)} only where --sources names it" if there else ""
    return f"none of the folders {', '.join(usual)} in {data}{unasked}"


def require_classes(task: Task, held: set[str], where: str) -> None:
    """Refuse to go on without a picture of every class.

    Args:
        task: what is asked.
        held: classes that there are.
        where: what was looked through, for the error.

    Raises:
        DataError: a class is missing.
    """
    if missing := [label for label in task.labels if label not in held]:
        kept = " ".join(f"'{label}'" if " " in label else label for label in task.labels if label in held)
        raise DataError(
            f"task {task.name}: no pictures of {', '.join(missing)}",
            got=where,
            todo="add a source that holds these classes" + (f", or do without them: --labels {kept}" if kept else ""),
        )


def _chosen(task: Task, data: Path, sources: Sequence[str] | None) -> list[str]:
    if not data.is_dir():
        raise DataError(f"no folder {data}", expected="a folder with one folder per data set")
    unknown = [name for name in sources or () if name not in task.mapping]
    if unknown:
        raise UsageError(
            f"--sources: task {task.name} does not use {', '.join(unknown)}",
            expected=f"some of {', '.join(task.mapping)}",
        )
    usual = (name for name in task.mapping if name not in task.external and (data / name).is_dir())
    chosen = list(dict.fromkeys(sources or usual))
    for name in chosen:
        if (origin := SOURCES[name].cut_from) in chosen:
            raise DataError(
                f"{name} was cut out of {origin}: the same cells would be on both sides of any split",
                todo="name one of them with --sources",
            )
    return chosen


def without_duplicates(rows: Sequence[Row]) -> tuple[list[int], list[str], list[str]]:
    """Find identical pictures: the same bytes, and the same box where there is one.

    Args:
        rows: N rows.

    Returns:
        Numbers of the rows to keep, a line for every row dropped as a repetition, and a line for every set of rows
        dropped because their labels contradict each other.
    """
    same: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        same.setdefault(row.key, []).append(number)
    kept, repeated, contradictory = [], [], []
    for numbers in same.values():
        first = rows[numbers[0]]
        if len({rows[number].label for number in numbers}) > 1:
            contradictory.append(", ".join(f"{rows[number].path} ({rows[number].label})" for number in numbers))
        else:
            kept.append(numbers[0])
            repeated += [f"{rows[number].path}: the same picture as {first.path}" for number in numbers[1:]]
    return kept, repeated, contradictory
