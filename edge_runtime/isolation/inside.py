"""Inside: what an isolated engine's process does. It loads a model nobody vouches for, after it has locked itself in.

What comes in on standard input, frame by frame (see ``frames``), are the engine's name and limits, then the model's
files, then pixels; what goes out on standard output are the layers that hold, what the model says of itself, and raw
outputs. The engine's package is imported first, then the process is locked in (see ``lockdown``), and only then comes
the first byte of the model. It ends when its input does. ``child`` starts it and believes nothing it says.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any, BinaryIO

from ..errors import LeukoscopeError
from . import Layer
from .frames import receive, send
from .lockdown import lock_in


def main() -> None:
    """Serve the parent until it has gone."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # what an engine prints is no reply
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    with suppress(EOFError, BrokenPipeError):  # the parent has gone
        _serve(requests, replies)
    os._exit(0)  # an engine's own farewells are of no use, and some of them fail in here


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    asked, _ = receive(requests)
    try:
        layers = _enter(asked)
    except Exception as error:  # noqa: BLE001 - engines' packages raise anything
        send(replies, _failure(error))
        return
    send(replies, {"layers": [asdict(layer) for layer in layers]})
    if asked["engine"] is None:  # only to see what holds here
        return
    stated, contents = receive(requests)
    try:
        from ..engines import ENGINES

        files = dict(zip(stated["files"], contents, strict=True))
        graph = ENGINES[asked["engine"]].load(files, asked["threads"])
        del files, contents
        send(
            replies,
            {side: [asdict(tensor) for tensor in getattr(graph, side).values()] for side in ("inputs", "outputs")},
        )
    except Exception as error:  # noqa: BLE001 - engines raise anything on a malformed model
        send(replies, _failure(error))
        return
    import numpy as np

    while True:
        stated, (pixels,) = receive(requests)
        batch = np.frombuffer(pixels, np.uint8).reshape(stated["shape"])
        try:
            outputs = [np.ascontiguousarray(o) for o in graph.run(stated["input"], tuple(stated["outputs"]), batch)]
        except Exception as error:  # noqa: BLE001 - engines raise anything
            send(replies, _failure(error))
            continue
        described = [{"dtype": output.dtype.name, "shape": output.shape} for output in outputs]
        send(replies, {"outputs": described}, [output.tobytes() for output in outputs])


def _enter(asked: dict[str, Any]) -> tuple[Layer, ...]:
    """Import the engine's package and lock this process in."""
    readable = [os.path.dirname(os.__file__)]  # Python's own modules: some are imported only when needed
    if asked["engine"] is not None:
        from ..engines import ENGINES
        from ..graphs import import_engine

        package = ENGINES[asked["engine"]].module
        readable.extend(import_engine(package).__path__)
        if package in _INSIDE:
            import_engine(_INSIDE[package])
    return lock_in(readable, asked["extra_bytes"], asked["parent"])


_INSIDE = {"ai_edge_litert": "ai_edge_litert.interpreter", "tflite_runtime": "tflite_runtime.interpreter"}
"""Where the part of a package is that runs models, if not in the package itself."""


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, LeukoscopeError):
        return {"error": str(error)}
    text = " ".join(str(error).split())[:300]
    return {"error": f"{type(error).__name__}: {text}" if text else type(error).__name__}
