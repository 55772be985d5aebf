"""Video: frame i is frame i, at its true time, equal to plain decoding bit for bit, whatever path led to it."""

import io
import random
import sys
import threading
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from tests.reading.video.video_clips import KINDS, clip, encoded, number_of, numbered, plain

import tubelet.reading.video.decode  # noqa: F401  (its module is looked up below: `tubelet.read` is a function)
from tubelet.errors import DecodeError, InputError, LimitError, NoVideo, UnsupportedFormat
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source
from tubelet.reading.video.video import VideoPlan, decode_video, plan_video, probe_video, read_video

LIMITS = Limits(deadline_s=30.0)
ALL = Sampling(num_frames=8_000)
DECODE = sys.modules["tubelet.reading.video.decode"]


def take(data: bytes, sampling: Sampling = ALL, limits: Limits = LIMITS, workers: int = 1) -> Clip:
    with open_source(data, limits) as source:
        return read_video(source, limits, sampling, workers=workers)


def plan(data: bytes, sampling: Sampling = ALL, limits: Limits = LIMITS) -> VideoPlan:
    with open_source(data, limits) as source:
        return plan_video(source, limits, sampling)


def numbers(found: Clip) -> list[int]:
    return [number_of(frame) for frame in found.frames]


# --- every frame, every container, every codec


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_itself_at_its_time(kind: str):
    found = take(clip(kind))
    assert numbers(found) == list(range(60))
    assert found.complete and found.frames_expected is None and found.is_video
    assert found.times_s == pytest.approx([n / 25 for n in range(60)], abs=1e-3)
    assert found.duration_s == pytest.approx(60 / 25, abs=2e-3)
    assert all(map(np.array_equal, found.frames, plain(clip(kind))))


@pytest.mark.parametrize("seek", [False, True], ids=["reading on", "seeking"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_frames_equal_plain_decoding_bit_for_bit(kind: str, seek: bool, monkeypatch: pytest.MonkeyPatch):
    if seek:
        monkeypatch.setattr(DECODE, "_SKIP_AHEAD", -1)
    reference, rng = plain(clip(kind)), random.Random(kind)
    for _ in range(6):
        chosen = sorted(rng.sample(range(60), rng.randint(1, 6)))
        found = take(clip(kind), Sampling(times_s=tuple(n / 25 + 0.004 for n in chosen)), workers=rng.choice((1, 2, 3)))
        assert found.complete
        assert found.times_s == pytest.approx([n / 25 for n in chosen], abs=1e-3)
        for n, frame in zip(chosen, found.frames, strict=True):
            assert np.array_equal(frame, reference[n]), n


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {"g": "60", "bf": "0", "sc_threshold": "0"}),
        ("mp4", "libx264", {"g": "150", "bf": "3", "b-pyramid": "normal", "sc_threshold": "0"}),
        ("mp4", "libx265", {"x265-params": "keyint=250:bframes=4:log-level=none"}),
        ("mp4", "mpeg4", {"g": "50", "bf": "2"}),
        ("webm", "libvpx-vp9", {"g": "90", "deadline": "realtime", "cpu-used": "8"}),
    ],
    ids=["h264 GOP 60", "h264 GOP 150 with B", "hevc GOP 250", "mpeg4", "vp9"],
)
def test_long_groups_with_moving_content(container: str, codec: str, options: dict[str, str]):
    rng = np.random.default_rng(7)
    scene = rng.integers(0, 255, (60, 400, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    pictures = [np.ascontiguousarray(scene[n % 50 : n % 50 + 96, 3 * n : 3 * n + 128]) for n in range(320)]
    data = encoded(container, codec, pictures, options=options, rate=30)
    reference = plain(data)
    for count in (1, 4, 16, 64):
        found = take(data, Sampling(num_frames=count), workers=2)
        chosen = [round(t * 30) for t in found.times_s]
        assert len(chosen) == count
        for n, frame in zip(chosen, found.frames, strict=True):
            assert np.array_equal(frame, reference[n]), n


def test_only_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch):
    fed: list[int] = []
    whole = DECODE._Decoder._decode

    def counting(self: object, number: int, packet: av.Packet | None, skip: bool, found: object) -> None:
        if packet is not None:
            fed.append(number)
        whole(self, number, packet, skip, found)

    monkeypatch.setattr(DECODE._Decoder, "_decode", counting)
    take(clip("h264_p"), Sampling(times_s=(2 / 25, 43 / 25)))
    assert fed == [0, 1, 2, 40, 41, 42, 43]


@pytest.mark.parametrize("kind", ["h264_b", "hevc", "h264_mkv", "h264_avi", "vp9"])
def test_the_number_of_workers_changes_nothing(kind: str):
    one = take(clip(kind), Sampling(num_frames=9), workers=1)
    for workers in (2, 3, 8):
        other = take(clip(kind), Sampling(num_frames=9), workers=workers)
        assert other.times_s == one.times_s and np.array_equal(other.frames, one.frames)


# --- time


def at_stamps(stamps: list[int], tick: Fraction, container: str = "mp4", **more: str) -> bytes:
    options = {"g": "10", "bf": "0", "sc_threshold": "0"} | more
    pictures = [numbered(n) for n in range(len(stamps))]
    return encoded(container, "libx264", pictures, options=options, stamps=stamps, tick=tick)


def fast_then_slow() -> bytes:
    """120 frames a second for one second, then one a second for nine."""
    return at_stamps([k * 750 for k in range(120)] + [90_000 * (k + 1) for k in range(9)], Fraction(1, 90_000), bf="2")


def test_uneven_frames_are_chosen_by_time():
    found = take(fast_then_slow(), Sampling(times_s=(0.0, 0.5, 0.999, 1.0, 1.9, 5.5, 9.0)))
    assert numbers(found) == [0, 60, 119, 120, 120, 124, 128]
    assert found.times_s == pytest.approx([0.0, 0.5, 119 / 120, 1.0, 1.0, 5.0, 9.0], abs=1e-4)
    evenly = take(fast_then_slow(), Sampling(num_frames=8))
    assert sum(t < 1.0 for t in evenly.times_s) == 1


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("start", [0, 5, 1000])
def test_time_counts_from_the_first_frame_shown(container: str, start: int):
    data = at_stamps([start + 4 * n for n in range(30)], Fraction(1, 100), container, bf="2")
    found = take(data, Sampling(times_s=(0.0, 0.41, 1.0)))
    assert numbers(found) == [0, 10, 25]
    assert found.times_s == pytest.approx([0.0, 0.4, 1.0], abs=1e-3)


@pytest.mark.parametrize(("container", "codec"), [("avi", "mpeg4"), ("avi", "libx264")])
def test_a_clock_of_whole_seconds(container: str, codec: str):
    data = encoded(container, codec, [numbered(n) for n in range(8)], rate=1)
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].time_base == 1
    found = take(data, Sampling(times_s=(0.0, 2.9, 3.0, 7.5)))
    assert numbers(found) == [0, 2, 3, 7] and found.times_s == (0.0, 2.0, 3.0, 7.0)


def remuxed(data: bytes, change: Callable[[int, av.Packet], None], container: str = "matroska") -> bytes:
    """The packets of a clip written again, each after `change(number, packet)`."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format=container) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for n, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream = stream
                change(n, packet)
                out.mux(packet)
    return buffer.getvalue()


def test_of_frames_with_one_start_the_last_is_shown():
    plain_clip = at_stamps(list(range(20)), Fraction(1, 20), "avi")
    stamps = [n // 2 * 2 * 50 for n in range(20)]

    def paired(n: int, packet: av.Packet) -> None:
        packet.time_base = Fraction(1, 1000)
        packet.pts = packet.dts = stamps[n]

    found = take(remuxed(plain_clip, paired), Sampling(times_s=(0.0, 0.05, 0.1, 0.3)))
    assert numbers(found) == [1, 1, 3, 7]
    assert found.times_s == pytest.approx([0.0, 0.0, 0.1, 0.3], abs=1e-3)


def edited(data: bytes, media_time: int, duration_ms: int) -> bytes:
    """The MP4 with another edit list: what is shown starts at `media_time`."""
    place = data.index(b"elst")
    assert data[place + 4] == 0 and data[place + 8 : place + 12] == b"\0\0\0\1"
    values = duration_ms.to_bytes(4, "big") + media_time.to_bytes(4, "big", signed=True)
    return data[: place + 12] + values + data[place + 20 :]


@pytest.mark.parametrize("first", [0, 7, 20, 33])
def test_an_edit_list_decides_what_is_the_first_frame(first: int):
    data = clip("h264_b")
    place = data.index(b"elst")
    delay = int.from_bytes(data[place + 16 : place + 20], "big")
    changed = edited(data, delay + first * 512, round((60 - first) / 25 * 1000))
    found = take(changed)
    assert numbers(found) == [number_of(f) for f in plain(changed)]
    assert numbers(found)[0] == first and found.times_s[0] == 0.0 and found.complete
    few = take(changed, Sampling(times_s=(0.0, 0.4)))
    assert numbers(few) == [first, first + 10]


def test_a_stream_of_one_frame():
    data = encoded("mp4", "libx264", [numbered(5)], rate=10)
    for sampling in (Sampling(), Sampling(fps=3.0), Sampling(num_frames=4), Sampling(times_s=(0.0,))):
        found = take(data, sampling)
        assert numbers(found) == [5] and found.times_s == (0.0,) and found.complete


@pytest.mark.parametrize("frames", range(2, 12))
def test_short_clips_give_what_they_have(frames: int):
    assert numbers(take(clip("h264_b", frames), Sampling(num_frames=100))) == list(range(frames))


# --- what the pictures look like


CORNERS = ((220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30))


def corners(width: int = 96, height: int = 64) -> np.ndarray:
    """Red, green, blue and yellow quarters: no turn or mirror image equals another."""
    picture = np.zeros((height, width, 3), np.uint8)
    for k, colour in enumerate(CORNERS):
        rows = slice(0, height // 2) if k < 2 else slice(height // 2, height)
        columns = slice(0, width // 2) if k % 2 == 0 else slice(width // 2, width)
        picture[rows, columns] = colour
    return picture


def quarters(rgb: np.ndarray) -> list[int]:
    """Which of CORNERS is nearest in the middle of each quarter."""
    h, w = rgb.shape[:2]
    spots = [rgb[y, x].astype(int) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]
    return [int(np.argmin([np.abs(spot - c).sum() for c in CORNERS])) for spot in spots]


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, -1), (0, 0)])
def test_a_turned_clip_is_upright(container: str, degrees: int, turns: int):
    data = encoded(container, "libx264", [corners()] * 3, turn={"degrees": degrees})
    want = np.rot90(corners(), turns)  # counter-clockwise, as the angle of a display matrix counts
    found = take(data)
    assert found.frames.shape[1:3] == want.shape[:2]
    assert quarters(found.frames[1]) == quarters(want)
    with open_source(data, LIMITS) as source:
        info = probe_video(source, LIMITS)
    assert (info.height, info.width) == want.shape[:2]


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirror", ["hflip", "vflip"])
def test_mirrored_and_turned(degrees: int, mirror: str):
    data = encoded("mp4", "libx264", [corners()], turn={"degrees": degrees, mirror: True})
    place = data.index(b"tkhd") + 4 + 40
    a, b, _, c, d = (
        int.from_bytes(data[place + 4 * k : place + 4 * k + 4], "big", signed=True) >> 16 for k in range(5)
    )
    want = np.zeros((64, 96, 3) if b == 0 else (96, 64, 3), np.uint8)
    for y in range(64):  # the slow twin: each stored pixel is sent where the matrix says
        for x in range(96):
            want[(b * x + d * y) % want.shape[0], (a * x + c * y) % want.shape[1]] = corners()[y, x]
    found = take(data).frames[0]
    assert found.shape == want.shape and quarters(found) == quarters(want)


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(4, 3), (128, 64)), (Fraction(1, 2), (96, 128)), (Fraction(1), (96, 64))]
)
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_pixels_are_made_square(aspect: Fraction, size: tuple[int, int], container: str):
    found = take(encoded(container, "libx264", [corners()] * 2, aspect=aspect))
    assert (found.width, found.height) == size
    assert quarters(found.frames[0]) == [0, 1, 2, 3]
    assert any("made square" in note for note in found.notes) == (aspect != 1)


def test_square_pixels_come_before_the_turn():
    data = encoded("mp4", "libx264", [corners()], aspect=Fraction(4, 3), turn={"degrees": 90})
    found = take(data)
    assert (found.width, found.height) == (64, 128)


@pytest.mark.parametrize(("width", "height"), [(63, 47), (64, 47), (63, 48), (17, 9), (9, 17)])
def test_odd_sizes_are_exact(width: int, height: int):
    picture = np.zeros((height, width, 3), np.uint8)
    picture[-1], picture[:, -1] = (200, 60, 60), (60, 60, 200)
    data = encoded("matroska", "ffv1", [picture], pix_fmt="yuv444p")
    found = take(data).frames[0]
    assert found.shape == picture.shape
    assert np.abs(found.astype(int) - picture).max() <= 3


MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}


def exact_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray, matrix: int, full: bool, bits: int) -> np.ndarray:
    """The textbook conversion, in floating point."""
    red, blue = MATRICES[matrix]
    scale, top = 2 ** (bits - 8), 2**bits - 1
    luma = y / top if full else (y - 16 * scale) / (219 * scale)
    cb, cr = ((c - 128 * scale) / (top if full else 224 * scale) for c in (u, v))
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], -1) * 255, 0, 255)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv422p10le", 10)])
def test_the_stated_matrix_and_range_are_used(pix_fmt: str, bits: int, matrix: int, full: bool):
    rng, scale = np.random.default_rng(matrix), 2 ** (bits - 8)
    flat = [np.repeat(np.repeat(rng.integers(70, 170, (3, 4)) * scale, 16, 0), 16, 1) for _ in range(3)]
    frame = av.VideoFrame(64, 48, pix_fmt)
    for plane, values in zip(frame.planes, flat, strict=True):
        small = values[:: 48 // plane.height, :: 64 // plane.width].astype(np.uint8 if bits == 8 else "<u2")
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : small.shape[1] * small.itemsize] = small.view(np.uint8)
        plane.update(rows.tobytes())
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        frame.colorspace, frame.color_range, frame.pts, frame.time_base = matrix, 2 if full else 1, 0, Fraction(1, 10)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    middle = np.zeros((48, 64), bool)
    for top in range(0, 48, 16):
        for left in range(0, 64, 16):
            middle[top + 4 : top + 12, left + 4 : left + 12] = True
    want = exact_rgb(*(c.astype(float) for c in flat), matrix, full, bits)
    off = np.abs(take(buffer.getvalue()).frames[0] - want)[middle]
    assert off.max() <= (3 if bits == 8 else 4) and off.mean() < 2


def test_colours_stored_as_rgb_are_exact():
    picture = np.random.default_rng(3).integers(0, 256, (30, 40, 3), np.uint8)
    data = encoded("matroska", "libx264rgb", [picture], pix_fmt="rgb24", options={"qp": "0"})
    assert np.array_equal(take(data).frames[0], picture)


def test_interlaced_and_high_dynamic_range_are_said():
    flags = {"g": "5", "bf": "0", "flags": "+ildct+ilme", "x264-params": "tff=1"}
    notes = take(encoded("mp4", "libx264", [numbered(n) for n in range(6)], options=flags)).notes
    assert any("interlaced" in note for note in notes)
    data = encoded("matroska", "libx264", [numbered(0)], colour={"color_trc": 16, "color_primaries": 9})
    assert any("high dynamic range (PQ)" in note for note in take(data).notes)


# --- which stream


def with_streams(kinds: list[str], container: str = "matroska") -> bytes:
    """A file with streams in this order: "video 64", "video 128" (by width), "sound", "text"."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        made = []
        for kind in kinds:
            if kind.startswith("video"):
                stream = out.add_stream("libx264", rate=10)
                stream.width, stream.height, stream.pix_fmt = int(kind.split()[1]), 48, "yuv420p"
            elif kind == "sound":
                stream = out.add_stream("pcm_s16le", rate=8000)
            else:
                stream = out.add_stream("srt")
            made.append((kind, stream))
        for kind, stream in made:
            if kind.startswith("video"):
                for n in range(5):
                    frame = av.VideoFrame.from_ndarray(numbered(n, stream.width), format="rgb24")
                    frame.pts, frame.time_base = n, Fraction(1, 10)
                    out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
            elif kind == "sound":
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
                sound.sample_rate, sound.pts = 8000, 0
                out.mux(stream.encode(sound))
                out.mux(stream.encode(None))
    return buffer.getvalue()


def test_sound_alone_is_no_video():
    for call in (take, plan):
        with pytest.raises(NoVideo) as caught:
            call(with_streams(["sound"]))
        assert "audio" in caught.value.message


def test_the_video_is_found_behind_other_streams():
    assert numbers(take(with_streams(["sound", "video 64"]))) == list(range(5))


def test_of_two_videos_the_larger_is_read_and_said():
    found = take(with_streams(["video 64", "video 128"]))
    assert found.width == 128 and numbers(found) == list(range(5))
    assert any("2 video streams" in note for note in found.notes)


def test_a_picture_attached_to_sound_is_no_video():
    cover = io.BytesIO()
    with av.open(cover, "w", format="image2pipe") as out:
        stream = out.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1), format="rgb24")))
        out.mux(stream.encode(None))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=8000)
        picture = out.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = picture, 0, 0, Fraction(1)
        out.mux(packet)
    with pytest.raises(NoVideo):
        take(buffer.getvalue())


def test_a_codec_that_is_not_read_is_named():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("snow", rate=10, options={"strict": "-2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1), format="rgb24")))
        out.mux(stream.encode(None))
    with pytest.raises(UnsupportedFormat) as caught:
        take(buffer.getvalue())
    assert "snow" in caught.value.message


# --- damage


def test_a_cut_clip_says_what_is_missing():
    data = clip("h264_mkv")
    cut = data[: len(data) * 7 // 10]
    found = take(cut, Sampling(num_frames=12))
    assert not found.complete and found.frames_expected == 12 and 0 < len(found) < 12
    assert found.duration_s == pytest.approx(2.4, abs=0.01)
    assert any("missing" in note for note in found.notes)
    early = take(cut, Sampling(times_s=(0.0, 0.2)))
    assert early.complete and numbers(early) == [0, 5] and any("missing" in note for note in early.notes)
    with pytest.raises(DecodeError):
        take(cut, Sampling(times_s=(2.3,)))


@pytest.mark.parametrize("kind", ["h264_p", "mpeg4", "hevc_closed"])
def test_frames_after_a_damaged_one_are_refused_until_the_next_entry(kind: str):
    data = bytearray(clip(kind))
    index = plan(bytes(data)).index
    hurt = next(n for n in range(22, 30) if not index.entry[n])
    place, size = index.position[hurt], index.size[hurt]
    data[place + 5 : place + size] = bytes(size - 5)
    found = take(bytes(data))
    following = next(n for n in range(hurt, 60) if index.entry[n])
    told = numbers(found)
    assert not found.complete and found.frames_expected == 60
    assert set(range(20)) <= set(told) and set(range(following + 2, 60)) <= set(told)
    assert hurt not in [index.order[n] for n in told]
    reference = plain(clip(kind))
    assert all(np.array_equal(frame, reference[n]) for n, frame in zip(told, found.frames, strict=True))


def test_a_change_of_size_is_an_error_that_says_both():
    def jpeg(width: int) -> bytes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="image2pipe") as out:
            stream = out.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuvj420p"
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1, width), format="rgb24")))
            out.mux(stream.encode(None))
        return buffer.getvalue()

    sizes = [jpeg(64), jpeg(64), jpeg(96)]

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for n, content in enumerate(sizes):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, n * 100, n * 100, Fraction(1, 1000)
            packet.is_keyframe = True
            out.mux(packet)
    with pytest.raises(DecodeError) as caught:
        take(buffer.getvalue())
    assert caught.value.expected == (64, 48) and caught.value.got == (96, 48)
    assert len(take(buffer.getvalue(), Sampling(times_s=(0.0, 0.1)))) == 2


# --- ceilings


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_pixels=1000),
        Limits(max_side=63),
        Limits(max_seconds=2.0),
        Limits(max_packets=59),
        Limits(max_frames=30),
        Limits(max_clip_pixels=59 * 64 * 48),
        Limits(deadline_s=1e-9),
        Limits(max_bytes=1000),
    ],
    ids=["pixels", "side", "seconds", "packets", "frames", "clip pixels", "deadline", "bytes"],
)
@pytest.mark.parametrize("kind", ["h264_b", "h264_mkv", "mpeg4_avi"])
def test_ceilings_hold(kind: str, limits: Limits):
    sampling = Sampling(times_s=tuple(n / 30 for n in range(60)))
    with pytest.raises(LimitError):
        take(clip(kind), sampling, limits)


def test_a_header_that_declares_ten_hours_is_refused():
    data = clip("h264_mkv")
    place = data.index(b"\x44\x89") + 3  # Duration, in milliseconds
    lie = data[:place] + np.array(36_000_000.0, ">f8").tobytes() + data[place + 8 :]
    for door in (lambda source: probe_video(source, LIMITS), lambda source: read_video(source, LIMITS, Sampling())):
        with open_source(lie, LIMITS) as source, pytest.raises(LimitError, match="max_seconds"):
            door(source)


def test_a_sample_count_that_lies_is_refused_before_ffmpeg_sees_it():
    data = clip("h264_b")
    place = data.index(b"stsz") + 8
    lie = data[:place] + (64).to_bytes(4, "big") + (2**31).to_bytes(4, "big") + data[place + 8 :]
    with pytest.raises(LimitError):
        plan(lie)


def test_a_time_after_the_end_is_an_error():
    with pytest.raises(InputError):
        take(clip("h264_b"), Sampling(times_s=(3.0,)))


# --- the interface


@pytest.mark.parametrize("kind", ["h264_b", "hevc", "h264_mkv", "vp9", "mpeg4_avi"])
def test_probe_reads_the_headers(kind: str):
    with open_source(clip(kind), LIMITS) as source:
        info = probe_video(source, LIMITS)
    assert (info.width, info.height) == (64, 48)
    assert info.duration_s == pytest.approx(2.4, abs=0.01) and info.fps == pytest.approx(25)
    assert info.codec in ("h264", "hevc", "vp9", "mpeg4") and info.frames == 60


def test_frames_stream_to_the_caller_once_each():
    data, seen, threads = clip("h264_p"), {}, set()

    def keep(slot: int, rgb: np.ndarray) -> None:
        assert slot not in seen and rgb.shape == (48, 64, 3) and rgb.dtype == np.uint8
        seen[slot] = number_of(rgb)
        threads.add(threading.get_ident())

    with open_source(data, LIMITS) as source:
        made = plan_video(source, LIMITS, Sampling(num_frames=10))
        result = decode_video(source, made, LIMITS, workers=2, on_frame=keep)
    assert result.complete and result.times_s == made.times_s and result.slots == tuple(range(10))
    assert [seen[k] for k in range(10)] == [round(t * 25) for t in made.times_s]


@pytest.mark.parametrize("workers", [1, 3])
def test_what_the_caller_raises_comes_through(workers: int):
    class Mine(ValueError):
        pass

    def fail(slot: int, rgb: np.ndarray) -> None:
        raise Mine("mine")

    with open_source(clip("h264_p"), LIMITS) as source:
        made = plan_video(source, LIMITS, Sampling(num_frames=10))
        with pytest.raises(Mine):
            decode_video(source, made, LIMITS, workers=workers, on_frame=fail)


class Slow(io.RawIOBase):
    """A file object of somebody else's: no descriptor, and every call is checked to be alone."""

    def __init__(self, data: bytes, breaks_at: int | None = None) -> None:
        self.inner, self.busy, self.breaks_at = io.BytesIO(data), threading.Lock(), breaks_at

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.inner.seek(offset, whence)

    def tell(self) -> int:
        return self.inner.tell()

    def read(self, size: int = -1) -> bytes:
        assert self.busy.acquire(blocking=False), "two reads at once"
        try:
            if self.breaks_at is not None and self.inner.tell() + size > self.breaks_at:
                raise OSError("the disk is gone at 0xdeadbeef")
            return self.inner.read(size)
        finally:
            self.busy.release()


def test_any_file_object_serves_all_workers(tmp_path):
    one = take(clip("h264_p"), Sampling(num_frames=7))
    path = tmp_path / "clip.bin"
    path.write_bytes(clip("h264_p"))
    for given in (Slow(clip("h264_p")), path, str(path), path.open("rb"), bytearray(clip("h264_p"))):
        with open_source(given, LIMITS) as source:
            other = read_video(source, LIMITS, Sampling(num_frames=7), workers=3)
            again = read_video(source, LIMITS, Sampling(num_frames=7), workers=1)
        assert np.array_equal(other.frames, one.frames) and np.array_equal(again.frames, one.frames)
        if isinstance(given, io.BufferedReader):
            given.close()


@pytest.mark.parametrize("breaks_at", [500, 2000, 3000])
def test_a_file_object_that_fails_is_an_error_of_ours(breaks_at: int):
    data = clip("h264_fast")
    with open_source(Slow(data, breaks_at), LIMITS) as source, pytest.raises(DecodeError) as caught:
        read_video(source, LIMITS, ALL)
    assert "0x" not in str(caught.value)


def test_pictures_are_not_videos():
    png = b"\x89PNG\r\n\x1a\n" + bytes(60)
    with open_source(png, LIMITS) as source, pytest.raises(UnsupportedFormat):
        plan_video(source, LIMITS, Sampling())
