"""The `tubelet` attention function, alone and inside models of transformers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaConfig, LlamaModel
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from tubelet.errors import ConfigError, ShapeError
from tubelet.integrations.transformers.model import tubelet_attention

LENGTHS = (5, 1, 7, 7)


class Layer(nn.Module):
    is_causal = False
    num_key_value_groups = 1


def qkv(heads: int = 4, kv_heads: int = 4, rows: int = sum(LENGTHS)) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, h, rows, 8, generator=g) for h in (heads, kv_heads, kv_heads))  # pyright: ignore


def cu() -> Tensor:
    return torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)


def by_segment(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    """One softmax after another."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    parts = [
        F.scaled_dot_product_attention(a, b, c, **how)
        for a, b, c in zip(*(x.split(LENGTHS, dim=2) for x in (q, k, v)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


def test_it_is_registered():
    assert AttentionInterface()["tubelet"] is tubelet_attention


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("how", [{}, {"scaling": 0.3}, {"is_causal": True}, {"is_causal": True, "scaling": 0.3}])
def test_segments_see_themselves_alone(kv_heads: int, how: dict[str, Any]):
    q, k, v = qkv(kv_heads=kv_heads)
    out, weights = tubelet_attention(
        Layer(), q, k, v, None, cu_seq_lens_q=cu(), cu_seq_lens_k=cu(), max_length_q=7, max_length_k=7, **how
    )
    want = by_segment(q, k, v, is_causal=how.get("is_causal", False), scale=how.get("scaling"))
    assert weights is None
    torch.testing.assert_close(out, want, atol=1e-6, rtol=1e-5)


def test_nan_stays_in_its_segment():
    q, k, v = qkv()
    k[:, :, 7] = torch.nan
    out, _ = tubelet_attention(Layer(), q, k, v, cu_seqlens=cu())
    bad = out.isnan().any(dim=-1).any(dim=-1)[0]
    assert bad.nonzero().flatten().tolist() == list(range(6, 13))


def test_the_layer_says_whether_it_is_causal():
    q, k, v = qkv()
    layer = Layer()
    layer.is_causal = True
    out, _ = tubelet_attention(layer, q, k, v, cu_seq_lens_q=cu())
    torch.testing.assert_close(out, by_segment(q, k, v, is_causal=True))


def test_gradients_flow():
    q, k, v = (x.requires_grad_() for x in qkv())
    tubelet_attention(Layer(), q, k, v, scaling=0.2, cu_seq_lens_q=cu())[0].square().sum().backward()
    mine = [x.grad.clone() for x in (q, k, v) if x.grad is not None]
    for x in (q, k, v):
        x.grad = None
    by_segment(q, k, v, scale=0.2).square().sum().backward()
    for a, x in zip(mine, (q, k, v), strict=True):
        torch.testing.assert_close(a, x.grad, atol=1e-5, rtol=1e-4)


def test_a_softcap_bends_scores():
    """As transformers' own, segment by segment, on scores that it changes much."""
    q, k, v = (3 * x for x in qkv(kv_heads=2))
    out, _ = tubelet_attention(Layer(), q, k, v, cu_seq_lens_q=cu(), is_causal=True, softcap=2.0, scaling=0.5)
    layer = Layer()
    layer.num_key_value_groups = 2
    parts = []
    for a, b, c in zip(*(x.split(LENGTHS, dim=2) for x in (q, k, v)), strict=True):
        mask = torch.full((a.shape[2], a.shape[2]), -torch.inf).triu(1)[None, None]
        parts.append(eager_attention_forward(layer, a, b, c, mask, scaling=0.5, softcap=2.0)[0])
    torch.testing.assert_close(out, torch.cat(parts, dim=1), atol=1e-5, rtol=1e-5)
    plain, _ = tubelet_attention(Layer(), q, k, v, cu_seq_lens_q=cu(), is_causal=True, scaling=0.5)
    assert float((plain - out).abs().max()) > 0.5


def test_what_it_refuses():
    q, k, v = qkv()
    with pytest.raises(ConfigError, match="mask"):
        tubelet_attention(Layer(), q, k, v, torch.zeros(1, 1, 20, 20), cu_seq_lens_q=cu())
    with pytest.raises(ConfigError, match="softcap"):
        tubelet_attention(Layer(), q, k, v, cu_seq_lens_q=cu(), softcap=2.0)
    with pytest.raises(ConfigError, match="same segments"):
        tubelet_attention(Layer(), q, k, v, cu_seq_lens_q=cu(), cu_seq_lens_k=torch.tensor([0, 20]))
    with pytest.raises(ShapeError, match="20"):
        tubelet_attention(Layer(), q, k, v, cu_seq_lens_q=torch.tensor([0, 5]))
    with pytest.raises(ShapeError, match="one batch"):
        tubelet_attention(Layer(), *(x.expand(2, -1, -1, -1) for x in (q, k, v)), cu_seq_lens_q=cu())


def test_a_vision_model_of_transformers_runs_with_it():
    config = Qwen2_5_VLVisionConfig(
        depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=24, patch_size=4,
        window_size=16, fullatt_block_indexes=[1], spatial_merge_size=2, temporal_patch_size=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    grid = torch.tensor([[1, 4, 6], [2, 2, 4]])
    pixels = torch.randn(int(grid.prod(dim=1).sum()), 3 * 2 * 4 * 4)
    outs = {}
    for name in ("sdpa", "tubelet"):
        model.set_attn_implementation(name)
        assert model.config._attn_implementation == name
        with torch.no_grad():
            outs[name] = model(pixels, grid_thw=grid).last_hidden_state
    torch.testing.assert_close(outs["tubelet"], outs["sdpa"])


def test_a_language_model_with_padding_runs_with_it():
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaModel(config).eval()
    ids = torch.randint(0, 50, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    outs = {}
    for name in ("sdpa", "tubelet"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            outs[name] = model(ids, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(outs["tubelet"], outs["sdpa"])
