"""The OneVision family as data: sizes, names of tensors, configurations, rules for rows."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, KeyMismatch, ShapeError
from tubelet.families import onevision as ov
from tubelet.families.catalogue import find, read_config, variant_of, write_config
from tubelet.families.family import from_theirs, to_theirs
from tubelet.families.fields import CODE_FIELDS, HARMLESS_FIELDS
from tubelet.families.match import matches
from tubelet.packed import Grid

TINY = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
}

# Counted on the upstream models: (parameters, of which pooling head and layernorm_post).
PARAMETERS = {
    "llava_vit_packing_small": (12_716_928, 1_774_464),
    "llava_vit_packing_base": (92_733_696, 7_087_872),
    "llava_vit_packing_large": (315_509_760, 12_596_224),
    "llava_vit_packing_huge": (650_110_720, 19_677_440),
    "llava_vit_packing_giant": (1_162_498_560, 28_331_520),
    "llava_vit_huge": (662_025_216, None),
}


def meta(config: EncoderConfig) -> Encoder:
    with torch.device("meta"):
        return Encoder(config)


# ---- variants


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_upstreams(name: str):
    whole, head = PARAMETERS[name]
    parameters = {n: p.numel() for n, p in meta(ov.VARIANTS[name]).named_parameters()}
    assert sum(parameters.values()) == whole
    if head is not None:
        assert sum(n for k, n in parameters.items() if k.startswith(("pool.", "norm_post."))) == head


def test_variant_names():
    sizes = ("small", "base", "large", "huge", "giant")
    expected = {f"llava_vit_packing_{s}" for s in sizes} | {f"llava_vit_{s}" for s in sizes} | {"llava_onevision2"}
    assert set(ov.VARIANTS) == expected | {f"ov_encoder_{s}" for s in ("base", "large", "huge")}


@pytest.mark.parametrize("name", [*ov.VARIANTS, *ov.SOURCES])
def test_every_variant_survives_its_own_configuration(name: str):
    config = {**ov.VARIANTS, **ov.SOURCES}[name]
    fmt = ov.FORMAT_OF[name]
    written = json.loads(json.dumps(write_config(config, ov.FAMILY, fmt)))
    assert ov.config_from(written) == config
    assert ov.format_of(written) == fmt
    found = variant_of(config, ov.FAMILY, fmt)
    assert found is not None
    assert {**ov.VARIANTS, **ov.SOURCES}[found].layers == config.layers


def test_standard_huge_is_not_packing_huge():
    a, b = ov.VARIANTS["llava_vit_huge"], ov.VARIANTS["llava_vit_packing_huge"]
    assert (a.layers, a.hidden, a.head_dim) == (27, 1536, 96)
    assert (b.layers, b.hidden, b.head_dim) == (32, 1280, 64)
    assert variant_of(a, ov.FAMILY, "packing") is None


def test_training_models_have_their_own_eps():
    config = ov.SOURCES["llava_vit_large_ln"]
    assert config.eps == 1e-5
    assert config.head_eps == torch.finfo(torch.float32).eps


# ---- names of tensors


@pytest.mark.parametrize("fmt", ov.FORMATS)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_there_and_back_is_exact(fmt: ov.Format, norm: str):
    config = ov.config_from({**TINY, "layer_norm_type": norm, "use_head": True}, fmt)
    state = {k: torch.randn(t.shape) for k, t in meta(config).state_dict().items()}
    lines = ov.FAMILY.formats[fmt]
    theirs = to_theirs(state, lines, config)
    assert formats(theirs) == [fmt]
    back = from_theirs({k: tuple(t.shape) for k, t in state.items()}, lines, config, theirs.__getitem__)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)


def test_names_in_the_four_formats():
    config = ov.config_from({**TINY, "use_head": True, "num_hidden_layers": 1}, "source")
    state = meta(config).state_dict()
    there = {ours: {*to_theirs(state, ov.FAMILY.formats[ours], config)} for ours in ("source", "standard", "packing")}
    assert {f"encoder.layers.0.self_attn.{c}_proj.weight" for c in "qkv"} <= there["standard"]
    assert "encoder.layers.0.self_attn.qkv.weight" in there["packing"]
    assert {"transformer.layers.0.mlp.2.bias", "conv1.weight"} <= there["source"]
    assert all("head.attention.in_proj_weight" in names for names in there.values())
    config = ov.config_from(TINY, "ov2")
    names = to_theirs(meta(config).state_dict(), ov.FAMILY.formats["ov2"], config)
    assert {"merger.mlp.0.weight", "embeddings.patch_embedding.weight"} <= names.keys()
    with pytest.raises(ConfigError, match="merger"):
        to_theirs(meta(config).state_dict(), ov.FAMILY.formats["packing"], config)


def test_convolution_columns_are_channel_row_column():
    config = ov.config_from(TINY, "packing")
    weight = torch.arange(64 * 48.0).view(64, 48)
    kernel = to_theirs({"patch.weight": weight}, ov.FAMILY.formats["packing"], config)["patch_embed.proj.weight"]
    assert kernel.shape == (64, 3, 4, 4)
    assert kernel[1, 2, 3, 0] == weight[1, 2 * 16 + 3 * 4 + 0]


def formats(names: Iterable[str]) -> list[str]:
    return [match.format for match in matches((ov.FAMILY,), list(names))]


def test_wrappers_towers_and_rope_buffers_are_taken_by_rule():
    (match, *_) = matches(
        (ov.FAMILY,),
        [
            "module.model.visual.encoder._orig_mod.layers.0.layer_norm1.weight",
            "module.model.visual.video_rope.inv_freq_t",
            "module.model.language_model.layers.0.self_attn.q_proj.weight",
            "module.lm_head.weight",
        ],
    )
    assert match.prefix == "model.visual."
    assert list(match.named) == ["encoder.layers.0.layer_norm1.weight"]
    assert len(match.ignored) == 3
    keys = ["_orig_mod.module.conv1.weight", "rotary_emb.inv_freq_h", "video_rope.inv_freq_w"]
    (match,) = matches((ov.FAMILY,), keys)
    assert list(match.named) == ["conv1.weight"]
    assert len(match.ignored) == 2


def test_two_keys_for_one_tensor_are_refused():
    with pytest.raises(KeyMismatch) as caught:
        matches((ov.FAMILY,), ["conv1.weight", "module.conv1.weight"])
    assert set(caught.value.unexpected) == {"conv1.weight", "module.conv1.weight"}


@pytest.mark.parametrize("fmt", ov.FORMATS)
def test_the_format_is_found_with_any_one_tensor_missing(fmt: ov.Format):
    config = ov.config_from({**TINY, "use_head": True}, fmt)
    names = list(to_theirs(meta(config).state_dict(), ov.FAMILY.formats[fmt], config))
    for missing in names:
        assert formats(n for n in names if n != missing)[0] == fmt


def test_foreign_tensors_belong_to_no_family():
    with pytest.raises(ConfigError, match="no family"):
        find(None, ["stages.0.conv.weight", "head.fc.weight"])


def test_the_configuration_decides_between_equal_names():
    names = ["encoder.layers.0.self_attn.qkv.weight", "encoder.layers.0.layer_norm1.weight"]
    assert set(formats(names)) == {"packing", "ov2"}
    assert find({"model_type": "llava_vit_packing"}, names)[0].format == "packing"
    assert find({"model_type": "onevision_encoder", "out_hidden_size": 8}, names)[0].format == "ov2"
    whole = {"model_type": "llava_onevision2", "vision_config": {"model_type": "onevision_encoder"}}
    assert find(whole, names)[0].format == "ov2"


# ---- configurations


def test_absent_fields_have_upstreams_defaults():
    packing = ov.config_from({"model_type": "llava_vit_packing"})
    assert packing == ov.VARIANTS["llava_vit_packing_base"]
    head = ov.config_from({"model_type": "onevision_encoder"})
    assert (head.layers, head.hidden, head.pixels.patch) == (24, 1024, 14)
    whole = {"model_type": "llava_onevision2", "vision_config": {}, "text_config": {"hidden_size": 7}}
    ov2 = read_config(whole, ov.FAMILY, "ov2")
    assert ov2 == ov.VARIANTS["llava_onevision2"]
    assert ov.config_from({}, "source").eps == 1e-5
    assert ov.config_from({"layer_norm_type": "rms_norm"}, "source") == ov.SOURCES["llava_vit_base_rms"]


def test_frame_windows_of_zero_mean_the_whole_clip():
    assert ov.config_from({**TINY, "frame_windows_size": 0}, "ov2").spans == ("item",)
    two = ov.config_from({**TINY, "frame_windows_size": 2}, "ov2")
    assert (two.spans, two.span_frames) == (("frame",), 2)


@pytest.mark.parametrize("name", sorted(CODE_FIELDS))
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_fields_that_name_code_are_refused_by_name(name: str, depth: int):
    config = {name: False}
    for _ in range(depth):
        config = {"text_config": [config]}
    base = {"model_type": "llava_onevision2", "vision_config": {}, **config}
    with pytest.raises(ConfigError, match=name):
        read_config(base, ov.FAMILY, "ov2")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", -64),
        ("hidden_size", 0),
        ("hidden_size", 65),
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("hidden_size", True),
        ("hidden_size", None),
        ("hidden_size", 10**30),
        ("hidden_size", [64]),
        ("num_attention_heads", 3),
        ("num_attention_heads", 4),
        ("num_hidden_layers", 10**6),
        ("patch_size", [4, 4]),
        ("num_channels", 4),
        ("temporal_patch_size", 2),
        ("spatial_merge_size", 2),
        ("hidden_act", "quick_gelu"),
        ("hidden_act", {"a": 1}),
        ("layer_norm_type", "batch_norm"),
        ("layer_norm_eps", -1e-6),
        ("layer_norm_eps", math.nan),
        ("layer_norm_eps", math.inf),
        ("layer_norm_eps", "1e-6"),
        ("rope_theta", 0),
        ("rope_theta", -1.0),
        ("rope_theta", 10**400),
        ("use_head", 1),
        ("use_head", "yes"),
        ("quantization_config", {}),
        ("__class__", "os.system"),
    ],
    ids=str,
)
def test_bad_values_are_config_errors(field: str, value: object):
    with pytest.raises(ConfigError):
        ov.config_from({"model_type": "llava_vit_packing", **TINY, field: value})


@pytest.mark.parametrize("kind", ["qwen2_vl", 7, ["llava_vit"], ""])
def test_other_model_types_are_refused(kind: object):
    with pytest.raises(ConfigError, match="model_type"):
        ov.config_from({"model_type": kind, **TINY})


def test_a_configuration_for_other_tensors_is_refused():
    with pytest.raises(ConfigError, match="packing"):
        ov.config_from({"model_type": "llava_vit_packing", **TINY}, "standard")
    with pytest.raises(ConfigError, match="vision_config"):
        read_config({"model_type": "llava_onevision2", "vision_config": 3}, ov.FAMILY, "ov2")
    with pytest.raises(ConfigError, match="model_type"):
        ov.config_from(TINY)


def test_harmless_fields_change_nothing():
    noise = dict.fromkeys(HARMLESS_FIELDS - {"model_type"}, "anything")
    assert ov.config_from({"model_type": "llava_vit", **TINY, **noise}) == ov.config_from(TINY, "standard")


FIELDS = st.sampled_from(sorted(ov.config_to(ov.VARIANTS["llava_onevision2"], "ov2"))) | st.text(max_size=8)
VALUES = st.none() | st.booleans() | st.integers(-2, 2000) | st.integers() | st.floats() | st.sampled_from(["gelu", ""])


@given(st.dictionaries(FIELDS, VALUES, max_size=4), st.sampled_from(ov.FORMATS))
def test_any_flat_dict_is_read_or_refused(extra: dict[str, object], fmt: ov.Format):
    try:
        config = ov.config_from(extra, fmt)
    except ConfigError:
        return
    assert isinstance(config, EncoderConfig)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"spans": ("frame",), "span_frames": 4}, "spans"),
        ({"pool": False}, "post_norm"),
        ({"patch_bias": True}, "patch_bias"),
        ({"pre_norm": False}, "pre_norm"),
    ],
    ids=str,
)
def test_what_a_format_cannot_say_is_not_written(change: dict[str, object], word: str):
    config = replace(ov.config_from(TINY, "packing"), **change)
    with pytest.raises(ConfigError, match=word):
        write_config(config, ov.FAMILY, "packing")


def test_a_written_configuration_keeps_the_sources_eps():
    source = ov.config_from(TINY, "source")
    for fmt in ov.FORMATS:
        written = ov.config_to(source, fmt)
        assert written["layer_norm_eps"] == 1e-5
        assert written["head_norm_eps"] == torch.finfo(torch.float32).eps
        again = ov.config_from(written, fmt)
        assert (again.eps, again.head_eps) == (source.eps, source.head_eps)


def test_upstreams_processor_is_there_by_name():
    recipe = ov.clip_processor(ov.VARIANTS["ov_encoder_large"])
    assert (recipe.rule, recipe.size, recipe.patch) == ("shortest_crop", 224, 14)


# ---- which rows batch models see

GRID = Grid(4, 3, 5)


def test_standard_indices_choose_rows():
    rows = torch.tensor([59, 0, 16])
    seen = ov.standard_visible(GRID, rows)
    assert seen.rows is not None
    assert seen.rows.tolist() == [59, 0, 16]
    assert seen.positions.tolist() == [[3, 2, 4], [0, 0, 0], [1, 0, 1]]
    assert ov.standard_visible(GRID, None).rows is None


def test_head_takes_as_many_indices_as_rows_for_places():
    permutation = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    seen = ov.head_visible(GRID, permutation)
    assert seen.rows is None
    assert seen.positions[0].tolist() == ov.unravel(permutation, 3, 5)[0].tolist()
    far = ov.head_visible(GRID, permutation + 15 * 60)
    assert int(far.positions[:, 0].min()) == 60


def test_head_gathers_fewer_indices():
    seen = ov.head_visible(GRID, torch.tensor([16, 17]))
    assert seen.rows is not None
    assert seen.positions.tolist() == [[1, 0, 1], [1, 0, 2]]
    placed = ov.head_visible(GRID, torch.tensor([16, 17]), torch.tensor([[9, 9, 9], [8, 8, 8]]))
    assert placed.positions.tolist() == [[9, 9, 9], [8, 8, 8]]
    with pytest.raises(ShapeError):
        ov.head_visible(GRID, torch.tensor([60]))
    with pytest.raises(ShapeError, match="positions"):
        ov.head_visible(GRID, torch.tensor([16, 17]), torch.zeros(3, 3))


@given(st.integers(-1, 40), st.integers(0, 10_000))
def test_residual_topk_is_a_sort(keep: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    residual = torch.randint(-3, 4, (2, 1, 3, 4, 6), generator=generator).float()
    indices, mask, restore = ov.mask_by_residual_topk(residual, keep, 2)
    for b in range(2):
        scores = [
            float(residual[b, 0, t, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].abs().sum())
            for t in range(3)
            for h in range(2)
            for w in range(3)
        ]
        best = sorted(range(18), key=lambda i: (-scores[i], i))[: max(0, min(keep, 18))]
        assert indices[b].tolist() == sorted(best)
        assert mask[b].nonzero().flatten().tolist() == sorted(best)
        hidden = [i for i in range(18) if i not in best]
        assert [restore[b].tolist().index(i) for i in range(18)] == sorted(best) + hidden


def test_residuals_must_fill_patches():
    with pytest.raises(ShapeError):
        ov.mask_by_residual_topk(torch.zeros(1, 1, 2, 5, 4), 3, 2)
    with pytest.raises(ShapeError):
        ov.mask_by_residual_topk(torch.zeros(1, 2, 4, 4), 3, 2)
