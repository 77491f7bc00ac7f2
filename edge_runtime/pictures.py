"""Which pictures a command line means: files as they are, folders searched, ``-`` for standard input.

What comes in are the arguments; what goes out is a list of names in a stable order. No picture is opened here: a file
that is not there or not a picture gets its own error when its turn comes, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import UsageError
from .preprocess import PICTURE_SUFFIXES

STDIN = "-"


def find_pictures(
    arguments: Iterable[str],
    on_error: Callable[[OSError], None],
    skip: str | os.PathLike[str] | None = None,
    suffixes: frozenset[str] = PICTURE_SUFFIXES,
) -> list[str]:
    """List the pictures that the arguments mean.

    Args:
        arguments: files, folders (searched through all levels, sorted; hidden names and links to folders are left
            out) and at most one "-".
        on_error: called for each folder below that cannot be listed.
        skip: folder that is left out where a search comes upon it: where results go.
        suffixes: of what is looked for in folders.

    Returns:
        Paths, and "-" for standard input.

    Raises:
        UsageError: nothing to do, or standard input twice.
    """
    found: list[str] = []
    for argument in arguments:
        if argument == STDIN and STDIN in found:
            raise UsageError("standard input can be read only once", got="two '-'")
        if argument != STDIN and os.path.isdir(argument):
            found.extend(walk_pictures(argument, on_error, skip, suffixes))
        else:
            found.append(argument)
    if not found:
        raise UsageError("no pictures there", expected="files with " + ", ".join(sorted(suffixes)))
    return found


def walk_pictures(
    folder: str,
    on_error: Callable[[OSError], None],
    skip: str | os.PathLike[str] | None = None,
    suffixes: frozenset[str] = PICTURE_SUFFIXES,
) -> Iterator[str]:
    """Give the pictures of a folder and below as `find_pictures` does, folder by folder: only one's names are held."""
    skip = None if skip is None else os.path.realpath(skip)
    for where, folders, names in os.walk(folder, onerror=on_error):
        # Hidden ones are no smears: thumbnails, and the "._" twins that a Mac leaves on every card.
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (skip is None or os.path.realpath(os.path.join(where, name)) != skip)
        )
        for name in sorted(names):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield os.path.join(where, name)


def overlay_paths(pictures: list[str], target: Path) -> list[Path]:
    """Say where the overlay of each picture goes.

    Args:
        pictures: from `find_pictures`.
        target: a picture's name, for one picture; else a folder.

    Returns:
        One path per picture, all different: in a folder ``<name>.overlay.png``, numbered where names repeat.

    Raises:
        UsageError: a file for several pictures, or one of the pictures itself.
    """
    if target.suffix.lower() in PICTURE_SUFFIXES and not target.is_dir():
        if len(pictures) > 1:
            raise UsageError("one overlay file for several pictures", got=str(target), expected="a folder")
        if os.path.realpath(target) == os.path.realpath(pictures[0]):
            raise UsageError("the overlay would overwrite the picture", got=str(target))
        return [target]
    stems = ("stdin" if picture == STDIN else Path(picture).stem for picture in pictures)
    return [target / f"{name}.overlay.png" for name in distinct(stems)]


def distinct(names: Iterable[str]) -> list[str]:
    """Number names where they repeat: a, a -> a, a-2; A and a count as one, as some file systems have it."""
    taken: set[str] = set()
    found = []
    for stem in names:
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        found.append(name)
    return found
