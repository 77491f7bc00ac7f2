"""Files are written whole or not at all: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import OutputError


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, replacing what was there only when all of it is on disk.

    Raises:
        OutputError: the folder is missing, read-only or full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written", got=error.strerror or type(error).__name__) from None


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text, as `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))
