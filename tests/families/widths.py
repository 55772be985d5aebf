"""Widths of small random towers and of the models around them, in upstream's words."""

from typing import Any

TINY: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
MID: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8}
PICTURES = [(1, 5, 5), (1, 3, 7), (1, 8, 2), (1, 1, 1), (1, 6, 9)]  # grids; the first fills a table of 5 x 5
CLIPS = [(1, 4, 4), (3, 2, 5), (1, 4, 2)]

_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
TEXT: dict[str, Any] = {**_TEXT, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
LANGUAGE: dict[str, Any] = {**_TEXT, "num_key_value_heads": 1}
IMAGE_TOKEN = 39  # the last of the vocabulary
