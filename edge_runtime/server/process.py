"""The process: an address, uvicorn around the application, and an end when it is asked for.

What comes in is an application and where it shall listen; it returns when SIGTERM or SIGINT came and what was in work
is through. HTTP without TLS: whoever lets others in puts a proxy in front that has it. No access log is written: who
looked at which picture when is nobody's business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import OutputError
from .limits import Limits

KEEP_ALIVE_S = 15
GRACE_S = 20
"""What is in work when the end comes may take so many seconds; what takes longer is given up."""

CLOSING_S = 5
"""For all else that the end takes. Then the process ends: an engine that hangs would hold it for ever."""

HEAD_S = 15.0
"""A connection that has not sent a whole request's head within this many seconds is closed."""

SEND_S = 20.0
"""A connection that does not take its response within this many seconds is closed; not more than `GRACE_S`."""

HEAD_BYTES = 32 * 1024


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with an end to its patience.

    uvicorn waits for ever for a first head, for the rest of a later one, for a body that nobody reads, and for a
    client that does not read: 256 such connections would shut everybody else out.
    """

    _head: asyncio.TimerHandle | None = None
    _send: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that whatever is not taken stops the writing
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take what came; between two responses it must become a whole head in time."""
        super().data_received(data)
        self._await_head()

    def pause_writing(self) -> None:
        """Begin to wait until the response is taken."""
        super().pause_writing()
        self._send = self._send or self.loop.call_later(SEND_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._send is not None:
            self._send.cancel()
            self._send = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        for timer in (self._head, self._send):
            if timer is not None:
                timer.cancel()

    def _await_head(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._head = self._head or self.loop.call_later(HEAD_S, self.transport.close)
        elif self._head is not None:
            self._head.cancel()
            self._head = None


class PromptServer(uvicorn.Server):
    """A server that ends when it said it would, whatever its threads do."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        super().handle_exit(sig, frame)
        last = threading.Timer(GRACE_S + CLOSING_S, _give_up)
        last.daemon = True
        last.start()


def _give_up() -> None:
    logging.getLogger(__name__).error("work that comes to no end was given up")
    os._exit(1)  # the history has on the disk whatever was answered


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 means any free one.

    Raises:
        OutputError: no such address, not allowed, or in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(1024)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise OutputError(
            f"cannot listen on {host}, port {port}", got=error.strerror, todo="choose another --host or --port"
        ) from None
    return found


def serve(app: ASGIApp, listener: socket.socket, limits: Limits) -> None:
    """Answer until SIGTERM or SIGINT, then finish what is in work."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    # uvicorn raises the signal again when it is through; asked to end, ending is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    PromptServer(config).run(sockets=[listener])
