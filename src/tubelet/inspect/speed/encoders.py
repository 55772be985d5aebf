"""One tower against its peer: outputs compared first, then timed in turns, with the bare matrix products beside them.

"share" is the useful FLOPs (padding counts as none) over the time, against bare products of the same layer shapes and
type timed in the same turns, by the faster of the libraries that multiply here: 1.0 would be an encoder that costs
nothing but its matrix products. On a CPU the memory a turn adds at its peak is kept too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.cpu import FUSED, work_dtype
from tubelet.encoder.kernels import able, linear
from tubelet.encoder.model import Encoder
from tubelet.errors import RunError
from tubelet.inspect.budget.flops import encoder_flop
from tubelet.inspect.speed.towers import Grids, Shape, Tower, call_of, pair, rows_of
from tubelet.inspect.speed.turns import measure, report

ALLOWED = {"float32": 3e-5, "bfloat16": 4e-2, "float16": 1e-2}  # relative error of the outputs before anything is timed

# (h, w) in patches: 16 pictures of 256 to 1,024 tokens, 8 of 196 to 3,968, 32 of 196 to 3,969 and one small one
MIXES: dict[str, tuple[tuple[int, int], ...]] = {
    "small16": (
        *((16, 16),) * 4,
        *((16, 24), (24, 16), (12, 24), (24, 12)) * 2,
        (20, 28),
        (28, 20),
        (24, 32),
        (32, 32),
    ),
    "mix8": ((14, 14), (14, 20), (20, 26), (26, 20), (28, 36), (36, 28), (24, 44), (62, 64)),
    "mix32": tuple((14 + 2 * (i * 7 % 26), 14 + 2 * (i * 11 % 26)) for i in range(32)),
    "one": ((16, 16),),
}


@dataclass(frozen=True)
class Case:
    """What is run. squares: how many pictures of the shape's own size, for towers that take no other."""

    tower: Tower
    shape: Shape
    mix: str = "small16"
    dtype: str = "float32"
    threads: int | None = None
    device: str = "cpu"
    rounds: int = 3
    squares: int = 16

    @property
    def grids(self) -> Grids:
        side = self.shape.image // self.shape.patch
        if self.tower.kind == "square":
            return [(1, side, side)] * self.squares
        return [(1, h, w) for h, w in MIXES[self.mix]]

    @property
    def name(self) -> str:
        mix = f"{self.squares} of {self.shape.image}" if self.tower.kind == "square" else self.mix
        threads = "" if self.threads is None else f", {self.threads} thread" + "s" * (self.threads != 1)
        return f"{self.tower.peer}, {mix}, {self.dtype}, {self.shape.layers} layers of {self.shape.hidden}{threads}"


def run(case: Case) -> dict[str, Any]:
    """The case as plain values: times, ratios, share of the products' rate, memory, tokens, padding, relative error.

    Raises RunError when the outputs differ by more than rounding: then nothing is timed.
    """
    dtype = getattr(torch, case.dtype)
    with torch.inference_mode(), threads(case.threads):
        ours, peer = (m.to(case.device, dtype) for m in pair(case.tower, case.shape))
        assert isinstance(ours, Encoder)
        config = ours.config
        p = rows_of(config, case.grids, dtype, case.device)
        theirs = call_of(case.tower, peer, p, config)
        error = relative_error(ours(p).x, theirs()) if case.tower.weights else None
        if error is not None and not error <= ALLOWED[case.dtype]:
            raise RunError(f"{case.name}: the outputs differ by {error:.1e}, nothing is timed", got=error)
        floors, floor_flop = products(config, sum(p.lengths), case.device, dtype)
        sync = torch.cuda.synchronize if case.device == "cuda" else lambda: None
        runs = {"tubelet": lambda: ours(p), case.tower.peer: theirs, **floors}
        timings = measure({k: _synced(v, sync) for k, v in runs.items()}, rounds=case.rounds, control="tubelet")
    by, rate = fastest({name: timings.pop(name).wall for name in floors}, floor_flop)
    flop = sum(encoder_flop(config, [i.grid for i in p.items]).values())
    return {
        "tokens": sum(p.lengths),
        "padding": round(len(p) * max(p.lengths) / sum(p.lengths), 2) if case.tower.kind == "padded" else 1.0,
        "relative_error": error,
        "useful_gflop": round(flop / 1e9, 1),
        "gemm": by,
        "gemm_gflops": round(rate / 1e9, 1),
        "share_of_gemm": {k: round(flop / t.wall / rate, 3) for k, t in timings.items()},
        **report(timings, ours="tubelet"),
    }


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """|| a - b || / || b || in float32."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def products(
    config: EncoderConfig, rows: int, device: str, dtype: torch.dtype
) -> tuple[dict[str, Callable[[], object]], float]:
    """The products of one layer with nothing around them, by each library that multiplies this type here, and their
    FLOPs.

    Results go into memory that is there, or by oneDNN on a CPU into new memory, a block of rows at a time. On a CPU
    without arithmetic of the type it is float32's, as an encoder's are.
    """
    if device == "cpu":
        dtype = work_dtype(dtype)
    d, m = config.hidden, config.mlp
    sizes = [(d, 3 * d), (d, d), (d, m * (2 if config.gated else 1)), (m, d)]
    made = [tuple(torch.randn(*s, device=device).to(dtype) for s in ((rows, i), (o, i), (o,))) for i, o in sizes]
    out = [torch.empty(rows, o, device=device, dtype=dtype) for _, o in sizes]

    def addmm() -> None:
        for (x, w, b), y in zip(made, out, strict=True):
            torch.addmm(b, x, w.t(), out=y)

    def onednn() -> None:
        for x, w, b in made:
            for part in x.split(FUSED):
                linear(part, w, b)

    runs: dict[str, Callable[[], object]] = {"addmm": addmm}
    if device == "cpu" and able(dtype):
        runs["onednn"] = onednn
    return runs, float(sum(2 * rows * i * o for i, o in sizes))


def fastest(seconds: Mapping[str, float], flop: float) -> tuple[str, float]:
    """The name of the least time, and FLOP a second in it."""
    name = min(seconds, key=seconds.__getitem__)
    return name, flop / seconds[name]


def _synced(run: Callable[[], object], sync: Callable[[], object]) -> Callable[[], object]:
    def both() -> object:
        result = run()
        sync()
        return result

    return both


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """torch with so many threads inside the block; None leaves it."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peers_missing(towers: Sequence[Tower]) -> list[str]:
    """Packages that have to be installed before these towers can be compared."""
    from importlib.util import find_spec

    return sorted({t.peer.split()[0] for t in towers if find_spec(t.peer.split()[0]) is None})


__all__ = ["ALLOWED", "MIXES", "Case", "fastest", "peers_missing", "products", "relative_error", "run"]
