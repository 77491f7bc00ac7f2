"""Arrivals: the pictures that lie in a folder, and the content of one that has stood still.

What comes in is a folder; what goes out are names with a `Stamp` each, one at a time, however many there are, and the
bytes of a file together with the proof that nobody wrote to it meanwhile. Nothing is remembered here.

The folder is listed again and again instead of asking the kernel for events (inotify, the package watchdog): events
do not cross network shares and most FUSE mounts, get lost when their queue overflows, and say nothing about what
happened while nobody listened, so that a listing would be needed in any case. What is listed: files with a picture's
suffix, through all levels. What is not: hidden names, names that begin with "~" (an editor's own), temporary names
such as ``x.png.part`` (another suffix until they are renamed), and symbolic links, which could lead out of the folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .digest import sha256_hex, sha256_hex_of_stream
from .preprocess import PICTURE_SUFFIXES

_SIGNED = 2**63 - 1
"""SQLite's integers have a sign; inode numbers use all 64 bits on some file systems."""

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""ELOOP: a symbolic link stands there now."""


@dataclass(frozen=True)
class Stamp:
    """What changes when a file is written to or replaced.

    Attributes:
        inode: number of the file in its file system, 0..2^63-1.
        size_bytes: of its content.
        mtime_ns: when it was last written to, nanoseconds by the clock of its file system, 0..2^63-1.
    """

    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp | None:
        """Return the stamp of a regular file; None for anything else."""
        if not stat.S_ISREG(status.st_mode):
            return None
        return cls(status.st_ino & _SIGNED, status.st_size, status.st_mtime_ns & _SIGNED)


@dataclass(frozen=True)
class Content:
    """What a file held.

    Attributes:
        encoded: its bytes; None where there are too many.
        sha256: of all of them, 64 hex digits.
    """

    encoded: bytes | None
    sha256: str


def walk(folder: str, on_error: Callable[[OSError], None]) -> Iterator[tuple[str, Stamp]]:
    """List the pictures of a folder and those below; only the names of folders still to be listed are kept in memory.

    Args:
        folder: to list.
        on_error: called for each folder that cannot be listed.

    Yields:
        Name within `folder`, and stamp.
    """
    ahead = [""]
    while ahead:
        within = ahead.pop()
        try:
            with os.scandir(os.path.join(folder, within)) as entries:
                for entry in entries:
                    if entry.name.startswith((".", "~")):
                        continue
                    name = os.path.join(within, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        ahead.append(name)
                        continue
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if suffix in PICTURE_SUFFIXES and (stamp := _stamp(entry.path)) is not None:
                        yield name, stamp
        except OSError as error:
            on_error(error)


def stamp_at(folder: str, name: str) -> Stamp | None:
    """Return the stamp of a file as it is now; None where no regular file has that name, or none that can be seen.

    A folder below `folder` that has become a symbolic link since it was listed is not gone through.
    """
    within = os.path.dirname(name)
    while within:
        if os.path.islink(os.path.join(folder, within)):
            return None
        within = os.path.dirname(within)
    return _stamp(os.path.join(folder, name))


def _stamp(path: str) -> Stamp | None:
    try:
        return Stamp.of(os.lstat(path))
    except OSError:  # gone in this moment, or its folder was closed to us: the next listing says so
        return None


def read(folder: str, name: str, stamp: Stamp, most_bytes: int) -> Content | None:
    """Read a file that has not been written to since it had a stamp.

    Args:
        folder: where it lies.
        name: within `folder`.
        stamp: what it must have before and after.
        most_bytes: of a larger file, and of one that memory does not hold, only the hash is returned.

    Returns:
        The content; None where it is gone or another one by now.

    Raises:
        OSError: it cannot be read.
    """
    # No link is followed, and a pipe of that name does not make us wait for its writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(os.path.join(folder, name), flags)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        if Stamp.of(os.fstat(descriptor)) != stamp:
            return None
        try:
            encoded = stream.readall() if stamp.size_bytes <= most_bytes else None
        except MemoryError:
            stream.seek(0)
            encoded = None
        content = Content(encoded, sha256_hex_of_stream(stream) if encoded is None else sha256_hex(encoded))
        return content if Stamp.of(os.fstat(descriptor)) == stamp else None
