"""The inspector in a browser: file to first picture, redraw of the slider, bytes sent, and how it bears strangers.

    python benchmarks/inspector.py                 writes results/inspector.json
    python benchmarks/inspector.py --quick         small sizes, written as inspector_quick.json
    python benchmarks/inspector.py --load 600      only 64 clients, 21 of them hostile, for so many seconds

first picture   from the file being chosen to its pixels and tokens on the screen, with the seconds of the server's own
                reading and encoding beside it
slider          a redraw at 16,384 tokens for each of many budgets, in the page, by its own clock; and from the input to
                the frame after it
bytes           of the page, of one file opened, and of 100 moves of the slider
load            codes that were answered, times of good clients alone and among hostile ones, memory, children left

Needs playwright and a Chromium.
"""

import argparse
import asyncio
import io
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import harness

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.web.browser import launched, served  # noqa: E402
from tests.web.hostile import answered, cases, request  # noqa: E402

from tubelet.cli.serve import views_of  # noqa: E402
from tubelet.encoder.config import EncoderConfig  # noqa: E402
from tubelet.pixels.recipe import PixelRecipe  # noqa: E402
from tubelet.web.bench import Bench  # noqa: E402
from tubelet.web.server import Serving  # noqa: E402
from tubelet.weights.load import untrained  # noqa: E402
from tubelet.weights.save import save_encoder  # noqa: E402

UPLOAD = 5_000_000  # bytes of a file that the loaded server takes

# Moves the slider and waits for the frame behind it: the page's own time of drawing, and from input to frame
MOVE = """async (budgets) => {
  const slider = document.getElementById("budget"), frame = () => new Promise(requestAnimationFrame), out = [];
  for (const budget of budgets) {
    slider.value = budget;
    const start = performance.now();
    slider.dispatchEvent(new Event("input"));
    await frame(); await frame();
    out.push([Number(document.body.dataset.redraw), performance.now() - start]);
  }
  return out;
}"""


@dataclass(frozen=True)
class Settings:
    side: int = 2048  # of the picture whose slider is moved: 128 x 128 patches of 16 pixels
    moves: int = 200
    openings: int = 5
    clients: int = 64
    hostile: int = 21
    load_s: float = 0.0


def picture(side: int, seed: int) -> bytes:
    """A picture with large and small parts, as PNG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3), np.uint8))
    out = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(out, "PNG", compress_level=1)
    return out.getvalue()


def bench() -> Bench:
    """A tiny encoder, so that what is measured is the page; no ceiling on tokens."""
    config = EncoderConfig(hidden=64, layers=1, heads=2, mlp=64, pixels=PixelRecipe(16))
    encoder = untrained(config, seed=0)
    return Bench("tiny", encoder, encoder.pixels, True, views_of=views_of)


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and largest."""
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95)), "largest": max(values)}


def in_the_page(serving: Serving, settings: Settings) -> dict[str, Any]:
    """What a person waits for, in milliseconds, and the bytes that were sent for it."""
    results: dict[str, Any] = {}
    with launched() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(300_000)
        got: Counter[str] = Counter()
        stage = "page"
        page.on("response", lambda r: got.update({stage: int(r.headers.get("content-length", 0))}))
        page.goto(serving.address + "&method=norm")
        page.wait_for_selector("#model:not(:empty)")
        waits, server = [], []
        stage = "opening"
        for number in range(settings.openings):
            data = {"name": f"{number}.png", "mimeType": "image/png", "buffer": picture(settings.side, number)}
            before = page.evaluate("() => document.body.dataset.drawn")
            start = time.perf_counter()
            page.locator("#file").set_input_files(data)
            page.wait_for_selector(f'body[data-drawn]:not([data-drawn="{before}"])')
            waits.append(1000 * (time.perf_counter() - start))
            told = page.locator("#facts").inner_text()
            server.append(told.replace("\n", " "))
        page.wait_for_selector(".canvases:not(.waiting)")
        page.wait_for_load_state("networkidle")
        results["first_picture_ms"] = spread(waits)
        results["told_of_the_last"] = server[-1]
        most = int(page.locator("#budget").get_attribute("max") or 1)
        budgets = np.random.default_rng(0).integers(1, most + 1, settings.moves).tolist()
        stage = "slider"
        moved = page.evaluate(MOVE, budgets)
        page.wait_for_load_state("networkidle")
        results["tokens"] = most
        results["redraw_ms"] = spread([draw for draw, _ in moved])
        results["input_to_frame_ms"] = spread([whole for _, whole in moved])
        results["bytes"] = dict(got)
    return results


@dataclass(frozen=True)
class Server:
    """`tubelet serve` in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    token: str

    @property
    def resident_mb(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096 / 1e6

    @property
    def children(self) -> list[int]:
        return [
            int(n)
            for task in Path(f"/proc/{self.process.pid}/task").iterdir()
            for n in (task / "children").read_text().split()
        ]


@contextmanager
def started() -> Iterator[Server]:
    """The command with a tiny model, interrupted at the end. Raises RuntimeError where it leaves a child."""
    with tempfile.TemporaryDirectory() as folder:
        model = save_encoder(bench().encoder, Path(folder) / "tiny", "packing")
        command = [sys.executable, "-m", "tubelet", "serve", "--model", str(model), "--max-upload", f"{UPLOAD}B"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        port, token = address.rpartition(":")[2].split("/#")
        server = Server(process, int(port), token)
        try:
            yield server
            children = server.children
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        time.sleep(1)
        if left := [child for child in children if Path(f"/proc/{child}").exists()]:
            raise RuntimeError(f"children {left} are left")


async def good_client(server: Server, data: bytes, until: float, times: list[float], codes: Counter[int]) -> None:
    """Opens a file again and again, coming back in a second where others are served."""
    headers = {"Host": f"127.0.0.1:{server.port}", "X-Tubelet-Token": server.token, "Connection": "close"}
    sent = request("POST /api/open", headers | {"Content-Length": str(len(data))}, data)
    while time.monotonic() < until:
        start = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
        writer.close()
        code = int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
        codes[code] += 1
        if code == 200:
            times.append(time.monotonic() - start)
        await asyncio.sleep(1.0)


async def hostile_client(server: Server, number: int, until: float, wrong: Counter[str]) -> None:
    """Sends one kind of hostile request after the other."""
    kinds = cases(server.port, server.token, UPLOAD)
    while time.monotonic() < until:
        case = kinds[number % len(kinds)]
        number += 1
        try:
            code = await answered(server.port, case)
        except ConnectionError:
            code = 0
        if code not in case.codes | {0, 503}:
            wrong[f"{case.name}: {code}"] += 1


def under_load(server: Server, settings: Settings, seconds: float, hostile: int) -> dict[str, Any]:
    """Good clients, and hostile ones beside them: codes, times, memory."""
    times: list[float] = []
    codes: Counter[int] = Counter()
    wrong: Counter[str] = Counter()
    data, before = picture(256, 1), server.resident_mb

    async def all_of_them() -> None:
        until = time.monotonic() + seconds
        friends = (good_client(server, data, until, times, codes) for _ in range(settings.clients - settings.hostile))
        await asyncio.gather(*friends, *(hostile_client(server, n, until, wrong) for n in range(hostile)))

    asyncio.run(all_of_them())
    return {
        "good_codes": {str(code): count for code, count in sorted(codes.items())},
        "good_s": spread(times) | {"p99": float(np.quantile(times, 0.99))} if times else {},
        "wrong_answers": dict(wrong),
        "resident_mb": [before, server.resident_mb],
        "children": len(server.children),
    }


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--load", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(side=256, moves=5, openings=1) if options.quick else Settings(load_s=options.load)
    results: dict[str, Any] = {}
    if settings.load_s:
        with started() as server:
            under_load(server, settings, 5.0, 0)  # so that what is loaded at first use is there
            results["alone"] = under_load(server, settings, min(settings.load_s, 60.0), 0)
            results["among_strangers"] = under_load(server, settings, settings.load_s, settings.hostile)
    else:
        with served(bench()) as serving:
            results["page"] = in_the_page(serving, settings)
    for name, found in results.items():
        print(name, found)
    suffix = "_quick" if options.quick else "_load" if settings.load_s else ""
    print(harness.save(f"inspector{suffix}", results, settings=settings))


if __name__ == "__main__":
    main()
