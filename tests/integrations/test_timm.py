"""timm.create_model gives tubelet's encoders, with the interface and the tools that timm's users have."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.integrations.border_models import CONFIGS, PLAIN, random_encoder
from timm.data import resolve_model_data_config
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import tubelet
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, KeyMismatch, NotFinite, ShapeError
from tubelet.families import onevision as ov
from tubelet.families.family import to_theirs
from tubelet.integrations.timm import NAMES, SEED_NAMES
from tubelet.integrations.timm_model import TimmEncoder
from tubelet.pixels.patchify import from_pixels
from tubelet.weights.save import save_encoder

TINY: dict[str, Any] = {"embed_dim": 64, "depth": 3, "num_heads": 2, "patch_size": 4}


def pictures(batch: int = 2, height: int = 18, width: int = 26) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def tiny(name: str = "hf_llava_vit_packing_base_ln", **kwargs: Any) -> Any:
    return timm.create_model(name, **{**TINY, **kwargs}).eval()


# ---- names


def test_all_names_are_timms():
    assert len(SEED_NAMES) == 10
    assert {
        f"hf_llava_vit_{k}{s}_ln" for k in ("", "packing_") for s in ("small", "base", "large", "huge", "giant")
    } == set(SEED_NAMES)
    known = set(timm.list_models())
    assert known >= set(NAMES)
    assert set(NAMES) == {*SEED_NAMES, *ov.VARIANTS, *ov.SOURCES}


@pytest.mark.parametrize("name", SEED_NAMES)
def test_seed_names_are_upstreams_networks(name: str):
    """Sizes that upstream's own factories give, counted on its models."""
    sizes = {"small": 12_716_928, "base": 92_733_696, "large": 315_509_760, "huge": 650_110_720, "giant": 1_162_498_560}
    config = NAMES[name]
    with torch.device("meta"):
        count = sum(p.numel() for p in Encoder(config).parameters())
    want = 662_025_216 if name == "hf_llava_vit_huge_ln" else sizes[name.split("_")[-2]]
    assert count == want
    assert config.pixels.size == 448


def test_a_real_variant_is_created():
    model = timm.create_model("llava_vit_small")
    assert isinstance(model, TimmEncoder)
    assert sum(p.numel() for p in model.parameters()) == 12_716_928
    assert model.pretrained_cfg["architecture"] == "llava_vit_small"
    data = resolve_model_data_config(model)
    assert data["input_size"] == (3, 448, 448)
    assert data["mean"] == model.encoder.pixels.mean
    assert data["std"] == model.encoder.pixels.std
    again = tubelet.untrained("llava_vit_small").state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.encoder.state_dict().items())


# ---- forward


def test_features_and_head_are_the_encoders():
    model, x = tiny(), pictures()
    p = from_pixels(x, model.encoder.pixels)
    with torch.no_grad():
        tokens = model.encoder(p)
        assert torch.equal(model.forward_features(x), tokens.x.view(2, 4 * 6, 64))
        assert torch.equal(model(x), model.encoder.pooled(tokens))
        assert torch.equal(model.forward_head(model.forward_features(x), pre_logits=True), model(x))
        assert model.forward_features(x.unsqueeze(2).repeat(1, 1, 3, 1, 1)).shape == (2, 3 * 4 * 6, 64)


@pytest.mark.parametrize("pool", ["avg", "max", ""])
def test_other_pooling(pool: str):
    model, x = tiny(global_pool=pool), pictures()
    with torch.no_grad():
        tokens = model.forward_features(x)
        want = {"avg": tokens.mean(1), "max": tokens.amax(1), "": tokens}[pool]
        assert torch.equal(model(x), want)


def test_a_classifier():
    model, x = tiny(num_classes=7, drop_rate=0.5), pictures()
    assert model(x).shape == (2, 7)
    assert model.get_classifier() is model.head
    assert model.head_drop.p == 0.5
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.head(model.forward_head(model.forward_features(x), pre_logits=True)))
    model.reset_classifier(0)
    assert isinstance(model.head, nn.Identity)
    assert model(x).shape == (2, 64)
    model.reset_classifier(5, "avg")
    assert (model(x).shape, model.num_classes, model.global_pool) == ((2, 5), 5, "avg")


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_in_block_order_come_back_in_raster_order(name: str):
    config = CONFIGS[name]
    encoder = random_encoder(config)
    model, x = TimmEncoder(encoder), pictures()
    with torch.no_grad():
        tokens = encoder(from_pixels(x, config.pixels))
        first = model.forward_features(x)[0]
        grid = tokens.items[0].grid
        assert len(first) == grid.rows
        for row, place in zip(tokens.unpack()[0], tokens.pos.tolist(), strict=False):
            t, h, w = place
            assert torch.equal(first[(t * grid.h + h) * grid.w + w], row)


# ---- features


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("indices", [None, 2, [0, 2], [-1]])
def test_intermediates(indices: Any, norm: bool):
    model, x = tiny(), pictures()
    with torch.no_grad():
        states = model.encoder.hidden_states(from_pixels(x, model.encoder.pixels))
        final, maps = model.forward_intermediates(x, indices, norm=norm)
        take = list(range(3)) if indices is None else [1, 2] if indices == 2 else [i % 3 for i in indices]
        assert len(maps) == len(take)
        for i, m in zip(take, maps, strict=True):
            want = model.encoder.norm_post(states[i + 1].x) if norm else states[i + 1].x
            assert torch.equal(m, want.view(2, 4, 6, 64).permute(0, 3, 1, 2))
        assert torch.equal(final, model.forward_features(x))
        tokens = model.forward_intermediates(x, indices, norm=norm, output_fmt="NLC", intermediates_only=True)
        assert all(torch.equal(t, m.flatten(2).transpose(1, 2)) for t, m in zip(tokens, maps, strict=True))
        named = model.forward_intermediates(x, indices, norm=norm, output_dict=True)
        assert torch.equal(named["image_features"], final)
        assert torch.equal(named["image_intermediates"][0], maps[0])
        assert torch.equal(model.get_intermediate_layers(x, take, reshape=True, norm=norm)[-1], maps[-1])


@pytest.mark.parametrize("indices", [0, 4, [3], [-4], []])
def test_layers_that_there_are_not(indices: Any):
    with pytest.raises(ShapeError):
        tiny().forward_intermediates(pictures(), indices)


def test_stopping_early_runs_no_layer_more():
    model, x = tiny(), pictures()
    ran: list[int] = []
    for i, layer in enumerate(model.encoder.layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    with torch.no_grad():
        early = model.forward_intermediates(x, [0, 1], stop_early=True, intermediates_only=True)
        assert ran == [0, 1]
        full = model.forward_intermediates(x, [0, 1], intermediates_only=True)
        assert ran == [0, 1, 0, 1]  # nothing asked for the last one
        final, _ = model.forward_intermediates(x, [0, 1], stop_early=True)
        assert torch.equal(final, model.encoder.norm_post(full[1].flatten(2).transpose(1, 2)))
        model.forward_intermediates(x, [0, 1])
        assert ran == [0, 1] * 4 + [2]
    assert all(torch.equal(a, b) for a, b in zip(early, full, strict=True))


def test_clips_give_maps_with_time():
    model = tiny()
    clip = pictures().unsqueeze(2).repeat(1, 1, 3, 1, 1)
    with torch.no_grad():
        assert model.forward_intermediates(clip, 1, intermediates_only=True)[0].shape == (2, 64, 3, 4, 6)


def test_features_only():
    whole, x = tiny(), pictures()
    model = tiny(features_only=True, out_indices=(0, 1))
    assert model.feature_info.channels() == [64, 64]
    assert model.feature_info.reduction() == [4, 4]
    with torch.no_grad():
        maps = model(x)
        want = whole.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert [m.shape for m in maps] == [(2, 64, 4, 6)] * 2
    assert all(torch.equal(a, b) for a, b in zip(maps, want, strict=True))
    assert len(model.model.encoder.layers) == 2  # what is not needed is gone
    assert not any("pool" in n for n, _ in model.named_parameters())


def test_the_ov2_tower_has_merged_tokens_and_unmerged_maps():
    model = timm.create_model(
        "llava_onevision2", embed_dim=64, depth=1, num_heads=2, patch_size=4, features_only=False
    ).eval()
    with torch.no_grad():
        assert model.forward_features(pictures(1, 24, 36)).shape == (1, 6, 1024)
        assert model.forward_intermediates(pictures(1, 24, 36), 1, intermediates_only=True)[0].shape == (1, 64, 6, 9)
    assert (model.global_pool, model.num_features) == ("avg", 1024)


# ---- arguments


@pytest.mark.parametrize(
    "wrong",
    [
        {"in_chans": 1},
        {"drop_path_rate": 0.1},
        {"qk_norm": True},
        {"global_pool": "token"},
        {"img_size": 2},
        {"pretrained": True},
        {"cache_dir": "x"},
        {"feature_cls": "hook"},
        {"out_indices": [1]},
        {"features_only": True, "num_classes": 3},
        {"embed_dim": 66},
        {"pretrained_cfg": {"nonsense": 1}},
        {"pretrained_cfg": "laion"},
    ],
)
def test_what_cannot_be_honoured_is_an_error(wrong: dict[str, Any]):
    with pytest.raises(ConfigError):
        tiny(**wrong)


def test_arguments_are_honoured():
    model = tiny(img_size=(16, 24), mlp_ratio=2, dtype=torch.bfloat16, drop_path_rate=0.0)
    assert model.encoder.config.mlp == 128
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.pretrained_cfg["input_size"] == (3, 16, 24)
    fixed = tiny(img_size=(16, 24), dynamic_img_size=False)
    assert fixed(pictures(1, 16, 24)).shape == (1, 64)
    with pytest.raises(ShapeError, match="dynamic_img_size"):
        fixed(pictures())
    fixed.set_input_size((18, 26))
    assert fixed(pictures()).shape == (2, 64)
    a, b, c = tiny(), tiny(), tiny(seed=1)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.encoder.patch.weight, c.encoder.patch.weight)


# ---- weights

SHAPE = {"embed_dim": 64, "depth": 3, "num_heads": 2, "patch_size": 4, "mlp_ratio": 1.5}


@pytest.mark.parametrize("fmt", ["standard", "packing"])
@pytest.mark.parametrize("way", ["pretrained", "ckpt_path", "checkpoint_path", "pretrained_cfg", "overlay"])
def test_every_way_to_name_a_checkpoint(way: str, fmt: str, tmp_path: Path):
    encoder = random_encoder()
    folder = save_encoder(encoder, tmp_path / "w", fmt)
    given: dict[str, Any] = {
        "pretrained": {"pretrained": str(folder)},
        "ckpt_path": {"ckpt_path": folder},
        "checkpoint_path": {"checkpoint_path": str(folder / "model.safetensors")},
        "pretrained_cfg": {"pretrained": True, "pretrained_cfg": {"file": str(folder)}},
        "overlay": {"pretrained": True, "pretrained_cfg_overlay": {"file": str(folder)}},
    }[way]
    model = timm.create_model("hf_llava_vit_base_ln", **SHAPE, **given)
    mine = model.encoder.state_dict()
    assert all(torch.equal(v, mine[k]) for k, v in encoder.state_dict().items())


def test_checkpoints_keep_their_eps(tmp_path: Path):
    source = random_encoder()
    folder = save_encoder(source, tmp_path / "w", "packing")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"layer_norm_eps": 1e-06', '"layer_norm_eps": 1e-05'))
    model = timm.create_model("hf_llava_vit_base_ln", **SHAPE, pretrained=str(folder))
    assert model.encoder.config.eps == 1e-5
    theirs = to_theirs(source.state_dict(), ov.FAMILY.formats["source"], source.config)
    save_file({k: v.contiguous() for k, v in theirs.items()}, str(tmp_path / "train.safetensors"))
    for way in ("pretrained", "checkpoint_path"):
        with pytest.raises(ConfigError, match="llava_vit_base_ln"):
            timm.create_model("hf_llava_vit_base_ln", **SHAPE, **{way: str(tmp_path / "train.safetensors")})
        right = timm.create_model("llava_vit_base_ln", **SHAPE, **{way: str(tmp_path / "train.safetensors")})
        assert right.encoder.config.eps == 1e-5
        assert torch.equal(right.encoder.layers[0].qkv.weight, source.layers[0].qkv.weight)


def test_a_checkpoint_of_another_network(tmp_path: Path):
    folder = save_encoder(random_encoder(), tmp_path / "w", "packing")
    with pytest.raises(ConfigError, match="layers"):
        timm.create_model("hf_llava_vit_base_ln", **{**SHAPE, "depth": 2}, pretrained=str(folder))
    with pytest.raises(KeyMismatch):
        timm.create_model(
            "hf_llava_vit_base_ln", **{**SHAPE, "depth": 2}, checkpoint_path=str(folder / "model.safetensors")
        )
    with pytest.raises(ConfigError, match="two checkpoints"):
        timm.create_model("hf_llava_vit_base_ln", **SHAPE, pretrained="a", ckpt_path="b")


def test_state_dicts_are_checked_before_anything_is_loaded(tmp_path: Path):
    model = tiny(num_classes=3, mlp_ratio=1.5)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(state, str(tmp_path / "own.safetensors"))
    again = timm.create_model(
        "hf_llava_vit_base_ln", **SHAPE, num_classes=3, checkpoint_path=str(tmp_path / "own.safetensors")
    )
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())
    before = {k: v.clone() for k, v in again.state_dict().items()}
    short = {k: v + 1 for k, v in state.items() if k != "head.bias"}
    with pytest.raises(KeyMismatch) as caught:
        again.load_state_dict(short)
    assert caught.value.missing == ("head.bias",)
    with pytest.raises(KeyMismatch) as caught:
        again.load_state_dict({**state, "head.weight": torch.zeros(4, 64)})
    assert caught.value.misshaped == (("head.weight", (3, 64), (4, 64)),)
    with pytest.raises(KeyMismatch, match="no format"):
        again.load_state_dict({"resnet.conv1": torch.zeros(1)})
    assert all(torch.equal(v, before[k]) for k, v in again.state_dict().items())


def test_weights_that_are_not_finite(tmp_path: Path):
    encoder = random_encoder()
    encoder.norm_pre.bias.data[0] = torch.nan  # pyright: ignore
    folder = save_encoder(encoder, tmp_path / "w", "packing")
    with pytest.raises(NotFinite):
        timm.create_model("hf_llava_vit_base_ln", **SHAPE, pretrained=str(folder))


# ---- tools of timm


def test_layer_decay_and_checkpointing():
    model = tiny(num_classes=2)
    groups = param_groups_layer_decay(
        model, weight_decay=0.1, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay()
    )
    scales = sorted({g["lr_scale"] for g in groups})
    assert len(scales) == PLAIN.layers + 2
    model.set_grad_checkpointing()
    ran: list[int] = []
    model.encoder.layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    model(pictures()).sum().backward()
    assert len(ran) == 2
