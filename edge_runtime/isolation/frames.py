"""Frames: what an isolated engine and its parent send each other through two pipes.

A frame is four bytes (the length of a JSON object, little-endian), that object, and the bytes it announces as
``sizes``. Nothing is pickled. The child reads with `receive`, for its parent can be trusted; the parent believes
nothing, waits for nothing without a deadline, and so reads in ``child``. Standard library only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

HEAD = struct.Struct("<I")

MAX_STATED_BYTES = 64 * 1024
"""Longest JSON object of a frame."""


def pack(stated: dict[str, Any], blobs: Sequence[bytes | memoryview] = ()) -> bytes:
    """Return the first part of a frame: everything but the blobs, which follow it as they are."""
    text = json.dumps({**stated, "sizes": [len(blob) for blob in blobs]}).encode()
    return HEAD.pack(len(text)) + text


def send(stream: BinaryIO, stated: dict[str, Any], blobs: Sequence[bytes | memoryview] = ()) -> None:
    """Write a frame."""
    stream.write(pack(stated, blobs))
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    """Read a frame from whom one trusts.

    Raises:
        EOFError: the other side has gone.
    """
    (length,) = HEAD.unpack(_exactly(stream, HEAD.size))
    stated: dict[str, Any] = json.loads(_exactly(stream, length))
    return stated, [_exactly(stream, size) for size in stated["sizes"]]


def _exactly(stream: BinaryIO, size: int) -> bytes:
    found = stream.read(size)
    if len(found) != size:
        raise EOFError
    return found
