"""Live: the newest frame of a camera, for several people who look at once.

What comes in is a way to open a camera; what goes out are its newest frame, as pixels or JPEG, and its state. A camera
that fails is opened again for as long as the service runs: somebody plugs it in sooner or later. A film begins anew.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from PIL import Image

from ..errors import LeukoscopeError
from ..preprocess import Pixels
from .problems import RequestError

RETRY_S = 2.0
"""Pause before a failed camera is opened again."""

AGAIN_S = 0.1
"""Pause before a film begins anew: one without pictures must not keep a core busy."""

STALE_S = 5.0
"""A frame older than this is not what is under the microscope now."""


class Frame(Protocol):
    """A frame: `camera.Frame`."""

    @property
    def pixels(self) -> Pixels:
        """(H, W, 3) uint8 RGB."""

    @property
    def number(self) -> int:
        """Of all frames that the source gave."""


class Source(Protocol):
    """An open camera: `camera.Camera`."""

    @property
    def dropped(self) -> int:
        """How many frames nobody asked for in time."""

    @property
    def ended(self) -> bool:
        """Whether there will be no further frame: a film is over."""

    def newest(self, timeout_s: float) -> Frame | None:
        """Wait for a frame that was not given before."""

    def close(self) -> None:
        """Let the camera go."""


class Live:
    """A camera that is looked at until `close`."""

    def __init__(self, open_source: Callable[[], Source]) -> None:
        """Begin to take frames."""
        self._open = open_source
        self._lock = threading.Lock()
        self._frame: Frame | None = None
        self._came_s = 0.0
        self._dropped = 0
        self._error = ""
        self._jpeg: tuple[Frame, bytes] | None = None
        self._encoding = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="live", daemon=True)
        self._thread.start()

    def state(self) -> dict[str, Any]:
        """Return what is known of the camera, as JSON takes it."""
        with self._lock:
            frame = self._frame
            fresh = frame is not None and time.monotonic() - self._came_s < STALE_S
            height, width = frame.pixels.shape[:2] if frame is not None else (None, None)
            return {
                "present": fresh,
                "width": width,
                "height": height,
                "frame": None if frame is None else frame.number,
                "dropped": self._dropped,
                "error": self._error or None,
            }

    def frame(self) -> Frame:
        """Return the newest frame.

        Raises:
            RequestError: 503, there is none, or it is not of now.
        """
        with self._lock:
            if self._frame is None or time.monotonic() - self._came_s >= STALE_S:
                raise RequestError(
                    503, "no frame from the camera", got=self._error or None, todo="check its cable, then try again"
                )
            return self._frame

    def jpeg(self) -> tuple[int, bytes]:
        """Return the newest frame's number and JPEG, encoded once however many look.

        Raises:
            RequestError: 503, as `frame`.
        """
        frame = self.frame()
        with self._encoding:
            # Not by its number: a camera that was opened again counts from 1.
            if self._jpeg is None or self._jpeg[0] is not frame:
                stream = io.BytesIO()
                Image.fromarray(frame.pixels).save(stream, "JPEG", quality=85)
                self._jpeg = (frame, stream.getvalue())
            return frame.number, self._jpeg[1]

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                source = self._open()
                try:
                    self._take(source)
                finally:
                    source.close()
                self._stop.wait(AGAIN_S)
            except LeukoscopeError as error:
                self._failed(str(error))
            except Exception as error:  # noqa: BLE001 - a driver raises anything, and looking must go on
                self._failed(f"the camera failed: {type(error).__name__}")

    def _failed(self, error: str) -> None:
        """Note what is wrong with the camera, and give it time."""
        if error != self._error:  # once, not every two seconds
            logging.getLogger(__name__).warning("%s", error)
        with self._lock:
            self._error = error
        self._stop.wait(RETRY_S)

    def _take(self, source: Source) -> None:
        while not self._stop.is_set():
            frame = source.newest(timeout_s=0.5)
            with self._lock:
                self._dropped = source.dropped
                if frame is not None:
                    self._frame, self._came_s, self._error = frame, time.monotonic(), ""
            if frame is None and source.ended:
                return  # and it begins anew
