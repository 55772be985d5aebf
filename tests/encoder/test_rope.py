"""Rotary positions against a loop that writes the formulas of upstream out, element by element."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.encoder.config import Rope
from tubelet.encoder.rope import angles, apply_rope, apply_rope_, rope_tables
from tubelet.errors import ShapeError


def slow(x: torch.Tensor, places: list[tuple[float, float, float]], rope: Rope) -> torch.Tensor:
    """One channel at a time, in Python floats: y[2i] = x[2i] cos E[2i] - x[2i+1] sin E[2i], and so on."""
    rows, heads, k = x.shape
    unit = k // (2 * sum(rope.split))
    out = torch.empty_like(x)
    for r in range(rows):
        a = [
            places[r][axis] * rope.theta ** (-j / (share * unit))
            for axis, share in enumerate(rope.split)
            for j in range(share * unit)
        ]
        e = a + a if rope.mode == "onevision" else [v for v in a for _ in range(2)]
        for h in range(heads):
            row = x[r, h].tolist()
            for i in range(k // 2):
                even, odd = row[2 * i], row[2 * i + 1]
                out[r, h, 2 * i] = even * math.cos(e[2 * i]) - odd * math.sin(e[2 * i])
                out[r, h, 2 * i + 1] = odd * math.cos(e[2 * i + 1]) + even * math.sin(e[2 * i + 1])
    return out


@pytest.mark.parametrize("mode", ["onevision", "rotation"])
@pytest.mark.parametrize("k", [32, 64, 96])
def test_equals_the_formula(mode: str, k: int) -> None:
    rope = Rope(mode=mode, theta=500.0)  # pyright: ignore[reportArgumentType]
    g = torch.Generator().manual_seed(k)
    x = torch.randn(9, 2, k, generator=g, dtype=torch.float64).float()
    places = [(t, h, w) for t in (0, 3, 63) for h, w in ((0, 0), (5, 2), (1, 7))]
    turn, flip = rope_tables(torch.tensor(places), k, rope)
    expected = slow(x, places, rope)
    torch.testing.assert_close(apply_rope(x, turn, flip), expected, atol=2e-5, rtol=0)
    in_place = x.clone()
    apply_rope_(in_place, turn, flip)
    torch.testing.assert_close(in_place, expected, atol=2e-5, rtol=0)


def test_rotation_keeps_lengths_and_onevision_does_not() -> None:
    x = torch.randn(35, 1, 64, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([(0, h, w) for h in range(5) for w in range(7)])
    ratios = {
        mode: apply_rope(x, *rope_tables(places, 64, Rope(mode=mode))).norm(dim=-1) / x.norm(dim=-1)
        for mode in ("onevision", "rotation")
    }
    torch.testing.assert_close(ratios["rotation"], torch.ones(35, 1), atol=1e-5, rtol=0)
    assert (ratios["onevision"] - 1).abs().max() > 0.03


@settings(max_examples=25, deadline=None)
@given(shift=st.tuples(*[st.integers(0, 40)] * 3), seed=st.integers(0, 999))
def test_rotation_scores_depend_on_differences_only(shift: tuple[int, int, int], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 64, generator=g), torch.randn(2, 1, 64, generator=g)
    places = torch.randint(0, 30, (2, 3), generator=g)
    rope = Rope(mode="rotation")

    def scores(at: torch.Tensor) -> torch.Tensor:
        tables = rope_tables(at, 64, rope)
        return torch.einsum("qhk,jhk->qj", apply_rope(q, *tables), apply_rope(k, *tables))

    torch.testing.assert_close(scores(places), scores(places + torch.tensor(shift)), atol=2e-3, rtol=0)


def test_zero_is_the_identity_and_float_places_interpolate() -> None:
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(1))
    tables = rope_tables(torch.zeros(1, 3, dtype=torch.int32), 32, Rope())
    torch.testing.assert_close(apply_rope(x, *tables), x, atol=0, rtol=0)
    a = angles(torch.tensor([[0.5, 1.25, 2.0]]), 32, Rope())
    torch.testing.assert_close(a, angles(torch.tensor([[2.0, 5.0, 8.0]]), 32, Rope()) / 4)


def test_half_precision_rows_keep_their_type() -> None:
    tables = rope_tables(torch.tensor([[9, 40, 100]]), 64, Rope())
    x = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(2))
    y = apply_rope(x.bfloat16(), *tables)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), apply_rope(x.bfloat16().float(), *tables), atol=0.03, rtol=0.01)


def test_wrong_positions_are_named() -> None:
    with pytest.raises(ShapeError, match=r"\(T, 3\)"):
        rope_tables(torch.zeros(4, 2), 32, Rope())
