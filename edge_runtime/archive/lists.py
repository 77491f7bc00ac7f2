"""Lists: which pictures an archive is of. A list's file or folders in, names out; no picture is opened.

Nothing here holds all names at a time: a list may be longer than memory. Names are kept as they are written, bytes that
are no UTF-8 included, so that each can be opened.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO, cast

from ..errors import UsageError
from ..pictures import STDIN, walk_pictures

COLUMN = "path"
"""Of a CSV or Parquet file, what holds the names."""

LOOKED_AT = 100
"""So many names from the front are tried: a list whose paths start elsewhere is refused, not answered with errors."""

_GZIP, _PARQUET, _BOM = b"\x1f\x8b", b"PAR1", b"\xef\xbb\xbf"
_ROWS_AT_ONCE = 10_000


def listed(file: str) -> Iterator[str]:
    """Read the names of a list.

    Args:
        file: one name per line (blank lines are passed over); CSV (by its suffix) or Parquet (by its first bytes) with
            a column `COLUMN`; text and CSV may be compressed with gzip; "-": text from standard input.

    Raises:
        UsageError: no such file, it cannot be read, or has no such column.
    """
    try:
        with ExitStack() as stack:
            if file == STDIN:
                if sys.stdin is None or sys.stdin.isatty():
                    raise UsageError("stdin: is a terminal", expected="one path per line")
                yield from _lines(sys.stdin.buffer)
                return
            stream = stack.enter_context(open(file, "rb"))
            start = stream.peek(4)[:4]
            if start == _PARQUET:
                yield from _parquet(stream, file)
                return
            plain: BinaryIO = stream
            if start[:2] == _GZIP:
                plain = cast(BinaryIO, stack.enter_context(gzip.open(stream)))
            table = file.lower().removesuffix(".gz").endswith(".csv")
            yield from _csv(plain, file) if table else _lines(plain)
    except (OSError, EOFError, zlib.error) as error:  # the latter two: of a damaged gzip file
        raise UsageError(f"{file}: cannot be read", got=getattr(error, "strerror", None) or error) from None


def _lines(stream: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(stream):
        name = (line.removeprefix(_BOM) if number == 0 else line).rstrip(b"\r\n")
        if name.strip():
            yield os.fsdecode(name)


def _csv(stream: BinaryIO, file: str) -> Iterator[str]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        table = csv.DictReader(text)
        if COLUMN not in (table.fieldnames or ()):
            raise _no_column(file, table.fieldnames or ())
        yield from (row[COLUMN] for row in table if row[COLUMN])
    except csv.Error as error:
        raise UsageError(f"{file}: no CSV", got=error) from None
    finally:
        text.detach()


def _parquet(stream: BinaryIO, file: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(stream)
        if COLUMN not in table.schema_arrow.names:
            raise _no_column(file, table.schema_arrow.names)
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[COLUMN]):
            names = batch.column(0).cast(pa.binary())  # as text, a name that is no UTF-8 could not be read
            yield from (os.fsdecode(name) for name in names.to_pylist() if name)
    except pa.ArrowException as error:
        raise UsageError(f"{file}: damaged Parquet", got=error) from None


def _no_column(file: str, names: Sequence[str]) -> UsageError:
    return UsageError(f"{file}: no column {COLUMN!r}", got=", ".join(names[:8]) or "no columns", expected=COLUMN)


def named(
    arguments: Iterable[str], on_error: Callable[[OSError], None], skip: str, suffixes: frozenset[str]
) -> Iterator[str]:
    """Give files as they are, and what is in folders and below, sorted within each.

    Args:
        arguments: files and folders.
        on_error: called for each folder below that cannot be listed.
        skip: folder that is left out: where results go.
        suffixes: of what is looked for in folders.
    """
    for argument in arguments:
        if os.path.isdir(argument):
            yield from walk_pictures(argument, on_error, skip, suffixes)
        else:
            yield argument


def of_this_place(names: Iterator[str], root: str) -> Iterator[str]:
    """Give the names on, after a look whether there is a file for any of the first ones.

    Args:
        names: from `listed` or `named`.
        root: folder that relative ones start from.

    Raises:
        UsageError: there are no names, or no file for any of the first `LOOKED_AT`.
    """
    first = list(itertools.islice(names, LOOKED_AT))
    if not first:
        raise UsageError("no pictures there")
    if not any(_there(os.path.join(root, name)) for name in first):
        raise UsageError(
            f"none of the first {len(first)} pictures is there",
            got=f"{first[0]} and so on" if len(first) > 1 else first[0],
            todo=f"relative paths start from {root}",
        )
    return itertools.chain(first, names)


def _there(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a zero byte in the name
        return False
