"""The language model of a checkpoint: only its tensors, strictly, in every layout, equal to transformers' own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.language.vlm.tiny_speakers import WHOLE, llama, whole_model
from torch import Tensor

from tubelet.errors import ConfigError, KeyMismatch, NotFinite, RunError
from tubelet.language.vlm import load_lm as lm_module
from tubelet.language.vlm.load_lm import generation_settings, load_speaker, text_part
from tubelet.weights.locate import find_folder


def speaker_of(folder: Path, **options: Any) -> Any:
    place = find_folder(folder)
    config = place.config()
    assert config is not None
    return load_speaker(place, config, **options)


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(str(file))).items()}, str(file))


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


IDS = torch.tensor([[3, 9, 20, 8, 41, 5]])


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_whole_model_s_language_model_is_transformers_own(kind: str, tied: bool, tmp_path: Path):
    peer = whole_model(kind, tie_word_embeddings=tied)
    peer.save_pretrained(tmp_path)
    speaker = speaker_of(tmp_path)
    assert torch.equal(logits(speaker, IDS), logits(peer, IDS))
    assert (speaker.head.weight is speaker.get_input_embeddings().weight) == tied
    assert speaker.dtype == torch.float32


@pytest.mark.parametrize("square", [False, True], ids=["", "gate and up together square"])
def test_experts_as_published_are_turned(square: bool, tmp_path: Path):
    """Published Qwen3-VL-MoE files hold (experts, in, out); transformers 5 holds and writes (experts, out, in)."""
    peer = whole_model("qwen3_vl_moe", moe_intermediate_size=32 if square else 24)
    peer.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda s: {k: v.transpose(1, 2) if ".experts." in k else v for k, v in s.items()})
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["num_experts"] = config["text_config"].pop("num_local_experts")  # as published
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert torch.equal(logits(speaker_of(tmp_path), IDS), logits(peer, IDS))
    rewrite(tmp_path, lambda s: {k: v[:, 1:] if k.endswith("0.mlp.experts.down_proj") else v for k, v in s.items()})
    with pytest.raises(KeyMismatch, match=r"layers.0.mlp.experts.down_proj"):
        speaker_of(tmp_path)


@pytest.mark.parametrize(
    ("kind", "whole", "inner", "tied"),
    [
        ("qwen3_vl", False, True, False),  # Qwen3-VL-MoE's text part says true by default, and does not count
        ("qwen3_vl_moe", False, True, False),
        ("qwen3_vl", True, None, True),
        ("qwen2_5_vl", False, True, True),  # as transformers 4 saved it
        ("qwen2_5_vl", None, None, False),
        ("tubelet_vlm", None, True, True),
    ],
)
def test_whether_the_head_is_the_table(kind: str, whole: bool | None, inner: bool | None, tied: bool):
    text = whole_model(kind if kind != "tubelet_vlm" else "qwen2_vl").config.text_config.to_dict()
    text.pop("tie_word_embeddings", None)
    text |= {} if inner is None else {"tie_word_embeddings": inner}
    config = {"model_type": kind, "text_config": text} | ({} if whole is None else {"tie_word_embeddings": whole})
    assert text_part(config).tied == tied


def test_names_of_transformers_5_are_read_too(tmp_path: Path):
    """Qwen2-VL with the names it has in memory: model.language_model. ... and model.visual. ..."""
    peer = whole_model("qwen2_vl")
    peer.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda _: {k: v.clone() for k, v in peer.state_dict().items()})
    assert torch.equal(logits(speaker_of(tmp_path), IDS), logits(peer, IDS))


def test_a_flat_configuration_is_read(tmp_path: Path):
    """As the published Qwen2-VL and Qwen2.5-VL have it: the text fields stand beside vision_config."""
    peer = whole_model("qwen2_5_vl")
    peer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = text | config | {"rope_theta": rope["rope_theta"]}
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (tmp_path / "config.json").write_text(json.dumps(flat), encoding="utf-8")
    assert torch.equal(logits(speaker_of(tmp_path), IDS), logits(peer, IDS))


@pytest.mark.parametrize(("kind", "names"), [("llava_llama", ""), ("llava_llama", "language_model.")])
def test_llava_s_layout(kind: str, names: str, tmp_path: Path):
    peer = llama()
    peer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    mm = {"model_type": kind, "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 64, "mm_vision_tower": "x"}
    (tmp_path / "config.json").write_text(json.dumps(config | mm), encoding="utf-8")
    extra = {"model.mm_projector.0.weight": torch.zeros(48, 64), "model.image_newline": torch.zeros(48)}
    extra["model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"] = torch.zeros(8)
    rewrite(tmp_path, lambda state: {names + k: v for k, v in state.items()} | (extra if not names else {}))
    assert torch.equal(logits(speaker_of(tmp_path), IDS), logits(peer, IDS))


def test_no_vision_tensor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole_model("qwen3_vl").save_pretrained(tmp_path)
    read: list[str] = []
    call = lm_module.TensorReader.__call__

    def noted(self: Any, key: str) -> Tensor:
        read.append(key)
        return call(self, key)

    monkeypatch.setattr(lm_module.TensorReader, "__call__", noted)
    speaker = speaker_of(tmp_path)
    assert read
    assert not [key for key in read if "visual" in key]
    assert len(read) == len(speaker.state_dict())


def test_shards_of_the_vision_part_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole_model("qwen2_5_vl").save_pretrained(tmp_path)
    state = load_file(str(tmp_path / "model.safetensors"))
    (tmp_path / "model.safetensors").unlink()
    names = {k: "vision.safetensors" if "visual" in k else "text.safetensors" for k in state}
    for shard in sorted(set(names.values())):
        save_file({k: v for k, v in state.items() if names[k] == shard}, str(tmp_path / shard))
    index = {"metadata": {}, "weight_map": names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "vision.safetensors").write_bytes(b"not a header")
    assert speaker_of(tmp_path).generate(IDS, max_new_tokens=2, do_sample=False).shape == (1, 8)


def test_types(tmp_path: Path):
    whole_model("qwen2_vl").to(torch.bfloat16).save_pretrained(tmp_path)
    assert speaker_of(tmp_path).dtype == torch.bfloat16
    wide = speaker_of(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert logits(wide, IDS).dtype == torch.float32


# ---- what is refused


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {k: v for k, v in state.items() if k != name}


def test_a_missing_tensor_is_named(tmp_path: Path):
    whole_model("qwen2_vl").save_pretrained(tmp_path)
    rewrite(tmp_path, without("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(KeyMismatch) as e:
        speaker_of(tmp_path)
    assert e.value.missing == ("model.layers.1.mlp.up_proj.weight",)


def test_an_untied_head_may_not_be_missing(tmp_path: Path):
    whole_model("qwen2_vl").save_pretrained(tmp_path)
    rewrite(tmp_path, without("lm_head.weight"))
    with pytest.raises(KeyMismatch) as e:
        speaker_of(tmp_path)
    assert e.value.missing == ("lm_head.weight",)


def test_an_unexpected_tensor_is_named(tmp_path: Path):
    whole_model("qwen3_vl").save_pretrained(tmp_path)
    name = "model.language_model.layers.7.mlp.up_proj.weight"
    rewrite(tmp_path, lambda state: state | {name: torch.zeros(2, 2)})
    with pytest.raises(KeyMismatch) as e:
        speaker_of(tmp_path)
    assert e.value.unexpected == (name,)


def test_another_shape_is_named(tmp_path: Path):
    whole_model("qwen2_vl").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: state | {"model.norm.weight": torch.ones(3)})
    with pytest.raises(KeyMismatch) as e:
        speaker_of(tmp_path)
    assert [name for name, *_ in e.value.misshaped] == ["model.norm.weight"]


def test_a_file_without_a_language_model_is_refused(tmp_path: Path):
    whole_model("qwen2_vl").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: {k: v for k, v in state.items() if k.startswith("visual.")})
    with pytest.raises(KeyMismatch, match="no language model"):
        speaker_of(tmp_path)


def test_nan_is_refused(tmp_path: Path):
    whole_model("qwen2_vl").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: state | {"model.norm.weight": torch.full((64,), torch.nan)})
    with pytest.raises(NotFinite, match=r"model\.norm\.weight"):
        speaker_of(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "no_such_model"},
        {"model_type": "qwen2_vl", "text_config": {"model_type": "no_such_text"}},
        {"model_type": "llava_llama", "auto_map": {"AutoModel": "code.py"}},
        {"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text", "auto_map": {}}},
        {"model_type": "llava_llama", "hidden_size": "wide"},
        {},
    ],
    ids=str,
)
def test_an_unusable_configuration_is_refused(config: dict[str, Any]):
    with pytest.raises(ConfigError):
        text_part(config)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**5},
        {"hidden_size": -4},
        {"vocab_size": 10**20},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 0},
        {"rope_parameters": {"rope_type": "no such", "rope_theta": 1.0}},
        {"hidden_act": "no such"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")  # what transformers says of such fields is its own
def test_numbers_of_a_stranger_that_make_no_model_are_refused_at_once(fields: dict[str, Any], tmp_path: Path):
    """Of which transformers would begin to make 10**9 layers, or fail in a way of its own."""
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    save_file({"model.embed_tokens.weight": torch.zeros(9, 8)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(ConfigError):
        load_speaker(find_folder(tmp_path), {"model_type": "llava_llama"} | sizes | fields)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(RunError, match=r"pip install 'tubelet\[hf\]'"):
        text_part({"model_type": "qwen2_vl"})


# ---- generation_config.json


def test_only_known_settings_are_taken():
    config = text_part({"model_type": "llava_llama", "eos_token_id": 7}).config
    said = {"eos_token_id": [5, 6], "temperature": 1, "top_k": 3, "do_sample": True, "custom_generate": "x/y"}
    settings = generation_settings(said, config)
    assert (settings.eos_token_id, settings.pad_token_id) == ([5, 6], 5)
    assert (settings.temperature, settings.top_k, settings.do_sample) == (1.0, 3, True)
    assert not hasattr(settings, "custom_generate")
    assert generation_settings({}, config).eos_token_id == 7


@pytest.mark.parametrize("said", [{"eos_token_id": "a"}, {"pad_token_id": True}, {"top_k": 0.5}, {"do_sample": "yes"}])
def test_settings_of_a_wrong_type_are_refused(said: dict[str, Any]):
    config = text_part({"model_type": "llava_llama"}).config
    with pytest.raises(ConfigError):
        generation_settings(said, config)
