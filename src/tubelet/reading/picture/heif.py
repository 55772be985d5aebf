"""What the boxes of an AVIF say of its primary item: properties that decoders of 8 bits leave out.

ftyp brands | meta ( pitm: which item | iprp ( ipco: properties 1, 2, ... | ipma: item -> which of them ) )
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tubelet.reading.hdr import Hdr, hdr_of
from tubelet.reading.limits import Limits
from tubelet.reading.source import BinaryFile

_MAX_BOXES = 64  # before the one that describes the picture, which comes first or nearly so
_GAIN_MAPS = (b"urn:com:apple:photo:2020:aux:hdrgainmap", b"urn:iso:std:iso:ts:21496:-1")


class PrimaryItem(NamedTuple):
    """properties: by kind, without their headers; of colours `colrnclx` or `colrprof`. gain_map: there is one beside
    the picture (ISO 21496-1 or Apple's)."""

    properties: dict[bytes, bytes]
    gain_map: bool = False

    @property
    def colours(self) -> tuple[int, int, int, bool] | None:
        """Numbers of H.273 for primaries, curve and matrix, and whether the range is full; None where not stated."""
        body = self.properties.get(b"colrnclx", b"")
        if len(body) < 7:
            return None
        primaries, curve, matrix = struct.unpack_from(">HHH", body)
        return primaries, curve, matrix, bool(body[6] & 0x80)

    @property
    def hdr(self) -> Hdr | None:
        return None if self.colours is None else hdr_of(self.colours[1], self.colours[0])

    @property
    def deep(self) -> bool:
        """Whether samples have more than 8 bits."""
        body = self.properties.get(b"av1C", b"")
        return len(body) > 2 and bool(body[2] & 0x40)


def primary_item(file: BinaryFile, limits: Limits) -> PrimaryItem:
    """The PrimaryItem of an AVIF, without properties where its boxes make no sense: damage is the decoder's to judge.

    Leaves the file at its start. Raises: LimitError for a description above `max_metadata_bytes`.
    Source: ISO/IEC 14496-12 sections 8.11 and 12.1.5, 23008-12 sections 6.5 and 9.3; AV1-ISOBMFF section 2.3.
    """
    place, gain_map = 0, False
    try:
        for _ in range(_MAX_BOXES):
            file.seek(place)
            head = file.read(16)
            length, kind = struct.unpack_from(">I4s", head)
            skip = 8
            if length == 1:
                length, skip = struct.unpack_from(">Q", head, 8)[0], 16
            if length < skip:
                break
            if kind in (b"ftyp", b"meta"):
                limits.check("max_metadata_bytes", length, f"{kind.decode()} box of")
                file.seek(place + skip)
                body = file.read(length - skip)
                gain_map |= kind == b"ftyp" and b"tmap" in body
                if kind == b"meta":
                    gain_map |= any(mark in body for mark in _GAIN_MAPS)
                    return PrimaryItem(_properties(body[4:]), gain_map)
            place += length
    except (struct.error, IndexError):
        pass
    finally:
        file.seek(0)
    return PrimaryItem({}, gain_map)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each box in `data`."""
    place = 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if length < 8:
            return
        yield kind, data[place + 8 : place + length]
        place += length


def _properties(meta: bytes) -> dict[bytes, bytes]:
    inside = dict(_boxes(meta))
    pitm, iprp = inside.get(b"pitm", b""), inside.get(b"iprp", b"")
    primary = int.from_bytes(pitm[4:8] if pitm[:1] == b"\1" else pitm[4:6], "big")
    parts = dict(_boxes(iprp))
    every = list(_boxes(parts.get(b"ipco", b"")))
    found: dict[bytes, bytes] = {}
    for index in _associated(parts.get(b"ipma", b""), primary):
        if 0 < index <= len(every):
            kind, body = every[index - 1]
            if kind == b"colr":
                kind, body = kind + body[:4], body[4:]
            found.setdefault(kind, body)
    return found


def _associated(ipma: bytes, item: int) -> list[int]:
    """The numbers of the properties of an item, from 1."""
    if len(ipma) < 8:
        return []
    long_items, long_numbers = ipma[0] > 0, ipma[3] & 1
    count, place = int.from_bytes(ipma[4:8], "big"), 8
    code = ">IB" if long_items else ">HB"
    for _ in range(min(count, len(ipma))):
        found, numbers = struct.unpack_from(code, ipma, place)
        place += struct.calcsize(code)
        listed = struct.unpack_from(f">{numbers}{'H' if long_numbers else 'B'}", ipma, place)
        place += numbers * (2 if long_numbers else 1)
        if found == item:
            return [number & (0x7FFF if long_numbers else 0x7F) for number in listed]
    return []
