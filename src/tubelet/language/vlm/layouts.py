"""Kinds of whole models, by the model_type in their config.json, each with its layout.

LLaVA's own layout, whose tower may lie elsewhere, and what tubelet writes are `language.vlm.read_folder`'s own. No
torch is needed for these.
"""

from collections.abc import Mapping
from typing import Any

from tubelet.language.vlm.gemma3 import GEMMA_3
from tubelet.language.vlm.idefics3 import IDEFICS_3, SMOL_VLM
from tubelet.language.vlm.internvl import INTERNVL
from tubelet.language.vlm.layout import Layout, ModelFiles
from tubelet.language.vlm.llava import LLAVA_BASES
from tubelet.language.vlm.llava_hf import LLAVA_1_5, LLAVA_NEXT, LLAVA_ONEVISION
from tubelet.language.vlm.paligemma import PALIGEMMA
from tubelet.language.vlm.qwen import QWEN_VL, RULES
from tubelet.weights.locate import CheckpointFolder

LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(RULES, QWEN_VL),
    "llava": LLAVA_1_5,  # with a vision_config; LLaVA's own files say llava too, and have none
    "llava_next": LLAVA_NEXT,
    "llava_onevision": LLAVA_ONEVISION,
    "gemma3": GEMMA_3,
    "internvl": INTERNVL,
    "idefics3": IDEFICS_3,
    "smolvlm": SMOL_VLM,
    "paligemma": PALIGEMMA,  # 1 and 2
}
# What tests/language/vlm compare with transformers' own code, live; of kinds that are not here with recorded cases
PROOFS = ("words", "ids", "logits", "answers")
VERIFIED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(set(LAYOUTS) - set(RULES), PROOFS),
    **dict.fromkeys(RULES, ("words", "ids", "answers")),  # of pictures; clips are worded otherwise on purpose
}
# Published folders of each, and of the two whose layouts are read by `read_folder` itself; names, never followed
HUB_IDS: dict[str, tuple[str, ...]] = {
    "qwen2_vl": ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
    "qwen2_5_vl": ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    "qwen3_vl": ("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"),
    "qwen3_vl_moe": ("Qwen/Qwen3-VL-30B-A3B-Instruct",),
    "llava": ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf"),
    "llava_next": ("llava-hf/llava-v1.6-vicuna-7b-hf", "llava-hf/llava-v1.6-mistral-7b-hf"),
    "llava_onevision": ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    "gemma3": ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it"),
    "internvl": ("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3-8B-hf", "OpenGVLab/InternVL3_5-8B-HF"),
    "idefics3": (
        "HuggingFaceM4/Idefics3-8B-Llama3",
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        "HuggingFaceTB/SmolVLM-500M-Instruct",
        "HuggingFaceTB/SmolVLM-Instruct",
    ),
    "smolvlm": (
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    ),
    "paligemma": (
        "google/paligemma-3b-mix-224",
        "google/paligemma-3b-mix-448",
        "google/paligemma2-3b-mix-224",
        "google/paligemma2-10b-mix-448",
    ),
    "spatial-mllm": ("Diankun/Spatial-MLLM-subset-sft",),
    "llava_qwen": ("lmms-lab/llava-onevision-qwen2-0.5b-ov", "lmms-lab/llava-onevision-qwen2-7b-ov"),
}


def is_layout(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a kind in `LAYOUTS`. LLaVA's own files share a name with one, without its parts."""
    kind = config.get("model_type")
    return kind in LAYOUTS and (kind not in LLAVA_BASES or isinstance(config.get("vision_config"), Mapping))


def files_of(folder: CheckpointFolder, config: Mapping[str, Any]) -> ModelFiles:
    """What the folder's small files say."""
    return ModelFiles(str(config.get("model_type")), config, folder.processor() or {}, folder.video_processor())
