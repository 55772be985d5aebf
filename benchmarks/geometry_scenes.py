"""VGGT over scenes: packed against one by one and padded, its memory against upstream's, its cost over the frames.

    python benchmarks/geometry_scenes.py            writes results/geometry_scenes.json and docs/images/scene_cost.png
    python benchmarks/geometry_scenes.py --quick    three rounds of fewer frames, written as geometry_scenes_quick.json

The padded way is written plainly below: scenes as one batch of as many frames as the longest and as many places as the
largest, with a dense mask that leaves the padding out. Upstream's way keeps every level's output, joined, in a list.
Results must be equal before anything is timed. Widths are small; what the published width takes is planned.
"""

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import harness
import tubelet
from tubelet.encoder.layers import Layer, LayerInputs, span_of
from tubelet.encoder.layout import layout_of
from tubelet.encoder.model import Encoder
from tubelet.encoder.rope import apply_rope
from tubelet.geometry.vggt import VGGT, VGGT_1B, untrained_vggt, vggt_config
from tubelet.inspect.budget.geometry import vggt_flop
from tubelet.inspect.budget.geometry_memory import moments_of, vggt_memory
from tubelet.inspect.draw.chart import Panel, chart
from tubelet.inspect.draw.lettering import INK, TextLine
from tubelet.packed import Packed
from tubelet.packed.grid import Grid
from tubelet.writing import save_png

IMAGE = Path(__file__).resolve().parent.parent / "docs" / "images" / "scene_cost.png"
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    rounds: int
    lengths: tuple[tuple[int, int, int], ...] = ((2, 8, 10), (4, 8, 10), (6, 8, 10), (12, 8, 10))
    sizes: tuple[tuple[int, int, int], ...] = ((2, 8, 10), (5, 12, 8), (1, 16, 16), (8, 6, 8))
    width: int = 128
    layers: int = 6
    memory: tuple[int, int, int] = (16, 17, 23)  # frames and places for the peaks, through all 24 levels
    frames: tuple[int, ...] = (8, 16, 24, 32, 48, 64, 96, 128)  # of the cost
    places: tuple[int, int] = (8, 12)
    cost_width: int = 64
    cost_layers: int = 2


def pack_of(grids: Sequence[tuple[int, int, int]], model: VGGT) -> Packed:
    rows = [torch.randint(0, 256, (t * h * w, model.pixels.width), dtype=torch.uint8) for t, h, w in grids]
    return tubelet.pack(rows, [tubelet.Item.of(*grid) for grid in grids])


# ---- the padded way


class Padded:
    """Rows of a pack as (scenes, frames, places): where they go, and the masks that leave out what is padding."""

    def __init__(self, encoder: Encoder, p: Packed) -> None:
        self.layout = layout_of(p, encoder.config)
        units, prefix = self.layout.units, self.layout.prefix
        frames = self.layout.units_of(p)
        self.shape = (len(p), max(frames), prefix + max(units))
        b, s, n = self.shape
        numbers = [(scene, frame) for scene, count in enumerate(frames) for frame in range(count)]
        starts = [(scene * s + frame) * n for scene, frame in numbers]
        places = [torch.arange(prefix + own) + start for own, start in zip(units, starts, strict=True)]
        self.where = torch.cat(places)
        real = torch.zeros(b * s * n, dtype=torch.bool).index_fill(0, self.where, True)
        self.masks = {"frame": _mask(real.view(b * s, n)), "scene": _mask(real.view(b, s * n))}

    def fill(self, x: Tensor) -> Tensor:
        return x.new_zeros(math.prod(self.shape), *x.shape[1:]).index_copy(0, self.where, x)


def _mask(real: Tensor) -> Tensor:
    """(batch, 1, n, n): real rows see real rows; padding sees everything, so that no softmax is empty."""
    return (real[:, None, :] | ~real[:, :, None])[:, None]


def padded_layers(encoder: Encoder, p: Packed) -> list[Tensor]:
    """Rows inside after each layer of a padded run."""
    padded = Padded(encoder, p)
    x = padded.fill(encoder.run(p, only=(0,), until=0).states[0])
    turn, _ = encoder.rotary_tables(p, padded.layout)
    turn = None if turn is None else padded.fill(turn)
    found = []
    for layer in encoder.layers:
        assert isinstance(layer, Layer) and layer.scale1 is not None and layer.scale2 is not None
        q, k, v = layer.heads_of(x)
        if turn is not None:
            q, k = (apply_rope(each, turn, None, layer.halves) for each in (q, k))
        mask = padded.masks[layer.span]
        q, k, v = (each.unflatten(0, (len(mask), -1)).transpose(1, 2) for each in (q, k, v))
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(0, 1).flatten(1)
        x = x + layer.proj(seen) * layer.scale1
        x = x + layer.fc2(F.gelu(layer.fc1(layer.norm2(x)))) * layer.scale2
        found.append(x.index_select(0, padded.where))
    return found


def padded_run(model: VGGT, p: Packed) -> Tensor:
    """Features of every row after the last level."""
    own = layout_of(p, model.patches.config)
    rows = p.with_x(own.from_layout(model.patches.final_norm(padded_layers(model.patches, p)[-1])))
    *_, frame, scene = padded_layers(model.aggregator, rows)
    return layout_of(p, model.aggregator.config).from_layout(torch.cat([frame, scene], dim=-1))


def scenes(settings: Settings, grids: tuple[tuple[int, int, int], ...]) -> dict[str, Any]:
    """Scenes in one pack, one by one, and as a padded batch."""
    model = untrained_vggt(vggt_config(layers=settings.layers, width=settings.width, heads=4, patch_layers=2))
    both = pack_of(grids, model)
    alone = [tubelet.pack([rows], [item]) for rows, item in zip(both.unpack(), both.items, strict=True)]
    with torch.no_grad():
        want = model(both).x
        assert torch.allclose(want, torch.cat([model(p).x for p in alone]), atol=1e-4)
        assert torch.allclose(want, padded_run(model, both), atol=1e-4)
        turns: dict[str, Callable[[], object]] = {
            "tubelet": lambda: model(both),
            "one by one": lambda: [model(p) for p in alone],
            "padded, dense mask": lambda: padded_run(model, both),
        }
        return harness.compare(
            "scenes " + ", ".join(" x ".join(map(str, g)) for g in grids), turns, rounds=settings.rounds, unit="pack"
        )


# ---- memory


def every_level(model: VGGT, p: Packed) -> list[Tensor]:
    """Upstream's way: each level's frame and scene features side by side, all of them in a list."""
    rows = model.patches(p)
    own = model.aggregator
    layout = layout_of(rows, own.config)
    spans = {name: span_of(each, "sdpa", p.device) for name, each in layout.spans.items()}
    inputs = LayerInputs(*own.rotary_tables(rows, layout), "sdpa", spans)
    x = own.run(rows, only=(0,), until=0).states[0]
    levels = []
    for frame_layer, scene_layer in zip(own.layers[::2], own.layers[1::2], strict=True):
        frame = frame_layer(x, inputs)
        x = scene_layer(frame, inputs)
        levels.append(torch.cat([frame, x], dim=-1))
    return levels


def memory_model(settings: Settings) -> VGGT:
    return untrained_vggt(vggt_config(layers=24, width=settings.width, heads=4, patch_layers=2))


def peak_here(settings: Settings, way: str) -> int:
    """Bytes that this process adds at its peak in one run, beyond what it had before."""
    model = memory_model(settings)
    p = pack_of([settings.memory], model)
    with torch.no_grad():
        model(pack_of([(1, 2, 2)], model))
        run = (lambda: model(p)) if way == "tubelet" else (lambda: every_level(model, p))
        (timing,) = harness.measure({way: run}, rounds=1, warmup=0).values()
    assert timing.peak_extra_bytes is not None
    return timing.peak_extra_bytes


def memory(settings: Settings, quick: bool) -> dict[str, Any]:
    """Peaks of a process by the system's count, with tensors given back at once, and planned at the published width."""
    model = memory_model(settings)
    p = pack_of([(2, 4, 4)], model)
    with torch.no_grad():
        last = every_level(model, p)[-1]
        assert torch.allclose(model(p).x, layout_of(p, model.aggregator.config).from_layout(last), atol=1e-4)
    found = {}
    for way in ("tubelet", "upstream"):
        arguments = [sys.executable, __file__, "--peak", way, *(["--quick"] if quick else [])]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
        found[way] = int(done.stdout.split()[-1])
    whole = replace(VGGT_1B, camera=None, depth=None, points=None)
    grid = Grid(16, 34, 46)
    with torch.device("meta"):
        published = VGGT(whole)
    empty = torch.empty(grid.rows, whole.pixels.width, dtype=torch.uint8, device="meta")
    places = torch.empty(grid.rows, 3, dtype=torch.int32, device="meta")
    q = Packed(empty, places, (tubelet.Item.of(*grid),), (grid.rows,))
    planned = {
        "tubelet": vggt_memory(whole, [grid]).work_bytes,
        "upstream": max(moments_of(published, lambda: every_level(published, q), "float32", "cpu", 1).values()),
    }
    out = {
        "measured": {f"{way} MiB": round(n / MIB, 1) for way, n in found.items()},
        "of upstream's": round(found["tubelet"] / found["upstream"], 3),
        "planned for VGGT-1B, 16 frames of 644 x 476": {f"{way} MiB": round(n / MIB) for way, n in planned.items()},
        "of upstream's there": round(planned["tubelet"] / planned["upstream"], 3),
    }
    print(f"\nmemory: {out}")
    return out


# ---- cost over the frames


def cost(settings: Settings) -> dict[str, Any]:
    """One scene of more and more frames: seconds, planned FLOPs and memory, and the power of frames they grow by."""
    config = vggt_config(layers=settings.cost_layers, width=settings.cost_width, heads=2, patch_layers=1)
    model = untrained_vggt(config)
    grids = [Grid(n, *settings.places) for n in settings.frames]
    packs = {grid.t: pack_of([tuple(grid)], model) for grid in grids}
    with torch.no_grad():
        turns = {f"tubelet, {n} frames": (lambda p=p: model(p)) for n, p in packs.items()}
        timings = harness.measure(turns, rounds=min(3, settings.rounds), warmup=1)
    seconds = [min(t.cpu_s) for t in timings.values()]
    flop = [sum(part.all for part in vggt_flop(config, [grid]).values()) for grid in grids]
    peaks = [vggt_memory(config, [grid], threads=1).work_bytes for grid in grids]
    out = {
        "frames": list(settings.frames),
        "CPU seconds, the best of three": [round(s, 4) for s in seconds],
        "exponent of time": powers(settings.frames, seconds),
        "planned GFLOP": [round(n / 1e9, 2) for n in flop],
        "exponent of planned FLOPs": powers(settings.frames, flop),
        "planned MiB": [round(n / MIB, 2) for n in peaks],
        "exponent of planned memory": powers(settings.frames, peaks),
    }
    print(f"\ncost: {out}")
    return out


def powers(frames: Sequence[int], values: Sequence[float]) -> list[float]:
    """The exponent of each step: log of the values' ratio over log of the frames'."""
    steps = zip(pairwise(frames), pairwise(values), strict=True)
    return [round(math.log(b / a) / math.log(n / m), 2) for (m, n), (a, b) in steps]


def draw(found: dict[str, Any], settings: Settings) -> None:
    """docs/images/scene_cost.png from the results."""
    x, label = found["frames"], "frames of one scene"
    start = (0.0, *map(float, x))
    time = Panel("CPU seconds", label, start, (0.0, *found["CPU seconds, the best of three"]), "{:.1f}".format)
    space = Panel("planned memory", label, start, (0.0, *found["planned MiB"]), "{:,.0f} MiB".format)
    names = ("exponent of time", "exponent of planned FLOPs", "exponent of planned memory")
    ends = [(found[name][0], found[name][-1]) for name in names]
    network = f"{settings.cost_layers} levels of {settings.cost_width} channels, {settings.places[0]} x "
    told = [f"{name.removeprefix('exponent of ')} {a} to {b}" for name, (a, b) in zip(names, ends, strict=True)]
    power = f"power of the frames, from {x[0]} to {x[1]} and from {x[-2]} to {x[-1]}"
    lines = [
        TextLine(("What a scene's frames cost",), 19, INK),
        TextLine((f"{network}{settings.places[1]} places a frame",)),
        TextLine((power, *told)),
    ]
    save_png(chart([[time, space]], lines), IMAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description="VGGT over scenes, against padding and upstream's way.")
    parser.add_argument("--quick", action="store_true", help="three rounds of fewer frames")
    parser.add_argument("--peak", choices=("tubelet", "upstream"), help="print one peak of memory, for the parent")
    asked = parser.parse_args()
    small = Settings(3, memory=(4, 8, 10), frames=(2, 4, 8)) if asked.quick else Settings(rounds=5)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if asked.peak is not None:
        print(peak_here(small, asked.peak))
        return
    results = {
        "scenes": {"of several lengths": scenes(small, small.lengths), "of several sizes": scenes(small, small.sizes)},
        "memory": memory(small, asked.quick),
        "cost": cost(small),
    }
    if not asked.quick:
        draw(results["cost"], small)
    name = "geometry_scenes_quick" if asked.quick else "geometry_scenes"
    print(f"\nwritten: {harness.save(name, results, settings=small).name}")


if __name__ == "__main__":
    main()
