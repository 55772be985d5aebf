"""A batch of prompts as the language model takes it: embeddings with rows in them, places, and rows for its layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.language.placing.place import Placed
from tubelet.language.placing.prompt import IGNORED
from tubelet.language.vlm.scheme import Bidirectional
from tubelet.packed import Packed
from tubelet.shapes import Bool, Float, Int64


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """A batch of prompts as the language model takes them, on its device.

    input_ids: with 0 where a placeholder lies outside the vocabulary. places: (B, 3, S), (B, S) for plain positions.
    delta: (B,), see `PlacedCausalLM`. deepstack: (B, L, S, D), zeros where no row stands. visual: True where one does.
    blocks: the number of the block whose tokens see each other both ways, -1 for those that see what is before them.
    """

    input_ids: Int64[Tensor, "B S"]
    inputs_embeds: Float[Tensor, "B S D"]
    attention_mask: Int64[Tensor, "B S"]
    places: Tensor
    delta: Int64[Tensor, " B"]
    visual: Tensor
    labels: Tensor | None = None
    deepstack: Tensor | None = None
    blocks: Tensor | None = None

    @property
    def arguments(self) -> dict[str, Tensor]:
        """The keyword arguments of `PlacedCausalLM.generate` for this batch."""
        given = {
            "input_ids": self.input_ids,
            "inputs_embeds": self.inputs_embeds,
            "attention_mask": self.attention_mask,
            "places": self.places,
            "delta": self.delta,
            "visual": self.visual,
        }
        more = {"deepstack": self.deepstack, "blocks": self.blocks}
        return given | {name: tensor for name, tensor in more.items() if tensor is not None}


def beside(batches: Sequence[PromptBatch]) -> PromptBatch:
    """The prompts of several batches as one, the shorter ones filled up on their left; for answers, so without labels.

    Raises ShapeError for batches with deepstack rows, blocks or labels.
    """
    if any(part is not None for b in batches for part in (b.labels, b.deepstack, b.blocks)):
        raise ShapeError("prompts with labels, deepstack rows or blocks are not put beside others")
    length = max(b.input_ids.shape[1] for b in batches)
    short = [length - b.input_ids.shape[1] for b in batches]

    def joined(name: str, dim: int = -1) -> Tensor:
        filled = (F.pad(getattr(b, name), (0, 0) * (-1 - dim) + (n, 0)) for b, n in zip(batches, short, strict=True))
        return torch.cat(list(filled))

    delta = torch.cat([b.delta - n for b, n in zip(batches, short, strict=True)])
    named = {name: joined(name) for name in ("input_ids", "attention_mask", "places", "visual")}
    return PromptBatch(**named, inputs_embeds=joined("inputs_embeds", -2), delta=delta)


def empty_pack(width: int, device: torch.device) -> Packed:
    """A pack without items."""
    pos = torch.zeros(0, 3, dtype=torch.int32, device=device)
    return Packed(torch.zeros(0, width, device=device), pos, (), ())


def blocks_of(placed: Placed, bidirectional: Bidirectional) -> Int64[Tensor, "B S"] | None:
    """Which tokens see each other both ways (see `PromptBatch`); None where none do. Tokens with a label are an answer.

    Source: huggingface/transformers:src/transformers/models/gemma3/modeling_gemma3.py@v5.23.0
    (get_block_sequence_ids_for_mask) and paligemma/modeling_paligemma.py.
    """
    if bidirectional == "none":
        return None
    if bidirectional == "prefix":
        answer = placed.attention_mask == 0 if placed.labels is None else placed.labels != IGNORED
        return -answer.long()
    return picture_blocks(placed.visual)


def picture_blocks(visual: Bool[Tensor, "*batch S"]) -> Int64[Tensor, "*batch S"]:
    """Rows that follow each other as blocks, numbered from 0; -1 elsewhere.

    >>> picture_blocks(torch.tensor([False, True, True, False, True])).tolist()
    [-1, 0, 0, -1, 1]
    """
    first = visual & ~F.pad(visual, (1, 0))[..., :-1]
    return torch.where(visual, first.long().cumsum(-1) - 1, -1)


def scatter_deepstack(deep: Sequence[Packed], visual: Tensor, like: Tensor) -> Tensor | None:
    """(B, L, S, D): the rows of each pack where rows stand, zeros elsewhere. None without any."""
    if not deep or not len(deep[0].x):
        return None
    zeros = torch.zeros_like(like)
    if any(len(one.x) != len(deep[0].x) for one in deep):
        raise ShapeError("deepstack packs have as many rows as the tokens", got=[len(one.x) for one in deep])
    return torch.stack([zeros.masked_scatter(visual[..., None], one.x.to(like)) for one in deep], dim=1)
