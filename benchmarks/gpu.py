"""What a GPU makes of packed encoders, within six minutes: its ceilings, attention, the whole stack, peers, waits.

    python benchmarks/gpu.py                       every part: results/gpu.json, written again after each
    python benchmarks/gpu.py --only stack,qwen     some, nothing written
    python benchmarks/gpu.py --device cpu          toy sizes, nothing written: whether the script runs

    ceilings     bare products, copies on the device and to it: rows as uint8 and as float32, pinned
    attention    every backend that runs here on packed lengths, beside padded sdpa with a mask
    stack        ViT-L at 16, 64 and 256 thousand tokens, eager and compiled: NaFlex against transformers and timm
    qwen         Qwen2.5-VL's tower against transformers with sdpa and, where it is installed, flash-attn
    graph        one shape again and again: eager against a CUDA graph
    waits        how often the host waits for the device during one call

Contenders take turns within one process (`inspect.speed.turns`); outputs are compared before anything is timed. "share"
is useful FLOPs over time, padding counting as none, against the bare bfloat16 products of the same layer shapes.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import compare, measure, report, save, show
from tubelet.encoder.attention import Segments, backends, varlen_attention
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.inspect.budget.flops import encoder_flop
from tubelet.inspect.speed.encoders import ALLOWED, fastest, products, relative_error
from tubelet.inspect.speed.towers import TOWERS, Grids, Shape, Tower, call_of, pair, rows_of
from tubelet.packed import Packed

MINUTES = 6.0
SIDES = ((16, 16), (24, 20), (32, 28), (20, 36), (48, 40), (64, 60))  # patches of the pictures of a mix, in turn
MOST_PADDED = 3.0  # times the rows: beyond it a padded peer is left out, which would not fit


@dataclass(frozen=True)
class Place:
    """Where and how large. compiler: a backend of torch.compile; tokens: of the stack's packs."""

    device: str
    dtype: torch.dtype
    shape: Shape
    qwen: Shape
    tokens: tuple[int, ...]
    compiler: str
    rounds: int
    rows: int  # of bare products and copies

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def turns(self, runs: dict[str, Callable[[], object]]) -> dict[str, Callable[[], object]]:
        """The same, each of which ends when the device has."""

        def whole(run: Callable[[], object]) -> Callable[[], object]:
            def both() -> object:
                out = run()
                self.wait()
                return out

            return both

        return {name: whole(run) for name, run in runs.items()}


GPU = Place(
    "cuda",
    torch.bfloat16,
    Shape(1024, 16, 4096, 24, patch=16),
    Shape(1280, 16, 5120, 32, patch=14),
    (16_384, 65_536, 262_144),
    "inductor",
    7,
    65_536,
)
TOY = Place(
    "cpu",
    torch.float32,
    Shape(64, 2, 128, 2, patch=16),
    Shape(64, 2, 128, 2, patch=14),
    (2_048,),
    "aot_eager",
    1,
    512,
)


def grids_of(tokens: int) -> Grids:
    """Pictures of mixed sizes, of so many tokens at most, one at least."""
    out: list[tuple[int, int, int]] = []
    while sum(h * w for _, h, w in out) < tokens:
        h, w = SIDES[len(out) % len(SIDES)]
        out.append((1, h, w))
    return out[:-1] or out


# ---- parts


def ceilings(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """Bare products in each type, and how fast bytes move."""
    wide = place.shape.hidden
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        a, b = (torch.randn(n, m, device=place.device).to(kind) for n, m in ((place.rows, wide), (wide, 4 * wide)))
        timing = measure(place.turns({"product": lambda a=a, b=b: a @ b}), rounds=place.rounds, warmup=2)["product"]
        name = str(kind).removeprefix("torch.")
        rate = 2 * place.rows * wide * 4 * wide / min(timing.wall_s)
        yield f"products, {name}", {"tflops": float(f"{rate / 1e12:.3g}")}
    width = 3 * place.shape.patch**2
    for kind in (torch.uint8, torch.float32):
        rows = torch.zeros(place.rows, width, dtype=kind)
        rows = rows.pin_memory() if place.device == "cuda" else rows
        moved = rows.to(place.device)
        runs = place.turns({"to it": lambda r=rows: r.to(place.device, non_blocking=True), "on it": moved.clone})
        timings = measure(runs, rounds=place.rounds, warmup=2)
        gb = {name: round(rows.nbytes / min(t.wall_s) / 1e9, 2) for name, t in timings.items()}
        yield f"{place.rows:,} rows as {str(kind).removeprefix('torch.')}", {"gb_s": gb, "mib": rows.nbytes >> 20}


def attention(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """Packed lengths by every backend that runs here, and what a padded batch with a mask takes."""
    heads = place.shape.heads
    for tokens in place.tokens[:2]:
        segments = Segments(tuple(h * w for _, h, w in grids_of(tokens)))
        size = segments.total, heads, place.shape.hidden // heads
        q, k, v = (torch.randn(size, device=place.device).to(place.dtype) for _ in range(3))
        longest, count = segments.longest, len(segments.lengths)
        mask = torch.arange(longest, device=place.device) < torch.tensor(segments.lengths, device=place.device)[:, None]

        def padded(q: Tensor = q, k: Tensor = k, v: Tensor = v, mask: Tensor = mask, shape: Any = (count, longest)):
            def batch(x: Tensor) -> Tensor:
                full = x.new_zeros(*shape, *x.shape[1:])
                full[mask] = x
                return full.transpose(1, 2)

            out = F.scaled_dot_product_attention(batch(q), batch(k), batch(v), attn_mask=mask[:, None, None])
            return out.transpose(1, 2)[mask]

        runs: dict[str, Callable[[], object]] = {}
        for name in backends(torch.device(place.device), place.dtype):
            runs[name] = lambda name=name, q=q, k=k, v=v, s=segments: varlen_attention(q, k, v, s, backend=name)
        first = next(iter(runs))
        most = ALLOWED[str(place.dtype).removeprefix("torch.")]
        for name, run in {**runs, "padded sdpa": padded}.items():
            agree(f"attention {name}", run(), runs[first](), most)
        title = f"attention, {segments.total:,} rows in {count}"
        turns = place.turns({**runs, "padded sdpa": padded})
        yield title, compare(title, turns, rounds=place.rounds, ours=first)


def stack(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """The NaFlex tower at growing sizes: eager, compiled, and its padded peers while they fit."""
    for tokens in place.tokens:
        grids = grids_of(tokens)
        peers = [t for t in TOWERS if t.family == "siglip2" and find_spec(t.peer.split()[0]) is not None]
        padding = len(grids) * max(h * w for _, h, w in grids) / sum(h * w for _, h, w in grids)
        yield towers(place, place.shape, peers if padding < MOST_PADDED else [], grids, f"{tokens:,} tokens")


def qwen(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """A packed peer, whose attention is sdpa by segments or flash-attn's."""
    peer = next(t for t in TOWERS if t.family == "qwen2_5_vl")
    yield towers(place, place.qwen, [peer], grids_of(place.tokens[0]), f"{place.tokens[0]:,} tokens")


def towers(place: Place, shape: Shape, peers: Sequence[Tower], grids: Grids, title: str) -> tuple[str, dict[str, Any]]:
    """One pack through our encoder, eager and compiled, and through each peer."""
    base = peers[0] if peers else next(t for t in TOWERS if t.family == "siglip2")
    ours, _ = pair(base, shape)
    ours = ours.to(place.device, place.dtype).set_run_options(RunOptions(compile=None))
    p = rows_of(ours.config, grids, place.dtype, place.device)
    quick = type(ours)(ours.config).to(place.device, place.dtype).eval()
    quick.load_state_dict(ours.state_dict(), assign=True)
    quick.set_run_options(RunOptions(compile=place.compiler))
    start = time.perf_counter()
    first = quick(p)
    place.wait()
    compiled_s = time.perf_counter() - start
    most = ALLOWED[str(place.dtype).removeprefix("torch.")]
    agree("compiled", first.x, ours(p).x, most)
    runs: dict[str, Callable[[], object]] = {"tubelet": lambda: ours(p), "tubelet compiled": lambda: quick(p)}
    for tower in peers:
        for kind in ("sdpa", "flash_attention_2") if tower.kind == "packed" else ("sdpa",):
            if kind != "sdpa" and (find_spec("flash_attn") is None or place.device != "cuda"):
                continue
            other, peer = pair(tower, shape, attention=kind)
            call = call_of(tower, peer.to(place.device, place.dtype), p, ours.config)
            if tower.weights:
                agree(tower.peer, call(), other.to(place.device, place.dtype)(p).x, most)
            runs[tower.peer if kind == "sdpa" else f"{tower.peer}, {kind}"] = call
    floors, floor_flop = products(ours.config, sum(p.lengths), place.device, place.dtype)
    timings = measure(place.turns({**runs, **floors}), rounds=place.rounds, warmup=2, control="tubelet")
    by, rate = fastest({name: timings.pop(name).wall for name in floors}, floor_flop)
    flop = sum(encoder_flop(ours.config, [i.grid for i in p.items]).values())
    title = f"{base.family}, {title}"
    show(title, timings, ours="tubelet")
    return title, {
        "tokens": sum(p.lengths),
        "useful_gflop": round(flop / 1e9, 1),
        "gemm": by,
        "gemm_gflops": round(rate / 1e9, 1),
        "share_of_gemm": {name: round(flop / t.wall / rate, 3) for name, t in timings.items()},
        "compiled_first_call_s": round(compiled_s, 1),
        "peak_gib": peaks(place, runs),
        **report(timings, ours="tubelet"),
    }


def graph(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """A pack whose lengths repeat, as frames of a camera do. Without a GPU there is nothing to capture."""
    if place.device != "cuda":
        return
    encoder, p = small(place)
    quick = torch.compile(encoder.eval(), mode="reduce-overhead")
    agree("graph", quick(p).x, encoder(p).x, ALLOWED["bfloat16"])
    runs = {"tubelet": lambda: encoder(p), "CUDA graph": lambda: quick(p)}
    yield "one shape again", compare("one shape again", place.turns(runs), rounds=place.rounds * 3)


def waits(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """Warnings of torch's sync debug mode during one call with sizes that were not seen before."""
    if place.device != "cuda":
        return
    encoder, p = small(place)
    encoder(p)
    other = rows_of(encoder.config, grids_of(6_000), place.dtype, place.device, seed=1)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            encoder(other)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield "one call", {"waits": sum("synchron" in str(w.message).lower() for w in heard)}


PARTS: dict[str, Callable[[Place], Iterator[tuple[str, dict[str, Any]]]]] = {
    "ceilings": ceilings,
    "attention": attention,
    "stack": stack,
    "qwen": qwen,
    "graph": graph,
    "waits": waits,
}


# ---- what they share


def small(place: Place) -> tuple[Encoder, Packed]:
    encoder: nn.Module = pair(next(t for t in TOWERS if t.family == "siglip2"), place.shape)[0]
    encoder = encoder.to(place.device, place.dtype)
    assert isinstance(encoder, Encoder)
    return encoder, rows_of(encoder.config, grids_of(4_096), place.dtype, place.device)


def agree(what: str, ours: Any, theirs: Any, most: float) -> None:
    """Raises SystemExit where two outputs differ by more than rounding: then nothing is timed."""
    error = relative_error(ours, theirs)
    if not error <= most:
        raise SystemExit(f"{what}: the outputs differ by {error:.1e}, nothing is timed")


def peaks(place: Place, runs: dict[str, Callable[[], object]]) -> dict[str, float] | None:
    """GiB that each takes on the device at its peak beside what is there; None on a CPU."""
    if place.device != "cuda":
        return None
    out = {}
    for name, run in runs.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        place.wait()
        out[name] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)
    return out


def run(place: Place, only: Sequence[str] | None = None, minutes: float = MINUTES, *, kept: bool) -> dict[str, Any]:
    """The parts one after the other; none begins after the time is up, and it is told which did not."""
    end, results, late = time.monotonic() + 60 * minutes, {}, []
    with torch.inference_mode():
        for name, part in PARTS.items():
            if only is not None and name not in only:
                continue
            cases = part(place)
            while True:
                if time.monotonic() > end:
                    late.append(name)
                    break
                case = next(cases, None)
                if case is None:
                    break
                results[case[0]] = case[1]
                if kept:
                    save("gpu", {**results, "device": torch.cuda.get_device_name()})
    if late:
        print("no time was left for", ", ".join(late), flush=True)
    return {**results, "late": late}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", help="parts, with commas; nothing is written")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    args = parser.parse_args()
    only = None if args.only is None else args.only.split(",")
    if unknown := set(only or ()) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    place = GPU if args.device == "cuda" else TOY
    found = run(place, only, args.minutes, kept=only is None and place is GPU)
    for name, result in found.items():
        print(name, result, flush=True)


if __name__ == "__main__":
    main()
