"""Small files that ask for much work or memory: each a function of its size, full or small enough for every CI run.

`python -m tests.torture.measure bombs` reads the full ones and says what they took.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image
from tests.reading.picture.test_bounded import deep_png, gif_of, tiff_of_directories
from tests.reading.picture.test_whole import behind_header, encode
from tests.reading.video.video_clips import encoded, numbered
from tests.torture.torture_images import png_chunk, png_file


@dataclass(frozen=True)
class Bomb:
    """make: full -> the file; read: options to read it with; must: what has to come of a full one."""

    make: Callable[[bool], bytes]
    must: str  # names of errors, or "Clip"; of one that is full-sized
    small: str  # likewise of one that is not
    options: dict[str, Any] = field(default_factory=dict)


def _side(full: bool) -> int:
    return 8_000 if full else 400


def _size(full: bool) -> tuple[int, int]:
    return _side(full), _side(full)


def _jpeg_scans(full: bool) -> bytes:
    data = encode("JPEG", Image.new("L", _size(full), 90), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 480 + data[-2:]


def _one_key(full: bool) -> bytes:
    """One key picture and then nothing but pictures that change nothing."""
    first = encoded("avi", "mpeg4", [numbered(1)] * 2, options={"g": "600", "bf": "0"})
    out, tick = io.BytesIO(), Fraction(1, 1000)
    with av.open(io.BytesIO(first), "r") as file, av.open(out, "w", format="matroska") as made:
        stream = file.streams.video[0]
        copy = made.add_stream_from_template(stream)
        key, same = (bytes(p) for p in file.demux(stream) if p.size)
        for n in range(360_000 if full else 2_000):
            packet = av.Packet(same if n else key)
            packet.stream, packet.pts, packet.dts, packet.time_base = copy, n * 40, n * 40, tick
            packet.is_keyframe = n == 0
            made.mux(packet)
    return out.getvalue()


def _texts(full: bool) -> bytes:
    block = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes((15 if full else 3) << 20), 9))
    return behind_header(encode("PNG"), block * 200)


def _xmp(full: bool) -> bytes:
    packet = zlib.compress(b"tiff:Orientation" * (900_000 if full else 50_000) + b" " * 1_000_000)
    return behind_header(encode("PNG"), png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packet))


def _tiff_pages(full: bool) -> bytes:
    table = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    body = struct.pack("<H", len(table)) + b"".join(struct.pack("<HHII", *entry) for entry in table)
    step = len(body) + 4
    count = 400_000 if full else 9_000
    return b"II*\0\x08\0\0\0" + b"".join(body + struct.pack("<I", 8 + step * (i + 1)) for i in range(count))


def _webp_frames(full: bool) -> bytes:
    inner = encode("WEBP", lossless=True)[12:]
    anim = b"ANMF" + struct.pack("<I", 16 + len(inner)) + bytes(16) + inner
    body = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\x3f\x1f\0" * 2 + b"ANIM\6\0\0\0" + bytes(6)
    body += anim * (8_000 if full else 100)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _apng_frames(full: bool) -> bytes:
    """A large canvas, of which each frame paints one pixel."""
    side, count = _side(full), 8_000 if full else 100
    row, dot = zlib.compress(bytes((side + 7) // 8 + 1) * side, 9), zlib.compress(bytes(2))
    parts, number = [png_chunk(b"acTL", struct.pack(">II", count, 0))], 0
    for n in range(count):
        edge = side if n == 0 else 1
        parts.append(png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, edge, edge, 0, 0, 1, 10, 0, 0)))
        number += 1
        if n == 0:
            parts.append(png_chunk(b"IDAT", row))
            continue
        parts.append(png_chunk(b"fdAT", struct.pack(">I", number) + dot))
        number += 1
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(parts) + png_chunk(b"IEND", b"")


def _boxes(full: bool) -> bytes:
    return b"\0\0\0\x10ftypisom\0\0\0\0" + (struct.pack(">I", 8) + b"free") * (4_000_000 if full else 20_000)


def _elements(full: bool) -> bytes:
    head = b"\x1a\x45\xdf\xa3\x8b\x42\x82\x88matroska"
    return head + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"\xec\x80" * (16_000_000 if full else 20_000)


def _lists(full: bool) -> bytes:
    return b"RIFF\4\0\0\0AVI " * (4_000_000 if full else 50_000)


def _samples(full: bool) -> bytes:
    data = encoded("mp4", "mpeg4", [numbered(n) for n in range(4)])
    place = data.index(b"stsz") + 8
    return data[:place] + struct.pack(">II", 64, 2**31 if full else 5_000_000) + data[place + 8 :]


def _runs(full: bool) -> bytes:
    """Samples of no length, in an MP4 that says how many with eight bytes."""
    data = encoded("mp4", "mpeg4", [numbered(n) for n in range(4)])
    place = data.index(b"stts") + 12
    return data[:place] + struct.pack(">II", 2**31 - 1 if full else 2**20, 1) + data[place + 8 :]


def _tiff_deflate(full: bool) -> bytes:
    return encode("TIFF", Image.new("RGB", _size(full)), compression="tiff_adobe_deflate")


def _flat(name: str, mode: str, **options: Any) -> Callable[[bool], bytes]:
    return lambda full: encode(name, Image.new(mode, _size(full)), **options)


def _zeros(full: bool) -> bytes:
    side = _side(full)
    return png_file(side, side, bits=16, colour=6, data=zlib.compress(bytes(1 << 20), 9))


MOVES: dict[str, Any] = {"animation": True, "num_frames": 1}
BOMBS: dict[str, Bomb] = {
    "TIFF, directories over one another": Bomb(
        lambda full: tiff_of_directories(9_000 if full else 500, 4_000), "LimitError", "Clip"
    ),
    "TIFF, 400,000 pages": Bomb(_tiff_pages, "LimitError", "LimitError"),
    "TIFF, 64 Mpx deflated": Bomb(_tiff_deflate, "Clip", "Clip"),
    "GIF, 8,000 frames of 64 Mpx, one wanted": Bomb(
        lambda full: gif_of(_side(full), 8_000 if full else 60), "LimitError", "Clip", MOVES
    ),
    "GIF, 64 Mpx": Bomb(_flat("GIF", "L"), "Clip", "Clip"),
    "JPEG, 480 scans of 64 Mpx": Bomb(_jpeg_scans, "LimitError", "Clip"),
    "JPEG, 64 Mpx of CMYK": Bomb(_flat("JPEG", "CMYK"), "Clip", "Clip"),
    "WEBP, 64 Mpx in 40 bytes": Bomb(_flat("WEBP", "RGB", lossless=True, method=0), "Clip", "Clip"),
    "WEBP, 8,000 frames of 64 Mpx, one wanted": Bomb(_webp_frames, "LimitError", "LimitError", MOVES),
    "PNG, 64 Mpx of 16 bits": Bomb(lambda full: deep_png(_side(full), 3), "Clip", "Clip"),
    "PNG, 64 Mpx of 16 bits and alpha, data end early": Bomb(_zeros, "DecodeError", "Clip DecodeError"),
    "PNG, 200 texts of 15 MiB": Bomb(_texts, "LimitError", "LimitError"),
    "PNG, 15 MB of XMP": Bomb(_xmp, "Clip", "Clip"),
    "APNG, 8,000 frames of 64 Mpx, one wanted": Bomb(_apng_frames, "LimitError", "Clip", MOVES),
    "AVIF, 64 Mpx": Bomb(_flat("AVIF", "RGB", speed=10, quality=20), "Clip", "Clip"),
    "MKV, one key picture and 360,000 packets, 64 wanted": Bomb(_one_key, "Clip", "Clip"),
    "MKV, 16 million elements": Bomb(_elements, "LimitError DecodeError", "LimitError DecodeError NoVideo"),
    "MP4, 4 million boxes": Bomb(_boxes, "LimitError DecodeError", "LimitError DecodeError"),
    "MP4, 2^31 samples declared": Bomb(_samples, "LimitError", "LimitError"),
    "MP4, 2^31 times declared": Bomb(_runs, "Clip LimitError DecodeError", "Clip LimitError DecodeError"),
    "AVI, 4 million lists": Bomb(_lists, "LimitError DecodeError NoVideo", "LimitError DecodeError NoVideo"),
}


def pixels_of(found: Any) -> int:
    """Bytes of the frames that were decoded."""
    return int(np.prod(found.frames.shape)) if hasattr(found, "frames") else 0
