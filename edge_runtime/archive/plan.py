"""The plan of an archive: what is to be done, written once, so that whoever goes on does the same.

What comes in are names of pictures and settings; what goes out is a folder with ``_list.jsonl`` (each name as JSON, a
line) and ``_plan.json``. Pictures are dealt out in shards, in the order of the list; shard n becomes
``part-NNNNN.parquet`` and is done when that file is there. A plan is never changed: a run with another list, model or
settings is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO

from .. import __version__
from ..errors import OutputError, UsageError
from ..files import leftovers, write_bytes, write_whole

PLAN, LIST = "_plan.json", "_list.jsonl"
FORMAT, VERSION = "leukoscope-archive", 1
COLUMNS = 1
"""Number of these columns; it changes with any of them."""

MODES = ("classify", "scan")
MAX_SHARD_PICTURES = 1_000_000


@dataclass(frozen=True)
class Settings:
    """How an archive's pictures are answered. All of it decides what stands in the parts.

    Attributes:
        mode: of `MODES`.
        model: name of a default bundle, or a bundle's absolute path.
        bundle_id: what that was when the plan was made.
        engine: of `engines.ENGINES`.
        isolate: the engine runs in a process that can neither reach files nor network.
        um_per_px: micrometres per pixel of all fields, None: measured in each; "scan" only.
        shard_pictures: in a shard at most, 1 to `MAX_SHARD_PICTURES`.
        root: absolute path of the folder that relative names start from.
        leukoscope: version of this program.
        columns: `COLUMNS`.
    """

    mode: str
    model: str
    bundle_id: str
    engine: str
    isolate: bool
    um_per_px: float | None
    shard_pictures: int
    root: str
    leukoscope: str = __version__
    columns: int = COLUMNS


SAME = {
    "mode": "mode",
    "bundle_id": "bundle",
    "engine": "engine",
    "isolate": "--isolate",
    "um_per_px": "--um-per-px",
    "shard_pictures": "pictures in a shard",
    "leukoscope": "leukoscope",
    "columns": "columns version",
}
"""Settings that must be the plan's -> what they are called. Of the model it is the bundle's id that counts."""


@dataclass(frozen=True)
class Job:
    """One shard.

    Attributes:
        shard: its number, from 0.
        offset: where its first name begins in `LIST`, bytes.
        first: place of its first picture in the list, from 0.
        count: its pictures.
        given_up: place of a picture in the list -> why it is not opened again; such pictures get a row with that.
    """

    shard: int
    offset: int
    first: int
    count: int
    given_up: dict[int, str]

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        given_up = {int(place): why for place, why in values.pop("given_up").items()}
        return cls(**values, given_up=given_up)


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        out: the archive's folder.
        settings: how.
        list_sha256: of `LIST`.
        pictures: in the list.
        offsets: of the shards' first names in `LIST`, bytes.
    """

    out: Path
    settings: Settings
    list_sha256: str
    pictures: int
    offsets: tuple[int, ...]

    def part(self, shard: int) -> Path:
        """Return where a shard's rows go."""
        return self.out / f"part-{shard:05}.parquet"

    def job(self, shard: int) -> Job:
        """Return a shard's job."""
        first = shard * self.settings.shard_pictures
        return Job(shard, self.offsets[shard], first, min(self.settings.shard_pictures, self.pictures - first), {})

    def missing(self) -> list[int]:
        """Return the shards that are not done."""
        with os.scandir(self.out) as entries:
            there = {entry.name for entry in entries}
        return [shard for shard in range(len(self.offsets)) if self.part(shard).name not in there]

    def tidy(self) -> None:
        """Remove what processes that died while they wrote have left."""
        for name in ("part-*.parquet", PLAN, LIST):
            for file in leftovers(self.out / name):
                file.unlink(missing_ok=True)

    def to_json(self) -> str:
        """Return it, but for its place, as JSON."""
        values = {"list_sha256": self.list_sha256, "pictures": self.pictures, "offsets": self.offsets}
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self.settings), **values})

    def require(self, settings: Settings) -> None:
        """Refuse other settings than the plan's.

        Raises:
            UsageError: naming the first that differs.
        """
        for name, title in SAME.items():
            planned, wanted = getattr(self.settings, name), getattr(settings, name)
            if planned != wanted:
                got, expected = f"{title} {wanted}", f"{title} {planned}"
                if name in ("leukoscope", "columns"):  # of this program: the command alone would not do
                    todo = f"install leukoscope {self.settings.leukoscope}, or --out with another folder"
                    raise UsageError(f"{self.out}: of another leukoscope", got=got, expected=expected, todo=todo)
                raise _another(self.out, got, expected)


def read_plan(out: Path) -> Plan | None:
    """Read the plan of a folder; None where there is none.

    Raises:
        UsageError: there are parts without a plan, or the plan is damaged or of another version of this program.
    """
    try:
        text = (out / PLAN).read_text(encoding="utf-8")
    except FileNotFoundError:
        if any(out.glob("part-*.parquet")):
            raise UsageError(f"{out}: parts without {PLAN}", todo="--out with another folder") from None
        return None
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{out / PLAN}: cannot be read", got=error) from None
    return parse_plan(text, out)


def parse_plan(text: str, out: Path) -> Plan:
    """Parse what `Plan.to_json` wrote.

    Args:
        text: of the file.
        out: the archive's folder.

    Raises:
        UsageError: damaged, or of another version of this program.
    """
    try:
        values = json.loads(text)
        stated = (values["format"], values["version"])
        if stated != (FORMAT, VERSION):
            raise ValueError("{} {}".format(*stated))
        settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
        return Plan(out, settings, str(values["list_sha256"]), int(values["pictures"]), tuple(values["offsets"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{out / PLAN}: damaged, or of another leukoscope", got=error, todo="--out with another folder"
        ) from None


def make_plan(out: Path, names: Iterable[str], settings: Settings, parts: int = 1) -> Plan:
    """Write the list and then the plan; only numbers are held, one per shard.

    Args:
        out: the archive's folder.
        names: of the pictures.
        settings: how they are answered.
        parts: shards are made smaller than the settings say where that gives so many.

    Raises:
        OutputError: the folder is read-only or full.
    """
    with write_whole(out / LIST) as stream:
        digest, count = _write(names, stream)
    shard_pictures = min(settings.shard_pictures, max(1, math.ceil(count / parts)))
    offsets, position = [], 0
    with (out / LIST).open("rb") as stream:
        for place, line in enumerate(stream):
            if place % shard_pictures == 0:
                offsets.append(position)
            position += len(line)
    plan = Plan(out, replace(settings, shard_pictures=shard_pictures), digest, count, tuple(offsets))
    write_bytes(out / PLAN, plan.to_json().encode())
    return plan


def require_same_list(plan: Plan, names: Iterable[str]) -> None:
    """Refuse another list than the plan's.

    Raises:
        UsageError: it is another one.
    """
    with open(os.devnull, "wb") as nowhere:
        digest, count = _write(names, nowhere)
    if digest != plan.list_sha256:
        both = ((digest, count), (plan.list_sha256, plan.pictures))
        raise _another(plan.out, *(f"list {sha256[:12]} of {pictures} pictures" for sha256, pictures in both))


def _write(names: Iterable[str], stream: BinaryIO) -> tuple[str, int]:
    """Write the names as JSON, one a line; return the SHA-256 of that, and how many they are."""
    digest, count = hashlib.sha256(), 0
    for name in names:
        line = json.dumps(name).encode() + b"\n"
        stream.write(line)
        digest.update(line)
        count += 1
    return digest.hexdigest(), count


def _another(out: Path, got: str, expected: str) -> UsageError:
    same = f"python -m edge_runtime archive --out {shlex.quote(str(out))}"
    return UsageError(
        f"{out}: holds another archive",
        got=got,
        expected=expected,
        todo=f"--out with another folder; or go on with this one: {same}",
    )


def names_of(plan: Plan, job: Job) -> Iterator[str]:
    """Read a shard's names from the list.

    Raises:
        OutputError: the list is not what it was.
    """
    list_file = plan.out / LIST
    try:
        with list_file.open("rb") as stream:
            stream.seek(job.offset)
            for _ in range(job.count):
                yield json.loads(stream.readline())
    except OSError as error:
        raise OutputError(f"{list_file}: cannot be read", got=error.strerror) from None
    except ValueError:
        raise OutputError(f"{list_file}: damaged", todo="--out with another folder") from None
