"""Whole pictures in files that claim something untrue or odd, each a pure function of a kind and a seed.

whole_*   D3, D5, F15  damage that changes no pixel      vkeys_*   S2  any packets flagged as key pictures
turn_any  D1, F8       orientation by every carrier      vstamp_*  S1  a damaged time stamp
ink_any   D2           CMYK with and without a marker    vsaid_*   D4  another size in the container
shape_*                pixels that are not square        vlost_*       the first packets are missing
valpha_*  F4           clips with hidden colours         vclock_*      clocks that do not start at 0 or are too fine
"""

import io
import random
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial

import numpy as np
from PIL import Image
from tests.pixels.test_doors import CARRIERS, INTEGERS, TURNS, encoded, ink_file
from tests.reading.picture import test_pixel_shape as shapes
from tests.reading.picture.test_whole import (
    before_end,
    behind_header,
    chunk,
    encode,
    miscounted,
    renumbered,
    with_segment,
)
from tests.reading.video import test_alpha as alpha
from tests.reading.video import video_clips as clips
from tests.reading.video.test_claims import flagged, with_stamp
from tests.reading.video.test_sizes_told import told
from tests.torture.torture_harness import Made
from tests.torture.torture_images import picture, png_chunk, scene, shown

from tubelet.reading.clip import Clip

FRAMES = 60  # of the video clips
Maker = Callable[[random.Random], Made]
KINDS: dict[str, Maker] = {}
KEYS = ("h264_b", "h264_open", "hevc", "mpeg4", "mpeg2_mkv", "vp8", "vp9")
STAMPS = ("h264_mkv", "hevc_mkv", "mpeg2_mkv", "vp8", "vp9", "ffv1")
SAID = ("h264_b", "h264_frag", "mpeg4", "hevc", "av1", "mpeg2_mkv", "vp8", "mpeg4_avi")
LOST = ("mpeg4", "mpeg2_mkv", "vp8", "vp9", "h264_mkv")
ALPHA = ("qtrle", "png", "ffv1 of RGB", "utvideo")


def make(kind: str, seed: int) -> Made:
    """The input of a kind and a seed; the same one every time."""
    return KINDS[kind](random.Random(f"{kind}/{seed}"))


# --- pictures


def _whole_gif(rng: random.Random) -> Made:
    frames = [picture(rng, width=31, height=17).quantize(32) for _ in range(rng.randint(1, 4))]
    more = {"save_all": True, "append_images": frames[1:], "duration": 70} if len(frames) > 1 else {}
    data = encode("GIF", frames[0], **more)
    big = b"!\xf9\4\4\1\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0"
    tail = rng.choice((b"", bytes(rng.randint(1, 9)), b"\x99" + rng.randbytes(9), big + b";", big[:11]))
    pixels = shown(Image.open(_file(data)))
    return Made(data[:-1] + tail, "clip", pixels=pixels, note="trailer" if tail == b"" else None)


def _whole_jpeg(rng: random.Random) -> Made:
    image = picture(rng, width=40, height=33)
    data = encode("JPEG", image, quality=95, progressive=rng.random() < 0.3)
    pixels = shown(Image.open(_file(data)))
    if rng.random() < 0.5:
        return Made(data[: -rng.randint(1, 2)], "clip", pixels=pixels, note="end marker")
    segment = b"\xff" + bytes((rng.choice((0xE3, 0xED, 0xEF, 0xFE)),)) + struct.pack(">H", 12) + rng.randbytes(10)
    stray = bytes(rng.choice((0, 1, 17, 254)) for _ in range(rng.randint(1, 5)))
    return Made(with_segment(data, segment + stray), "clip", pixels=pixels)


def _whole_png(rng: random.Random) -> Made:
    image = picture(rng)
    data = encode("PNG", image)
    name = rng.choice((b"tEXt", b"tIME", b"pHYs", b"gAMA", b"eXIf", b"iTXt", b"zTXt"))
    damaged = chunk(name, rng.randbytes(9), damaged=True)
    ways = (
        (behind_header(data, damaged), "checksum"),
        (before_end(data, damaged), name.decode()),
        (before_end(data, chunk(b"t\x01%!", rng.randbytes(3))), "impossible"),
        (before_end(data, b"\xff\xff\xff\xfftEXt"), "impossible"),
        (data[:-12] + b"\0\0\1\0tEXt" + rng.randbytes(rng.randrange(20)), "cut off"),
        (data[: -rng.randint(5, 12)], "IEND"),
    )
    odd, word = rng.choice(ways)
    return Made(odd, "clip", pixels=shown(image), note=word)


def _whole_apng(rng: random.Random) -> Made:
    frames = [picture(rng, width=21, height=13) for _ in range(3)]
    data = encode("PNG", frames[0], save_all=True, append_images=frames[1:], duration=100)
    odd = renumbered(data) if rng.random() < 0.5 else miscounted(data, rng.choice((0, 1, 2, 4, 99, 2**31 + 1)))
    return Made(odd, "clip", pixels=shown(frames[0]), note="behind the first picture")


def _turn_any(rng: random.Random) -> Made:
    name = rng.choice(("JPEG", "PNG", "WEBP", "TIFF", "AVIF"))
    carrier, orientation = rng.choice(CARRIERS[name]), rng.randint(1, 8)
    kinds = [kind for kind in INTEGERS if (name, kind) != ("AVIF", 1)]  # Pillow's writer takes no such one
    image = picture(rng)
    data, plain = encoded(image, name, carrier, orientation, rng.choice(kinds)), encoded(image, name)
    turn = TURNS[orientation]
    upright = Image.open(_file(plain)).convert("RGB")
    pixels = shown(upright if turn is None else upright.transpose(Image.Transpose[turn]))
    return Made(data, "clip", pixels=pixels, within=2 if name == "AVIF" else 0)


def _ink_any(rng: random.Random) -> Made:
    image = Image.new("CMYK", (1, 1), (10, 200, 90, 30)).convert("RGB").resize((16, 16))
    return Made(ink_file(marker=rng.random() < 0.5), "clip", pixels=shown(image), within=3, note="CMYK")


def _shape(rng: random.Random) -> Made:
    made = rng.choice((shapes.jpeg, shapes.png, shapes.tiff, shapes.bmp, shapes.gif, shapes.avif))
    across, down = rng.choice(((200, 100), (100, 125), (300, 200)))
    plain = Image.open(_file(made(100, 100))).convert("RGB")
    return Made(made(across, down), "clip", pixels=shown(plain), note="shown as stored")


def _side_long(rng: random.Random) -> Made:
    """M1's 256 x 1 and longer."""
    sides = rng.choice(((256, 1), (1, 1_000), (30_000, 2), (3, 16_000)))
    pixels = scene(rng, width=sides[0], height=sides[1])
    return Made(encode(rng.choice(("PNG", "BMP")), Image.fromarray(pixels)), "clip", pixels=pixels)


def _text_bomb(rng: random.Random) -> Made:
    """Many texts, each of them small enough."""
    text = encode("PNG", picture(rng))
    block = png_chunk(b"zTXt", b"k\0\0" + _deflated(6 << 20))
    return Made(behind_header(text, block * rng.randint(3, 9)), "either")


@cache
def _deflated(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def _file(data: bytes) -> io.BytesIO:
    return io.BytesIO(data)


# --- clips


def what_is_wrong_with(kind: str, found: Clip) -> str | None:
    """Of every frame of a clip of these kinds: each once, in its place, and all of them where it is complete.

    Of H.264 and HEVC a place may be wrong behind the last key picture, where nothing contradicts a time.
    """
    name = kind.split("_", 1)[1]
    if not kind.startswith(("vkeys", "vstamp", "vlost")):
        return None
    numbers = [clips.number_of(frame) for frame in found.frames]
    there = sorted(numbers) if name in ("h264_mkv", "hevc_mkv") else numbers
    if len({*numbers}) < len(numbers) or (found.complete and kind[:5] != "vlost" and there != [*range(FRAMES)]):
        return f"frames {numbers}, complete={found.complete}"
    if kind.startswith("vkeys") and not found.complete:
        return f"incomplete: {found.notes}"
    plain = clips.plain(clips.clip(name, FRAMES))
    wrong = [n for n, frame in zip(numbers, found.frames, strict=True) if not np.array_equal(frame, plain[n])]
    return f"frames {wrong} are not those of the stream" if wrong else None


def what_is_wrong_with_few(kind: str, found: Clip) -> str | None:
    """Of some frames of a clip whose key flags mean nothing: each is the stream's at its time."""
    plain = clips.plain(clips.clip(kind.split("_", 1)[1], FRAMES))
    pairs = zip(found.times_s, found.frames, strict=True)
    wrong = [t for t, frame in pairs if not np.array_equal(frame, plain[round(t * 25)])]
    return f"frames at {wrong} s are not those of the stream" if wrong or not found.complete else None


def _keys(name: str, rng: random.Random) -> Made:
    """FFmpeg's parsers mend the flags of Matroska; those of MP4 come through as they are."""
    mp4 = name != "vp8" and rng.random() < 0.5
    flags = rng.choice(([True], [False], [rng.random() < 0.5 for _ in range(FRAMES)])) if not mp4 else [True]
    return Made(flagged(clips.clip(name, FRAMES), flags, "mp4" if mp4 else "matroska"), "clip")


def _stamp(name: str, rng: random.Random) -> Made:
    stamp = rng.choice((-9_000, 9_000, 256, 30_000, 16_896))
    return Made(with_stamp(clips.clip(name, FRAMES), rng.choice((0, rng.randrange(FRAMES))), stamp), "either")


def _said(name: str, rng: random.Random) -> Made:
    return Made(told(name, rng.choice((32, 80, 96, 120)), rng.choice((32, 48, 80))), "clip")


def _lost(name: str, rng: random.Random) -> Made:
    return Made(flagged(clips.clip(name, FRAMES), None, skip=rng.randint(2, 8)), "either")


@cache
def _alpha_clip(name: str, first: int) -> bytes:
    return alpha.made(name, [alpha.picture(first + n) for n in range(4)])


def _alpha(name: str, rng: random.Random) -> Made:
    first = rng.randrange(3)
    pixels = alpha.shown(alpha.picture(first), (255, 255, 255)).astype(np.uint8)
    return Made(_alpha_clip(name, first), "clip", pixels=pixels, within=1, note="composited")


@cache
def _clock_clip(container: str, start: int, fine: bool) -> bytes:
    step = 24 if fine else 1
    pictures, stamps = [clips.numbered(n) for n in range(12)], [start + step * n for n in range(12)]
    return clips.encoded(container, "mpeg4", pictures, stamps=stamps, tick=Fraction(1, 600 if fine else 25))


def _clock(rng: random.Random) -> Made:
    return Made(
        _clock_clip(rng.choice(("mp4", "matroska", "avi")), rng.choice((0, 5, 100)), rng.random() < 0.5), "clip"
    )


KINDS.update(
    whole_gif=_whole_gif,
    whole_jpeg=_whole_jpeg,
    whole_png=_whole_png,
    whole_apng=_whole_apng,
    turn_any=_turn_any,
    ink_any=_ink_any,
    shape_stored=_shape,
    side_thin=_side_long,
    bomb_texts=_text_bomb,
    vclock_any=_clock,
    **{f"vkeys_{name}": partial(_keys, name) for name in KEYS},
    **{f"vstamp_{name}": partial(_stamp, name) for name in STAMPS},
    **{f"vsaid_{name}": partial(_said, name) for name in SAID},
    **{f"vlost_{name}": partial(_lost, name) for name in LOST},
    **{f"valpha_{name.replace(' ', '_')}": partial(_alpha, name) for name in ALPHA},
)
