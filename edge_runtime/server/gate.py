"""The gate: what every request passes before it reaches a route, and every response on its way out.

What comes in are requests; what goes out are refusals (a wrong host, another site's page, no token) or the route's
response with the headers that keep a browser from doing more than the page needs. The token is compared in constant
time and stands in no log. Plain ASGI, so that bodies pass through as they come.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .meters import Meters
from .problems import RequestError, problem

LOOPBACK = ("127.0.0.1", "localhost", "::1")

GUARDED = ("/v1/", "/metrics")
"""What the token guards. The page, its parts and the OpenAPI document say nothing about pictures."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        token: what ``Authorization: Bearer`` must hold; None: nobody is asked.
        hosts: names under which the service may be addressed, without port; None: any. Without this a page whose name
            is suddenly made to mean 127.0.0.1 could read everything (DNS rebinding).
    """

    token: str | None = field(default=None, repr=False)
    hosts: Collection[str] | None = LOOPBACK

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Let a request pass.

        Raises:
            RequestError: 400 wrong host, 403 another site's page, 401 no token or a wrong one.
        """
        host = headers.get("host", "")
        if self.hosts is not None and _hostname(host) not in self.hosts:
            raise RequestError(
                400,
                "the service is not called that",
                got=host[:100] or "no Host",
                expected=" or ".join(self.hosts),
                todo="use that address, or start serve with --allow-host",
            )
        if not path.startswith(GUARDED):
            return
        origin = headers.get("origin")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") or not self._same(origin, host):
            raise RequestError(403, "a page of another origin asked", got=origin and origin[:100])
        if self.token is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise RequestError(
                401,
                "no token" if not given else "wrong token",
                expected="Authorization: Bearer and the token",
                headers={"WWW-Authenticate": 'Bearer realm="leukoscope"'},
            )

    def _same(self, origin: str | None, host: str) -> bool:
        if origin is None:
            return True
        netloc = origin.partition("://")[2]  # a browser's origin ends there; anything else is nobody's name
        # Behind a proxy that names the service otherwise, the origin is one of the names the operator allowed.
        allowed = self.hosts is not None and _hostname(netloc) in set(self.hosts) - set(LOOPBACK)
        return bool(netloc) and (netloc.lower() == host.lower() or allowed)


def _hostname(netloc: str) -> str:
    """Return a Host header without its port, lower case; "" where it is none."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


class Gate:
    """The middleware around all routes."""

    def __init__(self, app: ASGIApp, access: Access, meters: Meters) -> None:
        self._app, self._access, self._meters = app, access, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything else (the start and the end of the process) passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        with self._meters.in_flight.track_inprogress():
            try:
                self._access.check(scope["method"], scope["path"], Headers(scope=scope))
                await self._app(scope, receive, guarded)
            except RequestError as error:
                await problem(error)(scope, receive, guarded)
            except asyncio.CancelledError:  # the end has come, and this took longer than anybody waits for
                if not begun:
                    await problem(RequestError(503, "the service is being stopped"))(scope, receive, guarded)
            except Exception:  # the log has it, the client has not
                logging.getLogger(__name__).exception("%s: an error of this program", _route(scope))
                if not begun:
                    await problem(RequestError(500, "an error of this program"))(scope, receive, guarded)
        known = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
        self._meters.request(known, _route(scope), status, time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """Return the route's pattern, never the path: paths are many, and anybody's."""
    return str(getattr(scope.get("route"), "path", "none"))
