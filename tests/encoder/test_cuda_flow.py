"""The CUDA path without a GPU: fake CUDA tensors know shapes, types and devices, and refuse to give a value away.

What the kernel computes is not tested here (that needs the hardware), only that everything around it stays on the
device, waits for nothing, and hands the kernel what it asks for.
"""

import pytest
import torch
from tests.encoder.encoder_cases import make, make_merging, make_pack
from tests.encoder.test_options import OPTIONS, build, pack_for
from tests.encoder.test_spans import SPANS, build_spans, pack_spans, scenes_for
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from tubelet.encoder import attention
from tubelet.encoder.layout import layout_of
from tubelet.encoder.model import Encoder
from tubelet.packed import Packed

CUDA = torch.device("cuda", 0)


def on_fake_cuda(encoder: Encoder, dtype: torch.dtype) -> Encoder:
    moved = Encoder(encoder.config)
    state = {k: torch.empty(v.shape, dtype=dtype, device=CUDA) for k, v in encoder.state_dict().items()}
    moved.load_state_dict(state, assign=True)
    return moved


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("pixels", [torch.uint8, torch.bfloat16])
def test_forward_stays_on_the_device(
    merge: int, grad: bool, pixels: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_pack(((3, 2 * merge, merge), (1, merge, merge)), merge=merge)
    asked: list[tuple] = []

    def kernel(q, k, v, cu_q, cu_k, longest_q, longest_k):
        assert {x.device for x in (q, k, v, cu_q, cu_k)} == {CUDA}
        assert q.dtype == torch.bfloat16
        asked.append((tuple(q.shape), tuple(cu_q.shape), cu_q.dtype, longest_q, longest_k))
        return torch.empty_like(q)

    monkeypatch.setattr(attention, "_torch_varlen", lambda: kernel)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # fake tensors cannot be pinned
    with FakeTensorMode(allow_non_fake_inputs=True), torch.set_grad_enabled(grad):
        encoder = on_fake_cuda(make() if merge == 1 else make_merging(merge), torch.bfloat16)
        x = torch.empty(host.x.shape, dtype=pixels, device=CUDA)
        p = Packed(x, torch.empty(host.pos.shape, dtype=torch.int32, device=CUDA), host.items, host.lengths)
        tokens = encoder(p)
        assert (tokens.device, tokens.dtype) == (CUDA, torch.bfloat16)
        assert tokens.x.shape == (len(host.x) // merge**2, encoder.config.out)
        if encoder.pool is not None:
            assert encoder.pooled(tokens).shape == (2, 64)
        assert len(encoder.hidden_states(p)) == 4
        with pytest.raises(DataDependentOutputException):  # this is what a wait would look like
            tokens.x.sum().item()
    rows, longest = len(host.x), max(host.lengths)
    assert set(asked) == {((rows, 2, 32), (3,), torch.int32, longest, longest)}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("grad", [False, True])
def test_every_option_stays_on_the_device(name: str, grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    longest: list[int] = []

    def kernel(q, k, v, cu_q, cu_k, longest_q, longest_k):
        assert {x.device for x in (q, k, v, cu_q, cu_k)} == {CUDA}
        longest.append(longest_q)
        return torch.empty_like(q)

    monkeypatch.setattr(attention, "_torch_varlen", lambda: kernel)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    built = build(name)
    host = pack_for(built)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.set_grad_enabled(grad):
        encoder = on_fake_cuda(built, torch.bfloat16)
        x = torch.empty(host.x.shape, dtype=torch.uint8, device=CUDA)
        p = Packed(x, torch.empty(host.pos.shape, dtype=torch.int32, device=CUDA), host.items, host.lengths)
        got = encoder.features(p, only=(1,))
        parts = [got.tokens.x, got.trunk.x, got.hidden[0].x, *(d.x for d in got.deepstack)]
        parts += [t for t in (got.prefix, got.pooled) if t is not None]
        assert {(t.device, t.dtype) for t in parts} == {(CUDA, torch.bfloat16)}
    frame = max(i.grid.h * i.grid.w for i in host.items)
    windowed = "window" in built.config.spans
    assert longest == [16, frame, 16] if windowed else longest == [frame + built.config.prefix] * 3


@pytest.mark.parametrize("name", SPANS)
def test_every_span_stays_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def kernel(q, k, v, cu_q, cu_k, longest_q, longest_k):
        assert {x.device for x in (q, k, v, cu_q, cu_k)} == {CUDA}
        asked.append(longest_q)
        return torch.empty_like(q)

    monkeypatch.setattr(attention, "_torch_varlen", lambda: kernel)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    built = build_spans(name)
    host, scenes = pack_spans(built), scenes_for(built)
    with FakeTensorMode(allow_non_fake_inputs=True):
        encoder = on_fake_cuda(built, torch.bfloat16)
        x = torch.empty(host.x.shape, dtype=torch.uint8, device=CUDA)
        p = Packed(x, torch.empty(host.pos.shape, dtype=torch.int32, device=CUDA), host.items, host.lengths)
        got = encoder.run(p, only=[(1, 2)], scenes=scenes)
        assert got.rows(p, (1, 2)).x.shape == (len(host.x), 128)
    spans = layout_of(host, built.config, scenes=scenes).spans
    assert asked == [spans[span].longest for span in built.config.layer_spans]
