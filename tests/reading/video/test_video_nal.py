"""The bits of H.264 headers that are read here, against FFmpeg's own reading of the same files."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from tests.reading.video.video_clips import clip, encoded

from tubelet.reading.video.nal import sample_aspect

PICTURE = [np.full((48, 64, 3), 90, np.uint8)]


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
    assert sample_aspect(extradata) == (told or 1) == (aspect or 1)


def test_anything_else_is_unknown():
    whole, _ = extradata_and_aspect(clip("h264_b"))
    assert sample_aspect(whole) == 1
    assert sample_aspect(b"") is None
    assert sample_aspect(b"\0\0\0\1" + whole[8:]) is None
    for length in range(9, 22):
        cut = whole[:6] + (length - 8).to_bytes(2, "big") + whole[8:length]
        assert sample_aspect(cut) in (None, 1)
    rng = np.random.default_rng(0)
    for _ in range(500):
        noise = rng.integers(0, 256, 60, np.uint8).tobytes()
        answer = sample_aspect(whole[:8] + noise)
        assert answer is None or answer > 0
