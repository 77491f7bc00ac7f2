"""Camera sources: a V4L2 or USB camera, the Pi's own camera, or a video file, opened as a `Reader` of RGB frames.

What comes in is a source's name; what goes out is an open reader, or a `CameraError` that says what to do. No network
is used: a camera elsewhere is not a source. OpenCV (the extra ``camera``) and picamera2 (which comes with Raspberry Pi
OS) are imported only where a source needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import CameraError, UsageError
from .preprocess import Pixels

Size = tuple[int, int]
"""(width, height), pixels."""

USUAL_FPS = 25.0
"""Of a video file that does not say how fast it is to be played."""


class Reader(Protocol):
    """An open source."""

    fps: float
    """Frames per second that it is to be played at; 0 where it comes at its own pace."""

    def read(self) -> Pixels | None:
        """Wait for the next frame, (H, W, 3) uint8 RGB; None: there is no more, or the camera is gone."""

    def close(self) -> None:
        """Let the source go."""


@dataclass(frozen=True)
class Kind:
    """A kind of source: whether it is a camera, and how it is opened."""

    live: bool
    open: Callable[[str, Size | None], Reader]


def kind_of(source: str) -> Kind:
    """Return the kind of a source by its name.

    Raises:
        UsageError: it is an address in a network.
    """
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
            with suppress(Exception):
                camera.close()
        got = f"{type(error).__name__}: {error}"
        raise CameraError(f"{source}: cannot be opened", got=got, todo="check: rpicam-hello --list-cameras") from None
    return _PiCamera(camera)


_KINDS = {
    "camera": Kind(True, _open_camera),
    "picamera2": Kind(True, _open_picamera2),
    "file": Kind(False, _open_file),
}
