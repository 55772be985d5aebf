"""Random encoders and packs for the budget's tests, and what torch really does with them.

Memory is what torch's CPU allocator gives out, as its profiler records every allocation, those inside operators too:
the tensors of the library, not the interpreter's pages, which depend on what ran before.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.encoder.model import Encoder
from tubelet.packed import Packed, all_positions
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.recipe import PixelRecipe


def random_config(rng: random.Random, **fixed: Any) -> EncoderConfig:
    """Any mix of widths, depths, norms, rotary modes, windows and mergers."""
    heads = rng.choice((1, 2, 3, 4, 6))
    hidden = heads * rng.choice((32, 64, 96))
    merge = rng.choice((1, 1, 2, 3))
    recipe = PixelRecipe(
        rng.choice((8, 14, 16)),
        temporal=rng.choice((1, 1, 2)),
        merge=merge,
        order="block" if merge > 1 else "raster",
        rule="smart",
    )
    post = rng.random() < 0.8
    chosen = {
        "hidden": hidden,
        "layers": rng.choice((1, 2, 3)),
        "heads": heads,
        "mlp": hidden * rng.choice((1, 2, 4)),
        "pixels": recipe,
        "norm": "rms" if rng.random() < 0.2 else "layer",
        "rope": Rope(rng.choice(("onevision", "rotation"))),
        "patch_bias": rng.random() < 0.5,
        "pre_norm": rng.random() < 0.8,
        "post_norm": post,
        "pool": post and rng.random() < 0.7,
        **cut(rng.choice((None, None, 1, 2))),
        "merger": Merger(merge, rng.choice((64, 200))) if merge > 1 and rng.random() < 0.8 else None,
    }
    return EncoderConfig(**{**chosen, **fixed})


def cut(frames: int | None) -> dict[str, object]:
    """Layers that see so many rows of time, or the whole item for None."""
    return {"spans": ("item",) if frames is None else ("frame",), "span_frames": frames or 1}


def random_grids(rng: random.Random, merge: int, most: int) -> list[Grid]:
    """A few pictures and clips of about `most` rows together, with sides that the merge divides."""
    grids: list[Grid] = []
    while not grids or (sum(g.rows for g in grids) < most and rng.random() < 0.8):
        side = max(1, int((most / rng.choice((1, 2, 4, 8))) ** 0.5 / merge))
        h, w = (merge * max(1, round(side * rng.uniform(0.5, 1.5))) for _ in range(2))
        grids += [Grid(rng.choice((1, 1, 1, 2, 5)), h, w)] * rng.choice((1, 1, 2))
    return grids


def build(config: EncoderConfig, dtype: torch.dtype = torch.float32) -> Encoder:
    """The encoder with small random weights."""
    with torch.device("meta"):
        encoder = Encoder(config)
    encoder.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in encoder.parameters():
            p.normal_(std=0.02, generator=generator)
    return encoder.to(dtype)


def rows_of(config: EncoderConfig, grids: list[Grid]) -> Packed:
    """uint8 rows of whole items, in the recipe's order."""
    items = tuple(Item.of(*g) for g in grids)
    merge = config.pixels.merge if config.pixels.order == "block" else 1
    lengths = tuple(g.rows for g in grids)
    x = torch.randint(0, 256, (sum(lengths), config.pixels.width), dtype=torch.uint8)
    return Packed(x, all_positions(items, merge=merge), items, lengths)


def weights_bytes(encoder: Encoder) -> int:
    return sum(p.numel() * p.element_size() for p in encoder.parameters())


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator had given out at once during `work`, beyond what it had before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = work()
    del result
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def _in_place_product(self: Any, a: Any, b: Any, *args: Any, **options: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


def _fused_product(x: Any, weight: Any, *args: Any, **options: Any) -> int:
    return 2 * x[0] * x[1] * weight[0]


def _attended(query: Any, key: Any, *args: Any, products: int, **options: Any) -> int:
    b, heads, rows, width = query
    return products * 2 * b * heads * rows * key[2] * width


def _attended_back(grad: Any, query: Any, key: Any, *args: Any, **options: Any) -> int:
    return _attended(query, key, products=5)  # scores once more, and the gradients of scores, v, q and k


def flop_counter() -> FlopCounterMode:
    """torch's counter with entries for what some of its releases do not know: products in place and oneDNN's, which
    none does, and attention on a CPU, which those before 2.15 do not."""
    own = {
        torch.ops.aten.addmm_: _in_place_product,
        torch.ops.mkldnn._linear_pointwise: _fused_product,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: partial(_attended, products=2),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attended_back,
    }
    return FlopCounterMode(display=False, custom_mapping=own)


def counted(work: Callable[[], object]) -> int:
    """FLOPs of `work` by torch's counter."""
    with flop_counter() as counter:
        work()
    return counter.get_total_flops()
