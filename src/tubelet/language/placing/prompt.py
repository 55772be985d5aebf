"""Prompts with a place for every row: placeholders expanded, too long prompts cut between items, prompts padded.

    tokenizer's output      Look : < # > and < # > . Why ?           one placeholder an item
    expand_placeholders     Look : < # # # # > and < # # > . Why ?   as many as the item has rows
    truncate(.., 9)         Look : < # # # # > and                   never within an item
    pad                     [PAD] [PAD] Look : < # ...               left or right, with mask and labels

How many rows an item has is known from its grid, so from a `plan` of sizes: no pixel needs to be read for any of this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import AlignmentError, InputError
from tubelet.language.placing.rules import TokenIds
from tubelet.shapes import Int64

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")
IGNORED = -100  # what a loss leaves out, as everywhere in transformers
Count = int | Sequence[int]


@dataclass(frozen=True)
class Prompt:
    """One sample's token ids, expanded. labels: as many, or None. spans: (first, behind the last) token of each item
    with the start and end tokens around it. items: the numbers of these items as they were given. dropped: of those
    that `truncate` left out; the rows of a pack follow with `p.reorder(prompt.items)`."""

    ids: tuple[int, ...]
    labels: tuple[int, ...] | None
    spans: tuple[tuple[int, int], ...]
    items: tuple[int, ...]
    dropped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@door
def expand_placeholders(
    input_ids: Sequence[int] | Int64[Tensor, " S"],
    counts: Sequence[Count],
    token_ids: TokenIds,
    *,
    labels: Sequence[int] | Int64[Tensor, " S"] | None = None,
    before_frame: Callable[[int, int], Sequence[int]] | None = None,
) -> Prompt:
    """The prompt with each item's one placeholder repeated as often as the item has rows.

    counts: rows of each item in the order of the prompt, from `[i.tokens for i in tubelet.plan(...).items]` or from
    `packed.lengths`. For a video whose frames are blocks (Qwen3-VL), a list with the rows of each frame; then
    before_frame(item, frame) gives the ids of its timestamp text, start and end tokens go around each frame instead of
    around the item, and a frame without rows is left out with its timestamp. labels are expanded alike, with -100 at
    placeholders and timestamps.
    Raises: AlignmentError where counts and placeholders differ in number; InputError for a count below 1, labels of
    another length, or frames without before_frame, start and end.

        >>> ids = TokenIds(image=9, start=7, end=8)
        >>> expand_placeholders([5, 7, 9, 8, 6], [3], ids)
        Prompt(ids=(5, 7, 9, 9, 9, 8, 6), labels=None, spans=((1, 6),), items=(0,), dropped=())
    """
    given = _integers(input_ids)
    marked = None if labels is None else _integers(labels)
    if marked is not None and len(marked) != len(given):
        raise InputError(f"{len(marked)} labels for {len(given)} tokens", expected=len(given), got=len(marked))
    _check_counts(given, counts, token_ids)
    tokens: list[tuple[int, int]] = []  # id, and the place in the input whose label it keeps or -1
    spans: list[tuple[int, int]] = []
    copied = 0  # tokens of the input that are in the output already
    for item, at in enumerate(i for i, token in enumerate(given) if token in token_ids.placeholders):
        first, behind = _around(given, at, token_ids)
        tokens += [(given[i], i) for i in range(copied, first)]
        begin = len(tokens)
        count = counts[item]
        if isinstance(count, int):
            tokens += [(given[i], i) for i in range(first, at)]
            tokens += [(given[at], -1)] * count
            tokens += [(given[i], i) for i in range(at + 1, behind)]
        else:
            tokens += [(token, -1) for token in _frames(item, given[at], count, token_ids, before_frame)]
        spans.append((begin, len(tokens)))
        copied = behind
    tokens += [(given[i], i) for i in range(copied, len(given))]
    kept = None if marked is None else tuple(IGNORED if i < 0 else marked[i] for _, i in tokens)
    return Prompt(tuple(token for token, _ in tokens), kept, tuple(spans), tuple(range(len(counts))))


def truncate(prompt: Prompt, max_length: int, *, side: Side = "right", drop_items: bool = False) -> Prompt:
    """The prompt's first (side="right" cuts on the right) or last max_length tokens, with every item whole or gone.

    Without drop_items an item that does not fit is an error. With it, the cut moves to the near side of the first such
    item, and `dropped` of the result names it and all beyond. The prompt itself where it fits.
    Raises: AlignmentError naming the item that would be cut; InputError for a max_length below 0 or another side.

        >>> prompt = expand_placeholders([5, 9, 6, 9, 6], [2, 3], TokenIds(image=9))
        >>> truncate(prompt, 6, drop_items=True)
        Prompt(ids=(5, 9, 9, 6), labels=None, spans=((1, 3),), items=(0,), dropped=(1,))
    """
    if side not in SIDES or max_length < 0:
        raise InputError("side is left or right and max_length at least 0", expected=SIDES, got=(side, max_length))
    total = len(prompt)
    if total <= max_length:
        return prompt
    low, high = (0, max_length) if side == "right" else (total - max_length, total)
    lost = [n for n, (a, b) in enumerate(prompt.spans) if a < low or b > high]
    if lost and not drop_items:
        n = lost[0] if side == "right" else lost[-1]
        rows = prompt.spans[n][1] - prompt.spans[n][0]
        room = max(0, min(high, prompt.spans[n][1]) - max(low, prompt.spans[n][0]))
        raise AlignmentError(
            f"{max_length} of {total} tokens leave {room} of its {rows}; drop_items=True leaves the item out",
            item=prompt.items[n],
            expected=rows,
            got=room,
        )
    for n in lost:
        a, b = prompt.spans[n]
        low, high = (low, min(high, a)) if side == "right" else (max(low, b), high)
    kept = [n for n in range(len(prompt.spans)) if n not in lost]
    return Prompt(
        prompt.ids[low:high],
        None if prompt.labels is None else prompt.labels[low:high],
        tuple((prompt.spans[n][0] - low, prompt.spans[n][1] - low) for n in kept),
        tuple(prompt.items[n] for n in kept),
        (*prompt.dropped, *(prompt.items[n] for n in lost)),
    )


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Prompts of equal length. attention_mask is 1 for tokens and 0 for padding; counts: items of each sample."""

    input_ids: Int64[Tensor, "B S"]
    attention_mask: Int64[Tensor, "B S"]
    labels: Int64[Tensor, "B S"] | None
    counts: tuple[int, ...]


def pad(prompts: Sequence[Prompt], pad_id: int, *, side: Side, multiple: int = 1) -> PromptBatch:
    """A batch on the host, filled up with pad_id on one side to the longest prompt's length, rounded up to `multiple`.

    Generation wants side="left", training either. Labels of padding are -100; all prompts have labels or none.
    Raises InputError.

        >>> ids = TokenIds(image=9)
        >>> batch = pad([expand_placeholders([5, 9], [2], ids), expand_placeholders([5], [], ids)], 0, side="left")
        >>> batch.input_ids.tolist(), batch.counts
        ([[5, 9, 9], [0, 0, 5]], (1, 0))
    """
    if side not in SIDES or multiple < 1:
        raise InputError("side is left or right and multiple at least 1", expected=SIDES, got=(side, multiple))
    if len({p.labels is None for p in prompts}) > 1:
        raise InputError("some prompts have labels and others none")
    length = -(-max((len(p) for p in prompts), default=0) // multiple) * multiple

    def filled(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
        out = torch.full((len(rows), length), fill, dtype=torch.int64, device="cpu")
        for row, values in zip(out, rows, strict=True):
            start = length - len(values) if side == "left" else 0
            row[start : start + len(values)] = torch.tensor(values, dtype=torch.int64, device="cpu")
        return out

    labels = [p.labels for p in prompts if p.labels is not None]
    return PromptBatch(
        filled([p.ids for p in prompts], pad_id),
        filled([(1,) * len(p) for p in prompts], 0),
        filled(labels, IGNORED) if labels else None,
        tuple(len(p.items) for p in prompts),
    )


# ---- the steps


def _integers(values: Sequence[int] | Tensor) -> list[int]:
    if isinstance(values, Tensor):
        if values.ndim != 1 or values.is_floating_point():
            raise InputError(f"ids are one row of integers, got {values.dtype} {tuple(values.shape)}")
        return values.tolist()
    return list(values)


def _check_counts(given: list[int], counts: Sequence[Count], token_ids: TokenIds) -> None:
    found = sum(token in token_ids.placeholders for token in given)
    if found != len(counts):
        raise AlignmentError(
            f"{found} placeholders in the prompt for {len(counts)} items", expected=len(counts), got=found
        )
    for item, count in enumerate(counts):
        frames = [count] if isinstance(count, int) else list(count)
        if sum(frames) < 1 or min(frames) < 0:
            raise InputError(f"an item has at least one row, got {count}", item=item, limit=1, got=count)


def _around(given: list[int], at: int, token_ids: TokenIds) -> tuple[int, int]:
    """The item's tokens: its placeholder, with a start right before and an end right behind it."""
    first = at - 1 if at and token_ids.start is not None and given[at - 1] == token_ids.start else at
    behind = at + 2 if at + 1 < len(given) and given[at + 1] == token_ids.end else at + 1
    return first, behind


def _frames(
    item: int,
    placeholder: int,
    count: Sequence[int],
    token_ids: TokenIds,
    before_frame: Callable[[int, int], Sequence[int]] | None,
) -> list[int]:
    """Timestamp, start, placeholders and end of every frame that has rows."""
    if before_frame is None or token_ids.start is None or token_ids.end is None:
        raise InputError("rows by frame need before_frame and the ids of start and end", item=item)
    body: list[int] = []
    for frame, rows in enumerate(count):
        if rows:
            body += [*before_frame(item, frame), token_ids.start, *[placeholder] * rows, token_ids.end]
    return body
