"""Angles, axes and rotation against the obvious form and against the classes of transformers."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.golden.upstream.rotary import cos_sin, inverse_frequencies, rotate, select_axes
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from tubelet.errors import InputError, ShapeError


def slow_rotate(x: torch.Tensor, at: torch.Tensor, of_pair: list[int], theta: float) -> torch.Tensor:
    """Pair by pair as complex numbers, in float64. x (B, H, S, K), at (A, B, S)."""
    half = x.shape[-1] // 2
    out = x.double().clone()
    for i, axis in enumerate(of_pair):
        angle = at[axis].double() * theta ** (-i / half)
        turned = torch.complex(x[..., i].double(), x[..., i + half].double()) * torch.polar(
            torch.ones_like(angle), angle
        ).unsqueeze(1)
        out[..., i], out[..., i + half] = turned.real, turned.imag
    return out


@given(st.integers(0, 2**20), st.sampled_from(["chunked", "interleaved"]))
def test_rotation_is_that_of_complex_numbers(seed: int, layout: Any):
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 3, 5, 16, generator=g), torch.randn(2, 1, 5, 16, generator=g)
    at = torch.randint(0, 50, (3, 2, 5), generator=g)
    of_pair = [0, 0, 1, 1, 1, 2, 2, 2] if layout == "chunked" else [0, 1, 2, 0, 1, 2, 0, 0]
    sections = [of_pair.count(axis) for axis in range(3)]
    cos, sin = (select_axes(t, sections, layout) for t in cos_sin(at, 16, 1e4))
    for got, x in zip(rotate(q, k, cos, sin), (q, k), strict=True):
        torch.testing.assert_close(got.double(), slow_rotate(x, at, of_pair, 1e4), atol=2e-5, rtol=0)


def test_tables_are_bit_equal_to_those_of_transformers():
    at = torch.randint(0, 3000, (3, 2, 7), generator=torch.Generator().manual_seed(0))
    x = torch.zeros(1)
    shape: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 1}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config: Any = Qwen2_5_VLTextConfig(**shape, rope_parameters=rope)
    theirs = Qwen2_5_VLRotaryEmbedding(config)(x, at)
    for mine, want in zip(cos_sin(at, 128, 1e6), theirs, strict=True):
        chosen = select_axes(mine, [16, 24, 24], "chunked")
        parts = want.split([16, 24, 24] * 2, dim=-1) if want.ndim == 4 else None
        whole = want if parts is None else torch.cat([part[i % 3] for i, part in enumerate(parts)], dim=-1)
        assert torch.equal(chosen, whole)
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    theirs = Qwen3VLTextRotaryEmbedding(Qwen3VLTextConfig(**shape, head_dim=128, rope_parameters=rope))(x, at)
    for mine, want in zip(cos_sin(at, 128, 5e6), theirs, strict=True):
        assert torch.equal(select_axes(mine, [24, 20, 20], "interleaved"), want)


def test_text_is_turned_as_by_one_axis():
    at = torch.arange(6).expand(3, 1, 6)
    cos, sin = cos_sin(at, 8, 1e4)
    for layout in ("chunked", "interleaved"):
        assert torch.equal(select_axes(cos, [2, 1, 1], layout), cos[0])
        assert torch.equal(select_axes(sin, [2, 1, 1], layout), sin[0])


def test_queries_keep_their_type():
    cos, sin = (select_axes(t, [2, 1, 1], "chunked") for t in cos_sin(torch.zeros(3, 1, 2).long(), 8, 1e4))
    q = torch.randn(1, 2, 2, 8, dtype=torch.bfloat16)
    assert torch.equal(rotate(q, q, cos, sin)[0], q)


@pytest.mark.usefixtures("as_in_production")
def test_sections_that_do_not_fit():
    table = cos_sin(torch.zeros(3, 1, 1), 8, 1e4)[0]
    for sections in ([2, 1], [2, 1, 2], [5, -2, 1]):
        with pytest.raises(ShapeError, match="3 sections that add up to 4"):
            select_axes(table, sections, "chunked")
    with pytest.raises(ShapeError, match="do not fit"):
        select_axes(table, [1, 3, 0], "interleaved")
    with pytest.raises(InputError, match="layout"):
        select_axes(table, [2, 1, 1], "striped")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match="even"):
        inverse_frequencies(7, 1e4)
