"""The page's script without a browser: what its files may not hold, and its pure functions under node."""

import json
import re
import shutil
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import tubelet.inspect.draw
import tubelet.web

STATIC = Path(tubelet.web.__file__).parent / "static"
SCRIPTS = sorted(STATIC.glob("*.js"))
TURN = Path(tubelet.inspect.draw.__file__).parent / "turn.js"  # which the page loads, too


def run(code: str) -> object:
    """What `code`, a module's body that says `out = ...`, finds."""
    if shutil.which("node") is None:
        pytest.skip("the page's pure functions are tested under node, which is not here")
    imports = f"import * as draw from '{STATIC / 'draw.js'}'; import * as plan from '{STATIC / 'plan.js'}';"
    text = f"{imports} let out; {code}; console.log(JSON.stringify(out))"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", text], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", [*sorted(STATIC.iterdir()), TURN], ids=lambda p: p.name)
def test_nothing_of_the_page_leaves_it_or_writes_html(path: Path):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    markup = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "import(")
    for word in (*markup, "http:", "https:", "cookie", "localStorage", "sessionStorage", "indexedDB"):
        assert word not in text, word
    if path.suffix == ".html":
        assert not re.search(r"<[^>]*\s(on\w+|style)\s*=", text)  # the policy would refuse these
        assert re.findall(r"<script[^>]*>(.*?)</script>", text, re.S) == [""]
        assert "<style" not in text


def test_the_script_stays_small():
    assert sum(path.read_text(encoding="utf-8").count("\n") for path in SCRIPTS) <= 1000


def test_there_is_no_circle_between_scripts():
    graph = {p.name: re.findall(r'from "\./(\w+\.js)"', p.read_text(encoding="utf-8")) for p in [*SCRIPTS, TURN]}
    assert graph["app.js"] and list(TopologicalSorter(graph).static_order())[-1] == "app.js"


def test_every_control_has_a_name():
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    labelled = set(re.findall(r'for="(\w+)"', text))
    inside = "".join(re.findall(r"<label[^>]*>.*?</label>", text, re.S))
    for tag in re.findall(r"<(?:input|select|canvas)[^>]*>", text):
        found = re.search(r'id="(\w+)"', tag)
        named = "aria-label=" in tag or "aria-hidden" in tag or (found and found[1] in labelled) or tag in inside
        assert named, tag


def test_words_stand_out_from_paper_and_cards_in_light_and_dark():
    """At least 4.5 to 1, as WCAG 2.1 asks for, and 3 to 1 for the ring around what has the focus."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    style = (STATIC / "style.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root {(.*?)}", style, re.S)]
    assert len(themes) == 2
    for theme in themes:
        for name, least in (("ink", 4.5), ("muted", 4.5), ("alarm", 4.5), ("kept", 4.5), ("focus", 3.0)):
            for behind in ("paper", "card"):
                low, high = sorted(map(luminance, (theme[name], theme[behind])))
                assert (high + 0.05) / (low + 0.05) >= least, (name, behind)


def test_cells_have_whole_pixels_and_every_pixel_its_cell():
    code = """out = [];
    for (const [low, high, cells] of [[0, 100, 7], [-3.4, 50.2, 5], [0, 3, 3], [10, 11, 4]]) {
      const at = draw.edges(low, high, cells);
      out.push([Array.from(at), Array.from({length: 130}, (_, i) => draw.partAt(at, i - 10))]);
    }"""
    for at, parts in run(code):
        for pixel, part in zip(range(-10, 120), parts, strict=True):
            inside = [i for i in range(len(at) - 1) if at[i] <= pixel < at[i + 1]]
            assert ([part] if part >= 0 else []) == inside


@pytest.mark.parametrize("seed", range(4))
def test_painting_is_what_a_slow_loop_paints(seed: int):
    """Colours, lines around kept regions and hairlines of a view that may reach beyond the canvas."""
    rng = np.random.default_rng(seed)
    h, w = int(rng.integers(1, 6)), int(rng.integers(1, 7))
    cell = int(rng.choice([2, 4, 6, 13]))
    left, top = (int(n) for n in rng.integers(-8, 9, 2))
    width, height = 70, 60
    xs, ys = [left + cell * i for i in range(w + 1)], [top + cell * i for i in range(h + 1)]
    fill = [int(n) for n in rng.integers(0, 3, h * w)]
    kept = [int(n) for n in rng.integers(0, 2, h * w)]
    code = f"""const out32 = new Uint32Array({width * height}).fill(99);
    draw.paint(out32, {width}, {{xs: Int32Array.from({xs}), ys: Int32Array.from({ys}), fill: Uint32Array.from({fill}),
      kept: Uint8Array.from({kept}), line: 7, grid: [8, 9]}}); out = Array.from(out32)"""
    expected = np.full((height, width), 99)
    thick, hair = (2 if cell >= 12 else 1 if cell >= 4 else 0), cell >= 5
    for y in range(max(top, 0), min(ys[-1], height)):
        for x in range(max(left, 0), min(xs[-1], width)):
            i, j = (y - top) // cell, (x - left) // cell
            dy, dx, at = (y - top) % cell, (x - left) % cell, i * w + j
            value = fill[at]
            if hair and ((dx == 0 and j > 0) or (dy == 0 and i > 0)):
                value = 9 if fill[at] else 8
            if kept[at] and thick:
                sides = (
                    (dy < thick, i == 0 or not kept[at - w]),
                    (dy >= cell - thick, i == h - 1 or not kept[at + w]),
                    (dx < thick, j == 0 or not kept[at - 1]),
                    (dx >= cell - thick, j == w - 1 or not kept[at + 1]),
                )
                value = 7 if any(near and edge for near, edge in sides) else value
            expected[y, x] = value
    found = np.array(run(code)).reshape(height, width)
    differ = found != expected
    assert not differ.any(), (cell, np.argwhere(differ)[:5], found[differ][:5], expected[differ][:5])


def test_a_command_is_quoted_for_a_shell():
    names = ["a.png", "-rf.png", "a b.png", "it's.png", "$(id)`x`.png", "a\nb.png", "~/a.png", "ä.png"]
    quoted = run(f"out = {json.dumps(names)}.map(plan.quoted)")
    for name, word in zip(names, quoted, strict=True):
        said = subprocess.run(["sh", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True).stdout
        assert said == (f"./{name}" if name.startswith("-") else name)


def test_state_survives_the_address():
    code = """const state = {method: "edges", budget: 64, text: "a&b=c #d", t: null, beside: ""};
    const said = plan.writeState("tok-en_1", state); out = [said, plan.readState(said)]"""
    said, back = run(code)
    assert said.startswith("#tok-en_1&method=edges&budget=64")
    assert back == {"token": "tok-en_1", "state": {"method": "edges", "budget": "64", "text": "a&b=c #d"}}
