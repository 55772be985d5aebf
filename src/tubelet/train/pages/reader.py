"""The model that reads pages: this library's encoder and projector, a language model over bytes, one folder.

    page (H, W, 3) -> 16 x 16 patches -> encoder, which merges 2 x 2 -> projector, norm -> rows
    [rows][Q question A answer END]                                            one position each, counted on

The question comes behind the page, so that one encoding serves all its questions. The encoder merges, so that what is
chosen between encoder and projector is what the language model would read, and whole blocks may be left out before it.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.encoder.model import Encoder
from tubelet.language.placing.rules import TokenIds
from tubelet.language.project.projector import build_projector
from tubelet.language.vlm.load_lm import require_transformers
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import Pointer, Scheme
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float

PAD, IMAGE, ASK, ANSWER, END = range(256, 261)  # behind the 256 bytes
SPECIAL = {PAD: "<|pad|>", IMAGE: "<|image|>", ASK: "<|q|>", ANSWER: "<|a|>", END: "<|end|>"}
VOCABULARY = 272
EMBEDDED = 0.1  # standard deviation of fresh embeddings
GAIN = 0.3  # of the projector's norm: rows three times as large as embeddings
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}"
    "{%- if message.content is string -%}<|q|>{{ message.content }}"
    "{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|image|>{%- elif part.type == 'text' -%}<|q|>{{ part.text }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- elif message.content is string -%}<|a|>{{ message.content }}<|end|>"
    "{%- else -%}<|a|>{%- for part in message.content -%}{{ part.text }}{%- endfor -%}<|end|>"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|a|>{%- endif -%}"
)


@dataclass(frozen=True)
class ReaderConfig:
    """Widths and depths of a reader."""

    hidden: int = 256  # of encoder and language model
    heads: int = 4  # of 64 channels, what the 4 : 6 : 6 split of the angles needs
    layers: int = 6  # of the encoder
    mlp: int = 1024  # of the encoder
    text_layers: int = 4
    text_mlp: int = 480  # gated
    pointing: int = 2  # layer of the language model whose first head learns to point
    theta: float = 100.0  # of the encoder's angles: grids have fewer than 64 rows and columns
    max_pixels: int = 320 * 480  # larger pages are made smaller


def build_reader(config: ReaderConfig = ReaderConfig(), *, seed: int = 0) -> VLM:
    """A reader with fresh weights drawn from `seed`; torch's global generator is left as it was.

    The default has 8.9 million parameters, 17.9 MB in half precision. Raises RunError without transformers.

        >>> vlm = build_reader()
        >>> vlm.save_pretrained("reader") and tubelet.VLM.from_pretrained("reader").width
        256
    """
    require_transformers("a reader")
    pixels = PixelRecipe(16, rule="native_floor", merge=2, order="block")
    encoder_config = EncoderConfig(
        config.hidden,
        config.layers,
        config.heads,
        config.mlp,
        pixels,
        act="gelu_tanh",
        rope=Rope("rotation", theta=config.theta),
        pool=False,
        spans=("frame",),  # it learns from single pages, so a clip is pages one after the other
        merger=Merger(2, config.hidden),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(encoder_config)
        projector = build_projector("linear", config.hidden, config.hidden, norm_out=True)
        lm = _language_model(config)
        for module in encoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, matrix in encoder.layers.named_parameters():  # what a layer adds is small at first
            if name.endswith(("proj.weight", "fc2.weight")):
                nn.init.normal_(matrix, std=1 / math.sqrt(2 * config.layers * matrix.shape[1]))
        cosines = grey_cosines(pixels.patch)[: config.hidden]
        encoder.patch.weight.data[: len(cosines)] = cosines
    if projector.norm_out is not None:
        nn.init.constant_(projector.norm_out.weight, GAIN)
    seen = replace(pixels, max_pixels=config.max_pixels)
    scheme = Scheme(TokenIds(image=IMAGE), seen, pointer=Pointer(config.pointing))
    return VLM(encoder, lm, scheme, projector=projector, tokenizer=byte_tokenizer())


def grey_cosines(patch: int) -> Float[Tensor, "F W"]:
    """The 2-D cosines of a grey patch as rows of a patch embedding, the slowest first: an orthonormal base of what
    black on white can show. The mean counts a tenth, for paper is bright everywhere.

    Beside random rows, it told 28 for 23 of 100 letters after the same 4,000 pages.
    """
    n = torch.arange(patch, dtype=torch.float32)
    wave = torch.cos(math.pi * (n + 0.5)[None] * n[:, None] / patch) * math.sqrt(2 / patch)
    wave[0] /= math.sqrt(2)
    both = torch.einsum("ay,bx->abyx", wave, wave).flatten(2).flatten(0, 1)
    both[0] *= 0.1
    order = (n[:, None] + n[None]).flatten().argsort(stable=True)
    return both[order].repeat(1, 3) / math.sqrt(3)


def _language_model(config: ReaderConfig) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=config.hidden,
        intermediate_size=config.text_mlp,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        initializer_range=1 / math.sqrt(config.hidden),
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    lm = Qwen2ForCausalLM(text)
    table: Any = lm.get_input_embeddings()
    nn.init.normal_(table.weight, std=EMBEDDED)
    return lm


def byte_tokenizer() -> Any:
    """transformers' fast tokenizer whose tokens are the 256 bytes in order and five special ones, with the template.

    >>> byte_tokenizer().encode("A€")
    [65, 226, 130, 172]
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = _byte_letters()
    made = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([SPECIAL[i] for i in sorted(SPECIAL)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=SPECIAL[PAD], eos_token=SPECIAL[END], clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: itself where it prints, else one from 256 on."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]
