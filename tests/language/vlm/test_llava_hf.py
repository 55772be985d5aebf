"""transformers' LLaVA 1.5 and LlavaOnevision in the same process: words, ids, pixels, logits, answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tests.language.vlm.peers import Peer, bpe, opened
from tests.language.vlm.tiny_speakers import randomised

from tubelet import VLM
from tubelet.errors import ConfigError
from tubelet.language.vlm.layouts import HUB_IDS, LAYOUTS
from tubelet.language.vlm.llava import most_views
from tubelet.language.vlm.qwen import RULES

SIDE, PATCH = 28, 7
SPECIAL = ("<image>", "<video>")
TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}
# LLaVA 1.5's own; that of LlavaOnevision puts pictures before clips and both before the text
VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% for content in message['content'] %}"
    "{{ '<image>\n' if content['type'] == 'image' else content['text'] }}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llava(tower: str, folder: Path) -> Peer:
    kind: Any = {"clip": hf.CLIPVisionConfig, "siglip": hf.SiglipVisionConfig}[tower]
    words = bpe(SPECIAL, bos="<s>")
    config = hf.LlavaConfig(
        vision_config=kind(**TOWER, image_size=SIDE, patch_size=PATCH),
        text_config=hf.LlamaConfig(**TEXT, **HEADS, vocab_size=len(words), pad_token_id=0),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2 if tower == "clip" else -1,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
    )
    size: dict[str, Any] = {"crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": SIDE}}
    images: Any = hf.CLIPImageProcessor(**size)
    if tower == "siglip":
        images = hf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = hf.LlavaProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(tower == "clip"),
        chat_template=VICUNA,
    )
    return opened(randomised(hf.LlavaForConditionalGeneration(config), scale=0.15), processor, folder)


def onevision(folder: Path, most: int = 2) -> Peer:
    words = bpe((*SPECIAL, "<|im_start|>", "<|im_end|>"))
    sides = (SIDE, 2 * SIDE, 3 * SIDE)
    pinpoints = [[h, w] for h in sides for w in sides]
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, image_size=SIDE, patch_size=PATCH, vision_use_head=False),
        text_config=hf.Qwen2Config(**TEXT, **HEADS, vocab_size=len(words), pad_token_id=0),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio=f"anyres_max_{most}",
    )
    size = {"height": SIDE, "width": SIDE}
    half: dict[str, Any] = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(**half, image_grid_pinpoints=pinpoints),
        words,
        hf.LlavaOnevisionVideoProcessor(**half),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=QWEN,
        vision_aspect_ratio=f"anyres_max_{most}",
    )
    return opened(randomised(hf.LlavaOnevisionForConditionalGeneration(config), scale=0.15), processor, folder)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return llava(request.param, tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return onevision(tmp_path_factory.mktemp("onevision"))


@pytest.mark.parametrize("sizes", [[(60, 90)], [(28, 28), (131, 47)], []], ids=len)
def test_llava_says_what_transformers_says(plain: Peer, sizes: list[tuple[int, int]]):
    plain.check(plain.pictures(sizes))


def test_a_batch_of_llava_with_padding(plain: Peer):
    plain.check_batch([plain.pictures([(60, 90)]), plain.pictures([(20, 70), (30, 30)]), []])


# sides of 2 views' tokens: none to sample down, some, extreme; the widest is 9 views
@pytest.mark.parametrize("size", [(28, 28), (56, 56), (60, 90), (90, 33), (84, 84), (20, 140), (131, 47), (5, 61)])
def test_onevision_says_what_transformers_says(viewed: Peer, size: tuple[int, int]):
    question = viewed.check(viewed.pictures([size]))
    rule = viewed.vlm.scheme.views
    assert rule is not None
    assert sum(rule.tokens(*size, (4, 4))) == len(question.rows.tokens.x)


def test_of_several_pictures_onevision_sees_each_whole(viewed: Peer):
    question = viewed.check(viewed.pictures([(60, 90), (28, 28), (90, 33)]))
    assert question.rows.tokens.lengths == (17, 17, 17)


def test_onevision_s_clips(viewed: Peer):
    question = viewed.check([viewed.clip(5)])
    assert question.rows.tokens.lengths == (5 * 4 + 1,)


def test_a_clip_before_a_picture_stands_where_the_template_puts_it(viewed: Peer):
    """After it: rows follow their placeholders, whatever the order of the files."""
    clip, [still] = viewed.clip(3), viewed.pictures([(60, 90)])
    question = viewed.check([clip, still])
    assert [item.picture for item in question.rows.tokens.items][-1] == 0
    assert [item.grid.t for item in question.rows.tokens.items][-1] == 3


def test_a_batch_of_onevision_with_padding(viewed: Peer):
    viewed.check_batch([viewed.pictures([(84, 84)]), viewed.pictures([(20, 70), (30, 30)]), [viewed.clip(2)]])


def test_they_come_back_from_a_folder(plain: Peer, viewed: Peer, tmp_path: Path):
    for peer in (plain, viewed):
        peer.saved(tmp_path / str(id(peer))).check(peer.pictures([(60, 90)]))


@pytest.mark.parametrize(
    "change",
    [
        {"vision_aspect_ratio": "anyres"},
        {"vision_aspect_ratio": "anyres_max_0"},
        {"vision_feature_select_strategy": "default"},
        {"image_grid_pinpoints": [[28, 28]]},
        {"projector_hidden_act": "relu"},
        {"image_token_index": "x"},
    ],
    ids=str,
)
def test_what_onevision_does_not_do_is_refused(viewed: Peer, change: dict[str, Any], tmp_path: Path):
    for file in viewed.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | change
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError):
        VLM.from_pretrained(tmp_path)


def test_llava_s_own_processor_pads_to_a_square(plain: Peer, tmp_path: Path):
    """LlavaImageProcessor with do_pad, as a few folders have it."""
    if plain.vlm.encoder.config.prefix == 0:
        return
    size: dict[str, Any] = {"crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": SIDE}}
    own = hf.LlavaProcessor(
        hf.LlavaImageProcessor(**size, do_pad=True),
        plain.processor.tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    peer = opened(plain.model, own, tmp_path)
    assert peer.vlm.scheme.square
    peer.check(peer.pictures([(60, 90)]))


def test_most_views_are_a_number():
    assert most_views("anyres_max_12") == 12
    for wrong in ("anyres_max_", "anyres_max_0", "anyres_max_-1", "max_9", 9, None):
        assert most_views(wrong) is None


def test_every_layout_is_told_with_folders_of_it_and_in_the_guide():
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "whole-models.md").read_text(encoding="utf-8")
    assert set(LAYOUTS) <= set(HUB_IDS)
    for kind in set(LAYOUTS) - set(RULES):
        assert f"(`{kind}`)" in guide
