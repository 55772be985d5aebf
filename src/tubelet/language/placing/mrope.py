"""Position ids of a prompt with pixels in it: three numbers (t, h, w) for each token, as Qwen's models count them.

    text runs on all three axes; an item starts where the text stands, its rows lie on the grid from there, and text
    goes on at the largest of all three, plus one. A video of 3 rows of time, 2 x 2, after two words:

        token   a  b  #  #  #  #  #  #  #  #  #  #  #  #  c
        t       0  1  2  2  2  2  3  3  3  3  4  4  4  4  5
        h       0  1  2  2  3  3  2  2  3  3  2  2  3  3  5
        w       0  1  2  3  2  3  2  3  2  3  2  3  2  3  5

What a row of time counts is the rule's: `ONE_D` (no grid at all), `QWEN2_VL` (one), `QWEN2_5_VL` (seconds), `QWEN3_VL`
(none: every frame is a block of its own behind a timestamp). Rows come with their true places, so merged, selected and
sparse rows get the positions of where they are. Everything is numpy on the host, without a loop over items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import InputError, ShapeError
from tubelet.language.placing import align
from tubelet.language.placing.align import Prompts
from tubelet.language.placing.rules import PositionRule, TokenIds
from tubelet.language.placing.strips import Strips, of_grids, of_rows, ranges, reach, spread
from tubelet.language.placing.times import Number, from_steps, from_times
from tubelet.packed.grid import Item
from tubelet.shapes import Bool, Int64


@dataclass(frozen=True, eq=False)
class Positions:
    """position_ids (3, B, S), rope_deltas (B, 1) as transformers keeps them, and where each sample goes on.

    A model with plain positions takes `position_ids[0]`. Padding holds 1, in compat="transformers-5" 0.
    """

    position_ids: Int64[Tensor, "3 B S"]
    rope_deltas: Int64[Tensor, "B 1"]
    next_position: Int64[Tensor, "B 1"]

    def decode(self, done: int = 0, count: int = 1) -> Int64[Tensor, "3 B C"]:
        """Positions of the `count` tokens generated after the first `done` ones: text, so all axes run on.

        >>> grid = torch.tensor([[1, 4, 4]])
        >>> ids = TokenIds(image=9)
        >>> from tubelet.language.placing.rules import QWEN2_VL
        >>> at = rope_index(torch.tensor([[5, 9, 9, 9, 9, 6]]), ids, QWEN2_VL, image_grid_thw=grid)
        >>> at.decode(done=1, count=2)[:, 0].tolist()
        [[5, 6], [5, 6], [5, 6]]
        """
        if done < 0 or count < 0:
            raise InputError("done and count are numbers of tokens", limit=0, got=(done, count))
        run = torch.arange(done, done + count, device=self.next_position.device)
        return (self.next_position + run).expand(3, -1, -1)

    def to(self, device: torch.device | str) -> "Positions":
        """The same on another device."""
        return Positions(self.position_ids.to(device), self.rope_deltas.to(device), self.next_position.to(device))


class Blocks(NamedTuple):
    """Rows by the runs they fill, in the order of the prompts. lengths (N,): rows of each block, at least one; owners
    (N,): the item it is from; extent (N,): how far the counter moves on behind it; strips: where its rows lie."""

    lengths: Int64[np.ndarray, " N"]
    owners: Int64[np.ndarray, " N"]
    extent: Int64[np.ndarray, " N"]
    strips: Strips


_NONE = np.zeros(0, np.int64)
_NO_BLOCKS = Blocks(_NONE, _NONE, _NONE, Strips(np.zeros((3, 0), np.int64), _NONE, _NONE))


@door
def rope_index(
    input_ids: Int64[Tensor, "*batch S"],
    token_ids: TokenIds,
    rule: PositionRule,
    *,
    image_grid_thw: Int64[Tensor, "N 3"] | None = None,
    video_grid_thw: Int64[Tensor, "M 3"] | None = None,
    second_per_grid_ts: Tensor | Sequence[Number] | None = None,
    attention_mask: Tensor | None = None,
    merge: int = 2,
) -> Positions:
    """Positions of Hugging Face's inputs: grids of patches (t, h, w) in the order of the prompts' images and videos.

    merge: patches a side that became one token. second_per_grid_ts: seconds between two rows of time of each video, 1
    where None. Whole items only; rows that were dropped or sampled unevenly go through `place`, which knows where and
    when each is. Cost: a few passes over the tokens (benchmarks/mrope.py).
    Raises: AlignmentError where grids and runs of placeholders differ, ShapeError where merge does not divide a grid.

    Source: QwenLM's rope2d.py as in diankun-wu/Spatial-MLLM:src/qwenvl/data/rope2d.py@9fc47382 (get_rope_index_2 and
    _25) and Jinjing98/Spatial-MLLM@def53a68 (get_rope_index_3). Two images whose runs touch are counted one after the
    other; the reference counts the second as text.

        >>> from tubelet.language.placing.rules import QWEN2_VL
        >>> ids = torch.tensor([[5, 9, 9, 9, 9, 6]])
        >>> grid = torch.tensor([[1, 4, 4]])
        >>> rope_index(ids, TokenIds(image=9), QWEN2_VL, image_grid_thw=grid).position_ids[:, 0].tolist()
        [[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]]
    """
    found = align.prompts(input_ids, attention_mask)
    images, videos = _merged(image_grid_thw, merge, "image"), _merged(video_grid_thw, merge, "video")
    seconds = _seconds(second_per_grid_ts, len(videos))
    if token_ids.video in (None, token_ids.image) and len(videos):
        raise InputError("grids of videos need a video placeholder of their own; see `place` for a shared one")
    grids = np.concatenate([images, videos])
    is_video = np.arange(len(grids)) >= len(images)
    table = _table(grids[:, 0], is_video, rule, seconds=seconds)
    owners, begin, frames = _pieces(grids[:, 0], is_video, rule)
    lengths = frames * grids[owners, 1] * grids[owners, 2]
    runs = found.runs(*token_ids.placeholders)
    cut = int(np.searchsorted(owners, len(images)))  # pieces of images stand before those of videos
    first = align.fit(found, runs.of(token_ids.image), lengths[:cut], owners=owners[:cut], what="image")
    if token_ids.video not in (None, token_ids.image):
        more = owners[cut:] - len(images)
        clips = align.fit(found, runs.of(token_ids.video), lengths[cut:], owners=more, what="video")
        first = np.concatenate([first, clips])
        order = np.argsort(first)
        first, owners, begin, frames, lengths = (x[order] for x in (first, owners, begin, frames, lengths))
    times = (np.cumsum(grids[:, 0]) - grids[:, 0])[owners] + begin
    strips = of_grids(frames, grids[owners, 1], grids[owners, 2], times, table)
    blocks = Blocks(lengths, owners, _extent(grids, owners, table, strips, rule), strips)
    return lay_out(found, first, blocks, rule).to(input_ids.device)


def item_blocks(
    pos: Int64[np.ndarray, "R 3"],
    lengths: Int64[np.ndarray, " N"],
    items: Sequence[Item],
    is_video: Bool[np.ndarray, " N"],
    rule: PositionRule,
) -> Blocks:
    """Blocks of rows with their own places `pos`, `lengths` of them from each item; times are the items'."""
    grids = np.fromiter(chain.from_iterable(i.grid for i in items), np.int64, 3 * len(items)).reshape(-1, 3)
    times = np.fromiter(chain.from_iterable(i.times_s for i in items), np.float64, int(grids[:, 0].sum()))
    table = _table(grids[:, 0], is_video, rule, times=times)
    owners = np.flatnonzero(lengths)
    lengths = lengths[owners]
    if rule.time == "blocks" and is_video.any():
        lengths, owners = _frames(pos[:, 0], lengths, owners, is_video)
    first_time = np.cumsum(grids[:, 0]) - grids[:, 0]
    strips = of_rows(pos, lengths, first_time[owners], table)
    return Blocks(lengths, owners, _extent(grids, owners, table, strips, rule), strips)


def lay_out(found: Prompts, first: Int64[np.ndarray, " N"], blocks: Blocks, rule: PositionRule) -> Positions:
    """Positions of every token: the counter moves on by one for text, and behind each block by its extent. first:
    where each block starts, counted through the batch row by row."""
    batch, length = found.ids.shape
    if rule.time == "none":
        first, blocks = first[:0], _NO_BLOCKS  # rows are text here
    # tokens of text: those in the gaps between blocks that are not padding
    begin = np.append(0, first + blocks.lengths)
    gaps = np.append(first, batch * length) - begin
    text = ranges(begin, gaps)
    text = text if found.real is None else text[found.real.ravel()[text]]
    # text and extents before each block, and before each sample and behind the last, both from the batch's beginning
    border = np.arange(batch + 1) * length
    passed = np.append(0, np.cumsum(blocks.extent))
    words, moved = np.searchsorted(text, first), np.searchsorted(first, border)
    base = np.searchsorted(text, border) + passed[moved]
    start = words + passed[:-1] - base[first // max(length, 1)]
    running = np.arange(len(text)) + np.repeat(passed, np.diff(words, prepend=0, append=len(text)))
    if batch > 1:
        running -= base[text // max(length, 1)]
    ids = spread(blocks.strips, start, gaps)
    ids[:, text] = running
    compat = rule.compat == "transformers-5"
    if found.real is not None:
        ids[:, ~found.real.ravel()] = 0 if compat else 1
    following = np.diff(base)
    behind = np.full(batch, length)
    if compat:
        behind = behind if found.real is None else found.real.sum(axis=1)
        last = np.zeros(batch, np.int64)
        np.maximum.at(last, text // max(length, 1), running + 1)
        np.maximum.at(last, first // max(length, 1), start + reach(blocks.strips) + 1)
        following = last
    return Positions(
        torch.from_numpy(ids.reshape(3, batch, length)),
        torch.from_numpy(following - behind)[:, None],
        torch.from_numpy(following)[:, None],
    )


# ---- the steps


def _pieces(
    rows_of_time: Int64[np.ndarray, " N"], is_video: Bool[np.ndarray, " N"], rule: PositionRule
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
    """Of each block of whole items: its item, its first row of time there, and how many it has."""
    apart = is_video if rule.time == "blocks" else np.zeros_like(is_video)
    count = np.where(apart, rows_of_time, 1)
    owners = np.repeat(np.arange(len(count)), count)
    return owners, ranges(np.zeros_like(count), count), np.where(apart, 1, rows_of_time)[owners]


def _extent(
    grids: Int64[np.ndarray, "N 3"],
    owners: Int64[np.ndarray, " B"],
    table: Int64[np.ndarray, " F"],
    strips: Strips,
    rule: PositionRule,
) -> Int64[np.ndarray, " B"]:
    """How far the counter moves on behind each block: past its item's grid, or past its own rows."""
    if rule.extent == "rows" and rule.compat is None:
        return reach(strips) + 1
    behind = np.maximum(grids[:, 1], grids[:, 2])
    if rule.compat is None and len(table):
        behind = np.maximum(behind, np.maximum.reduceat(table, np.cumsum(grids[:, 0]) - grids[:, 0]) + 1)
    return behind[owners]


def _frames(
    t: Int64[np.ndarray, " R"],
    lengths: Int64[np.ndarray, " N"],
    owners: Int64[np.ndarray, " N"],
    is_video: Bool[np.ndarray, " items"],
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
    """Rows of each frame of each video, and of each picture as a whole; the items they belong to."""
    owner = np.repeat(owners, lengths)
    new = np.ones(len(owner), bool)
    new[1:] = (np.diff(owner) != 0) | ((np.diff(t) != 0) & is_video[owner[1:]])
    starts = np.flatnonzero(new)
    return np.diff(starts, append=len(owner)), owner[starts]


def _table(
    rows_of_time: Int64[np.ndarray, " N"],
    is_video: Bool[np.ndarray, " N"],
    rule: PositionRule,
    *,
    times: np.ndarray | None = None,
    seconds: list[Number] | None = None,
) -> Int64[np.ndarray, " F"]:
    """The step of every row of time of every item, end to end."""
    starts = np.cumsum(rows_of_time) - rows_of_time
    number = np.arange(int(rows_of_time.sum())) - np.repeat(starts, rows_of_time)
    if rule.time == "blocks":
        return np.where(np.repeat(is_video, rows_of_time), 0, number)
    if rule.time != "seconds":
        return number
    compat = rule.compat == "transformers-5"
    table = number if compat else np.zeros_like(number)  # pictures: the reference's step is 0, transformers' is 1
    chosen = np.repeat(is_video, rows_of_time)
    rows = rows_of_time[is_video]
    if seconds is not None:
        steps = from_steps(rows, seconds, rule.tokens_per_second, rule.arithmetic, product_first=compat)
    else:
        assert times is not None
        steps = from_times(times[chosen], rows, rule.tokens_per_second, rule.arithmetic)
    table[chosen] = steps
    return table


def _merged(grid_thw: Tensor | None, merge: int, kind: str) -> Int64[np.ndarray, "N 3"]:
    """Grids of tokens from grids of patches. Raises ShapeError naming the first one that merge does not divide."""
    if grid_thw is None:
        return np.zeros((0, 3), np.int64)
    grids = grid_thw.detach().cpu().numpy().astype(np.int64)
    if merge < 1 or grids.ndim != 2 or grids.shape[1] != 3:
        raise ShapeError(f"{kind} grids are (N, 3) and merge at least 1", got=(grids.shape, merge))
    bad = np.flatnonzero((grids < 1).any(axis=1) | (grids[:, 1:] % merge != 0).any(axis=1))
    if len(bad):
        grid = tuple(grids[bad[0]].tolist())
        raise ShapeError(f"{kind} grid {grid} has no {merge} x {merge} blocks", item=int(bad[0]), got=grid)
    return grids // np.array([1, merge, merge])


def _seconds(given: Tensor | Sequence[Number] | None, videos: int) -> list[Number]:
    """One number for each video; float32 tensors keep their precision, so that 1.3 in one is taken for 1.3."""
    if given is None:
        return [1] * videos
    values = list(given.detach().cpu().numpy()) if isinstance(given, Tensor) else list(given)
    if len(values) != videos:
        raise ShapeError(f"{len(values)} second_per_grid_ts for {videos} videos", expected=videos, got=len(values))
    return values
