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
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.grid import Item
from tubelet.language import align
from tubelet.language.align import Prompts, TokenIds
from tubelet.language.times import ARITHMETIC, Arithmetic, Number, from_steps, from_times
from tubelet.shapes import Bool, Int64

Time = Literal["none", "rows", "seconds", "blocks"]
TIME: tuple[Time, ...] = ("none", "rows", "seconds", "blocks")
Compat = Literal["transformers-5"]
Extent = Literal["grid", "rows"]
EXTENT: tuple[Extent, ...] = ("grid", "rows")


@dataclass(frozen=True)
class PositionRule:
    """How a language model counts. Take one of `ONE_D`, `QWEN2_VL`, `QWEN2_5_VL`, `QWEN3_VL`, or `replace` a field.

    time: what a row of time counts. "none": rows are counted like text; "rows": one; "seconds": its seconds x
    tokens_per_second; "blocks": nothing, each frame is a block with text before it. tokens_per_second: of the
    checkpoint's vision_config (2 in Qwen2.5-VL's, 4 where a file leaves it out). arithmetic: see
    `tubelet.language.times`. extent: whether text after an item starts behind its "grid", so that dropping rows moves
    no other token, or behind the "rows" that are left. compat="transformers-5": count as transformers 5.23 does,
    where text after a video starts behind its picture alone and may lie inside the video's time (docs/positions.md).
    Raises InputError.

        >>> QWEN2_5_VL
        PositionRule(time='seconds', tokens_per_second=2, arithmetic='exact', extent='grid', compat=None)
    """

    time: Time
    tokens_per_second: Number = 2
    arithmetic: Arithmetic = "exact"
    extent: Extent = "grid"
    compat: Compat | None = None

    def __post_init__(self) -> None:
        known: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("time", self.time, TIME),
            ("arithmetic", self.arithmetic, ARITHMETIC),
            ("extent", self.extent, EXTENT),
            ("compat", self.compat, (None, "transformers-5")),
        )
        for name, value, values in known:
            if value not in values:
                raise InputError(f"{name} is one of {', '.join(map(str, values))}", expected=values, got=value)
        if not 0 <= float(self.tokens_per_second) < 1e6:
            raise InputError("tokens_per_second is 0 to 10^6", limit=1e6, got=float(self.tokens_per_second))


ONE_D = PositionRule("none")
QWEN2_VL = PositionRule("rows")
QWEN2_5_VL = PositionRule("seconds")
QWEN3_VL = PositionRule("blocks")


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
    """Rows by the runs they fill. lengths (N,): rows of each block; owners (N,): the item it is from; offsets (R, 3) of
    each row from where its block starts; extent (N,): how far the counter moves on behind the block."""

    lengths: Int64[np.ndarray, " N"]
    owners: Int64[np.ndarray, " N"]
    offsets: Int64[np.ndarray, "3 R"]
    extent: Int64[np.ndarray, " N"]


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
    parts: list[tuple[np.ndarray, Blocks]] = []
    for kind, grids, token in (("image", images, token_ids.image), ("video", videos, token_ids.video)):
        if token is None:
            continue
        is_video = np.full(len(grids), kind == "video")
        table = _table(grids[:, 0], is_video, rule, seconds=seconds if kind == "video" else [])
        blocks = _blocks(_places(grids), grids.prod(axis=1), grids, table, is_video, rule)
        places = found.find(token)
        align.check(found, places, blocks.lengths, owners=blocks.owners, what=kind, several=False)
        parts.append((places, blocks))
        if token_ids.video == token_ids.image:
            break
    return lay_out(found, parts, rule).to(input_ids.device)


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
    return _blocks(pos.T.copy(), lengths, grids, _table(grids[:, 0], is_video, rule, times=times), is_video, rule)


def lay_out(found: Prompts, parts: Sequence[tuple[Int64[np.ndarray, "..."], Blocks]], rule: PositionRule) -> Positions:
    """Positions of every token: the counter moves on by one for text, and behind each block by its extent. Offsets of
    the blocks are written to, because at 10^5 tokens fresh memory costs more than the sums."""
    batch, length = found.ids.shape
    step = found.real.astype(np.int64).ravel()
    begins: list[tuple[Int64[np.ndarray, " R"], Int64[np.ndarray, " N"], Blocks]] = []
    if rule.time != "none":
        for places, blocks in parts:
            first = places[np.cumsum(blocks.lengths) - blocks.lengths]
            step[places] = 0
            step[first] = blocks.extent
            begins.append((places, first, blocks))
    after = step.reshape(batch, length).cumsum(axis=1)
    counter = np.subtract(after.ravel(), step, out=step)
    ids = np.empty((3, batch * length), np.int64)
    ids[:] = counter
    for places, first, blocks in begins:
        start = np.repeat(counter[first], blocks.lengths)
        for axis, offset in zip(ids, blocks.offsets, strict=True):  # one axis at a time: numpy is 5 x faster at it
            offset += start
            axis[places] = offset
    compat = rule.compat == "transformers-5"
    if not found.real.all():
        ids[:, ~found.real.ravel()] = 0 if compat else 1
    following = after[:, -1:] if length else np.zeros((batch, 1), np.int64)
    base = np.full((batch, 1), length)
    if compat:
        base = found.real.sum(axis=1, keepdims=True)
        largest = ids.reshape(3, batch, length).max(axis=2, initial=0).max(axis=0)  # padding holds 0
        following = np.where(base > 0, largest[:, None] + 1, 0)
    together = ids.reshape(3, batch, length)
    return Positions(torch.from_numpy(together), torch.from_numpy(following - base), torch.from_numpy(following.copy()))


# ---- the steps


def _blocks(
    offsets: Int64[np.ndarray, "3 R"],
    lengths: Int64[np.ndarray, " N"],
    grids: Int64[np.ndarray, "N 3"],
    table: Int64[np.ndarray, " F"],
    is_video: Bool[np.ndarray, " N"],
    rule: PositionRule,
) -> Blocks:
    """Blocks of items, or of their frames, from places in grids: `offsets` is written to, its first axis becoming
    steps of time. Extents are those of grids or of rows."""
    rows_of_time = grids[:, 0]
    first_time = np.cumsum(rows_of_time) - rows_of_time
    behind = np.maximum(grids[:, 1], grids[:, 2])
    if rule.compat is None and len(table):
        behind = np.maximum(behind, np.maximum.reduceat(table, first_time) + 1)
    by_item, owners = lengths, np.arange(len(lengths))
    if rule.time == "blocks" and is_video.any():
        lengths, owners = _frames(offsets[0], lengths, is_video)
    if len(table) and (grids[:, 0] > 1).any():  # else the only row of time of every item counts 0
        offsets[0] = table[np.repeat(first_time, by_item) + offsets[0]]
    used = lengths > 0
    lengths, owners = lengths[used], owners[used]
    extent = behind[owners]
    if rule.extent == "rows" and len(lengths) and rule.compat is None:
        extent = np.maximum.reduceat(offsets.max(axis=0), np.cumsum(lengths) - lengths) + 1
    return Blocks(lengths, owners, offsets, extent)


def _frames(
    t: Int64[np.ndarray, " R"], lengths: Int64[np.ndarray, " N"], is_video: Bool[np.ndarray, " N"]
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
    """Rows of each frame of each video, and of each picture as a whole; the items they belong to."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    if not len(owner):
        return lengths[:0], lengths[:0]
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


def _places(grids: Int64[np.ndarray, "N 3"]) -> Int64[np.ndarray, "3 R"]:
    """(t, h, w) of every token of whole grids in raster order, end to end."""
    lines = grids[:, 0] * grids[:, 1]
    number = np.arange(int(lines.sum())) - np.repeat(np.cumsum(lines) - lines, lines)
    t, h = np.divmod(number, np.repeat(grids[:, 1], lines))
    widths = np.repeat(grids[:, 2], lines)
    places = np.empty((3, int(widths.sum())), np.int64)
    places[0], places[1] = np.repeat(t, widths), np.repeat(h, widths)
    places[2] = np.arange(places.shape[1])
    places[2] -= np.repeat(np.cumsum(widths) - widths, widths)
    return places
