"""Samples to one batch: text end to end and never padded, pixels in one pack, bad samples replaced.

    samples      a a # # a a | b b b | c # # # # c        # placeholder
    input_ids    a a # # a a b b b c # # # # c            cu_seqlens 0 6 9 15
    positions    0 1 2 3 4 5 0 1 2 0 1 2 3 4 5            begin anew in each sample, by the model's rule
    labels       . . . . a a . b b . . . . . c
    pixels       the patches of the picture of a, then that of c

A `Collator` is what a DataLoader calls with numbers of samples; it holds nothing open and may be copied to workers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tubelet.errors import AlignmentError, DecodeError, InputError, LimitError, TubeletError
from tubelet.geometry.branch import picture_scenes
from tubelet.language.placing.place import place
from tubelet.language.vlm.chat import pad_to_square
from tubelet.language.vlm.scheme import Scheme
from tubelet.packed import Packed, concat
from tubelet.pixels.load import load_patches
from tubelet.pixels.patchify import patchify
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.outline import outline_source
from tubelet.reading.read import read
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source
from tubelet.shapes import Float, Int32, Int64
from tubelet.train.data.sample import Dataset, Media, Sample
from tubelet.train.data.spare import BadSample, Spares, first_usable
from tubelet.train.marks import Header
from tubelet.train.tokenize import Tokenizing, Tokens, stills_of, tokenize


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Samples end to end; B samples, S tokens."""

    pixels: Packed  # uint8 rows of all pictures and clips, in the order of their places
    input_ids: Int64[Tensor, " S"]
    labels: Int64[Tensor, " S"]  # -100 but on what the assistant says
    positions: Int64[Tensor, "3 S"] | None  # None where a selection decides: `place_batch` finds them
    cu_seqlens: Int32[Tensor, " n"]  # B + 1 places where samples begin, the form varlen kernels take
    ids: tuple[int, ...]  # numbers of the samples that are in it
    lengths: tuple[int, ...]  # tokens of each sample
    rows: tuple[int, ...]  # placeholders of each sample
    media: tuple[int, ...]  # pictures and clips of each sample
    scenes: tuple[int, ...]  # how many consecutive items of `pixels` are views of one place; never of two samples
    bad: tuple[BadSample, ...] = ()  # what was replaced, for a `Tally`

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same on another device; sizes stay on the host."""
        return replace(
            self,
            pixels=self.pixels.to(device),
            input_ids=self.input_ids.to(device),
            labels=self.labels.to(device),
            positions=None if self.positions is None else self.positions.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
        )


@dataclass(frozen=True, eq=False)
class Collator:
    """Numbers of samples in, `PackedBatch` out."""

    dataset: Dataset
    how: Tokenizing
    spares: Spares
    sampling: Sampling = field(default_factory=Sampling)  # which frames of a clip
    limits: Limits = field(default_factory=Limits)
    isolate: Literal["always", "never"] = "never"  # decode in a child process that may die
    workers: int = 1  # samples read at a time, each by a thread of its own

    def __call__(self, indices: Sequence[int]) -> PackedBatch:
        """The batch of these samples, bad ones replaced by spares that have no more tokens, where those are counted.

        Raises DataError for a sample none of whose spares can be used.
        """
        if self.workers > 1 and len(indices) > 1:
            with ThreadPoolExecutor(min(self.workers, len(indices)), thread_name_prefix="tubelet-collate") as pool:
                found = list(pool.map(self._usable, indices))
        else:
            found = [self._usable(i) for i in indices]
        return packed_batch(found, self.how)

    def one(self, index: int) -> "Loaded":
        """One sample, tokenized, with its patches. Raises what `planned` raises, and what decoding does."""
        sample, headers, tokens = self.planned(index)
        patches = self._patches(sample, headers, tokens)
        scenes = picture_scenes(patches, [sample.media[item.picture].kind == "image" for item in patches.items])
        return Loaded(index, tokens, patches, scenes, ())

    def planned(self, index: int, *, count_only: bool = False) -> tuple[Sample, list[Header], Tokens]:
        """One sample, its headers and its tokens; nothing is decoded. Raises what reading and `tokenize` raise."""
        sample = self.dataset[index]
        try:
            headers = self.headers(sample)
            return sample, headers, tokenize(sample, headers, self.how, count_only=count_only)
        except TubeletError as e:
            raise e.placed(source=e.source or sample.where) from e.__cause__

    def headers(self, sample: Sample) -> list[Header]:
        """Sizes and times of the sample's pictures and clips; nothing is decoded. Raises InputError and its kinds."""
        return [self.how.as_cut(header_of(one, self.sampling, self.limits)) for one in sample.media]

    def _usable(self, index: int) -> "Loaded":
        """The sample, or the first of its spares that can be used, with what could not."""
        limit = self.spares.limit(index)

        def load(other: int) -> Loaded:
            found = self.one(other)
            if limit is not None and len(found.tokens) > limit:
                text = f"{len(found.tokens):,} tokens where {limit:,} were counted: its files have changed"
                raise LimitError(text, limit=limit, got=len(found.tokens))
            return found

        found, bad = first_usable(index, self.spares, load, self.dataset.name)
        return replace(found, bad=bad)

    def _patches(self, sample: Sample, headers: Sequence[Header], tokens: Tokens) -> Packed:
        """The rows of the sample's pictures and clips, checked against what their headers promised."""
        scheme = self.how.scheme
        if scheme.views is not None or scheme.square:
            cut = scheme.for_pictures(stills_of(headers))
            packs = [self._viewed(one, header, cut) for one, header in zip(sample.media, headers, strict=True)]
        else:
            packs = self._loaded(sample.media, headers)
        for number, (pack, planned) in enumerate(zip(packs, tokens.planned, strict=True)):
            grids = tuple(item.grid for item in pack.items)
            if grids != planned.grids:
                raise DecodeError(
                    "the content has another size than its header says, or breaks off",
                    item=number,
                    source=sample.media[number].name,
                    expected=planned.grids,
                    got=grids,
                )
        return concat(packs) if packs else patchify([], scheme.pixels)

    def _loaded(self, media: Sequence[Media], headers: Sequence[Header]) -> list[Packed]:
        """A pack of each, pictures and clips each in one pass."""
        made: dict[int, Packed] = {}
        for clip in (False, True):
            numbers = [n for n, header in enumerate(headers) if header.clip is clip]
            if not numbers:
                continue
            with ExitStack() as stack:
                loaded = load_patches(
                    [stack.enter_context(media[n].open()) for n in numbers],
                    self.how.recipe(headers[numbers[0]]),
                    **self._frames,
                    limits=self.limits,
                    isolate=self.isolate,
                    workers=1,
                )
            for n, p in zip(numbers, loaded.packed.split([1] * len(numbers)), strict=True):
                made[n] = Packed(p.x, p.pos, (replace(p.items[0], picture=0),), p.lengths)  # numbered when joined
            broken = next((n for n, s in zip(numbers, loaded.sources, strict=True) if not s.complete), None)
            if broken is not None:
                raise DecodeError("the clip is damaged or breaks off", item=broken, source=media[broken].name)
        return [made[n] for n in sorted(made)]

    def _viewed(self, one: Media, header: Header, scheme: Scheme) -> Packed:
        """The views of one picture or clip, or the picture made square."""
        with one.open() as source:
            [clip] = read([source], **self._frames, limits=self.limits, isolate=self.isolate, workers=1)
        if not clip.complete:
            raise DecodeError("the clip is damaged or breaks off", source=one.name)
        if scheme.square and not header.clip:
            clip = pad_to_square(clip, scheme.pixels)
        return patchify([clip], self.how.recipe(header), views=scheme.views)

    @property
    def _frames(self) -> dict[str, Any]:
        return {"fps": self.sampling.fps, "num_frames": self.sampling.num_frames, "times_s": self.sampling.times_s}


@dataclass(frozen=True, eq=False)
class Loaded:
    """One sample with its pixels."""

    index: int
    tokens: Tokens
    patches: Packed
    scenes: tuple[int, ...]  # how many consecutive items of `patches` are views of one place
    bad: tuple[BadSample, ...]


def header_of(media: Media, sampling: Sampling, limits: Limits) -> Header:
    """Size and times of a picture or clip from its header. Raises InputError and its kinds, also for a clip that is
    listed as a picture or the reverse."""
    with media.open() as source, open_source(source, limits, media.name) as src:
        try:
            seen = outline_source(src, ReadJob(limits, sampling))
        except TubeletError as e:
            raise e.placed(source=media.name) from e.__cause__
    kind = "video" if seen.moves else "image"
    if kind != media.kind:
        raise InputError(
            f"this is {'an image' if kind == 'image' else 'a video'}, listed as {media.kind}",
            source=media.name,
            expected=media.kind,
            got=kind,
        )
    return Header(kind, seen.width, seen.height, seen.times_s, seen.duration_s)


def packed_batch(samples: Sequence[Loaded], how: Tokenizing) -> PackedBatch:
    """Samples end to end. Cost: one copy of the pixels.

    `picture` of an item counts the pictures and clips of the whole batch.
    """
    tokens = [one.tokens for one in samples]
    lengths = tuple(len(t) for t in tokens)
    with_pixels = [one.patches for one in samples if len(one.patches)]
    positions = [t.positions for t in tokens]
    known = [p for p in positions if p is not None]
    empty = [np.zeros(0, np.int64)]
    return PackedBatch(
        concat(with_pixels) if with_pixels else patchify([], how.scheme.pixels),
        torch.from_numpy(np.concatenate([*empty, *(t.ids for t in tokens)])),
        torch.from_numpy(np.concatenate([*empty, *(t.labels for t in tokens)])),
        torch.from_numpy(np.concatenate([np.zeros((3, 0), np.int64), *known], axis=1))
        if len(known) == len(positions)
        else None,
        torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        tuple(one.index for one in samples),
        lengths,
        tuple(t.rows for t in tokens),
        tuple(len(t.planned) for t in tokens),
        tuple(scene for one in samples for scene in one.scenes),
        tuple(bad for one in samples for bad in one.bad),
    )


def place_batch(
    batch: PackedBatch, rows: Packed, scheme: Scheme, embed: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "S D"], Int64[Tensor, "3 S"]]:
    """Embeddings of the batch's text with the rows in their places, and the positions of every token.

    rows: what encoder, reduction and projector made of `batch.pixels`, on the device of `batch.input_ids`; items keep
    their `picture`. embed: as in `tubelet.place`. Differentiable in rows and embed. Whole rows cost one sync, for the
    ids; rows that were selected are counted by the scheme's rule sample by sample.
    Raises AlignmentError naming the sample whose rows are not as many as its placeholders.
    """
    first = np.cumsum((0, *batch.media))
    owner = np.searchsorted(first, [item.picture for item in rows.items], side="right") - 1
    for n, expected in enumerate(batch.rows):
        got = sum(length for one, length in zip(owner, rows.lengths, strict=True) if one == n)
        if got != expected:
            error = AlignmentError(f"sample {n}: {got} rows for {expected} placeholders", expected=expected, got=got)
            error.sample = n
            raise error
    # the rule says what a run of placeholders holds, an item or a frame; its positions run on over borders of samples
    placed = place(rows, batch.input_ids, scheme.token_ids, rule=scheme.rule, embed=embed)
    if batch.positions is not None:
        return placed.inputs_embeds, batch.positions
    each = zip(
        rows.split([int((owner == n).sum()) for n in range(len(batch.rows))]),
        batch.input_ids.split(batch.lengths),
        strict=True,
    )
    found = [place(mine, ids, scheme.token_ids, rule=scheme.rule).position_ids for mine, ids in each]
    return placed.inputs_embeds, torch.cat(found, dim=1)
