"""Ceilings on what one input may ask for. Checked from the header before anything is decoded, and again while decoding,
because headers lie. A caller may lower or raise them; nothing read from a file can."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

from tubelet.doors import door
from tubelet.errors import LimitError

MIB = 1 << 20
_CLOCK_EVERY = 512  # things that a file counts between two looks at the clock
_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """The defaults suit files from strangers on one machine. Units are in the names; all are inclusive.

    Raises LimitError where one is not above zero.

        >>> Limits(max_pixels=1_000_000).check_picture(1920, 1080)
        Traceback (most recent call last):
        tubelet.errors.LimitError: 1920 x 1080 = 2,073,600 is above max_pixels = 1,000,000
    """

    max_bytes: int = 512 * MIB  # of one input file
    max_pixels: int = 64_000_000  # of one picture or frame, as stored
    max_side: int = 65_535  # of one picture or frame
    max_ratio: float = 65_535.0  # long side / short side; decoding and resizing cost by pixels, whatever the ratio
    max_frames: int = 8_192  # frames taken out of one clip
    max_clip_pixels: int = 2_000_000_000  # frames taken x pixels of one, about 6 GB of RGB
    max_packets: int = 4_000_000  # packets of a video stream that an index may list
    max_seconds: float = 4 * 3600.0  # length of a clip, as declared and as found
    max_metadata_bytes: int = 16 * MIB  # one text, profile or EXIF block
    max_tokens: int = 2**31 - 1  # rows of one pack: cu_seqlens is int32
    deadline_s: float = 60.0  # one input's decoding, by the wall clock
    max_memory_bytes: int = 4096 * MIB  # address space the decoding child may add to what it starts with

    @door
    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not value > 0:
                raise LimitError(f"limit {f.name} must be above zero, got {value}", limit=f.name, got=value)

    def check(self, name: str, got: float, what: str) -> None:
        """Raise LimitError when `got` is above the ceiling called `name`; `what` says in words what was counted."""
        ceiling = getattr(self, name)
        if not got <= ceiling:
            raise LimitError(f"{what} {got:,} is above {name} = {ceiling:,}", limit=ceiling, got=got)

    def within_deadline(self, things: Iterable[_T]) -> Iterator[_T]:
        """The same things, until `deadline_s` from the first of them. Raises: LimitError."""
        until = time.monotonic() + self.deadline_s
        for number, thing in enumerate(things):
            if number % _CLOCK_EVERY == 0:
                self.check_clock(until)
            yield thing

    def check_clock(self, until: float) -> None:
        """Raise LimitError when the monotonic clock has passed `until`."""
        late = time.monotonic() - until
        if late > 0:
            took = round(self.deadline_s + late, 3)
            raise LimitError(
                f"reading took longer than deadline_s = {self.deadline_s:g}", limit=self.deadline_s, got=took
            )

    def check_picture(self, width: int, height: int) -> None:
        """Side, ratio and pixel ceilings of one picture or frame of the given stored size."""
        if width < 1 or height < 1:
            raise LimitError(f"a picture of {width} x {height} pixels has no content", limit=1, got=min(width, height))
        self.check("max_side", max(width, height), "side length")
        self.check("max_pixels", width * height, f"{width} x {height} =")
        ratio = max(width, height) / min(width, height)
        if ratio > self.max_ratio:
            raise LimitError(
                f"{width} x {height} has a side ratio of {ratio:.1f}, above max_ratio = {self.max_ratio:g}",
                limit=self.max_ratio,
                got=round(ratio, 3),
            )

    def check_clip(self, frames: int, width: int, height: int) -> None:
        """Frame count and total pixel ceilings of the frames that are to be taken out of one clip."""
        self.check("max_frames", frames, "frames wanted")
        self.check("max_clip_pixels", frames * width * height, f"{frames} frames of {width} x {height} =")
