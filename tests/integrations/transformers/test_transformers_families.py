"""Encoders of every family through transformers' own saving and loading: nothing is lost, nothing changes."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families.parity import random_rows
from tests.integrations.border_models import PLAIN
from tests.weights.whole_models import small, tensors_of
from transformers import AutoConfig, AutoModel

from tubelet.encoder.config import EncoderConfig, Head, Merger, Rope, Table
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.families.catalogue import families, variants
from tubelet.families.family import Family
from tubelet.integrations.transformers.model import TubeletConfig, TubeletModel
from tubelet.pixels.recipe import PixelRecipe

every_family = pytest.mark.parametrize("family", families(), ids=lambda f: f.name)
GRIDS = [(1, 4, 6), (2, 2, 4), (1, 6, 2)]
BLOCK = PixelRecipe(4, "smart_compat", merge=2, order="block", min_pixels=64, max_pixels=4096)
WINDOWS: dict[str, Any] = {"pixels": BLOCK, "spans": ("window", "frame", "frame"), "span_side": 4}
FIRST: dict[str, Any] = {"prefix": 2, "head": Head("first")}
OPTIONS: list[dict[str, Any]] = [
    {"act": "quick_gelu"},
    {"act": "silu", "gated": True},
    {"rope": None},
    {"rope": Rope("rotation", 100.0, (0, 1, 1), (0.0, 0.0, 0.5), "halves", "centred")},
    {"table": Table(3, 5, "corners")},
    {"table": Table(3, 5, "buckets")},
    {"table": Table(2, 2, "bilinear_antialias", prefix=True), **FIRST},
    {"table": Table(1, 1, "sincos"), "rope": None},
    {**FIRST, "post_norm": "pooled", "prefix_angles": True, "rope": Rope("rotation")},
    {"head": Head("query", bias=False)},
    {"head": Head("probe", norm="layer"), "head_eps": 1e-3},
    {"qkv_bias": False},
    {"key_bias": False, "proj_bias": False},
    {"mlp_bias": False, "embed_norm": True, "scale": True},
    {"pool": False, "post_norm": False, "pre_norm": False, "patch_bias": True},
    {"spans": ("frame",), "span_frames": 2, "norm": "rms", "eps": 1e-4},
    {
        "pixels": BLOCK,
        "spans": ("window", "frame", "frame"),
        "span_side": 4,
        "pool": False,
        "merger": Merger(2, 40, 1e-4, "rms", joined=True),
    },
    {
        "pixels": BLOCK,
        "spans": ("window",),
        "span_side": 4,
        "deepstack": (0, 2),
        "deepstack_merger": Merger(2, 40, joined=True),
    },
    {"spans": ("frame", "scene"), "prefix": 5, "prefix_per": "frame", "prefix_first": True, "qk_norm": "layer"},
    {"qk_norm": "rms", "qk_eps": 1e-5, "rope": Rope("rotation", split=(0, 1, 1), origin=1)},
    {"pixels": BLOCK, "deepstack": (1,), "deepstack_merger": Merger(2, 40, 1e-5, "rms")},
]


def through_json(config: EncoderConfig) -> EncoderConfig:
    return TubeletConfig.from_dict(json.loads(TubeletConfig.of(config).to_json_string())).encoder_config()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: ", ".join(o))
def test_every_option_survives_a_file_of_plain_values(option: dict[str, Any]):
    config = replace(PLAIN, **option)
    assert through_json(config) == config


def test_the_options_are_all_there_are():
    """A field added to any of these classes needs a case above, but `embed`: rows that are features are no pixels."""
    tried: dict[type, set[str]] = {kind: set() for kind in (EncoderConfig, Rope, Table, Head, Merger)}
    always = {
        EncoderConfig: {"hidden", "layers", "heads", "mlp"},
        Merger: {"merge", "out"},
        Table: {"height", "width", "resize"},
    }
    for option in OPTIONS:
        config = replace(PLAIN, **option)
        parts = [config, config.rope, config.table, config.head, config.merger, config.deepstack_merger]
        for part in (p for p in parts if p is not None):
            tried[type(part)] |= always.get(type(part), set())
            tried[type(part)] |= {f.name for f in fields(part) if getattr(part, f.name) != f.default}
    assert tried == {kind: {f.name for f in fields(kind)} - {"embed"} for kind in tried}


@pytest.mark.parametrize("name", variants())
def test_published_networks_survive_a_file_of_plain_values(name: str):
    config = variants()[name][1]
    assert through_json(config) == config


@every_family
def test_saved_and_loaded_is_the_same_encoder(family: Family, tmp_path: Path):
    encoder, _ = tensors_of(family, small(family))
    TubeletModel.from_encoder(encoder).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).encoder_config() == encoder.config
    model = AutoModel.from_pretrained(tmp_path)
    assert model.encoder.config == encoder.config
    p = random_rows(GRIDS, encoder.config)
    with torch.no_grad():
        out = model(p.x, torch.tensor(GRIDS), output_hidden_states=True)
        want = encoder.features(p, only=range(encoder.config.layers + 1))
    assert torch.equal(out.last_hidden_state, want.tokens.x)
    assert [torch.equal(a, b.x) for a, b in zip(out.hidden_states, want.hidden, strict=True)] == [True] * 2
    for ours, theirs in ((out.pooler_output, want.pooled), (out.prefix_states, want.prefix)):
        assert (ours is None) == (theirs is None)
        assert theirs is None or torch.equal(ours, theirs)
    deep = out.deepstack_features or ()
    assert [torch.equal(a, b.x) for a, b in zip(deep, want.deepstack, strict=True)] == [True] * len(want.deepstack)


def test_the_families_show_every_output():
    encoders = {f.name: small(f) for f in families()}
    with torch.device("meta"):
        assert {n for n, c in encoders.items() if Encoder(c).can_pool and c.head.kind == "first"} >= {"clip", "mlcd"}
    assert [n for n, c in encoders.items() if c.deepstack] == ["qwen3_vl"]


@every_family
def test_a_new_model_has_start_values(family: Family):
    """torch.empty may hold anything: equal seeds give equal weights only where every tensor is drawn."""
    states = []
    for fill in (1e30, -7.0):
        junk = [torch.full((1 << k,), fill) for k in range(4, 18)]  # what freed memory holds
        del junk
        torch.manual_seed(3)
        states.append(AutoModel.from_config(TubeletConfig.of(small(family))).encoder.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
        assert float(tensor.abs().max()) < 10, name
        if name.endswith(("scale1", "scale2")):
            assert bool((tensor == 1).all())


def test_a_file_from_before_these_options_still_loads():
    old = {
        "model_type": "tubelet", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 96, "num_channels": 3, "hidden_act": "gelu_pytorch_tanh", "layer_norm_type": "rms_norm",
        "layer_norm_eps": 1e-3, "head_norm_eps": 1e-2, "rope_mode": "onevision", "rope_theta": 10000.0,
        "rope_split": [4, 6, 6], "patch_bias": False, "use_pre_norm": True, "use_post_norm": True, "use_head": True,
        "window_frames": None, "out_hidden_size": None, "merger_norm_eps": 1e-6, "initializer_range": 0.02,
        "patch_size": 4, "image_size": 16, "untrained": True,
    }  # fmt: skip
    want = EncoderConfig(64, 2, 2, 96, PixelRecipe(4, size=16), "rms", 1e-3, 1e-2, "gelu_tanh")
    assert TubeletConfig.from_dict(old).encoder_config() == want


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"window_frames": 2}, {"spans": ("frame",), "span_frames": 2, "prefix_per": "frame"}),
        ({"window_frames": None}, {}),
        ({"window_frames": 1, "num_prefix_tokens": 2}, {"spans": ("frame",), "prefix": 2, "prefix_per": "frame"}),
        ({"window_side": 4}, {"spans": ("window",), "span_side": 4}),
        (
            {"window_frames": 1, "window_side": 4, "full_layers": [1, 3], "num_hidden_layers": 4},
            {"layers": 4, "spans": ("window", "frame"), "span_side": 4, "prefix_per": "frame"},
        ),
    ],
    ids=str,
)
def test_files_from_before_layers_named_their_span_still_load(old: dict[str, Any], new: dict[str, Any]):
    fields = TubeletConfig.of(PLAIN).to_dict()
    for name in ("layer_spans", "span_frames", "span_side", "prefix_per"):
        fields.pop(name)
    assert TubeletConfig.from_dict({**fields, **old}).encoder_config() == replace(PLAIN, **new)


def test_a_file_of_both_times_is_refused():
    with pytest.raises(ConfigError, match="says what layer_spans says"):
        TubeletConfig(layer_spans=["frame"], window_frames=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_rope", 1),
        ("rope_shift", [0.0, 0.5]),
        ("rope_shift", [0.0, 0.5, "0"]),
        ("rope_layout", "thirds"),
        ("rope_places", "random"),
        ("table_size", [4]),
        ("table_size", [4, 4, 4]),
        ("table_size", 4),
        ("table_resize", "nearest"),
        ("num_prefix_tokens", "1"),
        ("layer_spans", ["frame", "film"]),
        ("layer_spans", "frame"),
        ("span_frames", 0),
        ("prefix_per", "row"),
        ("qk_norm_type", "batch"),
        ("window_frames", 0),
        ("full_layers", [0, True]),
        ("full_layers", 3),
        ("window_side", 2.0),
        ("head_type", "mean"),
        ("head_norm_type", "batch"),
        ("deepstack_layers", ["0"]),
        ("deepstack_layers", [0]),
        ("merger_norm_type", 3),
        ("qkv_bias", None),
    ],
)
def test_the_new_fields_are_checked(field: str, value: Any):
    with pytest.raises(ConfigError):
        TubeletConfig(**{field: value})
