"""One file, read, cut and encoded, with everything that methods of choosing read: what a command, a page or a job of
choosing starts from."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.errors import InputError, TubeletError, UnsupportedFormat
from tubelet.packed import Packed
from tubelet.pixels.budget import times_of
from tubelet.pixels.patchify import patchify
from tubelet.pixels.planned import clip_for, frames_of
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.sparse import read_sparse
from tubelet.pixels.views import Views
from tubelet.reading.clip import Clip
from tubelet.reading.job import ReadJob
from tubelet.reading.outlined import OutlinedInput, clip_of_outlined, outline_input
from tubelet.reading.read import Isolate
from tubelet.reading.sampling import Sampling
from tubelet.reduce.inputs import Space, inputs_of, smaller_patches
from tubelet.reduce.methods import Inputs, Need, Sparse
from tubelet.reduce.scaffold import whole_views, with_scaffold
from tubelet.reduce.scores import Box


@dataclass(frozen=True)
class EncodedFile:
    """One file, read and encoded."""

    clip: Clip  # with the frames that were encoded
    patches: Packed  # on the encoder's device
    inputs: Inputs  # what methods read
    scaffold: tuple[int, ...] = ()  # items that are always kept
    seconds: dict[str, float] = field(default_factory=dict)  # that each step took: read, encode


def encode_file(
    source: Any,
    encoder: Encoder,
    needs: Collection[Need] = (),
    *,
    recipe: PixelRecipe | None = None,
    views: Views | None = None,
    text: Tensor | None = None,
    space: Space = "auto",
    layer: int = -2,
    boxes: Sequence[Box] | None = None,
    scaffold_rows: int | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008
    animation: bool = False,
    isolate: Isolate = "auto",
    encode: bool = True,
) -> EncodedFile:
    """A picture or clip as tokens, with the attention, keys, text and boxes that `needs` of methods name.

    source: what `tubelet.read` takes, one of them; or what `outline_input` gave of it, whose own sampling, animation
    and isolate hold then. recipe: the encoder's own if None. text, space, layer: as
    `inputs_of` takes them. boxes: what matters, in the picture's upright pixels. scaffold_rows: the whole view of a
    picture in several views, pooled to so many rows, is always kept. encode=False leaves the patches as tokens, for a
    method that encodes what it chooses by itself. Runs without gradients on the encoder's device.
    Raises: what `read`, `patchify` and `inputs_of` raise, naming the file; UnsupportedFormat where a picture is asked
    for what only a video has ("sparse").

        >>> encoder = tubelet.untrained("llava_vit_packing_small")
        >>> seen = encode_file("photo.jpg", encoder, ("attention",))
        >>> len(seen.inputs.tokens.x) == len(seen.inputs.attention)
        True
    """
    start, recipe = time.perf_counter(), recipe or encoder.pixels
    if not isinstance(source, OutlinedInput):
        job = ReadJob(sampling=sampling, animation=animation)
        source = outline_input(source, job, isolate, name="<file>")
    sampling, seen = source.job.sampling, source.outline
    options: dict[str, Any] = {"fps": sampling.fps, "num_frames": sampling.num_frames, "times_s": sampling.times_s}
    if views is None and seen is not None and len(fewer := frames_of(seen, recipe)) < len(seen.times_s):
        options = {"times_s": times_of(seen.times_s, fewer)}
    options["isolate"] = source.isolate
    clip = clip_of_outlined(source) if views is not None else clip_for(source, recipe)
    patches = patchify([clip], recipe, views=views).to(encoder.patch.weight.device)
    seconds = {"read": time.perf_counter() - start}
    if "sparse" in needs and not clip.is_video:
        raise UnsupportedFormat("the method codec is for videos, this is a picture", source=clip.source)
    if scaffold_rows and views is not None and not whole_views(patches):
        raise InputError("a scaffold is for pictures that have several views", source=clip.source)
    given = source.source
    others: Mapping[str, Any] = {
        "boxes": None if boxes is None else {0: boxes},
        "smaller": lambda budget: smaller_tokens(clip, encoder, recipe, budget, native=views is not None),
        "sparse": (lambda budget: sparse_tokens(given, encoder, recipe, budget, options)) if clip.is_video else None,
    }
    start, scaffold = time.perf_counter(), ()
    try:
        with torch.inference_mode():
            if encode:
                inputs = inputs_of(encoder, patches, needs, text=text, space=space, layer=layer, **others)
            else:
                inputs = Inputs(patches, **others)
            if scaffold_rows and whole_views(patches):
                inputs, scaffold = with_scaffold(inputs, rows=scaffold_rows)
    except TubeletError as e:
        raise e.placed(source=clip.source) from None
    return EncodedFile(clip, patches, inputs, scaffold, seconds | {"encode": time.perf_counter() - start})


def smaller_tokens(clip: Clip, encoder: Encoder, recipe: PixelRecipe, budget: int, *, native: bool = False) -> Packed:
    """Tokens of a picture made so small that it has at most `budget`; native: see `smaller_patches`."""
    per_unit = 1 if encoder.config.merger is not None else recipe.merge**2
    rows = smaller_patches([clip], recipe, budget=budget, per_unit=per_unit, native=native)
    with torch.inference_mode():
        return encoder(rows.to(encoder.patch.weight.device))


def sparse_tokens(
    source: Any, encoder: Encoder, recipe: PixelRecipe, budget: int, options: Mapping[str, Any]
) -> Sparse:
    """Tokens of the patches of a video that its codec points at: at most `budget`, and a score for each.

    options: of `read_sparse`. An encoder that merges makes one token of each block, whose score is the mean of its
    patches'.
    """
    block = recipe.merge**2 if encoder.config.merger is not None else 1
    found = read_sparse(source, recipe, budget=budget * block, **options)
    with torch.inference_mode():
        tokens = encoder(found.packed.to(encoder.patch.weight.device))
    return Sparse(tokens, found.scores.float().view(-1, block).mean(dim=1))
