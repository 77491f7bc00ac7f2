"""A shard: its pictures in, one Parquet file out, whole or not at all. A picture that fails is a row, not an end.

What the rows say is in ``columns``. Rows leave memory in groups, so that a slide's cells need not fit in.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..classifier import Classifier
from ..errors import BundleError, EngineError, LeukoscopeError, OutputError
from ..files import write_whole
from .columns import Row, answer_row, error_row, scan_rows, schema, written
from .plan import Job, Plan, names_of

if TYPE_CHECKING:
    import pyarrow as pa

    from ..scan import Scanner

T = TypeVar("T")

GROUP_ROWS = 4096
"""Rows that are held and then written together."""

COMPRESSION = "zstd"

ENGINE_FAILURES = 30
"""So many pictures in a row may fail for the engine before the work ends: rows of nothing but errors help nobody."""

ISOLATED_FAILURES = 3
"""After so many in a row an isolated engine is not started again by itself, see `isolation.Limits`; so it is here."""

NOTHING = -1
"""Said instead of a picture's place when all of a shard are behind."""

Tell = Callable[[int], None]
"""Told the place of the picture in hand, with each picture and each tile of one."""


@dataclass(frozen=True)
class Done:
    """What became of a shard.

    Attributes:
        shard: its number.
        pictures: of its list.
        rows: in its part.
        errors: pictures that could not be answered.
        abstained: rows with a label that the model declined to give.
        node: of the cluster, that did it; None on a machine alone.
    """

    shard: int
    pictures: int
    rows: int
    errors: int
    abstained: int
    node: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


class Shards:
    """Answers shards of one archive; the model is opened once."""

    def __init__(self, plan: Plan, node: str | None = None) -> None:
        """Open the model, with one thread: others use the other cores.

        Args:
            plan: the archive's.
            node: of the cluster, this one.

        Raises:
            BundleError: it is not the bundle of the plan.
            EngineError: the plan's engine is not here.
            OutputError: this is another version of the program.
        """
        from .. import __version__

        settings = plan.settings
        if settings.leukoscope != __version__:
            raise OutputError("another leukoscope here", got=__version__, expected=settings.leukoscope)
        self._plan, self._node, self._failures = plan, node, 0
        self._open()
        bundle = self._classifier.bundle
        if bundle.id != settings.bundle_id:
            raise BundleError(f"{settings.model}: another bundle here", got=bundle.id, expected=settings.bundle_id)
        self._schema: pa.Schema = schema(bundle, settings, node)

    def _open(self) -> None:
        from ..scan import Scanner

        settings = self._plan.settings
        opened = Classifier.open(settings.model, settings.engine, 1, isolate=settings.isolate)
        self._classifier = replace(opened, aside=None)  # a second thread would take another worker's core
        scanner = Scanner(self._classifier, settings.um_per_px) if settings.mode == "scan" else None
        self._rows: Callable[[int, str, Tell], Iterator[Row]] = (
            self._classified if scanner is None else partial(self._scanned, scanner)
        )

    def write(self, job: Job, tell: Tell) -> Done:
        """Answer a shard's pictures and write its part.

        Args:
            job: the shard.
            tell: see `Tell`.

        Raises:
            OutputError: the part cannot be written.
        """
        try:
            return self._write(job, tell)
        except OutputError as error:
            todo = error.todo or "make room; what is done stays done: run again"
            raise OutputError(error.what, got=error.got, expected=error.expected, todo=todo) from None

    def _write(self, job: Job, tell: Tell) -> Done:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, errors, abstained = 0, 0, 0
        held: list[Row] = []
        part = self._plan.part(job.shard)
        with (
            write_whole(part, f"{platform.node()}-") as stream,
            pq.ParquetWriter(stream, self._schema, compression=COMPRESSION) as writer,
        ):

            def flush() -> None:
                writer.write_batch(pa.RecordBatch.from_pylist(held, self._schema))
                held.clear()

            for row in self._all(job, tell):
                rows += 1
                errors += "error" in row
                abstained += bool(row.get("abstained"))
                held.append(row)
                if len(held) == GROUP_ROWS:
                    flush()
            tell(NOTHING)
            if held:
                flush()
        return Done(job.shard, job.count, rows, errors, abstained, self._node)

    def _all(self, job: Job, tell: Tell) -> Iterator[Row]:
        for place, name in enumerate(names_of(self._plan, job), job.first):
            if place in job.given_up:
                yield self._failed(place, name, f"{name}: {job.given_up[place]}")
                continue
            tell(place)
            try:
                yield from self._rows(place, name, tell)
                self._failures = 0
            except LeukoscopeError as error:
                self._count(error)
                said = str(error)  # one line; some name the picture, some do not
                for known in (self._path(name), name):
                    said = said.removeprefix(" ".join(known.split()))
                yield self._failed(place, name, name + (said if said.startswith(": ") else f": {said}"))
            except MemoryError:
                yield self._failed(place, name, f"{name}: too large for this machine's memory")
            except BrokenPipeError:  # nobody listens any more: not the picture's fault
                raise
            except Exception as error:  # noqa: BLE001 - one in a million must not cost the others; its row says it
                yield self._failed(place, name, f"{name}: {type(error).__name__}: {error}")

    def _count(self, error: LeukoscopeError) -> None:
        """Count failures of the engine in a row: one may be a picture's fault, many are its own.

        Raises:
            EngineError: there were `ENGINE_FAILURES`.
        """
        self._failures = self._failures + 1 if isinstance(error, EngineError) else 0
        if self._failures >= ENGINE_FAILURES:
            raise EngineError(f"the engine failed on {self._failures} pictures in a row", got=error)
        if self._failures and self._failures % ISOLATED_FAILURES == 0 and self._plan.settings.isolate:
            self._open()

    def _failed(self, place: int, name: str, error: str) -> Row:
        return error_row(place, name, error, self._classifier.bundle.id)

    def _path(self, name: str) -> str:
        return os.path.join(self._plan.settings.root, name)

    def _classified(self, place: int, name: str, _tell: Tell) -> Iterator[Row]:
        yield answer_row(place, name, self._classifier.classify(self._path(name), name))

    def _scanned(self, scanner: Scanner, place: int, name: str, tell: Tell) -> Iterator[Row]:
        from ..slides import is_slide, scan_slide

        path, parts = self._path(name), 0

        def ticking(tiles: Sequence[T]) -> Iterator[T]:
            for tile in tiles:
                tell(place)
                yield tile

        fields: Iterable[Any] = (
            scan_slide(scanner, path, ticking) if is_slide(path) else scanner.looks(path, name, ticking)
        )
        for part, field in enumerate(fields):
            parts += 1
            yield from scan_rows(place, name, part, field)
        if not parts:  # nothing but glass
            yield {"row": place, "path": written(name), "bundle_id": self._classifier.bundle.id}
