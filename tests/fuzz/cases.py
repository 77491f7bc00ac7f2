"""Cases: what is done with each mutated picture or bundle, and what must hold of it.

What comes in is the number of a case; what goes out is a `Result`. Every call ends with an answer or with a
`LeukoscopeError` of one printable line; the command line ends with 0, 1 or 2 and writes one line to standard error for
each thing that failed, whoever writes there, C libraries too. Everything else is a finding. Whether the process
survives, and in what time and memory, is seen from outside: ``worker`` and ``runner``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.bundle import open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.cli import main
from edge_runtime.errors import LeukoscopeError
from edge_runtime.golden import verify
from edge_runtime.preprocess import decode
from edge_runtime.trust import read_trust

from .make_seeds import rendered, saved
from .mutate_bundles import Hostile, bundle, lay_out, make_wholes, read_wholes, trusted
from .mutate_pictures import Picture, picture

MAX_LINE = 1000
"""Characters of an error: it is read by people, on a terminal."""

SCAN_EVERY = 20
"""One of so many pictures is scanned as well: cells are sought in it, and a TIFF is opened as a slide."""

MEMORY = "ImageError: too large for this machine's memory"
"""The one refusal that hangs on what the process held before."""

_LINE = re.compile(r"(error|warning): \S")


@dataclass
class Result:
    """What became of a case.

    Attributes:
        number: of the case.
        group: what the tables count it under: the format, or the bundle.
        mutators: what was done to it.
        outcome: "answer", or the kind of refusal.
        findings: what must not be, one text each; none where all is well.
    """

    number: int
    group: str
    mutators: tuple[str, ...]
    outcome: str = "answer"
    findings: list[str] = field(default_factory=list)


Note = Callable[[str], None]
"""Is told what is done next, so that who looks at a dead process knows."""


def refused(error: LeukoscopeError, findings: list[str]) -> str:
    """Return the kind of a refusal; a line that is none is a finding."""
    line = str(error)
    if not line or len(line) >= MAX_LINE or "\n" in line:
        findings.append(f"a line of {len(line)} characters: {line[:200]!r}")
    clause = error.what.rsplit(": ", 1)[-1]
    return f"{type(error).__name__}: {clause}" if type(error).__name__ == "ImageError" else type(error).__name__


def tried(call: Callable[[], object], findings: list[str]) -> str:
    """Call, and return "answer" or the kind of refusal; any other exception is a finding."""
    try:
        call()
    except LeukoscopeError as error:
        return refused(error, findings)
    except Exception:  # noqa: BLE001 - this is what is sought
        findings.append("traceback: " + traceback.format_exc()[-1500:])
        return "traceback"
    return "answer"


@contextlib.contextmanager
def captured() -> Iterator[list[str]]:
    """Catch what is written to standard output and error, by C libraries too; yields a list that gets both texts."""
    said: list[str] = []
    kept, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            for descriptor, target in ((1, out), (2, err)):
                os.dup2(target.fileno(), descriptor)
            sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "wb", False), write_through=True) for n in (1, 2))
            yield said
        finally:
            sys.stdout, sys.stderr = streams
            for descriptor, old in enumerate(kept, start=1):
                os.dup2(old, descriptor)
                os.close(old)
            for stream in (out, err):
                stream.seek(0)
                said.append(stream.read(1_000_000).decode("utf-8", "replace"))


def command(arguments: list[str], findings: list[str]) -> int | None:
    """Run a command line in this process; return its status, None where it ended in an exception."""
    said: list[str] = []
    try:
        with captured() as said:
            try:
                status = main(arguments)
            except SystemExit as stop:  # argparse's own way out
                status = int(stop.code or 0)
    except Exception:  # noqa: BLE001 - this is what is sought
        findings.append(f"traceback of {arguments[0]}: " + traceback.format_exc()[-1500:])
        return None
    lines = said[1].splitlines()
    strange = [line for line in lines if not _LINE.match(line) or len(line) > MAX_LINE + 9 or not line.isprintable()]
    errors = [line for line in lines if line.startswith("error: ")]
    if strange:
        findings.append(f"{arguments[0]} wrote to standard error: {strange[0][:300]!r}")
    if status not in (0, 1, 2) or "Traceback" in "".join(said):
        findings.append(f"{arguments[0]} ended with {status}: {said}"[:600])
    if len(errors) > 1 or bool(errors) > bool(status):
        findings.append(f"{arguments[0]} ended with {status} and said {len(errors)} errors: {errors[:3]}"[:600])
    return status


class PictureCases:
    """Pictures: decoded and classified from bytes, by the command line from a file, now and then scanned.

    Args:
        folder: empty, for files.
    """

    def __init__(self, folder: Path) -> None:
        make_wholes(folder / "wholes")
        self._folder, self._model = folder, folder / "wholes" / "full"
        self._classifier = Classifier.open(self._model, threads=1)

    def case(self, seed: int, number: int) -> Picture:
        """Return what `run` works on."""
        return picture(seed, number)

    def run(self, seed: int, number: int, note: Note) -> Result:
        """Run a case."""
        note("make")
        case = picture(seed, number)
        return self.judge(case, Result(number, case.kind, case.mutators), note)

    def judge(self, case: Picture, result: Result, note: Note) -> Result:
        """Do all that is done with a picture."""
        path = self._folder / f"case.{case.kind}"
        path.write_bytes(case.content)
        note("decode")
        result.outcome = tried(lambda: self._decoded(case.content), result.findings)
        note("classify")
        answered = tried(lambda: self._classifier.classify(case.content), result.findings)
        if answered != result.outcome and MEMORY not in (answered, result.outcome):
            result.findings.append(f"decoded: {result.outcome}; classified: {answered}")
        note("command line: classify")
        status = command(
            ["classify", "--json", "--threads", "1", "--model", str(self._model), str(path)], result.findings
        )
        if status is not None and (status == 0) != (answered == "answer") and answered != MEMORY:
            result.findings.append(f"classified: {answered}; the command line ended with {status}")
        if result.number % SCAN_EVERY < 1:
            note("command line: scan")
            if case.kind == "tif":
                path = path.rename(path.with_suffix(".svs"))
            command(["scan", "--json", str(path)], result.findings)
            path.unlink()
        return result

    @staticmethod
    def _decoded(content: bytes) -> None:
        decoded = decode(content)
        if decoded.mode != "RGB" or 0 in decoded.size:
            raise ValueError(f"decoded to {decoded.mode} {decoded.size}")


class BundleCases:
    """Bundles: opened, loaded, asked, verified; then by the command line: info, verify, classify.

    Args:
        folder: empty, for files.
    """

    def __init__(self, folder: Path) -> None:
        make_wholes(folder / "wholes")
        self._wholes = read_wholes(folder / "wholes")
        self._folder, self._bundle = folder, folder / "case"
        (folder / "keys.txt").write_text(trusted(), encoding="utf-8")
        self._trust_file = folder / "keys.txt"
        self._trust = read_trust(self._trust_file)
        self._picture = folder / "picture.png"
        self._picture.write_bytes(saved(rendered(), "PNG"))

    def case(self, seed: int, number: int) -> Hostile:
        """Return what `run` works on."""
        return bundle(self._wholes, seed, number)

    def run(self, seed: int, number: int, note: Note) -> Result:
        """Run a case."""
        note("make")
        case = bundle(self._wholes, seed, number)
        shutil.rmtree(self._bundle, ignore_errors=True)
        self._bundle.mkdir()
        lay_out(case, self._bundle)
        return self.judge(case, Result(number, case.whole, case.mutators), note)

    def judge(self, case: Hostile, result: Result, note: Note) -> Result:
        """Do all that is done with the bundle in the folder."""
        signed = "signature" in case.mutators
        trust = self._trust if signed else None
        deadly = "engine: " if case.reaches_engine else ""
        opened: list[Any] = []
        note("open")
        result.outcome = tried(lambda: opened.append(open_bundle(self._bundle, trust)), result.findings)
        if opened:
            note(f"{deadly}load")
            result.outcome = tried(lambda: opened.append(Classifier.open(opened[0], threads=1)), result.findings)
        if len(opened) == 2:
            note(f"{deadly}classify")
            result.outcome = tried(lambda: opened[1].classify(self._picture), result.findings)
            note(f"{deadly}verify")
            tried(lambda: opened.append(verify(opened[1]).to_dict()), result.findings)
        opened.clear()
        more = ["--trust", str(self._trust_file)] if signed else []
        note("command line: info")
        command(["info", str(self._bundle), *more], result.findings)
        note(f"{deadly}command line: verify")
        command(["verify", str(self._bundle), "--threads", "1", *more], result.findings)
        note(f"{deadly}command line: classify")
        status = command(
            ["classify", "--threads", "1", "--model", str(self._bundle), str(self._picture), *more], result.findings
        )
        if status is not None and (status == 0) != (result.outcome == "answer"):
            result.findings.append(f"classified: {result.outcome}; the command line ended with {status}")
        return result


KINDS: dict[str, Callable[[Path], PictureCases | BundleCases]] = {"pictures": PictureCases, "bundles": BundleCases}
"""What can be fuzzed."""
