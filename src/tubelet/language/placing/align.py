"""Which placeholder of a batch of prompts belongs to which row: block by block, exactly, or AlignmentError.

    tokens      a  b  <  #  #  #  #  >  c  #  #  d        # placeholder
    runs                 [---------]       [--]
    blocks               6 rows?  no: the run holds 4     a block fills places that follow each other, in one sample

A block is what one run of placeholders shows: an item, or one frame of it where a model writes a timestamp before each.
Blocks may touch; a run of the length of two blocks holds two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from tubelet.errors import AlignmentError, InputError
from tubelet.shapes import Bool, Int64


class Runs(NamedTuple):
    """Placeholders that follow each other: places of the first ones, counted through the batch row by row, how many
    there are of each, and which."""

    first: Int64[np.ndarray, " M"]
    length: Int64[np.ndarray, " M"]
    ids: Int64[np.ndarray, " M"]

    def of(self, token: int) -> "Runs":
        """Those of one placeholder."""
        mine = self.ids == token
        return Runs(self.first[mine], self.length[mine], self.ids[mine])


@dataclass(frozen=True)
class Prompts:
    """A batch of token ids on the host. real: which of them are text or pixels and not padding, None where all are."""

    ids: Int64[np.ndarray, "B S"]
    real: Bool[np.ndarray, "B S"] | None

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def runs(self, *ids: int) -> Runs:
        """Runs of the given ids, padding aside. A run ends with its sample, and where another of the ids begins."""
        flat = self.ids.ravel()
        new = np.ones(len(flat), bool)
        np.not_equal(flat[1:], flat[:-1], out=new[1:])
        new[:: max(self.length, 1)] = True
        if self.real is not None:
            real = self.real.ravel()
            new[1:] |= real[1:] != real[:-1]
        first = new.nonzero()[0]
        shown = flat[first]
        wanted = shown == ids[0]
        for one in ids[1:]:
            wanted |= shown == one
        if self.real is not None:
            wanted &= self.real.ravel()[first]
        return Runs(first[wanted], np.diff(first, append=len(flat))[wanted], shown[wanted])


def prompts(input_ids: Int64[Tensor, "*batch S"], attention_mask: Tensor | None = None) -> Prompts:
    """Ids (S,) or (B, S) and their mask on the host; 0 or False in the mask is padding. Syncs when they are elsewhere.

    Raises InputError for other shapes, or a mask of another shape.
    """
    if input_ids.ndim not in (1, 2):
        raise InputError(f"input_ids are (S,) or (B, S), got {tuple(input_ids.shape)}", got=tuple(input_ids.shape))
    ids = np.atleast_2d(input_ids.detach().cpu().numpy())
    if attention_mask is None:
        return Prompts(ids, None)
    if attention_mask.shape != input_ids.shape:
        raise InputError(
            f"attention_mask is {tuple(attention_mask.shape)} for input_ids {tuple(input_ids.shape)}",
            expected=tuple(input_ids.shape),
            got=tuple(attention_mask.shape),
        )
    real = np.atleast_2d(attention_mask.detach().cpu().numpy()) != 0
    return Prompts(ids, None if real.all() else real)


def fit(
    found: Prompts,
    runs: Runs,
    lengths: Int64[np.ndarray, " N"],
    *,
    owners: Int64[np.ndarray, " N"] | None = None,
    counts: Sequence[int] | None = None,
    what: str = "item",
) -> Int64[np.ndarray, " N"]:
    """The place of each block's first row, where blocks of `lengths` rows, at least one each, fill the runs in order.

    owners: the item of each block, its own number where None. counts: how many items belong to each sample; without it
    items are taken in order. what: the word for a block's owner in a message.
    Raises AlignmentError naming the sample, the item, the rows expected and the placeholders found.
    """
    if counts is not None and len(counts) != len(found.ids):
        raise AlignmentError(
            f"{len(counts)} counts of {what}s for {len(found.ids)} samples", expected=len(found.ids), got=len(counts)
        )
    owners = np.arange(len(lengths)) if owners is None else owners
    first = _first(runs, lengths)
    if first is not None and counts is not None and len(first):
        sample = np.repeat(np.arange(len(counts)), counts)
        if owners[-1] >= len(sample) or (sample[owners] != first // found.length).any():
            first = None
    if first is None:
        raise _explain(found, runs, lengths.tolist(), owners.tolist(), counts, what)
    return first


def _first(runs: Runs, lengths: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"] | None:
    """Where each block starts; None where they do not fill the runs, each within one."""
    have, want = np.cumsum(runs.length), np.cumsum(lengths)
    if int(runs.length.sum()) != int(lengths.sum()):
        return None
    before = want - lengths  # rows before each block
    run = np.searchsorted(have, before, side="right")
    if (want > have[run]).any():
        return None
    return runs.first[run] + before - have[run] + runs.length[run]


def _explain(
    found: Prompts,
    runs: Runs,
    lengths: list[int],
    owners: list[int],
    counts: Sequence[int] | None,
    what: str,
) -> AlignmentError:
    """The first run and block that do not fit, found the slow way."""
    sample_of = None if counts is None else np.repeat(np.arange(len(counts)), counts).tolist()
    block = 0
    for first, length in zip(runs.first.tolist(), runs.length.tolist(), strict=True):
        sample, column = divmod(first, found.length)
        left = length
        while left:
            where = f"{left} places left in the run of {length} placeholders at token {column}"
            item = owners[block] if block < len(lengths) else None
            if item is None or (sample_of is not None and sample_of[item : item + 1] != [sample]):
                return _error(f"{where} and no {what} for them", sample, None, 0, left)
            if lengths[block] > left:
                return _error(f"{lengths[block]} rows and {where}", sample, item, lengths[block], left)
            left -= lengths[block]
            block += 1
    sample = len(found.ids) - 1
    if sample_of is not None:
        sample = sample_of[owners[block]] if owners[block] < len(sample_of) else sample
    return _error(f"{lengths[block]} rows of this {what} and no placeholders", sample, owners[block], lengths[block], 0)


def _error(text: str, sample: int, item: int | None, expected: int, got: int) -> AlignmentError:
    error = AlignmentError(f"sample {sample}: {text}", item=item, expected=expected, got=got)
    error.sample = sample
    return error
