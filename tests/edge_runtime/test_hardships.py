"""Hardships: what machines in laboratories are like, each tried on the real command, each answered in plain words.

One row per hardship: how it is brought about, the command, its exit status, and what it says. The same table stands for
users in ``docs/isolation.md``. What a machine cannot bring about is skipped with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from bundle_maker import bomb, encoded, smear
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTE = r"Research decision support, not a diagnosis\.\n"
ANSWERS = r"(?s).*a\.jpg: .*b\.png: .* ms\n" + NOTE
VERIFIED = r"(?s).*: verified, 2 of 2 golden pictures\n"
FULL = "cannot be written: got No space left on device"
BUSY = "warning: .*: times lie far apart: .*"
READ_ONLY = "got Read-only file system"

MOUNTS = ("unshare", "-m", "sh", "-c")
"""A mount namespace of its own: what follows changes nobody else's file system."""

LOCK_FILES = (*MOUNTS, 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && mount -o remount,ro,bind / && "$@"')
FULL_DISK = (*MOUNTS, 'mount -t tmpfs -o size=64k full "$0/full" && { yes > "$0/full/x" 2>&1 || "$@"; }')
BARE_KERNEL = (*MOUNTS, 'mount -t tmpfs none /proc && mount -t tmpfs none /sys && "$@"')
"""In all of them ``$0`` is the test's folder."""

NOBODY = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups")
NO_LOCALE = {"LC_ALL": "C", "LANG": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python turns the C locale into UTF-8 by itself; with that switched off, all it knows is ASCII."""


@dataclass(frozen=True)
class Row:
    """A hardship; in arguments and environment, ``{}`` is the test's folder.

    Attributes:
        name: of the test.
        under: command that brings it about and runs the rest; may begin with ``MOUNTS``.
        command: of the runtime.
        status: that it must exit with.
        out: what standard output must be, a pattern.
        err: what standard error must be, a pattern without the line's end; "" where it must stay empty.
        environment: what is different; None: not there.
        alone: nothing else is in the environment.
        home: working directory, where the package is; default: the checkout.
    """

    name: str
    under: tuple[str, ...]
    command: tuple[str, ...]
    status: int = 0
    out: str = ""
    err: str = ""
    environment: dict[str, str | None] = field(default_factory=dict)
    alone: bool = False
    home: str | None = None


def shell(redirect: str) -> tuple[str, ...]:
    """Return what runs a command with its standard streams redirected."""
    return ("sh", "-c", f'"$@" {redirect}')


CLASSIFY = ("classify", "{}/pictures")
ONE = ("classify", "{}/pictures/a.jpg")
SCAN = ("scan", "{}/pictures/b.png", "--um-per-px", "0.2")
BIG = ("classify", "{}/big.png", "{}/pictures/a.jpg")
TOO_LARGE = r"error: .*/big\.png: too large for this machine's memory.*\(cut it into fields\)"
HELD = "note: the engine is isolated by: .*"
WATCH = ("watch", "--once", "--settle", "0", "{}/pictures")
LIMITED = ("prlimit", f"--as={400 * 2**20}")
FEW = ("prlimit", "--nofile=20")

ROWS = (
    # read-only
    Row("read-only: classify", LOCK_FILES, CLASSIFY, out=ANSWERS),
    Row("read-only: no byte code", LOCK_FILES, CLASSIFY, out=ANSWERS, home="copy"),
    Row("read-only: isolated", LOCK_FILES, (*CLASSIFY, "--isolate"), out=ANSWERS, err=HELD),
    Row("read-only: verify", LOCK_FILES, ("verify", "{}/bundle"), out=VERIFIED),
    Row(
        "read-only: output",
        LOCK_FILES,
        (*ONE, "--output", "{}/o"),
        1,
        "",
        rf"error: .*/o: cannot be written: {READ_ONLY}",
    ),
    Row(
        "read-only: overlay",
        LOCK_FILES,
        (*ONE, "--overlay", "{}/o.png"),
        1,
        NOTE,
        rf"error: .*/o\.png: cannot be written: {READ_ONLY}",
    ),
    Row("read-only: scan", LOCK_FILES, (*SCAN, "--out", "{}/r"), 1, "", rf"error: .*/r: cannot be made: {READ_ONLY}"),
    Row(
        "read-only: watch",
        LOCK_FILES,
        WATCH,
        1,
        "",
        rf"error: .*/\.leukoscope\.db\.lock: cannot be written: {READ_ONLY} .*",
    ),
    Row(
        "read-only: serve",
        LOCK_FILES,
        ("serve", "--port", "0"),
        1,
        "",
        rf"error: .*/state/leukoscope: cannot be made: {READ_ONLY}",
        {"XDG_STATE_HOME": "{}/state"},
    ),
    Row(
        "read-only: bench",
        LOCK_FILES,
        ("bench", "--rounds", "5", "{}/bundle"),
        1,
        "(?s).*best: .*",
        rf"error: not remembered: .*: cannot be (made|written): {READ_ONLY}(\n{BUSY})?",
        {"LEUKOSCOPE_CONFIG": "{}/settings/device.json"},
    ),
    # full disk
    Row(
        "full disk: output",
        FULL_DISK,
        (*CLASSIFY, "--json", "--output", "{}/full/o"),
        1,
        "",
        f"error: .*/full/o: {FULL}",
    ),
    Row(
        "full disk: overlay",
        FULL_DISK,
        (*ONE, "--overlay", "{}/full/o.png"),
        1,
        NOTE,
        rf"error: .*/full/o\.png: {FULL}",
    ),
    Row("full disk: scan", FULL_DISK, (*SCAN, "--out", "{}/full/r"), 1, "", f"error: .*/full/r/.*: {FULL}"),
    Row(
        "full disk: bench",
        FULL_DISK,
        ("bench", "--rounds", "5", "{}/bundle"),
        1,
        "(?s).*best: .*",
        rf"error: not remembered: .*: {FULL}(\n{BUSY})?",
        {"LEUKOSCOPE_CONFIG": "{}/full/device.json"},
    ),
    Row(
        "full disk: watch",
        FULL_DISK,
        (*WATCH, "--journal", "{}/full/j.db"),
        1,
        "",
        r"error: .*/full/j\.db: cannot be used: got database or disk is full .*",
    ),
    Row("full disk: standard output", shell(">/dev/full"), CLASSIFY, 1, "", "error: No space left on device"),
    # nobody's environment
    Row("no environment", (), CLASSIFY, out=ANSWERS, alone=True),
    Row(
        "no environment: bench",
        (),
        ("bench", "--rounds", "5", "{}/bundle"),
        out="(?s).*best: .*",
        err=rf"warning: not remembered: no home is known \(set LEUKOSCOPE_CONFIG=FILE\)(\n{BUSY})?",
        alone=True,
    ),
    Row("no passwd entry", NOBODY, ("classify", "samples/all-subtypes"), out="(?s).*pro.jpg: .*" + NOTE, alone=True),
    Row("no locale", (), CLASSIFY, out=ANSWERS, environment=NO_LOCALE),
    Row(
        "no locale: umlauts",
        (),
        ("classify", "--json", "{}/Prüfung", "--output", "{}/ü.jsonl", "--overlay", "{}/Bilder ü"),
        environment=NO_LOCALE,
    ),
    Row(
        "no locale: umlauts scanned",
        (),
        ("scan", "{}/Prüfung", "--out", "{}/Bericht ü", "--um-per-px", "0.2"),
        out="(?s)1 field, .*",
        environment=NO_LOCALE,
    ),
    Row(
        "no locale: umlauts watched",
        (),
        ("watch", "--once", "--settle", "0", "{}/Prüfung", "--output", "{}/ü.jsonl"),
        err="note: 1 answered, 0 of them bad; 0 known already",
        environment=NO_LOCALE,
    ),
    Row("no TMPDIR", LOCK_FILES, CLASSIFY, out=ANSWERS, environment={"TMPDIR": "/nowhere", "HOME": "/nowhere"}),
    # little of everything
    Row("one core", ("taskset", "-c", "0"), ("verify", "--json", "{}/bundle"), out='.*"passed": true.*\n'),
    Row("20 descriptors: classify", FEW, CLASSIFY, out=ANSWERS),
    Row("20 descriptors: isolated", FEW, (*CLASSIFY, "--isolate"), out=ANSWERS, err=HELD),
    Row("20 descriptors: scan", FEW, (*SCAN, "--out", "{}/r"), out="(?s)1 field, .*"),
    Row("20 descriptors: watch", FEW, WATCH, out=r"(\{.*\}\n){2}", err="note: 2 answered, .*"),
    Row("400 MB of address space", LIMITED, CLASSIFY, out=ANSWERS, environment={"OPENBLAS_NUM_THREADS": "1"}),
    Row(
        "400 MB of address space: 100 megapixels",
        LIMITED,
        BIG,
        1,
        r"(?s).*a\.jpg: .*",
        TOO_LARGE,
        {"OPENBLAS_NUM_THREADS": "1"},
    ),
    # a bare kernel
    Row("no /proc and /sys: classify", BARE_KERNEL, CLASSIFY, out=ANSWERS),
    Row("no /proc and /sys: isolated", BARE_KERNEL, (*CLASSIFY, "--isolate"), out=ANSWERS, err=HELD),
    Row("no /proc and /sys: verify", BARE_KERNEL, ("verify", "{}/bundle"), out=VERIFIED),
    Row("no /proc and /sys: doctor", BARE_KERNEL, ("doctor",), out=r"(?s)ok .*, 0 failed\n"),
    # standard streams
    Row("no standard input", shell("<&-"), ("classify", "-"), 1, NOTE, "error: stdin: empty: .*"),
    Row("no standard output", shell(">&-"), CLASSIFY),
    Row("no standard error", shell("2>&-"), ("classify", "/nowhere/x.png"), 1, NOTE),
    Row("no standard streams", shell("<&- >&- 2>&-"), (*CLASSIFY, "--output", "{}/o", "--isolate")),
    Row("a reader that has enough", shell("| head -n 1"), (*CLASSIFY, "--json"), out=r"\{.*\}\n"),
    # clocks
    Row(
        "a monotonic clock that starts in three years",
        ("unshare", "-T", "--monotonic", "100000000", "--fork"),
        WATCH,
        out=r"(\{.*\}\n){2}",
        err="note: 2 answered, .*",
    ),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, valid_bundle: Path) -> Path:
    """A folder with pictures, a bundle and a copy of the package without byte code, to be copied."""
    folder = tmp_path_factory.mktemp("hard")
    (folder / "pictures").mkdir()
    (folder / "full").mkdir()
    (folder / "Prüfung").mkdir()
    field = Image.fromarray(smear(1024, 3)).crop((0, 0, 1024, 768))
    (folder / "pictures" / "a.jpg").write_bytes(encoded(field, "JPEG"))
    (folder / "pictures" / "b.png").write_bytes(encoded(Image.fromarray(smear(96, 1))))
    (folder / "Prüfung" / "Zelle ä.png").write_bytes(encoded(Image.fromarray(smear(96, 2))))
    (folder / "big.png").write_bytes(bomb(10_000, 10_000))
    shutil.copytree(valid_bundle, folder / "bundle")
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "edge_runtime", folder / "copy" / "edge_runtime", ignore=unwanted)
    return folder


@pytest.fixture
def folder(place: Path, tmp_path: Path) -> Path:
    """The test's own copy of `place`, but for the package, which nobody writes to."""
    copied = shutil.copytree(place, tmp_path / "hard", ignore=shutil.ignore_patterns("copy"))
    (copied / "copy").symlink_to(place / "copy")
    return Path(copied)


@cache
def why_not(under: tuple[str, ...]) -> str | None:
    """Say why this machine cannot bring a hardship about, by trying it, once, on a Python that does nothing."""
    if not under or under[:2] == ("sh", "-c"):
        return None
    if shutil.which(under[0]) is None:
        return f"no {under[0]} here"
    with TemporaryDirectory() as folder:
        (Path(folder) / "full").mkdir()
        zeroth = [folder] if "sh" in under else []
        command = [*under, *zeroth, sys.executable, "-c", "import numpy"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        return None
    return f"this machine or user cannot: {' '.join(done.stderr.split())[:150] or done.returncode}"


def tried(row: Row, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a row's command under its hardship."""
    if reason := why_not(row.under):
        pytest.skip(reason)
    filled = [part.replace("{}", str(folder)) for part in row.command]
    tiny = row.command[0] in ("classify", "watch") and "{}" in "".join(row.command)  # else those that came along
    model = ["--model", str(folder / "bundle")] if tiny else []
    zeroth = [str(folder)] if "sh" in row.under else []
    command = [*row.under, *zeroth, sys.executable, "-m", "edge_runtime", filled[0], *model, *filled[1:]]
    environment = {} if row.alone else {**os.environ, "LEUKOSCOPE_CONFIG": str(folder / "none.json")}
    for name, value in row.environment.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value.replace("{}", str(folder))
    home = ROOT if row.home is None else folder / row.home
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        cwd=home,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_hardship_is_answered(row: Row, folder: Path) -> None:
    done = tried(row, folder)
    told = f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == row.status and re.fullmatch(row.out, done.stdout), told
    assert re.fullmatch(row.err + "\n" if row.err else "", done.stderr), told
    assert not list(folder.rglob("*.part")), "no half of a file stays behind"
    if row.name == "no locale: umlauts":
        assert (folder / "Bilder ü" / "Zelle ä.overlay.png").is_file()
        (line,) = (folder / "ü.jsonl").read_text("utf-8").splitlines()
        assert os.fsencode(json.loads(line)["picture"]) == os.fsencode(folder / "Prüfung" / "Zelle ä.png")


def test_one_core_is_one_thread(folder: Path) -> None:
    done = tried(Row("", ("taskset", "-c", "0"), ("doctor",), out=".*"), folder)
    assert re.search(r"golden pictures right with \S+, 1 thread\n", done.stdout), done.stdout


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of this test's own with 128 MB, no swap; skipped where none can be made."""
    own = Path("/proc/self/cgroup")
    lines = dict(line.split(":", 2)[1:] for line in own.read_text("ascii").splitlines()) if own.exists() else {}
    tries = (
        (Path("/sys/fs/cgroup/memory") / lines.get("memory", "/").lstrip("/"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup") / lines.get("", "/").lstrip("/"), "memory.max"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    )
    for top, limit in tries:
        group = top / f"leukoscope-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(128 * 2**20), "ascii")
        except OSError:
            group.rmdir()
            continue
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            with suppress(OSError):
                (group / swap).write_text(str(128 * 2**20) if "memsw" in swap else "0", "ascii")
        yield group
        for _ in range(100):
            with suppress(OSError):
                group.rmdir()
                return
            time.sleep(0.05)
        return
    pytest.skip("no memory control group can be made here (not root, or a container)")


def in_group(group: Path) -> tuple[str, ...]:
    """Return what runs a command in a control group."""
    return ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"')


@pytest.mark.parametrize("isolate", [(), ("--isolate",)])
def test_128_mb_are_enough_for_a_field(folder: Path, small_group: Path, isolate: tuple[str, ...]) -> None:
    done = tried(Row("", in_group(small_group), (*CLASSIFY, *isolate)), folder)
    assert done.returncode == 0 and re.fullmatch(ANSWERS, done.stdout), done.stderr


@pytest.mark.parametrize("command", [BIG, ("scan", "{}/big.png", "{}/pictures/a.jpg", "--um-per-px", "0.2")])
def test_100_megapixels_in_128_mb_are_one_line_and_nobody_is_killed(
    folder: Path, small_group: Path, command: tuple[str, ...]
) -> None:
    done = tried(Row("", in_group(small_group), command), folder)
    assert done.returncode == 1 and re.fullmatch(TOO_LARGE + "\n", done.stderr), done.stderr
    assert re.search(r"got 10000 x 10000 pixels, about 832 MB, expected at most the \d+ MB", done.stderr)
    assert "a.jpg: " in done.stdout or "2 fields" in done.stdout or "1 failed" in done.stdout


CLOCKED = """
import datetime, sys, time
offset = lambda: float(open(sys.argv[1]).read() or 0)
honest, aware = time.time, datetime.datetime
time.time = lambda: honest() + offset()
class Clock(aware):
    @classmethod
    def now(cls, tz=None):
        return aware.fromtimestamp(time.time(), tz)
datetime.datetime = Clock
from edge_runtime.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_clock_that_jumps_neither_stops_watch_nor_doubles_a_result(folder: Path, tmp_path: Path) -> None:
    """Back a day, then forward a year, as a board without a clock does when it finds a network."""
    clock, inbox, taken = tmp_path / "clock", tmp_path / "inbox", tmp_path / "taken"
    clock.write_text("0", encoding="ascii")
    inbox.mkdir()
    command = [sys.executable, "-c", CLOCKED, str(clock), "watch", str(inbox), "--model", str(folder / "bundle")]
    options = ["--settle", "0.1", "--output", str(tmp_path / "out.jsonl"), "--on-result", f"tee -a {taken}"]
    process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        for number, offset_s in enumerate((0, -86400, 365 * 86400, 0)):
            clock.write_text(str(offset_s), encoding="ascii")
            (inbox / f"{number}.png").write_bytes(encoded(Image.fromarray(smear(48, number))))
            bound = time.monotonic() + 30
            while not taken.exists() or taken.read_bytes().count(b"\n") <= number:
                assert time.monotonic() < bound and process.poll() is None, "waited in vain"
                time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        _, err = process.communicate()
    assert b"Traceback" not in err and b"4 answered" in err
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4]
    assert len({line["time"][:10] for line in lines}) == 3, "the clock did jump"
    assert [json.loads(line)["sequence"] for line in taken.read_text("utf-8").splitlines()] == [1, 2, 3, 4]
