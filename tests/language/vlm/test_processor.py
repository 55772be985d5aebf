"""`ask` against transformers' own processor and model on the same folder: a trained byte-level tokenizer, its special
tokens, a template with a system message; the same ids in, the same ids out."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.language.vlm.tiny_speakers import WHOLE, whole_model
from transformers import AutoProcessor, PreTrainedTokenizerFast
from transformers.video_utils import VideoMetadata

from tubelet import VLM, Clip
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.stream import TokenStreamer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PIXELS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
FIRST = 320  # id of the first special token; bytes and what was learned stand before it
NAMES = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou look closely.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "the dog sees the other dog",
    "what do you see in this picture? a dog, a dog and a tree.",
    "0.2 seconds, 1.5 seconds",
]
QUESTION = "Wie heißt der Hund? 狗的名字是什么? 🐕 0.2 seconds"


def tokenizer() -> Any:
    """Byte-level BPE: every text has ids, letters beyond ASCII of several tokens each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT * 9, trainers.BpeTrainer(vocab_size=FIRST, initial_alphabet=alphabet, min_frequency=2)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    missing = [f"<unused{i}>" for i in range(FIRST - len(fast))]
    fast.add_tokens(missing)
    fast.add_special_tokens({"additional_special_tokens": [SPECIAL[1], *PIXELS]})
    return fast


@pytest.fixture(scope="module", params=WHOLE)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any, VLM]:
    """(kind, transformers' processor, transformers' model, ours) of one folder as it is published."""
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    fast = tokenizer()
    ids = {name: fast.convert_tokens_to_ids(token) for name, token in zip(NAMES, PIXELS, strict=True)}
    model = whole_model(kind, seed=3, vocab_size=len(fast), ids=ids)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}.get(kind, "Qwen3VL")
    cut: dict[str, Any] = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    cut |= {"processor_class": f"{name}Processor"}
    if kind.startswith("qwen3"):  # as its published files say; the class's own default is CLIP's
        cut |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    limits = {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 24}
    said = cut | limits | {"image_processor_type": "Qwen2VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    whole = kind.startswith("qwen3")
    budget = {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * (90 if whole else 12)}
    processor = "Qwen3VLVideoProcessor" if whole else "Qwen2VLVideoProcessor"
    said = cut | {"video_processor_type": processor, "size": budget, "cap_pixels_per_frame": False}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
    return kind, AutoProcessor.from_pretrained(folder), model, VLM.from_pretrained(folder)


def picture(height: int, width: int, seed: int) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return Clip(pixels, (0.0,), f"{height}x{width}")


def messages(*kinds: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": QUESTION}]}]


@pytest.mark.parametrize("sizes", [[(90, 140)], [(200, 120), (60, 61), (133, 400)], []], ids=len)
def test_pictures_and_words_are_the_processor_s(both: tuple[str, Any, Any, VLM], sizes: list[tuple[int, int]]):
    _, processor, model, vlm = both
    clips = [picture(h, w, i) for i, (h, w) in enumerate(sizes)]
    question = ask(vlm, clips, QUESTION)
    text = processor.apply_chat_template(messages(*["image"] * len(clips)), tokenize=False, add_generation_prompt=True)
    given = processor(text=[text], images=[Image.fromarray(c.frames[0]) for c in clips] or None, return_tensors="pt")
    assert question.text == text
    assert torch.equal(question.ready.input_ids, given["input_ids"])
    if clips:
        assert torch.equal(question.patches.grid_thw, given["image_grid_thw"])
    want = model.generate(**given, max_new_tokens=12, do_sample=False)[:, given["input_ids"].shape[1] :]
    assert torch.equal(vlm.generate(question.ready, max_new_tokens=12), want)


def test_a_clip_is_sized_and_worded_as_the_processor_does(both: tuple[str, Any, Any, VLM]):
    """Uneven frames at their own times. Qwen3-VL's of transformers 5 leaves the template's start and end around all."""
    kind, processor, _, vlm = both
    frames = np.random.default_rng(1).integers(0, 256, (5, 120, 160, 3), dtype=np.uint8)
    number = [0, 3, 4, 11, 20]
    clip = Clip(frames, tuple(n / 10 for n in number), "clip", is_video=True)
    question = ask(vlm, [clip], QUESTION)
    text = processor.apply_chat_template(messages("video"), tokenize=False, add_generation_prompt=True)
    told = VideoMetadata(total_num_frames=21, fps=10.0, frames_indices=list(number), duration=2.1)
    given = processor(text=[text], videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="pt",
                      videos_kwargs={"video_metadata": [told], "do_sample_frames": False})  # fmt: skip
    theirs = given["input_ids"][0].tolist()
    if kind.startswith("qwen3"):
        start, end = vlm.scheme.token_ids.start, vlm.scheme.token_ids.end
        theirs.pop(theirs.index(start))
        theirs.pop(len(theirs) - 1 - theirs[::-1].index(end))
    assert torch.equal(question.patches.grid_thw, given["video_grid_thw"])
    assert question.ready.input_ids[0].tolist() == theirs


def test_an_answer_told_in_pieces_is_the_whole_one(both: tuple[str, Any, Any, VLM]):
    """Letters of several tokens are not told by halves."""
    _, _, _, vlm = both
    ids = vlm.tokenizer.encode(f"{QUESTION}\n{QUESTION} dog, dogs\n\n 🐕🐕", add_special_tokens=False)
    said: list[str] = []
    streamer = TokenStreamer(vlm.tokenizer, said.append)
    streamer.put(torch.tensor([[1, 2]]))
    for i in [*ids, vlm.tokenizer.eos_token_id]:
        streamer.put(torch.tensor([i]))
        assert "�" not in "".join(said)
    streamer.end()
    assert "".join(said) == vlm.tokenizer.decode(ids)
    assert streamer.tokens == len(ids) + 1
