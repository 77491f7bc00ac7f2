"""A worker: a process that answers shards. It dies alone: what it had in hand can be read after it, however it ended.

What comes in, on standard input, is a line with the archive and then a line per shard; what goes out, on standard
output, is a line per shard that begins with what it is (`DONE`, `FAILED`). Before each picture its place is noted in an
open file that both sides have: that costs a few microseconds and wakes nobody, so many workers can be led by one
process. A worker ends with who started it, whatever it does then.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable
from importlib.abc import MetaPathFinder

DONE, FAILED = "=", "!"
"""What follows: the facts of a shard, JSON; or the one line why no part can be written."""

NOTE = struct.Struct("<qq")
"""Place in the list of the picture in hand, or `shard.NOTHING`; and how often that was noted."""

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edge_runtime.archive.worker import main; main()"


def command(note: int) -> list[str]:
    """Return the command that starts one, with this process's own import path: no other copy of us is met.

    Args:
        note: descriptor of the file that takes the notes; the process must inherit it.
    """
    return [sys.executable, "-c", START, json.dumps(sys.path), str(note)]


def main() -> None:
    """Answer what comes until nothing does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started us decides what becomes of it
    threading.Thread(target=_follow, daemon=True).start()
    sys.meta_path.insert(0, _NoPandas())
    out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # whatever an engine prints must not stand between our lines
    os.close(nowhere)

    def say(kind: str, text: object) -> None:
        os.write(out, f"{kind}{text}\n".encode(errors="backslashreplace"))  # the name of a folder need not be UTF-8

    try:
        _serve(say, int(sys.argv[2]))
    except BrokenPipeError:
        raise SystemExit(1) from None


class _NoPandas(MetaPathFinder):
    """Keeps pandas out: where it is, pyarrow imports it to see whether a list is its; 50 MB and half a second."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Refuse pandas; of the others nothing is known here."""
        if fullname == "pandas":
            raise ModuleNotFoundError("not wanted here", name=fullname)


def _follow() -> None:
    """End with the process that started this one: a picture that hangs must not keep an orphan alive."""
    starter = select.poll()
    starter.register(0, 0)  # nothing but the end of standard input, whose other side that process alone has
    starter.poll()
    os._exit(1)


def _serve(say: Callable[[str, object], None], note: int) -> None:
    from pathlib import Path

    from ..errors import LeukoscopeError
    from .plan import Job, parse_plan
    from .shard import Shards

    times = itertools.count()

    def tell(place: int) -> None:
        os.pwrite(note, NOTE.pack(place, next(times)), 0)

    try:
        setup = json.loads(sys.stdin.buffer.readline())
        shards = Shards(parse_plan(setup["plan"], Path(setup["out"])), setup["node"])
        for line in sys.stdin.buffer:
            done = shards.write(Job.from_json(line.decode()), tell)
            say(DONE, json.dumps(done.to_dict()))
    except BrokenPipeError:
        raise
    except LeukoscopeError as error:
        say(FAILED, error)
    except Exception as error:  # noqa: BLE001 - nobody sees this process's traceback; the line says what it was
        say(FAILED, " ".join(f"{type(error).__name__}: {error}".split()))
