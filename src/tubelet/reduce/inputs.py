"""What methods read, made from an encoder: tokens, attention and keys in one run, and pictures made smaller."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from tubelet.encoder.attention_scores import attention_scores
from tubelet.encoder.model import Encoder
from tubelet.encoder.pool import AttentionPool, QueryPool
from tubelet.errors import InputError, LimitError
from tubelet.packed import Grid, Item, Packed
from tubelet.pixels.budget import clip_within, is_clip
from tubelet.pixels.fit import Fit, item_of
from tubelet.pixels.patchify import as_tensor, empty_rows, packed_of, write_frames
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.resize import resize_frames
from tubelet.reading.clip import Clip
from tubelet.reduce.condense import fitting_grid
from tubelet.reduce.methods import Inputs, Need, Sparse
from tubelet.reduce.relevance import in_joint_space
from tubelet.reduce.scores import Box
from tubelet.shapes import Float

Space = Literal["auto", "head", "rows"] | Callable[[Packed], Packed]


@torch.no_grad()
def inputs_of(
    encoder: Encoder,
    patches: Packed,
    needs: Collection[Need] = (),
    *,
    text: Float[Tensor, "S E"] | Sequence[Float[Tensor, "_ E"]] | None = None,
    space: Space = "auto",
    boxes: Mapping[int, Sequence[Box]] | None = None,
    layer: int = -2,
    smaller: Callable[[int], Packed] | None = None,
    sparse: Callable[[int], Sparse] | None = None,
) -> Inputs:
    """Inputs with everything `needs` asks for that an encoder can give: one run, with attention and keys of `layer`
    where they are needed.

    space: where text is looked for. "head": rows as the pooling head gives them (`in_joint_space`), the space of
    SigLIP's text tower; "rows": as they are; "auto": the head where there is one that reads tokens; or what brings rows
    to the space of the text, such as `SpelledText.rows`. Without gradients.
    Raises ConfigError for attention or a head that the encoder does not have.

        >>> encoder = tubelet.untrained("llava_vit_packing_small")
        >>> patches = tubelet.patchify(tubelet.read("photo.jpg"), encoder.pixels)
        >>> inputs_of(encoder, patches, ("attention", "keys")).attention.shape
        torch.Size([24])
    """
    if not callable(space) and space not in ("auto", "head", "rows"):
        raise InputError(f"a space is auto, head or rows, got {space}", got=space)
    received = keys = None
    if {"attention", "keys"} & set(needs):
        tokens, received, keys = attention_scores(encoder, patches, layer=layer)
    else:
        tokens = encoder(patches)
    features = None if text is None else _features(encoder, tokens, space)
    return Inputs(tokens, text, features, received, keys, boxes, smaller, sparse)


def _features(encoder: Encoder, tokens: Packed, space: Space) -> Packed | None:
    """The rows in the space of a text, None where they are in it."""
    if callable(space):
        return space(tokens)
    headed = space == "head" or (space == "auto" and isinstance(encoder.pool, AttentionPool | QueryPool))
    return in_joint_space(encoder, tokens) if headed else None


def smaller_patches(
    clips: Sequence[Clip], recipe: PixelRecipe, *, budget: int, per_unit: int = 1, native: bool = False
) -> Packed:
    """Patches of every clip made so small that they become at most `budget` rows, of nearly the shape they would have.

    The part that the recipe keeps is resized to the largest grid of about its ratio that fits (`fitting_grid`). No
    frame is left out that the recipe has room for. per_unit: rows that one merge x merge unit becomes, 1 for encoders
    that merge. native: the most is the picture's own size, not the recipe's, which is fair beside views. Raises
    LimitError where a frame would get no unit.

        >>> clip = tubelet.read("photo.jpg")[0]
        >>> smaller_patches([clip], tubelet.PixelRecipe(patch=16), budget=8)
        Packed(T=8, D=768, uint8, cpu, 1 items: [1x2x4])
    """
    items: list[Item] = []
    alone = PixelRecipe(recipe.patch, merge=recipe.merge, temporal=recipe.temporal) if native else recipe
    clips = [clip_within(clip, alone) for clip in clips]
    for i, clip in enumerate(clips):
        own = alone.of(is_clip(len(clip), clip.is_video))
        item = item_of(clip.height, clip.width, clip.times_s, i, own)
        t, h, w = item.grid
        if budget // per_unit < t:
            raise LimitError(
                f"{budget} rows for {t} frames", item=i, source=clip.source, limit=budget, got=t * per_unit
            )
        units = fitting_grid(Grid(t, h // recipe.merge, w // recipe.merge), budget // per_unit)
        items.append(replace(item, grid=Grid(t, units.h * recipe.merge, units.w * recipe.merge)))
    rows, start = empty_rows(sum(item.grid.rows for item in items), recipe), 0
    for clip, item in zip(clips, items, strict=True):
        left, top, right, bottom = (round(v) for v in item.box)
        height, width = item.grid.h * recipe.patch, item.grid.w * recipe.patch
        part = as_tensor(clip.frames)[:, top : max(bottom, top + 1), left : max(right, left + 1)].contiguous()
        size = Fit(height, width, None, height, width)
        frames = resize_frames(part, size, resampler=recipe.resampler, interpolation=recipe.interpolation)
        write_frames(rows[start : start + item.grid.rows], item.grid, frames.numpy(), recipe)
        start += item.grid.rows
    return packed_of(rows, items, recipe)
