"""A crew: worker processes that are started again when they die, so that a picture costs itself and nothing else.

What comes in are jobs; what goes out, shard by shard in the order they are finished, is what became of them. A shard
whose worker died is tried again. A picture that `DEATHS` workers died of, or had in hand for too long, is given up: it
gets a row with ``error`` and is not opened again. Pictures are known here by their place in the list only.
"""

from __future__ import annotations

import collections
import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

from ..endings import ending
from ..errors import EngineError, OutputError
from ..files import leftovers
from .plan import Job, Plan
from .shard import NOTHING, Done
from .worker import DONE, FAILED, NOTE, command

DEATHS = 2
"""So many workers may die of a picture. One death may be another's fault: the kernel's choice where memory is short."""

EMPTY_DEATHS = 3
"""So many workers may die over a shard without a picture in hand: while they start, or write."""

DEATHS_IN_A_ROW = 30
"""So many may die before a shard is finished again; then something is wrong with all of it."""

IDLE_S = 120.0
"""So long, or as long as for a picture, a worker may have a shard and no picture in hand: it starts, or writes."""

AWAY_S = 5.0
"""Who did not look for so long was stopped (Ctrl-Z), its workers as well: that time is not theirs."""

_LOOK_S = 0.5
_READ_BYTES = 1 << 16


class Crew:
    """Keeps workers at work. One thread uses it; `close` it at the end."""

    def __init__(self, plan: Plan, workers: int, patience_s: float, node: str | None = None) -> None:
        """Start nothing yet.

        Args:
            plan: of the archive.
            workers: processes, at least 1.
            patience_s: a picture, or a tile of one, that takes longer than this is a death of its worker.
            node: of a cluster, this one.
        """
        self._plan, self._count, self._patience_s = plan, workers, patience_s
        brief = replace(plan, offsets=())  # a job says where its names begin
        self._setup = json.dumps({"out": str(plan.out), "plan": brief.to_json(), "node": node})
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._of_picture: collections.Counter[int] = collections.Counter()
        self._of_shard: collections.Counter[int] = collections.Counter()
        self._in_a_row = 0
        self.deaths = 0
        """Of workers, so far."""

    @property
    def in_hand(self) -> int:
        """Pictures of unfinished shards that are behind."""
        return sum(worker.behind for worker in self._workers)

    def run(self, jobs: Iterator[Job]) -> Iterator[Done | None]:
        """Do jobs.

        Args:
            jobs: taken as workers become free.

        Yields:
            What became of a shard; and None, twice a second at least, so that who waits can say how far it is.

        Raises:
            OutputError: a part cannot be written.
            EngineError: workers do nothing but die.
        """
        again: collections.deque[Job] = collections.deque()
        looked_s = time.monotonic()
        while True:
            while (worker := self._free()) is not None:
                job = again.popleft() if again else next(jobs, None)
                if job is None:
                    break
                worker.give(job)
            if not any(worker.job for worker in self._workers):
                return
            for key, _ in self._selector.select(_LOOK_S):
                worker = key.data
                yield from worker.read()
                if worker.failed is not None:
                    raise OutputError(worker.failed)
                if worker.ended:
                    self._bury(worker, again)
                elif worker.job is None:
                    self._in_a_row = 0
            before_s, looked_s = looked_s, time.monotonic()
            for worker in self._workers:
                worker.look()
                if looked_s - before_s > AWAY_S:
                    worker.since_s = looked_s
                limit_s = self._patience_s if worker.hand is not None else max(self._patience_s, IDLE_S)
                if worker.job is not None and looked_s - worker.since_s > limit_s:
                    worker.end(f"the limit of {limit_s:g} seconds")
            yield None

    def _free(self) -> _Worker | None:
        for worker in self._workers:
            if worker.job is None:
                return worker
        if len(self._workers) == self._count:
            return None
        worker = _Worker(self._setup)
        self._workers.append(worker)
        self._selector.register(worker.descriptor, selectors.EVENT_READ, worker)
        return worker

    def _bury(self, worker: _Worker, again: collections.deque[Job]) -> None:
        """Take what a dead worker had in hand back, and learn from it."""
        self._selector.unregister(worker.descriptor)
        self._workers.remove(worker)
        worker.look()
        why, job, place = worker.why(), worker.job, worker.hand
        worker.close()
        if job is None:  # it had nothing to do
            return
        for file in leftovers(self._plan.part(job.shard)):
            file.unlink(missing_ok=True)
        self.deaths += 1
        self._in_a_row += 1
        deadly = self._of_picture if place is not None else self._of_shard
        key = job.shard if place is None else place
        deadly[key] += 1
        if (place is None and deadly[key] >= EMPTY_DEATHS) or self._in_a_row >= DEATHS_IN_A_ROW:
            raise EngineError(
                "worker processes die again and again", got=f"ended by {why}", todo="is memory short? fewer --workers"
            )
        if place is not None and deadly[key] >= DEATHS:
            job = replace(job, given_up={**job.given_up, place: f"given up after {DEATHS} tries, ended by {why}"})
        again.append(job)

    def close(self) -> None:
        """End all workers; a shard that is not finished is lost, and nothing else."""
        for worker in self._workers:
            worker.end("us")
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._selector.close()


class _Worker:
    """One process, as seen from outside.

    Attributes:
        job: that it works on; None: it waits for one.
        hand: place of the picture in hand; None: none is.
        behind: pictures of the job that are behind.
        since_s: when it got the job, or a new note was seen last, seconds of the monotonic clock.
        failed: the line why it cannot go on.
        ended: its pipe is closed.
    """

    def __init__(self, setup: str) -> None:
        self._note = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `close` does
        self._process = subprocess.Popen(
            command(self._note.fileno()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(self._note.fileno(),),
        )
        self.job: Job | None = None
        self.hand: int | None = None
        self.behind = 0
        self.since_s = 0.0
        self.failed: str | None = None
        self.ended = False
        self._rest, self._why, self._seen = b"", "", b""
        self._write(setup)

    @property
    def descriptor(self) -> int:
        """Of what it says."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def give(self, job: Job) -> None:
        """Let it work on a shard."""
        self._seen = self._noted()  # of the shard before; it writes nothing until it has this one
        self.job, self.hand, self.behind, self.since_s = job, None, 0, time.monotonic()
        self._write(job.to_json())

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:  # it is dead; reading will show
            return

    def read(self) -> Iterator[Done]:
        """Read what it has said: its shard, where that is finished."""
        said = os.read(self.descriptor, _READ_BYTES)
        self.ended = not said
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            kind, text = chr(line[0]), line[1:].decode()
            if kind == FAILED:
                self.failed = text
            elif kind == DONE:
                self.job, self.hand, self.behind = None, None, 0
                yield Done(**json.loads(text))

    def look(self) -> None:
        """Read what it has in hand."""
        noted = self._noted()
        if self.job is None or noted == self._seen:
            return
        self._seen, self.since_s = noted, time.monotonic()
        place, _ = NOTE.unpack(noted)
        self.hand = None if place == NOTHING else place
        self.behind = self.job.count if place == NOTHING else place - self.job.first

    def _noted(self) -> bytes:
        return os.pread(self._note.fileno(), NOTE.size, 0)

    def end(self, why: str) -> None:
        """Kill it."""
        self._why = self._why or why
        self._process.kill()

    def why(self) -> str:
        """Say what ended it."""
        status = self._process.wait()
        return self._why or ending(status)

    def close(self) -> None:
        """Wait for its end and close the pipes."""
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._note):
            if stream is not None:
                stream.close()
