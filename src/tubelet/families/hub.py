"""Where the weights of published networks are on the Hugging Face hub."""

import re

# Of whose name the hub's is made: a pattern of ours, and the id with what the pattern found
_RULES = (
    (r"clip_vit_(.+)", "openai/clip-vit-{}"),
    (r"mlcd_vit_bigg_(.+)", "DeepGlint-AI/mlcd-vit-bigG-{}"),
    (r"(siglip2?_.+)", "google/{}"),
    (r"(dinov2_.+)", "facebook/{}"),
    (r"(dinov3_.+)", "facebook/{}-pretrain-lvd1689m"),
    (r"(aimv2_.+)", "apple/{}"),
)
_NAMED = {  # the rest; of the Qwen families the whole model whose tower it is
    "ov_encoder_large": "lmms-lab-encoder/onevision-encoder-large",
    "pixtral_12b_vision": "mistral-community/pixtral-12b",
    "mistral_small_3_1_vision": "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "smolvlm_256m_vision": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "smolvlm_2b_vision": "HuggingFaceTB/SmolVLM-Instruct",
    "idefics3_8b_vision": "HuggingFaceM4/Idefics3-8B-Llama3",
    "internvit_300m_patch14_448": "OpenGVLab/InternVL3-1B-hf",
    "qwen2_vl_2b_vision": "Qwen/Qwen2-VL-2B-Instruct",
    "qwen2_vl_7b_vision": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen2_5_vl_3b_vision": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2_5_vl_7b_vision": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3_vl_4b_vision": "Qwen/Qwen3-VL-4B-Instruct",
}


def hub_id(variant: str) -> str | None:
    """The repository with a variant's weights, alone or inside the whole model they were published in; None where the
    hub has none. Nothing is asked of it.

    >>> hub_id("siglip_so400m_patch14_384"), hub_id("qwen3_vl_4b_vision"), hub_id("llava_vit_packing_small")
    ('google/siglip-so400m-patch14-384', 'Qwen/Qwen3-VL-4B-Instruct', None)
    """
    for pattern, repository in _RULES:
        if found := re.fullmatch(pattern, variant):
            return repository.format(found[1].replace("_", "-"))
    return _NAMED.get(variant)
