"""The closed list of errors: everything that can go wrong for a user has one of these classes and one line of text.

An error says what was wrong, what was got, what was expected and what to do. The command line prints that line and
exits with `exit_status`; nobody is shown a traceback.
"""

from __future__ import annotations

MAX_SIDE_LENGTH = 300
"""Characters of what was got or expected: a hostile file may hold a number of a million digits, and be quoted."""


class LeukoscopeError(Exception):
    """Base of all errors meant for users."""

    exit_status = 1

    def __init__(
        self, what: str, *, got: object | None = None, expected: object | None = None, todo: str | None = None
    ) -> None:
        """Put the line together.

        Args:
            what: what was wrong, as the first clause of a sentence.
            got: what was found.
            expected: what should have been there.
            todo: what the user can do about it.
        """
        self.what, self.got, self.expected, self.todo = what, got, expected, todo
        parts = [what]
        if got is not None or expected is not None:
            sides = ((word, side) for word, side in (("got", got), ("expected", expected)) if side is not None)
            parts.append(": " + ", ".join(f"{word} {_shortened(str(side))}" for word, side in sides))
        if todo:
            parts.append(f" ({todo})")
        super().__init__(" ".join("".join(parts).split()))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SIDE_LENGTH else f"{text[:MAX_SIDE_LENGTH]}..."


class UsageError(LeukoscopeError):
    """The command line or a call's arguments make no sense."""

    exit_status = 2


class ImageError(LeukoscopeError):
    """A picture cannot be read or is not one this program takes."""


class BundleError(LeukoscopeError):
    """A bundle is missing, damaged, altered, too new, or does not say what it must."""


class EngineError(LeukoscopeError):
    """No inference engine is installed, it cannot run this model, or it returned what it must not."""


class EngineGoneError(EngineError):
    """An isolated engine died so often that it is not started again: no picture will be answered any more."""


class CameraError(LeukoscopeError):
    """A camera or video cannot be opened, or a camera gives no frames any more."""


class OutputError(LeukoscopeError):
    """A result cannot be written."""


class JournalError(LeukoscopeError):
    """The journal of a watched folder is damaged, too new, in use, or of another folder."""
