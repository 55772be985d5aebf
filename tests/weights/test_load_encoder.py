"""Strict loading: every name and shape, nothing half-loaded, seeded start values."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights.tiny_models import random_encoder, random_state, tiny_config
from torch import Tensor

import tubelet
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, KeyMismatch, NotFinite
from tubelet.families import onevision as ov
from tubelet.families.family import to_theirs
from tubelet.packed import Item, pack
from tubelet.weights.load import initial_state, load_encoder, report_of, untrained
from tubelet.weights.locate import CONFIG, SINGLE
from tubelet.weights.save import save_encoder

IN_LLAVA = "model.vision_tower.vision_tower."  # where checkpoints of LLaVA forks keep the tower


def rewrite(folder: Path, change: dict[str, Tensor | None], rename: dict[str, str] | None = None) -> None:
    """Replace (or with None remove) tensors of a saved model, then rename some."""
    path = folder / SINGLE
    state = {k: v.clone() for k, v in load_file(str(path)).items()}
    for key, value in change.items():
        if value is None:
            del state[key]
        else:
            state[key] = value.contiguous()
    save_file({(rename or {}).get(k, k): v for k, v in state.items()}, str(path))


def same(a: Encoder, b: Encoder) -> bool:
    other = b.state_dict()
    return all(torch.equal(t, other[k]) and t.dtype == other[k].dtype for k, t in a.state_dict().items())


# ---- what loads


def test_saved_encoders_come_back_bit_for_bit(encoder: Encoder, folder: Path, fmt: ov.Format):
    again = load_encoder(folder)
    assert again.config == encoder.config
    assert same(again, encoder)
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    report = report_of(again)
    assert report is not None
    assert (report.family, report.format, report.untrained) == ("onevision", fmt, False)
    assert json.loads(json.dumps(report.as_dict()))["dtype"] == "float32"


def test_the_format_is_found_without_a_configuration(encoder: Encoder, folder: Path, fmt: ov.Format):
    (folder / CONFIG).unlink()
    moved = folder.rename(folder.with_name("llava_vit_packing_standard_ov2"))  # a path says nothing
    assert same(load_encoder(moved, config=encoder.config), encoder)


@pytest.mark.parametrize(
    "prefix", ["module.", "module._orig_mod.", "_orig_mod.", "model.visual.", "module.model.visual.", IN_LLAVA]
)
def test_wrapped_checkpoints(prefix: str, encoder: Encoder, folder: Path):
    state = load_file(str(folder / SINGLE))
    wrapped = {prefix + k: v for k, v in state.items()}
    wrapped[prefix + "video_rope.inv_freq_t"] = torch.full((4,), torch.nan)
    if "visual" in prefix or prefix == IN_LLAVA:
        wrapped["model.language_model.embed_tokens.weight"] = torch.zeros(3, dtype=torch.int64)
    save_file(wrapped, str(folder / SINGLE))
    again = load_encoder(folder)
    assert same(again, encoder)
    report = report_of(again)
    assert report is not None
    assert len(report.ignored) == len(wrapped) - len(state)


def test_a_whole_vision_language_checkpoint(tmp_path: Path):
    config = tiny_config("ov2", use_head=False, spatial_merge_size=2, out_hidden_size=24)
    first = random_encoder(config)
    folder = save_encoder(first, tmp_path / "vlm", "ov2")
    vision = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    whole = {"model_type": "llava_onevision2", "vision_config": vision, "text_config": {"vocab_size": 9}}
    (folder / CONFIG).write_text(json.dumps(whole), encoding="utf-8")
    state = {f"model.visual.{k}": v for k, v in load_file(str(folder / SINGLE)).items()}
    save_file({**state, "lm_head.weight": torch.zeros(2)}, str(folder / SINGLE))
    assert same(load_encoder(folder), first)


def test_dtype_on_request_and_as_stored(packing: Path):
    stored = load_encoder(packing)
    half = load_encoder(packing, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.state_dict()["norm_pre.weight"], stored.state_dict()["norm_pre.weight"].bfloat16())
    rewrite(packing, {k: v.bfloat16() for k, v in load_file(str(packing / SINGLE)).items() if "norm" not in k})
    mixed = load_encoder(packing)
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    with pytest.raises(ConfigError):
        load_encoder(packing, dtype=torch.int64)


def test_loaded_tensors_do_not_depend_on_the_file(packing: Path):
    encoder = load_encoder(packing)
    before = copy.deepcopy(encoder.state_dict())
    path = packing / SINGLE
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


# ---- what does not


def test_all_three_lists_at_once(packing: Path):
    name = "encoder.layers.0.self_attn.qkv.weight"
    weight = load_file(str(packing / SINGLE))[name]
    rewrite(packing, {"layernorm_pre.bias": None, "extra.weight": torch.zeros(2), name: weight.T})
    with pytest.raises(KeyMismatch) as caught:
        load_encoder(packing)
    e = caught.value
    assert e.missing == ("layernorm_pre.bias",)
    assert e.unexpected == ("extra.weight",)
    assert e.misshaped == ((name, (192, 64), (64, 192)),)
    assert all(word in str(e) for word in ("missing", "unexpected", "mis-shaped"))


def test_any_one_missing_tensor_is_named(folder: Path):
    names = list(load_file(str(folder / SINGLE)))
    whole = (folder / SINGLE).read_bytes()
    for name in names:
        (folder / SINGLE).write_bytes(whole)
        rewrite(folder, {name: None})
        with pytest.raises(KeyMismatch) as caught:
            load_encoder(folder)
        assert caught.value.missing == (name,)


def test_renamed_integer_and_deeper_checkpoints(packing: Path):
    whole = (packing / SINGLE).read_bytes()
    rewrite(packing, {}, {"layernorm_pre.weight": "layernorm_before.weight"})
    with pytest.raises(KeyMismatch) as caught:
        load_encoder(packing)
    assert (caught.value.missing, caught.value.unexpected) == (("layernorm_pre.weight",), ("layernorm_before.weight",))
    (packing / SINGLE).write_bytes(whole)
    rewrite(packing, {"layernorm_pre.weight": torch.ones(64, dtype=torch.int32)})
    with pytest.raises(KeyMismatch, match="I32"):
        load_encoder(packing)
    (packing / SINGLE).write_bytes(whole)
    extra = {f"encoder.layers.2.{k}": torch.zeros(1) for k in ("layer_norm1.weight", "mlp.fc1.bias")}
    rewrite(packing, dict(extra))
    with pytest.raises(KeyMismatch) as caught:
        load_encoder(packing)
    assert set(caught.value.unexpected) == set(extra)


def test_allowed_misses_are_an_explicit_list(packing: Path):
    rewrite(packing, {"head.probe": None, "layernorm_pre.bias": None})
    with pytest.raises(KeyMismatch) as caught:
        load_encoder(packing, allow_missing=["head.probe"])
    assert caught.value.missing == ("layernorm_pre.bias",)
    encoder = load_encoder(packing, allow_missing=["head.probe", "layernorm_pre.bias", "not.used"])
    report = report_of(encoder)
    assert report is not None
    assert set(report.initialised) == {"head.probe", "layernorm_pre.bias"}
    assert torch.equal(encoder.state_dict()["pool.probe"], initial_state(encoder.config)["pool.probe"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite(value: float, packing: Path):
    rewrite(packing, {"layernorm_pre.bias": torch.full((64,), value)})
    with pytest.raises(NotFinite, match=r"layernorm_pre\.bias"):
        load_encoder(packing)
    assert not load_encoder(packing, allow_nonfinite=True).state_dict()["norm_pre.bias"].isfinite().any()


def test_overflow_in_the_wanted_type_is_not_silent(packing: Path):
    rewrite(packing, {"layernorm_pre.bias": torch.full((64,), 1e30)})
    with pytest.raises(NotFinite, match="float16"):
        load_encoder(packing, dtype=torch.float16)
    assert load_encoder(packing, dtype=torch.bfloat16).config.layers == 2


def test_a_failed_load_leaves_the_callers_encoder_alone(packing: Path):
    encoder = load_encoder(packing)
    before = copy.deepcopy(encoder.state_dict())
    rewrite(packing, {"layernorm_pre.bias": torch.full((64,), torch.nan), "head.probe": None})
    with pytest.raises(KeyMismatch):
        load_encoder(packing)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_no_configuration_and_no_variant_of_these_shapes(packing: Path):
    (packing / CONFIG).unlink()
    with pytest.raises(ConfigError, match="config") as caught:
        load_encoder(packing)
    assert caught.value.got == ()


def small_file(folder: Path, fmt: ov.Format, config_name: str) -> Path:
    """A file with the shapes of a real variant and zeros for values."""
    config = {**ov.VARIANTS, **ov.SOURCES}[config_name]
    theirs = to_theirs({k: t * 0 for k, t in initial_state(config).items()}, ov.FAMILY.formats[fmt], config)
    folder.mkdir()
    save_file({k: v.contiguous().clone() for k, v in theirs.items()}, str(folder / SINGLE))
    return folder


def test_a_training_checkpoint_needs_no_configuration(tmp_path: Path):
    folder = small_file(tmp_path / "a", "source", "llava_vit_small_ln")
    encoder = load_encoder(folder)
    assert encoder.config == ov.SOURCES["llava_vit_small_ln"]
    report = report_of(encoder)
    assert report is not None
    assert (report.variant, report.format) == ("llava_vit_small_ln", "source")
    assert load_encoder(folder, config="llava_vit_small_ln").config.eps == 1e-5


# ---- untrained


def test_untrained_is_seeded_and_says_so(tmp_path: Path):
    config = tiny_config("packing")
    a, b, c = untrained(config), untrained(config), untrained(config, seed=1)
    assert same(a, b)
    assert not same(a, c)
    assert a.untrained is True
    assert random_encoder(config).untrained is False
    again = load_encoder(save_encoder(a, tmp_path / "u"))
    report = report_of(again)
    assert report is not None
    assert report.untrained
    assert again.untrained is True


def test_untrained_values_do_not_depend_on_other_tensors():
    with_head = initial_state(tiny_config("packing"), 3)
    without = initial_state(tiny_config("packing", use_head=False), 3)
    assert all(torch.equal(with_head[k], v) for k, v in without.items())


def test_start_values():
    state = initial_state(tiny_config("packing"))
    assert bool((state["norm_pre.weight"] == 1).all())
    assert bool((state["layers.0.fc1.bias"] == 0).all())
    assert 0.015 < float(state["layers.0.qkv.weight"].std()) < 0.025
    assert 0.6 < float(state["pool.probe"].std()) < 1.4


def test_the_public_names_run():
    encoder = tubelet.untrained("llava_vit_packing_small")
    p = pack([torch.randint(0, 256, (6, 768), dtype=torch.uint8)], [Item.of(1, 2, 3)])
    with torch.inference_mode():
        tokens = encoder(p)
    assert tokens.x.shape == (6, 384)
    assert tubelet.load_encoder is load_encoder
    with pytest.raises(ConfigError, match="llava_vit_packing_small"):
        tubelet.untrained("vit")


def test_random_state_is_not_the_start_values():
    config = tiny_config("packing")
    assert not torch.equal(random_state(config)["norm_pre.weight"], initial_state(config)["norm_pre.weight"])
