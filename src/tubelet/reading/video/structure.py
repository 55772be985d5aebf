"""What a container says of itself: its media, how far the file reaches, and the bytes it is read from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from tubelet.errors import LimitError

MAX_PARTS = 1_000_000  # boxes looked at in one file: far above any real one


IDENTITY = (1.0, 0.0, 0.0, 1.0)


@runtime_checkable
class Bytes(Protocol):
    """Something that gives `count` bytes from `offset`, fewer only at its end."""

    size: int

    def at(self, offset: int, count: int) -> bytes: ...


class Media(NamedTuple):
    """Of one MP4 track: seconds that its edit list shows, seconds that it has, samples listed, fragments included."""

    shown_s: float = 0.0
    media_s: float = 0.0
    samples: int = 0


@dataclass
class Structure:
    """The result of the walk.

    missing_bytes: by how much the structure runs past the end of the file; 0 for a whole file. after_media: what is
    missing comes after the pictures, as far as the structure tells. broken: the chain of boxes does not hold together
    at some byte. declared_s: the length a fragmented MP4 declares for all of it. media: per track number of an MP4.
    turns: per track number, the (a, b, c, d) of x' = a x + c y, y' = b x + d y, from stored to upright pixels.
    """

    missing_bytes: int = 0
    after_media: bool = False
    broken: bool = False
    fragmented: bool = False
    declared_s: float | None = None
    media: dict[int, Media] = field(default_factory=dict)
    turns: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)

    @property
    def damaged(self) -> bool:
        return self.broken or self.missing_bytes > 0


def counted(parts: Iterator[tuple[bytes, int, int]]) -> Iterator[tuple[bytes, int, int]]:
    for n, part in enumerate(parts):
        if n >= MAX_PARTS:
            raise LimitError(f"more than {MAX_PARTS:,} boxes in one file", limit=MAX_PARTS, got=n)
        yield part
