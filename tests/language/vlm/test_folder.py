"""Whole models in folders: three layouts in, one out, and nothing else."""

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.language.vlm.tiny_speakers import PARTS_TEMPLATE, TAG_TEMPLATE, WHOLE, llama, tokenizer, whole_model
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tubelet import load_encoder, load_projector, patchify, save_projector, untrained
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, KeyMismatch, TubeletError, WeightsError
from tubelet.language import build_projector
from tubelet.language.placing.rules import LLAVA, QWEN2_5_VL, QWEN3_VL, TokenIds
from tubelet.language.vlm import write_folder as save_module
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import Scheme, scheme_from, scheme_to
from tubelet.pixels.recipe import CLIP_MEAN, CLIP_STD, PixelRecipe
from tubelet.pixels.views_plan import ViewRule
from tubelet.reading.clip import Clip


def picture(height: int = 60, width: int = 90) -> Clip:
    pixels = torch.randint(0, 256, (1, height, width, 3), generator=torch.Generator().manual_seed(1))
    return Clip(pixels.to(torch.uint8).numpy(), (0.0,), "picture")


def said(vlm: VLM) -> tuple[Tensor, Tensor]:
    """Logits and ids of one prompt with a picture."""
    token = vlm.scheme.token_ids.image
    with torch.no_grad():
        rows = vlm.encode(patchify([picture()], vlm.scheme.pixels))
        ids = torch.tensor([[5, *[token] * rows.tokens.lengths[0], 9]])
        ready = vlm.ready(rows, ids)
        return vlm(ready), vlm.generate(ready, max_new_tokens=6)


def same(a: VLM, b: VLM) -> bool:
    return all(torch.equal(x, y) for x, y in zip(said(a), said(b), strict=True))


# ---- there and back


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_whole_model_comes_back_the_same(kind: str, tied: bool, tmp_path: Path):
    whole_model(kind, tie_word_embeddings=tied).save_pretrained(tmp_path / "theirs")
    vlm = VLM.from_pretrained(tmp_path / "theirs")
    assert vlm.save_pretrained(tmp_path / "ours") == tmp_path / "ours"
    again = VLM.from_pretrained(tmp_path / "ours")
    assert same(vlm, again)
    assert again.scheme == vlm.scheme
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors"
    ]  # fmt: skip
    keys = load_file(str(tmp_path / "ours" / "model.safetensors")).keys()
    assert ("language_model.lm_head.weight" in keys) == (not tied)
    for name, tensor in vlm.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def hand_made() -> VLM:
    encoder = untrained(EncoderConfig(hidden=64, layers=3, heads=2, mlp=96, pixels=PixelRecipe(16)), seed=2)
    torch.manual_seed(1)
    projector = build_projector("spatial_merge", 128, 48, odd="pad_edge")
    pixels = replace(encoder.pixels, rule="smart", merge=2, max_pixels=20_000)
    scheme = Scheme(LLAVA, pixels, states=(1, 2), wording="image_tag")
    return VLM(encoder, llama(vocab_size=160), scheme, projector=projector, tokenizer=tokenizer(TAG_TEMPLATE))


def test_a_hand_made_model_comes_back_whole(tmp_path: Path):
    """With projector, states, tokenizer and template; that the encoder is untrained is not forgotten."""
    vlm = hand_made()
    vlm.save_pretrained(tmp_path / "m")
    again = VLM.from_pretrained(tmp_path / "m")
    assert same(vlm, again)
    assert again.scheme == vlm.scheme
    assert again.untrained
    assert again.projector is not None
    assert again.projector.config == vlm.projector.config  # pyright: ignore[reportOptionalMemberAccess]
    assert again.tokenizer.chat_template == TAG_TEMPLATE
    one, two = (ask(v, [picture()], "Why?") for v in (vlm, again))
    assert torch.equal(one.ready.input_ids, two.ready.input_ids)


def test_its_parts_can_be_read_alone(tmp_path: Path):
    vlm = hand_made()
    vlm.save_pretrained(tmp_path / "m")
    encoder, projector = load_encoder(tmp_path / "m"), load_projector(tmp_path / "m")
    assert all(torch.equal(t, encoder.state_dict()[k]) for k, t in vlm.encoder.state_dict().items())
    assert vlm.projector is not None
    assert all(torch.equal(t, projector.state_dict()[k]) for k, t in vlm.projector.state_dict().items())


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    vlm = hand_made()
    monkeypatch.setattr(save_module, "SHARD_BYTES", 100_000)
    vlm.save_pretrained(tmp_path / "m")
    files = sorted(p.name for p in (tmp_path / "m").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert same(vlm, VLM.from_pretrained(tmp_path / "m"))


def test_types_are_kept_or_changed(tmp_path: Path):
    hand_made().to(torch.bfloat16).save_pretrained(tmp_path / "m")
    kept = VLM.from_pretrained(tmp_path / "m")
    assert {p.dtype for p in kept.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in VLM.from_pretrained(tmp_path / "m", dtype=torch.float32).parameters()} == {torch.float32}


def test_a_folder_in_use_is_left_alone(tmp_path: Path):
    vlm = hand_made()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("keep")
    for overwrite in (False, True):
        with pytest.raises(WeightsError, match="exists"):
            vlm.save_pretrained(tmp_path / "m", overwrite=overwrite)
        assert [p.name for p in (tmp_path / "m").iterdir()] == ["mine.txt"]
    (tmp_path / "m" / "mine.txt").unlink()
    for overwrite in (False, True):
        vlm.save_pretrained(tmp_path / "m", overwrite=overwrite)
    assert same(vlm, VLM.from_pretrained(tmp_path / "m"))


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(TokenIds(image=9), PixelRecipe(14)),
        Scheme(
            TokenIds(1, 2, 3, 4),
            PixelRecipe(16, "smart", 2, 2, "block", min_pixels=10, max_pixels=1 << 24),
            replace(QWEN2_5_VL, tokens_per_second=Fraction(25, 3), compat="transformers-5"),
            PixelRecipe(16, "smart_compat", 2, 2, "block", max_video_pixels=1 << 30),
            wording="image_tag",
        ),
        Scheme(LLAVA, PixelRecipe(14, "square", size=336), QWEN3_VL, states=(3, 1), square=True),
    ],
    ids=["least", "all", "llava"],
)
def test_schemes_come_back_from_json(scheme: Scheme):
    said = json.loads(json.dumps(scheme_to(scheme)))
    again = scheme_from(said, scheme.pixels.mean, scheme.pixels.std)
    assert again == replace(scheme, rule=again.rule)
    assert float(again.rule.tokens_per_second) == float(scheme.rule.tokens_per_second)
    assert again.rule.compat == scheme.rule.compat


BEFORE = """{"token_ids": {"image": 1, "video": 2, "start": 3, "end": 4}, "pixels": {"patch": 16, "rule": "smart",
"temporal": 2, "merge": 2, "order": "block", "size": null, "shortest": null, "min_pixels": 10, "max_pixels": 16777216,
"max_video_pixels": null, "resampler": "torch", "interpolation": "bicubic",
"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}, "rule": {"time": "seconds",
"tokens_per_second": "25/3", "arithmetic": "exact", "extent": "grid", "compat": "transformers-5"}, "video_pixels":
{"patch": 16, "rule": "smart_compat", "temporal": 2, "merge": 2, "order": "block", "size": null, "shortest": null,
"min_pixels": null, "max_pixels": null, "max_video_pixels": 1073741824, "resampler": "torch", "interpolation":
"bicubic", "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}, "states": [],
"wording": "image_tag", "square": false, "views": null}"""
BEFORE_VIEWS = """{"token_ids": {"image": -200, "video": null, "start": null, "end": null}, "pixels": {"patch": 14,
"rule": "square", "temporal": 1, "merge": 1, "order": "raster", "size": 28, "shortest": null, "min_pixels": null,
"max_pixels": null, "max_video_pixels": null, "resampler": "torch", "interpolation": "bicubic",
"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}, "rule": {"time": "none",
"tokens_per_second": "2", "arithmetic": "exact", "extent": "grid", "compat": null}, "video_pixels": null,
"states": [3, 1], "wording": "parts", "square": false, "views": {"tile": 28, "pinpoints": [28, 56, 56, 28],
"pool": "bilinear", "join": "unpad", "stride": 2, "compat": null}}"""


def test_sections_of_files_written_before():
    """Word for word as earlier versions wrote them; pinpoints were one list then."""
    first = scheme_from(json.loads(BEFORE), CLIP_MEAN, CLIP_STD)
    assert first == Scheme(
        TokenIds(1, 2, 3, 4),
        PixelRecipe(16, "smart", 2, 2, "block", min_pixels=10, max_pixels=1 << 24),
        replace(QWEN2_5_VL, tokens_per_second=Fraction(25, 3), compat="transformers-5"),
        PixelRecipe(16, "smart_compat", 2, 2, "block", max_video_pixels=1 << 30),
        wording="image_tag",
    )
    views = ViewRule(28, ((28, 56), (56, 28)), pool="bilinear", join="unpad")
    pixels = PixelRecipe(14, "square", size=28)
    second = scheme_from(json.loads(BEFORE_VIEWS), CLIP_MEAN, CLIP_STD)
    assert second == Scheme(TokenIds(-200), pixels, states=(3, 1), views=views)


@pytest.mark.parametrize(
    "change",
    [
        {"wording": "shouted"},
        {"states": [-1]},
        {"states": "2"},
        {"square": 1},
        {"unheard_of": 1},
        {"token_ids": {"image": "x"}},
        {"rule": {"time": "sideways"}},
        {"rule": {"tokens_per_second": "1/0"}},
        {"pixels": {"patch": 0}},
        {"pixels": {"patch": 14, "rule": "stretch"}},
        {"pixels": None},
        {"auto_map": {}},
    ],
    ids=str,
)
def test_a_section_that_does_not_fit_is_refused(change: dict[str, Any], tmp_path: Path):
    hand_made().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["tubelet"] |= change
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError):
        VLM.from_pretrained(tmp_path / "m")


# ---- Qwen's own files


def test_qwen_s_scheme_comes_from_its_files(tmp_path: Path):
    whole_model("qwen2_5_vl").save_pretrained(tmp_path)
    processor = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12_845_056}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    scheme = VLM.from_pretrained(tmp_path).scheme
    assert scheme.token_ids == TokenIds(150, 151, 148, 149)
    assert (scheme.rule.time, scheme.rule.tokens_per_second) == ("seconds", 2)
    assert (scheme.pixels.min_pixels, scheme.pixels.max_pixels) == (3136, 12_845_056)
    assert scheme.video_pixels is not None
    assert scheme.video_pixels.max_pixels == 768 * 28 * 28


def test_qwen3_s_clips_have_the_budget_of_its_video_processor(tmp_path: Path):
    whole_model("qwen3_vl").save_pretrained(tmp_path)
    by_default = VLM.from_pretrained(tmp_path).scheme.video_pixels
    assert by_default is not None
    assert (by_default.rule, by_default.max_video_pixels) == ("smart_clip_compat", 768 * 32 * 32)
    file = tmp_path / "video_preprocessor_config.json"
    file.write_text(json.dumps({"size": {"shortest_edge": 4096, "longest_edge": 25_165_824}}), encoding="utf-8")
    clips = VLM.from_pretrained(tmp_path).scheme.video_pixels
    assert clips is not None
    assert (clips.min_pixels, clips.max_video_pixels) == (4096, 25_165_824)
    file.write_text(json.dumps({"size": {"shortest_edge": 4096}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="longest_edge"):
        VLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["video_preprocessor_config.json", "processor_config.json"])
def test_clips_of_qwen2_are_sized_by_their_own_file_where_there_is_one(name: str, tmp_path: Path):
    """The second is what transformers 5 saves. Without either, the limits of pictures are not those of clips."""
    whole_model("qwen2_5_vl").save_pretrained(tmp_path)
    pictures = {"image_processor_type": "Qwen2VLImageProcessor", "size": {"shortest_edge": 784, "longest_edge": 78400}}
    clips = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 3136, "longest_edge": 39200}}
    written = clips if name.startswith("video") else {"image_processor": pictures, "video_processor": clips}
    (tmp_path / name).write_text(json.dumps(written), encoding="utf-8")
    scheme = VLM.from_pretrained(tmp_path).scheme
    assert scheme.video_pixels is not None
    assert (scheme.video_pixels.min_pixels, scheme.video_pixels.max_pixels) == (3136, 39200)
    assert scheme.video_pixels.max_video_pixels is None
    if name == "processor_config.json":
        assert (scheme.pixels.min_pixels, scheme.pixels.max_pixels) == (784, 78400)
    for change, word in (
        ({"patch_size": 16}, "patch_size"),
        ({"cap_pixels_per_frame": "yes"}, "cap_pixels"),
        ({"size": {"height": 3}}, "longest_edge"),
        ({"auto_map": {}}, "auto_map"),
    ):
        bad = clips | change
        written = bad if name.startswith("video") else {"image_processor": pictures, "video_processor": bad}
        (tmp_path / name).write_text(json.dumps(written), encoding="utf-8")
        with pytest.raises(ConfigError, match=word):
            VLM.from_pretrained(tmp_path)


def test_tokens_per_second_that_a_file_leaves_out_is_upstream_s_default(tmp_path: Path):
    whole_model("qwen2_5_vl").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["vision_config"]["tokens_per_second"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert VLM.from_pretrained(tmp_path).scheme.rule.tokens_per_second == 4


def test_a_template_in_its_own_file_is_found(tmp_path: Path):
    whole_model("qwen2_vl").save_pretrained(tmp_path)
    tokenizer(None).save_pretrained(tmp_path)
    assert VLM.from_pretrained(tmp_path).tokenizer.chat_template is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 1 }}"}), encoding="utf-8")
    assert VLM.from_pretrained(tmp_path).tokenizer.chat_template == "{{ 1 }}"
    tokenizer().save_pretrained(tmp_path)
    assert VLM.from_pretrained(tmp_path).tokenizer.chat_template == PARTS_TEMPLATE  # chat_template.jinja
    (tmp_path / "chat_template.jinja").unlink()
    settings = tmp_path / "tokenizer_config.json"
    said = json.loads(settings.read_text(encoding="utf-8")) | {"chat_template": "{{ 2 }}"}
    settings.write_text(json.dumps(said), encoding="utf-8")
    assert VLM.from_pretrained(tmp_path).tokenizer.chat_template == "{{ 1 }}"  # the processor's before the tokenizer's


# ---- LLaVA's layout


def clip_tower(folder: Path) -> CLIPVisionModel:
    config = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
                              image_size=56, patch_size=14)  # fmt: skip
    torch.manual_seed(4)
    tower = CLIPVisionModel(config).eval()
    tower.save_pretrained(folder)
    return tower


def llava_folder(folder: Path, lm: Any, kind: str, **fields: Any) -> Any:
    """LLaVA's files: a language model's with mm_ fields in config.json, the projector beside."""
    lm.save_pretrained(folder)
    file = folder / "config.json"
    mm = {"model_type": kind, "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 32, "mm_vision_select_layer": -2}
    mm |= {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_feature": "patch"}
    mm |= {"image_aspect_ratio": "pad", "mm_use_im_start_end": False, "tokenizer_padding_side": "right"}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | mm | fields), encoding="utf-8")
    torch.manual_seed(6)
    projector = build_projector(fields.get("mm_projector_type", "mlp2x_gelu"), 32, lm.config.hidden_size)
    save_projector(projector, folder / "mm_projector.safetensors")
    tokenizer(TAG_TEMPLATE).save_pretrained(folder)
    return projector


SIZES: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 97}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize("base", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["mlp2x_gelu", "spatial_merge"])
def test_llava_with_a_given_tower(base: str, kind: str, tmp_path: Path):
    """CLIP's second to last hidden state, without its class token, through the projector, in place of <image>."""
    torch.manual_seed(8)
    made: dict[str, Any] = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    lm: Any = llama() if base == "llama" else made[base][1](made[base][0](**SIZES)).eval()
    tower = clip_tower(tmp_path / "clip")
    projector = llava_folder(tmp_path / "llava", lm, f"llava_{base}", mm_projector_type=kind)
    vlm = VLM.from_pretrained(tmp_path / "llava", vision_tower=tmp_path / "clip")
    assert vlm.scheme.token_ids == LLAVA
    assert vlm.scheme.square
    clip = picture(56, 56)
    p = patchify([clip], vlm.scheme.pixels)
    pixels = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(vlm.scheme.pixels.mean)[:, None, None]) / torch.tensor(vlm.scheme.pixels.std)[
        :, None, None
    ]
    with torch.no_grad():
        rows = vlm.encode(p)
        hidden = tower(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
        want = projector(p.with_x(hidden)).x
    torch.testing.assert_close(rows.tokens.x, want, atol=1e-4, rtol=1e-4)
    ids = torch.tensor([[1, *[-200] * len(want), 9]])
    embeds = lm.get_input_embeddings()(ids.clamp_min(0)).detach()
    embeds[ids == -200] = rows.tokens.x
    theirs = lm.generate(inputs_embeds=embeds, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    assert torch.equal(vlm.generate(vlm.ready(rows, ids), max_new_tokens=6), theirs)


def test_llava_with_its_tower_and_projector_inside(tmp_path: Path):
    """One file with everything, as after training the tower: what the tower is, its checkpoint's configuration says."""
    clip_tower(tmp_path / "clip")
    lm = llama()
    projector = llava_folder(tmp_path / "llava", lm, "llava_llama")
    given = VLM.from_pretrained(tmp_path / "llava", vision_tower=tmp_path / "clip")
    state = load_file(str(tmp_path / "llava" / "model.safetensors"))
    tower = {f"model.vision_tower.vision_tower.{k}": v
             for k, v in load_file(str(tmp_path / "clip" / "model.safetensors")).items()}  # fmt: skip
    inside = {f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}
    save_file({**state, **tower, **inside}, str(tmp_path / "llava" / "model.safetensors"))
    (tmp_path / "llava" / "mm_projector.safetensors").unlink()
    assert same(VLM.from_pretrained(tmp_path / "llava", vision_tower=tmp_path / "clip"), given)


def test_a_tower_that_is_nowhere_is_named(tmp_path: Path):
    llava_folder(tmp_path, llama(), "llava_llama")
    with pytest.raises(ConfigError, match=r"openai/clip-vit-large-patch14-336.*pass vision_tower="):
        VLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_aspect_ratio": "anyres"},
        {"mm_patch_merge_type": "spatial_unpad"},
        {"mm_use_im_start_end": True},
        {"mm_vision_select_feature": "cls_patch"},
        {"mm_vision_select_feature": "unheard_of"},
        {"mm_vision_select_layer": "last"},
        {"mm_vision_select_layer": -9},
    ],
    ids=str,
)
def test_what_would_read_pictures_another_way_is_refused(fields: dict[str, Any], tmp_path: Path):
    clip_tower(tmp_path / "clip")
    llava_folder(tmp_path / "llava", llama(), "llava_llama", **fields)
    with pytest.raises(ConfigError):
        VLM.from_pretrained(tmp_path / "llava", vision_tower=tmp_path / "clip")


# ---- what is refused


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks by the old name
@pytest.mark.parametrize("part", ["language model", "encoder"])
def test_a_model_with_adapters_is_not_written_until_they_are_merged(part: str, tmp_path: Path):
    """What is written can be read: by its own reader's rules, before a byte is on the disk."""
    vlm = hand_made()
    adapted: Any = vlm.speaker.lm if part == "language model" else vlm.encoder
    names = ["q_proj", "v_proj"] if part == "language model" else ["qkv"]
    peft = get_peft_model(adapted, LoraConfig(r=2, target_modules=names, init_lora_weights=False))
    with pytest.raises(ConfigError):
        vlm.save_pretrained(tmp_path / "m")
    assert not list(tmp_path.iterdir())
    peft.merge_and_unload()
    vlm.save_pretrained(tmp_path / "m")
    assert same(vlm, VLM.from_pretrained(tmp_path / "m"))


def test_llava_1_5_of_transformers_is_called_by_its_name(tmp_path: Path):
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision = CLIPVisionConfig(**sizes, num_attention_heads=2, image_size=56, patch_size=14)
    text = llama().config
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=96)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    assert VLM.from_pretrained(tmp_path).scheme.token_ids == TokenIds(image=96)


@pytest.mark.parametrize(
    "config", [None, {"model_type": "gpt2"}, {}, {"model_type": "qwen2_vl", "auto_map": {}}], ids=str
)
def test_a_folder_that_is_no_whole_model_is_refused(config: dict[str, Any] | None, tmp_path: Path):
    save_file({"x": torch.zeros(1)}, str(tmp_path / "model.safetensors"))
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError):
        VLM.from_pretrained(tmp_path)


WRONG = (None, True, -1, 10**6, 10**20, 0.5, "x", "", [], [1], ["a", None], {}, {"a": 1}, [[[]]], "\ud800")


def named(config: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of an object of JSON and of the objects in it."""
    for name, value in config.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from named(value, (*path, name))


@pytest.mark.filterwarnings("ignore")  # what transformers says of such fields is its own
@pytest.mark.parametrize("every", [200, pytest.param(1, marks=pytest.mark.slow)])
def test_a_field_of_a_wrong_form_is_read_or_refused(every: int, tmp_path: Path):
    """One of `every` of all fields and values, chosen by seed, in CI."""
    hand_made().save_pretrained(tmp_path)
    rng = random.Random(0)
    for file in (tmp_path / "config.json", tmp_path / "generation_config.json"):
        before = json.loads(file.read_text(encoding="utf-8"))
        for path in named(before):
            for wrong in WRONG:
                if rng.randrange(every) and (path[-1], wrong) != ("model_type", [1]):
                    continue
                said = inner = json.loads(json.dumps(before))
                for name in path[:-1]:
                    inner = inner[name]
                inner[path[-1]] = wrong
                file.write_text(json.dumps(said), encoding="utf-8")
                with contextlib.suppress(TubeletError):
                    VLM.from_pretrained(tmp_path)
        file.write_text(json.dumps(before), encoding="utf-8")


def test_a_tokenizer_that_names_code_is_not_run(tmp_path: Path):
    hand_made().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "tokenizer_config.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    code = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Tokenizer"}
    file.write_text(json.dumps(said | code), encoding="utf-8")
    (tmp_path / "m" / "evil.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    try:
        VLM.from_pretrained(tmp_path / "m")
    except ConfigError as e:
        assert "tokenizer" in str(e)


def test_a_checkpoint_that_lacks_a_projector_is_refused(tmp_path: Path):
    hand_made().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    kept = {k: v for k, v in load_file(str(file)).items() if "mm_projector" not in k}
    save_file(kept, str(file))
    with pytest.raises(TubeletError) as e:
        VLM.from_pretrained(tmp_path / "m")
    assert isinstance(e.value, KeyMismatch | ConfigError)
