"""Isolation: an engine in a process of its own, so that what a hostile or damaged model does to it is an error line.

What comes in is what a loader of ``graphs`` takes; what goes out is a `Graph` like theirs, whose `run` asks the child
(``isolated_engine``). ``engines`` compares and checks what the child says exactly as it does a graph of this process.
Here is what only a parent can do: start it, set deadlines, cap every byte that comes back, and say how it died. What
the child gives up is in ``lockdown``; what that prevents on which system, in ``docs/isolation.md``.
"""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import EngineError, LeukoscopeError, UsageError
from .frames import HEAD, MAX_STATED_BYTES, Layer, pack
from .graphs import Graph, Tensor
from .json_reader import is_number, load_object
from .manifest import IOSpec

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from edge_runtime.isolated_engine import main; main()"
_KEPT = ("LD_LIBRARY_PATH",)  # of the environment: without it, an engine's libraries may not be found
_ADDED = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}  # no threads before it is locked in; little memory
_OUTPUT_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2}
_MAX_TENSORS = 64


@dataclass(frozen=True)
class Limits:
    """What an isolated engine may take.

    Attributes:
        spare_bytes: address space beyond what its package takes and four times the model's size.
        start_s: until the package is imported and the process locked in.
        load_s: until the model is loaded.
        run_s: for one inference.
        deaths: so often in a row, without an answer between, it may die or fall silent before it is started no more.
    """

    spare_bytes: int = 2**30
    start_s: float = 60.0
    load_s: float = 120.0
    run_s: float = 60.0
    deaths: int = 3


def load_isolated(
    engine: str, files: Mapping[str, bytes], threads: int, io: IOSpec, where: str, limits: Limits | None = None
) -> tuple[Graph, tuple[Layer, ...]]:
    """Load a model in a process of its own.

    Args:
        engine: of `engines.ENGINES`, installed.
        files: the model's, checked.
        threads: for one inference.
        io: what the model must look like; no more than its outputs need is ever read from the child.
        where: what errors call the model.
        limits: default: `Limits()`.

    Returns:
        The graph, not yet believed, and what holds the child in.

    Raises:
        UsageError: this system cannot do it.
        EngineError: the child died, said nothing in time or nonsense, or cannot load the model.
    """
    return _Isolated(engine, files, threads, io, where, limits or Limits()).graph()


def layers_here() -> tuple[Layer, ...]:
    """Try what holds on this machine, on a process that is thrown away.

    Raises:
        UsageError: this system cannot do it.
        EngineError: the trial failed.
    """
    return _enter(_Child("a trial"), None, 1, Limits())


class _Isolated:
    """A model and the child that runs it now; after a death, the next picture gets a new child."""

    def __init__(
        self, engine: str, files: Mapping[str, bytes], threads: int, io: IOSpec, where: str, limits: Limits
    ) -> None:
        self._engine, self._files, self._threads, self._io = engine, files, threads, io
        self._where, self._limits, self._deaths = where, limits, 0
        self._child: _Child | None = None
        self._spare_bytes = limits.spare_bytes + 4 * sum(map(len, files.values()))

    def graph(self) -> tuple[Graph, tuple[Layer, ...]]:
        child, layers, stated = self._start()
        self._child = child
        inputs, outputs = (_tensors(stated.get(side), child) for side in ("inputs", "outputs"))
        return Graph(inputs, outputs, self._run), layers

    def _start(self) -> tuple[_Child, tuple[Layer, ...], dict[str, Any]]:
        child = _Child(self._where)
        layers = _enter(child, self._engine, self._threads, Limits(self._spare_bytes, self._limits.start_s))
        asked = {"files": list(self._files)}
        stated, _ = child.ask(asked, list(self._files.values()), self._limits.load_s)
        if "error" in stated:
            raise child.failed("the isolated engine cannot load it", stated)
        return child, layers, stated

    def _run(
        self, input_name: str, output_names: tuple[str, str], pixels: npt.NDArray[np.uint8]
    ) -> list[npt.NDArray[Any]]:
        if self._deaths >= self._limits.deaths:
            times = f"{self._deaths} time{'s' * (self._deaths > 1)} in a row"
            raise EngineError(f"{self._where}: the engine died {times} and is not started again")
        io = self._io
        asked = {"input": input_name, "outputs": output_names, "shape": pixels.shape}
        most = (4 * io.classes, 4 * io.classes * io.map_height * io.map_width)
        self._deaths += 1  # unless it answers
        if self._child is None or self._child.ended:
            self._child = self._start()[0]
        child = self._child
        stated, blobs = child.ask(asked, [pixels.data.cast("B")], self._limits.run_s, most)
        self._deaths = 0
        if "error" in stated:
            raise EngineError(f"{self._where}: the isolated engine failed on a picture", got=_text(stated["error"]))
        described = stated.get("outputs")
        if not isinstance(described, list) or len(described) != 2 or len(blobs) != 2:
            raise child.nonsense()
        return [_array(about, blob, child) for about, blob in zip(described, blobs, strict=True)]


def _enter(child: _Child, engine: str | None, threads: int, limits: Limits) -> tuple[Layer, ...]:
    """Let a child import its engine and lock itself in."""
    asked = {"engine": engine, "threads": threads, "extra_bytes": limits.spare_bytes, "parent": os.getpid()}
    stated, _ = child.ask(asked, (), limits.start_s)
    if "error" in stated:
        raise child.failed("the isolated engine did not start", stated)
    match stated.get("layers"):
        case [*rows]:
            return tuple(_layer(row, child) for row in rows)
    raise child.nonsense()


def _layer(row: object, child: _Child) -> Layer:
    match row:
        case {"name": str(name), "held": bool(held), "detail": str(detail)}:
            return Layer(name, held, detail)
    raise child.nonsense()


def _tensors(rows: object, child: _Child) -> dict[str, Tensor]:
    if not isinstance(rows, list) or len(rows) > _MAX_TENSORS:
        raise child.nonsense()
    return {tensor.name: tensor for tensor in (_tensor(row, child) for row in rows)}


def _tensor(row: object, child: _Child) -> Tensor:
    match row:
        case {"name": str(name), "shape": [*shape], "dtype": str(dtype), "scale": scale, "zero_point": int(zero)}:
            sides = all(side is None or isinstance(side, int | str) for side in shape)
            if sides and (scale is None or is_number(scale)):
                return Tensor(name, tuple(shape), dtype, scale, zero)
    raise child.nonsense()


def _array(about: object, blob: bytes, child: _Child) -> npt.NDArray[Any]:
    """Return an output, of the shape and type that the child says it has if its bytes are as many."""
    match about:
        case {"dtype": str(dtype), "shape": [*shape]} if dtype in _OUTPUT_BYTES:
            whole = all(isinstance(side, int) and side > 0 for side in shape)
            if whole and math.prod(shape) * _OUTPUT_BYTES[dtype] == len(blob):
                return np.frombuffer(blob, dtype).reshape(shape)
    raise child.nonsense()


def _text(value: object) -> str:
    return str(value)[:400]


class _Child:
    """One child process. When it is dropped, or this process ends in whatever way, it ends too."""

    def __init__(self, where: str) -> None:
        if not hasattr(os, "fork") or not hasattr(select, "poll"):
            raise UsageError("isolation is not possible on this system", got=sys.platform, expected="Linux or macOS")
        if not sys.executable:
            raise UsageError("isolation needs a Python of its own", got="a program with Python inside")
        self._where = where
        here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        command = [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, here, *map(os.path.abspath, sys.path)]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _ADDED
        self._process, self._keeper = _start_kept(command, environment)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._end = weakref.finalize(self, _end, self._process)

    @property
    def ended(self) -> bool:
        """Whether it can answer no more."""
        return not self._end.alive

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
        if self.ended:
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
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        less = "; it may have run out of memory" if status in (-signal.SIGKILL, -signal.SIGABRT) else ""
        return EngineError(f"{self._where}: the engine died on this model ({how}{less})")

    def nonsense(self) -> EngineError:
        """End it and return the error for an answer that is none."""
        self._end()
        return EngineError(f"{self._where}: the isolated engine answers nonsense")

    def failed(self, what: str, stated: dict[str, Any]) -> EngineError:
        """End it and return the error that it told of."""
        self._end()
        return EngineError(f"{self._where}: {what}", got=_text(stated["error"]))


def _start_kept(
    command: Sequence[str], environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """Start a child from a thread that lives as long as the child, and waits for it.

    The kernel ends the child with the thread that started it; and a child that somebody waits for is never a zombie.
    """
    begun: SimpleQueue[subprocess.Popen[bytes] | OSError] = SimpleQueue()

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
        except OSError as error:
            begun.put(error)
            return
        begun.put(child)
        child.wait()

    keeper = threading.Thread(target=keep, name="isolated-engine", daemon=True)
    keeper.start()
    found = begun.get()
    if isinstance(found, OSError):
        raise EngineError("the isolated engine cannot be started", got=found.strerror or type(found).__name__)
    return found, keeper


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.kill()
