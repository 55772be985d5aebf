"""Kinds of whole models, by the model_type in their config.json, each with its layout.

LLaVA's own layout, whose tower may lie elsewhere, and what tubelet writes are `language.vlm.read_folder`'s own.
"""

from tubelet.language.vlm.layout import Layout
from tubelet.language.vlm.llava_hf import LLAVA_1_5, LLAVA_NEXT, LLAVA_ONEVISION
from tubelet.language.vlm.qwen import QWEN_VL, RULES

LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(RULES, QWEN_VL),
    "llava": LLAVA_1_5,  # with a vision_config; LLaVA's own files say llava too, and have none
    "llava_next": LLAVA_NEXT,
    "llava_onevision": LLAVA_ONEVISION,
}
