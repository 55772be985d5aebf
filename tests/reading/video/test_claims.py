"""What a container claims of its packets (key pictures, time stamps) is believed only where the stream agrees."""

import io
import random
import struct
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from tests.reading.video.video_clips import KINDS, clip, encoded, number_of, numbered, plain

from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source
from tubelet.reading.video.kinds import picture_kind
from tubelet.reading.video.stamps import leading, misplaced
from tubelet.reading.video.video import plan_video, read_video

LIMITS = Limits(deadline_s=20)
ENTERED = ("h264_b", "h264_open", "hevc", "mpeg4", "mpeg2_mkv", "vp8", "vp9")


def take(data: bytes, frames: int = 1_000, workers: int = 1) -> Clip:
    with open_source(data, LIMITS) as source:
        return read_video(source, LIMITS, Sampling(num_frames=frames), workers=workers)


def flagged(data: bytes, flags: list[bool] | None, container: str = "matroska", skip: int = 0) -> bytes:
    """The packets of a clip under other key flags (None: as they were), without the first `skip`."""
    out, same = io.BytesIO(), {"fflags": "+bitexact"}  # no name by chance in the file
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=container, options=same) as file:
        stream = source.streams.video[0]
        copy = file.add_stream_from_template(stream)
        for n, packet in enumerate(p for p in source.demux(stream) if p.size):
            if n < skip:
                continue
            packet.stream = copy
            if flags is not None:
                packet.is_keyframe = flags[n % len(flags)]
            file.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("flags", ["all", "none", "wrong"])
@pytest.mark.parametrize("kind", ENTERED)
def test_key_flags_are_looked_into(kind: str, flags: str):
    rng = random.Random(kind)
    values = {"all": [True], "none": [False], "wrong": [rng.random() < 0.5 for _ in range(60)]}[flags]
    data, expected = flagged(clip(kind), values), plain(clip(kind))
    for count in (60, 7, 3):
        found = take(data, count)
        assert found.complete and len(found) == count
        for moment, frame in zip(found.times_s, found.frames, strict=True):
            assert np.array_equal(frame, expected[round(moment * 25)]), (count, moment)


@pytest.mark.parametrize("kind", ["h264_b", "hevc", "mpeg4", "mpeg2_mkv", "vp9"])
def test_an_mp4_without_a_table_of_key_pictures(kind: str):
    """FFmpeg's parsers mend the flags of Matroska; those of MP4 come through as they are."""
    data, expected = flagged(clip(kind), [True], "mp4"), plain(clip(kind))
    assert b"stss" not in data
    for count in (60, 5):
        found = take(data, count)
        assert found.complete
        for moment, frame in zip(found.times_s, found.frames, strict=True):
            assert np.array_equal(frame, expected[round(moment * 25)])


@pytest.mark.parametrize("kind", ["mpeg4", "mpeg2_mkv", "vp8", "vp9", "av1"])
def test_the_kind_of_a_picture_is_the_decoders(kind: str):
    codec = KINDS[kind][1]
    with av.open(io.BytesIO(clip(kind))) as file:
        stream = file.streams.video[0]
        codec = stream.codec_context.codec.name
        kinds = [picture_kind(codec, p) for p in file.demux(stream) if p.size]
    with av.open(io.BytesIO(clip(kind))) as file:
        keys = [p.is_keyframe for p in file.demux(video=0) if p.size]
        assert [one == "I" for one in kinds] == keys
    if kind in ("mpeg4", "mpeg2_mkv"):
        with av.open(io.BytesIO(clip(kind))) as file:
            shown = [{1: "I", 2: "P", 3: "B"}[int(f.pict_type)] for f in file.decode(video=0)]
        assert sorted(shown) == sorted(kinds) and {"I", "P", "B"} == set(kinds)


@pytest.mark.parametrize("kind", ["mpeg4", "mpeg2_mkv", "vp8", "vp9", "h264_mkv"])
def test_a_stream_that_begins_in_the_middle_gives_no_grey(kind: str):
    """Pictures before the first key picture refer to what the file does not have."""
    found = take(flagged(clip(kind), None, skip=3))
    assert not found.complete and found.notes
    expected = plain(clip(kind))
    for frame in found.frames:
        assert np.array_equal(frame, expected[number_of(frame)])


# --- time stamps


def blocks(data: bytes) -> Iterator[int]:
    """Where the two bytes of the time stamp of each block of a Matroska file stand."""

    def element(at: int) -> tuple[int, int, int]:
        width = 9 - data[at].bit_length()
        ident, at = int.from_bytes(data[at : at + width], "big"), at + width
        width = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
        return ident, at + width, size

    at = 0
    while at < len(data):
        ident, body, size = element(at)
        if ident in (0xA3, 0xA1):
            yield body + 1
        at = body if ident in (0x18538067, 0x1F43B675, 0xA0) else body + size


def with_stamp(data: bytes, number: int, stamp: int) -> bytes:
    place = list(blocks(data))[number]
    return data[:place] + struct.pack(">h", stamp) + data[place + 2 :]


def all_there_or_said(data: bytes) -> None:
    for workers in (1, 2):
        found = take(data, workers=workers)
        numbers = [number_of(frame) for frame in found.frames]
        assert sorted(set(numbers)) == sorted(numbers)
        assert not found.complete or sorted(numbers) == list(range(60)), numbers
        if not found.complete:
            assert found.notes and len(numbers) >= 40


STAMPED = ("h264_mkv", "hevc_mkv", "mpeg2_mkv", "vp8", "vp9", "ffv1")


@pytest.mark.parametrize("kind", [*STAMPED, "mpeg4"])
def test_a_damaged_first_time_stamp(kind: str):
    data = flagged(clip(kind), None) if kind == "mpeg4" else clip(kind)
    for stamp in (16_896, 5_000, 32_767):
        damaged = with_stamp(data, 0, stamp)
        all_there_or_said(damaged)
        found = take(damaged)
        assert not found.complete and len(found) >= 55
        assert any("time stamps" in note for note in found.notes)


def test_one_group_of_pictures_with_a_damaged_first_time_stamp():
    data = encoded("matroska", "libx264", [numbered(n) for n in range(60)], options={"g": "600", "bf": "3"})
    all_there_or_said(with_stamp(data, 0, 16_896))


@pytest.mark.parametrize("kind", STAMPED)
def test_damaged_time_stamps_by_seed(kind: str):
    data = clip(kind)
    for seed in range(10):
        rng = random.Random(f"{kind}/{seed}")
        all_there_or_said(with_stamp(data, rng.randrange(60), rng.choice((-9_000, 9_000, 256, 30_000))))


def test_an_open_group_of_pictures_at_the_start_is_no_damage():
    data = flagged(clip("h264_open"), None)
    with av.open(io.BytesIO(data)) as file:
        keys = [n for n, p in enumerate(p for p in file.demux(video=0) if p.size) if p.is_keyframe]
    found = take(flagged(clip("h264_open"), None, skip=keys[1]))
    assert found.complete and [number_of(f) for f in found.frames] == list(range(20, 60))


def test_the_fewest_time_stamps_are_wrong():
    firm = [True, True, False, False, True, False, False, True]
    clock = dict(enumerate([0, 3, 1, 2, 6, 4, 5, 9]))
    assert misplaced(range(8), clock, firm) == set()
    for packet, stamp in ((0, 99), (4, 1), (1, 50), (7, 2)):
        assert misplaced(range(8), clock | {packet: stamp}, firm) == {packet}
    assert leading(range(8), clock, 0) == (set(), True)
    assert leading(range(5), {0: 5, 1: 3, 2: 4, 3: 8, 4: 9}, 0) == ({1, 2}, True)
    assert leading(range(4), {0: 99, 1: 1, 2: 2, 3: 3}, 0) == ({0}, False)
    assert leading(range(5), {0: 3, 1: 4, 2: 0, 3: 5, 4: 6}, 0) == ({2}, False)


def test_plans_say_what_reading_will():
    damaged = with_stamp(clip("vp9"), 0, 16_896)
    with open_source(damaged, LIMITS) as source:
        assert plan_video(source, LIMITS, Sampling(num_frames=9)).cut


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "libx264"])
def test_an_avi_counts_ticks_and_not_pictures(codec: str):
    """On a clock of 600 a second there are 24 empty chunks behind each picture of 25 a second."""
    tick, pixels = Fraction(1, 600), "yuvj420p" if codec == "mjpeg" else "yuv420p"
    pictures, stamps = [numbered(n) for n in range(30)], [24 * n for n in range(30)]
    options = {"g": "10", "bf": "0"} if codec != "mjpeg" else {}
    data = encoded("avi", codec, pictures, options=options, stamps=stamps, tick=tick, pix_fmt=pixels)
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].frames > 600
    for count in (100, 6):
        found = take(data, count)
        assert found.complete and found.duration_s == pytest.approx(30 / 25, abs=0.05)
        assert [number_of(f) for f in found.frames] == [round(s * 25) for s in found.times_s]
        assert len(found) == min(count, 30)
    for end in range(len(data) // 3, len(data) - 40_000 if len(data) > 60_000 else len(data) // 2, 997):
        assert not take(data[:end], 100).complete
