"""What multiplies matrices on this CPU: towers by torch's BLAS and by oneDNN, beside transformers' with sdpa.

    python benchmarks/kernels.py               results/kernels.json, written again after each
    python benchmarks/kernels.py --only clip   cases whose name has this, nothing written
    python benchmarks/kernels.py --threads 2   wall times mean something on a machine that does nothing else

Both sides carry the same random weights and must agree before anything is timed. "chosen" is what `products="auto"`
runs here (tubelet.encoder.kernels), with the times of its trial. One thread by default, and then CPU time is what to
read: it says how much work there is, whatever else the machine does.
"""

import argparse
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness import compare, save
from tubelet.encoder.cpu import work_dtype
from tubelet.encoder.kernels import able, chosen
from tubelet.encoder.model import Encoder
from tubelet.inspect.speed.encoders import ALLOWED, Case, relative_error, threads
from tubelet.inspect.speed.towers import TOWERS, Shape, call_of, pair, rows_of
from tubelet.packed import Packed

SQUARE = ("SigLIP", "CLIP", "MLCD", "DINOv2", "DINOv3", "AIMv2")
CASES = [
    *(Case(next(t for t in TOWERS if t.peer.endswith(" " + name)), Shape(layers=2), squares=4) for name in SQUARE),
    *(
        Case(next(t for t in TOWERS if t.peer.endswith(name)), Shape(layers=1), dtype=kind)
        for name in ("Qwen2-VL", "Qwen2.5-VL")
        for kind in ("float32", "bfloat16")
    ),
    Case(next(t for t in TOWERS if t.peer.endswith("Qwen2-VL")), Shape(layers=1), "mix8", "bfloat16"),
]


def forward(encoder: Encoder, p: Packed, products: str) -> Tensor:
    """The rows by one routine."""
    encoder.set_run_options(replace(encoder.options, products=products))
    return encoder(p).x


def run(case: Case, rounds: int) -> dict[str, Any]:
    """One tower, its contenders in turns. Raises SystemExit where outputs differ by more than rounding."""
    dtype = getattr(torch, case.dtype)
    ours, peer = (m.to(dtype) for m in pair(case.tower, case.shape))
    assert isinstance(ours, Encoder)
    p = rows_of(ours.config, case.grids, dtype, "cpu")
    theirs = call_of(case.tower, peer, p, ours.config)
    names = ("blas", "onednn") if able(work_dtype(dtype)) else ("blas",)
    want = theirs()
    errors = {name: relative_error(forward(ours, p, name), want) for name in names}
    if not max(errors.values()) <= ALLOWED[case.dtype]:
        raise SystemExit(f"{case.name}: outputs differ by {errors}, nothing is timed")
    choice = chosen(work_dtype(dtype))
    turns = {"tubelet": partial(forward, ours, p, choice.products)}
    turns |= {f"tubelet, {name}": partial(forward, ours, p, name) for name in names if name != choice.products}
    report = compare(case.name, {**turns, case.tower.peer: theirs}, rounds=rounds)
    return report | {"chosen": choice.products, "trial": choice.seconds, "relative_error": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cases whose name contains this; nothing is written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    results: dict[str, Any] = {}
    with torch.inference_mode(), threads(args.threads):
        for case in CASES:
            if args.only is None or args.only.lower() in case.name.lower():
                results[case.name] = run(case, args.rounds)
                if args.only is None:
                    save("kernels", results)


if __name__ == "__main__":
    main()
