"""No tower takes more memory than where it came from: allocator's peak against transformers' and timm's, same rows."""

from functools import lru_cache

import pytest
import torch
from tests.inspect.budget.budget_cases import allocated

from tubelet.encoder import cpu, kernels
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.inspect.speed.towers import TOWERS, Shape, Tower, call_of, pair, rows_of

SHAPE = Shape(hidden=384, heads=6, mlp=1536, layers=1)
MIXED = [(1, h, w) for h, w in ((16, 16), (16, 24), (24, 12), (20, 28), (32, 32))]
HALF = pytest.mark.skipif(not cpu.has_arithmetic(torch.bfloat16), reason="peers sum in float32 here, and so do we")


@lru_cache(maxsize=1)  # types of a tower come one after the other
def built(tower: Tower) -> tuple[Encoder, torch.nn.Module]:
    return pair(tower, SHAPE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=HALF)], ids=str)
@pytest.mark.parametrize("tower", TOWERS, ids=lambda t: t.peer)
def test_a_peak_is_not_above_the_peer_s(tower: Tower, dtype: torch.dtype) -> None:
    ours, peer = (module.to(dtype) for module in built(tower))
    side = SHAPE.image // SHAPE.patch
    p = rows_of(ours.config, [(1, side, side)] * 8 if tower.kind == "square" else MIXED, dtype, "cpu")
    with torch.inference_mode():
        theirs = allocated(call_of(tower, peer, p, ours.config))
        for products in ("blas", "onednn") if kernels.able(dtype) else ("blas",):
            ours.set_run_options(RunOptions(products=products))
            peak = allocated(lambda: ours(p))
            assert peak <= theirs, f"{products}: {peak / theirs:.2f} of the peer's"
