"""What more tokens cost: seconds and memory of one layer from 1 to 128 thousand, ours and peers', packed and padded.

    python benchmarks/growth.py                          everything, in one go: an hour or so
    python benchmarks/growth.py --quick                  toy sizes, one round, nothing written
    python benchmarks/growth.py --keep F --memory 1 2 4  memory of packs of these thousands of tokens, in ascending
                                                         order, kept in the folder F; a busy machine does no harm
    python benchmarks/growth.py --keep F --turn 1 2 4    then their times; --only and --dtype take less at a time
    python benchmarks/growth.py --keep F                 the result of what is kept, without measuring

Contenders take turns in one process, outputs compared first. Memory is what a process of its own adds at its peak, by
the system's count, with freed tensors given back at once, beside weights and inputs; beside it what the planner says of
ours. One layer 768 wide: with more of them time multiplies, memory in inference does not. A peer ends where twice as
many tokens would take more than 8 GiB. Writes results/growth.json and docs/images/growth*.png.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from PIL import Image, ImageDraw

from harness import AGAIN, measure, report, save
from tubelet.encoder.model import Encoder
from tubelet.inspect.budget.flops import encoder_flop
from tubelet.inspect.budget.memory import Dtype, memory
from tubelet.inspect.draw.chart import LINE, MARK, RULE
from tubelet.inspect.draw.lettering import INK, MUTED, PAPER, Colour, TextLine, caption, length, words
from tubelet.inspect.speed.encoders import ALLOWED, fastest, products, relative_error
from tubelet.inspect.speed.towers import TOWERS, Grids, Shape, Tower, call_of, pair, rows_of
from tubelet.packed.grid import Grid
from tubelet.writing import save_png

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # thousands of tokens
SIDES = ((8, 8), (16, 12), (16, 16), (24, 20), (32, 32))  # patches of the pictures of a pack, in turn
MOST_BYTES = 8 << 30  # of a peer
MIB = 2**20


@dataclass(frozen=True)
class Sweep:
    """What grows: the number of pictures of mixed sizes, or one picture. peers: ends of their names in TOWERS, the
    first with our weights."""

    title: str
    peers: tuple[str, ...]
    most: int = SIZES[-1]  # thousands of tokens
    single: bool = False

    @property
    def towers(self) -> list[Tower]:
        found = [next(t for t in TOWERS if t.peer.endswith(name)) for name in self.peers]
        return [t for t in found if find_spec(t.peer.split()[0]) is not None]

    def grids(self, tokens: int) -> Grids:
        """So many tokens at most; a single picture is square or twice as wide."""
        if self.single:
            side = 2 ** (int(math.log2(tokens)) // 2)
            return [(1, side, tokens // side)]
        out: list[tuple[int, int, int]] = []
        while sum(h * w for _, h, w in out) + math.prod(SIDES[len(out) % len(SIDES)]) <= tokens:
            out.append((1, *SIDES[len(out) % len(SIDES)]))
        return out


SWEEPS = {
    "siglip2": Sweep("Pictures of 64 to 1,024 tokens, SigLIP2's tower", ("SigLIP2 NaFlex", "NaFlexViT")),
    "qwen2_vl": Sweep("The same pictures, Qwen2-VL's tower", ("Qwen2-VL",)),
    "single": Sweep("One picture, every token sees all others, Qwen2-VL's tower", ("Qwen2-VL",), 16, single=True),
}


@dataclass(frozen=True)
class Scale:
    """How large. thousand: tokens that one of `sizes` stands for."""

    shape: Shape = Shape(layers=1)
    thousand: int = 1024
    sizes: tuple[int, ...] = SIZES
    rounds: int = 3

    def turns(self, size: int) -> tuple[int, int]:
        """Rounds, and unmeasured ones first: fewer of what takes long."""
        return max(1, min(self.rounds, 16 // size)), int(size <= 8)


TOY = Scale(Shape(64, 2, 128, 1), thousand=512, sizes=(1, 2), rounds=1)


# ---- measuring


def contenders(
    sweep: Sweep, scale: Scale, size: int, dtype: Dtype, names: Sequence[str] | None = None
) -> tuple[Encoder, Any, dict[str, Callable[[], Any]]]:
    """Ours, its rows, and what runs by its name; of the peers those that are named, None for all.

    Raises SystemExit where outputs on a small pack differ by more than rounding: then nothing is measured.
    """
    kind, first = getattr(torch, dtype), sweep.towers[0]
    ours: Encoder = pair(first, scale.shape)[0].to("cpu", kind)
    p, few = (rows_of(ours.config, sweep.grids(n), kind, "cpu") for n in (size * scale.thousand, scale.thousand))
    runs: dict[str, Callable[[], Any]] = {"tubelet": lambda: ours(p)}
    for tower in sweep.towers:
        if names is not None and tower.peer not in names:
            continue
        peer = pair(tower, scale.shape)[1].to("cpu", kind)
        said = call_of(tower, peer, few, ours.config)()
        if tower.weights and not (error := relative_error(ours(few).x, said)) <= ALLOWED[dtype]:
            raise SystemExit(f"{tower.peer}: outputs differ by {error:.1e}, nothing is measured")
        runs[tower.peer] = call_of(tower, peer, p, ours.config)
    return ours, p, runs


def peaks(sweep: Sweep, scale: Scale, size: int, dtype: Dtype, names: Sequence[str] | None = None) -> dict[str, int]:
    """Bytes that this process adds at its peak in one call of each."""
    _, _, runs = contenders(sweep, scale, size, dtype, names)  # a small call of each was its first
    found = {name: measure({name: run}, rounds=1, warmup=0)[name].peak_extra_bytes for name, run in runs.items()}
    return {name: peak for name, peak in found.items() if peak is not None}


def peaks_apart(name: str, size: int, dtype: Dtype, names: Sequence[str]) -> dict[str, int]:
    """The same in a process of its own, whose allocator gives back what is freed."""
    asked = [sys.executable, __file__, "--peaks", json.dumps([name, size, dtype, list(names)])]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def seconds(sweep: Sweep, scale: Scale, size: int, dtype: Dtype, names: Sequence[str]) -> dict[str, Any]:
    """Times in turns, what is planned, and the bare products' rate in the same turns."""
    ours, p, runs = contenders(sweep, scale, size, dtype, names)
    rounds, warmup = scale.turns(size)
    floors, floor_flop = products(ours.config, min(len(p.x), 8192), "cpu", torch.float32)
    timings = measure({**runs, **floors}, rounds=rounds, warmup=warmup, control="tubelet")
    _, rate = fastest({name: timings.pop(name).wall for name in floors}, floor_flop)
    grids = [Grid(*item.grid) for item in p.items]
    planned = memory(ours.config, grids, dtype=dtype, pixels="float", threads=torch.get_num_threads())
    return {
        "tokens": len(p.x),
        "padding": round(len(grids) * max(p.lengths) / len(p.x), 2),
        "planned_bytes": planned.work_bytes,
        "planned_flop": sum(encoder_flop(ours.config, grids).values()),
        "products_flop_per_s": rate,  # of float32
        **report(timings, ours="tubelet"),
    }


class Kept:
    """What was measured so far, in a folder: [type][sweep][thousands of tokens]."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.notes, self.scale = folder / "growth.json", scale
        self.said: dict[str, Any] = json.loads(self.notes.read_text()) if self.notes.exists() else {}

    def memory(self, sizes: Sequence[int], only: Sequence[str], dtypes: Sequence[Dtype]) -> None:
        """Peaks at each of the sizes."""
        for name, size, dtype, of in self._points(sizes, only, dtypes):
            peers = self._peers(name, size, dtype)
            if self.scale is TOY:
                of["peak_bytes"] = peaks(SWEEPS[name], TOY, size, dtype, peers)
            else:
                of["peak_bytes"] = peaks_apart(name, size, dtype, peers)
            self._note(name, size, dtype, {n: f"{b / MIB:.0f} MiB" for n, b in of["peak_bytes"].items()})

    def turn(self, sizes: Sequence[int], only: Sequence[str], dtypes: Sequence[Dtype]) -> None:
        """Times at each of the sizes."""
        for name, size, dtype, of in self._points(sizes, only, dtypes):
            of |= seconds(SWEEPS[name], self.scale, size, dtype, self._peers(name, size, dtype))
            self._note(name, size, dtype, {n: f"{t['wall_s']:.3f} s" for n, t in of["times"].items()})

    def _peers(self, name: str, size: int, dtype: Dtype) -> list[str]:
        """Those that will not take too much, by the next smaller size of known memory."""
        known = {int(k): of["peak_bytes"] for k, of in self.said[dtype][name].items() if "peak_bytes" in of}
        peers, last = [t.peer for t in SWEEPS[name].towers], max((k for k in known if k < size), default=None)
        if last is None:
            return peers
        return [n for n in peers if n in known[last] and known[last][n] * size <= MOST_BYTES * last]

    def _points(
        self, sizes: Sequence[int], only: Sequence[str], dtypes: Sequence[Dtype]
    ) -> Iterator[tuple[str, int, Dtype, dict[str, Any]]]:
        for size in sizes:
            for dtype in dtypes:
                for name in (n for n in only if size <= SWEEPS[n].most):
                    of = self.said.setdefault(dtype, {}).setdefault(name, {})
                    yield name, size, dtype, of.setdefault(str(size), {})

    def _note(self, name: str, size: int, dtype: Dtype, told: dict[str, str]) -> None:
        print(dtype, name, f"{size}k", told, flush=True)
        self.notes.write_text(json.dumps(self.said, indent=1))

    def result(self) -> dict[str, Any]:
        """Columns over the tokens, for each type and sweep."""
        return {dtype: {name: columns(of) for name, of in sweeps.items()} for dtype, sweeps in self.said.items()}


def columns(of: dict[str, Any]) -> dict[str, Any]:
    """One sweep as columns; None where a peer did not run."""
    points = [of[size] for size in sorted(of, key=int)]
    names = [n for n in points[0]["times"] if not n.endswith(AGAIN)]
    times = {n: [p["times"][n]["wall_s"] if n in p["times"] else None for p in points] for n in names}
    peak = {n: [_mib(p["peak_bytes"].get(n)) for p in points] for n in names}
    tokens = {"tokens": [p["tokens"] for p in points]}
    return {
        "padding": points[-1]["padding"],
        "noisy": [p["tokens"] for p in points if p["noisy"]],
        "seconds": {"columns": {**tokens, **times}},
        "peak MiB": {"columns": {**tokens, **peak, "planned": [_mib(p["planned_bytes"]) for p in points]}},
        "GFLOP": {
            "columns": {
                **tokens,
                "planned": [round(p["planned_flop"] / 1e9, 1) for p in points],
                "bare float32 products, a second": [round(p["products_flop_per_s"] / 1e9, 1) for p in points],
            }
        },
    }


def _mib(count: int | None) -> float | None:
    """In MiB, a tenth at least: what grew by nothing had pages to spare."""
    return None if count is None else max(0.1, round(count / MIB, 1))


# ---- drawing

AREA = (620, 330)  # between the axes
LEFT, RIGHT, ABOVE, BELOW = 112, 40, 44, 58  # around it, for words
FINE = 3  # curves are drawn this many times larger and then reduced
PLANNED: Colour = (178, 206, 242)
COLOURS: dict[str, Colour] = {
    "tubelet": LINE,
    "transformers Qwen2-VL": (206, 110, 0),
    "transformers SigLIP2 NaFlex": MARK,
    "timm NaFlexViT": (122, 66, 160),
}
SHOWN = {
    "tubelet": "tubelet, packed",
    "transformers Qwen2-VL": "transformers, packed",
    "transformers SigLIP2 NaFlex": "transformers, padded",
    "timm NaFlexViT": "timm, padded",
}


@dataclass(frozen=True)
class Curve:
    """label: what its line is called; drawn with dots, as dashes or as a band; ended: where it would take too much."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: Colour
    look: Literal["dots", "dashes", "band"] = "dots"
    ended: bool = False


@dataclass(frozen=True)
class LogPanel:
    """Curves on two logarithmic axes. steps: the numbers that may stand on y."""

    title: str
    curves: tuple[Curve, ...]
    steps: tuple[float, ...]
    y_text: Callable[[float], str]


def time_text(s: float) -> str:
    return f"{s * 1e3:,.0f} ms" if s < 0.999 else f"{s:,.0f} s"


def bytes_text(mib: float) -> str:
    return f"{mib:,.0f} MiB" if mib < 1024 else f"{mib / 1024:,.0f} GiB"


TIMES = tuple(b * 10.0**e for e in range(-3, 4) for b in (1, 3))
BYTES = tuple(4.0**e for e in range(-2, 9))


def panels(found: dict[str, Any], dtype: str) -> tuple[LogPanel, LogPanel]:
    """Time and memory of one sweep."""
    time, space = found["seconds"]["columns"], found["peak MiB"]["columns"]
    names, x = [n for n in time if n != "tokens"], time["tokens"]

    def curve(name: str, of: Sequence[float | None]) -> Curve:
        there = [(n, y) for n, y in zip(x, of, strict=True) if y is not None]
        xs, ys = zip(*there, strict=True)
        return Curve(SHOWN[name], xs, ys, COLOURS[name], ended=len(there) < len(x))

    times, spaces = [curve(n, time[n]) for n in names], [curve(n, space[n]) for n in names]
    if dtype == "float32":
        flop, rate = found["GFLOP"]["columns"]["planned"], found["GFLOP"]["columns"]["bare float32 products, a second"]
        least = tuple(a / b for a, b in zip(flop, rate, strict=True))
        times.append(Curve("at the rate of bare products", tuple(x), least, MUTED, "dashes"))
    spaces.append(Curve("planned by tubelet", tuple(x), tuple(space["planned"]), PLANNED, "band"))
    return LogPanel("seconds", tuple(times), TIMES, time_text), LogPanel("memory", tuple(spaces), BYTES, bytes_text)


def draw(found: dict[str, Any], dtype: str, layer: str, path: Path) -> None:
    """One row of two panels for each sweep."""
    rows = [(SWEEPS[name].title, panels(of, dtype)) for name, of in found.items()]
    across, down = LEFT + AREA[0] + RIGHT, ABOVE + AREA[1] + BELOW
    padding = max(of["padding"] for of in found.values())
    told = f"one layer of {layer} in {dtype}", f"padded batches have {padding:.1f} times the rows"
    lines = [
        TextLine(("What more tokens cost",), 30, INK),
        TextLine(told, 19),
        TextLine(("a cross: twice as many would take this peer more than 8 GiB",), 19),
    ]
    head = caption(2 * across, lines)
    page = Image.new("RGB", (2 * across + 40, head.height + 48 + len(rows) * (down + 40)), PAPER)
    page.paste(head, (24, 20))
    y = head.height + 36
    for title, both in rows:
        page.paste(words(title, 22, INK), (24, y))
        for i, panel in enumerate(both):
            page.paste(drawn(panel), (10 + i * across, y + 36))
        y += down + 40
    save_png(page, path)


def drawn(panel: LogPanel) -> Image.Image:
    """Rules, curves with a dot for each size, and at the lower right, which they leave free, their names."""
    xs = [x for c in panel.curves for x in c.x]
    ys = [y for c in panel.curves for y in c.y]
    left, right = min(xs) / 1.12, max(xs) * 1.25
    low, high = min(ys) / 2, max(ys) * 1.5
    page = Image.new("RGB", (LEFT + AREA[0] + RIGHT, ABOVE + AREA[1] + BELOW), PAPER)
    large = Image.new("RGB", (AREA[0] * FINE, AREA[1] * FINE), PAPER)
    pen = ImageDraw.Draw(large)

    def at(x: float, y: float, times: int = FINE) -> tuple[float, float]:
        across, down = math.log(x / left) / math.log(right / left), math.log(y / low) / math.log(high / low)
        return across * AREA[0] * times, (1 - down) * AREA[1] * times

    thousands = [1024 * s for s in SIZES if left <= 1024 * s <= right]
    steps = [s for s in panel.steps if low <= s <= high]
    for s in steps:
        pen.line((0, at(left, s)[1], AREA[0] * FINE, at(left, s)[1]), fill=RULE, width=FINE)
    for t in thousands:
        pen.line((at(t, low)[0], 0, at(t, low)[0], AREA[1] * FINE), fill=RULE, width=FINE)
    for curve in reversed(panel.curves):
        _line(pen, [at(x, y) for x, y in zip(curve.x, curve.y, strict=True)], curve)
    pen.line((0, 0, 0, AREA[1] * FINE), fill=MUTED, width=2 * FINE)
    pen.line((0, AREA[1] * FINE - FINE, AREA[0] * FINE, AREA[1] * FINE - FINE), fill=MUTED, width=2 * FINE)
    page.paste(large.reduce(FINE), (LEFT, ABOVE))
    page.paste(words(panel.title, 19, MUTED), (LEFT, 10))
    for s in steps:
        text, y = panel.y_text(s), round(at(left, s, 1)[1])
        page.paste(words(text, 18, MUTED), (LEFT - 10 - math.ceil(length(text, 18)), ABOVE + y - 12))
    for t in thousands:
        text, x = f"{t // 1024}k", at(t, low, 1)[0]
        page.paste(words(text, 18, MUTED), (LEFT + round(x - length(text, 18) / 2), ABOVE + AREA[1] + 8))
    page.paste(words("tokens", 18, MUTED), (LEFT + AREA[0] - math.ceil(length("tokens", 18)), ABOVE + AREA[1] + 32))
    _names(page, panel)
    return page


def _line(pen: ImageDraw.ImageDraw, points: list[tuple[float, float]], curve: Curve) -> None:
    """A curve, with a cross as the last point of one that ended."""
    if curve.look == "band":
        pen.line(points, fill=curve.colour, width=11 * FINE, joint="curve")
        return
    if curve.look == "dashes":
        for (x0, y0), (x1, y1) in pairwise(points):
            count = max(1, round(math.dist((x0, y0), (x1, y1)) / (14 * FINE)))
            for i in range(count):
                ends = [(x0 + (x1 - x0) * f / count, y0 + (y1 - y0) * f / count) for f in (i, i + 0.55)]
                pen.line(ends, fill=curve.colour, width=2 * FINE)
        return
    pen.line(points, fill=curve.colour, width=3 * FINE, joint="curve")
    r = 5 * FINE
    for x, y in points[: -1 if curve.ended else None]:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=curve.colour)
    if curve.ended:
        (x, y), r = points[-1], 8 * FINE
        for flip in (-1, 1):
            pen.line((x - r, y - flip * r, x + r, y + flip * r), fill=curve.colour, width=3 * FINE)


def _names(page: Image.Image, panel: LogPanel) -> None:
    """A line of each colour with its name, and how many times ours a peer's last point is."""
    ours, pen = panel.curves[0], ImageDraw.Draw(page)
    x, y = LEFT + AREA[0] - 304, ABOVE + AREA[1] - 12 - 26 * len(panel.curves)
    for curve in panel.curves:
        text = curve.label
        if curve is not ours and curve.look == "dots":
            text += f": {curve.y[-1] / ours.y[len(curve.y) - 1]:.1f} x ours"
        ends = [(0, 12), (20, 32)] if curve.look == "dashes" else [(0, 32)]
        for a, b in ends:
            pen.line((x + a, y + 10, x + b, y + 10), fill=curve.colour, width=11 if curve.look == "band" else 4)
        page.paste(words(text, 18, INK), (x + 42, y - 2))
        y += 26


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy sizes, one round; nothing is written")
    parser.add_argument("--keep", type=Path, metavar="F", help="a folder for what is measured in slices")
    parser.add_argument("--memory", nargs="+", type=int, choices=SIZES, default=[], help="thousands of tokens")
    parser.add_argument("--turn", nargs="+", type=int, choices=SIZES, default=[], help="the same")
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--peaks", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peaks:
        name, size, dtype, names = json.loads(given.peaks)
        with torch.inference_mode():
            print(json.dumps(peaks(SWEEPS[name], Scale(), size, dtype, names)))
        return
    scale = TOY if given.quick else Scale()
    with TemporaryDirectory(prefix="tubelet-growth-") as folder:
        kept = Kept(given.keep or Path(folder), scale)
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode():
            kept.memory(sorted(given.memory) if given.keep else scale.sizes, given.only, given.dtype)
            kept.turn(sorted(given.turn) if given.keep else scale.sizes, given.only, given.dtype)
        if given.memory or given.turn:
            return
        found = kept.result()
        for dtype, sweeps in found.items():
            name = "growth.png" if dtype == "float32" else f"growth_{dtype}.png"
            draw(sweeps, dtype, f"{scale.shape.hidden} channels", (Path(folder) if given.quick else IMAGES) / name)
    print(json.dumps(found, indent=1))
    if not given.quick:
        save("growth", found, settings={"layers": 1, "hidden": 768, "sides": SIDES, "most_bytes_of_a_peer": MOST_BYTES})


if __name__ == "__main__":
    main()
