"""Containers that give another size than all pictures of their stream have: read as it is, with a note."""

import io

import numpy as np
import pytest
from tests.reading.video.video_clips import clip, encoded, numbered, plain

from tubelet.errors import LimitError
from tubelet.pixels.load import load_patches
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.limits import Limits
from tubelet.reading.read import probe, read

KINDS = ("h264_b", "h264_frag", "mpeg4", "hevc", "av1", "h264_mkv", "mpeg2_mkv", "vp9", "vp8", "mpeg4_avi")


def told(kind: str, width: int, height: int) -> bytes:
    """The clip, with another size in its container."""
    data = bytearray(clip(kind))
    if data[4:8] == b"ftyp":
        names = (b"avc1", b"mp4v", b"hev1", b"hvc1", b"av01")
        entry = next(data.index(name, data.index(b"stsd") + 4) for name in names if name in data[data.index(b"stsd") :])
        data[entry + 28 : entry + 32] = width.to_bytes(2, "big") + height.to_bytes(2, "big")
        if height == 47:  # the size to show it at too, or its pixels are not square
            head = data.index(b"tkhd") - 4
            end = head + int.from_bytes(data[head : head + 4], "big")
            data[end - 8 : end] = (width << 16).to_bytes(4, "big") + (height << 16).to_bytes(4, "big")
    elif data[:4] == b"RIFF":
        place = data.index(b"strf") + 12
        data[place : place + 8] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    else:
        place = data.index(b"\xb0\x81\x40\xba\x81\x30")
        data[place + 2], data[place + 5] = width, height
    return bytes(data)


@pytest.mark.parametrize("size", [(96, 80), (32, 32), (64, 47)])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_one_size_are_read(kind: str, size: tuple[int, int]):
    data = told(kind, *size)
    expected = plain(data)
    height = len(expected[0])  # FFmpeg's decoder of H.264 cuts to what the container says, within a block
    assert height == 48 or kind.startswith("h264")
    for isolate in ("never", "always"):
        [found] = read(data, num_frames=4, isolate=isolate)
        assert found.complete
        for moment, frame in zip(found.times_s, found.frames, strict=True):
            assert np.array_equal(frame, expected[round(moment * 25)])
        said = f"the container says {size[0]} x {size[1]}, its pictures are 64 x 48"
        assert (said in found.notes) == (height == 48 and kind != "mpeg4_avi")
    info = probe(data)
    assert (info.width, info.height) == (64, height)
    loaded = load_patches([io.BytesIO(data)], PixelRecipe(patch=16), num_frames=4, isolate="never")
    assert (loaded.sources[0].width, loaded.sources[0].height) == (64, height)


def test_the_size_of_the_pictures_is_under_the_limits():
    for kind in ("h264_b", "vp9"):
        with pytest.raises(LimitError, match="max_pixels"):
            probe(told(kind, 32, 32), limits=Limits(max_pixels=2_000))


def test_the_shape_of_pixels_is_the_containers_where_only_the_scale_is_wrong():
    """As streams of lower resolution in a container that was written for a higher one, to be shown at 85 x 48."""
    data = encoded("matroska", "libvpx", [numbered(n) for n in range(4)])
    head = b"\xe0\x8a\xb0\x81\x40\xba\x81\x30"  # the picture's description of 10 bytes, which takes in 4 more
    data = data.replace(
        head + b"\x54\xb2\x81\4\x55\xee\x81\0", b"\xe0\x8e" + head[2:] + b"\x54\xb0\x81\x55\x54\xba\x81\x30"
    )
    place = data.index(head[2:])
    for said, shown in (((64, 48), 85), ((96, 72), 85), ((96, 48), 64)):  # the last is of another shape: not believed
        told = bytearray(data)
        told[place + 2], told[place + 5] = said
        [found], info = read(bytes(told), isolate="never"), probe(bytes(told))
        assert (found.width, found.height) == (info.width, info.height) == (shown, 48)
        assert ("the container says" in " ".join(found.notes)) == (said != (64, 48))
