"""Questions in a model's own words: what the template says, where rows go, which frames are timed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.language.vlm.tiny_speakers import PARTS_TEMPLATE, TAG_TEMPLATE, llama, tokenizer, whole_model
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from tubelet import Clip, untrained
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import AlignmentError, ConfigError, LimitError
from tubelet.language import build_projector
from tubelet.language.placing.rules import LLAVA
from tubelet.language.vlm.chat import apply_chat_template, ask, pad_to_square, timestamps
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import Scheme
from tubelet.language.vlm.stream import TokenStreamer
from tubelet.pixels.recipe import PixelRecipe

IMAGE, VIDEO, START, END = 150, 151, 148, 149


def clip(frames: int, height: int = 56, width: int = 56, fps: float = 2.0, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Clip(pixels, tuple(i / fps for i in range(frames)), "clip", is_video=frames > 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = {}
    for kind in ("qwen2_5_vl", "qwen3_vl"):
        out[kind] = tmp_path_factory.mktemp(kind)
        whole_model(kind).save_pretrained(out[kind])
        tokenizer().save_pretrained(out[kind])
    return out


def loaded(folder: Path) -> VLM:
    vlm = VLM.from_pretrained(folder)
    recipe = replace(vlm.scheme.pixels, min_pixels=None, max_pixels=28 * 28 * 16)
    vlm.scheme = replace(vlm.scheme, pixels=recipe, video_pixels=recipe)
    return vlm


def letters(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False)


def test_items_stand_where_the_template_puts_them(folders: dict[str, Path]):
    vlm = loaded(folders["qwen2_5_vl"])
    question = ask(vlm, [clip(1), clip(4), clip(1, 84, 56)], "Why?")
    a, b, c = question.rows.tokens.lengths
    want = [*letters("<user>"), START, *[IMAGE] * a, END, START, *[VIDEO] * b, END, START, *[IMAGE] * c, END]
    assert question.ready.input_ids[0].tolist() == want + letters("Why?\n<assistant>")
    assert question.rows.tokens.items[1].grid.t == 2
    assert question.sides == (28, 28, 28)
    assert (a, b, c) == (4, 8, 6)


def test_a_later_turn_has_the_words_before_it_and_encodes_nothing_again(folders: dict[str, Path]):
    vlm = loaded(folders["qwen2_5_vl"])
    first = ask(vlm, [clip(1)], "Why?")
    answer = vlm.tokenizer.decode(vlm.generate(first.ready, max_new_tokens=4)[0])
    asked_before = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}
    history = [asked_before, {"role": "assistant", "content": answer}]
    misses = vlm.cache.counts.misses
    second = ask(vlm, [clip(1), clip(4)], "And now?", history=history)
    assert vlm.cache.counts.misses == misses + 1
    assert second.text == f"{first.text[: -len('<assistant>')]}<assistant>{answer}\n<user>" + (
        "<|vision_start|><|video_pad|><|vision_end|>And now?\n<assistant>"
    )


def test_frames_of_a_clip_are_timed_where_the_model_wants_that(folders: dict[str, Path]):
    """5 frames: the last row of time holds one frame twice, and its time is that frame's."""
    vlm = loaded(folders["qwen3_vl"])
    question = ask(vlm, [clip(1), clip(5)], "Why?")
    first, second = question.rows.tokens.lengths
    assert question.rows.tokens.items[1].grid.t == 3
    frame = [START, *[VIDEO] * (second // 3), END]
    times = [token for when in ("0.2", "1.2", "2.0") for token in [*letters(f"<{when} seconds>"), *frame]]
    want = [*letters("<user>"), START, *[IMAGE] * first, END, *times, *letters("Why?\n<assistant>")]
    assert question.ready.input_ids[0].tolist() == want


def test_frames_without_rows_have_no_time(folders: dict[str, Path]):
    vlm = loaded(folders["qwen3_vl"])
    vlm.reduce = lambda p: p.keep((p.pos[:, 0] != 1).nonzero()[:, 0])
    question = ask(vlm, [clip(6)], "Why?")
    said = vlm.tokenizer.decode([t for t in question.ready.input_ids[0].tolist() if t not in (START, VIDEO, END)])
    assert said == "<user><0.2 seconds><2.2 seconds>Why?\n<assistant>"
    assert vlm.generate(question.ready, max_new_tokens=2).shape == (1, 2)


@pytest.mark.parametrize(("frames", "temporal"), [(1, 2), (4, 2), (5, 2), (7, 3), (6, 1)])
def test_times_are_the_processor_s(frames: int, temporal: int):
    indices = [3 * i for i in range(frames)]
    theirs: Any = Qwen3VLProcessor._calculate_timestamps
    assert timestamps([i / 24 for i in indices], temporal) == theirs(None, list(indices), 24.0, temporal)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('images only') }}",
        "{{ messages[0].content + 'text' }}",
        "{{ messages[7].role }}",
    ],
    ids=["not a template", "it refuses", "for text alone", "other messages"],
)
def test_a_template_that_fails_is_told(template: str):
    scheme = Scheme(LLAVA, PixelRecipe(14))
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}
    with pytest.raises(ConfigError, match="chat template cannot") as e:
        apply_chat_template([message], tokenizer(template), scheme)
    assert e.value.__cause__ is not None


def test_a_question_with_a_placeholder_in_it_is_refused(folders: dict[str, Path]):
    """It would be taken for a picture; so would one more or less than the template put there."""
    vlm = loaded(folders["qwen2_5_vl"])
    with pytest.raises(AlignmentError, match="2 placeholders in the prompt for 1 items"):
        ask(vlm, [clip(1)], "What is <|image_pad|>?")
    vlm.tokenizer.chat_template = "{{ messages[0].content[-1].text }}"
    with pytest.raises(AlignmentError, match="0 placeholders in the prompt for 1 items"):
        ask(vlm, [clip(1)], "Why?")


# ---- LLaVA's words


def llava(template: str | None = TAG_TEMPLATE) -> VLM:
    pixels = PixelRecipe(14, "square", size=28)
    encoder = untrained(EncoderConfig(hidden=48, layers=2, heads=2, mlp=64, pixels=PixelRecipe(14), rope=None))
    scheme = Scheme(LLAVA, pixels, states=(1,), wording="image_tag", square=True)
    torch.manual_seed(0)
    projector = build_projector("linear", 48, 48)
    return VLM(encoder, llama(vocab_size=160), scheme, projector=projector, tokenizer=tokenizer(template))


def test_llava_is_told_of_pictures_by_a_tag():
    question = ask(llava(), [clip(1, 20, 40), clip(1)], "Why?")
    newline = letters("\n")
    image = [-200] * 4 + newline
    ready = question.ready
    want = letters("user: ") + image * 2 + letters("Why?\nassistant:")
    assert question.text == "user: <image>\n<image>\nWhy?\nassistant:"
    assert ready.input_ids[0].tolist() == [max(t, 0) for t in want]
    assert ready.visual[0].tolist() == [t == -200 for t in want]
    assert ready.places.shape == (1, len(want))
    assert question.clips[0].frames.shape == (1, 40, 40, 3)


@pytest.mark.parametrize(("height", "width"), [(20, 41), (41, 20), (30, 30)])
def test_squared_is_llava_s_expand2square(height: int, width: int):
    from PIL import Image

    recipe = PixelRecipe(14)
    one = clip(1, height, width)
    side = max(height, width)
    page = Image.new("RGB", (side, side), tuple(int(m * 255) for m in recipe.mean))
    page.paste(Image.fromarray(one.frames[0]), ((side - width) // 2, (side - height) // 2))
    assert np.array_equal(pad_to_square(one, recipe).frames[0], np.asarray(page))


# ---- what is refused


@pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1), (100, 16_001)])
def test_a_line_is_not_made_a_square(size: tuple[int, int]):
    """Of a file of 300 bytes it would have 13 GB."""
    with pytest.raises(LimitError, match="4 x max_pixels"):
        pad_to_square(clip(1, *size), PixelRecipe(14))


def test_without_a_tokenizer_or_a_template_it_says_so(folders: dict[str, Path]):
    vlm = loaded(folders["qwen2_5_vl"])
    vlm.tokenizer = None
    with pytest.raises(ConfigError, match="no tokenizer"):
        ask(vlm, [clip(1)], "Why?")
    vlm.tokenizer = tokenizer(None)
    with pytest.raises(ConfigError, match="no chat template"):
        ask(vlm, [clip(1)], "Why?")


def test_placeholders_in_a_question_are_not_taken_for_pictures(folders: dict[str, Path]):
    with pytest.raises(AlignmentError):
        ask(loaded(folders["qwen2_5_vl"]), [clip(1)], "What is <|image_pad|>?")
    with pytest.raises(AlignmentError):
        ask(llava(), [clip(1)], "What is <image>?")


def test_a_template_that_drops_a_picture_is_an_error(folders: dict[str, Path]):
    vlm = loaded(folders["qwen3_vl"])
    vlm.tokenizer = tokenizer("{{ messages[0].role }}")
    with pytest.raises(AlignmentError, match="no place"):
        ask(vlm, [clip(1)], "Why?")


def test_a_history_with_more_pictures_than_there_are_is_an_error(folders: dict[str, Path]):
    history = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}]
    with pytest.raises(AlignmentError, match="2 items in the history and 1 clips"):
        ask(loaded(folders["qwen2_5_vl"]), [clip(1)], "Why?", history=history)


def test_messages_may_be_plain_text():
    messages = [{"role": "user", "content": "Hi"}]
    scheme = Scheme(LLAVA, PixelRecipe(14))
    for template, wording, want in (
        (PARTS_TEMPLATE, "parts", "<user>Hi\n<assistant>"),
        (TAG_TEMPLATE, "image_tag", "user: Hi\nassistant:"),
    ):
        assert apply_chat_template(messages, tokenizer(template), replace(scheme, wording=wording)) == want


# ---- the streamer


def test_the_streamer_tells_text_tokens_and_when_the_first_came(folders: dict[str, Path]):
    vlm = loaded(folders["qwen2_5_vl"])
    question = ask(vlm, [clip(1)], "Why?")
    said: list[str] = []
    ticks = iter(range(100))
    streamer = TokenStreamer(vlm.tokenizer, said.append, clock=lambda: float(next(ticks)))
    ids = vlm.generate(question.ready, max_new_tokens=7, streamer=streamer)
    assert "".join(said) == vlm.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert (streamer.tokens, streamer.first) == (7, 0.0)
    assert next(ticks) == 1


def test_text_is_told_word_by_word():
    """A word is told when the next one begins at the latest, before the end, and nothing told is taken back."""
    said: list[str] = []
    streamer = TokenStreamer(tokenizer(), said.append)
    streamer.put(torch.tensor([[5, 6, 7]]))
    assert (said, streamer.first, streamer.tokens) == ([], None, 0)
    so_far = []
    for token in letters("no it is\nso"):
        streamer.put(torch.tensor([token]))
        so_far.append("".join(said))
    assert so_far[3].startswith("no ")
    assert so_far[8] == "no it is\n"
    assert all("no it is\nso".startswith(text) for text in so_far)
    streamer.end()
    assert "".join(said) == "no it is\nso"
