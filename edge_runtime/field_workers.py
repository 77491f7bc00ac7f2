"""Field workers: processes that look for the cells of several pictures at once, for who wants the answers in order.

What comes in are pictures, handed over some ahead of their turn; what goes out is what `Scanner.looks` gives for each,
part by part, bit for bit the same but for the times. A worker takes the next picture when it is done with one; how far
it may be ahead of who counts is bounded, in pictures and in bytes. A picture that a worker dies over costs itself. The
other side is ``field_worker``: it gets the open, checked bundle of this process, so no other one can slip in.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from PIL import Image

from .demands import ANSWER_BYTES, FREE_BYTES, bytes_per_pixel
from .endings import ending
from .errors import EngineError, LeukoscopeError, UsageError
from .field_worker import FAILED, LAST, OPEN, PART, START, TILE, TILES, Setup
from .preprocess import FORMATS
from .room import room_bytes

if TYPE_CHECKING:
    from .scan import FieldScan, Progress, Scanner
    from .tiles import Tile

AHEAD = 2
"""Pictures per worker that should be handed over: one in hand, one done or next."""

AHEAD_BYTES = 16 * 2**20
"""Of one picture: so much may wait for its turn before its worker has to. A cell needs 150 kB."""

DEATHS = 3
"""So many in a row, without a picture finished between, end the work; so many times a worker may fail to start."""

DIED, LOST = b"X", b"L"
"""How a message begins that is not the worker's own: it died; or no other can be started."""


class WorkersError(LeukoscopeError):
    """Workers cannot be started, or do nothing but die: the other pictures would fare no better."""


class Handed:
    """A picture on its way: what a worker said of it and nobody has taken yet."""

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name
        self._said: deque[bytes] = deque()
        self._bytes, self._dropped, self._changed = 0, False, threading.Condition()

    def put(self, message: bytes) -> None:
        """Add a message, as soon as there is room for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._dropped or self._bytes < AHEAD_BYTES)
            self._said.append(message)
            self._bytes += len(message)
            self._changed.notify_all()

    def take(self) -> tuple[bytes, Any]:
        """Wait for the next message: how it begins, and what it says."""
        with self._changed:
            self._changed.wait_for(lambda: self._said)
            message = self._said.popleft()
            self._bytes -= len(message)
            self._changed.notify_all()
        return message[:1], pickle.loads(memoryview(message)[1:])

    def drop(self) -> None:
        """Let nobody wait for room: it is of no interest any more."""
        with self._changed:
            self._dropped = True
            self._changed.notify_all()


class FieldWorkers:
    """Worker processes, each led by a thread of this one. One thread uses it; `close` it at the end."""

    def __init__(self, scanner: Scanner, count: int) -> None:
        """Start nothing yet: a worker starts with its first picture.

        Args:
            scanner: what the workers shall be: the same bundle, engine, threads, isolation, scale and judge.
            count: of processes, at least 1.

        Raises:
            UsageError: this system cannot do it.
        """
        if os.name != "posix" or not sys.executable:
            raise UsageError("workers are not possible here", got=sys.platform, expected="Linux or macOS, and a Python")
        engine = scanner.classifier.engine
        self._setup = pickle.dumps(
            Setup(
                scanner.classifier.bundle,
                engine.name,
                engine.threads,
                engine.layers is not None,
                scanner.um_per_px,
                scanner.judge,
            )
        )
        self._count = count
        self.ahead = AHEAD * count
        """So many pictures should be handed over before the first is taken."""
        self._jobs: SimpleQueue[Handed | None] = SimpleQueue()
        self._out: deque[Handed] = deque()
        self._deaths, self._closed, self._changing = 0, False, threading.Lock()
        self._running: set[_Worker] = set()
        self._leaders = [threading.Thread(target=self._lead, name="field-worker", daemon=True) for _ in range(count)]
        for leader in self._leaders:
            leader.start()

    def has_room(self, path: str) -> bool:
        """Say whether memory has room for as many pictures like this one as there are workers.

        All of them may be decoded at once, and each is promised the same free memory.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own size warning
                with Image.open(path, formats=FORMATS) as picture:
                    needed = picture.width * picture.height * bytes_per_pixel(picture)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, who decodes it says so better
            return True
        if needed < FREE_BYTES:
            return True
        free = room_bytes()
        return free is None or self._count * (needed + ANSWER_BYTES) <= free

    def hand(self, path: str, name: str) -> Handed:
        """Hand a picture over. All that are handed must be taken, in the same order.

        Args:
            path: of a file; not of a pipe, which may be this process's own.
            name: what results and errors call it.
        """
        handed = Handed(path, name)
        self._out.append(handed)
        self._jobs.put(handed)
        return handed

    def take(self, handed: Handed, progress: Progress = iter) -> Iterator[FieldScan]:
        """Give what `Scanner.looks` gives, as it comes.

        Args:
            handed: the first one that was not taken yet.
            progress: as of `Scanner.looks`.

        Raises:
            ImageError: as of `Scanner.looks`.
            EngineError: as of that, or the worker died over this picture.
            WorkersError: there is no use in going on.
        """
        shown: Iterator[Tile] = iter(())
        kind = b""
        while kind not in LAST:
            kind, value = handed.take()
            if kind == PART:
                yield value
            elif kind == TILES:
                shown = iter(progress(value))
            elif kind == TILE:
                next(shown, None)
            elif kind == LOST:
                raise WorkersError(value)
            elif kind == DIED:
                self._out.popleft()
                raise self._death(*value)
        self._deaths = 0
        self._out.popleft()
        if kind == FAILED:
            error, text = value
            raise error(text)

    def _death(self, why: str, todo: str | None) -> LeukoscopeError:
        self._deaths += 1
        if self._deaths < DEATHS:
            return EngineError("its worker process died", got=why, todo=todo)
        got = f"{self._deaths} in a row, the last by {why}"
        return WorkersError("worker processes die again and again", got=got, todo=todo)

    def close(self) -> None:
        """End all workers, whatever they do."""
        with self._changing:
            self._closed = True
            for worker in self._running:
                worker.process.kill()
        for handed in self._out:
            handed.drop()
        for _ in self._leaders:
            self._jobs.put(None)
        for leader in self._leaders:
            leader.join()

    def _lead(self) -> None:
        """Lead one worker, and its successors: a picture at a time."""
        worker: _Worker | None = None
        while (handed := self._jobs.get()) is not None:
            try:
                worker = worker or self._started()
            except WorkersError as error:
                handed.put(LOST + pickle.dumps(str(error)))
                continue
            try:
                worker.link.send((handed.path, handed.name))
                message = b""
                while message[:1] not in LAST:
                    message = worker.link.recv_bytes()
                    handed.put(message)
            except (EOFError, OSError):  # it has gone, or was killed in the midst of a message
                handed.put(DIED + pickle.dumps(self._buried(worker)))
                worker = None
            except Exception as error:  # noqa: BLE001 - short memory, say; who waits must be told
                self._buried(worker)
                worker = None
                handed.put(LOST + pickle.dumps(f"a worker process cannot be heard: {type(error).__name__}: {error}"))
        if worker is not None:
            self._buried(worker)

    def _started(self) -> _Worker:
        """Start a worker and wait until it has opened its model."""
        what, why, todo = "worker processes cannot be started", "", None
        for _ in range(DEATHS):
            with self._changing:
                if self._closed:
                    break
                try:
                    worker = _Worker()
                except OSError as error:  # no more processes or files
                    got = error.strerror or type(error).__name__
                    raise WorkersError(what, got=got, todo="fewer --workers") from None
                self._running.add(worker)
            try:
                worker.link.send_bytes(self._setup)
                message = worker.link.recv_bytes()
            except (EOFError, OSError):
                why, todo = self._buried(worker)
                continue
            if message[:1] == OPEN:
                return worker
            self._buried(worker)
            raise WorkersError(what, got=pickle.loads(message[1:])[1])
        raise WorkersError(what, got=f"{why}, {DEATHS} times", todo=todo)

    def _buried(self, worker: _Worker) -> tuple[str, str | None]:
        """End a worker if it has not, and say what ended it and what to do."""
        with self._changing:
            self._running.discard(worker)
        worker.link.close()
        try:
            status = worker.process.wait(1.0)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        short = status in (-signal.SIGKILL, -signal.SIGABRT)
        return ending(status), "is memory short? fewer --workers" if short else None


class _Worker:
    """One process, and this side of what connects it. It ends when this side is closed, or gone with this process."""

    def __init__(self) -> None:
        self.link, theirs = Pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        finally:
            theirs.close()
