"""Limits: how much is taken in, how much is worked on at a time, and how long anybody waits.

What comes in are a request's body and the work it asks for; what goes out is the body, read while it is counted (what
Content-Length claims is believed only where it is bad news), and the work's result from a few threads with a short
queue. Whoever comes when the queue is full is told to come back; nobody's picture is dropped silently.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from PIL import Image
from starlette.requests import Request

from ..preprocess import FORMATS
from .problems import RequestError

T = TypeVar("T")

RETRY_AFTER = {"Retry-After": "1"}
"""Seconds: a queue of pictures is through in less."""


@dataclass(frozen=True)
class Limits:
    """What one process takes upon itself.

    Attributes:
        body_bytes: of one request.
        all_bodies_bytes: held at a time, of all requests together.
        picture_pixels: of one picture, before it is decoded.
        body_s: seconds that an upload may take.
        answer_s: seconds from the end of the upload to the answer.
        running: answers worked on at a time. Two: while one is in the engine, the next is decoded.
        waiting: requests whose turn has not come.
        connections: open at a time; more get a plain 503.
    """

    body_bytes: int = 32 * 1024 * 1024
    all_bodies_bytes: int = 128 * 1024 * 1024
    picture_pixels: int = 40_000_000
    body_s: float = 30.0
    answer_s: float = 60.0
    running: int = 2
    waiting: int = 16
    connections: int = 256


class Bodies:
    """Reads bodies within the limits; they count as held until their request is through."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Give a request's body.

        Raises:
            RequestError: 413 too large, 429 all requests together are too large, 408 too slow.
        """
        claimed = request.headers.get("content-length", "")
        if claimed.isascii() and claimed.isdigit() and int(claimed[:20]) > self._limits.body_bytes:
            raise self._too_large(f"{claimed[:20]} bytes")
        chunks: list[bytes] = []
        size_bytes = 0
        try:
            try:
                with anyio.fail_after(self._limits.body_s):
                    async for chunk in request.stream():
                        size_bytes += len(chunk)
                        self._held += len(chunk)
                        if size_bytes > self._limits.body_bytes:
                            raise self._too_large(f"more than {self._limits.body_bytes} bytes")
                        if self._held > self._limits.all_bodies_bytes:
                            raise RequestError(429, "too many uploads at once", todo="try again", headers=RETRY_AFTER)
                        chunks.append(chunk)
            except TimeoutError:
                raise RequestError(
                    408,
                    "the upload took too long",
                    expected=f"at most {self._limits.body_s:g} seconds",
                    headers={"Connection": "close"},
                ) from None
            chunks[:] = [b"".join(chunks)]
            yield chunks.pop()  # whoever asked has the only copy
        finally:
            self._held -= size_bytes

    def _too_large(self, got: str) -> RequestError:
        return RequestError(
            413, "the upload is too large", got=got, expected=f"at most {self._limits.body_bytes} bytes"
        )


def check_size(encoded: bytes, limits: Limits) -> None:
    """Refuse a picture by the size that its header states, before anything is decoded.

    Raises:
        RequestError: 413. What is no picture passes: the decoder has the better words for it.
    """
    expected = f"at most {limits.picture_pixels / 1e6:g} megapixels"
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        raise RequestError(413, "the picture is too large", expected=expected, todo="cut it into fields") from None
    except Exception:  # noqa: BLE001 - Pillow raises anything on damaged files
        return
    if width * height > limits.picture_pixels:
        got = f"{width} x {height} pixels"
        raise RequestError(413, "the picture is too large", got=got, expected=expected, todo="cut it into fields")


class Turns:
    """A few threads and a short queue.

    A place is taken until its work has really ended: an answer that nobody waits for any more still needs a core.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.running, thread_name_prefix="answer")
        self._lock = threading.Lock()
        self._taken = 0
        self._overdue: set[Future[Any]] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """Do some work when its turn comes, and return what it returns.

        Raises:
            RequestError: 429 the queue is full, 503 the end has come, 504 no answer in time.
        """
        places = self._limits.running + self._limits.waiting
        with self._lock:
            if self._taken >= places:
                raise RequestError(
                    429,
                    "too many pictures at once",
                    got=f"{self._limits.running} in work and {self._limits.waiting} waiting",
                    todo="try again in a second",
                    headers=RETRY_AFTER,
                )
            self._taken += 1
        held = [work]  # a pool keeps what it cancelled until a thread is free: without the picture, please
        try:
            job = self._pool.submit(lambda: held[0]())  # noqa: PLW0108 - so that the pool does not hold it
        except RuntimeError:  # the pool is closed
            with self._lock:
                self._taken -= 1
            raise RequestError(503, "the service is being stopped") from None
        job.add_done_callback(self._leave)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), self._limits.answer_s)
        except (asyncio.TimeoutError, TimeoutError):  # two classes in Python 3.10
            with self._lock:
                if not job.done():
                    self._overdue.add(job)
            raise RequestError(
                504, "no answer in time", expected=f"within {self._limits.answer_s:g} seconds", todo="try again later"
            ) from None
        finally:
            if not job.running():
                held.clear()

    @property
    def stuck(self) -> bool:
        """Return whether every thread works on something that nobody waits for any more."""
        with self._lock:
            return len(self._overdue) >= self._limits.running

    @property
    def taken(self) -> int:
        """Return how many places are taken, running and waiting."""
        with self._lock:
            return self._taken

    def close(self) -> None:
        """End what runs, forget what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self, job: Future[Any]) -> None:
        with self._lock:
            self._taken -= 1
            self._overdue.discard(job)
