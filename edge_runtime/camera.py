"""Cameras: the newest frame of a camera, or of a video file that is played.

What comes in is the name of a source (`camera_sources` opens it); what goes out are frames, RGB pixels with a number.
A thread takes every frame from the source and holds the newest only: whoever needs longer than the camera gets a
picture of now, not of a while ago, and what was dropped is counted. A camera that is unplugged is opened again, until
it has been silent for too long. Nothing is classified here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from .camera_sources import Reader, Size, kind_of
from .errors import CameraError, UsageError
from .preprocess import Pixels

SILENCE_S = 30.0
"""A camera that gave no frame for so long is an error; until then it is opened again and again."""

RETRY_S = (0.5, 1.0, 2.0, 4.0)
"""Pauses before it is opened again; the last one repeats."""


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
        kind = kind_of(source)
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
            except Exception as error:  # noqa: BLE001 - as when it is read
                tries, why = tries + 1, f"{type(error).__name__}: {error}"

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
