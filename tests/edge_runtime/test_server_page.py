"""The service's page in a real browser: what people see, hear and press, on a desk and on a phone."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from edge_runtime.heatmap import Placement
from edge_runtime.overlay import colours
from train.render import render_field

ROOT = Path(__file__).resolve().parents[2]
BLAST = ROOT / "samples" / "blood-cells" / "blast.jpg"
PRO = ROOT / "samples" / "all-subtypes" / "pro.jpg"
CHROMIUM = Path("/usr/bin/chromium")
TOKEN = "correct-horse-battery-staple"
expect.set_options(timeout=30_000)  # ms; for machines with much else to do

Open = Callable[..., Page]


@contextmanager
def serving(*options: object) -> Iterator[str]:
    """Run ``serve`` as a process of its own and give its address; it must end cleanly."""
    command = [sys.executable, "-m", "edge_runtime", "serve", "--port", "0", "--threads", "1", *map(str, options)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEUKOSCOPE")}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("http://"), process.stderr.read()
            yield line.split()[0]
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            assert process.wait(30) == 0 and "Traceback" not in said, said


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered field with white cells."""
    path = tmp_path_factory.mktemp("field") / "field.png"
    Image.fromarray(render_field("Pro", np.random.default_rng([3, 3]), 768).pixels).save(path)
    return path


@pytest.fixture(scope="module")
def url(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with the shipped models and a camera that looks at a film."""
    folder = tmp_path_factory.mktemp("serve")
    film = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (320, 240))
    pixels = render_field("Early", np.random.default_rng(1), 400).pixels
    for at in range(150):
        film.write(np.ascontiguousarray(pixels[at % 80 : at % 80 + 240, 20:340, ::-1]))
    film.release()
    with serving("--state", folder, "--camera", folder / "film.avi", "--max-mb", 4) as found:
        yield found


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return a function that opens the page; at the end nothing must have come from elsewhere or gone wrong.

    `allowed` are statuses that the browser may complain of; 503 says that the camera has not begun.
    """
    contexts, wrong = [], []

    def make(
        url: str, width: int = 1280, height: int = 800, allowed: tuple[str, ...] = ("503",), **options: Any
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda r: None if r.url.startswith((url, f"blob:{url}")) else wrong.append(r.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda m: wrong.append(m.text) if m.type == "error" and not any(a in m.text for a in allowed) else None,
        )
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not wrong


def classify(page: Page, model: str = "blood-cells", picture: Path = BLAST) -> None:
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", model)
    page.set_input_files("#file", picture)
    settled(page, picture)


def settled(page: Page, picture: Path) -> None:
    """Wait until a picture's answer is shown and the history begins with it."""
    expect(page.locator(".kicker")).to_have_text(picture.name)
    expect(page.locator("#working")).to_be_hidden()
    expect(page.locator(".entry").first).to_have_attribute("aria-current", "true")


def drawn(page: Page, canvas: str) -> bytes:
    """Return what a canvas shows, PNG."""
    address: str = page.evaluate("(c) => document.querySelector(c).toDataURL()", canvas)
    return base64.b64decode(address.partition(",")[2])


def pixels(png: bytes) -> npt.NDArray[np.int64]:
    """Return a picture's pixels, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int64)


def test_an_upload_gets_its_answer(open_page: Open, url: str) -> None:
    page = open_page(url)
    classify(page)
    expect(page.locator(".verdict")).to_contain_text("blast")
    expect(page.locator("#status")).to_contain_text("blast, 99")
    assert page.locator(".shares tbody tr").count() == 10
    expect(page.locator(".shares tbody tr").first).to_contain_text("blast")
    expect(page.locator(".flags .yes")).to_contain_text("blast: yes")
    expect(page.locator(".note")).to_be_visible()
    page.click("summary")
    expect(page.locator("dl")).to_contain_text("blood-cells-mobilenetv2-tflite-int8@")
    with page.expect_download() as download:
        page.click("text=Save as JSON")
    assert json.loads(download.value.path().read_text())["label"] == "blast"
    with page.expect_download() as download:
        page.click("text=Save the overlay")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_the_slider_lays_the_heat_over_the_picture(open_page: Open, url: str) -> None:
    page = open_page(url)
    classify(page)
    at_half = drawn(page, "canvas.seen")
    page.locator("#strength").fill("0")
    plain = drawn(page, "canvas.seen")
    page.locator("#strength").fill("100")
    full = drawn(page, "canvas.seen")
    assert len({plain, at_half, full}) == 3
    answer = page.evaluate("async () => (await fetch('/v1/history?limit=1')).json()")["entries"][0]
    answer = page.evaluate("async (id) => (await fetch(`/v1/history/${id}`)).json()", answer["id"])
    heat = np.array(answer["heatmap"], np.float32)
    expected = colours(Placement(**answer["placement"]).enlarge(heat, 448)).astype(int)
    found = pixels(full)
    off_line = np.abs(found - expected).max(axis=2)
    assert np.median(off_line) == 0 and (off_line <= 1).mean() > 0.9  # the rest is under the contour
    line = found[off_line > 1]
    assert set(np.unique(line)) <= {0, 255}


def test_heat_is_laid_out_as_the_runtime_does(open_page: Open, url: str) -> None:
    page = open_page(url)
    rng = np.random.default_rng(4)
    for shape, placement in (
        ((7, 7), Placement(0.5, 32.0, 224)),
        ((7, 5), Placement(20.25, 31.0, 224)),
        ((1, 1), Placement.grid(1, 96)),
    ):
        values = rng.random(shape, dtype=np.float32)
        stated = {"first_px": placement.first_px, "step_px": placement.step_px, "input_px": placement.input_px}
        found = page.evaluate(
            "async ([v, p]) => [...(await import('/heat.js')).enlarge(v, p, 65)]", [values.tolist(), stated]
        )
        assert np.abs(np.array(found).reshape(65, 65) - placement.enlarge(values, 65)).max() < 1e-6
    shades = page.evaluate(
        "async () => { const h = await import('/heat.js'); return [0, .1, .37, .5, .99, 1].map(h.colour); }"
    )
    assert np.abs(np.array(shades) - colours(np.array([0, 0.1, 0.37, 0.5, 0.99, 1], np.float32)).astype(int)).max() <= 1


def test_history_brings_an_answer_back_and_forgets(open_page: Open, url: str) -> None:
    page = open_page(url)
    classify(page)
    classify(page, "all-subtypes", PRO)
    page.locator(".entry").nth(1).click()
    expect(page.locator(".kicker")).to_have_text("blast.jpg")
    expect(page.locator(".entry").nth(1)).to_have_attribute("aria-current", "true")
    expect(page.locator("#answer")).to_be_focused()
    before = page.locator("#history-facts").inner_text()
    page.click("summary")
    page.click("text=Forget this answer")
    expect(page.locator("#answer")).to_contain_text("Forgotten")
    expect(page.locator("#history-facts")).not_to_have_text(before)


def test_a_scan_shows_its_cells(open_page: Open, url: str, field: Path) -> None:
    page = open_page(url)
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("input[value=scan]").check(force=True)
    assert page.locator("#model option").all_inner_texts() == ["blood-cells"]
    page.set_input_files("#file", field)
    expect(page.locator(".cells button").first).to_be_visible()
    cells = page.locator(".cells button")
    assert cells.count() >= 2
    plain = drawn(page, "canvas.seen")
    cells.nth(1).click()
    expect(cells.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".cells [aria-pressed=true]")).to_have_count(1)
    expect(page.locator(".detail h3")).to_contain_text("Cell ")
    expect(page.locator("#status")).to_contain_text("Marked in the field")
    assert drawn(page, "canvas.seen") != plain  # its box
    before = drawn(page, ".cells canvas")
    page.locator("#strength").fill("90")
    assert drawn(page, ".cells canvas") != before
    count = cells.count()
    page.reload()
    page.locator(".entry").first.click()
    expect(cells).to_have_count(count)


def test_the_camera_is_live_and_answers(open_page: Open, url: str) -> None:
    page = open_page(url)
    expect(page.locator("#camera-facts")).to_have_text("Live, 320 \N{MULTIPLICATION SIGN} 240 px")
    first = drawn(page, "#live")
    for _ in range(600):
        if np.abs(pixels(drawn(page, "#live")) - pixels(first)).max() > 40:
            break
        page.wait_for_timeout(50)
    else:
        raise AssertionError("the live picture stands still")
    page.click("#frame")
    expect(page.locator(".kicker")).to_contain_text("camera, frame")


def refusal(reason: str, text: str) -> dict[str, Any]:
    return {"reason": reason, "measure": "sharpness", "value": 0.1, "low": 0.3, "high": None, "text": text}


@pytest.mark.parametrize("reason", ["blurred", "ambiguous"])
def test_why_there_is_no_answer_is_said_first(open_page: Open, url: str, reason: str) -> None:
    page = open_page(url)
    classify(page)
    text = f"{reason}: sharpness 0.1, expected at least 0.3 (look yourself)"

    def refuse(route: Route) -> None:
        stated = {"abstained": True, "refusals": [refusal(reason, text)], "plausible": ["blast", "lymphocyte"]}
        route.fulfill(json={**route.fetch().json(), **stated})

    page.route(re.compile(r"/v1/history/\d+$"), refuse)
    page.locator(".entry").first.click()
    expect(page.locator(".verdict")).to_have_text("No answer")
    expect(page.locator(".refused li")).to_have_text(text)
    expect(page.locator("#status")).to_contain_text(f"No answer. {reason}")
    expect(page.locator(".shares caption")).to_have_text("Not an answer: what it would have said")
    # A set of labels means something only for pictures that are like those the model knows.
    assert page.locator("text=Cannot be excluded: ").count() == (reason == "ambiguous")
    assert page.locator(".said").count() == page.locator(".flags").count() == 0


@pytest.mark.parametrize("left_out", ["no answer", "field refused"])
def test_refused_cells_look_like_no_answer(open_page: Open, url: str, field: Path, left_out: str) -> None:
    page = open_page(url)
    page.locator("#model option").first.wait_for(state="attached")

    def refuse(route: Route) -> None:
        answer = route.fetch().json()
        reasons = [refusal("blurred", "blurred: sharpness 0.1")] if left_out == "no answer" else []
        stated = {"abstained": bool(reasons), "refusals": reasons, "left_out": left_out}
        stated["flags"] = {"blast": {"yes": True, "score": 0.9, "threshold": 0.3}}
        cells = [{**cell, **stated} for cell in answer["cells"]]
        route.fulfill(json={**answer, "field": "refused.png", "cells": cells})

    page.locator("input[value=scan]").check(force=True)
    page.set_input_files("#file", field)
    settled(page, field)
    page.route(re.compile(r"/v1/history/\d+$"), refuse)
    page.locator(".entry").first.click()
    expect(page.locator(".kicker")).to_have_text("refused.png")
    expect(page.locator(".verdict")).to_contain_text("No cell counted")
    expect(page.locator(".cells button").first).to_contain_text("no answer")
    page.locator(".cells button").first.click()
    expect(page.locator(".detail h3")).to_contain_text(": no answer")
    expect(page.locator(".detail caption")).to_have_text("Not an answer: what it would have said")
    assert "%" not in page.locator(".cells").first.inner_text()
    assert page.locator(".said, .flag, .flags, .marked").count() == 0


def test_a_bad_picture_gets_its_line_and_the_others_go_on(open_page: Open, url: str, tmp_path: Path) -> None:
    page = open_page(url, allowed=("422", "503"))
    page.locator("#model option").first.wait_for(state="attached")
    bad = tmp_path / "<b>notes.png"
    bad.write_bytes(b"no picture")
    page.set_input_files("#file", [bad, PRO])
    expect(page.locator("#problems .alarm")).to_contain_text("<b>notes.png: not a picture")
    expect(page.locator(".kicker")).to_have_text("pro.jpg")


def test_what_is_too_large_is_not_even_sent(open_page: Open, url: str, tmp_path: Path) -> None:
    page = open_page(url)
    page.locator("#model option").first.wait_for(state="attached")
    large = tmp_path / "large.tif"
    large.write_bytes(bytes(5 * 2**20))
    page.set_input_files("#file", large)
    expect(page.locator("#problems .alarm")).to_have_text("large.tif: too large: got 5 MB, expected at most 4 MB")


def test_what_failed_leaves_no_older_answer_beside_it(open_page: Open, url: str) -> None:
    page = open_page(url, allowed=("503", "ERR_FAILED"))
    classify(page)
    page.route(re.compile(r"/v1/(classify|history)"), lambda route: route.abort())  # the service is gone
    page.set_input_files("#file", PRO)
    expect(page.locator("#problems .alarm")).to_have_text("pro.jpg: the service does not answer (is it running?)")
    expect(page.locator(".kicker")).to_have_text("pro.jpg")
    expect(page.locator(".verdict")).to_have_text("Not classified")
    expect(page.locator("#answer")).not_to_contain_text("blast")


def test_a_picture_that_comes_while_another_is_in_work_is_not_lost_silently(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.locator("#model option").first.wait_for(state="attached")
    held: list[Route] = []
    page.route(re.compile(r"/v1/classify"), lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.set_input_files("#file", BLAST)
    expect(page.locator("#working")).to_be_visible()
    page.set_input_files("#file", PRO)
    expect(page.locator("#problems .alarm")).to_contain_text("pro.jpg: not taken, another picture is in work")
    held[0].continue_()
    expect(page.locator(".kicker")).to_have_text("blast.jpg")


def test_older_answers_come_once_however_often_it_is_pressed(open_page: Open, url: str) -> None:
    page = open_page(url)
    classify(page)
    entry = page.evaluate("async () => (await fetch('/v1/history?limit=1')).json()")["entries"][0]
    older = {"entries": [{**entry, "picture": "older.png"}], "next": None, "count": 2, "kept": "on disk"}
    page.route(
        re.compile(r"/v1/history\?limit=20$"), lambda r: r.fulfill(json={**older, "entries": [entry], "next": 9})
    )
    page.route(re.compile(r"before=9$"), lambda r: r.fulfill(json=older))
    page.reload()
    expect(page.locator("#older")).to_be_visible()
    page.evaluate("() => { const b = document.getElementById('older'); b.click(); b.click(); }")
    expect(page.locator(".entry .name")).to_have_text([entry["picture"], "older.png"])
    expect(page.locator("#older")).to_be_hidden()


def test_pictures_may_be_dropped_anywhere(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.locator("#model option").first.wait_for(state="attached")
    page.evaluate(
        "(bytes) => { const held = new DataTransfer();"
        " held.items.add(new File([new Uint8Array(bytes)], 'dropped.jpg', { type: 'image/jpeg' }));"
        " const options = { dataTransfer: held, bubbles: true, cancelable: true };"
        " document.body.dispatchEvent(new DragEvent('drop', options)); }",
        list(PRO.read_bytes()),
    )
    expect(page.locator(".kicker")).to_have_text("dropped.jpg")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(open_page: Open, url: str, field: Path) -> None:
    page = open_page(url, 360, 740, has_touch=True, is_mobile=True)

    def fits() -> None:
        for width in (320, 360):
            page.set_viewport_size({"width": width, "height": 740})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            for control in page.locator("button:visible, select:visible, summary:visible, #strength").all():
                box = control.bounding_box()
                assert box is not None and box["height"] >= 44 and box["width"] >= 44, control.inner_text()

    classify(page)
    fits()
    expect(page.locator("#photo")).to_be_visible()
    assert page.locator("#shot").get_attribute("capture") == "environment"
    page.locator("input[value=scan]").check(force=True)
    page.set_input_files("#file", field)
    settled(page, field)
    page.locator(".cells button").first.click()
    page.locator("summary").click()
    fits()


def test_all_of_it_works_by_keyboard(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.on("filechooser", lambda chooser: chooser.set_files(BLAST))  # from the start: it takes a moment to begin
    page.locator("#model option").first.wait_for(state="attached")

    def tab_to(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                outline = page.evaluate(
                    "() => { const e = document.activeElement;"
                    " const s = getComputedStyle(e.type === 'radio' ? e.nextElementSibling : e);"
                    " return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2; }"
                )
                assert outline or selector == ".skip", f"focus cannot be seen on {selector}"
                return
        raise AssertionError(f"{selector} cannot be reached by Tab")

    tab_to(".skip")
    tab_to("input[type=radio]")
    tab_to("#model")
    page.keyboard.type("blood")
    tab_to("#choose")
    page.keyboard.press("Enter")
    expect(page.locator(".kicker")).to_have_text("blast.jpg")
    expect(page.locator("#working")).to_be_hidden()
    tab_to("#strength")
    before = drawn(page, "canvas.seen")
    page.keyboard.press("ArrowRight")
    assert drawn(page, "canvas.seen") != before
    assert page.locator("#strength").get_attribute("aria-valuetext") == "55 percent"
    tab_to("summary")
    page.keyboard.press("Enter")
    expect(page.locator("dl")).to_be_visible()
    tab_to("#forget")
    page.keyboard.press("Enter")
    expect(page.locator("#sure")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#sure")).to_be_hidden()
    tab_to(".entry")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_be_focused()


def test_every_control_and_picture_has_a_name(open_page: Open, url: str, field: Path) -> None:
    page = open_page(url)
    classify(page)
    page.locator("summary").click()
    session = page.context.new_cdp_session(page)
    seen: set[str] = set()
    for _ in range(2):
        tree = session.send("Accessibility.getFullAXTree")["nodes"]
        roles = {
            "button",
            "link",
            "slider",
            "combobox",
            "radio",
            "textbox",
            "checkbox",
            "img",
            "table",
            "image",
            "region",
        }
        found = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree
            if not node.get("ignored") and node.get("role", {}).get("value") in roles
        ]
        assert len(found) > 12 and all(name.strip() for _, name in found), found
        seen |= {role for role, _ in found}
        page.locator("input[value=scan]").check(force=True)
        page.set_input_files("#file", field)
        expect(page.locator(".cells button").first).to_be_visible()
    assert {"button", "slider", "combobox", "radio", "table"} <= seen
    assert page.locator("h1").count() == 1 and page.locator("html").get_attribute("lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_text_stands_out_from_its_ground(open_page: Open, url: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    page = open_page(url)
    pairs = [
        (ink, ground)
        for ground in ("ground", "card", "tint", "amber-tint", "red-tint")
        for ink in ("ink", "fine")
        if ink == "ink" or "-" not in ground
    ]
    pairs += [("on-accent", "accent"), ("accent", "card"), ("amber", "card"), ("red", "card"), ("red", "tint")]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        names = sorted({name for pair in pairs for name in pair})
        texts = page.evaluate(
            "(names) => names.map((n) => getComputedStyle(document.documentElement).getPropertyValue('--' + n))", names
        )
        shown = {name: luminance(text) for name, text in zip(names, texts, strict=True)}
        for ink, ground in pairs:
            light, dark = sorted((shown[ink], shown[ground]), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, ink, ground)


def luminance(text: str) -> float:
    """Return the relative luminance of a colour such as "#5b2a9d", as WCAG defines it."""
    shares = np.array(list(bytes.fromhex(text.strip().lstrip("#")))) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_a_token_is_asked_for_and_kept_in_the_tab(open_page: Open, browser: Browser, tmp_path: Path) -> None:
    secret = tmp_path / "token.txt"
    secret.write_text(TOKEN + "\n")
    secret.chmod(0o600)
    with serving("--token-file", secret, "--no-history", "--model", "blood-cells") as url:
        page = open_page(url, allowed=("401",))
        expect(page.locator("#login")).to_be_visible()
        for wrong in ("wrong", "“quoted as a word processor does it”"):
            page.fill("#token", wrong)
            page.keyboard.press("Enter")
            expect(page.locator("#login-problem")).to_have_text("That token is not accepted.")
        for _ in range(3):
            page.keyboard.press("Escape")
        expect(page.locator("#login")).to_be_visible()
        page.fill("#token", TOKEN)
        page.click("text=Go on")
        classify(page)
        expect(page.locator(".verdict")).to_contain_text("blast")
        expect(page.locator("#history-facts")).to_contain_text("until the service stops")
        assert TOKEN not in page.url and TOKEN not in page.content()
        page.reload()
        expect(page.locator(".entry")).to_have_count(1)  # no second question
