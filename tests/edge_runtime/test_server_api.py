"""The service's API: the command line's answers, every error in its one shape, every limit, and who may ask."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import io
import json
import threading
import time
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from bundle_maker import bomb, encoded, smear
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

from edge_runtime import report
from edge_runtime.classifier import Classifier
from edge_runtime.errors import EngineError
from edge_runtime.explanation import explain
from edge_runtime.quality import judge_field
from edge_runtime.refusal import Refusal
from edge_runtime.scan import Scanner
from edge_runtime.server.app import create_app
from edge_runtime.server.gate import LOOPBACK, Access
from edge_runtime.server.history import Bounds, History
from edge_runtime.server.limits import Bodies, Limits, Turns
from edge_runtime.server.live import Live
from edge_runtime.server.meters import Meters
from edge_runtime.server.problems import RequestError
from edge_runtime.server.service import Service
from edge_runtime.server.uploads import read_upload
from train.render import render_field

PNG = encoded(Image.fromarray(smear(96, 7)))
IMAGE = {"Content-Type": "image/png"}
URL = "http://127.0.0.1:8080"
TOKEN = "correct-horse-battery-staple"

Client = Callable[..., TestClient]


@pytest.fixture(scope="module")
def classifier(valid_bundle: Path) -> Classifier:
    return Classifier.open(valid_bundle, threads=1)


@pytest.fixture
def client(classifier: Classifier) -> Iterator[Client]:
    """Return a function that makes clients of a service; what is given replaces its parts."""
    opened: list[TestClient] = []

    def make(access: Access = Access(), base_url: str = URL, **parts: Any) -> TestClient:  # noqa: B008 - frozen
        service = Service(**{"models": {"tiny": classifier}, "history": History(None), "meters": Meters(), **parts})
        found = TestClient(create_app(service, access), base_url=base_url, raise_server_exceptions=False)
        opened.append(found.__enter__())
        return found

    yield make
    for one in opened:
        one.__exit__(None, None, None)


def problem(response: Any, status: int) -> str:
    """Check an error's status and shape; return what it says, in one line."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    sides = response.json()["error"]
    assert set(response.json()) == {"error"} and set(sides) == {"what", "got", "expected", "todo"}
    assert "Traceback" not in response.text and "site-packages" not in response.text
    return " ".join(str(side) for side in sides.values())


def test_the_answer_is_that_of_the_command_line(client: Client, classifier: Classifier) -> None:
    got = client().post("/v1/classify?explain=true", files={"picture": ("smear.png", PNG)}).json()
    prediction = classifier.classify(PNG, "smear.png")
    stated = json.loads(report.prediction_json("smear.png", prediction, explain(prediction, "field")))
    assert got.pop("id") == 1
    assert got.pop("timings_ms").keys() == stated.pop("timings_ms").keys()
    assert got == stated


def test_a_scan_is_that_of_the_command_line(client: Client, classifier: Classifier) -> None:
    cells = Classifier.open("blood-cells", threads=1)
    field = encoded(Image.fromarray(render_field("Pro", np.random.default_rng([3, 3]), 512).pixels))
    c = client(models={"tiny": classifier, "blood-cells": cells})  # the first that is for cells is taken
    got = c.post("/v1/scan", files={"picture": ("field.png", field)}).json()
    stated = json.loads(json.dumps(Scanner(cells, judge=judge_field).scan(field, "field.png").to_dict()))
    number, tiles = got.pop("id"), got.pop("tiles")
    for answer in (got, stated):
        for one in (answer, *answer["cells"]):
            one.pop("timings_ms")
    assert got == stated and len(got["cells"]) >= 2
    entry = c.get("/v1/history?limit=1").json()["entries"][0]
    assert (entry["kind"], entry["cells"], entry["label"]) == ("scan", len(got["cells"]), None)
    assert entry["counted"] == sum(cell["left_out"] is None for cell in got["cells"])
    sheet = Image.open(io.BytesIO(c.get(f"/v1/history/{number}/cells").content))
    assert sheet.width == min(len(got["cells"]), tiles["columns"]) * tiles["px"]
    assert Image.open(io.BytesIO(c.get(f"/v1/history/{number}/picture").content)).size == (512, 512)
    problem(c.get(f"/v1/history/{number}/overlay"), 404)
    assert "single cells" in problem(c.post("/v1/scan?model=tiny", content=field, headers=IMAGE), 400)
    assert "not a picture" in problem(c.post("/v1/scan", content=b"text", headers=IMAGE), 422)


def test_a_raw_body_is_as_good_as_a_form(client: Client) -> None:
    c = client()
    raw = c.post("/v1/classify", content=PNG, headers=IMAGE).json()
    form = c.post("/v1/classify", files={"picture": ("x.png", PNG)}).json()
    assert raw["logits"] == form["logits"] and raw["picture"] == "picture" and "explanation" not in raw


@pytest.mark.parametrize(
    ("request_parts", "status", "words"),
    [
        ({"content": PNG, "headers": {"Content-Type": "text/plain"}}, 415, "text/plain"),
        ({"content": PNG}, 415, "none"),
        ({"content": b"", "headers": IMAGE}, 422, "empty"),
        ({"content": b"no picture at all", "headers": IMAGE}, 422, "not a picture"),
        ({"content": PNG[:200], "headers": IMAGE}, 422, "damaged"),
        ({"content": bomb(60_000, 60_000), "headers": IMAGE}, 413, "megapixels"),
        ({"content": bomb(9_000, 9_000), "headers": IMAGE}, 413, "9000 x 9000"),
        ({"files": {"other": ("a.png", PNG)}}, 422, "field 'picture'"),
        ({"files": [("picture", ("a.png", PNG)), ("picture", ("b.png", PNG))]}, 400, "Too many files"),
        ({"files": {"picture": ("a.txt", b"text")}}, 422, "a.txt"),
        ({"data": {"picture": "text"}, "files": {}}, 415, "urlencoded"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"x" * 99, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "form"),
        ({"content": PNG, "headers": IMAGE, "params": {"model": "other"}}, 404, "tiny"),
        ({"content": PNG, "headers": IMAGE, "params": {"explain": "perhaps"}}, 422, "explain"),
        ({"content": PNG, "headers": IMAGE, "params": {"modle": "tiny"}}, 422, "modle explain or model"),
    ],
)
def test_bad_uploads_say_what_is_wrong(client: Client, request_parts: dict[str, Any], status: int, words: str) -> None:
    assert words in problem(client().post("/v1/classify", **request_parts), status)


def test_other_errors_have_the_same_shape(client: Client) -> None:
    c = client()
    problem(c.get("/nothing"), 404)
    response = c.put("/v1/classify")
    assert "PUT" in problem(response, 405) and "POST" in response.headers["allow"]
    problem(c.get("/v1/history/7"), 404)
    problem(c.delete("/v1/history/7"), 404)
    problem(c.get("/v1/history/0"), 422)
    problem(c.get(f"/v1/history/{2**80}"), 422)
    problem(c.get("/v1/history?limit=1000"), 422)
    assert "--camera" in problem(c.get("/v1/camera"), 404)
    problem(c.post("/v1/camera/classify"), 404)


def test_an_unknown_error_shows_nothing(client: Client, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret of the implementation")

    monkeypatch.setattr(Service, "classify", broken)
    response = client().post("/v1/classify", content=PNG, headers=IMAGE)
    assert "secret" not in problem(response, 500) and "X-Content-Type-Options" in response.headers
    assert "secret" in caplog.text  # the operator sees it


def test_bytes_are_counted_not_believed(client: Client) -> None:
    c = client(limits=Limits(body_bytes=2000))
    assert "2000" in problem(c.post("/v1/classify", content=bytes(3000), headers=IMAGE), 413)

    def chunks() -> Iterator[bytes]:  # without Content-Length
        for _ in range(30):
            yield bytes(100)

    assert "more than 2000" in problem(c.post("/v1/classify", content=chunks(), headers=IMAGE), 413)
    lying = {**IMAGE, "Content-Length": "10"}
    problem(c.post("/v1/classify", content=chunks(), headers=lying), 413)
    problem(c.post("/v1/classify", content=bytes(1999), headers=IMAGE), 422)  # within: no picture


def test_all_uploads_together_are_bounded(client: Client) -> None:
    c = client(limits=Limits(body_bytes=5000, all_bodies_bytes=1000))
    response = c.post("/v1/classify", content=bytes(1500), headers=IMAGE)
    problem(response, 429)
    assert response.headers["retry-after"] == "1"
    problem(c.post("/v1/classify", content=bytes(900), headers=IMAGE), 422)  # what was held is free again


def test_an_upload_that_drags_on_is_ended(classifier: Classifier) -> None:
    limits = Limits(body_s=0.1)
    app = create_app(Service({"tiny": classifier}, History(None), Meters(), limits), Access())

    async def drip() -> AsyncIterator[bytes]:
        for byte in PNG:
            yield bytes([byte])
            await asyncio.sleep(0.02)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as c:
            return await c.post("/v1/classify", content=drip(), headers=IMAGE)

    started = time.monotonic()
    response = asyncio.run(ask())
    assert "0.1 seconds" in problem(response, 408) and time.monotonic() - started < 2
    assert response.headers["connection"] == "close"


def test_an_upload_is_held_once() -> None:
    picture = bytes(4_000_000)
    head = b'--b\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
    for kind, whole in (("image/png", picture), ("multipart/form-data; boundary=b", head + picture + b"\r\n--b--\r\n")):

        async def ask(kind: str, whole: bytes) -> int:
            at = 0

            async def receive() -> dict[str, Any]:
                nonlocal at
                at += 100_000  # a copy, as from a socket
                return {"type": "http.request", "body": whole[at - 100_000 : at], "more_body": at < len(whole)}

            scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", kind.encode())]}
            async with read_upload(Request(scope, receive), Bodies(Limits())) as upload:
                assert upload.encoded == picture
                return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            assert asyncio.run(ask(kind, whole)) < 1.2 * len(picture), kind
        finally:
            tracemalloc.stop()


def test_what_nobody_waits_for_any_more_is_not_held() -> None:
    turns, go, begun = Turns(Limits(running=1, waiting=3, answer_s=0.05)), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go.wait(30)

    async def ask(work: Callable[[], Any]) -> None:
        with pytest.raises(RequestError, match="no answer in time"):
            await turns.run(work)

    asyncio.run(ask(hang))
    assert begun.wait(5) and turns.stuck
    picture = np.zeros(10)
    kept = weakref.ref(picture)
    asyncio.run(ask(partial(np.sum, picture)))
    del picture
    gc.collect()
    assert kept() is None and turns.taken == 1
    go.set()
    turns.close()
    assert turns.taken == 0 and not turns.stuck


class Slow:
    """A classifier that takes its time."""

    def __init__(self, classifier: Classifier, seconds: float) -> None:
        self.bundle, self.engine, self.seconds = classifier.bundle, classifier.engine, seconds
        self._classifier = classifier

    def classify(self, *arguments: Any) -> Any:
        time.sleep(self.seconds)
        return self._classifier.classify(*arguments)


def test_too_many_at_once_are_told_so_and_nothing_else_is_lost(client: Client, classifier: Classifier) -> None:
    c = client(models={"tiny": Slow(classifier, 0.1)}, limits=Limits(running=1, waiting=2))
    found: list[Any] = []
    ask = lambda: found.append(c.post("/v1/classify", content=PNG, headers=IMAGE))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(response.status_code for response in found)
    assert statuses.count(200) >= 3 and set(statuses) == {200, 429}
    refused = next(response for response in found if response.status_code == 429)
    assert "1 in work and 2 waiting" in problem(refused, 429) and refused.headers["retry-after"] == "1"
    assert c.post("/v1/classify", content=PNG, headers=IMAGE).status_code == 200
    assert 'leukoscope_rejected_total{status="429"}' in c.get("/metrics").text


def test_no_answer_in_time_and_then_health_says_so(client: Client, classifier: Classifier) -> None:
    c = client(models={"tiny": Slow(classifier, 0.6)}, limits=Limits(running=1, answer_s=0.1))
    problem(c.post("/v1/classify", content=PNG, headers=IMAGE), 504)
    assert c.get("/healthz").status_code == 503 and "no answer" in c.get("/healthz").json()["reasons"][0]
    until(lambda: c.get("/healthz").json() == {"status": "ok", "reasons": []})


def test_a_failing_engine_is_unhealthy_until_it_answers(
    client: Client, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = client()

    def fail(*_: Any) -> None:
        raise EngineError("litert failed on a picture")

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "classify", fail)
        problem(c.post("/v1/classify", content=PNG, headers=IMAGE), 503)
        assert c.get("/healthz").status_code == 503 and "tiny" in c.get("/healthz").json()["reasons"][0]
    c.post("/v1/classify", content=PNG, headers=IMAGE)
    assert c.get("/healthz").status_code == 200


def test_only_its_own_names_reach_it(client: Client) -> None:
    c = client()
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::1"):
        assert "allow-host" in problem(c.get("/v1/models", headers={"Host": host}), 400)
        problem(c.get("/", headers={"Host": host}), 400)
    for host in ("localhost", "LOCALHOST:1234", "127.0.0.1:8080", "[::1]:8080"):
        assert c.get("/v1/models", headers={"Host": host}).status_code == 200


def test_pages_of_others_are_not_answered(client: Client) -> None:
    c = client()
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Origin": "http://a@127.0.0.1:8080"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        problem(c.post("/v1/classify", content=PNG, headers={**IMAGE, **headers}), 403)
        problem(c.delete("/v1/history", headers=headers), 403)
    assert c.get("/v1/models", headers={"Origin": URL, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    proxied = client(Access(TOKEN, (*LOOPBACK, "lab.example")))
    authorized = {"Authorization": f"Bearer {TOKEN}", "Origin": "https://lab.example"}
    assert proxied.get("/v1/models", headers={**authorized, "Host": "127.0.0.1:8080"}).status_code == 200
    assert proxied.get("/v1/models", headers={**authorized, "Host": "lab.example"}).status_code == 200


def test_a_token_guards_all_but_the_page(client: Client) -> None:
    c = client(Access(TOKEN, None), base_url="http://192.168.1.7:8080")
    for path in ("/v1/models", "/v1/history", "/v1/history/1/picture", "/v1/camera", "/metrics"):
        response = c.get(path)
        assert "no token" in problem(response, 401) and response.headers["www-authenticate"].startswith("Bearer")
        assert "wrong token" in problem(c.get(path, headers={"Authorization": f"Bearer {TOKEN}x"}), 401)
        problem(c.get(path, headers={"Authorization": f"Basic {TOKEN}"}), 401)
        problem(c.get(path, headers={"Authorization": "Bearer ü".encode()}), 401)
    assert c.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    for path in ("/", "/page.css", "/page.js", "/healthz", "/openapi.json"):
        response = c.get(path)
        assert response.status_code == 200 and TOKEN not in response.text
    assert c.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]["security"] == [{"token": []}]


def test_every_response_keeps_browsers_at_bay(client: Client) -> None:
    c = client()
    for response in (c.get("/"), c.get("/v1/models"), c.get("/nothing"), c.get("/", headers={"Host": "evil"})):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
    assert c.get("/v1/models").headers["cache-control"] == "no-store"


def test_history_is_paged_opened_drawn_and_forgotten(client: Client) -> None:
    c = client(history=History(None, Bounds(entries=4)))
    for name in "abcdef":
        c.post("/v1/classify", files={"picture": (f"{name}.png", PNG)})
    page = c.get("/v1/history?limit=3").json()
    assert [one["picture"] for one in page["entries"]] == ["f.png", "e.png", "d.png"]
    assert (page["count"], page["kept"]) == (4, "in memory")
    last = c.get(f"/v1/history?limit=3&before={page['next']}").json()
    assert [one["picture"] for one in last["entries"]] == ["c.png"] and last["next"] is None
    number = page["entries"][0]["id"]
    entry = c.get(f"/v1/history/{number}").json()
    assert entry["kind"] == "classify" and entry["picture"] == "f.png" and len(entry["heatmap"]) > 1
    picture = Image.open(io.BytesIO(c.get(f"/v1/history/{number}/picture").content))
    assert picture.size == (entry["placement"]["input_px"],) * 2
    overlay = c.get(f"/v1/history/{number}/overlay")
    assert overlay.headers["content-type"] == "image/png" and Image.open(io.BytesIO(overlay.content)).width == 448
    problem(c.get(f"/v1/history/{number}/cells"), 404)  # no scan
    assert c.delete(f"/v1/history/{number}").json() == {"deleted": 1}
    problem(c.get(f"/v1/history/{number}/picture"), 404)
    assert c.delete("/v1/history").json() == {"deleted": 3} and c.get("/v1/history").json()["entries"] == []


def test_a_full_disk_costs_the_history_not_the_answer(client: Client, tmp_path: Path) -> None:
    history = History(tmp_path)
    c = client(history=history)
    history._base.execute("PRAGMA max_page_count = 6")
    answers = [c.post("/v1/classify", content=PNG, headers=IMAGE) for _ in range(12)]
    assert all(answer.status_code == 200 and answer.json()["label"] for answer in answers)
    assert answers[0].json()["id"] == 1 and answers[-1].json()["id"] is None
    lost = sum(answer.json()["id"] is None for answer in answers)
    assert f"leukoscope_history_failures_total {lost}.0" in c.get("/metrics").text


def test_names_of_files_cannot_do_harm(client: Client) -> None:
    c = client()
    for name in ("../../etc/passwd", "a\x1b[2Jb.png", "x" * 1000 + ".png", "<script>alert(1)</script>.png", "血.png"):
        answer = c.post("/v1/classify", files={"picture": (name, PNG)}).json()
        assert answer["picture"].isprintable() and len(answer["picture"]) <= 200
        assert c.get(f"/v1/history/{answer['id']}").json()["picture"] == answer["picture"]


def test_meters_count_answers_refusals_and_models(client: Client, classifier: Classifier) -> None:
    class Doubtful(Slow):
        def classify(self, *arguments: Any) -> Any:
            refusal = Refusal("blurred", "sharpness", 0.1, low=0.3)
            return dataclasses.replace(self._classifier.classify(*arguments), refusals=(refusal,))

    c = client(models={"tiny": classifier, "doubtful": Doubtful(classifier, 0)})
    answer = c.post("/v1/classify", content=PNG, headers=IMAGE).json()
    refused = c.post("/v1/classify?model=doubtful", content=PNG, headers=IMAGE).json()
    assert refused["abstained"] and refused["refusals"][0]["text"].startswith("blurred")
    text = c.get("/metrics").text
    assert f'leukoscope_predictions_total{{label="{answer["label"]}",model="tiny"}} 1.0' in text
    assert 'leukoscope_abstained_total{model="doubtful",reason="blurred"} 1.0' in text
    assert 'label="' not in next(line for line in text.splitlines() if "doubtful" in line and "abstained" in line)
    assert 'leukoscope_requests_total{method="POST",route="/v1/classify",status="200"} 2.0' in text
    assert f'bundle_id="{classifier.bundle.id}"' in text and "process_resident_memory_bytes" in text
    c.get("/v1/history/123456")
    assert "123456" not in c.get("/metrics").text  # routes, not paths


def until(there: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


class Frames:
    """A camera that shows one frame and then nothing."""

    dropped, ended = 3, False

    def __init__(self) -> None:
        self.left, self.closed = [smear(120, 5)], False

    def newest(self, timeout_s: float) -> Any:
        if not self.left:
            time.sleep(min(timeout_s, 0.01))
            return None

        class Frame:
            pixels, number = self.left.pop(), 42

        return Frame()

    def close(self) -> None:
        self.closed = True


def test_the_camera_is_seen_and_classified(client: Client) -> None:
    frames = Frames()
    live = Live(lambda: frames)
    c = client(live=live)
    until(lambda: c.get("/v1/camera").json()["present"])
    state = c.get("/v1/camera").json()
    assert (state["width"], state["height"], state["frame"], state["dropped"]) == (120, 120, 42, 3)
    frame = c.get("/v1/camera/frame.jpg")
    assert frame.headers["x-frame"] == "42"
    assert np.asarray(Image.open(io.BytesIO(frame.content))).shape == (120, 120, 3)
    answer = c.post("/v1/camera/classify?explain=1").json()
    assert answer["picture"] == "camera, frame 42" and "explanation" in answer
    live.close()
    assert frames.closed


def test_a_film_begins_anew() -> None:
    opened: list[Frames] = []

    class Film(Frames):
        ended = True

    def again() -> Film:
        opened.append(Film())
        return opened[-1]

    live = Live(again)
    until(lambda: len(opened) > 2)
    live.close()
    assert all(film.closed for film in opened)


def test_an_empty_film_does_not_keep_a_core_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.server.live.AGAIN_S", 60)
    opened: list[Frames] = []

    class Empty(Frames):
        ended = True

        def newest(self, timeout_s: float) -> None:
            return None

    def again() -> Empty:
        opened.append(Empty())
        return opened[-1]  # type: ignore[return-value]

    live = Live(again)
    until(lambda: opened and opened[0].closed)
    time.sleep(0.05)
    assert len(opened) == 1
    live.close()


def test_an_old_view_is_not_shown_for_a_new_one_with_its_number(client: Client) -> None:
    first, second = Frames(), Frames()
    second.left = [smear(80, 9)]
    sources = [first, second]
    c = client(live=Live(lambda: sources.pop(0)))
    until(lambda: c.get("/v1/camera").json()["present"])
    old = c.get("/v1/camera/frame.jpg").content
    first.ended = True
    until(lambda: c.get("/v1/camera").json()["width"] == 80)
    new = c.get("/v1/camera/frame.jpg")
    assert new.headers["x-frame"] == "42" and new.content != old


def test_looking_goes_on_whatever_a_driver_raises(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.server.live.RETRY_S", 0.05)
    sources: list[Any] = [RuntimeError("select() timeout"), Frames()]

    def opened() -> Frames:
        if isinstance(source := sources.pop(0), Exception):
            raise source
        return source  # type: ignore[no-any-return]

    c = client(live=Live(opened))
    until(lambda: c.get("/v1/camera").json()["present"])


def test_a_camera_that_is_not_there_is_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.server.live.RETRY_S", 0.05)
    tries: list[int] = []
    plugged_in = threading.Event()

    def opened() -> Frames:
        tries.append(1)
        if not plugged_in.is_set():
            raise EngineError("no such camera")
        return Frames()

    c = client(live=Live(opened))
    assert "cable" in problem(c.get("/v1/camera/frame.jpg"), 503)
    until(lambda: len(tries) > 1)
    plugged_in.set()
    until(lambda: c.get("/v1/camera").json()["present"])
    assert c.get("/v1/camera").json()["error"] is None


def test_the_document_names_every_route_and_loads_nothing_from_elsewhere(client: Client) -> None:
    c = client()
    document = c.get("/openapi.json").json()
    assert {"/v1/classify", "/v1/scan", "/v1/models", "/v1/history", "/v1/camera", "/healthz", "/metrics"} <= set(
        document["paths"]
    )
    for path in ("/docs", "/redoc"):
        problem(c.get(path), 404)
    models = c.get("/v1/models").json()
    assert models["models"][0]["model"] == "tiny" and models["note"] == report.NOTE
