"""Energy: what the machine itself says an answer takes, where it says so.

What comes in is something to do again and again; what goes out is an `Energy`, or None: most machines do not tell.
Three kinds tell: PCs with RAPL count energy, a Jetson's INA3221 and a Raspberry Pi 5's PMIC measure power, which is
read while the work runs. All of it is the whole package's or board's, so that an idle machine's power is measured, too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.02
"""Between two readings of a power, seconds."""


class UnreadError(Exception):
    """A source told nothing that is a number."""


@dataclass(frozen=True)
class Source:
    """Where energy is read.

    Attributes:
        name: for people.
        watts: reads the power now; None: it counts energy.
        joules: reads what was counted so far, and where the count starts anew; None: it measures power.
    """

    name: str
    watts: Callable[[], float] | None = None
    joules: Callable[[], list[tuple[float, float]]] | None = None


@dataclass(frozen=True)
class Energy:
    """What was read.

    Attributes:
        source: for people.
        idle_w: power while nothing was done, watts.
        busy_w: power while answers were given, watts.
        mj: of one answer, millijoules, idle power included.
        mj_above_idle: without it.
    """

    source: str
    idle_w: float
    busy_w: float
    mj: float
    mj_above_idle: float


def measure(run: Callable[[], object], source: Source | None, seconds: float = 5.0) -> Energy | None:
    """Do something again and again, and say what each time took.

    Args:
        run: to do.
        source: of `find_source`.
        seconds: to do it; half of it is waited before, idle.

    Returns:
        None where there is no source, or it could not be read after all.
    """
    if source is None:
        return None
    try:
        idle_w, _ = _power(lambda: time.sleep(SAMPLE_S), source, seconds / 2)
        busy_w, pace = _power(run, source, seconds)
    except UnreadError:
        return None
    return Energy(source.name, idle_w, busy_w, 1000 * busy_w / pace, 1000 * max(busy_w - idle_w, 0.0) / pace)


def _power(run: Callable[[], object], source: Source, seconds: float) -> tuple[float, float]:
    """Return (watts on average, runs per second)."""
    before = source.joules() if source.joules else []
    readings: list[float] = []
    over = threading.Event()

    def read() -> None:
        while source.watts and not over.wait(SAMPLE_S):
            with suppress(UnreadError):  # a bus is busy at times
                readings.append(source.watts())

    reader = threading.Thread(target=read)
    reader.start()
    start, runs = time.perf_counter(), 0
    try:
        while time.perf_counter() - start < seconds:
            run()
            runs += 1
        lasted = time.perf_counter() - start
    finally:
        over.set()
        reader.join()
    if source.joules:
        after = source.joules()
        used = sum((now - then) % range_j for (now, range_j), (then, _) in zip(after, before, strict=True))
        return used / lasted, runs / lasted
    if not readings:
        raise UnreadError(source.name)
    return sum(readings) / len(readings), runs / lasted


def find_source(root: Path = Path("/")) -> Source | None:
    """Return where this machine tells, None where it does not.

    Args:
        root: of the file system.
    """
    return _rapl(root) or _ina3221(root) or _pmic()


def _rapl(root: Path) -> Source | None:
    """Packages only: what is inside one (cores, graphics) is counted with it."""
    packages = [
        folder
        for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
        if re.fullmatch(r"intel-rapl:\d+", folder.name) and _text(folder / "name").startswith("package")
    ]
    counts = ("energy_uj", "max_energy_range_uj")
    if not packages or not all(_text(folder / count) for folder in packages for count in counts):
        return None  # they are there, but for root only

    def joules() -> list[tuple[float, float]]:
        return [
            (_number(folder / "energy_uj") / 1e6, (_number(folder / "max_energy_range_uj") + 1) / 1e6)
            for folder in packages
        ]

    return Source("RAPL, CPU package", joules=joules)


def _ina3221(root: Path) -> Source | None:
    """The channel of the whole board, whose label ends with ``_IN``; millivolts and milliamperes."""
    labels = (root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*/in*_label")
    whole = next((label for label in sorted(labels) if _text(label).upper().endswith("_IN")), None)
    if whole is None:
        return None
    number = whole.name.removeprefix("in").removesuffix("_label")
    volts, amperes = whole.with_name(f"in{number}_input"), whole.with_name(f"curr{number}_input")
    return Source(f"INA3221, {_text(whole)}", watts=lambda: _number(volts) * _number(amperes) / 1e6)


def _pmic() -> Source | None:
    """Raspberry Pi 5: current and voltage of every rail of its power chip."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None

    def watts() -> float:
        told = subprocess.run([program, "pmic_read_adc"], capture_output=True, text=True, check=False)
        found = rails_w(told.stdout)
        if not found:
            raise UnreadError(told.stdout)
        return found

    try:
        watts()
    except (OSError, UnreadError):
        return None
    return Source("Raspberry Pi's power chip, all rails", watts=watts)


def rails_w(told: str) -> float:
    """Sum the power of the rails in what ``vcgencmd pmic_read_adc`` prints, watts; 0 where it printed none."""
    found = {
        (rail, kind): float(value)
        for rail, kind, value in re.findall(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([\d.]+)[AV]", told)
    }
    return sum(
        value * found[rail, "V"] for (rail, kind), value in found.items() if kind == "A" and (rail, "V") in found
    )


def _number(path: Path) -> int:
    try:
        return int(_text(path))
    except ValueError:
        raise UnreadError(path) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
