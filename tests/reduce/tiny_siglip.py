"""A SigLIP of a few channels with a tokenizer of a few words, as a folder such as those that are published."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[PAD]", "[UNK]", "total", "invoice", "date", "the", "of", "what", "is"]
TEXT: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "projection_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 5,
    "eos_token_id": 6,
}


def saved(folder: Path, *, image_size: int = 16) -> Path:
    """A whole SigLIP model, both towers, as its checkpoints are published."""
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.SiglipConfig(text_config=TEXT, vision_config={**vision, "image_size": image_size, "patch_size": 8})
    model = hf.SiglipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder
