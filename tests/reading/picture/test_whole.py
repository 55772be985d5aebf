"""Files whose picture is whole are read, with a note of what else is wrong; one that was filled in is not complete."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tubelet.errors import DecodeError, LimitError
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.read import probe, read


def scene(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 4 + 1, y * 6 + 1, (x + y) % 200 + 1], -1).astype(np.uint8))


def encode(name: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    (scene() if picture is None else picture).save(buffer := io.BytesIO(), name, **options)
    return buffer.getvalue()


def read_here(data: bytes, **options: Any) -> Clip:
    return read(data, isolate="never", **options)[0]


def chunk(kind: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    crc = zlib.crc32(kind + data) ^ damaged
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def before_end(data: bytes, more: bytes) -> bytes:
    return data[:-12] + more + data[-12:]


def behind_header(data: bytes, more: bytes) -> bytes:
    return data[:33] + more + data[33:]


def still_gif() -> bytes:
    return encode("GIF", scene().quantize(64))


def moving(name: str) -> bytes:
    pictures = [scene(), scene().transpose(Image.Transpose.ROTATE_180), Image.new("RGB", (60, 40), (9, 9, 200))]
    if name == "GIF":
        pictures = [picture.quantize(64) for picture in pictures]
    return encode(name, pictures[0], save_all=True, append_images=pictures[1:], duration=100)


def second_control(data: bytes) -> int:
    """Where the second frame header of an animated PNG starts, its length included."""
    return data.index(b"fcTL", data.index(b"fcTL") + 1) - 4


def renumbered(data: bytes) -> bytes:
    start = second_control(data)
    body = struct.pack(">I", 77) + data[start + 12 : start + 8 + 26]
    return data[:start] + chunk(b"fcTL", body) + data[start + 38 :]


def miscounted(data: bytes, count: int) -> bytes:
    start = data.index(b"acTL") - 4
    return data[:start] + chunk(b"acTL", struct.pack(">II", count, 0)) + data[start + 20 :]


def with_segment(data: bytes, more: bytes) -> bytes:
    return data[:2] + more + data[2:]


JPEG, PNG, APNG, GIF = encode("JPEG", quality=95), encode("PNG"), moving("PNG"), still_gif()
MOVING_GIF = moving("GIF")
TIFF = encode("TIFF", save_all=True, append_images=[scene()])
WHOLE: dict[str, tuple[bytes, bytes, str]] = {
    "GIF without its trailer": (GIF, GIF[:-1], "trailer"),
    "GIF with zeros for its trailer": (GIF, GIF[:-1] + bytes(9), "trailer"),
    "animated GIF without its trailer": (MOVING_GIF, MOVING_GIF[:-1], "trailer"),
    "GIF with rubbish behind its first frame": (GIF, GIF[:-1] + b"\x99\x42rubbish", "unknown kind"),
    "GIF cut in its second frame": (MOVING_GIF, MOVING_GIF[: len(MOVING_GIF) // 2], "inside a block"),
    "JPEG without EOI": (JPEG, JPEG[:-2], "end marker"),
    "JPEG with half an EOI": (JPEG, JPEG[:-1], "end marker"),
    "PNG without IEND": (PNG, PNG[:-12], "IEND"),
    "PNG with half an IEND": (PNG, PNG[:-5], "IEND"),
    "PNG chunk with a wrong checksum": (PNG, behind_header(PNG, chunk(b"tEXt", b"k\0v", damaged=True)), "checksum"),
    "PNG chunk with a wrong checksum behind": (PNG, before_end(PNG, chunk(b"tIME", b"1234567", damaged=True)), "tIME"),
    "PNG chunk with a bad name behind": (PNG, before_end(PNG, chunk(b"t\x01%!", b"abc")), "impossible"),
    "PNG chunk of an impossible length behind": (PNG, before_end(PNG, b"\xff\xff\xff\xfftEXt"), "impossible"),
    "PNG chunk cut off behind": (PNG, PNG[:-12] + b"\0\0\1\0tEXtabc", "cut off"),
    "APNG out of order": (APNG, renumbered(APNG), "out of order"),
    "APNG with too many frames": (APNG, miscounted(APNG, 99), "number of frames"),
    "APNG with too few frames": (APNG, miscounted(APNG, 1), "number of frames"),
    "APNG of an impossible number of frames": (APNG, miscounted(APNG, 2**31 + 1), "makes no sense"),
    "APNG of no frame": (APNG, miscounted(APNG, 0), "makes no sense"),
    "APNG cut in its second frame": (APNG, APNG[: second_control(APNG) + 60], "fdAT"),
}


def test_the_second_page_of_a_tiff():
    first = struct.unpack_from("<I", TIFF, 4)[0]
    place = first + 2 + 12 * struct.unpack_from("<H", TIFF, first)[0]
    data = TIFF[:place] + struct.pack("<I", 0x7FFFFFFF) + TIFF[place + 4 :]
    clip = read_here(data)
    assert np.array_equal(clip.frames[0], np.asarray(scene()))
    assert clip.complete and any("outside" in note for note in clip.notes)
    assert probe(data).frames == 1


@pytest.mark.parametrize("name", WHOLE)
def test_what_changes_no_pixel_is_a_note(name: str):
    good, odd, word = WHOLE[name]
    clip = read_here(odd)
    assert np.array_equal(clip.frames, read_here(good).frames)
    assert clip.complete
    assert any(word in note for note in clip.notes), clip.notes
    info = probe(odd)
    assert (info.width, info.height) == (clip.width, clip.height)


def test_frames_that_are_whole_are_counted():
    assert probe(MOVING_GIF[:-1]).frames == 3
    assert probe(MOVING_GIF[: len(MOVING_GIF) // 2]).frames in (1, 2)
    assert probe(renumbered(APNG)).frames == 1


def test_an_animation_that_was_asked_for_is_not_half_read():
    for data in (renumbered(APNG), miscounted(APNG, 99), MOVING_GIF[: len(MOVING_GIF) // 2]):
        with pytest.raises(DecodeError):
            read_here(data, animation=True)
    clip = read_here(MOVING_GIF[:-1], animation=True)
    assert np.array_equal(clip.frames, read_here(MOVING_GIF, animation=True).frames)
    assert not clip.complete  # there may have been more


SEGMENT = b"\xff\xe5\0\6abcd"
STRAY = [SEGMENT + b"\0\0\0", SEGMENT + b"stray", b"\xff\xfe\0\4ok" + bytes(100), SEGMENT + b"\xff\xff\xff"]


@pytest.mark.parametrize(
    "more", [SEGMENT + b"\0\0\0", SEGMENT + b"stray", b"\xff\xfe\0\4ok" + b"\0" * 100, SEGMENT + b"\xff\xff\xff"]
)
def test_stray_bytes_behind_a_dropped_segment(more: bytes):
    assert np.array_equal(read_here(with_segment(JPEG, more)).frames, read_here(JPEG).frames)
    assert probe(with_segment(JPEG, more)).width == 60


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_whole_without_its_end_and_only_then(options: dict[str, Any], mode: str):
    data = encode("JPEG", scene().convert(mode), quality=90, **options)
    assert read_here(data[:-2]).complete
    assert np.array_equal(read_here(data[:-2]).frames, read_here(data).frames)
    for cut in (8, 40, len(data) // 3):
        with pytest.raises(DecodeError):
            read_here(data[:-cut])


def test_a_jpeg_whose_data_end_early_is_not_complete():
    scan = JPEG.index(b"\xff\xda") + 14
    for part in (0.0, 0.3, 0.6, 0.8):
        clip = read_here(JPEG[: scan + int((len(JPEG) - scan) * part)] + b"\xff\xd9")
        assert not clip.complete and clip.frames_expected == 1
        assert any("filled in" in note for note in clip.notes)
    rows = encode("JPEG", quality=95, restart_marker_rows=1)
    assert read_here(rows).complete
    assert not read_here(rows[: rows.index(b"\xff\xd0")] + rows[rows.index(b"\xff\xd1") :]).complete


def test_a_picture_that_ends_in_grey_is_complete():
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    for options in ({}, {"progressive": True}):
        clip = read_here(encode("JPEG", grey, **options))
        assert clip.complete and clip.notes == ()


@pytest.mark.parametrize(("bits", "colour", "interlaced"), [(8, 2, 0), (8, 0, 1), (1, 3, 1), (16, 6, 0), (16, 4, 1)])
def test_a_png_whose_data_end_early_is_not_complete(bits: int, colour: int, interlaced: int):
    width, height = 13, 9
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [
        1 + -(-len(range(x, width, dx)) * bits * channels // 8)
        for x, y, dx, dy in (passes if interlaced else ((0, 0, 1, 1),))
        for _ in range(y, height, dy)
    ]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    for count in (len(rows), len(rows) - 1, len(rows) // 2, 1):
        body = chunk(b"IDAT", zlib.compress(bytes(sum(rows[:count]))))
        data = b"\x89PNG\r\n\x1a\n" + head + palette + body + chunk(b"IEND", b"")
        assert read_here(data).complete == (count == len(rows)), count
    body = chunk(b"IDAT", zlib.compress(bytes(sum(rows) - 1)))
    with pytest.raises(DecodeError):
        read_here(b"\x89PNG\r\n\x1a\n" + head + palette + body + chunk(b"IEND", b""))


def test_pixels_that_are_damaged_stay_an_error():
    flipped = bytearray(PNG)
    flipped[PNG.index(b"IDAT") + 20] ^= 1
    for data in (bytes(flipped), PNG[: len(PNG) // 2], behind_header(PNG, chunk(b"t\x01%!", b""))):
        with pytest.raises(DecodeError):
            read_here(data)


TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "one": lambda text: chunk(b"zTXt", b"k\0\0" + zlib.compress(text)),
    "many": lambda text: chunk(b"zTXt", b"k\0\0" + zlib.compress(text[: len(text) // 8])) * 9,
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_bounded_together(name: str):
    data = behind_header(PNG, TEXTS[name](bytes(2_000_000)))
    with pytest.raises(LimitError, match="max_metadata_bytes"):
        read_here(data, limits=Limits(max_metadata_bytes=1_900_000))
    assert read_here(data).width == 60
