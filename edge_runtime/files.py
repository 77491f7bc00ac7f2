"""Files are written whole or not at all: to a temporary name beside the target, then renamed.

A program that is killed in between leaves the old file as it was, and nobody ever reads half of a new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError


def temporary_name(path: Path, host: str = "") -> Path:
    """Return this process's temporary name for a file, beside it: several processes may write the same one at once.

    Args:
        path: of the file.
        host: what tells this machine from others that write there.
    """
    return path.with_name(f".{path.name}.{host}{os.getpid()}.part")


def leftovers(path: Path) -> list[Path]:
    """Return what any process that was killed while it wrote the file has left."""
    return list(path.parent.glob(f".{path.name}.*.part"))


@contextmanager
def write_whole(path: Path, host: str = "") -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when the block ends without an exception.

    Args:
        path: of the file; its folder must exist.
        host: as of `temporary_name`.

    Yields:
        A binary stream.

    Raises:
        OutputError: the folder is missing, read-only or full, or the name is a folder's.
    """
    temporary = temporary_name(path, host)
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _force_names(path.parent)
    except BrokenPipeError:  # of somebody's standard output, not of this file
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written", got=error.strerror or type(error).__name__) from None
    finally:
        _remove(temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, replacing what was there only when all of it is on disk.

    Raises:
        OutputError: the folder is missing, read-only or full.
    """
    with write_whole(path) as stream:
        stream.write(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text, as `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


def make_folder(path: Path) -> None:
    """Make a folder and its parents unless they are there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made", got=error.strerror or type(error).__name__) from None


def require_writable(folder: Path) -> None:
    """Write an empty file to a folder that is there and remove it: who has long to work asks before, not after.

    Raises:
        OutputError: nothing can be written there.
    """
    trial = temporary_name(folder / "trial")
    try:
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written", got=error.strerror or type(error).__name__) from None


def _force_names(folder: Path) -> None:
    """Put a new name on the medium, too: without power, a file that is whole must not vanish again."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # it may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError:  # a file system that cannot
        return
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:  # the folder itself is gone or read-only: its error has been raised already
        return
