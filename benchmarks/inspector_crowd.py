"""The inspector among strangers: good clients alone, and beside hostile ones. `inspector.py --load` runs it."""

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
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.web.hostile import answered, cases, request

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.load import untrained
from tubelet.weights.save import save_encoder

UPLOAD = 5_000_000  # bytes of a file that the server takes


def picture(side: int, seed: int) -> bytes:
    """A picture with large and small parts, as PNG."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3), np.uint8))
    out = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(out, "PNG", compress_level=1)
    return out.getvalue()


def tiny() -> Encoder:
    """So small that what is measured is the page; no ceiling on tokens."""
    return untrained(EncoderConfig(hidden=64, layers=1, heads=2, mlp=64, pixels=PixelRecipe(16)), seed=0)


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and largest."""
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95)), "largest": max(values)}


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
        model = save_encoder(tiny(), Path(folder) / "tiny", "packing")
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


def under_load(server: Server, seconds: float, good: int, hostile: int) -> dict[str, Any]:
    """Good clients, and hostile ones beside them: codes, times, memory."""
    times: list[float] = []
    codes: Counter[int] = Counter()
    wrong: Counter[str] = Counter()
    data, before = picture(256, 1), server.resident_mb

    async def all_of_them() -> None:
        until = time.monotonic() + seconds
        friends = (good_client(server, data, until, times, codes) for _ in range(good))
        await asyncio.gather(*friends, *(hostile_client(server, n, until, wrong) for n in range(hostile)))

    asyncio.run(all_of_them())
    return {
        "good_codes": {str(code): count for code, count in sorted(codes.items())},
        "good_s": spread(times) | {"p99": float(np.quantile(times, 0.99))} if times else {},
        "wrong_answers": dict(wrong),
        "resident_mb": [before, server.resident_mb],
        "children": len(server.children),
    }
