"""Signals of clips whose every motion is known: moves, errors, cuts, bits, times; damage, turns, the child process."""

import io
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from tests.reading.codec.codec_clips import SIDE, H, W, glide, gliding, made, scenes, still, texture, three_scenes
from tests.reading.video.video_clips import KINDS, clip, encoded

from tubelet.errors import DecodeError, InputError, LimitError, NoVideo, UnsupportedFormat, WorkerDied
from tubelet.reading.codec import decode as codec_decode
from tubelet.reading.codec.decode import check_words, codec_signals, isolated_signals
from tubelet.reading.codec.signals import CodecSignals
from tubelet.reading.codec.watch import signal_for
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.read import read
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source

ALL = 1000  # more frames than any clip here has: each frame is taken


def signals(data: bytes, **options: object) -> CodecSignals:
    if not {"fps", "num_frames", "times_s"} & set(options):
        options["num_frames"] = ALL
    return codec_signals(data, **{"isolate": "never", **options})


def square(number: int, right: float, down: float = 0.0, margin: int = 12) -> np.ndarray:
    """Which cells lie well inside of the square in frame `number` of `glide`, and by -1 which well outside."""
    x, y = np.meshgrid(np.arange(W // 8) * 8 + 4, np.arange(H // 8) * 8 + 4)
    off = np.maximum(np.abs(x - 16 - right * number - SIDE / 2), np.abs(y - 16 - down * number - SIDE / 2))
    return np.where(off < SIDE / 2 - margin, 1, np.where(off > SIDE / 2 + margin, -1, 0))


# ---- motion and error, against the truth


@pytest.mark.parametrize("kind", ["h264_p", "h264_b", "h264_pyramid", "mpeg4", "mpeg4_b", "mpeg2", "vp9", "hevc"])
@pytest.mark.parametrize(("right", "down"), [(2.0, 0.0), (1.5, -0.5)])
def test_motion_is_what_moved_since_the_frame_before(kind: str, right: float, down: float):
    """Whatever picture a vector refers to, in both lists, and below a pixel."""
    found = signals(glide(kind, right, down))
    assert found.signal == ("blocks" if kind in ("vp9", "hevc") else "vectors")
    for n in range(2, 13):
        inside = square(n, right, down)
        assert np.median(found.motion_px[n][inside == 1]) == pytest.approx(np.hypot(right, down), abs=0.1), n
        assert found.motion_px[n][inside == -1].mean() < 0.1
        assert found.error_levels[n][inside == -1].mean() < 0.1


def test_an_encoder_of_av1_is_searched_too():
    found = signals(glide("av1"))
    assert (found.signal, found.codec) == ("blocks", "libdav1d")
    assert np.median(found.motion_px[5][square(5, 2.0) == 1]) == 2.0


@pytest.mark.parametrize("kind", ["h264_p", "h264_b", "vp9"])
def test_what_moving_explains_is_no_error(kind: str):
    """The square's inside is explained by its motion; what it uncovers at its left edge is not."""
    found, plain = signals(glide(kind)), signals(glide(kind), signal="difference")
    inside = square(6, 2.0) == 1
    assert found.error_levels[6][inside].mean() < 0.5 < 5 < plain.error_levels[6][inside].mean()
    edge = found.error_levels[6][2:8, 3]  # the left edge is at x = 28 in frame 6
    assert edge.min() > 1 and edge.mean() > 5
    assert plain.motion_px.max() == 0 and plain.signal == "difference"


def test_a_still_clip_has_no_energy():
    for kind in ("h264_b", "mpeg2", "vp9", "hevc"):
        found = signals(still(kind))
        assert found.error_levels.max() == 0 and found.motion_px.max() == 0 and not any(found.cuts), kind


def test_the_motion_of_the_camera_is_no_motion():
    wide = texture(W + 64, H, 4)
    pan = [np.ascontiguousarray(wide[:, 3 * n : 3 * n + W]) for n in range(16)]
    found = signals(made("h264_p", pan))
    assert np.median(found.motion_px[3:]) == 0 and found.motion_px[3:, 2:-2, 2:-2].mean() < 0.1
    assert not any(found.cuts)
    assert (
        found.error_levels[3:, 2:-2, 2:-2].mean()
        < 1
        < signals(made("h264_p", pan), signal="difference").error_levels[3:].mean()
    )


def test_uneven_times_are_honoured():
    """Steady motion seen at uneven times: the square moves by 40 pixels a second, so by time and not by frame."""
    stamps = [0, 2, 3, 5, 6, 10, 11, 13, 14, 18, 19, 20]  # of 1/20 s
    pictures = [gliding(1, 0, at=(16 + 2 * s, 16))[0] for s in stamps]
    options = {"crf": "12", "x264-params": "keyint=60:bframes=2:b-adapt=0:b-pyramid=none:ref=1:scenecut=0"}
    data = encoded("mp4", "libx264", pictures, options=options, stamps=stamps, tick=Fraction(1, 20))
    found = signals(data)
    assert found.times_s == pytest.approx([s / 20 for s in stamps])
    for n in range(2, len(stamps)):
        inside = square(stamps[n], 2.0) == 1
        assert np.median(found.motion_px[n][inside]) == pytest.approx(2.0 * (stamps[n] - stamps[n - 1]), abs=0.1), n


def test_a_large_picture_is_compared_at_half_size_with_motion_in_its_own_pixels():
    wide = np.asarray(texture(W, H, 5).repeat(9, 0).repeat(9, 1)[:864, :1440])
    pictures = []
    for n in range(6):
        picture = wide.copy()
        picture[200:500, 100 + 8 * n : 400 + 8 * n] = 255 - wide[200:500, 100:400]
        pictures.append(picture)
    found = signals(made("h264_p", pictures))
    assert found.error_levels.shape == (6, 54, 90) and found.columns_px[1] == 16.0 and found.columns_px[-1] == 1440.0
    assert np.median(found.motion_px[4][16:28, 12:22]) == pytest.approx(8.0, abs=0.2)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p", "gbrp"])
def test_other_ways_to_store_pixels(pix_fmt: str):
    codec = "libx264rgb" if pix_fmt == "gbrp" else "libx264"
    options = {"g": "60", "bf": "0", "refs": "1", "sc_threshold": "0", "crf": "10"}
    data = encoded("mp4", codec, gliding(8, 2.0), options=options, pix_fmt="rgb24" if pix_fmt == "gbrp" else pix_fmt)
    found = signals(data)
    assert np.median(found.motion_px[5][square(5, 2.0) == 1]) == pytest.approx(2.0, abs=0.1)
    assert found.error_levels[5][square(5, 2.0) == 1].mean() < 1.0


# ---- cuts, key frames, bits


@pytest.mark.parametrize("signal", ["auto", "blocks", "difference"])
@pytest.mark.parametrize("kind", ["h264_b", "mpeg2", "vp9"])
def test_cuts_are_found_where_there_is_no_key_frame(kind: str, signal: str):
    found = signals(three_scenes(kind), signal=signal)
    assert [n for n, cut in enumerate(found.cuts) if cut] == [13, 29]
    assert [n for n, key in enumerate(found.keys) if key] == [0]


def test_a_cut_belongs_to_the_next_frame_taken():
    found = signals(three_scenes(), fps=2.5)  # every tenth of 25
    assert found.cuts == (False, False, True, True) and found.frames == (1, 10, 10, 10)
    at_key = signals(made("h264_b", scenes((8, 8))), times_s=(0.0, 0.2, 0.6))
    assert at_key.cuts == (False, False, True)


def test_a_flash_is_two_cuts_and_flicker_none():
    flash = [texture(W, H, 3)] * 12
    flash[6] = np.full_like(flash[6], 250)
    assert [n for n, cut in enumerate(signals(made("h264_p", flash)).cuts) if cut] == [6, 7]
    flicker = [np.clip(texture(W, H, 3).astype(int) + 12 * (n % 2), 0, 255).astype(np.uint8) for n in range(14)]
    assert not any(signals(made("h264_p", flicker)).cuts[4:])


def test_bytes_are_those_of_the_packets():
    data = three_scenes()
    with av.open(io.BytesIO(data)) as container:
        sizes = [p.size for p in container.demux(video=0)]
    found = signals(data)
    assert sum(found.packet_bytes) == sum(sizes) and sorted(found.packet_bytes) == sorted(s for s in sizes if s)
    assert set(found.pictures) == {"I", "P", "B"} and found.pictures[0] == "I"
    assert found.packet_bytes[0] > 4 * np.median(found.packet_bytes)


# ---- what is taken


@pytest.mark.parametrize("signal", ["auto", "blocks"])
def test_a_frame_has_the_sum_since_the_one_before(signal: str):
    data = three_scenes()
    each, some = signals(data, signal=signal), signals(data, fps=5.0, signal=signal)
    assert some.times_s == read(data, fps=5.0, isolate="never")[0].times_s
    ranks = [each.times_s.index(t) for t in some.times_s]
    assert ranks == [0, 5, 10, 15, 20, 25, 30, 35]
    for name in ("error_levels", "motion_px"):
        before = -1
        for k, rank in enumerate(ranks):
            want = getattr(each, name)[before + 1 : rank + 1].sum(0)
            np.testing.assert_allclose(getattr(some, name)[k], want, rtol=1e-5, atol=1e-4)
            before = rank


def test_a_frame_taken_twice_brings_nothing_the_second_time():
    found = signals(three_scenes(), times_s=(0.5, 0.5, 0.6))
    assert found.frames == (13, 0, 3) and found.packet_bytes[1] == 0 and found.error_levels[1].max() == 0


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_fields_are_upright(degrees: int):
    pictures = gliding(8, 2.0)
    options = {"g": "60", "bf": "0", "refs": "1", "sc_threshold": "0", "crf": "12"}
    plain = signals(encoded("mp4", "libx264", pictures, options=options))
    data = encoded("mp4", "libx264", pictures, options=options, turn={"degrees": degrees})
    found, frame = signals(data), read(data, isolate="never")[0].frames[0]
    turned = [np.rot90(pictures[0], k).astype(int) for k in range(4)]
    turns = next(k for k, t in enumerate(turned) if t.shape == frame.shape and np.abs(t - frame).mean() < 8)
    for name in ("error_levels", "motion_px"):
        np.testing.assert_array_equal(getattr(found, name), np.rot90(getattr(plain, name), turns, axes=(1, 2)))
    assert (found.rows_px[-1], found.columns_px[-1]) == frame.shape[:2]


def test_cells_of_odd_sizes_begin_where_the_turn_puts_them():
    pictures = [np.ascontiguousarray(p[:92, :150]) for p in gliding(3, 2.0)]
    found = signals(encoded("mp4", "libx264", pictures, turn={"degrees": 90}))
    assert (found.rows_px[0], found.rows_px[-1]) == (0.0, 150.0) and len(found.rows_px) == 20
    assert (found.columns_px[0], found.columns_px[-1]) == (0.0, 92.0) and len(found.columns_px) == 13
    assert {found.rows_px[1], 150 - found.rows_px[-2]} == {6.0, 8.0}


def test_pixels_that_are_not_square():
    found = signals(encoded("mp4", "libx264", gliding(3, 2.0), aspect=Fraction(2)))
    assert (found.columns_px[-1], found.rows_px[-1]) == (2 * W, H)
    still_square = signals(encoded("mp4", "libx264", gliding(3, 2.0)))
    inside = square(2, 2.0) == 1
    assert np.median(found.motion_px[2][inside]) == pytest.approx(2 * np.median(still_square.motion_px[2][inside]))


def test_memory_does_not_grow_with_the_clip():
    """Frames are forgotten; what stays of a longer clip is its list of packets."""

    def peak(scene: int) -> int:
        data = made("h264_b", scenes((scene, scene)))
        tracemalloc.start()
        signals(data, num_frames=4)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(5)  # what is imported on first use
    short, long = peak(15), peak(60)
    assert long < short + 90 * 1000 and short < 20 * W * H


# ---- wrong and damaged input


def test_words_and_numbers_that_make_no_sense():
    with pytest.raises(InputError, match="signal is auto"):
        check_words("motion", "never")
    with pytest.raises(InputError, match="isolate is"):
        check_words("auto", "perhaps")
    with pytest.raises(InputError, match="exports no motion vectors") as caught:
        signals(still("vp9"), signal="vectors")
    assert caught.value.got == "vp9" and caught.value.source == "<bytes>"
    with pytest.raises(InputError, match="one of fps"):
        signals(still(), fps=1.0, num_frames=2)
    with pytest.raises(LimitError):
        signals(still(), limits=Limits(max_pixels=1000))


def test_what_is_no_video(tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(UnsupportedFormat, match="not a video"):
        codec_signals(tmp_path / "a.png")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with pytest.raises(NoVideo):
        signals(buffer.getvalue())


@pytest.mark.parametrize("signal", ["auto", "difference"])
@pytest.mark.parametrize("isolate", ["never", "always"])
def test_a_cut_file_gives_the_frames_that_are_whole(signal: str, isolate: str):
    data = made("h264_b", scenes((13, 16, 11)), muxing={"movflags": "faststart"})
    cut = data[: len(data) * 2 // 3]
    found = codec_signals(cut, num_frames=10, signal=signal, isolate=isolate)
    want = read(cut, num_frames=10, isolate=isolate)[0]
    assert not found.complete and not want.complete and 2 <= len(found) < 10
    assert found.times_s == want.times_s and found.notes == want.notes
    with pytest.raises(DecodeError):
        signals(data[: len(data) // 20])


@pytest.mark.parametrize("signal", ["auto", "difference"])
@pytest.mark.parametrize("seed", range(4))
def test_damage_in_the_middle_is_left_out_and_said(signal: str, seed: int):
    """As in `read`: the same frames, or the same kind of error."""
    data = bytearray(made("h264_b", scenes((13, 16, 11))))
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(data) // 4, len(data) * 3 // 4, 6):
        data[place] ^= 1 << int(rng.integers(8))
    try:
        want = read(bytes(data), num_frames=20, isolate="never")[0]
    except InputError as error:
        with pytest.raises(type(error)):
            signals(bytes(data), num_frames=20, signal=signal)
        return
    found = signals(bytes(data), num_frames=20, signal=signal)
    assert found.times_s == want.times_s and found.complete == want.complete
    assert np.isfinite(found.error_levels).all()


# ---- in the child process


def same(a: CodecSignals, b: CodecSignals) -> bool:
    plain = all(
        getattr(a, n) == getattr(b, n)
        for n in ("signal", "codec", "times_s", "pictures", "frames", "packet_bytes", "keys", "cuts", "notes", "source")
    )
    edges = (a.rows_px, a.columns_px) == (b.rows_px, b.columns_px)
    return plain and edges and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("error_levels", "motion_px"))


@pytest.mark.parametrize("kind", ["h264_b", "mpeg4_b", "vp9"])
def test_the_child_sees_the_same(kind: str):
    data = three_scenes(kind)
    assert same(signals(data, fps=5.0), signals(data, fps=5.0, isolate="always"))
    assert same(signals(data, fps=5.0), codec_signals(data, fps=5.0))  # bytes go there by themselves


def test_frames_come_along_from_the_child():
    data = three_scenes()
    with open_source(data, Limits(), "it") as src:
        clip, found = isolated_signals(src, ReadJob(sampling=Sampling(fps=5.0)), "auto")
    want = read(data, fps=5.0, isolate="never")[0]
    assert np.array_equal(clip.frames, want.frames) and clip.times_s == want.times_s == found.times_s


def test_a_child_that_sends_nonsense_is_ended(monkeypatch: pytest.MonkeyPatch):
    def lie(*_: object) -> None:
        raise ValueError("no fields")

    monkeypatch.setattr(codec_decode, "signals_from", lie)
    with pytest.raises(WorkerDied, match="makes no sense"):
        codec_signals(still(), isolate="always")
    monkeypatch.undo()
    assert codec_signals(still(), isolate="always", fps=2.0).signal == "vectors"


def test_errors_of_the_child_are_ours():
    with pytest.raises(InputError, match="exports no motion vectors"):
        codec_signals(still("vp9"), signal="vectors", isolate="always")


def test_a_repr_says_what_it_is():
    assert repr(signals(still(), fps=5.0)) == "CodecSignals('<bytes>', vectors of h264, 5 frames of 12 x 20 cells)"


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_file_gives_the_frames_that_reading_gives(kind: str):
    data = clip(kind, 24)
    want = read(data, num_frames=ALL, isolate="never")[0]
    for signal in ("auto", "difference"):
        found = signals(data, signal=signal)
        assert found.times_s == want.times_s and found.complete and sum(found.frames) == 24
        assert found.signal == ("difference" if signal == "difference" else signal_for(found.codec, "auto"))
        assert np.isfinite(found.error_levels).all() and found.error_levels[1:].mean() > 1  # every frame is another one
