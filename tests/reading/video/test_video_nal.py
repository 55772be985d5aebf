"""The bits of H.264 headers that are read here, against FFmpeg's own reading of the same files."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from tests.reading.video.video_clips import clip, encoded

from tubelet.reading.video.parameters import Stored, parameter_set

PICTURE = [np.full((48, 64, 3), 90, np.uint8)]


def aspect_of(extradata: bytes) -> Fraction | None:
    found = parameter_set(extradata)
    return None if found is None else found.sample_aspect


def extradata_and_aspect(data: bytes) -> tuple[bytes, Fraction | None]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        next(container.decode(stream))
        return stream.codec_context.extradata or b"", stream.codec_context.sample_aspect_ratio


@pytest.mark.parametrize("aspect", [None, Fraction(1), Fraction(12, 11), Fraction(4, 3), Fraction(7, 5), Fraction(2)])
@pytest.mark.parametrize(
    ("pix_fmt", "options"),
    [
        ("yuv420p", {"profile": "baseline"}),
        ("yuv420p", {"profile": "high", "x264-params": "cqm=jvt:tff=1"}),
        ("yuv422p", {"x264-params": "bframes=3:b-pyramid=normal"}),
        ("yuv444p", {}),
        ("yuv420p10le", {}),
    ],
    ids=["baseline", "high, interlaced, matrices", "4:2:2", "4:4:4", "10 bit"],
)
def test_aspect_equals_what_ffmpeg_reads(aspect: Fraction | None, pix_fmt: str, options: dict[str, str]):
    data = encoded("matroska", "libx264", PICTURE, pix_fmt=pix_fmt, options=options, aspect=aspect)
    extradata, told = extradata_and_aspect(data)
    assert aspect_of(extradata) == (told or 1) == (aspect or 1)


def test_anything_else_is_unknown():
    whole, _ = extradata_and_aspect(clip("h264_b"))
    assert aspect_of(whole) == 1
    assert aspect_of(b"") is None
    assert aspect_of(b"\0\0\0\1" + whole[8:]) is None
    for length in range(9, 22):
        cut = whole[:6] + (length - 8).to_bytes(2, "big") + whole[8:length]
        assert aspect_of(cut) in (None, 1)
    rng = np.random.default_rng(0)
    for _ in range(500):
        noise = rng.integers(0, 256, 60, np.uint8).tobytes()
        answer = aspect_of(whole[:8] + noise)
        assert answer is None or answer > 0


@pytest.mark.parametrize("size", [(64, 48), (66, 52), (130, 76), (16, 16), (98, 4)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"])
@pytest.mark.parametrize("fields", [False, True])
def test_the_size_is_the_decoders(size: tuple[int, int], pix_fmt: str, fields: bool):
    options = {"x264-params": "tff=1"} if fields else {}
    pictures = [np.zeros((size[1], size[0], 3), np.uint8)] * 2
    data = encoded("matroska", "libx264", pictures, pix_fmt=pix_fmt, options=options)
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        frame = next(iter(file.decode(video=0)))
        assert parameter_set(stream.codec_context.extradata or b"") == Stored(frame.width, frame.height, Fraction(1))
        assert (frame.width, frame.height) == size


def test_a_number_without_end_is_no_parameter_set():
    """64 kB of zeros: each bit costs a shift of all of them, so the count of zeros has a ceiling."""
    unit = b"\x67\x42\0\x1e" + bytes(65_000)
    assert parameter_set(b"\1\x42\0\x1e\xff\xe1" + len(unit).to_bytes(2, "big") + unit) is None
