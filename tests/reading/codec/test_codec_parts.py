"""The parts codec signals are made of, each against its slow and obvious twin."""

import gc
import io

import av
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from tests.reading.codec.codec_clips import gliding, made, scenes, texture

from tubelet.errors import DecodeError
from tubelet.reading.codec import decode as codec
from tubelet.reading.codec.cuts import CutFinder
from tubelet.reading.codec.prediction import CELL, Luma, _refined, cell_means, motion_error, search, still_error
from tubelet.reading.codec.vectors import Reach, exported, moved, on_cells
from tubelet.reading.codec.watch import References, edges_px, shrink_of
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source
from tubelet.reading.video.frames import Upright
from tubelet.reading.video.packets import PacketIndex
from tubelet.reading.video.video import plan_video

VECTOR = np.dtype(
    [
        *(("source", "<i4"), ("w", "u1"), ("h", "u1"), ("src_x", "<i2"), ("src_y", "<i2"), ("dst_x", "<i2")),
        *(("dst_y", "<i2"), ("flags", "<u8"), ("motion_x", "<i4"), ("motion_y", "<i4"), ("motion_scale", "<u2")),
    ],
    align=True,
)


def picture(height: int, width: int, seed: int) -> Luma:
    """Luma of soft spots with some grain, so that moves can be told apart."""
    rng = np.random.default_rng(seed)
    luma = Luma(height, width)
    luma.fill(
        np.clip(texture(width, height, seed)[..., 0] + rng.integers(-4, 5, (height, width)), 0, 255).astype(np.uint8)
    )
    return luma


def shifted(luma: Luma, right: int, down: int) -> Luma:
    """The same content moved, with repeated edges."""
    y, x = np.indices((luma.height, luma.width))
    inside = luma.inside[: luma.height, : luma.width]
    out = Luma(luma.height, luma.width)
    out.fill(inside[np.clip(y - down, 0, luma.height - 1), np.clip(x - right, 0, luma.width - 1)])
    return out


# ---- vectors onto cells


def random_vectors(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = np.zeros(count, VECTOR)
    for name in ("w", "h"):
        vectors[name] = rng.choice((4, 8, 16), count)
    vectors["dst_x"], vectors["dst_y"] = rng.integers(-8, 90, count), rng.integers(-8, 60, count)
    vectors["source"] = rng.choice((-1, 1), count)
    vectors["motion_x"], vectors["motion_y"] = rng.integers(-40, 40, count), rng.integers(-40, 40, count)
    vectors["motion_scale"] = rng.choice((2, 4), count)
    return vectors


@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("seed", range(3))
def test_vectors_on_cells_count_by_the_pixels_they_cover(side: int, seed: int):
    vectors, rows, columns = random_vectors(60, seed), 7, 11
    moves = np.random.default_rng(seed).normal(size=(60, 2)).astype(np.float32)
    sums, pixels = np.zeros((rows, columns, 2)), np.zeros((rows, columns))
    for v, move in zip(vectors, moves, strict=True):  # pixel by pixel
        top, left = int(v["dst_y"]) - int(v["h"]) // 2, int(v["dst_x"]) - int(v["w"]) // 2
        for y in range(top, top + int(v["h"])):
            for x in range(left, left + int(v["w"])):
                if 0 <= y < rows * side and 0 <= x < columns * side:
                    sums[y // side, x // side] += move
                    pixels[y // side, x // side] += 1
    field, known = on_cells(vectors, moves, rows, columns, side)
    np.testing.assert_allclose(field, sums / np.maximum(pixels, 1)[..., None], atol=1e-5)
    np.testing.assert_allclose(known, pixels / side**2, atol=1e-6)


def test_a_move_is_a_share_of_the_vector():
    """Three frames back by (-6, 0) and one frame forward by (2, 0) are both 2 pixels to the right in a frame."""
    vectors = np.zeros(3, VECTOR)
    vectors["source"], vectors["motion_scale"] = (-1, 1, -1), 4
    vectors["motion_x"] = (-24, 8, -24)
    assert moved(vectors, Reach(1.0, 3.0, -1.0)).tolist() == [[2, 0], [2, 0], [2, 0]]
    assert moved(vectors, Reach(2.0, 3.0, -1.0))[:2].tolist() == [[4, 0], [4, 0]]  # a frame before was lost
    assert moved(vectors, Reach(1.0, 0.0, 0.0))[:2].tolist() == [[6, 0], [2, 0]]  # nothing known: one step


def test_no_vectors():
    frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
    assert exported(frame) is None


class Reference:
    """A packet of an H.264 slice that is referred to, or not."""

    def __new__(cls, referred: bool):
        return av.Packet(bytes((0, 0, 0, 2, 0x61 if referred else 0x01, 0)))


def test_references_are_the_nearest_decoded_before():
    """Decoded 0 4 2 1 3, shown 0 1 2 3 4, at uneven times; 1 and 3 are not referred to."""
    index = PacketIndex(order=[0, 3, 2, 4, 1], starts_s=[0.0, 1.0, 3.0, 4.0, 8.0], size=[1] * 5)
    ranks = {packet: rank for rank, packet in enumerate(index.order)}
    for nal, flags in ((4, (1, 1, 1, 0, 0)), (-1, (1, 1, 0, 0, 0))):
        seen = References(index, nal)
        for packet in range(5):
            seen.fed(packet, ranks[packet], Reference(bool(flags[packet])))
        assert seen.reach(2, 2, 1) == Reach(2.0, 3.0, -5.0)  # the middle one: from 0 and from 4
        want = Reach(1.0, 1.0, -2.0) if nal > 0 else Reach(1.0, 1.0, -7.0)
        assert seen.reach(3, 1, 0) == want  # the pyramid's: from 0 and from 2, or in other codecs from 4
        assert seen.reach(1, 4, 3).back_s == 8.0 and seen.reach(1, 4, 3).forward_s == 0.0
    index.starts_s = [0.0] * 5
    assert References(index, -1).reach(1, 4, 3) == Reach(1, 0, 0)  # a clock that stands still: frames count
    index.by_count = True
    assert References(index, -1).reach(1, 4, 3) == Reach(1.0, 1.0, -1.0)


# ---- error


def slow_error(now: Luma, before: Luma, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(staying, the smaller of staying and moving), pixel by pixel, bilinear in exact arithmetic."""
    still, best = np.zeros((now.rows, now.columns)), np.zeros((now.rows, now.columns))
    height, width = before.rows * CELL, before.columns * CELL

    def at(y: int, x: int) -> float:
        return float(before.inside[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])

    for r in range(now.rows):
        for c in range(now.columns):
            plain = moved = 0.0
            dx, dy = (np.rint(m * 8) / 8 for m in moves[r, c])
            for y in range(r * CELL, r * CELL + CELL):
                for x in range(c * CELL, c * CELL + CELL):
                    here = float(now.inside[y, x])
                    plain += abs(here - at(y, x))
                    top, left = int(np.floor(y - dy)), int(np.floor(x - dx))
                    b, a = y - dy - top, x - dx - left
                    value = (1 - b) * ((1 - a) * at(top, left) + a * at(top, left + 1)) + b * (
                        (1 - a) * at(top + 1, left) + a * at(top + 1, left + 1)
                    )
                    moved += abs(here - np.floor(value + 0.5))
            still[r, c] = plain / CELL**2
            moving = still[r, c] > 1 and max(abs(moves[r, c])) >= 1 / 16
            best[r, c] = min(plain, moved if moving else plain) / CELL**2
    return still, best


@pytest.mark.parametrize(("height", "width"), [(24, 32), (21, 35), (5, 3)])
def test_error_of_staying_and_moving(height: int, width: int):
    before, now = picture(height, width, 1), picture(height, width, 2)
    rng = np.random.default_rng(3)
    moves = rng.uniform(-30, 30, (now.rows, now.columns, 2)).astype(np.float32)
    moves[0, 0] = 0
    want_still, want = slow_error(now, before, moves)
    still = still_error(now, before)
    np.testing.assert_allclose(still, want_still, atol=1e-4)
    np.testing.assert_allclose(motion_error(now, before, still, moves), want, atol=1e-4)


def test_means_of_cells():
    values = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
    np.testing.assert_allclose(cell_means(values), values.reshape(3, 8, 5, 8).mean((1, 3)), rtol=1e-6)
    assert cell_means(np.full((8, 8), 255, np.uint8)) == 255


def test_edges_are_repeated_around_a_picture():
    luma = picture(13, 10, 4)
    want = np.pad(luma.inside[:13, :10], ((9, 9 + 3), (9, 9 + 6)), mode="edge")
    np.testing.assert_array_equal(luma.outer, want)
    luma.fill(np.full((13, 10), 7, np.uint8))
    assert (luma.outer == 7).all() and (luma.half_blocks() == 7).all()


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -5), (-7, 4), (12, 9), (1, 1)])
def test_search_finds_a_shift(right: int, down: int):
    before = picture(96, 128, 5)
    now = shifted(before, right, down)
    still = still_error(now, before)
    field = search(now, before, still, np.zeros((12, 16, 2), np.float32))
    inner = field[3:-3, 3:-3].reshape(-1, 2)
    assert (inner == (right, down)).all(axis=1).mean() > 0.95
    assert motion_error(now, before, still, field)[3:-3, 3:-3].mean() < 0.2 * still[3:-3, 3:-3].mean()


def test_search_goes_on_where_the_frame_before_led():
    """A shift beyond the reach of the search is found from a guess near it."""
    before = picture(96, 160, 6)
    now = shifted(before, 26, 0)
    still = still_error(now, before)
    led = search(now, before, still, np.full((12, 20, 2), (23, 2), np.float32))
    assert (led[3:-3, 5:-3] == (26, 0)).all(axis=-1).mean() > 0.9


def test_search_leaves_what_has_not_changed():
    before = picture(48, 64, 7)
    assert not search(before, before, still_error(before, before), np.ones((6, 8, 2), np.float32)).any()


def test_half_pixels_are_those_of_the_general_way():
    """The best of the moves around, each computed by itself."""
    before, now = picture(40, 48, 8), shifted(picture(40, 48, 8), 1, 0)
    now.fill(((now.inside.astype(int) + before.inside) // 2).astype(np.uint8))  # half way
    y, x = (v.reshape(-1) for v in np.indices((3, 4)) + 1)
    start = np.zeros((12, 2), np.int64)
    moves, cost = _refined(now, before, y, x, start)
    still = still_error(now, before)
    for k in range(12):
        field = np.zeros((*still.shape, 2), np.float32)
        field[y[k], x[k]] = moves[k]
        assert motion_error(now, before, still, field)[y[k], x[k]] == pytest.approx(cost[k], abs=1e-5)
    assert (moves == (0.5, 0)).all(axis=1).mean() > 0.9


def test_windows_are_views_that_follow_the_picture():
    luma = picture(16, 16, 9)
    view = luma.blocks
    luma.fill(np.full((16, 16), 3, np.uint8))
    assert np.array_equal(view, sliding_window_view(luma.outer, (9, 9))) and (view == 3).all()


# ---- cuts


def found(unexplained: list[float], contrast: float = 50.0, share: float = 0.9) -> list[int]:
    finder = CutFinder()
    return [n for n, u in enumerate(unexplained) if finder.is_cut(u, lambda: (contrast, share))]


def test_cuts():
    assert found([1.0] * 5 + [30.0] + [1.0] * 5) == [5]
    assert found([1.0] * 5 + [30.0, 1.0, 30.0]) == [5, 7]
    assert found([30.0, 1.0]) == [0] and found([12.0, 1.0]) == []  # what is usual is not known yet
    assert found([8.0] * 5 + [30.0]) == []  # much moves anyhow
    assert found([1.0] * 5 + [5.5]) == [] and found([0.2] * 5 + [2.9], contrast=5) == []  # too little
    assert found([1.0] * 5 + [30.0], share=0.1) == []  # a small part
    assert found([0.5] * 5 + [4.0], contrast=6.0) == [5]  # a dark scene has little contrast
    shaking = [1.0] * 8 + [20.0] * 20
    assert len(found(shaking)) <= 5  # the beginning of it


# ---- sizes


def test_cells_of_a_turned_picture():
    way = Upright(150, 92, 150, 92, transpose=True, flip_columns=True)
    rows, columns = edges_px(way, "vectors")
    assert rows == (*(8.0 * k for k in range(19)), 150.0)
    assert columns == (0.0, *(4.0 + 8 * k for k in range(12)))
    wide = edges_px(Upright(160, 96, 320, 96), "blocks")[1]
    assert wide[:2] == (0.0, 16.0) and wide[-1] == 320.0


@pytest.mark.parametrize(
    ("height", "width", "vectors", "blocks"),
    [(360, 640, 1, 1), (720, 1280, 2, 2), (1080, 1920, 2, 4), (2160, 3840, 4, 8)],
)
def test_large_pictures_are_reduced(height: int, width: int, vectors: int, blocks: int):
    assert shrink_of(height, width, "vectors") == shrink_of(height, width, "difference") == vectors
    assert shrink_of(height, width, "blocks") == blocks


# ---- trying again


def watched(data: bytes, damage: set[int], monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], int, bool]:
    """Slots given at last, attempts, complete; the frames of `damage` (slots) are found to be damaged after all."""
    attempts = []
    whole = codec.decode_plain

    def late(job, stretch):
        slots, notes = whole(job, stretch)
        return slots - damage, notes

    monkeypatch.setattr(codec, "decode_plain", late)

    def begin():
        attempts.append([])
        return lambda slot, _rgb, _seen: attempts[-1].append(slot)

    with open_source(data, Limits()) as src:
        plan = plan_video(src, Limits(), Sampling(num_frames=100))
        result, _ = codec.watch_video(src, plan, Limits(), "auto", begin)
    assert list(result.slots) == attempts[-1]
    return attempts[-1], len(attempts), result.complete


def test_frames_found_damaged_afterwards_are_never_part_of_it(monkeypatch: pytest.MonkeyPatch):
    data = made("h264_b", gliding(8, 2.0))
    assert watched(data, set(), monkeypatch) == ([*range(8)], 1, True)
    monkeypatch.undo()
    assert watched(data, {3, 6}, monkeypatch) == ([0, 1, 2, 4, 5, 7], 2, False)


def test_a_file_that_is_other_each_time_is_not_read(monkeypatch: pytest.MonkeyPatch):
    whole, calls = codec.decode_plain, []

    def worse(job, stretch):
        calls.append(1)
        slots, notes = whole(job, stretch)
        return slots - set(range(len(calls))), notes

    monkeypatch.setattr(codec, "decode_plain", worse)
    with open_source(made("h264_b", gliding(8, 2.0)), Limits()) as src:
        plan = plan_video(src, Limits(), Sampling(num_frames=100))
        with pytest.raises(DecodeError, match="another order each time"):
            codec.watch_video(src, plan, Limits(), "auto", lambda: lambda *_: None)
    assert len(calls) == 3


def test_vectors_of_one_thread_are_the_same_each_time():
    data = made("h264_b", scenes((13, 16)))

    def once() -> list[np.ndarray | None]:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"flags2": "+export_mvs"}
            return [exported(frame) for frame in container.decode(stream)]

    for a, b in zip(once(), once(), strict=True):
        assert (a is None) == (b is None) and (a is None or (a == b).all())


def frames_alive() -> int:
    return sum(type(thing).__name__ == "VideoFrame" for thing in gc.get_objects())


def test_a_frame_whose_vectors_were_read_goes_away_by_itself():
    """Without Python's search for circles: else decoded pictures would pile up."""
    data = made("h264_b", gliding(16, 2.0))
    gc.collect()
    gc.disable()
    before = frames_alive()  # arrays that other tests keep have theirs
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"flags2": "+export_mvs"}
            counts = [0 if (v := exported(frame)) is None else len(v) for frame in container.decode(stream)]
            del v
        alive = frames_alive() - before
    finally:
        gc.enable()
    assert sum(n > 0 for n in counts) == 15 and alive < 4
