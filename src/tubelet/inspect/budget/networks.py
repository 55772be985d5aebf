"""Shapes of language models: their width, the KV cache, and what reading a prompt costs."""

from dataclasses import dataclass

from tubelet.inspect.budget.flops import product_flop
from tubelet.inspect.budget.memory import ITEM_BYTES, Dtype


@dataclass(frozen=True)
class LanguageShape:
    """What the KV cache and the cost of a prompt depend on, and the width its tokens need."""

    name: str
    width: int
    layers: int
    kv_heads: int
    head_dim: int
    heads: int  # of queries
    mlp: int  # channels inside the gated MLP
    causal: bool = True  # whether a token sees only those before it
    vocabulary: int | None = None  # tokens it knows; None: not said
    tied: bool = False  # the head is the table of embeddings
    qkv_bias: bool = False  # of the matrices that make q, k and v
    qk_norm: bool = False  # norms over the channels of a head of q and of k

    @property
    def parameters(self) -> int | None:
        """Values in its weights; None where the vocabulary is not said.

        >>> LANGUAGE["qwen2.5-7b"].parameters
        7615616512
        """
        if self.vocabulary is None:
            return None
        d, wide, kv = self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = d * (wide + 2 * kv) + wide * d + 3 * d * self.mlp + 2 * d
        layer += (wide + 2 * kv if self.qkv_bias else 0) + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * d + d

    def kv_bytes(self, tokens: int, dtype: Dtype = "bfloat16") -> int:
        """Keys and values of `tokens` tokens in all layers.

        >>> LANGUAGE["qwen2.5-7b"].kv_bytes(1000)
        57344000
        """
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * ITEM_BYTES[dtype]

    def prefill_attention_flop(self, tokens: int) -> int:
        """Attention of all layers over a prompt; pairs that a causal mask leaves out are not counted."""
        pairs = tokens * (tokens + 1) // 2 if self.causal else tokens * tokens
        return self.layers * 4 * self.heads * self.head_dim * pairs

    def prefill_flop(self, tokens: int) -> int:
        """All layers over a prompt of `tokens` tokens; embeddings and the head, which reads one row, are left out.

        >>> LANGUAGE["qwen2.5-vl-3b"].prefill_flop(3187)
        19183043543040
        """
        d, wide, kv = self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = product_flop(tokens, d, wide + 2 * kv) + product_flop(tokens, wide, d)
        layer += product_flop(tokens, d, 3 * self.mlp)
        return self.layers * layer + self.prefill_attention_flop(tokens)


LANGUAGE: dict[str, LanguageShape] = {
    s.name: s
    for s in (
        LanguageShape("qwen2.5-3b", 2048, 36, 2, 128, 16, 11008, vocabulary=151936, tied=True, qkv_bias=True),
        LanguageShape("qwen2.5-7b", 3584, 28, 4, 128, 28, 18944, vocabulary=152064, qkv_bias=True),
        LanguageShape("qwen2.5-vl-3b", 2048, 36, 2, 128, 16, 11008, vocabulary=151936, tied=True, qkv_bias=True),
        LanguageShape("qwen2.5-vl-7b", 3584, 28, 4, 128, 28, 18944, vocabulary=152064, qkv_bias=True),
        LanguageShape("qwen3-4b", 2560, 36, 8, 128, 32, 9728, vocabulary=151936, tied=True, qk_norm=True),
        LanguageShape("qwen3-8b", 4096, 36, 8, 128, 32, 12288, vocabulary=151936, qk_norm=True),
        LanguageShape("qwen3-vl-4b", 2560, 36, 8, 128, 32, 9728, vocabulary=151936, tied=True, qk_norm=True),
        LanguageShape("qwen3-vl-8b", 4096, 36, 8, 128, 32, 12288, vocabulary=151936, qk_norm=True),
        LanguageShape("llama-3-8b", 4096, 32, 8, 128, 32, 14336, vocabulary=128256),
        LanguageShape("llada-8b", 4096, 32, 32, 128, 32, 12288, causal=False, vocabulary=126464),
    )
}
"""Language models by name: width, layers, heads of keys and values, width of a head, heads of queries, MLP.

Sources: Qwen2.5 and Qwen3: pytorch/torchtune:torchtune/models/qwen2_5/_model_builders.py@47a9e19 and
qwen3/_model_builders.py@010412e. Qwen2.5-VL: config.json of Qwen/Qwen2.5-VL-3B-Instruct, and the printed modules of the
7B model in acproject/duorou:docs/qwen2.5vl_graph.md (28 layers, k_proj 3584 -> 512). Qwen3-VL: its text models are
Qwen3's of the same size, InternLM/xtuner:xtuner/v1/model/compose/qwen3_vl/qwen3_vl_config.py@062ecf4 and
dense/qwen3vl_text.py@0cb8f30. Llama 3: config.json of meta-llama/Meta-Llama-3-8B-Instruct. LLaDA: the table on the card
of GSAI-ML/iLLaDA-8B-Base; it has as many heads of keys as of queries, and a cache only where the prefix is fixed, as
LaViDa's is.
"""
