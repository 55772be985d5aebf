"""The page in a real browser: what is drawn is what the API says, whatever files are called or hold.

One browser and one server for all tests. Every page is watched: no error in its console, no dialog, no request to
another host.
"""

import io
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.web.browser import launched, missing, need_browser, required, served
from tests.web.conftest import png
from tests.web.scenes import HOSTILE, named_by_a_stranger, untrained_scene

from tubelet.encoder.model import Encoder
from tubelet.web.bench import Bench
from tubelet.web.server import Serving

pytestmark = pytest.mark.browser

REFUSAL = "the server responded with a status of 422"  # browsers log what a page handles, too
WAIT_MS = 60_000  # of a machine with other work
COUNT_CLEAR = """canvas => {
  const box = canvas.getBoundingClientRect(), [h, w] = canvas.dataset.grid.split(" ").map(Number);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let clear = 0;
  for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) {
    const x = Math.floor((j + 0.5) * canvas.width / w), y = Math.floor((i + 0.5) * canvas.height / h);
    if (pixels[4 * (y * canvas.width + x) + 3] === 0) clear++;
  }
  return clear;
}"""
COLOURS = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return [new Set(new Uint32Array(pixels.buffer)).size, Array.from(pixels.slice(0, 3))];
}"""
CARRIED = """([name, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([Uint8Array.from(bytes)], name, {type: "image/png"}));
  return carried;
}"""
ASK_SCORES = """async ([token, method]) => {
  const doc = document.body.dataset.drawn.split(" ")[0];
  const answer = await fetch(`api/scores/${doc}/${method}`, {headers: {"X-Tubelet-Token": token}});
  return Array.from(new Uint8Array(await answer.arrayBuffer()));
}"""


@pytest.fixture(scope="module")
def serving(encoder: Encoder, media: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    need_browser()
    from tubelet.cli.serve import views_of

    place = tmp_path_factory.mktemp("scenes")
    scene = untrained_scene(place / "walk", media["clip"])
    hostile, broken = named_by_a_stranger(scene, place / HOSTILE), place / "broken"
    shutil.copytree(scene, broken)
    (broken / "points.ply").write_bytes(b"ply")
    files = tuple(map(str, (media["page"], media["clip"], scene, hostile, broken)))
    with served(Bench("tiny", encoder, encoder.pixels, True, files=files, views_of=views_of)) as found:
        yield found


@pytest.fixture(scope="module")
def browser(serving: Serving) -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def pages(browser: Any, serving: Serving) -> Iterator[Any]:
    """Opens watched pages; what they did is looked at when the test is over."""
    seen: list[str] = []
    contexts = []

    def page(fragment: str = "", **how: Any) -> Any:
        context = browser.new_context(viewport=how.pop("viewport", {"width": 1200, "height": 800}), **how)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        found = context.new_page()
        found.on("console", lambda m: m.type == "error" and REFUSAL not in m.text and seen.append(f"console: {m.text}"))
        found.on("pageerror", lambda error: seen.append(f"error: {error}"))
        found.on("dialog", lambda dialog: (seen.append("dialog"), dialog.dismiss()))
        ours = f"http://127.0.0.1:{serving.port}/"
        found.on("request", lambda r: r.url.startswith((ours, f"blob:{ours}")) or seen.append(f"foreign: {r.url}"))
        found.goto(serving.address + fragment)
        return found

    yield page
    for context in contexts:
        context.close()
    assert seen == []


def ready(page: Any, name: str) -> None:
    """Waits until a file of that name is drawn."""
    from playwright.sync_api import expect

    expect(page.locator("#facts dd").first).to_have_text(name, timeout=WAIT_MS)
    expect(page.locator("body")).to_have_attribute("data-drawn", re.compile("."), timeout=WAIT_MS)
    expect(page.locator(".canvases").first).not_to_have_class(re.compile("waiting"), timeout=WAIT_MS)


def clear_cells(page: Any, grid: str) -> int:
    """Cells without a veil, counted from the pixels of the canvas."""
    canvas = page.locator("canvas.cells").first
    canvas.evaluate("(canvas, grid) => { canvas.dataset.grid = grid; }", grid)
    return canvas.evaluate(COUNT_CLEAR)


def test_a_picture_its_kept_tokens_and_the_slider(pages: Any):
    from playwright.sync_api import expect

    page = pages("&method=edges&budget=20")
    ready(page, "page.png")
    expect(page.locator("#kept")).to_contain_text("20 of 70")
    assert clear_cells(page, "7 10") == 20
    page.locator("#budget").fill("33")
    expect(page.locator("#kept")).to_contain_text("33 of 70")
    assert clear_cells(page, "7 10") == 33
    page.locator("#method").select_option("divprune")  # its scores are of one budget: the server is asked
    expect(page.locator("#kept")).to_contain_text("33 of 70")
    page.locator("#budget").fill("12")
    expect(page.locator("#kept")).to_have_text(re.compile(r"^12 of 70 \(17.1 %\) tokens kept$"), timeout=WAIT_MS)
    assert clear_cells(page, "7 10") == 12
    expect(page.locator("#command")).to_have_text(re.compile("--method divprune --budget 12"))
    expect(page.locator("#costs")).to_contain_text("tokens12", timeout=WAIT_MS)


def test_the_picture_can_be_saved_as_it_is_seen(pages: Any):
    page = pages("&method=edges&budget=20&beside=norm")
    ready(page, "page.png")
    shown = page.locator("canvas.cells").first.evaluate("canvas => [canvas.width, canvas.height]")
    with page.expect_download() as found:
        page.locator("#save").click()
    assert found.value.suggested_filename == "page.png.kept.png"
    with Image.open(found.value.path()) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 2 * shown[0]  # both methods
        assert picture.height > shown[1]
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_the_pointed_token_is_told_as_the_api_has_it(pages: Any, serving: Serving):
    from playwright.sync_api import expect

    page = pages("&method=variance&budget=20")
    ready(page, "page.png")
    canvas = page.locator("canvas.cells").first
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * 3.5 / 10, "y": box["height"] * 2.5 / 7})
    expect(page.locator("#readout")).to_contain_text("0, 2, 3")
    row = 2 * 10 + 3
    told = page.evaluate(ASK_SCORES, [serving.token, "variance"])
    body = bytes(told)
    rows = struct.unpack("<I", body[8:12])[0]
    scores, ranks = np.frombuffer(body[32 : 32 + 4 * rows], "<f4"), np.frombuffer(body[32 + 4 * rows :], "<u4")
    text = page.locator("#readout").inner_text()
    assert f"{ranks[row] + 1} of 70" in text
    shown = float(re.search(r"score\s+([-\d.e]+)", text)[1])
    assert shown == pytest.approx(float(scores[row]), rel=1e-3)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#readout")).to_contain_text("0, 2, 4")
    page.keyboard.press("]")
    expect(page.locator("#kept")).to_contain_text("21 of 70")


def test_a_clip_has_its_times_and_a_bar_for_each_frame(pages: Any):
    from playwright.sync_api import expect

    page = pages("&file=1&method=norm&budget=10")
    ready(page, "clip.mp4")
    frames = page.locator("#timeline button")
    expect(frames).to_have_count(4)
    assert [t.split("\n")[0] for t in frames.all_inner_texts()] == ["0.00 s", "0.50 s", "1.00 s", "1.50 s"]
    counts = [int(re.search(r"(\d+) of 12", text)[1]) for text in frames.all_inner_texts()]
    assert sum(counts) == 10
    frames.nth(2).click()
    expect(page.locator("figcaption").first).to_contain_text("at 1.00 s")
    assert clear_cells(page, "3 4") == counts[2]


def test_hostile_and_damaged_files_are_text_and_refusals(pages: Any):
    from playwright.sync_api import expect

    page = pages()
    ready(page, "page.png")
    name = "<img src=x onerror=alert(1)>'`$(id)`.png"
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": png(64, 64)})
    ready(page, name)
    expect(page.locator("#command")).to_contain_text("'<img src=x onerror=alert(1)>'\\''`$(id)`.png'")
    damaged = {"name": "b.png", "mimeType": "image/png", "buffer": png(64, 64)[:60]}
    page.locator("#file").set_input_files(damaged)
    expect(page.locator("#alarm")).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("#facts dd").first).to_have_text(name)  # what was open stays


def test_a_file_is_opened_where_it_is_dropped(pages: Any):
    page = pages()
    ready(page, "page.png")
    carried = page.evaluate_handle(CARRIED, ["dropped.png", list(png(96, 64))])
    page.locator("#looks").dispatch_event("dragover", {"dataTransfer": carried})
    assert page.evaluate("document.body.classList.contains('over')")
    page.locator("#looks").dispatch_event("drop", {"dataTransfer": carried})
    ready(page, "dropped.png")
    assert not page.evaluate("document.body.classList.contains('over')")
    assert "96 x 64 pixels" in page.locator("#facts").inner_text()


def test_two_tabs_and_a_link_hold_what_they_show(pages: Any):
    from playwright.sync_api import expect

    first, second = pages("&method=edges&budget=20"), pages("&file=1&method=norm&budget=30&beside=uniform")
    ready(first, "page.png")
    ready(second, "clip.mp4")
    expect(second.locator("figcaption").nth(1)).to_contain_text("uniform")
    first.locator("#budget").fill("44")
    expect(first).to_have_url(re.compile("budget=44"))
    again = pages(first.url.partition("#")[2].partition("&")[1] + first.url.partition("&")[2])
    ready(again, "page.png")
    expect(again.locator("#kept")).to_contain_text("44 of 70")
    expect(second.locator("#kept")).to_contain_text("30 of 48")


def test_a_link_brings_back_the_token_the_rule_and_what_is_drawn(pages: Any, serving: Serving):
    from playwright.sync_api import expect

    page = pages("&method=variance&budget=20", permissions=["clipboard-read", "clipboard-write"])
    ready(page, "page.png")
    page.locator("#rule").select_option("1d")
    page.locator('[data-show="colours"]').click()
    expect(page.locator("#about")).to_contain_text(re.compile(r"principal directions, [\d.]+ % of the variance"))
    page.locator("canvas.cells").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#readout")).to_contain_text("position (1d)")
    told = page.locator("#readout").inner_text()
    page.locator("#link").click()
    expect(page.locator("#link")).to_have_text("Copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"http://127.0.0.1:{serving.port}/#{serving.token}&")
    again = pages("&" + link.partition("&")[2])
    ready(again, "page.png")
    expect(again.locator("#about")).to_contain_text("principal directions")
    expect(again.locator("#readout")).to_have_text(re.compile(r"token\s*\d+"))
    assert again.locator("#readout").inner_text() == told
    assert again.locator("#rule").input_value() == "1d"


def test_a_frame_is_sent_as_large_as_it_is_shown(pages: Any):
    page, sent = pages(viewport={"width": 700, "height": 800}), []
    ready(page, "page.png")

    def handed_on(route: Any) -> None:
        answer = route.fetch()
        sent.append((route.request.url, answer.body()))
        route.fulfill(response=answer)

    page.route("**/api/frame/**", handed_on)
    page.locator("#file").set_input_files({"name": "wide.png", "mimeType": "image/png", "buffer": png(2000, 400)})
    ready(page, "wide.png")
    with page.expect_response(re.compile("/api/frame/")):
        page.set_viewport_size({"width": 1500, "height": 800})
    page.wait_for_load_state("networkidle")
    assert len(sent) == 2
    sides = [int(re.search(r"side=(\d+)", url)[1]) for url, _ in sent]
    assert [Image.open(io.BytesIO(body)).width for _, body in sent] == sides
    assert sides[0] < sides[1]
    shown = page.locator("canvas.pixels").first.evaluate("canvas => canvas.width")
    assert shown <= sides[1] < shown + 128


def seen_scene(page: Any) -> str:
    """Every pixel of the points and cameras, once they stand still."""
    page.wait_for_timeout(150)  # what is asked for is drawn with the next picture of the screen
    return page.locator("#turn").evaluate("canvas => canvas.toDataURL()")


def scene_is_open(page: Any) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#place")).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("#frames li:last-child img").last).to_have_attribute(
        "src", re.compile("^blob:"), timeout=WAIT_MS
    )
    expect(page.locator("#depth")).to_have_attribute("src", re.compile("^blob:"), timeout=WAIT_MS)


def test_a_scene_is_turned_and_its_frames_have_their_depth(pages: Any):
    from playwright.sync_api import expect

    page = pages("&file=2")
    scene_is_open(page)
    expect(page.locator("#meaning")).to_have_text("vggt_tiny is UNTRAINED: random weights, this scene means nothing")
    expect(page.locator("#place-facts")).to_contain_text("2 of 42 x 42 pixels")
    first = seen_scene(page)
    canvas, seen = page.locator("#turn"), [first]
    assert canvas.evaluate(COLOURS)[0] > 20  # points, not paper alone
    canvas.focus()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", "+", "c", "n"):
        page.keyboard.press(key)
        seen.append(seen_scene(page))
        assert seen[-1] != seen[-2], key
    expect(page.locator("#turned")).to_contain_text("from camera 1 of 2: clip.mp4 at")
    expect(page.locator("#photographed")).to_contain_text("1 of 2: clip.mp4 at")
    page.keyboard.press("c")
    page.keyboard.press("0")
    assert seen_scene(page) == first
    frames = page.locator("#frames button")
    expect(frames).to_have_count(2)
    frames.nth(1).press("Enter")
    expect(frames.nth(1)).to_have_attribute("aria-current", "true")
    expect(page.locator("#turned")).to_contain_text("from camera 2 of 2")
    expect(page.locator("#measured")).to_have_text(
        re.compile(r"depth [\d.]+ to [\d.]+, half of it beyond [\d.]+; known")
    )
    expect(page).to_have_url(re.compile("file=2&t=1"))
    canvas.scroll_into_view_if_needed()
    box, before = canvas.bounding_box(), seen_scene(page)
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 80, steps=4)
    page.mouse.up()
    assert seen_scene(page) != before
    page.locator("#given").select_option("f0")  # back to a picture
    ready(page, "page.png")
    expect(page.locator("#place")).to_be_hidden()
    expect(page.locator("#looks")).to_be_visible()


def test_a_scene_of_a_stranger_is_text_and_a_damaged_one_is_refused(pages: Any):
    from playwright.sync_api import expect

    page = pages("&file=3")
    scene_is_open(page)
    expect(page.locator("#place-facts dd").first).to_have_text(f"{HOSTILE}/")
    expect(page.locator("#meaning")).to_contain_text(HOSTILE)
    expect(page.locator("#photographed")).to_contain_text(HOSTILE)
    page.locator("#given").select_option("f4")
    expect(page.locator("#alarm")).to_contain_text("points.ply of this scene: ", timeout=WAIT_MS)
    expect(page.locator("#place-facts dd").first).to_have_text(f"{HOSTILE}/")  # what was open stays


def test_a_scene_fits_a_narrow_dark_screen(pages: Any):
    light, dark = (pages("&file=2", viewport={"width": 360, "height": 740}, color_scheme=c) for c in ("light", "dark"))
    corners = []
    for page in (light, dark):
        scene_is_open(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        corners.append(page.locator("#turn").evaluate(COLOURS)[1])
    assert corners == [[250, 249, 246], [23, 24, 26]]


def test_it_fits_a_narrow_dark_screen(pages: Any):
    page = pages("&method=edges&budget=20", viewport={"width": 360, "height": 740}, color_scheme="dark")
    ready(page, "page.png")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 26)"


def test_a_missing_browser_is_said_or_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install chromium" in (missing() or "") or "pip install playwright" in (missing() or "")
    for value, outcome in (("required", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("TUBELET_BROWSER", value)
        assert required() == (value == "required")
        with pytest.raises(outcome):
            need_browser()
