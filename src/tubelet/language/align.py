"""Which placeholder of a batch of prompts belongs to which row: block by block, exactly, or AlignmentError.

    tokens      a  b  <  #  #  #  #  >  c  #  #  d        # placeholder
    runs                 [---------]       [--]
    blocks               6 rows?  no: the run holds 4     a block fills places that follow each other, in one sample

A block is what one run of placeholders shows: an item, or one frame of it where a model writes a timestamp before each.
Blocks may touch; a run of the length of two blocks holds two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tubelet.errors import AlignmentError, InputError
from tubelet.shapes import Bool, Int64


@dataclass(frozen=True)
class TokenIds:
    """The ids that stand for pixels in a language model's vocabulary. Qwen's and LLaVA's values are in `QWEN`, `LLAVA`.

    image, video: the placeholders, one of them for each row; equal where a model has one for both. start, end: tokens
    around an item, None where a model has none. An id may lie outside the vocabulary (LLaVA's -200).
    Raises InputError where the ids cannot be told apart.

        >>> TokenIds(image=151655, video=151656).placeholders
        (151655, 151656)
    """

    image: int
    video: int | None = None
    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        around = [i for i in (self.start, self.end) if i is not None]
        if {self.start, self.end} & {self.image, self.video} - {None} or len(set(around)) != len(around):
            raise InputError("the ids of placeholders, start and end must differ", got=self)

    @property
    def placeholders(self) -> tuple[int, ...]:
        """One or two ids."""
        return (self.image,) if self.video in (None, self.image) else (self.image, self.video)  # pyright: ignore[reportReturnType]


QWEN = TokenIds(image=151655, video=151656, start=151652, end=151653)
LLAVA = TokenIds(image=-200)


@dataclass(frozen=True)
class Prompts:
    """A batch of token ids on the host, with which of them are text or pixels and not padding."""

    ids: Int64[np.ndarray, "B S"]
    real: Bool[np.ndarray, "B S"]

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def find(self, *ids: int) -> Int64[np.ndarray, " R"]:
        """Places of the given ids, padding aside, counted through the batch row by row."""
        flat = self.ids.ravel()
        found = flat == ids[0]
        for one in ids[1:]:
            found |= flat == one
        return np.flatnonzero(found if self.real.all() else found & self.real.ravel())


def prompts(input_ids: Int64[Tensor, "*batch S"], attention_mask: Tensor | None = None) -> Prompts:
    """Ids (S,) or (B, S) and their mask on the host; 0 or False in the mask is padding. Syncs when they are elsewhere.

    Raises InputError for other shapes, or a mask of another shape.
    """
    if input_ids.ndim not in (1, 2):
        raise InputError(f"input_ids are (S,) or (B, S), got {tuple(input_ids.shape)}", got=tuple(input_ids.shape))
    ids = np.atleast_2d(input_ids.detach().cpu().numpy())
    if attention_mask is None:
        return Prompts(ids, np.ones(ids.shape, bool))
    if attention_mask.shape != input_ids.shape:
        raise InputError(
            f"attention_mask is {tuple(attention_mask.shape)} for input_ids {tuple(input_ids.shape)}",
            expected=tuple(input_ids.shape),
            got=tuple(attention_mask.shape),
        )
    return Prompts(ids, np.atleast_2d(attention_mask.detach().cpu().numpy()) != 0)


def check(
    found: Prompts,
    places: Int64[np.ndarray, " R"],
    lengths: Int64[np.ndarray, " N"],
    *,
    owners: Int64[np.ndarray, " N"] | None = None,
    counts: Sequence[int] | None = None,
    what: str = "item",
    several: bool = True,
) -> None:
    """Nothing where blocks of `lengths` rows fill the runs at `places`, in order.

    owners: the item of each block, its own number where None. counts: how many items belong to each sample; without it
    items are taken in order. what: the word for a block's owner in a message. several: whether there may be
    placeholders of several ids, of which a block has one.
    Raises AlignmentError naming the sample, the item, the rows expected and the placeholders found.
    """
    if counts is not None and len(counts) != len(found.ids):
        raise AlignmentError(
            f"{len(counts)} counts of {what}s for {len(found.ids)} samples", expected=len(found.ids), got=len(counts)
        )
    owners = np.arange(len(lengths)) if owners is None else owners
    used = lengths > 0
    lengths, owners = lengths[used], owners[used]
    if not _fits(found, places, lengths, owners, counts, several):
        raise _explain(found, places, lengths.tolist(), owners.tolist(), counts, what)


def _fits(
    found: Prompts,
    places: Int64[np.ndarray, " R"],
    lengths: Int64[np.ndarray, " N"],
    owners: Int64[np.ndarray, " N"],
    counts: Sequence[int] | None,
    several: bool,
) -> bool:
    if int(lengths.sum()) != len(places):
        return False
    starts = np.cumsum(lengths) - lengths
    if counts is not None:
        sample = np.repeat(np.arange(len(counts)), counts)
        if len(owners) and (owners[-1] >= len(sample) or (sample[owners] != places[starts] // found.length).any()):
            return False
    first, last = places[starts], places[starts + lengths - 1]
    if (last - first != lengths - 1).any() or (first // found.length != last // found.length).any():
        return False  # places rise, so a block of n that spans n tokens has no gap
    if not several or not len(places):
        return True
    kinds = found.ids.ravel()[places]
    same = np.add.reduceat(kinds == np.repeat(kinds[starts], lengths), starts, dtype=np.int64)
    return bool((same == lengths).all())


def _breaks(found: Prompts, places: Int64[np.ndarray, " R"]) -> Bool[np.ndarray, " breaks"]:
    """Where the next place is not the next token of the same sample with the same id."""
    ids = found.ids.ravel()[places]
    apart = (np.diff(places) != 1) | (np.diff(ids) != 0)
    return apart if len(found.ids) == 1 else apart | (np.diff(places // found.length) != 0)


def _explain(
    found: Prompts,
    places: Int64[np.ndarray, " R"],
    lengths: list[int],
    owners: list[int],
    counts: Sequence[int] | None,
    what: str,
) -> AlignmentError:
    """The first run and block that do not fit, found the slow way."""
    runs = np.split(places, np.flatnonzero(_breaks(found, places)) + 1) if len(places) else []
    sample_of = None if counts is None else np.repeat(np.arange(len(counts)), counts).tolist()
    block = 0
    for run in runs:
        sample, column = divmod(int(run[0]), found.length)
        left = len(run)
        while left:
            where = f"{left} places left in the run of {len(run)} placeholders at token {column}"
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
