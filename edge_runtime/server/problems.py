"""Problems: the one shape in which the API says that something went wrong, and which status goes with what.

What comes in is an error; what goes out is ``{"error": {"what", "got", "expected", "todo"}}``. Whatever is not meant
for users becomes a bare 500: no traceback, path or name of a class leaves the process.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from ..errors import EngineError, ImageError, LeukoscopeError, OutputError, UsageError

STATUS: tuple[tuple[type[LeukoscopeError], int], ...] = (
    (ImageError, 422),
    (UsageError, 400),
    (EngineError, 503),
    (OutputError, 503),
)
"""Kind of error -> HTTP status; the first that fits. Anything else is 500."""

MEANINGS = {
    400: "the request makes no sense",
    401: "no token, or a wrong one",
    403: "a page of another origin asked",
    404: "not there",
    405: "method not allowed",
    408: "the upload took too long",
    413: "too many bytes or pixels",
    415: "not a picture's content type",
    422: "not a picture, or a parameter out of range",
    429: "too much at once: try again after Retry-After seconds",
    500: "an error of this program",
    503: "the engine or the camera does not answer",
    504: "no answer in time",
}
"""Status -> what it means, for the OpenAPI document."""


class RequestError(LeukoscopeError):
    """A request that gets no answer, and the status that says so."""

    def __init__(
        self,
        status: int,
        what: str,
        *,
        got: object | None = None,
        expected: object | None = None,
        todo: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the status, the parts of the line, and headers that go with it."""
        super().__init__(what, got=got, expected=expected, todo=todo)
        self.status, self.headers = status, dict(headers or {})


def status_of(error: LeukoscopeError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def problem(error: LeukoscopeError) -> JSONResponse:
    """Return an error as a response."""
    sides = {name: getattr(error, name) for name in ("what", "got", "expected", "todo")}
    content = {"error": {name: None if side is None else _line(side) for name, side in sides.items()}}
    headers = error.headers if isinstance(error, RequestError) else None
    return JSONResponse(content, status_of(error), headers)


def _line(value: object) -> str:
    return " ".join(str(value).split())
