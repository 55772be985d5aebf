"""The memory of every option, by formula, against what torch's allocator gave out, as tests/test_budget_memory.py."""

from typing import Any

import pytest
import torch
from test_options import BLOCK, OPTIONS

from test_budget_memory import WAYS, hold, ratios
from tubelet.encoder.config import EncoderConfig
from tubelet.grid import Grid
from tubelet.pixels.recipe import PixelRecipe

DTYPES = (torch.float32, torch.bfloat16)
PACKS = (
    [Grid(1, 12, 20), Grid(3, 6, 8), Grid(1, 8, 8)],
    [Grid(1, 16, 16)],
    [Grid(1, 6, 6)] * 8,
    [Grid(8, 8, 6), Grid(1, 4, 10), Grid(1, 10, 4)],
)


def wide(name: str, **changes: Any) -> EncoderConfig:
    """The option at a width of 192: three heads, an MLP of 512, patches of 14."""
    fields = {"hidden": 192, "layers": 3, "heads": 3, "mlp": 512, "window": 1, **OPTIONS[name], **changes}
    block = fields.get("pixels") is BLOCK
    fields["pixels"] = PixelRecipe(14, merge=2, order="block") if block else PixelRecipe(14)
    if fields.get("rope") is None and "rope" not in OPTIONS[name]:
        fields.pop("rope", None)
    return EncoderConfig(**fields)


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_plan_is_never_too_small_and_hardly_too_large(name: str, way: str) -> None:
    hold([ratios(wide(name), list(pack), way, dtype) for dtype in DTYPES for pack in PACKS])
