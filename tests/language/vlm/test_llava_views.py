"""Any-resolution models as a whole: transformers' LlavaNext in the same process, LLaVA's layout against a twin."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tests.language.vlm.tiny_speakers import TAG_TEMPLATE, llama, randomised, tokenizer
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import unpad_image

from tubelet import VLM, Clip, Item, pack
from tubelet.errors import ConfigError, KeyMismatch
from tubelet.language import build_projector
from tubelet.language.placing.rules import LLAVA
from tubelet.language.vlm.chat import ask, patchify_clips
from tubelet.language.vlm.layout import ModelFiles
from tubelet.language.vlm.llava import llava_views
from tubelet.language.vlm.llava_hf import next_pixels, next_scheme
from tubelet.language.vlm.scheme import Scheme, scheme_from, scheme_to
from tubelet.packed import Packed
from tubelet.pixels.patchify import normalise, unpatchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule
from tubelet.reduce.blank import blank_rows
from tubelet.reduce.scores import norm
from tubelet.reduce.select import select

SIDE, PATCH, IMAGE = 28, 7, 96
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]  # (height, width) in transformers
SIZES = [(56, 56), (60, 90), (90, 33), (20, 70), (131, 47), (5, 61)]
TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 97}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": None}


def picture(height: int, width: int, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return Clip(pixels, (0.0,))


def next_model(tower: str) -> Any:
    kind: Any = {"clip": hf.CLIPVisionConfig, "siglip": hf.SiglipVisionConfig}[tower]
    config = hf.LlavaNextConfig(
        vision_config=kind(**TOWER, image_size=SIDE, patch_size=PATCH),
        text_config=hf.LlamaConfig(**TEXT, **HEADS, pad_token_id=0),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
    )
    return randomised(hf.LlavaNextForConditionalGeneration(config), scale=0.15)


def processor() -> hf.LlavaNextImageProcessor:
    return hf.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PINPOINTS
    )


@pytest.fixture(scope="module", params=["clip", "siglip"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, VLM, Path]:
    model = next_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return model, VLM.from_pretrained(folder), folder


def rows_of(p: Packed, pictures: int) -> list[int]:
    """Rows of each picture."""
    counts = [0] * pictures
    for item, length in zip(p.items, p.lengths, strict=True):
        counts[item.picture] += length
    return counts


def theirs(clips: list[Clip]) -> Mapping[str, Tensor]:
    pictures = [torch.from_numpy(clip.frames[0]).permute(2, 0, 1) for clip in clips]
    return processor()(pictures, return_tensors="pt")


# ---- transformers' LlavaNext


def test_views_have_the_pixels_of_its_processor(pair: tuple[Any, VLM, Path]):
    scheme = pair[1].scheme
    for n, size in enumerate(SIZES):
        clip = picture(*size, seed=n)
        p = patchify_clips([clip], scheme)
        views = unpatchify(normalise(p, scheme.pixels), scheme.pixels)
        expected = theirs([clip])["pixel_values"][0]
        got = torch.stack([view[0].permute(2, 0, 1) for view in views])
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_features_are_its_packed_features(pair: tuple[Any, VLM, Path]):
    model, vlm, _ = pair
    clips = [picture(*size, seed=n) for n, size in enumerate(SIZES)]
    with torch.no_grad():
        rows = vlm.encode(patchify_clips(clips, vlm.scheme)).tokens.check(finite=True)
        expected = model.get_image_features(**theirs(clips)).pooler_output
    assert rows_of(rows, len(clips)) == [len(x) for x in expected]
    torch.testing.assert_close(rows.x, torch.cat(list(expected)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES[1:3], SIZES[3:]])
def test_generated_ids_are_its_own(pair: tuple[Any, VLM, Path], sizes: list[tuple[int, int]]):
    model, vlm, _ = pair
    clips = [picture(*size, seed=n) for n, size in enumerate(sizes)]
    with torch.no_grad():
        rows = vlm.encode(patchify_clips(clips, vlm.scheme))
        counts = rows_of(rows.tokens, len(clips))
        ids = torch.tensor([[1, *[i for n, k in enumerate(counts) for i in (5 + n, *[IMAGE] * k)], 7, 8]])
        ready = vlm.ready(rows, ids)
        logits = model(input_ids=ids, **theirs(clips)).logits
        torch.testing.assert_close(vlm(ready), logits, atol=1e-3, rtol=1e-3)
        said = model.generate(input_ids=ids, **theirs(clips), max_new_tokens=8, do_sample=False)
        assert torch.equal(vlm.generate(ready, max_new_tokens=8), said[:, ids.shape[1] :])


def test_unpadding_rounds_as_it_does():
    """Also for sizes where LLaVA's own arithmetic cuts another row, because a float lies just below a whole number."""
    ours = ViewRule(336, tuple((12 * h, 12 * w) for h, w in PINPOINTS), join="unpad")
    rounded = replace(ours, compat="transformers-5")
    differ = 0
    for h, w in ((55, 88), (88, 55), (110, 176), (205, 328), (328, 205), (205, 656), (396, 704)):
        tiling = rounded.tiling(h, w)
        cut = unpad_image(torch.zeros(1, tiling.rows * 24, tiling.cols * 24), (h, w))
        assert sum(rounded.tokens(h, w, (24, 24))) == 576 + cut.shape[1] * (cut.shape[2] + 1)
        differ += rounded.tokens(h, w, (24, 24)) != ours.tokens(h, w, (24, 24))
    assert differ


@pytest.mark.parametrize(
    "change",
    [
        {"vision_feature_select_strategy": "full"},
        {"vision_feature_layer": 9},
        {"vision_feature_layer": "last"},
        {"image_token_index": "x"},
        {"image_grid_pinpoints": [[28, 57]]},
        {"image_grid_pinpoints": []},
        {"image_grid_pinpoints": [[28]]},
        {"projector_hidden_act": "relu"},
        {"multimodal_projector_bias": False},
        {"auto_map": {}},
    ],
    ids=str,
)
def test_what_it_does_not_do_is_refused(pair: tuple[Any, VLM, Path], change: dict[str, Any], tmp_path: Path):
    if pair[1].encoder.config.prefix == 0:
        return
    for file in pair[2].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | change
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError):
        VLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"shortest_edge": 56}},
        {"crop_size": {"height": 14, "width": 14}},
        {"image_grid_pinpoints": [[28, 56]]},
        {"image_processor_type": "CLIPImageProcessor"},
        {"do_normalize": False},
        {"aspect_ratio_setting": "square"},
    ],
    ids=str,
)
def test_a_processor_that_cuts_other_views_is_refused(pair: tuple[Any, VLM, Path], change: dict[str, Any]):
    config = json.loads((pair[2] / "config.json").read_text(encoding="utf-8"))
    said = json.loads(processor().to_json_string()) | change
    files = ModelFiles("llava_next", config, said, {})
    with pytest.raises(ConfigError):
        next_pixels(files, pair[1].encoder.pixels)
        next_scheme(files, pair[1].encoder.config)


NAMES = {  # in the file, as transformers 5 writes it -> as transformers 4 did, and as transformers 5 has it in memory
    "published": {"vision_tower.": "vision_tower.vision_model."},
    "in memory": {
        "language_model.lm_head.": "lm_head.",
        "language_model.model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
        "image_newline": "model.image_newline",
    },
}


@pytest.mark.parametrize("kind", NAMES)
def test_other_names_of_the_same_tensors(pair: tuple[Any, VLM, Path], kind: str, tmp_path: Path):
    state: dict[str, Tensor] = {}
    for name, tensor in load_file(str(pair[2] / "model.safetensors")).items():
        old = next((prefix for prefix in NAMES[kind] if name.startswith(prefix)), "")
        state[NAMES[kind].get(old, "") + name.removeprefix(old)] = tensor
    save_file(state, str(tmp_path / "model.safetensors"))
    config = json.loads((pair[2] / "config.json").read_text(encoding="utf-8"))
    more = {"use_image_newline_parameter": True, "ignore_index": -100, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config | more), encoding="utf-8")
    said = json.loads(processor().to_json_string()) | {"aspect_ratio_setting": "anyres"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    again = VLM.from_pretrained(tmp_path)
    assert again.scheme == pair[1].scheme
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in pair[1].state_dict().items())


def test_missing_tensors_are_named(pair: tuple[Any, VLM, Path], tmp_path: Path):
    state = load_file(str(pair[2] / "model.safetensors"))
    for gone in ("image_newline", "multi_modal_projector.linear_2.bias"):
        folder = tmp_path / gone
        folder.mkdir()
        (folder / "config.json").write_bytes((pair[2] / "config.json").read_bytes())
        save_file({k: v for k, v in state.items() if k != gone}, str(folder / "model.safetensors"))
        with pytest.raises(KeyMismatch) as caught:
            VLM.from_pretrained(folder)
        assert any(gone in name for name in caught.value.missing)


def test_it_comes_back_from_a_folder(pair: tuple[Any, VLM, Path], tmp_path: Path):
    vlm = pair[1]
    vlm.save_pretrained(tmp_path / "ours")
    again = VLM.from_pretrained(tmp_path / "ours")
    assert again.scheme == vlm.scheme and again.newline is not None and vlm.newline is not None
    assert torch.equal(again.newline, vlm.newline)
    clips = [picture(60, 90)]
    with torch.no_grad():
        one, two = (v.encode(patchify_clips(clips, v.scheme)).tokens for v in (vlm, again))
    assert one.equal(two)


# ---- LLaVA's own layout


MERGES = {"flat": "flat", "spatial": "spatial", "spatial_unpad": "unpad"}


def llava_folder(folder: Path, **config: Any) -> Path:
    """A LLaVA checkpoint around a CLIP of transformers: tower inside, projector, newline, any-resolution pictures."""
    lm = llama(vocab_size=160)
    tower: Any = randomised(
        hf.CLIPVisionModel(hf.CLIPVisionConfig(**TOWER, image_size=SIDE, patch_size=PATCH)), 1, 0.15
    )
    torch.manual_seed(2)
    projector = build_projector("mlp2x_gelu", 32, 48)
    said: dict[str, Any] = {
        **{k: v for k, v in lm.config.to_dict().items() if k != "architectures"},
        "model_type": "llava_llama",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": "somewhere/else",
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[w, h] for h, w in PINPOINTS],
        "mm_patch_merge_type": "spatial_unpad",
    }
    tensors = {k: v.clone() for k, v in lm.state_dict().items()}
    tensors |= {f"model.vision_tower.vision_tower.{k}": v.clone() for k, v in tower.state_dict().items()}
    tensors |= {f"model.mm_projector.{k}": v.clone() for k, v in projector.state_dict().items()}
    tensors["model.image_newline"] = torch.linspace(-1, 1, 48)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(said | config), encoding="utf-8")
    save_file(tensors, str(folder / "model.safetensors"))
    (folder / "tower").mkdir(exist_ok=True)
    tower.save_pretrained(folder / "tower")
    return folder


def opened(folder: Path) -> VLM:
    return VLM.from_pretrained(folder, vision_tower=folder / "tower")


def packed(flat: Tensor, rule: ViewRule, height: int, width: int) -> Tensor:
    """(V, 16, D) rows of views as one list, by slices of pictures."""
    tiling = rule.tiling(height, width)
    if rule.join == "flat":
        return flat.flatten(0, 1)
    grid = flat[1:].view(tiling.rows, tiling.cols, 4, 4, -1).permute(0, 2, 1, 3, 4)
    joined = grid.reshape(tiling.rows * 4, tiling.cols * 4, -1)
    if rule.join == "unpad":
        rows, cols = joined.shape[:2]
        if width / height > cols / rows:
            drop = (rows - int(height * (cols / width))) // 2
            joined = joined[drop : rows - drop]
        else:
            drop = (cols - int(width * (rows / height))) // 2
            joined = joined[:, drop : cols - drop]
        joined = torch.cat([joined, torch.linspace(-1, 1, 48).expand(len(joined), 1, -1)], dim=1)
    return torch.cat([flat[0], joined.flatten(0, 1)])


@pytest.mark.parametrize("merge", MERGES)
def test_llava_s_rows_equal_those_of_its_parts(merge: str, tmp_path: Path):
    """transformers' tower, torch's layers and slices."""
    vlm = opened(llava_folder(tmp_path / "m", mm_patch_merge_type=merge))
    rule = vlm.scheme.views
    assert rule is not None
    assert rule.join == MERGES[merge] and rule.pinpoints == tuple(map(tuple, PINPOINTS))
    assert vlm.scheme.pixels.resampler == "pillow"
    tower = hf.CLIPVisionModel.from_pretrained(tmp_path / "m" / "tower").eval()
    assert vlm.projector is not None
    mlp = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.GELU(), torch.nn.Linear(48, 48))
    mlp.load_state_dict(vlm.projector.state_dict())
    for n, (height, width) in enumerate(SIZES):
        p = patchify_clips([picture(height, width, seed=n)], vlm.scheme)
        views = unpatchify(normalise(p, vlm.scheme.pixels), vlm.scheme.pixels)
        with torch.no_grad():
            pixels = torch.stack([view[0].permute(2, 0, 1) for view in views])
            flat = mlp(tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
            got = vlm.encode(p).tokens.check()
        torch.testing.assert_close(got.x, packed(flat, rule, height, width), atol=2e-5, rtol=1e-4)


def test_llava_onevision_s_rows_equal_those_of_its_parts(tmp_path: Path):
    """anyres_max_2 of a SigLIP stored without its last layer; the language model is Qwen2, as its class says."""
    config = hf.SiglipVisionConfig(**TOWER, image_size=SIDE, patch_size=PATCH)
    tower: Any = randomised(hf.SiglipVisionModel(config), 1, 0.15)
    tower.save_pretrained(tmp_path / "tower")
    lm: Any = randomised(hf.Qwen2ForCausalLM(hf.Qwen2Config(**{**TEXT, "vocab_size": 160}, **HEADS, pad_token_id=0)))
    torch.manual_seed(2)
    projector = build_projector("mlp2x_gelu", 32, 48)
    said: dict[str, Any] = {
        **lm.config.to_dict(),
        "model_type": "llava",
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "anyres_max_2",
        "image_grid_pinpoints": "(1x1),...,(3x3)",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": "bilinear",
    }
    stored = {k: v for k, v in tower.state_dict().items() if ".layers.2." not in k and "head." not in k}
    tensors = {k: v.clone() for k, v in lm.state_dict().items()}
    tensors |= {f"model.vision_tower.vision_tower.{k}": v.clone() for k, v in stored.items()}
    tensors |= {f"model.mm_projector.{k}": v.clone() for k, v in projector.state_dict().items()}
    tensors["model.image_newline"] = torch.linspace(-1, 1, 48)
    (tmp_path / "config.json").write_text(json.dumps(said), encoding="utf-8")
    save_file(tensors, str(tmp_path / "model.safetensors"))
    vlm = opened(tmp_path)
    assert vlm.encoder.config.layers == 2 and vlm.scheme.states == (2,)
    rule = vlm.scheme.views
    assert rule is not None and rule.most == 2 and vlm.scheme.alone

    def features(p: Packed) -> Tensor:
        views = unpatchify(normalise(p, vlm.scheme.pixels), vlm.scheme.pixels)
        pixels = torch.cat([view.permute(0, 3, 1, 2) for view in views])
        states = tower(pixels, output_hidden_states=True).hidden_states[-2]
        return projector(pack(list(states), [Item.of(1, 4, 4)] * len(states))).x.view(len(p), 16, 48)

    for height, width in SIZES:
        p = patchify_clips([picture(height, width)], vlm.scheme)
        tiling = rule.tiling(height, width)
        with torch.no_grad():
            flat, got = features(p), vlm.encode(p).tokens.check()
        grid = flat[1:].view(tiling.rows, tiling.cols, 4, 4, 48).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)
        grid = unpad_image(grid, (height, width))
        times = (grid.shape[1] * grid.shape[2] / (2 * 4**2)) ** 0.5
        if times > 1.1:
            smaller = [int(side // times) for side in grid.shape[1:]]
            grid = torch.nn.functional.interpolate(grid[None], smaller, mode="bilinear")[0]
        newline = torch.linspace(-1, 1, 48)[:, None, None].expand(48, grid.shape[1], 1)
        joined = torch.cat([grid, newline], dim=2).flatten(1).T
        torch.testing.assert_close(got.x, torch.cat([flat[0], joined]), atol=2e-5, rtol=1e-4)
    vlm.tokenizer = tokenizer(TAG_TEMPLATE)
    several = ask(vlm, [picture(20, 40), picture(60, 90, seed=1)], "Why?")
    assert several.rows.tokens.lengths == (17, 17) and [c.height for c in several.clips] == [40, 90]


@pytest.mark.parametrize("merge", MERGES)
def test_a_question_about_views_is_answered(merge: str, tmp_path: Path):
    vlm = opened(llava_folder(tmp_path / "m", mm_patch_merge_type=merge))
    vlm.tokenizer = tokenizer(TAG_TEMPLATE)
    clips = [picture(60, 90), picture(33, 20, seed=1)]
    question = ask(vlm, clips, "Why?")
    rule = vlm.scheme.views
    assert rule is not None
    expected = sum(sum(rule.tokens(c.height, c.width, (4, 4))) for c in clips)
    assert int(question.ready.visual.sum()) == len(question.rows.tokens.x) == expected
    assert question.sides == (PATCH,) * len(question.rows.tokens)
    answer = vlm.generate(question.ready, max_new_tokens=4)
    rows, ids = question.rows.tokens.x, question.ready.input_ids
    embeds = vlm.speaker.embed(ids)
    embeds[question.ready.visual] = rows
    lm: Any = vlm.speaker.lm
    greedy = lm.generate(inputs_embeds=embeds.detach(), max_new_tokens=4, do_sample=False)
    assert torch.equal(answer, greedy)


def test_rows_chosen_before_the_projector_are_joined_and_asked_about(tmp_path: Path):
    folder = llava_folder(tmp_path / "m")

    def reduce(p: Any) -> Any:
        return select(p, norm(p), budget=20)

    vlm = VLM.from_pretrained(folder, vision_tower=folder / "tower", reduce=reduce)
    vlm.tokenizer = tokenizer(TAG_TEMPLATE)
    question = ask(vlm, [picture(20, 70)], "Why?")
    rows = question.rows.tokens
    newline = (rows.x == torch.linspace(-1, 1, 48)).all(dim=1)
    assert int((~newline).sum()) == 20 and bool(blank_rows(rows)[newline].all())
    vlm.generate(question.ready, max_new_tokens=2)


def test_a_clip_has_one_view_a_frame(tmp_path: Path):
    vlm = opened(llava_folder(tmp_path / "m"))
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    with torch.no_grad():
        rows = vlm.encode(patchify_clips([Clip(frames, (0.0, 1.0, 2.0), is_video=True)], vlm.scheme)).tokens
    assert rows.lengths == (3 * 16 + 1,)
    torch.testing.assert_close(rows.x[-1], torch.linspace(-1, 1, 48))


def test_it_is_written_and_read_again(tmp_path: Path):
    vlm = opened(llava_folder(tmp_path / "m"))
    vlm.save_pretrained(tmp_path / "ours")
    again = VLM.from_pretrained(tmp_path / "ours")
    assert again.scheme == vlm.scheme
    with torch.no_grad():
        one, two = (v.encode(patchify_clips([picture(60, 90)], v.scheme)).tokens for v in (vlm, again))
    assert one.equal(two)


PIXELS = PixelRecipe(14, "square", size=336)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([[336, 672], [672, 336]], ((672, 336), (336, 672))),
        ("[(336, 672), (672, 336)]", ((672, 336), (336, 672))),
        ("[[336, 672], [672, 336]]", ((672, 336), (336, 672))),
        ("(1x1),...,(2x2)", ((336, 336), (672, 336), (336, 672), (672, 672))),
    ],
)
def test_pinpoints_are_read_as_llava_writes_them(said: object, expected: tuple[tuple[int, int], ...]):
    rule = llava_views({"image_aspect_ratio": "anyres", "image_grid_pinpoints": said}, PIXELS)
    assert rule is not None and rule.pinpoints == expected and rule.join == "flat"


@pytest.mark.parametrize(
    "change",
    [
        {"image_grid_pinpoints": None},
        {"image_grid_pinpoints": "none"},
        {"image_grid_pinpoints": "(1x1),...,(99999x99999)"},
        {"image_grid_pinpoints": [[336, 0]]},
        {"image_grid_pinpoints": [[300, 336]]},
        {"image_grid_pinpoints": [[336, 336.5]]},
        {"image_grid_pinpoints": [[336, 336]] * 2000},
        {"mm_patch_merge_type": "spatial_maxpool2x2"},
        {"mm_patch_merge_type": ["spatial"]},
        {"mm_newline_position": "grid"},
        {"mm_spatial_pool_stride": 2},
    ],
    ids=lambda c: str(c)[:60],
)
def test_views_llava_s_files_cannot_ask_for(change: dict[str, Any]):
    said = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, 672]], "mm_patch_merge_type": "spatial"}
    with pytest.raises(ConfigError):
        llava_views(said | change, PIXELS)
    with pytest.raises(ConfigError):
        llava_views(said, PixelRecipe(14))


@pytest.mark.parametrize("ratio", ["anyres_max_0", "anyres_max_", "highres", "crop_split"])
def test_other_ways_to_cut_are_refused(ratio: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="image_aspect_ratio"):
        opened(llava_folder(tmp_path / "m", image_aspect_ratio=ratio))


def test_a_scheme_with_views_comes_back_and_bad_ones_are_refused():
    rule = ViewRule(28, tuple((h, w) for h, w in PINPOINTS), pool="bilinear", join="unpad")
    scheme = Scheme(LLAVA, PixelRecipe(14), views=rule)
    said = json.loads(json.dumps(scheme_to(scheme)))
    assert scheme_from(said, scheme.pixels.mean, scheme.pixels.std) == scheme
    for change in ({"pinpoints": [28]}, {"pinpoints": [28, 57]}, {"join": "sideways"}, {"tile": "x"}, {"more": 1}, 5):
        wrong = said | {"views": said["views"] | change if isinstance(change, dict) else change}
        with pytest.raises(ConfigError):
            scheme_from(wrong, scheme.pixels.mean, scheme.pixels.std)
    with pytest.raises(ConfigError):
        replace(scheme, square=True)


def test_a_newline_belongs_to_views_that_are_unpadded(tmp_path: Path):
    vlm = opened(llava_folder(tmp_path / "m"))
    for newline in (None, torch.zeros(5)):
        with pytest.raises(ConfigError):
            VLM(vlm.encoder, vlm.speaker, vlm.scheme, projector=vlm.projector, newline=newline)
    with pytest.raises(ConfigError):
        flat = replace(vlm.scheme, views=None)
        VLM(vlm.encoder, vlm.speaker, flat, projector=vlm.projector, newline=torch.zeros(48))
