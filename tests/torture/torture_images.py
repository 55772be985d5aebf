"""Bad and unusual pictures, each a pure function of a kind and a seed.

cut_*     A1  cut off at a random byte            lie_*     A4  headers that lie about sizes
flip_*    A2  1 to 64 random bytes changed        side_*    A5  sizes and ratios at the edges
splice_*  A2  pieces removed, doubled, swapped    bomb_*    A6  small files, large demands
alien_*   A3  other formats and no format         turn_*    A7  EXIF orientation, good and garbage
clear_*   A8  every way to store transparency     deep_*    A9  16 bits, floats, one bit, LAB, YCbCr
ink_*     A10 CMYK and profiles                   moving_*  A11 animations
hdr_*     A12 high dynamic range                  same_*    A13 one picture in every lossless format
"""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps
from tests.torture.torture_harness import Made

from tubelet.errors import DecodeError, LimitError, UnsupportedFormat

Maker = Callable[[random.Random], Made]
KINDS: dict[str, Maker] = {}

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 90}),
    "jpeg_progressive": ("JPEG", {"progressive": True, "quality": 75}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 80}),
    "webp_lossless": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff_lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff_jpeg": ("TIFF", {"compression": "jpeg"}),
    "avif": ("AVIF", {"quality": 60, "speed": 10}),
}
LOSSLESS = {name: FORMATS[name] for name in ("png", "webp_lossless", "bmp", "tiff", "tiff_lzw")}


def make(kind: str, seed: int) -> Made:
    """The input of a kind and a seed; the same one every time."""
    return KINDS[kind](random.Random(f"{kind}/{seed}"))


def encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def scene(rng: random.Random, width: int = 0, height: int = 0, channels: int = 3) -> np.ndarray:
    """A small picture that looks different from every side: a slope, a few blocks and a little noise."""
    width, height = width or rng.randint(2, 60), height or rng.randint(2, 60)
    noise = np.random.default_rng(rng.getrandbits(32))
    slope = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    picture = slope + np.arange(channels) * 17 + noise.integers(0, 8, (height, width, channels))
    picture[: height // 3 + 1, : width // 4 + 1] = noise.integers(0, 256, channels)
    return picture.clip(0, 255).astype(np.uint8)


def picture(rng: random.Random, **sizes: int) -> Image.Image:
    return Image.fromarray(scene(rng, **sizes))


def shown(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


# A1, A2: damage -----------------------------------------------------------------------------------------------------


def _cut(rng: random.Random, file_format: str, options: dict[str, Any]) -> Made:
    data = encode(picture(rng), file_format, **options)
    return Made(data[: rng.randint(1, len(data) - 25)], "error")  # what ends behind the picture's data is read


def _flip(rng: random.Random, file_format: str, options: dict[str, Any]) -> Made:
    data = bytearray(encode(picture(rng), file_format, **options))
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return Made(bytes(data), "either")


def _splice(rng: random.Random, file_format: str, options: dict[str, Any]) -> Made:
    data = encode(picture(rng), file_format, **options)
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    way = rng.randrange(5)
    if way == 0:
        data = data[:a] + data[b:]
    elif way == 1:
        data = data[:b] + data[a:]
    elif way == 2:
        data = data[:a] + rng.randbytes(rng.randint(1, 64)) + data[a:]
    elif way == 3:
        data = data[:a] + bytes(b - a) + data[b:]
    else:
        data = data[:a] + encode(picture(rng), file_format, **options)[a:]
    return Made(data, "either")


# A3: other formats --------------------------------------------------------------------------------------------------

ALIENS = {
    "text": b"A sentence that is no picture, whatever its name says.\n" * 4,
    "empty": b"",
    "byte": b"\xff",
    "zip": b"PK\x03\x04" + bytes(60),
    "pdf": b"%PDF-1.7\n1 0 obj\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    "xml": b'\xef\xbb\xbf<?xml version="1.0"?><svg/>',
    "html": b"<!DOCTYPE html><html><body><img src=x></body></html>",
    "elf": b"\x7fELF\x02\x01\x01" + bytes(60),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "psd": b"8BPS\0\1" + bytes(60),
    "fits": b"SIMPLE  =                    T" + b" " * 80,
    "ico": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + bytes(40),
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    "m3u8": b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n#EXT-X-ENDLIST\n",
    "ffconcat": b"ffconcat version 1.0\nfile '/etc/hostname'\n",
    "dash": b'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/hostname</BaseURL></MPD>',
    "ppm": b"P6 9 9 255\n" + bytes(243),
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
}


def _alien(rng: random.Random, data: bytes) -> Made:
    return Made(
        data + (rng.randbytes(rng.randrange(200)) if len(data) > 1 else b""), "error", errors=(UnsupportedFormat,)
    )


def _noise(rng: random.Random) -> Made:
    return Made(b"\x00\x01" + rng.randbytes(rng.randint(0, 400)), "error", errors=(UnsupportedFormat,))


# A4, A5, A6: sizes --------------------------------------------------------------------------------------------------


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2, data: bytes | None = None
) -> bytes:
    """A PNG with the given header, chunks before its data, and data (by default a few zeros)."""
    body = zlib.compress(bytes(100)) if data is None else data
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def _lie_png(rng: random.Random) -> Made:
    sizes = ((0, 10), (10, 0), (0, 0), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (70_000, 70_000))
    return Made(png_file(*rng.choice(sizes)), "error", errors=(LimitError, DecodeError))


def _lie_jpeg(rng: random.Random) -> Made:
    data = bytearray(encode(picture(rng), "JPEG"))
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = struct.pack(">HH", *rng.choice(((0, 9), (9, 0), (65_535, 65_535), (65_500, 40_000))))
    return Made(bytes(data), "error", errors=(LimitError, DecodeError))


def _lie_gif(rng: random.Random) -> Made:
    data = bytearray(encode(picture(rng), "GIF"))
    frame = data.index(b",\0\0\0\0") + 1
    data[frame : frame + 8] = struct.pack("<HHHH", *rng.choice(((0, 0, 65_535, 65_535), (65_000, 65_000, 9, 9))))
    return Made(bytes(data), "error", errors=(LimitError, DecodeError))


def _lie_bmp(rng: random.Random) -> Made:
    data = bytearray(encode(picture(rng), "BMP"))
    sizes = ((0, 9), (9, 0), (2**31 - 1, 2**31 - 1), (-5, 9), (60_000, -(2**31)), (4_000, 900))
    data[18:26] = struct.pack("<ii", *rng.choice(sizes))
    return Made(bytes(data), "error", errors=(LimitError, DecodeError))


def _lie_webp(rng: random.Random) -> Made:
    data = bytearray(encode(picture(rng), "WEBP", lossless=True))
    data[21:25] = b"\xff\xff\xff\x0f"
    return Made(bytes(data), "error", errors=(LimitError, DecodeError))


def _lie_tiff(rng: random.Random) -> Made:
    wide, high = rng.choice(((0, 9), (9, 0), (2**32 - 1, 2**32 - 1), (60_000, 60_000), (2**31, 1)))
    entries = [(256, 4, 1, wide), (257, 4, 1, high), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    return Made(b"II*\0\x08\0\0\0" + table + bytes(64), "error", errors=(LimitError, DecodeError))


SIDES = ((1, 1), (1, 2), (2, 1), (27, 27), (1, 200), (256, 1), (28, 5601), (1, 16_383))
TOO_LONG = ((65_536, 1), (1, 65_536), (100_000, 1), (1, 100_000))


def _side(rng: random.Random) -> Made:
    width, height = rng.choice(SIDES)
    pixels = scene(rng, width=width, height=height)
    name = rng.choice(list(LOSSLESS))
    file_format, options = LOSSLESS[name]
    return Made(encode(Image.fromarray(pixels), file_format, **options), "clip", pixels=pixels)


def _side_long(rng: random.Random) -> Made:
    width, height = rng.choice(TOO_LONG)
    return Made(encode(Image.new("L", (width, height)), "PNG"), "error", errors=(LimitError,))


def _bomb_zeros(rng: random.Random) -> Made:
    side = rng.choice((13_300, 9_000, 2_001))
    return Made(
        png_file(side, side, bits=1, colour=0, data=zlib.compress(bytes(side * 2))), "error", errors=(LimitError,)
    )


def _bomb_text(rng: random.Random) -> Made:
    deflated = zlib.compress(bytes(50 << 20), 9)
    kind, head = rng.choice(((b"zTXt", b"k\0\0"), (b"iCCP", b"p\0\0"), (b"iTXt", b"k\0\1\0\0\0")))
    whole = png_chunk(kind, head + deflated)
    return Made(png_file(4, 4, whole, data=zlib.compress(bytes(4 * 13))), "error", errors=(LimitError,))


def _bomb_gif(rng: random.Random) -> Made:
    head = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff"
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    return Made(head + frame * rng.randint(10_000, 12_000) + b";", "error", errors=(LimitError,))


def _bomb_tiff(rng: random.Random) -> Made:
    pages = rng.randint(10_000, 11_000)
    table = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    body = struct.pack("<H", len(table)) + b"".join(struct.pack("<HHII", *entry) for entry in table)
    size = len(body) + 4
    pages_data = b"".join(body + struct.pack("<I", 8 + size * (i + 1)) for i in range(pages - 1)) + body + bytes(4)
    return Made(b"II*\0\x08\0\0\0" + pages_data, "error", errors=(LimitError,))


def _bomb_scans(rng: random.Random) -> Made:
    data = encode(picture(rng, width=1_024, height=1_024), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return Made(data[:-2] + data[last:-2] * rng.randint(600, 3_000) + data[-2:], "error", errors=(LimitError,))


def _bomb_webp(rng: random.Random) -> Made:
    """A WEBP inside a WEBP, and more frames than any clip may have."""
    inner = encode(picture(rng), "WEBP", lossless=True)[12:]
    anim = b"ANMF" + struct.pack("<I", 16 + len(inner)) + bytes(16) + inner
    body = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + bytes(6) + b"ANIM\6\0\0\0" + bytes(6)
    body += anim * rng.randint(9_000, 9_500)
    return Made(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, "error", errors=(LimitError, DecodeError))


# A7, A8: orientation and transparency -------------------------------------------------------------------------------


def _turn(rng: random.Random) -> Made:
    name = rng.choice(("jpeg", "png", "webp_lossless", "tiff", "tiff_lzw", "avif"))
    file_format, options = FORMATS[name]
    exif = Image.Exif()
    exif[0x0112] = rng.randint(1, 8)
    data = encode(picture(rng), file_format, exif=exif, **options)
    return Made(data, "clip", pixels=shown(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


def _turn_garbage(rng: random.Random) -> Made:
    name = rng.choice(("jpeg", "png", "webp_lossless"))
    file_format, options = FORMATS[name]
    exif = Image.Exif()
    exif[0x0112] = rng.choice((0, 9, 65_535))
    block = rng.choice((exif.tobytes(), b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + rng.randbytes(40)))
    image = picture(rng)
    data = encode(image, file_format, exif=block, **options)
    plain = encode(image, file_format, **options)
    return Made(data, "clip", pixels=shown(Image.open(io.BytesIO(plain))), note="as stored")


def _over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None].astype(int)
    return ((colours.astype(int) * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


def _clear_alpha(rng: random.Random) -> Made:
    colours = scene(rng)
    alpha = scene(rng, width=colours.shape[1], height=colours.shape[0], channels=1)[..., 0]
    alpha[0, 0] = 0
    name = rng.choice(("png", "webp_lossless", "tiff"))
    file_format, options = LOSSLESS[name]
    options = {**options, "exact": True} if file_format == "WEBP" else options
    if rng.random() < 0.3 and file_format != "WEBP":
        colours = np.repeat(colours[..., :1], 3, axis=-1)
        data = encode(Image.fromarray(np.dstack([colours[..., 0], alpha])), file_format, **options)
    else:
        data = encode(Image.fromarray(np.dstack([colours, alpha])), file_format, **options)
    return Made(data, "clip", pixels=_over_white(colours, alpha), note="composited")


def _clear_key(rng: random.Random) -> Made:
    """One hidden colour: the same picture as RGBA, as RGB, grey or palette with a tRNS chunk."""
    hidden = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
    way = rng.choice(("RGB", "L", "P", "RGBA"))
    if way == "L":
        hidden = (hidden[0],) * 3
    colours = np.array([hidden, (1, 2, 3), (200, 200, 200)], np.uint8)[np.arange(63).reshape(7, 9) % 3]
    if way == "L":
        colours = np.repeat(colours[..., :1], 3, axis=-1)
    shows = (colours != np.array(hidden)).any(axis=-1)
    expected = np.where(shows[..., None], colours, 255).astype(np.uint8)
    if way == "RGBA":
        data = encode(Image.fromarray(np.dstack([colours, np.where(shows, 255, 0).astype(np.uint8)])), "PNG")
    elif way == "RGB":
        data = encode(Image.fromarray(colours), "PNG", transparency=hidden)
    elif way == "L":
        data = encode(Image.fromarray(colours[..., 0]), "PNG", transparency=hidden[0])
    else:
        paletted = Image.fromarray(colours).quantize(8)
        index = int(np.asarray(paletted)[~shows][0])
        data = encode(paletted, "PNG", transparency=index)
    return Made(data, "clip", pixels=expected, note="composited")


# A9, A10, A12: modes ------------------------------------------------------------------------------------------------


def png16(values: np.ndarray, *chunks: bytes) -> bytes:
    """A 16-bit PNG of (H, W, C) uint16, C = 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA, written by hand."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png_file(width, height, *chunks, bits=16, colour=colour, data=zlib.compress(rows))


def _deep_png(rng: random.Random) -> Made:
    noise = np.random.default_rng(rng.getrandbits(32))
    channels = rng.choice((1, 2, 3, 4))
    values = noise.integers(0, 65_536, (rng.randint(1, 20), rng.randint(1, 20), channels), dtype=np.uint16)
    eight = np.rint(values / 257).astype(np.uint8)
    colours = eight if channels >= 3 else np.repeat(eight[..., :1], 3, axis=-1)
    expected = colours[..., :3] if channels in (1, 3) else _over_white(colours[..., :3], eight[..., -1])
    return Made(png16(values), "clip", pixels=expected)


def _deep_tiff(rng: random.Random) -> Made:
    values = np.random.default_rng(rng.getrandbits(32)).integers(0, 65_536, (9, 14), dtype=np.uint16)
    image = Image.fromarray(values)
    expected = np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, axis=-1)
    return Made(encode(image, "TIFF"), "clip", pixels=expected)


def _deep_refused(rng: random.Random) -> Made:
    values = np.full((5, 6), rng.choice((np.nan, np.inf, 0.5, 65_535.0)), np.float32)
    image = rng.choice((Image.fromarray(values), Image.fromarray(np.arange(30, dtype=np.int32).reshape(5, 6))))
    return Made(encode(image, "TIFF"), "error", errors=(UnsupportedFormat,))


def _deep_mode(rng: random.Random) -> Made:
    grey = scene(rng, channels=1)[..., 0]
    if rng.random() < 0.5:
        image = Image.fromarray((grey > 90).astype(np.uint8) * 255).convert("1")
        return Made(encode(image, rng.choice(("PNG", "BMP", "TIFF"))), "clip", pixels=shown(image))
    expected = np.repeat(grey[..., None], 3, axis=-1)
    return Made(encode(Image.fromarray(grey), rng.choice(("PNG", "BMP", "TIFF", "GIF"))), "clip", pixels=expected)


def _deep_lab(rng: random.Random) -> Made:
    image = picture(rng)
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    lab.info.pop("icc_profile", None)  # it holds the second it was made in
    return Made(encode(lab, "TIFF"), "clip", pixels=shown(lab.convert("RGB")), within=3)


def _ink(rng: random.Random) -> Made:
    image = picture(rng).convert("CMYK")
    file_format, options = rng.choice((("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {"quality": 100})))
    data = encode(image, file_format, **options)
    return Made(data, "clip", pixels=shown(Image.open(io.BytesIO(data))), within=3, note="CMYK")


def _ink_broken(rng: random.Random) -> Made:
    image = picture(rng)
    stale = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # bytes 24 to 36: when it was made
    profile = rng.choice((rng.randbytes(300), stale[:24] + bytes(12) + stale[36:200]))
    return Made(encode(image, "PNG", icc_profile=profile), "clip", pixels=shown(image), note="ignored")


def _hdr_png(rng: random.Random) -> Made:
    curve = rng.choice((16, 18))
    data = png_file(4, 4, png_chunk(b"cICP", bytes((9, curve, 0, 1))), data=zlib.compress(bytes(52)))
    return Made(data, "clip", pixels=np.zeros((4, 4, 3), np.uint8), note="tone-mapped")


# A11, A13: animations, and one picture in many clothes ----------------------------------------------------------------


def _moving(rng: random.Random) -> Made:
    frames = [Image.new("RGB", (12, 9), tuple(rng.randrange(256) for _ in range(3))) for _ in range(rng.randint(2, 6))]
    file_format, options = rng.choice((("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})))
    distinct = [*frames, Image.new("RGB", (12, 9), (1, 2, 3))]
    data = encode(distinct[0], file_format, save_all=True, append_images=distinct[1:], duration=70, **options)
    return Made(data, "clip", pixels=shown(distinct[0]), note="frames of an animation")


def _same(rng: random.Random) -> Made:
    pixels = scene(rng)
    file_format, options = rng.choice(list(LOSSLESS.values()))
    return Made(encode(Image.fromarray(pixels), file_format, **options), "clip", pixels=pixels)


def _register() -> None:
    def bound(maker: Callable[..., Made], *values: Any) -> Maker:
        return lambda rng: maker(rng, *values)

    for name, values in FORMATS.items():
        KINDS[f"cut_{name}"] = bound(_cut, *values)
        KINDS[f"flip_{name}"] = bound(_flip, *values)
        KINDS[f"splice_{name}"] = bound(_splice, *values)
    for name, data in ALIENS.items():
        KINDS[f"alien_{name}"] = bound(_alien, data)
    KINDS.update(
        alien_noise=_noise,
        lie_png=_lie_png,
        lie_jpeg=_lie_jpeg,
        lie_gif=_lie_gif,
        lie_bmp=_lie_bmp,
        lie_webp=_lie_webp,
        lie_tiff=_lie_tiff,
        side_edge=_side,
        side_long=_side_long,
        bomb_zeros=_bomb_zeros,
        bomb_text=_bomb_text,
        bomb_gif=_bomb_gif,
        bomb_tiff=_bomb_tiff,
        bomb_scans=_bomb_scans,
        bomb_webp=_bomb_webp,
        turn_exif=_turn,
        turn_garbage=_turn_garbage,
        clear_alpha=_clear_alpha,
        clear_key=_clear_key,
        deep_png=_deep_png,
        deep_tiff=_deep_tiff,
        deep_refused=_deep_refused,
        deep_mode=_deep_mode,
        deep_lab=_deep_lab,
        ink_cmyk=_ink,
        ink_broken=_ink_broken,
        hdr_png=_hdr_png,
        moving_first=_moving,
        same_pixels=_same,
    )


_register()
