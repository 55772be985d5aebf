"""Small language models with random weights, and the golden cases of a whole model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from tubelet.language.vlm.causal_lm import PlacedCausalLM

GOLDEN = Path(__file__).parents[2] / "golden" / "language"


def randomised(module: nn.Module, seed: int = 0, scale: float = 0.4) -> nn.Module:
    """Every parameter drawn, norms included, so that no test passes because of an identity; large enough that greedy
    choices are not ties."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
            if p.ndim == 1 and name.endswith("weight"):
                p.add_(1.0)
    return module.eval()


def llama(seed: int = 0, **config: Any) -> Any:
    """Two layers of 48 channels, 97 tokens."""
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 97}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    return randomised(LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, "pad_token_id": 0, **config})), seed)


def speaker_of(lm: Any) -> Any:
    """A language model as a speaker; typed loosely, because `generate`'s own type wants a class of transformers."""
    return PlacedCausalLM(lm).eval()


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration of a case and its tensors."""
    config = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["config"]
    return config, load_file(str(GOLDEN / f"{name}.safetensors"))


def golden_speaker(config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """The language model of a case."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: config[name] for name in (*names, "num_key_value_heads", "rms_norm_eps", "pad_token_id")}
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"], **config["rope_scaling"]}
    model = Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(**sizes, rope_parameters=rope, bos_token_id=None, eos_token_id=None)
    )
    state = {k.removeprefix("weight.model."): v for k, v in tensors.items() if k.startswith("weight.model.")}
    model.load_state_dict(state, strict=True)
    head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
    head.load_state_dict({"weight": tensors["weight.lm_head.weight"]})
    return PlacedCausalLM(model, head).eval()


WHOLE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
IDS = {"image_token_id": 150, "video_token_id": 151, "vision_start_token_id": 148, "vision_end_token_id": 149}


def whole_model(
    kind: str,
    seed: int = 0,
    *,
    tie_word_embeddings: bool = False,
    moe_intermediate_size: int = 24,
    vocab_size: int = 160,
    ids: Mapping[str, int] = IDS,
) -> Any:
    """A complete Qwen-VL of transformers: three layers of 64 channels on a tower of three layers of 32, 160 tokens.

    Every parameter is drawn, norms 1 + 0.1 N and matrices so that no layer saturates.
    """
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 3}
    text: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "vocab_size": vocab_size,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text |= heads | {"pad_token_id": 0, "rope_parameters": rope}
    vision: dict[str, Any] = {"depth": 3, "num_heads": 2, "patch_size": 14}
    if kind == "qwen2_vl":
        name = "Qwen2VL"
        vision |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    elif kind == "qwen2_5_vl":
        name = "Qwen2_5_VL"
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "tokens_per_second": 2}
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    else:
        name = "Qwen3VL"
        text |= {"head_dim": 16}
        if kind == "qwen3_vl_moe":
            name = "Qwen3VLMoe"
            text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": moe_intermediate_size}
        text.pop("bos_token_id")
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "num_position_embeddings": 64}
        vision |= {"deepstack_visual_indexes": [0, 2]}
    made: Any = getattr(transformers, f"{name}Config")
    config = made(text_config=text, vision_config=vision, tie_word_embeddings=tie_word_embeddings, **ids)
    model: Any = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            drawn = torch.randn(p.shape, generator=generator)
            norm = p.ndim == 1 and name.endswith("weight")
            fan = p.shape[-1] if ".experts." in name else p[0].numel()
            p.copy_(1 + 0.1 * drawn if norm else drawn * (fan**-0.5 if p.ndim > 1 else 0.1))
        table = model.get_input_embeddings().weight
        table.copy_(torch.randn(table.shape, generator=generator))
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")  # ids 148 to 151
PARTS_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TAG_TEMPLATE = (  # fmt: skip
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer(template: str | None = PARTS_TEMPLATE) -> Any:
    """One token a letter: ASCII and then Cyrillic up to id 147, then the four ids that stand for pixels."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(i) for i in range(32, 127)] + ["\n"] + [chr(0x430 + i) for i in range(48)]
    vocabulary = {"<pad>": 0, "<bos>": 1, "<unk>": 2, "<eos>": 3}
    vocabulary |= {letter: i for i, letter in enumerate(letters, 4)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    around = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=list(SPECIAL), **around)
    assert fast.convert_tokens_to_ids(list(SPECIAL)) == [148, 149, 150, 151]
    fast.chat_template = template
    return fast
