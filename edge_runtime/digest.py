"""SHA-256 in hexadecimal, without the weight of OpenSSL where that is felt.

``hashlib`` loads OpenSSL: 3.5 MB of memory, a twentieth of what a classification needs on a small device. Python
carries the same function without it, at a fifth of the speed; small contents take that one, large ones the fast one.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import BinaryIO

_SMALL_BYTES = 8 * 1024 * 1024
_LIGHT = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
"""Python's own, by its name in this version. The standard library's ``random`` takes it, too."""


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 lower-case hex digits."""
    for name in (_LIGHT if len(content) <= _SMALL_BYTES else "hashlib", "hashlib"):
        try:
            module = import_module(name)
        except ImportError:  # an interpreter built without it
            continue
        return str(module.sha256(content).hexdigest())
    raise ImportError("this Python has no SHA-256")


def sha256_hex_of_stream(stream: BinaryIO) -> str:
    """Return the SHA-256 of what a stream holds, which need not fit into memory."""
    import hashlib

    digest = hashlib.sha256()
    while chunk := stream.read(1024 * 1024):
        digest.update(chunk)
    return digest.hexdigest()
