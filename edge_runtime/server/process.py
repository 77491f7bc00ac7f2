"""The process: an address, uvicorn around the application, and an end when it is asked for.

What comes in is an application and where it shall listen; it returns when SIGTERM or SIGINT came and what was in work
is through. HTTP without TLS: whoever lets others in puts a proxy in front that has it. No access log is written: who
looked at which picture when is nobody's business.
"""

from __future__ import annotations

import signal
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import OutputError
from .limits import Limits

KEEP_ALIVE_S = 15
GRACE_S = 20
HEAD_S = 15.0
"""A connection that has not sent a whole request's head within this many seconds is closed."""

HEAD_BYTES = 32 * 1024


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with an end to its patience: uvicorn waits for ever for a request's first head."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_S, self._close_silent)

    def _close_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


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
    uvicorn.Server(config).run(sockets=[listener])
