"""The parts of an archive that are there: who may write more of them, and which hold what they should.

What comes in is an archive's folder with its plan; what goes out is what is left to do. Nothing is written here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError, UsageError
from .plan import Plan


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Be the only one who leads work on a folder; the kernel takes the claim back from whoever dies.

    Raises:
        UsageError: somebody else does.
        OutputError: nothing can be written there.
    """
    import fcntl

    try:
        descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written", got=error.strerror) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{out}: in use by another archive", todo="wait for it, or stop it") from None
        except OSError:  # a file system without locks; then it is for the user not to start two
            pass
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Found:
    """What the parts that are there say.

    Attributes:
        missing: shards without a part, or with one that is not whole.
        damaged: of these, the latter.
        rows: in the others.
        errors: of these, with an error.
    """

    missing: list[int]
    damaged: list[int]
    rows: int
    errors: int


def look_through(plan: Plan, tell: Callable[[int], None] = lambda looked_at: None) -> Found:
    """Look at the end of each part that is there: a name alone is no proof after the power has failed.

    Args:
        plan: of the archive.
        tell: told before each part how many were looked at.

    Raises:
        OutputError: one is there and cannot be opened.
    """
    missing, damaged = plan.missing(), []
    rows = errors = 0
    without = set(missing)
    for looked_at, shard in enumerate(shard for shard in range(len(plan.offsets)) if shard not in without):
        tell(looked_at)
        counts = _counts(plan, shard)
        if counts is None:
            damaged.append(shard)
        else:
            rows, errors = rows + counts[0], errors + counts[1]
    return Found(sorted([*missing, *damaged]), damaged, rows, errors)


def _counts(plan: Plan, shard: int) -> tuple[int, int] | None:
    """Return the rows of a part and those with an error; None where it is not whole, or not of this shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    part, job = plan.part(shard), plan.job(shard)
    try:
        with part.open("rb") as stream:
            end = pq.read_metadata(stream)
        names = end.schema.names
        groups = [end.row_group(number) for number in range(end.num_row_groups)]
        places = [group.column(names.index("row")).statistics for group in groups]
        span = (min(found.min for found in places), max(found.max for found in places))
        errors = [group.num_rows - group.column(names.index("error")).statistics.null_count for group in groups]
    except PermissionError as error:
        raise OutputError(f"{part}: cannot be read", got=error.strerror) from None
    except (pa.ArrowException, OSError, ValueError, AttributeError):  # torn; or no such columns, or nothing about them
        return None
    of_it = span == (job.first, job.first + job.count - 1)
    whole = end.num_rows == job.count or (plan.settings.mode == "scan" and end.num_rows > job.count)
    return (end.num_rows, sum(errors)) if of_it and whole else None
