"""Plans that run the encoder without values: results are those torch gives, and the layers left out are counted."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.encoder.test_options import OPTIONS, build, pack_for
from torch.utils._python_dispatch import TorchDispatchMode

from tubelet.families.onevision import VARIANTS
from tubelet.inspect.budget.alive import moments
from tubelet.inspect.budget.memory import memory
from tubelet.inspect.budget.results import result_of
from tubelet.inspect.budget.scratch import Kernels
from tubelet.packed import Packed
from tubelet.packed.grid import Grid


class Compared(TorchDispatchMode):
    """Every operator by `result_of` and by torch: equal sizes and types, and strides where a view may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        right = func(*args, **(kwargs or {}))
        if func.is_view:
            return right
        found = result_of(func, args, kwargs or {})
        for one, other in zip(*(x if isinstance(x, (tuple, list)) else (x,) for x in (found, right)), strict=True):
            if isinstance(other, torch.Tensor):
                assert (one.shape, one.dtype) == (other.shape, other.dtype), func
        self.seen[str(func)] += 1
        return right


@pytest.mark.parametrize("name", OPTIONS)
def test_results_are_those_torch_gives(name: str) -> None:
    encoder = build(name).to("meta")
    host = pack_for(encoder)
    p = Packed(host.x.to("meta"), host.pos.to("meta"), host.items, host.lengths)
    with Compared() as compared:
        encoder(p).x.square().mean().backward()
        with torch.no_grad():
            encoder(p)
    by_library = compared.seen["aten.mm.out"], compared.seen["mkldnn._linear_pointwise.default"]  # see encoder.kernels
    assert compared.seen["aten.mm.default"] > 0 and max(by_library) > 0, compared.seen


@pytest.mark.parametrize("spans", [("item",), ("item", "frame", "frame")])
@pytest.mark.parametrize("mode", ["inference", "training", "checkpointed"])
def test_layers_left_out_are_counted(mode: Any, spans: Any) -> None:
    """Of nine layers three or four run; a run of all nine by itself has the same highest moment."""
    config = replace(VARIANTS["llava_vit_packing_small"], layers=9, spans=spans)
    grids = [Grid(2, 8, 8), Grid(1, 6, 10)]
    asked: dict[str, Any] = {"training": mode != "inference", "checkpointing": mode == "checkpointed", "plain": True}
    sampled = moments(config, grids, torch.float32, Kernels(1), **asked)
    whole = moments(config, grids, torch.float32, Kernels(1), **asked, sampled=False)
    assert max(sampled.values()) == max(whole.values())


def test_a_long_clip_costs_no_more_to_plan() -> None:
    """The operators that run are as many for a thousand times the rows."""

    class Counted(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    memory(VARIANTS["llava_vit_packing_small"], [Grid(1, 16, 16)])  # the encoder on meta is made once
    counts = []
    for frames in (100, 10_000):
        with Counted() as counted:
            memory(VARIANTS["llava_vit_packing_small"], [Grid(frames, 16, 16)])
        counts.append(counted.count)
    assert counts[0] == counts[1]
