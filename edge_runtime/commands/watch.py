"""``watch``: answers what appears in a folder, each picture once, whatever happens in between."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .. import DEFAULT_MODEL
from ..errors import UsageError
from ..guard import INTERRUPTED, complain
from .opening import add_command, engine_options, open_classifier, trust_option
from .output import FAILED, TerminalLine
from .scan import MODEL as SCAN_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from ..classifier import Classifier
    from .opening import Commands

JOURNAL = ".leukoscope.db"
"""Name of the journal in the watched folder, where none is named."""

_ONCE_TRIES = 5

EXAMPLES = """\
examples:
  python -m edge_runtime watch smears/
  python -m edge_runtime watch --model blood-cells --output results.jsonl cells/
  python -m edge_runtime watch --once --journal /var/lib/leukoscope/inbox.db inbox/
  python -m edge_runtime watch --scan --output fields.jsonl fields/
  python -m edge_runtime watch --on-result "curl -fsS --data-binary @- http://lis.local/results" smears/
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    watch = add_command(
        commands,
        "watch",
        "classify what appears in a folder",
        "Classify each picture that appears in a folder or below it, once: one JSON line per picture. Half-written "
        "files are waited for, renamed ones known again. A journal in the folder remembers what is done, through "
        "crashes and power cuts. Ctrl-C or SIGTERM stop it after the picture in hand.",
        EXAMPLES,
    )
    watch.add_argument("folder", metavar="FOLDER", help="to watch; hidden names and links are left out")
    watch.add_argument("--output", metavar="FILE", help="append the lines there instead of standard output")
    watch.add_argument(
        "--journal", metavar="FILE", help=f"what is done stands there; on a local disk; default: FOLDER/{JOURNAL}"
    )
    watch.add_argument(
        "--on-result",
        metavar="COMMAND",
        help="run it for each result, with the line on its standard input; no shell; tried again until it exits with 0",
    )
    watch.add_argument("--once", action="store_true", help="stop when all that is there is done")
    watch.add_argument(
        "--scan",
        action="store_true",
        help="find and classify the white cells of each picture, as the command scan does",
    )
    for option, default, text in (
        ("--settle", 1.0, "a file that stood still so long is read"),
        ("--patience", 30.0, "a file that stood still so long and does not decode is called bad"),
    ):
        watch.add_argument(option, type=float, default=default, metavar="SECONDS", help=f"{text}; default: %(default)g")
    watch.add_argument(
        "--model", metavar="MODEL", help=f"name or path; default: {DEFAULT_MODEL}, with --scan {SCAN_MODEL}"
    )
    engine_options(watch)
    trust_option(watch)
    watch.set_defaults(run=_watch)


def _watch(options: argparse.Namespace) -> int:
    for name, seconds in (("--settle", options.settle), ("--patience", options.patience)):
        if not 0 <= seconds <= 86400:
            raise UsageError(name, got=seconds, expected="0 to 86400 seconds")
    from ..preprocess import PICTURE_SUFFIXES

    for name, file in (("--output", options.output), ("--journal", options.journal)):
        if file is not None and os.path.splitext(file)[1].lower() in PICTURE_SUFFIXES:  # it would be answered itself
            raise UsageError(name, got=file, expected="a name that is no picture's, such as results.jsonl")
    if not os.path.isdir(options.folder):
        raise UsageError(f"{options.folder}: no such folder")
    command = None if options.on_result is None else _command(options.on_result)
    from .. import report
    from ..claim import Claim
    from ..journal import Journal
    from ..notify import Supervisor
    from ..outlet import Outlet, ResultsFile, Stream
    from ..watch import Host, Pace, Watch

    path = os.path.join(options.folder, JOURNAL) if options.journal is None else options.journal
    asked, supervisor = _Asked(), Supervisor()

    status = _Status(silent=options.output is None and sys.stdout.isatty())

    def say(text: str) -> None:
        status.clear()
        complain(text, "warning")

    def patient() -> bool:
        supervisor.alive()
        return not asked.stop()

    with ExitStack() as stack:
        asked.listen()
        stack.callback(asked.listen_no_more)
        claim = Claim(path)
        stack.callback(claim.close)
        journal = Journal(path, options.folder)
        stack.callback(journal.close)
        outlet: Outlet = (
            Stream(sys.stdout.fileno(), journal.told, patient)
            if options.output is None
            else ResultsFile(options.output, journal)
        )
        stack.callback(outlet.close)
        model = options.model or (SCAN_MODEL if options.scan else DEFAULT_MODEL)
        answer = _answers(open_classifier(model, options), options.scan)
        delivery = None
        if command is not None:
            from ..delivery import Delivery

            delivery = Delivery(path, command, say)
            journal.renew_deliveries()
            delivery.start()
            stack.callback(delivery.stop)

        def alive() -> None:
            supervisor.alive()
            status.show(watch.counts.answered, watch.settling)

        host = Host(answer, asked.stop, alive, say, None if delivery is None else delivery.wake)
        watch = Watch(options.folder, journal, claim, outlet, host, Pace(options.settle, options.patience))
        if not options.once:
            complain(f"watching {options.folder}; journal {path}; {report.NOTE}", "note")
        supervisor.tell("READY=1")
        watch.run(options.once)
        waiting = 0
        if delivery is not None:
            while options.once and delivery.works and not asked.stop() and journal.undelivered(_ONCE_TRIES):
                supervisor.alive()
                time.sleep(0.1)
            waiting = journal.undelivered()
        supervisor.tell("STOPPING=1")
        status.clear()
        counts = watch.counts
        told = f"{counts.answered} answered, {counts.bad} of them bad; {counts.again} known already"
        told += f"; {counts.unreadable} unreadable" if counts.unreadable else ""
        told += f"; {waiting} wait for {command[0]}" if command is not None and waiting else ""
        complain(told, "note")
    if asked.signal is not None:
        return INTERRUPTED if asked.signal == signal.SIGINT else 0
    return FAILED if counts.bad or counts.unreadable or waiting else 0


def _answers(classifier: Classifier, scanning: bool) -> Callable[[bytes, str], dict[str, Any]]:
    """Return what says of a picture's bytes, and its name, what the line is to say."""
    if not scanning:
        return lambda encoded, name: classifier.classify(encoded, name).to_dict()
    from ..scan import Scanner

    scanner = Scanner(classifier)

    def scanned(encoded: bytes, name: str) -> dict[str, Any]:
        found = scanner.scan(encoded, name).to_dict()
        del found["field"]  # the line has it as "picture"
        return found

    return scanned


def _command(text: str) -> list[str]:
    import shlex
    import shutil

    try:
        command = shlex.split(text)
    except ValueError as error:
        raise UsageError("--on-result", got=f"{text!r} ({error})", expected="a command") from None
    if not command or shutil.which(command[0]) is None:
        raise UsageError("--on-result", got=repr(text), expected="a program that is there, and its arguments")
    return command


class _Status(TerminalLine):
    """A line that says how far it is."""

    def __init__(self, silent: bool) -> None:
        super().__init__(silent)
        self._last_s = 0.0

    def show(self, answered: int, settling: int) -> None:
        """Draw it, a few times a second at most."""
        if self._shown and time.monotonic() - self._last_s > 0.2:
            self._last_s = time.monotonic()
            self.draw(f"{answered} answered, {settling} waited for")


class _Asked:
    """Whether somebody asked the program to stop: once is polite, a second Ctrl-C means at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Begin to listen to signals."""
        self._before = {number: signal.signal(number, self._heard) for number in self.SIGNALS}

    def listen_no_more(self) -> None:
        """Let signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def stop(self) -> bool:
        """Whether to stop."""
        return self.signal is not None
