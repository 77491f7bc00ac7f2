"""``camera``: frames of a camera or video in; a line or JSON object for each that is answered out, until it is stopped.

While a frame is being answered, the camera goes on: the next one answered is the newest then, and the ones in between
are counted as dropped.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import DEFAULT_MODEL
from ..errors import EngineGoneError, LeukoscopeError, UsageError
from ..guard import complain
from .opening import add_command, engine_options, open_classifier, trust_option
from .output import FAILED
from .scan import MODEL as CELL_MODEL

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from ..camera import Camera, Frame
    from ..classifier import Classifier
    from ..preprocess import Pixels
    from ..scan import FieldScan
    from .opening import Commands

EXAMPLES = """\
examples:
  python -m edge_runtime camera                                   # the first camera, /dev/video0, until Ctrl-C
  python -m edge_runtime camera picamera2 --size 2028x1520 --every 2
  python -m edge_runtime camera /dev/video2 --json --save seen/ > answers.jsonl
  python -m edge_runtime camera slide.avi --every-frame --json    # a recording, frame by frame
  python -m edge_runtime camera --scan --size 1920x1080           # the white cells of each frame, counted
"""

WAIT_S = 0.2
"""How soon a signal to stop is noticed."""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    camera = add_command(
        commands,
        "camera",
        "classify what a camera sees",
        "Classify the frames of a camera or video file, always the newest, until Ctrl-C or SIGTERM, the end of the "
        "file, or --frames. A summary goes to standard error.",
        EXAMPLES,
    )
    camera.add_argument(
        "source",
        nargs="?",
        default="0",
        metavar="SOURCE",
        help="a camera's number or device (/dev/video0), picamera2, or a video file; default: %(default)s",
    )
    camera.add_argument("--json", action="store_true", help="one JSON object per answered frame and line")
    camera.add_argument(
        "--scan", action="store_true", help="find the white cells of each frame and classify them one by one"
    )
    camera.add_argument("--size", type=_size, metavar="WxH", help="to ask the camera for; default: its driver's choice")
    pace = camera.add_mutually_exclusive_group()
    pace.add_argument(
        "--every", type=_seconds, default=0.0, metavar="SECONDS", help="between answers; default: as fast as it goes"
    )
    pace.add_argument("--every-frame", action="store_true", help="of a video file: frame by frame, none dropped")
    camera.add_argument("--frames", type=_count, metavar="N", help="stop after so many answers")
    camera.add_argument("--save", metavar="FOLDER", help="keep the answered frames there as PNG, one folder per run")
    camera.add_argument("--top", type=_count, default=3, metavar="N", help="labels in a line; default: %(default)s")
    camera.add_argument(
        "--model", metavar="MODEL", help=f"name or path; default: {DEFAULT_MODEL}, to scan {CELL_MODEL}"
    )
    engine_options(camera)
    trust_option(camera)
    camera.set_defaults(run=_camera)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a size such as 1920x1080")
    return int(found[1]), int(found[2])


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 86_400.0:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected seconds, 0 to 86400")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least 1")
    return int(text)


def _camera(options: argparse.Namespace) -> int:
    from .. import report
    from ..camera import Camera

    classifier = open_classifier(options.model or (CELL_MODEL if options.scan else DEFAULT_MODEL), options)
    answer = _answer(classifier, options)
    answered = failures = 0
    with Camera.open(options.source, options.size, options.every_frame) as camera, _stoppable() as stop:
        folder = None if options.save is None else _run_folder(options.save)
        try:
            for frame in _frames(camera, options.every, stop):
                saved = None if folder is None else _save(frame, folder)
                try:
                    found, line = answer(frame.pixels, f"frame {frame.number}")
                    answered += 1
                except EngineGoneError:  # no frame will ever be answered any more
                    raise
                except LeukoscopeError as error:
                    failures += 1
                    complain(f"frame {frame.number}: {error}")
                    found, line = {"error": str(error)}, None
                if options.json:
                    print(report.json_line({**_facts(frame, camera, saved), **found}), flush=True)
                elif line is not None:
                    print(f"{line}; {camera.dropped} dropped", flush=True)
                if answered == options.frames:
                    break
        finally:
            seen, dropped = camera.seen, camera.dropped
            print(f"{seen} frames seen, {answered} answered, {dropped} dropped", file=sys.stderr)
    if not options.json:
        print(report.NOTE)
    return FAILED if failures else 0


def _answer(classifier: Classifier, options: argparse.Namespace) -> Callable[[Pixels, str], tuple[dict[str, Any], str]]:
    """Return what turns a frame's pixels and name into an answer for programs and a line for people."""
    from .. import report

    if not options.scan:

        def classified(pixels: Pixels, name: str) -> tuple[dict[str, Any], str]:
            prediction = classifier.classify(pixels, name)
            return prediction.to_dict(), report.prediction_line(name, prediction, options.top)

        return classified
    from ..scan import Scanner

    scanner = Scanner(classifier)

    def scanned(pixels: Pixels, name: str) -> tuple[dict[str, Any], str]:
        field = scanner.scan(pixels, name)
        return field.to_dict(), _counted(field)

    return scanned


def _counted(field: FieldScan) -> str:
    """Say in a line what cells a frame has."""
    if field.refusals:
        return f"{field.name}: no answer: {'; '.join(refusal.text for refusal in field.refusals)}"
    labels = Counter(cell.prediction.label for cell in field.cells if field.left_out(cell) is None)
    left_out = len(field.cells) - labels.total()
    nothing = "no cell counted" if field.cells else "no white cell"
    counts = ", ".join(f"{label} {count}" for label, count in labels.most_common()) or nothing
    return f"{field.name}: {counts}; {left_out} left out; {field.timings_ms['total']:.0f} ms"


def _facts(frame: Frame, camera: Camera, saved: Path | None) -> dict[str, Any]:
    facts = {"frame": frame.number, "time_s": round(frame.time_s, 3), "dropped": camera.dropped}
    return facts if saved is None else {**facts, "picture": str(saved)}


class _Stop:
    """Whether to stop; set by a signal."""

    asked = False


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """Turn the first Ctrl-C or SIGTERM into a wish; a second one acts as usual."""
    stop = _Stop()
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(*_: int | FrameType | None) -> None:
        stop.asked = True
        for number, handler in usual.items():
            signal.signal(number, handler)

    for number in usual:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def _frames(camera: Camera, every_s: float, stop: _Stop) -> Iterator[Frame]:
    """Give the newest frame, again and again, not more often than `every_s`; say when the camera goes and comes."""
    due, connected = time.monotonic(), True
    while not stop.asked:
        pause = due - time.monotonic()
        if pause > 0.0:
            time.sleep(min(pause, WAIT_S))
            continue
        frame = camera.newest(WAIT_S)
        if camera.ended and frame is None:
            return
        if camera.connected is not connected:
            connected = camera.connected
            complain(f"{camera.source}: {'back' if connected else 'gone; it is being opened again'}", "warning")
        if frame is not None:
            due = time.monotonic() + every_s
            yield frame


def _run_folder(target: str) -> Path:
    """Make a folder for this run below `target`, named by its start: no run overwrites another's frames."""
    from pathlib import Path

    from ..files import make_folder, require_writable

    make_folder(Path(target))
    start = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in range(1, 1000):
        folder = Path(target) / (start if number == 1 else f"{start}-{number}")
        if not folder.exists():
            make_folder(folder)
            require_writable(folder)
            return folder
    raise UsageError("--save: too many runs began in this second", got=target)


def _save(frame: Frame, folder: Path) -> Path:
    from PIL import Image

    from ..files import write_whole

    path = folder / f"{frame.number:06d}.png"
    with write_whole(path) as stream:
        Image.fromarray(frame.pixels).save(stream, "PNG", compress_level=1)  # lossless: it classifies the same again
    return path
