"""Attention received: against the softmax of the whole matrix, and against transformers' attention of one layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tests.encoder.encoder_cases import make, make_merging, make_pack
from torch import Tensor

import tubelet
from tubelet import load_encoder
from tubelet.encoder.attention import Segments
from tubelet.encoder.attention_scores import Queries, attention_scores, received
from tubelet.encoder.layers import Layer
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.packed import Item, Packed, pack


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patches(encoder: Encoder, *grids: tuple[int, int, int]) -> Packed:
    items = [Item.of(*grid) for grid in grids]
    return pack([values(i.grid.rows, encoder.pixels.width, seed=n) for n, i in enumerate(items)], items)


@pytest.mark.parametrize("first", [False, True])
def test_received_is_the_softmax_of_each_segment(first: bool):
    lengths = (3, 700, 1)  # more than one chunk of queries
    q, k = values(704, 2, 4), values(704, 2, 4, seed=1)
    got = received(q, k, Segments(lengths), first=first).split(lengths)
    for rows_q, rows_k, mine in zip(q.split(lengths), k.split(lengths), got, strict=True):
        weights = (torch.einsum("ihk,jhk->hij", rows_q, rows_k) / 2).softmax(dim=2)
        expected = weights[:, 0].mean(dim=0) if first else weights.mean(dim=(0, 1))
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
        assert float(mine.sum()) == pytest.approx(1.0, abs=1e-4)


def test_not_a_number_stays_in_its_segment():
    q, k = values(8, 2, 4), values(8, 2, 4, seed=1)
    q[1] = torch.nan
    got = received(q, k, Segments((4, 4)))
    assert bool(got[:4].isnan().all())
    assert not bool(got[4:].isnan().any())


@pytest.mark.parametrize("layer", [0, 3, -1, -2])
def test_one_run_gives_the_tokens_and_what_the_layer_attends_to(layer: int):
    encoder = tubelet.untrained("llava_vit_packing_small").eval()
    p = patches(encoder, (1, 4, 6), (2, 2, 2))
    got = attention_scores(encoder, p, layer=layer)
    with torch.no_grad():
        torch.testing.assert_close(got.tokens.x, encoder.trunk(p).x)
        block = encoder.layers[layer]
        state = encoder.hidden_states(p, only=[layer % len(encoder.layers)])[0]
        assert isinstance(block, Layer)
        keys = block.qkv(block.norm1(state.x)).chunk(3, dim=1)[1]
    torch.testing.assert_close(got.keys, keys)
    assert [round(float(rows.sum()), 4) for rows in got.received.split(p.lengths)] == [1.0, 1.0]


def test_a_merged_token_gets_what_its_patches_get():
    """And what the encoder with the same layers and no merger says of the patches is what it is made of."""
    encoder = make_merging()
    alone = make(pixels=encoder.pixels, pool=False)
    alone.load_state_dict({k: v for k, v in encoder.state_dict().items() if not k.startswith("merger.")})
    p = make_pack(((1, 4, 6), (1, 2, 2)), merge=2)
    merged, parts = attention_scores(encoder, p), attention_scores(alone, p)
    with torch.no_grad():
        torch.testing.assert_close(merged.tokens.x, encoder(p).x)
    torch.testing.assert_close(merged.received, parts.received.view(-1, 4).sum(1))
    torch.testing.assert_close(merged.keys, parts.keys.view(-1, 4, parts.keys.shape[1]).mean(1))
    assert [round(float(rows.sum()), 4) for rows in merged.received.split(merged.tokens.lengths)] == [1.0, 1.0]


def test_items_do_not_depend_on_each_other():
    encoder = tubelet.untrained("llava_vit_packing_small").eval()
    p = patches(encoder, (1, 4, 6), (1, 2, 2))
    together = attention_scores(encoder, p)
    alone = attention_scores(encoder, p.reorder([1]))
    torch.testing.assert_close(together.received[24:], alone.received, rtol=1e-4, atol=1e-6)


def in_rows(pixels: Tensor, patch: int) -> Packed:
    """(3, H, W) normalised pixels as a pack of one picture."""
    h, w = pixels.shape[1] // patch, pixels.shape[2] // patch
    rows = pixels.view(3, h, patch, w, patch).permute(1, 3, 0, 2, 4).reshape(h * w, -1)
    return pack([rows], [Item.of(1, h, w)])


WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize("queries", ["first", "all"])
def test_attention_and_keys_are_those_of_transformers_clip(tmp_path: Path, queries: Queries):
    """Of the last layer but one, from the class token, which VisionZip and PruMerge go by."""
    torch.manual_seed(0)
    model = hf.CLIPVisionModel(hf.CLIPVisionConfig(**WIDTHS)).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    model.save_pretrained(tmp_path)
    pixels, found = values(3, 32, 32), {}
    block = model.get_submodule("encoder.layers.2.self_attn.k_proj")
    block.register_forward_hook(lambda module, args, out: found.update(keys=out[0]))
    with torch.no_grad():
        weights = model(pixel_values=pixels[None], output_attentions=True).attentions[2][0]
    got = attention_scores(load_encoder(tmp_path), in_rows(pixels, 8), layer=-2, queries=queries)
    expected = weights[:, 0] if queries == "first" else weights.mean(dim=1)
    torch.testing.assert_close(got.received, expected.mean(dim=0)[1:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got.keys, found["keys"][1:], rtol=1e-4, atol=1e-4)
    assert float(got.received.max()) > 1.05 * float(got.received.min())  # not flat, so this compares something


def test_what_an_encoder_cannot_say_is_refused():
    encoder = tubelet.untrained("llava_vit_packing_small")
    p = patches(encoder, (1, 2, 2))
    layers = encoder.config.layers
    for layer in (layers, -layers - 1):
        with pytest.raises(ConfigError, match="layers count"):
            attention_scores(encoder, p, layer=layer)
    with pytest.raises(ConfigError, match="no class token"):
        attention_scores(encoder, p, queries="first")
