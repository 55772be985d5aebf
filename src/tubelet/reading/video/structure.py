"""What the walk over a container finds, and the bytes it walks over.

mp4.py and mkv.py fill in a `Structure`; complete.py judges by it whether all of a clip is there.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from tubelet.errors import LimitError
from tubelet.reading.limits import Limits

MAX_PARTS = 1_000_000  # boxes or elements looked at in one file: far above any real one

Turn: TypeAlias = tuple[float, float, float, float]
"""(a, b, c, d) of x' = a x + c y, y' = b x + d y, from stored to upright pixels."""

IDENTITY: Turn = (1.0, 0.0, 0.0, 1.0)


@runtime_checkable
class Bytes(Protocol):
    """Something that gives `count` bytes from `offset`, fewer only at its end."""

    size: int

    def at(self, offset: int, count: int) -> bytes: ...


class Ahead:
    """The same bytes, read a block at a time where little is asked: walks ask for a few bytes, a million times."""

    _BLOCK = 1 << 16

    def __init__(self, data: Bytes) -> None:
        self._data, self.size = data, data.size
        self._start, self._block = 0, b""

    def at(self, offset: int, count: int) -> bytes:
        if count > self._BLOCK // 16:
            return self._data.at(offset, count)
        place = offset - self._start
        if place < 0 or place + count > len(self._block):
            self._start, self._block, place = offset, self._data.at(offset, self._BLOCK), 0
        return self._block[place : place + count]


class Part:
    """The bytes of one box or element as `Bytes` of their own."""

    def __init__(self, data: Bytes, start: int, end: int) -> None:
        self._data, self._start, self.size = data, start, end - start

    def at(self, offset: int, count: int) -> bytes:
        return self._data.at(self._start + offset, max(0, min(count, self.size - offset)))


class Media(NamedTuple):
    """What one track declares."""

    shown_s: float = 0.0  # that its edit list shows
    media_s: float = 0.0  # that it has
    samples: int = 0  # listed, fragments included


@dataclass
class Structure:
    """The result of the walk, filled in as it goes."""

    missing_bytes: int = 0  # by which the structure runs past the end of the file; 0 for a whole file
    after_media: bool = False  # what is missing comes after the pictures, as far as the structure tells
    broken: bool = False  # the chain of boxes does not hold together at some byte
    fragmented: bool = False  # an MP4 whose samples are listed piece by piece
    declared_s: float | None = None  # the length a fragmented MP4 declares for all of it
    media: dict[int, Media] = field(default_factory=dict)  # by track number, MP4; what the index of an AVI lists
    turns: dict[int, Turn] = field(default_factory=dict)  # by track number, MP4 and MKV
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # likewise: the size of the pictures

    @property
    def damaged(self) -> bool:
        return self.broken or self.missing_bytes > 0


def counted(parts: Iterator[tuple[bytes, int, int]], limits: Limits) -> Iterator[tuple[bytes, int, int]]:
    """The same boxes. Raises LimitError after MAX_PARTS of them, and after `deadline_s`."""
    yield from itertools.islice(limits.within_deadline(parts), MAX_PARTS)
    if next(parts, None) is not None:
        raise LimitError(f"more than {MAX_PARTS:,} boxes in one file", limit=MAX_PARTS, got=MAX_PARTS + 1)
