"""The app: routes and nothing else. Each says in one line what it hands on to the service, the history or the camera.

What comes in is a `Service` and who may ask; what goes out is an ASGI application with its OpenAPI document at
``/openapi.json``. FastAPI's own documentation pages load scripts from elsewhere and are off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from .. import __version__
from ..errors import LeukoscopeError
from ..report import NOTE
from . import answers, meters
from .gate import GUARDED, Access, Gate
from .history import MAX_ID
from .limits import Bodies, Turns
from .live import Live
from .problems import MEANINGS, RequestError, problem
from .service import Service
from .uploads import REQUEST_BODY, read_upload

PAGE = FilePath(__file__).parent / "page"
PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

Model = Annotated[str | None, Query(description="a name of /v1/models; default: the first that fits")]
Explained = Annotated[bool, Query(alias="explain", description="say where the heat lies")]
Number = Annotated[int, Path(ge=1, le=MAX_ID)]


def create_app(service: Service, access: Access) -> FastAPI:
    """Return the application.

    Args:
        service: open models; it is closed when the application ends.
        access: who may ask.
    """
    turns, bodies = Turns(service.limits), Bodies(service.limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(turns.close)
        if service.live is not None:
            await run_in_threadpool(service.live.close)
        service.history.close()

    app = FastAPI(
        title="leukoscope",
        version=__version__,
        description=f"Blood-smear classification that explains itself. {NOTE}",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(_only_known)],
    )
    app.add_middleware(Gate, access=access, meters=service.meters)
    _say_what_is_wrong(app)
    _add_pictures(app, service, turns, bodies)
    _add_camera(app, service, turns)
    _add_history(app, service)
    _add_state(app, service, turns)
    _add_page(app)
    app.openapi = lambda: _document(app, access)  # type: ignore[method-assign]
    service.meters.models(service.models)
    service.meters.gauge("places_taken", "Pictures in work or waiting.", lambda: turns.taken)
    service.meters.gauge("history_entries", "Answers kept.", lambda: service.history.count)
    service.meters.gauge("history_bytes", "What they take.", lambda: service.history.size_bytes)
    return app


def _only_known(request: Request) -> None:
    """Refuse parameters that the route does not have: a slip in a name must not become a default."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            expected = " or ".join(sorted(known)) or "none"
            raise RequestError(422, "no such parameter", got=name[:100], expected=expected)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route's document says about its errors; those of the gate come with every one."""
    numbers = sorted({400, 401, 403, 422, 500, *statuses})
    return {number: {"model": answers.ErrorAnswer, "description": MEANINGS[number]} for number in numbers}


def _add_pictures(app: FastAPI, service: Service, turns: Turns, bodies: Bodies) -> None:
    asked = _errors(404, 408, 413, 415, 429, 503, 504)

    @app.post(
        "/v1/classify",
        summary="Classify a picture",
        responses={200: {"model": answers.ClassifyAnswer}, **asked},
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def classify(request: Request, model: Model = None, explained: Explained = False) -> Response:
        async with read_upload(request, bodies) as upload:
            work = lambda: service.classify(upload.encoded, upload.name, model, explained)  # noqa: E731
            return JSONResponse(await turns.run(work))

    @app.post(
        "/v1/scan",
        summary="Find the white cells of a field and classify each",
        responses={200: {"model": answers.ScanAnswer}, **asked},
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def scan(request: Request, model: Model = None) -> Response:
        async with read_upload(request, bodies) as upload:
            return JSONResponse(await turns.run(lambda: service.scan(upload.encoded, upload.name, model)))

    @app.get("/v1/models", summary="Which models answer", responses={200: {"model": answers.ModelsAnswer}, **_errors()})
    def models() -> Response:
        limits = service.limits
        return JSONResponse(
            {
                "models": service.facts(),
                "camera": service.live is not None,
                "version": __version__,
                "note": NOTE,
                "max_body_bytes": limits.body_bytes,
                "max_picture_pixels": limits.picture_pixels,
            }
        )


def _add_camera(app: FastAPI, service: Service, turns: Turns) -> None:
    def live() -> Live:
        if service.live is None:
            raise RequestError(404, "no camera", todo="start serve with --camera SOURCE")
        return service.live

    @app.get(
        "/v1/camera", summary="State of the camera", responses={200: {"model": answers.CameraAnswer}, **_errors(404)}
    )
    def camera() -> Response:
        return JSONResponse(live().state())

    @app.get(
        "/v1/camera/frame.jpg",
        summary="The newest frame",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **_errors(404, 503)},
    )
    def frame() -> Response:
        number, encoded = live().jpeg()
        return Response(encoded, media_type="image/jpeg", headers={"X-Frame": str(number)})

    asked = _errors(404, 429, 503, 504)

    @app.post(
        "/v1/camera/classify",
        summary="Classify the newest frame",
        responses={200: {"model": answers.ClassifyAnswer}, **asked},
    )
    async def classify(model: Model = None, explained: Explained = False) -> Response:
        seen = live().frame()
        name = f"camera, frame {seen.number}"
        return JSONResponse(await turns.run(lambda: service.classify(seen.pixels, name, model, explained)))

    @app.post(
        "/v1/camera/scan",
        summary="Find the white cells of the newest frame and classify each",
        responses={200: {"model": answers.ScanAnswer}, **asked},
    )
    async def scan(model: Model = None) -> Response:
        seen = live().frame()
        name = f"camera, frame {seen.number}"
        return JSONResponse(await turns.run(lambda: service.scan(seen.pixels, name, model)))


def _add_history(app: FastAPI, service: Service) -> None:
    history = service.history

    @app.get(
        "/v1/history",
        summary="What was answered, newest first",
        responses={200: {"model": answers.HistoryAnswer}, **_errors(503)},
    )
    def listed(
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        before: Annotated[int | None, Query(ge=1, le=MAX_ID, description="`next` of the page before")] = None,
    ) -> Response:
        entries = history.page(limit + 1, before)
        more = len(entries) > limit
        kept = "in memory" if history.path is None else "on disk"
        following = entries[limit - 1]["id"] if more else None
        return JSONResponse({"entries": entries[:limit], "next": following, "count": history.count, "kept": kept})

    @app.delete(
        "/v1/history", summary="Forget all of them", responses={200: {"model": answers.DeletedAnswer}, **_errors(503)}
    )
    def delete_all() -> Response:
        return JSONResponse({"deleted": history.delete()})

    @app.get(
        "/v1/history/{number}",
        summary="One answer",
        responses={200: {"model": answers.EntryAnswer}, **_errors(404, 503)},
    )
    def entry(number: Number) -> Response:
        return JSONResponse(_there(history.entry(number), number))

    @app.delete(
        "/v1/history/{number}",
        summary="Forget one answer",
        responses={200: {"model": answers.DeletedAnswer}, **_errors(404, 503)},
    )
    def delete(number: Number) -> Response:
        return JSONResponse({"deleted": _there(history.delete(number) or None, number)})

    _add_part(
        app, "picture", "image/jpeg", history.picture, "What the answer lies over: what the model saw, or the field"
    )
    _add_part(app, "overlay", "image/png", service.overlay, "The picture under its heatmap; not for scans")
    _add_part(app, "cells", "image/jpeg", history.tiles, "A scan's cells side by side")


def _add_part(app: FastAPI, part: str, kind: str, get: Callable[[int], bytes | None], summary: str) -> None:
    @app.get(
        f"/v1/history/{{number}}/{part}",
        name=part,
        summary=summary,
        response_class=Response,
        responses={200: {"content": {kind: {}}}, **_errors(404, 503)},
    )
    def picture(number: Number) -> Response:
        return Response(_there(get(number), number), media_type=kind)


def _there(found: Any, number: int) -> Any:
    if found is None:
        raise RequestError(404, "not in the history", got=number, todo="the oldest answers make room for new ones")
    return found


def _add_state(app: FastAPI, service: Service, turns: Turns) -> None:
    @app.get(
        "/healthz",
        summary="Does it work?",
        responses={
            200: {"model": answers.HealthAnswer},
            **{n: {"model": answers.ErrorAnswer, "description": MEANINGS[n]} for n in (400, 422)},
            503: {"model": answers.HealthAnswer, "description": "an engine failed, or no answer comes to an end"},
        },
    )
    async def healthz() -> Response:
        reasons = [f"{model}: {error}" for model, error in service.failed.items()]
        if turns.stuck:
            reasons.append("no answer comes to an end")
        status = "failing" if reasons else "ok"
        return JSONResponse({"status": status, "reasons": reasons}, 503 if reasons else 200)

    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **_errors()},
    )
    def metrics() -> Response:
        return Response(service.meters.text(), headers={"Content-Type": meters.CONTENT_TYPE})


def _add_page(app: FastAPI) -> None:
    """Serve the page's files; there are few, so they are read once."""
    for file in sorted(PAGE.iterdir()):
        path = "/" if file.name == "index.html" else f"/{file.name}"
        app.router.add_route(path, _file(file.read_bytes(), PAGE_TYPES[file.suffix]), methods=["GET"])


def _file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    return answer


def _say_what_is_wrong(app: FastAPI) -> None:
    """Give every error the one shape."""

    @app.exception_handler(LeukoscopeError)
    async def known(_: Request, error: LeukoscopeError) -> Response:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def parameter(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        return problem(RequestError(422, where, got=str(first.get("input"))[:100], expected=first["msg"]))

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        got = f"{request.method} {request.url.path[:100]}"
        what = MEANINGS.get(error.status_code, str(error.detail))
        return problem(RequestError(error.status_code, what, got=got, headers=error.headers))


def _document(app: FastAPI, access: Access) -> dict[str, Any]:
    """Return the OpenAPI document; where a token is asked for, it says so."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        if access.token is not None:
            found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in found["paths"].items():
                if path.startswith(GUARDED):
                    for method in methods.values():
                        method["security"] = [{"token": []}]
        app.openapi_schema = found
    return app.openapi_schema
