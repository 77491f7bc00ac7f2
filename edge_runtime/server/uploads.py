"""Uploads: a request's body as one encoded picture and its name, from a form or as it is.

What comes in is a request; what goes out are bytes, never a file: nothing of an upload touches the disk. The body is
bounded before a form in it is parsed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .limits import Bodies
from .problems import RequestError

FIELD = "picture"
"""The form's field with the file."""

PICTURE_TYPES = ("image/jpeg", "image/png", "image/tiff", "image/bmp", "image/webp")
RAW_TYPES = (*PICTURE_TYPES, "application/octet-stream")
FORM_TYPE = "multipart/form-data"

_BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "content": {
        FORM_TYPE: {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY}}},
        **{kind: {"schema": _BINARY} for kind in RAW_TYPES},
    },
}
"""For the OpenAPI document."""


@dataclass(frozen=True)
class Upload:
    """An encoded picture and what its sender calls it."""

    encoded: bytes
    name: str


@asynccontextmanager
async def read_upload(request: Request, bodies: Bodies) -> AsyncIterator[Upload]:
    """Give the picture of a request; its bytes count as held until the block ends.

    Raises:
        RequestError: 400 a form that is none, 408 too slow, 413 too large, 415 another content type, 422 not one
            picture in the form, 429 too many at once.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE and kind not in RAW_TYPES:
        raise RequestError(
            415, "wrong content type", got=kind[:100] or "none", expected=" or ".join((FORM_TYPE, *RAW_TYPES))
        )
    try:
        async with bodies.read(request) as body:
            if kind != FORM_TYPE:
                yield Upload(body, "picture")
                return
            parts = [body]
            del body  # one copy of the picture is enough
            yield await _from_form(request.headers, parts)
    except ClientDisconnect:
        raise RequestError(400, "the upload ended early") from None


class _InMemory(MultiPartParser):
    """A parser whose files stay in memory, which the body has bounded."""

    spool_max_size = 0  # SpooledTemporaryFile: never rolled over to the disk


async def _from_form(headers: Headers, parts: list[bytes]) -> Upload:
    """Read a form; its bytes are taken out of `parts`."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield parts.pop()

    try:
        form = await _InMemory(headers, stream(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise RequestError(400, "the form cannot be read", got=error.message) from None
    try:
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        if [name for name, _ in files] != [FIELD]:
            got = ", ".join(name[:50] for name, _ in files) or "no file"
            raise RequestError(422, "not one picture in the form", got=got, expected=f"one file in the field {FIELD!r}")
        return Upload(await files[0][1].read(), files[0][1].filename or "picture")
    finally:
        await form.close()
