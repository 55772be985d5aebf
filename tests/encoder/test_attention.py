"""Segments and attention against one dense masked softmax in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.inspect.budget.budget_cases import allocated
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tubelet.encoder import attention
from tubelet.encoder.attention import (
    Segments,
    backends,
    frame_segments,
    item_segments,
    resolve,
    sdpa_into,
    varlen_attention,
)
from tubelet.encoder.attention_op import attention_op
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Item, pack

lengths_of = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def qkv(rows: int, heads: int = 2, k: int = 8, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return list(torch.randn(rows, 3, heads, k, generator=g).unbind(1))


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The slow twin: all T x T scores with a block mask, float64. Only for finite values."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = torch.einsum("qhk,jhk->hqj", q.double(), k.double()) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(owner[:, None] != owner[None, :], -torch.inf)
    return torch.einsum("hqj,jhk->qhk", scores.softmax(-1), v.double()).float()


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_of, seed=st.integers(0, 99))
def test_equals_the_dense_mask(lengths: list[int], seed: int) -> None:
    q, k, v = qkv(sum(lengths), seed=seed)
    out = varlen_attention(q, k, v, Segments(tuple(lengths)))
    torch.testing.assert_close(out, dense(q, k, v, lengths), atol=2e-6, rtol=1e-5)
    into = torch.full_like(q, torch.nan)
    sdpa_into(into, q, k, v, Segments(tuple(lengths)))
    assert torch.equal(into, out)


@settings(max_examples=40, deadline=None)
@given(lengths=lengths_of, flop=st.integers(1, 20_000), rows=st.integers(1, 5), sick=st.integers(0, 7))
def test_pieces_change_nothing(lengths: list[int], flop: int, rows: int, sick: int) -> None:
    q, k, v = qkv(sum(lengths), seed=7)
    segments = Segments(tuple(lengths))
    whole = varlen_attention(q, k, v, segments)
    own = slice(sum(lengths[:sick]), sum(lengths[: sick + 1]))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "PIECE_FLOP", flop)
        patch.setattr(attention, "PIECE_ROWS", rows)
        torch.testing.assert_close(varlen_attention(q, k, v, segments), whole, atol=1e-6, rtol=1e-5)
        for x in (q, k, v):
            x[own] = torch.nan
        out = varlen_attention(q, k, v, segments)
    assert out[own].isnan().all()
    healthy = torch.ones(len(q), dtype=torch.bool)
    healthy[own] = False
    torch.testing.assert_close(out[healthy], whole[healthy], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("lengths", [(80_640,), (256,) * 3_000, (5_000, 5_000, 5_000, 77)])
def test_no_call_is_so_long_that_ctrl_c_waits_for_it(lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are not needed for that: fake rows."""
    calls: list[int] = []
    run = attention.F.scaled_dot_product_attention

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None) -> torch.Tensor:
        calls.append(4 * q.shape[0] * q.shape[2] * k.shape[2] * q.shape[1] * q.shape[3])
        return run(q, k, v)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", counted)
    with torch.no_grad(), FakeTensorMode():
        q, k, v = (torch.empty(sum(lengths), 16, 64) for _ in range(3))
        out = varlen_attention(q, k, v, Segments(lengths), backend="sdpa")
    assert out.shape == q.shape
    assert sum(calls) == sum(4 * n * n * 16 * 64 for n in lengths)
    least = 4 * attention.PIECE_ROWS * max(lengths) * 16 * 64
    assert max(calls) <= max(attention.PIECE_FLOP, least) <= 3e11


def test_short_segments_of_one_length_are_one_call_and_views(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = torch.randn(50 * 4 + 3 * 9, 3, 2, 8)
    batches: list[tuple[int, ...]] = []
    run = attention.F.scaled_dot_product_attention

    def seen(*given: torch.Tensor, scale: float | None = None) -> torch.Tensor:
        assert all(x.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr() for x in given)
        batches.append(tuple(given[0].shape))
        return run(*given)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", seen)
    sdpa_into(torch.empty(len(fused), 2, 8), *fused.unbind(1), Segments((4,) * 50 + (9,) * 3))
    assert batches == [(50, 2, 4, 8), (3, 2, 9, 8)]


def test_memory_grows_with_the_rows_and_not_with_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight heads of 3,000 rows have 288 MB of scores."""
    monkeypatch.setattr(attention, "PIECE_FLOP", 10**9)
    q, k, v = qkv(3_000, heads=8, k=16)
    with torch.no_grad():
        peak = allocated(lambda: varlen_attention(q, k, v, Segments((3_000,)), backend="sdpa"))
    assert q.nbytes <= peak < 2 * q.nbytes + torch.get_num_threads() * 1_000_000, peak


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=6), data=st.data())
def test_a_nan_stays_in_its_segment(lengths: list[int], data: st.DataObject) -> None:
    sick = data.draw(st.integers(0, len(lengths) - 1))
    q, k, v = qkv(sum(lengths))
    clean = varlen_attention(q, k, v, Segments(tuple(lengths)))
    a = sum(lengths[:sick])
    b = a + lengths[sick]
    for x in (q, k, v):
        x[a:b] = torch.nan
    out = varlen_attention(q, k, v, Segments(tuple(lengths)))
    healthy = torch.ones(sum(lengths), dtype=torch.bool)
    healthy[a:b] = False
    assert torch.equal(out[healthy], clean[healthy])
    assert out[a:b].isnan().all()


def test_the_gradient_of_many_segments_writes_each_row_a_few_times() -> None:
    """Not once for every segment, as the gradient of a slice does."""

    class Written(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if not func.is_view:
                self.rows += sum(
                    t.shape[0] for t in (out if isinstance(out, tuple) else (out,)) if t is not None and t.dim() == 3
                )
            return out

    lengths = tuple(range(1, 65))
    leaves = [x.requires_grad_() for x in qkv(sum(lengths))]
    out = varlen_attention(*leaves, Segments(lengths))
    with Written() as written:
        torch.autograd.grad(out.sum(), leaves)
    assert 3 * sum(lengths) <= written.rows <= 12 * sum(lengths)


def test_gradients_equal_the_dense_mask_and_the_operator_agrees() -> None:
    lengths = [3, 3, 1, 5, 3]
    leaves = [x.clone().requires_grad_() for x in qkv(15, seed=3)]
    weight = torch.randn(15, 2, 8, generator=torch.Generator().manual_seed(4))
    expected = torch.autograd.grad((dense(*leaves, lengths) * weight).sum(), leaves)
    segments = Segments(tuple(lengths))
    got = torch.autograd.grad((varlen_attention(*leaves, segments) * weight).sum(), leaves)
    op = torch.autograd.grad((attention_op(*leaves, segments.host)[0] * weight).sum(), leaves)
    for e, g, o in zip(expected, got, op, strict=True):
        torch.testing.assert_close(g, e, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(o, e, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own checker reads it
def test_operator_is_well_formed_for_compilers() -> None:
    q, k, v = (x.clone().requires_grad_() for x in qkv(12, seed=5))
    torch.library.opcheck(attention_op, (q, k, v, Segments((5, 4, 3)).host))


def test_segments_describe_themselves() -> None:
    s = Segments((4, 4, 0, 2, 2, 2, 7))
    assert s.lengths == (4, 4, 2, 2, 2, 7)
    assert s.runs == ((0, 2, 4), (8, 3, 2), (14, 1, 7))
    assert (s.total, s.longest, s.host.tolist()) == (21, 7, [0, 4, 8, 10, 12, 14, 21])
    assert Segments(()).longest == 0


def test_segments_from_a_pack() -> None:
    items = [Item.of(3, 2, 2), Item.of(1, 1, 5)]
    p = pack([torch.zeros(12, 4), torch.zeros(5, 4)], items)
    assert item_segments(p).lengths == (12, 5)
    assert frame_segments(p, 1).lengths == (4, 4, 4, 5)
    assert frame_segments(p, 2).lengths == (8, 4, 5)
    assert frame_segments(p, 99).lengths == (12, 5)
    fewer = p.keep(torch.tensor([0, 5, 6, 11, 12]))
    assert frame_segments(fewer, 1).lengths == (1, 2, 1, 1)
    assert frame_segments(fewer, 2).lengths == (3, 1, 1)
    with pytest.raises(ShapeError, match="order of time") as e:
        frame_segments(p.keep(torch.tensor([5, 0, 12])), 1)
    assert e.value.item == 0
    with pytest.raises(ConfigError, match="at least one row of time"):
        frame_segments(p, 0)


def test_what_cannot_run_is_said() -> None:
    q, k, v = qkv(6)
    with pytest.raises(ShapeError, match="segments sum to 5, q has 6 rows") as e:
        varlen_attention(q, k, v, Segments((2, 3)))
    assert (e.value.expected, e.value.got) == (6, 5)
    with pytest.raises(ShapeError, match="fewer than no rows"):
        Segments((3, -1))
    with pytest.raises(ShapeError, match="int32"):
        Segments((2**31,))
    for backend in ("varlen", "flash"):
        with pytest.raises(ConfigError, match=f"the {backend} backend cannot run"):
            varlen_attention(q, k, v, Segments((6,)), backend=backend)
    assert backends(torch.device("cpu"), torch.float32) == ("sdpa",)
    assert backends(torch.device("cuda"), torch.bfloat16)[0] == "varlen"
    assert resolve("auto", torch.device("cuda"), torch.float32) == "sdpa"
