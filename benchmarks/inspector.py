"""The inspector in a browser beside a page of Gradio that does the same: file to first picture, redraw of the slider,
bytes sent; and how the inspector bears strangers.

    python benchmarks/inspector.py                 writes results/inspector.json
    python benchmarks/inspector.py --quick         small sizes, written as inspector_quick.json
    python benchmarks/inspector.py --load 600      only 64 clients, 21 of them hostile, for so many seconds

Both pages (inspector_peer.py is the other) are served by a process of their own with the same tiny encoder, lie in one
browser, take turns, and measure by the browser's clock:

first picture   from the file being chosen to the frame that shows its pixels and tokens
slider          from the input to the frame that shows other tokens, at 16,384 tokens, for each of many budgets; of
                ours, which draws in the browser, also the drawing alone
bytes           that came: of the page, of one file opened, and of the slider's moves
load            codes that were answered, times of good clients alone and among hostile ones, memory, children left

Needs playwright, a Chromium and gradio, for --load none of them.
"""

import argparse
import multiprocessing
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
import inspector_peer
from inspector_crowd import picture, spread, started, tiny, under_load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.web.browser import launched  # noqa: E402

from tubelet.cli.serve import views_of  # noqa: E402
from tubelet.reduce.encoded import encode_file  # noqa: E402
from tubelet.reduce.methods import choose  # noqa: E402
from tubelet.web.bench import Bench  # noqa: E402
from tubelet.web.look import choice_bytes  # noqa: E402
from tubelet.web.server import Serving  # noqa: E402

SCREEN = {"width": 1280, "height": 900}
SIDE = 648  # of the picture on that screen, in pixels

# What is on the screen, as a text that is another one when it is another picture; "" while it is awaited
OURS = """() => document.querySelector(".canvases.waiting") ? "" : document.body.dataset.drawn || '' """
GRADIOS = """() => { const seen = document.querySelector("#seen img"); return seen?.complete ? seen.src : ""; }"""
# Notes when a file was chosen, and what was there before
WATCH = """() => document.addEventListener("change", (event) => {
  if (event.target.type === "file") document.chosen = performance.now();
}, true)"""
# Waits for the frame that shows another picture than that: milliseconds since the file was chosen
OPENED = """async (before) => {
  const frame = () => new Promise(requestAnimationFrame), shown = SHOWN;
  while (!document.chosen || !shown() || shown() === before) await frame();
  await frame();
  const waited = performance.now() - document.chosen;
  document.chosen = undefined;
  return waited;
}"""
# Moves the slider and waits for the frame that shows it: milliseconds from input to frame, and the page's own drawing
MOVED = """async ([selector, local, budgets]) => {
  const frame = () => new Promise(requestAnimationFrame), shown = SHOWN, out = [];
  for (const budget of budgets) {
    const slider = document.querySelector(selector), before = shown();
    slider.value = budget;
    const start = performance.now();
    slider.dispatchEvent(new Event("input", {bubbles: true}));
    while (!local && (!shown() || shown() === before)) await frame();
    await frame();
    if (local) await frame(); // it is drawn within the first
    out.push([performance.now() - start, Number(document.body.dataset.redraw || 0)]);
  }
  return out;
}"""


@dataclass(frozen=True)
class Settings:
    side: int = 2048  # of the picture whose slider is moved: 128 x 128 patches of 16 pixels
    moves: int = 200
    rounds: int = 10  # in which the pages take turns with them
    openings: int = 7
    clients: int = 64
    hostile: int = 21
    load_s: float = 0.0


def serve(wire: Connection) -> None:
    """Serves the inspector in a process of its own: sends its address, and ends when it is told to."""
    torch.set_num_threads(1)
    encoder = tiny()
    serving = Serving(Bench("tiny", encoder, encoder.pixels, True, views_of=views_of))

    def ready() -> None:
        wire.send((serving.address + "&method=variance", ""))

    threading.Thread(target=lambda: (wire.recv(), serving.stop()), daemon=True).start()
    serving.run(ready)


def check_peer(file: str) -> None:
    """That both pages keep the same tokens. Raises AssertionError."""
    encoder = tiny()
    drawing, seen = inspector_peer.Drawing(file, encoder, SIDE), encode_file(file, encoder)
    tokens = seen.inputs.tokens
    choice = choose("variance", seen.inputs, budget=len(tokens.x))
    ranks = np.frombuffer(choice_bytes(tokens, choice, len(tokens.x), ranks=True)[-4 * len(tokens.x) :], "<u4")
    for budget in (1, len(ranks) // 3, len(ranks)):
        assert np.array_equal(drawing.kept(budget).reshape(-1), ranks < budget)


@dataclass
class Contender:
    """A page in the browser: its file input, its slider, and what it did."""

    page: Any
    shown: str  # JS that says what is on the screen
    slider: str
    local: bool  # whether the page draws by itself
    stage: str = "page"
    received: Counter[str] = field(default_factory=Counter)  # bytes by what was done
    waits: list[float] = field(default_factory=list)
    moved: list[tuple[float, float]] = field(default_factory=list)

    def watch(self, address: str) -> None:
        """Opens it, counting what comes; data and blobs are of the page's own."""
        urls: dict[str, str] = {}
        session = self.page.context.new_cdp_session(self.page)
        session.send("Network.enable")
        session.on("Network.requestWillBeSent", lambda e: urls.update({e["requestId"]: e["request"]["url"]}))
        session.on("Network.loadingFinished", lambda e: self._came(urls.get(e["requestId"], ""), e))
        self.page.goto(address)
        self.page.wait_for_selector("input[type=file]", state="attached")
        self.page.wait_for_load_state("networkidle")
        self.page.evaluate(WATCH)

    def _came(self, url: str, event: dict[str, Any]) -> None:
        if url.startswith("http"):
            self.received[self.stage] += int(event["encodedDataLength"])

    def open(self, file: str) -> None:
        before = self.page.evaluate(self.shown)
        self.page.locator("input[type=file]").first.set_input_files(file)
        self.waits.append(self.page.evaluate(OPENED.replace("SHOWN", self.shown), before))
        self.page.wait_for_load_state("networkidle")

    def move(self, budgets: list[int]) -> None:
        asked = [self.slider, self.local, budgets]
        self.moved += self.page.evaluate(MOVED.replace("SHOWN", self.shown), asked)

    def told(self, openings: int, moves: int) -> dict[str, Any]:
        names = {"page": "page", "opening": "a_file", "slider": f"{moves}_moves"}
        shares = {"page": 1, "opening": openings, "slider": 1}
        return {
            "first_picture_ms": spread(self.waits),
            "slider_to_frame_ms": spread([whole for whole, _ in self.moved]),
            **({"drawing_alone_ms": spread([draw for _, draw in self.moved])} if self.local else {}),
            "bytes": {name: self.received[stage] // shares[stage] for stage, name in names.items()},
        }


@contextmanager
def served(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[str, str]]:
    """A page in a process of its own: its address, and its version where it says one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join(30)


def in_the_browser(settings: Settings) -> dict[str, Any]:
    """What a person waits for, in milliseconds, and the bytes that were sent for it, on both pages."""
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        files = [str(Path(folder) / f"{n}.png") for n in range(settings.openings + 1)]
        for number, file in enumerate(files):
            Path(file).write_bytes(picture(settings.side, number))
        check_peer(files[0])
        with served(serve) as (address, _), served(inspector_peer.serve, tiny, SIDE) as (other, version):
            pages = [browser.new_page(viewport=SCREEN) for _ in range(2)]
            ours = Contender(pages[0], OURS, "#budget", True)
            peer = Contender(pages[1], GRADIOS, "#budget input[type=range]", False)
            for one, place in ((ours, address), (peer, other)):
                one.page.set_default_timeout(120_000)
                one.watch(place)
                one.stage = "first"
                one.open(files[-1])
                one.waits.clear()
                one.stage = "opening"
            for file in files[:-1]:
                for one in (ours, peer):
                    one.page.bring_to_front()
                    one.open(file)
            most = int(ours.page.locator("#budget").get_attribute("max") or 1)
            ours.stage = peer.stage = "slider"
            budgets = np.random.default_rng(0).permutation(np.arange(1, most + 1))[: settings.moves].tolist()
            for part in np.array_split(budgets, settings.rounds):
                for one in (ours, peer):
                    one.page.bring_to_front()
                    one.move(part.tolist())
            for one in (ours, peer):
                one.page.wait_for_load_state("networkidle")
        told = {"tubelet": ours, f"Gradio {version}": peer}
        return {"tokens": most} | {n: c.told(settings.openings, len(budgets)) for n, c in told.items()}


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--load", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(side=256, moves=6, rounds=2, openings=2) if options.quick else Settings(load_s=options.load)
    results: dict[str, Any] = {}
    if settings.load_s:
        with started() as server:
            good = settings.clients - settings.hostile
            under_load(server, 5.0, good, 0)  # so that what is loaded at first use is there
            results["alone"] = under_load(server, min(settings.load_s, 60.0), good, 0)
            results["among_strangers"] = under_load(server, settings.load_s, good, settings.hostile)
    else:
        results = in_the_browser(settings)
    for name, found in results.items():
        print(name, found)
    suffix = "_quick" if options.quick else "_load" if settings.load_s else ""
    print(harness.save(f"inspector{suffix}", results, settings=settings))


if __name__ == "__main__":
    main()
