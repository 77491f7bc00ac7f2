"""Cameras: the newest frame of a V4L2 or USB camera, of the Pi's own camera, or of a video file.

What comes in is the name of a source; what goes out are frames, RGB pixels with a number. A thread takes every frame
from the source and holds the newest only: whoever needs longer than the camera gets a picture of now, not of a while
ago, and what was dropped is counted. A camera that is unplugged is opened again, until it has been silent for too
long. Nothing is classified here and no network is used: a camera elsewhere is not a source. OpenCV (the extra
``camera``) and picamera2 (which comes with Raspberry Pi OS) are imported only where a source needs them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from .errors import CameraError, UsageError
from .preprocess import Pixels

Size = tuple[int, int]
"""(width, height), pixels."""

SILENCE_S = 30.0
"""A camera that gave no frame for so long is an error; until then it is opened again and again."""

RETRY_S = (0.5, 1.0, 2.0, 4.0)
"""Pauses before it is opened again; the last one repeats."""

USUAL_FPS = 25.0
"""Of a video file that does not say how fast it is to be played."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        number: of the frame among all that the source gave, dropped ones too; the first is 1.
        time_s: when it came, seconds after the camera was opened.
    """

    pixels: Pixels
    number: int
    time_s: float


class Reader(Protocol):
    """An open source."""

    fps: float
    """Frames per second that it is to be played at; 0 where it comes at its own pace."""

    def read(self) -> Pixels | None:
        """Wait for the next frame, (H, W, 3) uint8 RGB; None: there is no more, or the camera is gone."""

    def close(self) -> None:
        """Let the source go."""


class Camera:
    """An open camera or video. Close it, or use it in a ``with`` block.

    Attributes:
        source: as it was named.
        live: True for cameras, False for files.
    """

    def __init__(self, source: str, live: bool, every_frame: bool, again: Callable[[], Reader]) -> None:
        """Open the source and begin to take frames; `open` is what most callers want.

        Args:
            source: what errors call it.
            live: open it again when it is gone.
            every_frame: wait until each frame was asked for.
            again: opens the source.
        """
        self.source, self.live = source, live
        self._every_frame, self._again = every_frame, again
        self._changed = threading.Condition()  # guards all that follows
        self._frame: Frame | None = None
        self._error: CameraError | None = None
        self._count = self._dropped = 0
        self._connected, self._ended, self._stopping = True, False, False
        reader = again()
        self._opened = self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._grab, args=(reader,), name=f"camera {source}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, source: str, size: Size | None = None, every_frame: bool = False) -> Camera:
        """Open a camera or a video file.

        Args:
            source: a number or a device such as "/dev/video0" (V4L2), "picamera2", or the path of a video file.
            size: to ask a camera for; it may give the nearest it has. Default: the driver's choice.
            every_frame: of a file: take frame after frame, however long each takes, and drop none. Default: play it at
                its own speed, as a camera would.

        Raises:
            CameraError: no such camera or file, no permission, in use, or OpenCV or picamera2 is not installed.
            UsageError: a source or option that makes no sense.
        """
        kind = _kind(source)
        if kind.live and every_frame:
            raise UsageError("every frame can be had of a video file only", got=source)
        if not kind.live and size is not None:
            raise UsageError("a video file has its own size", got=f"{size[0]}x{size[1]}")
        return cls(source, kind.live, every_frame, lambda: kind.open(source, size))

    @property
    def dropped(self) -> int:
        """Return how many frames came and were replaced before anybody asked for them."""
        with self._changed:
            return self._dropped

    @property
    def seen(self) -> int:
        """Return how many frames came."""
        with self._changed:
            return self._count

    @property
    def connected(self) -> bool:
        """Return False while a camera is gone and is being opened again."""
        with self._changed:
            return self._connected

    @property
    def ended(self) -> bool:
        """Return whether there will be no further frame: the file is over and its last frame was given."""
        with self._changed:
            return self._ended and self._frame is None

    def newest(self, timeout_s: float) -> Frame | None:
        """Wait for a frame that was not given before.

        Returns:
            The newest frame; None when none came in time, or when there is no more (see `ended`).

        Raises:
            CameraError: the camera has been silent for `SILENCE_S`, or the video cannot be read.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame or self._ended or self._error, timeout_s)
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            if frame is None and self._error is not None:
                raise self._error
            if frame is None and self.live and not self._ended and self._silent():
                raise self._lost("")  # its driver hangs: the thread is not to be had
            return frame

    def close(self) -> None:
        """Stop taking frames and let the source go."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout=2.0)  # longer only where a driver hangs; the thread is no reason to stay alive

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _grab(self, reader: Reader | None) -> None:
        """Take frames until the source ends or `close` is called; the thread's whole life."""
        try:
            while reader is not None and not self._stopping:
                pixels, why = _read(reader)
                if pixels is not None:
                    self._offer(pixels, reader.fps)
                elif self.live:
                    _close(reader)
                    reader = None
                    reader = self._reopen(why)
                elif self._count == 0 or why:
                    raise CameraError(f"{self.source}: cannot be read as a video", got=why or "no frame in it")
                else:
                    break
        except CameraError as error:
            with self._changed:
                self._error = error
        finally:
            if reader is not None:
                _close(reader)
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _offer(self, pixels: Pixels, fps: float) -> None:
        """Put a frame where `newest` finds it, when it is due."""
        with self._changed:
            if fps and not self._every_frame:
                due = self._opened + self._count / fps
                self._changed.wait_for(lambda: self._stopping, max(0.0, due - time.monotonic()))
            elif self._every_frame:
                self._changed.wait_for(lambda: self._frame is None or self._stopping)
            if self._stopping:
                return
            self._connected = True
            self._count += 1
            self._dropped += self._frame is not None
            self._heard = time.monotonic()
            self._frame = Frame(pixels, self._count, self._heard - self._opened)
            self._changed.notify_all()

    def _reopen(self, why: str) -> Reader | None:
        """Open a camera that is gone again; None when `close` was called meanwhile.

        Raises:
            CameraError: it has been silent for too long.
        """
        tries = 0
        with self._changed:
            self._connected = False
        while True:
            with self._changed:
                pause = RETRY_S[min(tries, len(RETRY_S) - 1)]
                if self._changed.wait_for(lambda: self._stopping, pause):
                    return None
                if self._silent():
                    raise self._lost(why)
            try:
                return self._again()
            except CameraError as error:
                tries, why = tries + 1, error.what

    def _silent(self) -> bool:
        return time.monotonic() - self._heard > SILENCE_S

    def _lost(self, why: str) -> CameraError:
        return CameraError(f"{self.source}: no frame for {SILENCE_S:g} s", got=why or None, todo="check its cable")


def _read(reader: Reader) -> tuple[Pixels | None, str]:
    """Return a frame, or why there is none ("" where the source does not say)."""
    try:
        return reader.read(), ""
    except Exception as error:  # noqa: BLE001 - OpenCV and libcamera raise anything when a device goes
        return None, f"{type(error).__name__}: {error}"


def _close(reader: Reader) -> None:
    with suppress(Exception):  # a device that is gone cannot be stopped
        reader.close()


@dataclass(frozen=True)
class _Kind:
    """A kind of source: whether it is a camera, and how it is opened."""

    live: bool
    open: Callable[[str, Size | None], Reader]


def _kind(source: str) -> _Kind:
    if source == "picamera2":
        return _KINDS["picamera2"]
    if "://" in source:
        raise UsageError("this program opens no network connection", got=source, expected="a camera or a file")
    return _KINDS["camera" if source.isdecimal() or source.startswith("/dev/") else "file"]


class _OpenCV:
    """A `Reader` on OpenCV's VideoCapture."""

    def __init__(self, capture: Any, cv2: Any, fps: float = 0.0) -> None:
        self._capture, self._cv2, self.fps = capture, cv2, fps

    def read(self) -> Pixels | None:
        """Read a frame; OpenCV's are BGR."""
        there, frame = self._capture.read()
        if not there:
            return None
        pixels: Pixels = self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)
        return pixels

    def close(self) -> None:
        """Let the device or file go."""
        self._capture.release()


def _import_opencv() -> Any:
    # Both speak to standard error by themselves; what matters of it becomes a CameraError. Their Python functions for
    # this differ between OpenCV 4 and 5, these variables do not; they count when OpenCV is first imported.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        todo = "pip install 'leukoscope[camera]'"
        raise CameraError("OpenCV is not installed", got=str(error), todo=todo) from None
    return cv2


def _open_camera(source: str, size: Size | None) -> Reader:
    if sys.platform != "linux":  # there cameras have numbers only, and OpenCV its own ways to them
        cv2 = _import_opencv()
        return _opened(cv2, cv2.VideoCapture(int(source) if source.isdecimal() else source), source, size)
    device = f"/dev/video{source}" if source.isdecimal() else source
    if not os.path.exists(device):
        raise CameraError(f"{device}: no such camera", todo="what is there: python -m edge_runtime doctor")
    if not os.access(device, os.R_OK | os.W_OK):
        todo = "sudo usermod -aG video $USER, then log in again"
        raise CameraError(f"{device}: no permission", expected="membership of the group video", todo=todo)
    cv2 = _import_opencv()
    return _opened(cv2, cv2.VideoCapture(device, cv2.CAP_V4L2), device, size)


def _opened(cv2: Any, capture: Any, device: str, size: Size | None) -> Reader:
    if not capture.isOpened():
        capture.release()
        raise CameraError(f"{device}: cannot be opened as a camera", todo="is another program using it?")
    if size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    return _OpenCV(capture, cv2)


def _open_file(source: str, _: Size | None) -> Reader:
    path = Path(source)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        expected = "a camera's number, /dev/video..., picamera2, or a video file"
        raise CameraError(f"{source}: {what}", expected=expected)
    if not os.access(path, os.R_OK):
        raise CameraError(f"{source}: no permission to read it")
    cv2 = _import_opencv()
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        capture.release()
        raise CameraError(f"{source}: not a video that OpenCV can read")
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return _OpenCV(capture, cv2, fps if 0.0 < fps <= 1000.0 else USUAL_FPS)


class _PiCamera:
    """A `Reader` on picamera2."""

    fps = 0.0

    def __init__(self, camera: Any) -> None:
        self._camera = camera

    def read(self) -> Pixels | None:
        """Wait for a frame."""
        return np.ascontiguousarray(self._camera.capture_array("main"), dtype=np.uint8)

    def close(self) -> None:
        """Stop the camera and let it go."""
        self._camera.stop()
        self._camera.close()


def _open_picamera2(source: str, size: Size | None) -> Reader:
    try:
        from picamera2 import Picamera2
    except Exception as error:  # noqa: BLE001 - against another numpy it raises ValueError, without libcamera ImportError
        todo = "sudo apt install python3-picamera2, and a venv with --system-site-packages"
        raise CameraError("picamera2 cannot be imported", got=f"{type(error).__name__}: {error}", todo=todo) from None
    camera = None
    try:
        camera = Picamera2()
        # libcamera names formats by their order in a little-endian word: BGR888 is R, G, B in memory.
        stream: dict[str, Any] = {"format": "BGR888"} | ({"size": size} if size else {})
        camera.configure(camera.create_video_configuration(main=stream))
        camera.start()
    except Exception as error:  # noqa: BLE001 - no camera is an IndexError, one in use a RuntimeError
        if camera is not None:
            camera.close()
        got = f"{type(error).__name__}: {error}"
        raise CameraError(f"{source}: cannot be opened", got=got, todo="check: rpicam-hello --list-cameras") from None
    return _PiCamera(camera)


_KINDS = {
    "camera": _Kind(True, _open_camera),
    "picamera2": _Kind(True, _open_picamera2),
    "file": _Kind(False, _open_file),
}
