"""Child: the process of an isolated engine, seen from its parent: questions into one pipe, answers out of another.

What comes in is a frame and a deadline; what goes out is the frame that answers it, or an `EngineError`: it died, was
too slow, or sent what is no frame. Every byte is counted before memory is taken for it. What the answers mean is for
``graph``; the other side is ``inside``.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..endings import ending
from ..errors import EngineError, LeukoscopeError, UsageError
from ..json_reader import load_object
from .frames import HEAD, MAX_STATED_BYTES, pack

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from edge_runtime.isolation.inside import main; main()"
_KEPT = ("LD_LIBRARY_PATH",)  # of the environment: without it, an engine's libraries may not be found
_ADDED = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}  # no threads before it is locked in; little memory


class Child:
    """One child process. When it is dropped, or this process ends in whatever way, it ends too."""

    def __init__(self, where: str) -> None:
        if not hasattr(os, "fork") or not hasattr(select, "poll"):
            raise UsageError("isolation is not possible on this system", got=sys.platform, expected="Linux or macOS")
        if not sys.executable:
            raise UsageError("isolation needs a Python of its own", got="a program with Python inside")
        self._where = where
        here = str(Path(__file__).absolute().parents[2])
        command = [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, here, *map(os.path.abspath, sys.path)]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _ADDED
        self._process, self._keeper = _start_kept(command, environment)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._owner = os.getpid()
        self._end = weakref.finalize(self, _end, self._process, self._owner)

    @property
    def ended(self) -> bool:
        """Whether it can answer no more; nor does it where a program was forked: two would read from one pipe."""
        died = self._process.returncode is not None  # while nobody asked: the kernel needed its memory, say
        return died or not self._end.alive or os.getpid() != self._owner

    def ask(
        self, stated: dict[str, Any], blobs: Sequence[bytes | memoryview], seconds: float, most: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a frame and return the one that answers it.

        Args:
            stated: what JSON takes.
            blobs: bytes that follow.
            seconds: until the whole answer must be there.
            most: how many bytes each blob of the answer may have; it has so many, or none.

        Raises:
            EngineError: it died, was too slow or answered nonsense; in any case it is gone.
        """
        if not self._end.alive:
            raise EngineError(f"{self._where}: the isolated engine has ended")
        until = time.monotonic() + seconds
        try:
            for part in (pack(stated, blobs), *blobs):
                self._write(memoryview(part), until)
            (length,) = HEAD.unpack(self._read(HEAD.size, until))
            if length > MAX_STATED_BYTES:
                raise self.nonsense()
            answer = load_object(self._read(length, until), "answer", MAX_STATED_BYTES)
            sizes = answer.get("sizes")
            if not isinstance(sizes, list) or (sizes and len(sizes) != len(most)):
                raise self.nonsense()
            for size, cap in zip(sizes, most, strict=False):
                if not isinstance(size, int) or not 0 <= size <= cap:
                    raise self.nonsense()
            return answer, [self._read(size, until) for size in sizes]
        except EngineError:
            raise
        except LeukoscopeError:  # of `load_object`: no JSON
            raise self.nonsense() from None
        except TimeoutError:
            self._end()
            todo = "a model that never ends, or a machine too slow for it"
            raise EngineError(f"{self._where}: the engine gave no answer in {seconds:g} s", todo=todo) from None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._death() from None
        except BaseException:  # interrupted half-way: what is in the pipes now belongs to no question
            self._end()
            raise

    def _write(self, part: memoryview, until: float) -> None:
        while part:
            self._wait(self._in, select.POLLOUT, until)
            try:
                part = part[os.write(self._in, part) :]
            except BlockingIOError:
                continue

    def _read(self, size: int, until: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait(self._out, select.POLLIN, until)
            chunk = os.read(self._out, size - len(found))
            if not chunk:
                raise EOFError
            found += chunk
        return bytes(found)

    def _wait(self, descriptor: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left_s = until - time.monotonic()
        if left_s <= 0 or not poll.poll(1000 * left_s):
            raise TimeoutError

    def _death(self) -> EngineError:
        self._keeper.join(5)  # the pipes close a moment before the process has ended
        status = self._process.returncode
        self._end()
        if status is None:
            return EngineError(f"{self._where}: the engine hung up")
        how = ending(status)
        less = "; it may have run out of memory" if status in (-signal.SIGKILL, -signal.SIGABRT) else ""
        return EngineError(f"{self._where}: the engine died on this model ({how}{less})")

    def nonsense(self) -> EngineError:
        """End it and return the error for an answer that is none."""
        self._end()
        return EngineError(f"{self._where}: the isolated engine answers nonsense")

    def failed(self, what: str, stated: dict[str, Any]) -> EngineError:
        """End it and return the error that it told of."""
        self._end()
        return EngineError(f"{self._where}: {what}", got=stated["error"])


def _start_kept(
    command: Sequence[str], environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """Start a child from a thread that lives as long as the child, and waits for it.

    The kernel ends the child with the thread that started it; and a child that somebody waits for is never a zombie.
    """
    begun: SimpleQueue[subprocess.Popen[bytes] | Exception] = SimpleQueue()

    def keep() -> None:
        pipe = subprocess.PIPE
        try:
            child = subprocess.Popen(  # a session of its own: Ctrl-C is for this process, which then ends the child
                command,
                bufsize=0,
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is: who waits must hear of it
            begun.put(error)
            return
        begun.put(child)
        child.wait()

    keeper = threading.Thread(target=keep, name="isolated-engine", daemon=True)
    try:
        keeper.start()
    except RuntimeError as error:  # a limit of threads
        raise EngineError("the isolated engine cannot be started", got=error) from None
    try:
        found = begun.get()
    except BaseException:  # interrupted: nobody would ever end what has been started meanwhile
        if not isinstance(late := begun.get(), Exception):
            _end(late, os.getpid())
        raise
    if isinstance(found, Exception):
        got = getattr(found, "strerror", None) or str(found) or type(found).__name__
        raise EngineError("the isolated engine cannot be started", got=got)
    return found, keeper


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    if os.getpid() == owner:  # not where a program was forked later: the child is not that one's to end
        process.kill()
