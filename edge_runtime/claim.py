"""Claim: one process per journal, and what it holds in its hand in case it dies of it.

The claim is a lock on ``<journal>.lock``, which the kernel takes back from whoever dies. In that file stands the name
of the picture that is being answered: a picture that kills the process (an engine that crashes, memory that runs out)
is found there by the next one, and after `DEATHS` of them it is not tried again. The note is not forced to the medium:
it has to survive the process, not the power.
"""

from __future__ import annotations

import fcntl
import json
import os

from .errors import JournalError, OutputError

DEATHS = 5
"""So often may the process die over a picture before that one is given up. Who kills it for other reasons would have
to meet the same picture as often, in a row."""

_SUSPECTS = 16
_NOTE_BYTES = 65536


class Claim:
    """The right to write a journal."""

    def __init__(self, journal: str) -> None:
        """Take it.

        Args:
            journal: path of the journal.

        Raises:
            JournalError: another process has it.
            OutputError: no file can be made there.
        """
        path = f"{journal}.lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written", got=error.strerror, todo="--journal FILE where there is room and leave"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise JournalError(
                f"{journal}: in use by another watch", todo="stop that one, or give this one another --journal"
            ) from None
        self._deaths = self._read()

    def _read(self) -> dict[str, int]:
        try:
            note = json.loads(os.pread(self._descriptor, _NOTE_BYTES, 0))
            deaths = {str(name): int(count) for name, count in note["deaths"].items()}
            held = note["held"]
        except (ValueError, KeyError, TypeError, AttributeError):  # new, or torn: then nobody is a suspect
            return {}
        if held is not None:
            deaths[str(held)] = deaths.get(str(held), 0) + 1
        return dict(list(deaths.items())[-_SUSPECTS:])

    def deadly(self, name: str) -> bool:
        """Whether the process died of a picture so often that it is given up."""
        return self._deaths.get(name, 0) >= DEATHS

    def hold(self, name: str) -> None:
        """Note the picture that is being answered."""
        self._note(name)

    def release(self, name: str | None = None) -> None:
        """Note that none is being answered; `name`, where given, was, and is no suspect any more."""
        if name is not None:
            self._deaths.pop(name, None)
        self._note(None)

    def _note(self, held: str | None) -> None:
        note = json.dumps({"held": held, "deaths": self._deaths}).encode()
        try:
            os.pwrite(self._descriptor, note, 0)
            os.ftruncate(self._descriptor, len(note))
        except OSError:  # a full disk: then nobody is a suspect; the journal says what there is to say
            return

    def close(self) -> None:
        """Give it back; a picture that is still held stays noted: the process dies of it."""
        os.close(self._descriptor)
