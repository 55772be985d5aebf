"""How a language model counts and which of its ids stand for pixels, as values; nothing here needs torch."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tubelet.doors import door
from tubelet.errors import InputError

Arithmetic = Literal["exact", "float32"]  # of `language.placing.times`
ARITHMETIC: tuple[Arithmetic, ...] = ("exact", "float32")
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
    `language.placing.times`. extent: whether text after an item starts behind its "grid", so that dropping rows moves
    no other token, or behind the "rows" that are left. compat="transformers-5": count as transformers 5.23 does,
    where text after a video starts behind its picture alone and may lie inside the video's time
    (docs/guides/positions.md).
    Raises InputError.

        >>> QWEN2_5_VL
        PositionRule(time='seconds', tokens_per_second=2, arithmetic='exact', extent='grid', compat=None)
    """

    time: Time
    tokens_per_second: float | Fraction = 2
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

    @door
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
