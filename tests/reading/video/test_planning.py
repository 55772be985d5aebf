"""What planning costs: in proportion to the packets, however many frames are wanted."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from tests.reading.video.video_clips import KINDS, clip, encoded, numbered

from tubelet.errors import LimitError
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.stream import plan_inputs
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.read import probe, read
from tubelet.reading.sampling import Sampling
from tubelet.reading.sniff import Format
from tubelet.reading.video.boxes import walk
from tubelet.reading.video.packets import PacketIndex, choose, segments

PACKETS = 60_000


class Counted(list[Any]):
    """A list that counts what is looked at."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        Counted.looks += len(range(*place.indices(len(self)))) if isinstance(place, slice) else 1
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[Any]:
        Counted.looks += len(self)
        return super().__iter__()


def index_of(entries: set[int], pts: list[int | None]) -> PacketIndex:
    index = PacketIndex("MP4")
    index.pts, index.dts = Counted(pts), Counted(range(PACKETS))
    index.size, index.position = Counted([100] * PACKETS), Counted(range(PACKETS))
    index.entry = Counted(n in entries for n in range(PACKETS))
    index.order = list(range(PACKETS))
    index.starts_s = [n / 25 for n in range(PACKETS)]
    index.duration_s = index.declared_s = PACKETS / 25
    return index


@pytest.mark.parametrize("keys", ["one", "two", "all", "all, backwards"])
@pytest.mark.parametrize("wanted", [1, 8_000])
def test_planning_is_linear(keys: str, wanted: int):
    entries = {"one": {0}, "two": {0, PACKETS - 9}}.get(keys, set(range(PACKETS)))
    times: list[int | None] = list(range(PACKETS))
    index = index_of(entries, times[::-1] if "backwards" in keys else times)
    Counted.looks = 0
    chosen, expected = choose(index, Sampling(num_frames=wanted), Limits())
    stretches = segments(index, chosen)
    for stretch in stretches:
        index.entry_before(stretch.first)
    assert len(chosen) == expected == wanted
    assert sorted(n for s in stretches for n in s.wanted) == chosen
    assert Counted.looks < 3 * PACKETS + 600 * wanted


def test_entries_are_the_last_that_are_not_shown_later():
    index = PacketIndex("MP4")
    index.entry = [True, False, False, True, False, False, True, False]
    index.pts = [0, 3, 1, 6, 4, 5, 9, 7]
    assert [index.entry_of(n) for n in range(8)] == [0, 0, 0, 3, 0, 0, 6, 3]
    assert [index.entry_before(n) for n in (0, 3, 6)] == [0, 0, 3]


def test_walks_over_a_container_have_a_ceiling_and_a_clock():
    """2 bytes an element, 8 a box, 12 a list: far more of them than any real file has."""
    header = b"\x1a\x45\xdf\xa3\x80"
    segment = b"\x18\x53\x80\x67\x01" + b"\xff" * 7
    files: list[tuple[Format, bytes]] = [
        ("MKV", header + segment + b"\xec\x80" * 200_000),
        ("MKV", header + b"\xec\x80" * 200_000),
        ("MP4", (8).to_bytes(4, "big") + b"free" + ((8).to_bytes(4, "big") + b"free") * 200_000),
        ("AVI", b"RIFF\4\0\0\0AVI " * 200_000),
    ]
    for kind, data in files:
        reads = Reads(data)
        walk(reads, kind, Limits())
        assert reads.count <= 400_100
        if kind == "AVI" or (segment not in data and kind == "MKV"):
            assert reads.count <= 20_000
    for kind, data in files[::2]:
        with pytest.raises(LimitError, match="deadline_s"):
            walk(Reads(data), kind, Limits(deadline_s=1e-9))


class Reads:
    """Bytes that count how often they are asked."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.count = data, len(data), 0

    def at(self, offset: int, count: int) -> bytes:
        self.count += 1
        return self.data[offset : offset + count]


@pytest.mark.parametrize("start", [0, 5, 1_000])
@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_headers_and_frames_agree(container: str, start: int):
    """Size, frames and length by `probe`, by a plan and by reading, also of clocks that do not start at 0."""
    pictures, stamps = [numbered(n) for n in range(20)], [start + n for n in range(20)]
    agree(encoded(container, "mpeg4", pictures, stamps=stamps, tick=Fraction(1, 25)))


@pytest.mark.parametrize("kind", KINDS)
def test_headers_and_frames_agree_of_every_kind(kind: str):
    agree(clip(kind))


def agree(data: bytes) -> None:
    info, [found] = probe(data), read(data, num_frames=1_000, isolate="never")
    [plan] = plan_inputs([data], PixelRecipe(patch=8), ReadJob(sampling=Sampling(num_frames=1_000)), isolate="never")
    assert (info.width, info.height) == (plan.width, plan.height) == (found.width, found.height)
    assert plan.times_s == found.times_s
    assert (info.frames, info.duration_s) == (len(found), found.duration_s)
