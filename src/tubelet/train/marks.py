"""What stands for pictures and clips in the text of a sample, and how its spans move when that is written out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tubelet.errors import ConfigError, InputError
from tubelet.inspect.budget.values import PlannedItem
from tubelet.language.placing.prompt import Count
from tubelet.language.vlm.chat import timestamps
from tubelet.language.vlm.scheme import IMAGE_TAG, Scheme
from tubelet.language.vlm.written_out import Shown, write_out
from tubelet.pixels.recipe import PixelRecipe
from tubelet.train.data.sample import Kind

Span = tuple[int, int]


@dataclass(frozen=True)
class Header:
    """What is known of a picture or clip before its pixels are."""

    kind: Kind
    width: int  # upright
    height: int
    times_s: tuple[float, ...]  # of the frames that will be taken
    duration_s: float | None = None  # of the whole clip, where known

    @property
    def clip(self) -> bool:
        """Whether it is cut as a clip and stands for one, be it of one frame."""
        return self.kind == "video"


def recipe_of(header: Header, scheme: Scheme) -> PixelRecipe:
    """The recipe that cuts a picture or clip."""
    return scheme.video_pixels if header.clip and scheme.video_pixels is not None else scheme.pixels


def mark_of(header: Header, scheme: Scheme, tokenizer: Any) -> str:
    """What stands for a picture or clip in text."""
    if scheme.wording == "image_tag":
        return IMAGE_TAG
    if (written := scheme.written) is not None:
        mark = written.clip_mark if header.clip else written.mark
        if mark is None:
            raise ConfigError("this model knows no clips", got=header.kind)
        return mark
    ids = scheme.token_ids
    middle = ids.video if header.clip and ids.video is not None else ids.image
    wanted = [i for i in (ids.start, middle, ids.end) if i is not None]
    names = tokenizer.convert_ids_to_tokens(wanted)
    if None in names:
        raise ConfigError("the tokenizer lacks a placeholder of this model", expected=tuple(wanted))
    return "".join(names)


def with_times(
    text: str,
    spans: list[Span],
    headers: Sequence[Header],
    planned: Sequence[PlannedItem],
    scheme: Scheme,
    tokenizer: Any,
) -> tuple[str, list[Span], list[Count]]:
    """The text with a timestamp and a block for each frame of each clip, and the rows of each block (Qwen3-VL)."""
    pieces: list[str] = []
    counts: list[Count] = []
    moved: list[tuple[int, int]] = []  # (a place in the text, letters added there)
    done = 0
    for header, one in zip(headers, planned, strict=True):
        mark = mark_of(header, scheme, tokenizer)
        at = text.find(mark, done)
        if at < 0:
            raise InputError("the chat template leaves a picture or clip out", expected=mark)
        pieces.append(text[done:at])
        done = at + len(mark)
        blocks = [mark]
        counts += [one.merged.h * one.merged.w] * one.merged.t
        if header.clip:
            times = timestamps(header.times_s, recipe_of(header, scheme).temporal)
            blocks = [f"<{when:.1f} seconds>{mark}" for when in times]
        pieces += blocks
        moved.append((done, sum(map(len, blocks)) - len(mark)))
    return "".join([*pieces, text[done:]]), _moved(spans, moved), counts


def with_views(
    text: str, spans: list[Span], headers: Sequence[Header], planned: Sequence[PlannedItem], scheme: Scheme
) -> tuple[str, list[Span], list[Count]]:
    """The text with pictures and clips written out, and the rows of each placeholder."""
    written, items = scheme.written, []
    assert written is not None
    for header, one in zip(headers, planned, strict=True):
        lengths = [n for _, n in one.views] or [one.tokens]
        if header.clip and written.clip_mark is not None:
            lengths = [one.tokens // one.merged.t] * one.merged.t
        items.append(Shown(header.height, header.width, header.clip, header.times_s, header.duration_s, lengths))
    made = write_out(text, items, written, scheme.views)
    return made.text, _moved(spans, made.grown), list(made.counts)


def _moved(spans: Sequence[Span], grown: Sequence[tuple[int, int]]) -> list[Span]:
    """Spans in a text that grew: (where in the old text, by how many letters), none of it inside a span."""
    return [(a + sum(n for at, n in grown if at <= a), b + sum(n for at, n in grown if at <= a)) for a, b in spans]
