"""Bad and unusual videos, each a pure function of a kind and a seed.

vcut_*    B1  cut off at a random byte        vtail_*   B1  cut off in the last tenth
vflip_*   B2  1 to 64 random bytes changed    vsplice_* B2  a piece removed, doubled or zeroed
vnone_*   B3  nothing to show                 vsize_*   B7  the picture size changes on the way
vlist_*   B9  playlists and manifests that name other files and addresses
"""

import io
import random
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
from tests.reading.video.video_clips import clip, encoded, number_of, numbered, plain
from tests.torture.torture_harness import Made

from tubelet.errors import DecodeError, InputError, NoVideo, UnsupportedFormat
from tubelet.reading.clip import Clip

FRAMES = 60
CUT = ("h264_b", "h264_fast", "h264_frag", "h264_mkv", "hevc_mkv", "vp9", "vp9_live", "vp8", "mpeg4_avi", "h264_avi")
FLIPPED = (*CUT, "h264_open", "hevc", "mpeg4", "av1", "mpeg2_mkv", "mjpeg_avi", "ffv1")

Maker = Callable[[random.Random], Made]
KINDS: dict[str, Maker] = {}


def make(kind: str, seed: int) -> Made:
    """The input of a kind and a seed; the same one every time."""
    return KINDS[kind](random.Random(f"{kind}/{seed}"))


def cut(name: str, rng: random.Random, first: float) -> Made:
    data = clip(name, FRAMES)
    at = rng.randrange(int(len(data) * first), len(data))
    return Made(data[:at], "either", errors=(DecodeError, NoVideo, UnsupportedFormat))


def flip(name: str, rng: random.Random) -> Made:
    data = bytearray(clip(name, FRAMES))
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        place = rng.randrange(len(data))
        data[place] = rng.randrange(256)
    return Made(bytes(data), "either")


def splice(name: str, rng: random.Random) -> Made:
    data = clip(name, FRAMES)
    a, b = sorted(rng.sample(range(len(data)), 2))
    b = min(b, a + rng.choice((1, 7, 100, 1000)))
    how = rng.choice(("remove", "double", "zero"))
    middle = {"remove": b"", "double": data[a:b] * 2, "zero": bytes(b - a)}[how]
    return Made(data[:a] + middle + data[b:], "either")


def nothing_to_show(rng: random.Random) -> Made:
    """Sound, or nothing at all, in any container."""
    container = rng.choice(("matroska", "mp4", "avi"))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return Made(buffer.getvalue(), "error", errors=(NoVideo,))


def two_sizes(codec: str, rng: random.Random) -> Made:
    """The packets of two clips of different sizes as one stream."""
    sizes = rng.choice((((64, 48), (96, 48)), ((64, 48), (64, 64)), ((96, 64), (64, 48))))
    pix_fmt = _pixel_format(codec)
    packets = [p for width, height in sizes for p in _packets(codec, width, height, rng.randint(2, 9))]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as out:
        stream = out.add_stream(codec, rate=25)
        (stream.width, stream.height), stream.pix_fmt = sizes[0], pix_fmt
        for n, (content, key) in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, n, n, Fraction(1, 25)
            packet.is_keyframe = key
            out.mux(packet)
    return Made(buffer.getvalue(), "error", errors=(DecodeError,))


@cache  # once per process: an encoder may round differently when its memory lies elsewhere
def _packets(codec: str, width: int, height: int, frames: int) -> list[tuple[bytes, bool]]:
    """(content, is a keyframe) of each packet of a short clip of this size."""
    options = {"g": "5", "bf": "0"} if codec != "mjpeg" else {}
    pictures = [numbered(n, width, height) for n in range(frames)]
    data = encoded("avi", codec, pictures, options=options, pix_fmt=_pixel_format(codec))
    with av.open(io.BytesIO(data)) as part:
        return [(bytes(p), p.is_keyframe) for p in part.demux(video=0) if p.size]


def _pixel_format(codec: str) -> str:
    return "yuvj420p" if codec == "mjpeg" else "yuv420p"


def list_of(address: str, rng: random.Random) -> bytes:
    """A text file that makes FFmpeg open something else, if it is believed."""
    return rng.choice(
        (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{address}'\n",
            f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
            f'<Representation id="1"><BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period></MPD>',
            f"concat:{address}|{address}",
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=control:{address}\n",
            f"<smil><body><video src='{address}'/></body></smil>",
        )
    ).encode()


def believed_list(rng: random.Random) -> Made:
    return Made(list_of("http://127.0.0.1:9/clip.mp4", rng), "error", errors=(UnsupportedFormat, InputError))


def what_is_wrong_with(name: str, found: Clip) -> str | None:
    """Of a clip cut out of `name`: whole frames at their own times, and told apart from the whole clip."""
    reference = plain(clip(name, FRAMES))
    for moment, frame in zip(found.times_s, found.frames, strict=True):
        n = round(moment * 25)
        if not (n < FRAMES and np.array_equal(frame, reference[n])):
            return f"at {moment:.3f} s stands frame {number_of(frame)}, or a damaged one"
    if found.complete and len(found) < FRAMES - 1:
        return f"complete, with {len(found)} of {FRAMES} frames"
    if not found.complete and (found.frames_expected is None or found.frames_expected < len(found)):
        return f"{len(found)} frames, expected {found.frames_expected}"
    return None


def _register() -> None:
    def add(kind: str, maker: Callable[..., Made], *given: Any) -> None:
        KINDS[kind] = lambda rng: maker(*given, rng)

    for name in CUT:
        KINDS[f"vcut_{name}"] = lambda rng, name=name: cut(name, rng, 0.0)
        KINDS[f"vtail_{name}"] = lambda rng, name=name: cut(name, rng, 0.9)
    for name in FLIPPED:
        add(f"vflip_{name}", flip, name)
        add(f"vsplice_{name}", splice, name)
    add("vnone_sound", nothing_to_show)
    for codec in ("mjpeg", "libx264", "mpeg4"):
        add(f"vsize_{codec}", two_sizes, codec)
    add("vlist_text", believed_list)


_register()
