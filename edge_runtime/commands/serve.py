"""``serve``: the HTTP API and its page, until it is told to stop."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from .. import DEFAULT_MODEL
from ..errors import EngineError, UsageError
from ..guard import complain
from .opening import add_command, engine_options, open_classifier, trust_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..classifier import Classifier
    from ..server.live import Source
    from .opening import Commands

TOKEN_VARIABLE = "LEUKOSCOPE_TOKEN"
MIN_TOKEN, MAX_TOKEN = 16, 1024

EXAMPLES = """\
examples:
  python -m edge_runtime serve                                          # http://127.0.0.1:8080/
  python -m edge_runtime serve --camera /dev/video0 --model blood-cells
  python -m edge_runtime serve --host 0.0.0.0 --token-file token.txt    # for others, with a token
  curl -F picture=@smear.jpg http://127.0.0.1:8080/v1/classify

It speaks HTTP without TLS: for others than this machine, put a proxy with TLS in front (see docs/serve.md).
"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    serve = add_command(
        commands,
        "serve",
        "an HTTP API and a page to look at",
        "Answer over HTTP: an API with an OpenAPI document, and one page that shows answers, heatmaps, a camera and "
        "what was answered before. Only this machine is answered unless --host says otherwise.",
        EXAMPLES,
    )
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on; default: %(default)s")
    serve.add_argument("--port", type=int, default=8080, metavar="N", help="default: %(default)s; 0: any free one")
    serve.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="name or path, may be repeated; the first answers when none is named; default: all that came along",
    )
    serve.add_argument("--camera", metavar="SOURCE", help="a device, or a video file to try with")
    serve.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"answer only who has the token in this file; default: ${TOKEN_VARIABLE}, else who is on this machine",
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="a name under which a proxy in front is reached, may be repeated; needs a token",
    )
    kept = serve.add_mutually_exclusive_group()
    kept.add_argument(
        "--state",
        metavar="DIR",
        help="where the history is kept; default: $XDG_STATE_HOME/leukoscope or ~/.local/state",
    )
    kept.add_argument("--no-history", action="store_true", help="forget all answers when it stops; nothing is written")
    serve.add_argument("--max-mb", type=int, default=32, metavar="N", help="of one upload; default: %(default)s")
    serve.add_argument(
        "--max-megapixels", type=int, default=40, metavar="N", help="of one picture; default: %(default)s"
    )
    engine_options(serve)
    trust_option(serve)
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> None:
    _check(options)
    token = _token(options)
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError("serve is not installed", got=str(error), todo='pip install "leukoscope[serve]"') from None
    import logging

    from ..notify import Supervisor
    from ..server.app import create_app
    from ..server.gate import LOOPBACK, Access
    from ..server.history import Bounds, History
    from ..server.limits import Limits
    from ..server.live import Live
    from ..server.meters import Meters
    from ..server.process import listen, serve
    from ..server.service import Service

    allowed = tuple(name.lower() for name in options.allow_host or ())
    local = _is_loopback(options.host)
    if token is None and (allowed or not local):
        what = f"--allow-host {allowed[0]}" if allowed else f"--host {options.host}"
        raise UsageError(
            f"{what} lets others in, and there is no token",
            expected=f"--token-file FILE or ${TOKEN_VARIABLE}",
            todo="make one: python -c 'import secrets; print(secrets.token_urlsafe(24))' > token.txt",
        )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it quotes what senders get wrong
    megabyte = 1024 * 1024
    limits = Limits(
        body_bytes=options.max_mb * megabyte,
        all_bodies_bytes=max(4 * options.max_mb, 128) * megabyte,
        picture_pixels=options.max_megapixels * 1_000_000,
    )
    listener = listen(options.host, options.port)
    with listener:
        models = _open_models(options)
        folder = None if options.no_history else _state(options.state)
        history = History(folder, Bounds(entries=100, size_bytes=64 * megabyte) if folder is None else Bounds())
        live = Live(_camera(options.camera)) if options.camera else None
        service = Service(models, history, Meters(), limits, live)
        access = Access(token, (*LOOPBACK, *allowed) if local else None)
        port = listener.getsockname()[1]
        shown = f"[{options.host}]" if ":" in options.host else options.host
        print(f"http://{shown}:{port}/   {', '.join(models)}; Ctrl-C stops", flush=True)
        Supervisor().tell("READY=1")
        serve(create_app(service, access), listener, limits)


def _check(options: argparse.Namespace) -> None:
    for name, low, high in (("port", 0, 65535), ("max_mb", 1, 512), ("max_megapixels", 1, 178)):
        value = getattr(options, name)
        if not low <= value <= high:
            raise UsageError(f"--{name.replace('_', '-')}", got=value, expected=f"{low} to {high}")
    if not options.host:
        raise UsageError("--host", got="nothing", expected="an address, such as 127.0.0.1 or 0.0.0.0")


def _open_models(options: argparse.Namespace) -> dict[str, Classifier]:
    """Open the models and let each answer its golden pictures: a device that computes something else must not serve."""
    from ..bundle import default_bundles
    from ..golden import verify

    names = options.model or sorted(default_bundles(), key=lambda name: (name != DEFAULT_MODEL, name))
    if not names:
        raise UsageError("no bundle came with this package", expected="--model PATH")
    came_along = set(default_bundles())
    models: dict[str, Classifier] = {}
    for name in names:
        classifier = open_classifier(name, options)
        found = verify(classifier)
        if not found.passed:
            wrong = ", ".join(case.picture for case in found.cases if not case.passed)
            raise EngineError(
                f"{name}: this device does not compute what the bundle states",
                got=f"other answers to {wrong}",
                todo="see: python -m edge_runtime verify",
            )
        shown = name if name in came_along else classifier.bundle.manifest.name
        if shown in models:
            raise UsageError("--model twice", got=shown)
        models[shown] = classifier
    return models


def _camera(source: str) -> Callable[[], Source]:
    """Return what opens the camera; a source that makes no sense is an error now, one that is not there yet is not."""
    from ..camera import Camera

    return lambda: Camera.open(source)


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _state(chosen: str | None) -> Path:
    if chosen is not None:
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "leukoscope"


def _token(options: argparse.Namespace) -> str | None:
    """Read the token: never from the arguments, which everybody on the machine can see."""
    if options.token_file is None:
        token, where = os.environ.get(TOKEN_VARIABLE), f"${TOKEN_VARIABLE}"
    else:
        where = options.token_file
        try:
            with open(where, "rb") as stream:
                token = stream.read(MAX_TOKEN + 2).decode("utf-8", "replace").strip()
                mode = os.fstat(stream.fileno()).st_mode
        except OSError as error:
            raise UsageError(f"{where}: cannot be read", got=error.strerror, expected="a file with the token") from None
        if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
            complain(f"{where}: others on this machine can read the token (chmod 600 {where})", "warning")
    if token is None:
        return None
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{where}: not a token",
            got=f"{len(token)} characters",
            expected=f"{MIN_TOKEN} to {MAX_TOKEN} ASCII letters, digits and signs without spaces",
        )
    return token
