"""A worker: a process that answers shards. It dies alone: what it had in hand is in its pipe, to be read.

What comes in, on standard input, is a line with the archive and then a line per shard; what goes out, on standard
output, are lines that begin with what they are (`HAND`, `DONE`, `FAILED`). The pipe is kept by the kernel, so the last
place in hand can be read however the process ended. It ends within a second of who started it, whatever it does then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder

HAND, DONE, FAILED = "+", "=", "!"
"""A picture's place in the list follows; the facts of a shard, JSON; the one line why no part can be written."""

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edge_runtime.archive.worker import main; main()"


def command() -> list[str]:
    """Return the command that starts one, with this process's own import path: no other copy of us is met."""
    return [sys.executable, "-c", START, json.dumps(sys.path), str(os.getpid())]


def main() -> None:
    """Answer what comes until nothing does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started us decides what becomes of it
    threading.Thread(target=_follow, args=(int(sys.argv[2]),), daemon=True).start()
    sys.meta_path.insert(0, _NoPandas())
    out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # whatever an engine prints must not stand between our lines
    os.close(nowhere)

    def say(kind: str, text: object) -> None:
        os.write(out, f"{kind}{text}\n".encode())

    try:
        _serve(say)
    except BrokenPipeError:
        raise SystemExit(1) from None


class _NoPandas(MetaPathFinder):
    """Keeps pandas out: where it is, pyarrow imports it to see whether a list is its; 50 MB and half a second."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Refuse pandas; of the others nothing is known here."""
        if fullname == "pandas":
            raise ModuleNotFoundError("not wanted here", name=fullname)


def _follow(starter: int) -> None:
    """End with the process that started this one: a picture that hangs must not keep an orphan alive."""
    while os.getppid() == starter:
        time.sleep(1.0)
    os._exit(1)


def _serve(say: Callable[[str, object], None]) -> None:
    from pathlib import Path

    from ..errors import LeukoscopeError
    from .plan import Job, parse_plan
    from .shard import Shards

    try:
        setup = json.loads(sys.stdin.buffer.readline())
        shards = Shards(parse_plan(setup["plan"], Path(setup["out"])), setup["node"])
        for line in sys.stdin.buffer:
            done = shards.write(Job.from_json(line.decode()), lambda place: say(HAND, place))
            say(DONE, json.dumps(done.to_dict()))
    except BrokenPipeError:
        raise
    except LeukoscopeError as error:
        say(FAILED, error)
    except Exception as error:  # noqa: BLE001 - nobody sees this process's traceback; the line says what it was
        say(FAILED, " ".join(f"{type(error).__name__}: {error}".split()))
