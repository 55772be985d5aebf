"""MP4 and QuickTime: whether their boxes reach to their ends, and what each track declares.

    size 4, big endian | type 4 | body        size 1: eight bytes of size follow; size 0: to the end of the file

Source: ISO/IEC 14496-12. A plain file lists all of its samples in `moov`; a fragmented one in a `moof` before each
piece of `mdat`, and a `sidx` may say how far the pieces reach.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tubelet.reading.limits import Limits
from tubelet.reading.video.structure import IDENTITY, Bytes, Media, Part, Structure, Turn, counted

# What is met outside of all other boxes.
_TOP = frozenset(
    b"ftyp styp moov moof mdat free skip wide uuid udta meta sidx ssix prft emsg mfra pdin pnot PICT".split()
)


@dataclass
class _Track:
    """What the boxes of one `trak` say."""

    number: int = 0
    turn: Turn | None = None
    seconds: float = 0.0  # of media
    samples: int = 0
    size: tuple[int, int] = (0, 0)  # of its pictures
    edits: list[int] = field(default_factory=list)  # lengths of what is shown, in the movie's ticks


def walk_mp4(data: Bytes, found: Structure, limits: Limits) -> None:
    """Fills in what is missing of the chain of boxes, the turns and what the tracks declare.

    Where `moov` lists all samples, only `moov` and `mdat` matter, whatever follows them. Raises: LimitError for tables
    and counts above the ceilings.
    """
    moov, whole_media, last, unknown = None, False, b"", False
    for kind, body, end in counted(_boxes(data, 0, data.size), limits):
        last = kind
        found.fragmented = found.fragmented or kind in (b"moof", b"sidx")
        strange = kind not in _TOP
        unknown = unknown or strange
        if strange and (kind == b"" or not all(32 <= c < 127 or c >= 160 for c in kind)):  # no type has such letters
            found.broken = True
            break
        if end > data.size:
            found.missing_bytes, found.after_media = end - data.size, kind not in (b"moov", b"moof", b"mdat")
        elif kind == b"moov" and moov is None:
            moov = (body, end)
        elif kind == b"mdat":
            whole_media = True
        elif kind == b"moof":
            _read_moof(Part(data, body, end), found, limits)
        elif kind == b"sidx":
            found.missing_bytes = max(
                found.missing_bytes, _indexed_end(data.at(body, min(end - body, 1 << 22)), end) - data.size
            )
    broken, found.broken = found.broken, False  # of the outer chain; of `moov` it counts in any case
    if moov is not None:
        _read_moov(Part(data, *moov), data.size, found, limits)
    if found.fragmented:  # a fragment's index without its content, or one whose name is damaged
        found.broken = found.broken or broken or unknown or last == b"moof"
    elif moov is not None and whole_media and last != b"mdat":  # the last box holds no pictures: it may be cut
        found.missing_bytes = 0
    else:
        found.broken = found.broken or broken


def _read_moof(moof: Part, found: Structure, limits: Limits) -> None:
    """Counts the samples of each track in one fragment."""
    for kind, body, end in counted(_boxes(moof, 0, moof.size), limits):
        if end > moof.size:
            found.broken = True
        elif kind == b"traf":
            traf, track = Part(moof, body, end), 0
            for inner, at, stop in counted(_boxes(traf, 0, traf.size), limits):
                if stop > traf.size:
                    found.broken = True
                elif inner == b"tfhd":
                    track = int.from_bytes(traf.at(at + 4, 4), "big")  # after version and flags, as below
                elif inner == b"trun":
                    media = found.media.get(track, Media())
                    count = int.from_bytes(traf.at(at + 4, 4), "big")
                    found.media[track] = media._replace(samples=media.samples + count)


def _indexed_end(sidx: bytes, anchor: int) -> int:
    """Where the last fragment listed by a `sidx` box ends; the anchor is the first byte after that box."""
    if len(sidx) < 12:
        return 0
    wide = sidx[0] > 0  # version 1 has times and offsets of eight bytes
    first, start = (struct.unpack_from(">Q", sidx, 20)[0], 28) if wide and len(sidx) >= 32 else (0, 20)
    if not wide and len(sidx) >= 24:
        first = struct.unpack_from(">I", sidx, 16)[0]
    if len(sidx) < start + 4:
        return 0
    (count,) = struct.unpack_from(">H", sidx, start + 2)
    sizes = struct.iter_unpack(">III", sidx[start + 4 : start + 4 + 12 * count][: (len(sidx) - start - 4) // 12 * 12])
    return anchor + first + sum(entry[0] & 0x7FFFFFFF for entry in sizes)  # the top bit says what the entry is


def _read_moov(moov: Part, file_size: int, found: Structure, limits: Limits) -> None:
    """Turns of the tracks, the length declared for all fragments, and the sample counts, which are checked."""
    movie_turn, timescale = IDENTITY, 0
    for kind, body, end in counted(_boxes(moov, 0, moov.size), limits):
        if end > moov.size:
            found.broken = True
        elif kind == b"mvhd":
            raw = moov.at(body, min(end - body, 256))
            wide = raw[:1] == b"\1"
            movie_turn = _matrix(raw, 48 if wide else 36) or IDENTITY
            timescale = int.from_bytes(raw[20:24] if wide else raw[12:16], "big")
        elif kind == b"trak":
            track = _Track()
            _read_trak(Part(moov, body, end), track, file_size, found, limits)
            if track.turn is not None:
                found.turns[track.number] = _product(track.turn, movie_turn)
            found.sizes[track.number] = track.size
            shown = sum(track.edits) / timescale if track.edits and timescale else track.seconds
            samples = found.media.get(track.number, Media()).samples + track.samples
            found.media[track.number] = Media(min(shown, track.seconds), track.seconds, samples)
        elif kind == b"mvex":
            found.fragmented = True
            for inner, at, stop in counted(_boxes(moov, body, end), limits):
                if inner == b"mehd" and stop <= end and timescale:
                    raw = moov.at(at, min(stop - at, 12))
                    found.declared_s = int.from_bytes(raw[4:12] if raw[:1] == b"\1" else raw[4:8], "big") / timescale


def _read_trak(part: Part, track: _Track, file_size: int, found: Structure, limits: Limits, depth: int = 0) -> None:
    """Fills in the track from its boxes, and from those inside them; no chunk of it may lie past the file's end."""
    for kind, body, end in counted(_boxes(part, 0, part.size), limits):
        if end > part.size:
            found.broken = True
        elif kind in (b"mdia", b"minf", b"stbl", b"edts") and depth < 3:
            _read_trak(Part(part, body, end), track, file_size, found, limits, depth + 1)
        elif kind in (b"stco", b"co64"):
            item = 4 if kind == b"stco" else 8
            limits.check("max_packets", (end - body) // item, "chunks declared in the header:")
            offsets = np.frombuffer(part.at(body + 8, max(0, end - body - 8) // item * item), f">u{item}")
            found.broken = found.broken or bool(offsets.size and int(offsets.max()) >= file_size)
        elif kind in (b"tkhd", b"mdhd", b"stsz", b"elst", b"stsd"):
            _read_field(kind, part.at(body, min(end - body, 1 << 16)), track)
            limits.check("max_packets", track.samples, "samples declared in the header:")


def _read_field(kind: bytes, raw: bytes, track: _Track) -> None:
    """One of the small boxes of a track; version 1 of each has wider times."""
    wide = raw[:1] == b"\1"
    if kind == b"tkhd":
        track.number = int.from_bytes(raw[20:24] if wide else raw[12:16], "big")
        track.turn = _matrix(raw, 52 if wide else 40)
    elif kind == b"mdhd":
        ticks = int.from_bytes(raw[20:24] if wide else raw[12:16], "big")
        length = int.from_bytes(raw[24:32] if wide else raw[16:20], "big")
        track.seconds = length / ticks if ticks else 0.0
    elif kind == b"stsd":  # version, flags, count; of the first entry: length, type, 24 bytes, width, height
        track.size = int.from_bytes(raw[40:42], "big"), int.from_bytes(raw[42:44], "big")
    elif kind == b"stsz":
        track.samples = int.from_bytes(raw[8:12], "big")
    else:
        form = struct.Struct(">QqI" if wide else ">IiI")
        body = raw[8 : 8 + (len(raw) - 8) // form.size * form.size] if len(raw) > 8 else b""
        track.edits = [length for length, place, _ in form.iter_unpack(body) if place >= 0]  # below 0: nothing shown


def _matrix(raw: bytes, offset: int) -> Turn | None:
    """The turning part of a 3 x 3 matrix in 16.16 fixed point, None when it is cut off or all zero."""
    if len(raw) < offset + 20:
        return None
    a, b, _, c, d = struct.unpack_from(">5i", raw, offset)
    return None if a == b == c == d == 0 else (a / 65536, b / 65536, c / 65536, d / 65536)


def _product(first: Turn, then: Turn) -> Turn:
    """The turn that is both, one after the other."""
    a, b, c, d = first
    e, f, g, h = then
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def _boxes(data: Bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte of the body, end) of the boxes from `start`; the last may end after `end`.

    A header cut off by `end` comes out with the type b"".
    """
    while start < end:
        head = data.at(start, min(16, end - start))
        if len(head) < 8:
            yield b"", start, start + 8
            return
        size, kind = struct.unpack(">I4s", head[:8])
        body = start + 8
        if size == 1:
            if len(head) < 16:
                yield b"", start, start + 16
                return
            size, body = struct.unpack(">Q", head[8:])[0], start + 16
        elif size == 0:
            size = data.size - start
        if size < body - start:
            yield b"", start, start
            return
        yield kind, body, start + size
        start += size
