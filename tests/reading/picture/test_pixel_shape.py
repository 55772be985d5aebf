"""Pixels that are not as wide as high: pictures stay as stored, with a note; a picture of square pixels has none."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tubelet.reading.read import probe, read


def encode(name: str, **options: Any) -> bytes:
    picture = Image.fromarray(np.arange(9 * 12 * 3, dtype=np.uint8).reshape(9, 12, 3))
    picture.save(buffer := io.BytesIO(), name, **options)
    return buffer.getvalue()


def jpeg(across: int, down: int) -> bytes:
    data = bytearray(encode("JPEG"))
    place = data.index(b"JFIF\0") + 8
    data[place : place + 4] = struct.pack(">HH", across, down)
    return bytes(data)


def png(across: int, down: int) -> bytes:
    body = b"pHYs" + struct.pack(">IIB", across, down, 0)
    data = encode("PNG")
    return data[:33] + struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def tiff(across: int, down: int) -> bytes:
    return encode("TIFF", x_resolution=across, y_resolution=down, resolution_unit=2)


def bmp(across: int, down: int) -> bytes:
    data = encode("BMP")
    return data[:38] + struct.pack("<ii", across, down) + data[46:]


def gif(across: int, down: int) -> bytes:
    """The only format that rounds: pixels are (byte + 15) / 64 as wide as high."""
    data = encode("GIF")
    return data[:12] + bytes((round(64 * down / across) - 15,)) + data[13:]


def avif(across: int, down: int) -> bytes:
    """One more property of the picture, which is its last; the places of its samples move by as much."""
    data, box = encode("AVIF", speed=10), struct.pack(">I4sII", 16, b"pasp", down, across)
    ipco = data.index(b"ipco") - 4
    properties_end = ipco + int.from_bytes(data[ipco : ipco + 4], "big")
    out = bytearray(data[:properties_end] + box + data[properties_end:])
    for name, more in ((b"meta", 17), (b"iprp", 17), (b"ipco", 16), (b"ipma", 1)):
        place = out.index(name) - 4
        out[place : place + 4] = struct.pack(">I", int.from_bytes(out[place : place + 4], "big") + more)
    count = data.index(b"ipma") + 4 + 4 + 4 + 2 + len(box)  # version and flags, entries, item, count of properties
    known, place = 0, ipco + 8
    while place < properties_end:
        known, place = known + 1, place + int.from_bytes(data[place : place + 4], "big")
    out[count : count + 1] = bytes((out[count] + 1, known + 1))
    iloc = out.index(b"iloc")
    sizes = out[iloc + 8]
    assert sizes == 0x44 and out[iloc + 4] == 0 and out[iloc + 10 : iloc + 12] == b"\0\1"  # one item, 4-byte offsets
    place = iloc + 12 + 2 + 2 + (out[iloc + 9] >> 4) + 2
    out[place : place + 4] = struct.pack(">I", int.from_bytes(out[place : place + 4], "big") + 17)
    return bytes(out)


@pytest.mark.parametrize("made", [jpeg, png, tiff, bmp, gif, avif])
def test_pixels_stay_as_stored_and_their_shape_is_said(made: Callable[[int, int], bytes]):
    wide, square = (read(made(*density), isolate="never")[0] for density in ((1000, 2000), (1000, 1000)))
    assert np.array_equal(wide.frames, square.frames) and (wide.width, wide.height) == (12, 9)
    assert "pixels of 2:1 are shown as stored" in wide.notes and wide.complete
    assert not any("pixels of" in note for note in square.notes)
    assert probe(made(1000, 2000)).width == 12


@pytest.mark.parametrize("density", [(2834, 2835), (0, 0), (0, 96)])
def test_rounding_and_nothing_are_square(density: tuple[int, int]):
    for made in (jpeg, png, bmp):
        assert read(made(*density), isolate="never")[0].notes == ()
