"""Animations: every frame composited, with the time that the file states; as a picture, the first."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tubelet.errors import DecodeError, InputError, LimitError
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.picture.animation import decode_animation
from tubelet.reading.picture.image import decode_image, probe_image
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source

LIMITS = Limits()
DURATIONS = [100, 200, 50, 300, 70]  # ms
STARTS = (0.0, 0.1, 0.3, 0.35, 0.65)
MOVING = [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})]


def frames(count: int = 5, width: int = 20, height: int = 11) -> list[Image.Image]:
    """A square that walks over a ground whose colour changes."""
    made = []
    for i in range(count):
        frame = Image.new("RGB", (width, height), (40 * i, 255 - 30 * i, 90))
        frame.paste((255, 0, 0), (2 * i, i, 2 * i + 3, i + 4))
        made.append(frame)
    return made


def animation(file_format: str, pictures: list[Image.Image], durations: list[int] | int, **options: object) -> bytes:
    buffer = io.BytesIO()
    pictures[0].save(buffer, file_format, save_all=True, append_images=pictures[1:], duration=durations, **options)
    return buffer.getvalue()


def decode(data: bytes, limits: Limits = LIMITS, **sampling: object) -> Clip:
    with open_source(data, limits, "it") as src:
        return decode_animation(src, limits, Sampling(**sampling))


def still(data: bytes, limits: Limits = LIMITS) -> Clip:
    with open_source(data, limits) as src:
        return decode_image(src, limits)


@pytest.mark.parametrize(("file_format", "options"), MOVING)
def test_every_frame_with_its_time(file_format: str, options: dict):
    data = animation(file_format, frames(), DURATIONS, **options)
    clip = decode(data)
    assert clip.times_s == STARTS
    assert clip.duration_s == 0.72
    assert clip.is_video
    assert clip.complete
    assert np.array_equal(clip.frames, np.stack([np.asarray(frame) for frame in frames()]))
    with open_source(data, LIMITS) as src:
        info = probe_image(src, LIMITS)
    assert (info.width, info.height, info.frames) == (20, 11, 5)


def test_avif_sequences():
    clip = decode(animation("AVIF", frames(width=40, height=40), DURATIONS, quality=100, subsampling="4:4:4"))
    assert clip.times_s == STARTS
    assert np.abs(clip.frames[3].astype(int) - np.asarray(frames(width=40, height=40)[3]).astype(int)).max() <= 8


@pytest.mark.parametrize(("file_format", "options"), MOVING)
def test_sampled_by_time(file_format: str, options: dict):
    data = animation(file_format, frames(), DURATIONS, **options)
    everything = decode(data).frames
    for sampling, expected in [
        ({"times_s": (0.0, 0.25, 0.3, 0.3, 0.7)}, [0, 1, 2, 2, 4]),
        ({"fps": 10.0}, [0, 1, 2, 3, 4]),
        ({"fps": 2.0}, [0, 3]),
        ({"num_frames": 2}, [1, 3]),
    ]:
        clip = decode(data, **sampling)
        assert clip.times_s == tuple(STARTS[i] for i in expected)
        assert np.array_equal(clip.frames, everything[expected])
    with pytest.raises(InputError, match="after the end"):
        decode(data, times_s=(5.0,))


@pytest.mark.parametrize(("file_format", "options"), MOVING)
def test_as_a_picture_the_first_frame(file_format: str, options: dict):
    clip = still(animation(file_format, frames(), DURATIONS, **options))
    assert np.array_equal(clip.frames[0], np.asarray(frames()[0]))
    assert clip.notes == ("the first of 5 frames of an animation",)
    assert not clip.is_video


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "JPEG", "TIFF"])
def test_what_does_not_move_is_a_picture(file_format: str):
    buffer = io.BytesIO()
    frames()[0].save(buffer, file_format)
    clip = decode(buffer.getvalue())
    assert (len(clip), clip.is_video, clip.times_s) == (1, False, (0.0,))


def test_pages_are_not_frames():
    clip = decode(animation("TIFF", frames(), 0))
    assert (len(clip), clip.is_video) == (1, False)


def test_a_png_whose_still_picture_is_no_frame():
    data = animation("PNG", frames(), DURATIONS[1:], default_image=True)
    assert np.array_equal(still(data).frames[0], np.asarray(frames()[0]))
    clip = decode(data)
    assert len(clip) == 4
    assert np.array_equal(clip.frames, np.stack([np.asarray(frame) for frame in frames()[1:]]))


def test_frames_without_a_duration():
    clip = decode(animation("GIF", frames(3), 0))
    assert clip.times_s == (0.0, 0.1, 0.2)
    assert "frames without a duration are shown for 0.1 s" in clip.notes


def test_transparent_frames_lie_on_the_background():
    bare = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)) for _ in range(2)]
    bare[0].paste((255, 0, 0, 255), (0, 0, 4, 4))
    bare[1].paste((0, 0, 255, 255), (4, 4, 8, 8))
    for file_format, options in MOVING:
        data = animation(file_format, bare, 100, disposal=2, **options)
        with open_source(data, LIMITS) as src:
            clip = decode_animation(src, LIMITS, Sampling(), (9, 200, 9))
        assert clip.frames[0, 1, 1].tolist() == [255, 0, 0]
        assert clip.frames[0, 6, 6].tolist() == [9, 200, 9]
        assert clip.frames[1, 6, 6].tolist() == [0, 0, 255]
        assert sum("composited" in note for note in clip.notes) == 1


def test_exif_turns_every_frame():
    exif = Image.Exif()
    exif[0x0112] = 6
    clip = decode(animation("WEBP", frames(), DURATIONS, lossless=True, exif=exif))
    upright = [np.asarray(frame.transpose(Image.Transpose.ROTATE_270)) for frame in frames()]
    assert np.array_equal(clip.frames, np.stack(upright))


def test_limits_of_a_clip():
    data = animation("GIF", frames(), DURATIONS)
    for limits in (Limits(max_frames=4), Limits(max_clip_pixels=20 * 11 * 5 - 1), Limits(max_seconds=0.7)):
        with pytest.raises(LimitError) as caught:
            decode(data, limits)
        assert caught.value.source == "it"
    assert len(decode(data, Limits(max_clip_pixels=20 * 11 * 2), times_s=(0.0, 0.5))) == 2


# GIF and PNG by hand --------------------------------------------------------------------------------------------------


def gif(screen: tuple[int, int], *places: tuple[int, int, int, int]) -> bytes:
    """A GIF of one-colour frames (index 1, red) at the given places."""
    body = b"GIF89a" + struct.pack("<HH", *screen) + b"\x80\0\0" + b"\0\0\0\xff\0\0"
    for left, top, width, height in places:
        bits = "".join(f"{code:03b}"[::-1] for code in [4, *([1, 4] * (width * height)), 5])  # cleared after each pixel
        data = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
        blocks = b"".join(bytes((len(data[i : i + 255]),)) + data[i : i + 255] for i in range(0, len(data), 255))
        body += b"!\xf9\4\0\x0a\0\0\0," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\2" + blocks + b"\0"
    return body + b";"


def test_a_first_frame_larger_than_the_screen_makes_it_larger():
    clip = still(gif((2, 2), (0, 0, 5, 3)))
    assert (clip.width, clip.height) == (5, 3)
    assert (clip.frames[0, ..., 0] == 255).all()


def test_a_later_frame_over_the_edge_is_cut_off():
    clip = decode(gif((4, 4), (0, 0, 2, 2), (2, 2, 5, 5)))
    assert clip.frames.shape == (2, 4, 4, 3)
    assert clip.frames[1, 3, 3].tolist() == [255, 0, 0]
    assert clip.frames[1, 0, 3].tolist() == [0, 0, 0]


def test_a_later_frame_that_is_too_large_changes_nothing_of_the_first():
    alone, two = gif((4, 4), (0, 0, 1, 1)), gif((4, 4), (0, 0, 1, 1), (0, 0, 1, 1))
    for data in (alone, two):
        place = data.rindex(b",\0\0\0\0\1\0\1\0")
        large = data[: place + 5] + struct.pack("<HH", 60_000, 60_000) + data[place + 9 :]
        if data is alone:
            with pytest.raises(LimitError):
                still(large)
            continue
        clip = still(large)
        assert np.array_equal(clip.frames, still(alone).frames)
        assert any("too large" in note for note in clip.notes)
        with pytest.raises(DecodeError, match="too large"):
            decode(large)


def test_a_gif_of_ten_thousand_frames_is_refused():
    with pytest.raises(LimitError, match="max_frames"):
        still(gif((1, 1), *([(0, 0, 1, 1)] * 10_000)))


@pytest.mark.parametrize(("file_format", "options"), MOVING)
def test_a_cut_anywhere_is_an_error_or_said(file_format: str, options: dict):
    data = animation(file_format, frames(3), DURATIONS[:3], **options)
    whole = decode(data)
    for end in range(60, len(data), 3):
        try:
            clip = decode(data[:end])
        except (DecodeError, LimitError):
            continue
        assert np.array_equal(clip.frames, whole.frames[: len(clip)])
        assert (len(clip) == 3 or not clip.complete) and clip.notes


@pytest.mark.parametrize("kind", [b"fcTL", b"fdAT"])
def test_a_png_that_lacks_an_animation_chunk_is_refused(kind: bytes):
    data = animation("PNG", frames(), DURATIONS)
    start = data.rindex(kind) - 4
    length = struct.unpack_from(">I", data, start)[0]
    with pytest.raises(DecodeError):
        decode(data[:start] + data[start + 12 + length :])
