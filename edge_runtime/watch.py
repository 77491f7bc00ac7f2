"""Watch: the loop that answers each picture of a folder once, as they come.

What comes in are a folder (`arrivals`) and a function that answers a picture; what goes out are results in the
`Journal`, and from there at the `Outlet`. The folder is the queue: however many pictures lie there, `PLACES` of them at
most are kept in mind and one is in hand. Nothing here knows models, signals or options.

A picture is answered when its stamp stood still for the settling time and it decodes. One that does not decode may be
half of one: it is tried again whenever it changes, and gets an error for a result when it stood still for the patience.
A file that cannot be read gets no result; it is looked at again with each listing.

Same file or another one? Decided by content (SHA-256) and by what is still there, see `Watch._carrier`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .arrivals import Content, Stamp, read, stamp_at, walk
from .claim import DEATHS, Claim
from .errors import EngineGoneError, ImageError, LeukoscopeError, OutputError
from .journal import Carrier, Journal, now
from .outlet import Outlet
from .preprocess import MAX_FILE_BYTES
from .settling import Settling, Wait

PLACES = 1024
"""Files that are kept in mind while they settle."""

GROUP = 32
GROUP_S = 0.25
"""Results that become one transaction, and how long the first of them waits: each transaction waits for the medium."""

_NAP_S = 0.2
_PAUSE_S = 1.0
_REMARKS = 256


@dataclass(frozen=True)
class Pace:
    """How long to wait for what, seconds.

    Attributes:
        settle_s: a file must stand still that long before it is read.
        patience_s: a file that does not decode must stand still that long before it is called bad.
        poll_s: pause between two listings, at least; four times as long as a listing takes where that is more.
    """

    settle_s: float = 1.0
    patience_s: float = 30.0
    poll_s: float = 1.0


@dataclass(frozen=True)
class Host:
    """What surrounds the loop.

    Attributes:
        answer: takes the bytes of a picture and its name, and returns what the line says; raises `ImageError` where
            it is none.
        stopped: whether to leave.
        alive: called often.
        say: gets lines for people.
        committed: called when new results last; None where nobody is to be told.
    """

    answer: Callable[[bytes, str], dict[str, Any]]
    stopped: Callable[[], bool]
    alive: Callable[[], None]
    say: Callable[[str], None]
    committed: Callable[[], None] | None = None


@dataclass
class Counts:
    """What happened so far: pictures answered, bad ones among them, files found again; what cannot be read now."""

    answered: int = 0
    bad: int = 0
    again: int = 0
    unreadable: int = 0


class Watch:
    """The loop and what it has in mind."""

    def __init__(self, folder: str, journal: Journal, claim: Claim, outlet: Outlet, host: Host, pace: Pace) -> None:
        """Get ready to watch `folder`; `run` begins."""
        self._folder, self._journal, self._claim, self._outlet = folder, journal, claim, outlet
        self._host, self._pace = host, pace
        self.counts = Counts()
        self._sure = Counts()  # at the last commit
        self._settling = Settling(pace.settle_s)
        self._told = journal.told
        self._group, self._group_since_s = 0, 0.0
        self._redo = self._blocked = False
        self._said: dict[str, None] = {}

    def run(self, once: bool = False) -> None:
        """Watch until told to stop.

        Args:
            once: leave when all that was there is done.

        Raises:
            JournalError: the journal is damaged.
            BrokenPipeError: nobody reads standard output any more.
        """
        self._flush()
        while not self._host.stopped():
            began_s = time.monotonic()
            self._redo, self.counts.unreadable = False, 0
            self._pass()
            pause_s = max(self._pace.poll_s, 4 * (time.monotonic() - began_s))
            if once:
                self._drain(0)
                if not self._redo:
                    break
            self._rest(time.monotonic() + min(pause_s, 60.0))
        self._flush(idle=True)

    @property
    def settling(self) -> int:
        """Return how many files are waited for."""
        return len(self._settling)

    def _pass(self) -> None:
        """List the folder once, and work while that goes on."""
        fresh: dict[str, Stamp] = {}
        looked_s = time.monotonic()
        for name, stamp in walk(self._folder, self._unlisted):
            self._host.alive()
            if self._host.stopped():
                return
            if not (name in self._settling or self._known(name) == stamp):
                fresh[name] = stamp
            full = len(self._settling) + len(fresh) >= PLACES
            if full or time.monotonic() - looked_s > max(_NAP_S, self._pace.settle_s):
                self._admit(fresh)
                if full:
                    self._drain(PLACES // 2)
                else:
                    self._work()
                looked_s = time.monotonic()
        self._admit(fresh)

    def _known(self, name: str) -> Stamp | None:
        while not self._host.stopped():
            try:
                return self._journal.stamp_of(name)
            except OutputError as error:
                self._block(error)
        return None

    def _unlisted(self, error: OSError) -> None:
        self._remark(f"{error.filename}: cannot be listed: {error.strerror}; looked at again later")
        self.counts.unreadable += 1

    def _admit(self, fresh: dict[str, Stamp]) -> None:
        """Keep new files in mind, the oldest first, and empty `fresh`."""
        for name, stamp in sorted(fresh.items(), key=lambda one: (one[1].mtime_ns, one[0])):
            self._settling.put(name, stamp)
        fresh.clear()

    def _rest(self, until_s: float) -> None:
        """Work on what becomes due until a moment."""
        while not self._host.stopped():
            self._work()
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            self._nap(left_s)

    def _drain(self, places: int) -> None:
        """Work until so many files at most are waited for."""
        while len(self._settling) > places and not self._host.stopped():
            self._work()
            if len(self._settling) > places:
                self._nap(_NAP_S)

    def _nap(self, most_s: float) -> None:
        self._host.alive()
        time.sleep(min(most_s, _NAP_S, self._settling.due_in_s))

    def _work(self) -> None:
        """Look at the files that are due, and bring what came out of that to medium and outlet."""
        while not self._host.stopped() and (wait := self._settling.take_due()) is not None:
            self._host.alive()
            began_s = time.monotonic()
            try:
                self._look(wait)
            except OutputError as error:
                self._block(error)
            # A transaction shuts others out: none is kept open over an answer that takes as long as this one.
            expected_s = 2 * time.monotonic() - began_s
            if self._group >= GROUP or (self._group and expected_s - self._group_since_s > GROUP_S):
                self._flush()
        self._flush(idle=True)

    def _look(self, wait: Wait) -> None:
        name, stamp = wait.name, stamp_at(self._folder, wait.name)
        if stamp is None:
            return
        if stamp != wait.stamp:
            self._settling.put(name, stamp)
            return
        final = wait.still_s >= self._pace.patience_s
        if wait.failed and not final:
            self._settling.put(name, stamp, wait.since_s, failed=True)
            return
        deadly = self._claim.deadly(name)
        self._claim.hold(name)
        try:
            self._take(wait, final, deadly)
        except OSError as error:
            self._remark(f"{self._shown(name)}: cannot be read: {error.strerror}; looked at again later")
            self.counts.unreadable += 1
        except (LeukoscopeError, KeyboardInterrupt):  # not the picture's fault
            self._claim.release()
            raise
        # Anything else is an error of ours that ends the program: the picture stays held, one of its `DEATHS`.
        self._claim.release(name)

    def _take(self, wait: Wait, final: bool, deadly: bool) -> None:
        """Read a file that stood still, and note what it is: known already, answered, or not ready after all.

        Args:
            wait: of the file.
            final: whether it is bad when it does not decode.
            deadly: whether the process died of it so often that it is not to be decoded.
        """
        name, stamp = wait.name, wait.stamp
        content = read(self._folder, name, stamp, 0 if deadly else MAX_FILE_BYTES)
        if content is None:
            self._settling.put(name, stamp)  # written to in this moment, or gone: the next look tells
            return
        carrier = self._carrier(name, stamp, content)
        if carrier is not None:
            self._begin_group()
            self._journal.carry(carrier, name, stamp)
            self.counts.again += 1
            return
        shown = self._shown(name)
        if deadly:
            facts: dict[str, Any] | None = {"error": f"{shown}: given up: the program ended {DEATHS} times over it"}
        else:
            facts = self._answered(shown, content, final)
        if facts is None:
            self._settling.put(name, stamp, wait.since_s, failed=True)
            return
        self._begin_group()
        told = {"picture": shown, "sha256": content.sha256, "time": now(), **facts}
        self._journal.record(name, stamp, content.sha256, told, self._host.committed is not None)
        self.counts.answered += 1
        self.counts.bad += "error" in facts

    def _carrier(self, name: str, stamp: Stamp, content: Content) -> Carrier | None:
        """Return the file that was answered already and is found here; None where this one is new.

        It is the same file when its content was answered and nobody else stands for that result now: this very name
        does (it was only touched), no name does any more, or the name that did is gone or another file by now (a
        rename). Where the other name is still there unchanged, this is a copy, and a file of its own. All empty files
        have one content: there only name and inode say that it is the same.
        """
        for carrier in self._journal.carriers(content.sha256, name, stamp.inode):
            there = carrier.name is not None and stamp_at(self._folder, carrier.name) == carrier.stamp
            # Names that differ in case only are one file where the file system does not tell them apart.
            alias = carrier.name is not None and carrier.name.casefold() == name.casefold() and carrier.stamp == stamp
            told_apart = stamp.size_bytes > 0 or (carrier.stamp is not None and carrier.stamp.inode == stamp.inode)
            if carrier.name == name or alias or (not there and told_apart):
                return carrier
        return None

    def _answered(self, shown: str, content: Content, final: bool) -> dict[str, Any] | None:
        """Answer a picture: what the line says, or None where it does not decode and may be half of one."""
        try:
            if content.encoded is None:
                raise ImageError(f"{shown}: file too large", expected=f"at most {MAX_FILE_BYTES} bytes")
            return self._host.answer(content.encoded, shown)
        except ImageError as error:
            return {"error": str(error)} if final else None
        except EngineGoneError:  # not this picture's fault, and none of the next ones will be answered
            raise
        except LeukoscopeError as error:
            return {"error": str(error)}
        except MemoryError:
            return {"error": f"{shown}: out of memory"}

    def _begin_group(self) -> None:
        if not self._group:
            self._group_since_s = time.monotonic()
        self._group += 1

    def _flush(self, idle: bool = False) -> None:
        """Commit what is open, and tell what is not told; `idle`: and note that it was told."""
        try:
            if self._journal.pending and self._journal.told < self._told:
                self._journal.note_told(self._told)
            self._commit()
            self._tell()
            if idle and self._journal.told < self._told:
                self._journal.note_told(self._told)
                self._commit()
        except OutputError as error:
            self._block(error)

    def _commit(self) -> None:
        self._journal.commit()
        committed, self._group = self._group, 0
        self._sure = replace(self.counts)
        if committed and self._host.committed is not None:
            self._host.committed()

    def _tell(self) -> None:
        while lines := self._journal.lines(self._outlet.told, GROUP):
            self._outlet.tell(lines)
            self._host.alive()
            if self._host.stopped():  # a long file that is written again; the rest follows another time
                break
        self._told = self._outlet.told

    def _block(self, error: OutputError) -> None:
        """Take no more files until journal and outlet can be written again; nothing is lost, the folder keeps it."""
        self._redo, self._group = True, 0
        self.counts = replace(self._sure)
        if not self._blocked:  # else it was stopped while it waited, and tries a last time
            self._host.say(f"{error}; no more files are taken until it can")
        self._blocked = True
        while not self._host.stopped():
            until_s = time.monotonic() + _PAUSE_S
            while time.monotonic() < until_s and not self._host.stopped():
                self._host.alive()
                time.sleep(_NAP_S)
            try:
                self._journal.try_room()
                self._tell()
            except OutputError:
                continue
            self._host.say("there is room again")
            self._blocked = False
            return

    def _shown(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _remark(self, text: str) -> None:
        """Say something once: what is said with every listing is read by nobody."""
        if text in self._said:
            return
        if len(self._said) >= _REMARKS:
            del self._said[next(iter(self._said))]
        self._said[text] = None
        self._host.say(text)
