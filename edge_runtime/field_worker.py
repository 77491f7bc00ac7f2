"""A field worker: a process that looks for the cells of pictures, one after another. ``field_workers`` starts it.

What comes in, through a socket, are a `Setup` and then pictures; what goes out are messages, each a letter and a
pickled value: a `FieldScan` per part of a picture, and what became of it. Pickle, since both sides are one user's
processes and run this very file, and since answers must be the same bit for bit; nothing of it is ever stored. A worker
ends with who started it, whatever it does then.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING

from .bundle import Bundle
from .classifier import Classifier
from .errors import EngineError, ImageError, LeukoscopeError
from .scan import Judge, Scanner

if TYPE_CHECKING:
    from .tiles import Tile

OPEN, TILES, TILE, PART, DONE, FAILED = b"O", b"T", b"t", b"P", b"D", b"F"
"""How a message begins: the model is open; the tiles of a wide picture, each as it is begun; a `FieldScan`; the picture
is done; or it failed, with an error's class and text."""

LAST = (DONE, FAILED)
"""After which a worker waits for the next picture."""

START = "import sys; sys.path[:] = sys.argv[2:]; from edge_runtime.field_worker import main; main(int(sys.argv[1]))"
"""The program, with this process's own import path: no other copy of us is met."""

Say = Callable[[bytes, object], None]


@dataclass(frozen=True)
class Setup:
    """What a worker is told at its start; `bundle` is open, its files are checked again when they are read."""

    bundle: Bundle
    engine: str
    threads: int
    isolate: bool
    um_per_px: float | None
    judge: Judge | None


def main(descriptor: int) -> None:
    """Look at pictures until who started this process has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started us decides what becomes of it
    link = Connection(descriptor)
    jobs: SimpleQueue[tuple[str, str]] = SimpleQueue()
    setup: Setup = pickle.loads(link.recv_bytes())
    threading.Thread(target=_listen, args=(link, jobs), daemon=True).start()

    def say(kind: bytes, value: object) -> None:
        link.send_bytes(kind + pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    try:
        _serve(setup, jobs, say)
    finally:
        os._exit(1)  # not by the ordinary way, which would wait for the thread that listens


def _listen(link: Connection, jobs: SimpleQueue[tuple[str, str]]) -> None:
    """Take what comes, and end with it at once: also over a picture that takes long, or never ends."""
    try:
        while True:
            jobs.put(link.recv())
    finally:
        os._exit(0)


def _serve(setup: Setup, jobs: SimpleQueue[tuple[str, str]], say: Say) -> None:
    try:
        opened = Classifier.open(setup.bundle, setup.engine, setup.threads, isolate=setup.isolate)
    except Exception as error:  # noqa: BLE001 - the next worker would fare no better; the line says what it was
        said = str(error) if isinstance(error, LeukoscopeError) else f"{type(error).__name__}: {error}"
        say(FAILED, (EngineError, said))
        return
    scanner = Scanner(replace(opened, aside=None), setup.um_per_px, setup.judge)  # others use the other cores

    def progress(tiles: Sequence[Tile]) -> Iterable[Tile]:
        say(TILES, tiles)
        for tile in tiles:
            say(TILE, None)
            yield tile

    say(OPEN, None)
    while True:
        path, name = jobs.get()
        try:
            for field in scanner.looks(path, name, progress):
                say(PART, field)
        except (ImageError, EngineError) as error:
            say(FAILED, (type(error), str(error)))  # not itself: what was got may be anything
        except ConnectionError:  # nobody listens any more: not the picture's fault
            raise
        except MemoryError:
            say(FAILED, (ImageError, f"{name}: too large for this machine's memory"))
        except Exception as error:  # noqa: BLE001 - nobody sees this process's traceback; the line says what it was
            say(FAILED, (EngineError, f"its worker failed: {type(error).__name__}: {error}"))
        else:
            say(DONE, None)
