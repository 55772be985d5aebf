"""Rows of a pack into the placeholders of prompts: what a causal language model takes in place of ids.

    input_ids     a  b  #  #  #  c        #  placeholder, one for each row
    embeddings    A  B  x0 x1 x2 C        rows of the pack, in order; text from the model's own table
    position_ids  (3, S) by the rule of the model, from the place and time of every row
    labels        .  .  -  -  -  c        a loss skips rows and padding

Rows and placeholders agree in every sample and every run, or nothing is placed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import AlignmentError, InputError, ShapeError
from tubelet.language.placing import align
from tubelet.language.placing.align import Prompts
from tubelet.language.placing.mrope import Positions, item_blocks, lay_out
from tubelet.language.placing.prompt import IGNORED
from tubelet.language.placing.rules import ONE_D, PositionRule, TokenIds
from tubelet.language.placing.strips import ranges
from tubelet.packed import Packed
from tubelet.shapes import Bool, Float, Int64


@dataclass(frozen=True, eq=False)
class Placed:
    """Prompts as a language model takes them; without the batch axis where input_ids had none.

    inputs_embeds: text and rows; without `embed`, zeros where text goes. position_ids: for models that count in one
    dimension, `position_ids[0]`. attention_mask: 1 token, 0 padding. labels: None where none were given. visual: True
    where a row stands. positions: the same ids with the batch axis, rope_deltas, and `decode` for generation.
    """

    inputs_embeds: Float[Tensor, "*batch S D"]
    position_ids: Int64[Tensor, "3 *batch S"]
    attention_mask: Int64[Tensor, "*batch S"]
    labels: Int64[Tensor, "*batch S"] | None
    visual: Bool[Tensor, "*batch S"]
    positions: Positions


@door
def place(
    p: Packed,
    input_ids: Int64[Tensor, "*batch S"],
    token_ids: TokenIds,
    *,
    rule: PositionRule = ONE_D,
    embed: Callable[[Tensor], Tensor] | None = None,
    attention_mask: Tensor | None = None,
    labels: Int64[Tensor, "*batch S"] | None = None,
    counts: Sequence[int] | None = None,
) -> Placed:
    """Embeddings, positions, mask and labels of prompts (S,) or (B, S) with the rows of p in their placeholders.

    Items stand in the order of the prompts, all of sample 0 first; images and videos may mix, and samples without any
    are fine. embed: text embeddings of ids, a model's `get_input_embeddings()`; rows take its type. rule: how the model
    counts (`language.placing.mrope`). attention_mask: 0 is padding, on either side. labels: come back with -100 at
    rows and padding. counts: items of each sample where known; it makes the check of one sample independent of others.
    Places and ids are looked at on the host: one sync each where they are on a device. Differentiable in p.x and embed.
    Raises: AlignmentError naming the sample, the item, its rows and the placeholders found; ShapeError where widths,
    types or devices do not fit; InputError for masks or labels of other shapes.

        >>> p = tubelet.pack([torch.ones(4, 8)], [tubelet.Item.of(1, 2, 2)])
        >>> seq = place(p, torch.tensor([5, 9, 9, 9, 9, 6]), TokenIds(image=9))
        >>> seq.inputs_embeds[:, 0].tolist(), seq.position_ids[0].tolist()
        ([0.0, 1.0, 1.0, 1.0, 1.0, 0.0], [0, 1, 2, 3, 4, 5])
    """
    found = align.prompts(input_ids, attention_mask)
    if counts is not None and sum(counts) != len(p):
        raise AlignmentError(
            f"counts name {sum(counts)} items and the pack has {len(p)}", expected=len(p), got=sum(counts)
        )
    if labels is not None and labels.shape != input_ids.shape:
        raise InputError(f"labels are {tuple(labels.shape)} for input_ids {tuple(input_ids.shape)}")
    places, at = _positions(p, found, token_ids, rule, counts)
    device = input_ids.device
    flat = torch.from_numpy(places).to(device)
    visual = torch.zeros(input_ids.numel(), dtype=torch.bool, device=device)
    visual[flat] = True
    visual = visual.view(input_ids.shape)
    real = torch.ones(input_ids.shape, dtype=torch.bool, device=device)
    if found.real is not None:
        real = torch.from_numpy(found.real).to(device).view(input_ids.shape)
    at = at.to(device)
    return Placed(
        _embeddings(p, input_ids, token_ids, flat, embed),
        at.position_ids.view(3, *input_ids.shape),
        real.long(),
        None if labels is None else labels.masked_fill(visual | ~real, IGNORED),
        visual,
        at,
    )


# ---- the steps


def _positions(
    p: Packed, found: Prompts, token_ids: TokenIds, rule: PositionRule, counts: Sequence[int] | None
) -> tuple[Int64[np.ndarray, " R"], Positions]:
    """Where the rows go in the flattened batch, checked, and the positions of every token."""
    runs = found.runs(*token_ids.placeholders)
    lengths = np.array(p.lengths, np.int64)
    used = np.flatnonzero(lengths)
    if int(lengths.sum()) != int(runs.length.sum()):  # before kinds are read off the placeholders
        align.fit(found, runs, lengths[used], owners=used, counts=counts)
    is_video = np.array([item.grid.t > 1 for item in p.items], bool)
    if token_ids.video not in (None, token_ids.image):
        first = np.cumsum(lengths) - lengths
        run = np.searchsorted(np.cumsum(runs.length), first[used], side="right")
        is_video[used] = runs.ids[run] == token_ids.video
    blocks = item_blocks(p.pos.detach().cpu().numpy().astype(np.int64), lengths, p.items, is_video, rule)
    starts = align.fit(found, runs, blocks.lengths, owners=blocks.owners, counts=counts)
    return ranges(runs.first, runs.length), lay_out(found, starts, blocks, rule)


def _embeddings(
    p: Packed,
    input_ids: Int64[Tensor, "*batch S"],
    token_ids: TokenIds,
    flat: Int64[Tensor, " R"],
    embed: Callable[[Tensor], Tensor] | None,
) -> Float[Tensor, "*batch S D"]:
    """Text from `embed`, or zeros, with the rows put in."""
    if not p.dtype.is_floating_point and len(flat):
        raise ShapeError(f"rows to place are floating point features, got {p.dtype}", got=str(p.dtype))
    if embed is None:
        kind = p.dtype if p.dtype.is_floating_point else torch.float32
        text = torch.zeros(*input_ids.shape, p.x.shape[1], dtype=kind, device=input_ids.device)
    else:
        ids = input_ids
        for one in token_ids.placeholders:  # they may lie outside the model's table
            ids = ids.masked_fill(ids == one, 0)
        text = embed(ids)
    if not len(flat):
        return text
    if text.shape[:-1] != input_ids.shape or text.shape[-1] != p.x.shape[1]:
        raise ShapeError(
            f"rows are {p.x.shape[1]} wide and the text embeddings {tuple(text.shape)}",
            expected=text.shape[-1],
            got=p.x.shape[1],
        )
    if p.device != text.device:
        raise ShapeError(f"rows are on {p.device} and the text on {text.device}", expected=str(text.device))
    rows, x = text.reshape(-1, text.shape[-1]), p.x.to(text.dtype)
    placed = rows.index_copy_(0, flat, x) if embed is None else rows.index_copy(0, flat, x)  # embed's may be anyone's
    return placed.view(text.shape)
