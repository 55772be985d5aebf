"""Small whole models of transformers with their processors, as `Peer`s."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from PIL import Image
from tests.language.vlm.peers import QUESTION, Peer, bpe, opened
from tests.language.vlm.tiny_speakers import randomised
from transformers.models.smolvlm import processing_smolvlm

from tubelet import Clip

SIDE, PATCH = 28, 7  # 4 x 4 patches, 2 x 2 rows
SIZE: dict[str, Any] = {"size": {"longest_edge": 80}, "max_image_size": {"longest_edge": SIDE}}
TAGS = [f"<row_{row}_col_{col}>" for row in (1, 2, 3) for col in (1, 2, 3)]
SPECIAL = ("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *TAGS)
SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# As num2words 0.5.14 says them
WORDS = {
    0: "zero", 1: "one", 2: "two", 3: "three", 5: "five", 13: "thirteen", 20: "twenty", 64: "sixty-four",
    100: "one hundred", 101: "one hundred and one", 215: "two hundred and fifteen", 1000: "one thousand",
    1001: "one thousand and one", 1100: "one thousand, one hundred",
    1234: "one thousand, two hundred and thirty-four", 20_000: "twenty thousand",
    123_456: "one hundred and twenty-three thousand, four hundred and fifty-six",
}  # fmt: skip
GEMMA: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 16, "num_attention_heads": 4,
    "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


# ---- Idefics3, SmolVLM


@contextmanager
def number_words() -> Iterator[None]:
    """What SmolVLM's processor asks of num2words, from `WORDS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processing_smolvlm, "num2words", WORDS.__getitem__)
        yield


def idefics3(kind: str, folder: Path) -> Peer:
    words = bpe(SPECIAL, bos="<|im_start|>", more={"image_token": "<image>", "video_token": "<video>"})
    more: dict[str, tuple[Any, Any]] = {"idefics3": (hf.Idefics3Config, hf.Idefics3ForConditionalGeneration)}
    more |= {"smolvlm": (hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration)}
    made, model = more[kind]
    config = made(
        vision_config={
            "model_type": f"{kind}_vision", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
        },
        text_config=hf.LlamaConfig(
            hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=len(words), bos_token_id=None, eos_token_id=None, pad_token_id=0,
        ),
        image_token_id=words.image_token_id,
        scale_factor=2,
    )  # fmt: skip
    processor: Any
    if kind == "idefics3":
        processor = hf.Idefics3Processor(hf.Idefics3ImageProcessor(**SIZE), words, image_seq_len=4)
    else:
        clips = hf.SmolVLMVideoProcessor(size={"longest_edge": 50}, max_image_size={"longest_edge": SIDE})
        processor = hf.SmolVLMProcessor(hf.SmolVLMImageProcessor(**SIZE), words, clips, image_seq_len=4)
    processor.chat_template = SMOL_TEMPLATE
    return opened(randomised(model(config), scale=0.15), processor, folder, timed=True)


# ---- PaliGemma


class PaliPeer(Peer):
    """Its processor has no template; the frames of a clip are pictures to it."""

    def words(self, clips: Sequence[Clip]) -> str:
        return f"{'<image>' * len(clips)}<bos>{QUESTION}\n"

    def given(self, prompts: Sequence[Sequence[Clip]], **more: Any) -> Any:
        frames = [[Image.fromarray(frame) for clip in clips for frame in clip.frames] for clips in prompts]
        text = ["<image>" * len(pictures) + QUESTION for pictures in frames]
        self.processor.tokenizer.padding_side = "left"
        made = self.processor(text=text, images=frames, return_tensors="pt", padding=True, **more)
        made.pop("labels")
        return made


def paligemma(kind: str, folder: Path) -> Peer:
    words = bpe(("<image>", "<bos>", "<eos>"), more={"image_token": "<image>"})
    words.bos_token, words.eos_token = "<bos>", "<eos>"
    images: Any = hf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, words)
    sizes = {**GEMMA, "vocab_size": len(words)}
    text: Any = hf.GemmaConfig(**sizes)
    if kind == "paligemma2":
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        text = hf.Gemma2Config(**sizes, sliding_window=24, query_pre_attn_scalar=16, layer_types=kinds)
    config = hf.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH, "vision_use_head": False,
        },
        text_config=text,
        image_token_index=words.image_token_id,
        projection_dim=48,
        hidden_size=48,
    )  # fmt: skip
    made = opened(randomised(hf.PaliGemmaForConditionalGeneration(config), scale=0.15), processor, folder)
    return PaliPeer(made.folder, made.model, made.processor, made.vlm)


# ---- Gemma 3

GEMMA_SIDE, GEMMA_PATCH = 56, 7  # 8 x 8 patches, 4 x 4 rows
GEMMA_NAMES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% for item in message['content'] %}"
    "{{ '<start_of_image>' if item['type'] == 'image' else item['text'] | trim }}{% endfor %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def gemma3(folder: Path) -> Peer:
    words = bpe((*GEMMA_NAMES.values(), "<start_of_turn>", "<end_of_turn>"), bos="<bos>", more=GEMMA_NAMES)
    text: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 16}
    config = hf.Gemma3Config(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": GEMMA_SIDE, "patch_size": GEMMA_PATCH, "vision_use_head": False,
        },
        text_config=hf.Gemma3TextConfig(
            **text, num_attention_heads=4, num_key_value_heads=2, vocab_size=len(words), sliding_window=24,
            query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            bos_token_id=None, eos_token_id=None, pad_token_id=0,
        ),
        mm_tokens_per_image=16,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )  # fmt: skip
    images = hf.Gemma3ImageProcessor(
        size={"height": GEMMA_SIDE, "width": GEMMA_SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor = hf.Gemma3Processor(images, words, chat_template=GEMMA_TEMPLATE, image_seq_length=16)
    model = randomised(hf.Gemma3ForConditionalGeneration(config), scale=0.15)
    return opened(model, processor, folder)


# ---- InternVL

INTERN_NAMES = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}  # fmt: skip
INTERN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def internvl(folder: Path) -> Peer:
    words = bpe((*INTERN_NAMES.values(), "<|im_start|>", "<|im_end|>"), more=INTERN_NAMES)
    tower: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(
            **tower, num_attention_heads=2, image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH], attention_bias=True
        ),
        text_config=hf.Qwen2Config(
            hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=len(words), bos_token_id=None, eos_token_id=None, pad_token_id=0,
        ),
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    size: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.485, 0.456, 0.406]}
    size |= {"image_std": [0.229, 0.224, 0.225]}
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(**size, min_patches=1, max_patches=6),
        words,
        hf.InternVLVideoProcessor(**size),
        image_seq_length=4,
        chat_template=INTERN_TEMPLATE,
    )
    return opened(randomised(hf.InternVLForConditionalGeneration(config), scale=0.15), processor, folder)
