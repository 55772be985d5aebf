"""Small files that ask for much: refused by what they would cost, in a header walk, a decoder or memory."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from tubelet.errors import DecodeError, LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.picture import exif, header
from tubelet.reading.read import probe, read

MEMORY = """
import resource, sys
from tubelet.reading.read import read
data = sys.stdin.buffer.read()
small = sys.argv[1]
read(bytes.fromhex(small), isolate="never")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clip = read(data, isolate="never")[0]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown * 1024 / clip.frames.nbytes)
"""


def encode(picture: Image.Image, name: str, **options: object) -> bytes:
    picture.save(buffer := io.BytesIO(), name, **options)
    return buffer.getvalue()


def tiff_of_directories(pages: int, entries: int) -> bytes:
    """Directories of many entries that lie over one another, each two bytes behind the one before."""
    table = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    first = struct.pack("<H", len(table)) + b"".join(struct.pack("<HHII", *entry) for entry in table)
    place = 8 + len(first) + 4
    size = place + 12 * entries + 6 + 4 * pages
    data = bytearray(struct.pack("<H", entries) * (size // 2 + 1))
    data[:8], data[8 : 8 + len(first)] = b"II*\0\x08\0\0\0", first
    struct.pack_into("<I", data, 8 + len(first), place)
    for page in range(pages):
        here = place + 4 * page
        struct.pack_into("<I", data, here + 2 + 12 * entries, here + 4 if page + 1 < pages else 0)
    return bytes(data)


def test_a_walk_over_directories_reads_no_entry_of_later_ones(monkeypatch: pytest.MonkeyPatch):
    read_bytes = 0
    true_directory = exif.directory

    def counted(at, *rest, **options):
        def counting(offset: int, length: int) -> bytes:
            nonlocal read_bytes
            read_bytes += length
            return at(offset, length)

        return true_directory(counting, *rest, **options)

    monkeypatch.setattr(header, "directory", counted)
    data = tiff_of_directories(1_000, 4_000)
    assert probe(data).frames == 1_001
    assert read_bytes < 10_000


def test_links_in_a_loop_end():
    data = bytearray(tiff_of_directories(3, 2))
    place = data.index(struct.pack("<I", 0), 8 + 6 * 12 + 2 + 4)
    struct.pack_into("<I", data, place, 8)
    assert read(bytes(data), isolate="never")[0].width == 1


def gif_of(side: int, frames: int) -> bytes:
    """A large canvas, of which each frame paints one pixel."""
    head = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6)
    return head + b"!\xf9\4\4\1\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0" * frames + b";"


def test_frames_that_must_be_decoded_count():
    data, limits = gif_of(200, 400), Limits(max_pixels=40_000, max_clip_pixels=400_000)
    for isolate in ("never", "always"):
        with pytest.raises(LimitError, match="up to the last one wanted"):
            read(data, num_frames=1, animation=True, limits=limits, isolate=isolate)
    assert len(read(data, times_s=[0.0], animation=True, limits=limits, isolate="never")[0]) == 1
    assert read(data, limits=limits, isolate="never")[0].width == 200


@pytest.mark.parametrize("isolate", ["never", "always"])
def test_scans_count_by_the_pixels_they_pass_over(isolate: str):
    pixels = np.random.default_rng(0).integers(0, 255, (400, 400), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    many = data[:-2] + data[last:-2] * 100 + data[-2:]
    limits = Limits(max_pixels=160_000)
    with pytest.raises(LimitError, match="scans"):
        read(many, limits=limits, isolate=isolate)
    with pytest.raises(LimitError, match="scans"):
        probe(many, limits=limits)
    assert read(data, limits=limits, isolate=isolate)[0].width == 400
    assert read(many, isolate=isolate)[0].width == 400


def deep_png(side: int, channels: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + bytes(range(1, 9)) * (side * channels // 4)) * side, 1)
    head = struct.pack(">IIBBBBB", side, side, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["webp", "png 3", "png 4", "png 2", "alpha", "turned"])
def test_memory_is_at_most_four_times_the_decoded_size(kind: str):
    side = 4_000
    if kind == "webp":
        data = encode(Image.new("RGB", (side, side), (1, 2, 3)), "WEBP", lossless=True, method=0)
        assert len(data) < 60
    elif kind == "alpha":
        data = encode(Image.new("RGBA", (side, side), (1, 2, 3, 4)), "PNG", compress_level=1)
    elif kind == "turned":
        tags = Image.Exif()
        tags[0x0112] = 6
        data = encode(Image.new("CMYK", (side, side), (1, 2, 3, 4)), "JPEG", exif=tags)
    else:
        data = deep_png(side, int(kind[-1]))
    name = "WEBP" if kind == "webp" else "PNG"
    small = encode(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), name).hex()
    done = subprocess.run([sys.executable, "-c", MEMORY, small], input=data, capture_output=True, check=True)
    assert float(done.stdout) <= 4.2, kind  # 4, and the bands and buffers that do not grow with the picture


def test_a_first_directory_of_too_many_entries():
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 5_000) + bytes(5_000 * 12)
    with pytest.raises(DecodeError, match="too many entries"):
        probe(data)
