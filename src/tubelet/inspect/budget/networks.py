"""Shapes of the networks beside the encoder: language models, for their width and KV cache, and geometry networks."""

from dataclasses import dataclass

from tubelet.errors import ShapeError
from tubelet.inspect.budget.memory import ITEM_BYTES, Dtype


@dataclass(frozen=True)
class LanguageShape:
    """What a KV cache depends on, and the width its tokens need."""

    name: str
    width: int
    layers: int
    kv_heads: int
    head_dim: int

    def kv_bytes(self, tokens: int, dtype: Dtype = "bfloat16") -> int:
        """Keys and values of `tokens` tokens in all layers.

        >>> LANGUAGE["qwen2.5-7b"].kv_bytes(1000)
        57344000
        """
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * ITEM_BYTES[dtype]


LANGUAGE: dict[str, LanguageShape] = {
    s.name: s
    for s in (
        LanguageShape("qwen2.5-3b", 2048, 36, 2, 128),
        LanguageShape("qwen2.5-7b", 3584, 28, 4, 128),
        LanguageShape("qwen2.5-vl-3b", 2048, 36, 2, 128),
        LanguageShape("qwen2.5-vl-7b", 3584, 28, 4, 128),
        LanguageShape("qwen3-4b", 2560, 36, 8, 128),
        LanguageShape("qwen3-8b", 4096, 36, 8, 128),
        LanguageShape("qwen3-vl-4b", 2560, 36, 8, 128),
        LanguageShape("qwen3-vl-8b", 4096, 36, 8, 128),
        LanguageShape("llama-3-8b", 4096, 32, 8, 128),
        LanguageShape("llada-8b", 4096, 32, 32, 128),
    )
}
"""Language models by name: width, layers, heads of keys and values, width of a head.

Sources: Qwen2.5 and Qwen3: pytorch/torchtune:torchtune/models/qwen2_5/_model_builders.py@47a9e19 and
qwen3/_model_builders.py@010412e. Qwen2.5-VL: config.json of Qwen/Qwen2.5-VL-3B-Instruct, and the printed modules of the
7B model in acproject/duorou:docs/qwen2.5vl_graph.md (28 layers, k_proj 3584 -> 512). Qwen3-VL: its text models are
Qwen3's of the same size, InternLM/xtuner:xtuner/v1/model/compose/qwen3_vl/qwen3_vl_config.py@062ecf4 and
dense/qwen3vl_text.py@0cb8f30. Llama 3: config.json of meta-llama/Meta-Llama-3-8B-Instruct. LLaDA: the table on the card
of GSAI-ML/iLLaDA-8B-Base; it has as many heads of keys as of queries, and a cache only where the prefix is fixed, as
LaViDa's is.
"""


@dataclass(frozen=True)
class Aggregator:
    """A per-frame geometry network whose features are joined with the merged tokens, by its shapes: VGGT.

    special: camera and register tokens before the patches of a frame. width: of its features, where frame and global
    attention stand side by side. Source: diankun-wu/Spatial-MLLM@9fc47382, whose run on 16 frames of 644 x 476 gives
    (16, 1569, 2048) and a connector input of 16384 values.
    """

    patch: int = 14
    special: int = 5
    width: int = 2048

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, tokens of a frame, channels) of its last layer.

        >>> Aggregator().shape(16, 476, 644)
        (16, 1569, 2048)
        """
        if height % self.patch or width % self.patch:
            raise ShapeError(f"{width} x {height} is not cut into patches of {self.patch}", got=(height, width))
        return frames, self.special + (height // self.patch) * (width // self.patch), self.width

    def connector_width(self, time: int, space: int) -> int:
        """Channels after merging `time` frames and space x space patches.

        >>> Aggregator().connector_width(2, 2)
        16384
        """
        return self.width * time * space**2


VGGT = Aggregator()
