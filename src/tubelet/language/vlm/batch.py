"""A batch of prompts as the language model takes it: embeddings with rows in them, places, and rows for its layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.packed import Packed
from tubelet.shapes import Float, Int64


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """A batch of prompts as the language model takes them, on its device.

    input_ids: with 0 where a placeholder lies outside the vocabulary. places: (B, 3, S), (B, S) for plain positions.
    delta: (B,), see `PlacedCausalLM`. deepstack: (B, L, S, D), zeros where no row stands. visual: True where one does.
    """

    input_ids: Int64[Tensor, "B S"]
    inputs_embeds: Float[Tensor, "B S D"]
    attention_mask: Int64[Tensor, "B S"]
    places: Tensor
    delta: Int64[Tensor, " B"]
    visual: Tensor
    labels: Tensor | None = None
    deepstack: Tensor | None = None

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
        return given if self.deepstack is None else given | {"deepstack": self.deepstack}


def empty_pack(width: int, device: torch.device) -> Packed:
    """A pack without items."""
    pos = torch.zeros(0, 3, dtype=torch.int32, device=device)
    return Packed(torch.zeros(0, width, device=device), pos, (), ())


def scatter_deepstack(deep: Sequence[Packed], visual: Tensor, like: Tensor) -> Tensor | None:
    """(B, L, S, D): the rows of each pack where rows stand, zeros elsewhere. None without any."""
    if not deep or not len(deep[0].x):
        return None
    zeros = torch.zeros_like(like)
    if any(len(one.x) != len(deep[0].x) for one in deep):
        raise ShapeError("deepstack packs have as many rows as the tokens", got=[len(one.x) for one in deep])
    return torch.stack([zeros.masked_scatter(visual[..., None], one.x.to(like)) for one in deep], dim=1)
