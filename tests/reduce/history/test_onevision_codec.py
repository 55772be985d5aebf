"""Upstream's codec rules beyond the recorded case: each against plain loops, and wrong input."""

import numpy as np
import pytest

from tubelet.errors import InputError, ShapeError
from tubelet.pixels.sizes import Pad
from tubelet.reduce.history import onevision_codec as oc

VECTOR = np.dtype(
    [
        *(("source", "<i4"), ("w", "u1"), ("h", "u1"), ("src_x", "<i2"), ("src_y", "<i2"), ("dst_x", "<i2")),
        *(("dst_y", "<i2"), ("flags", "<u8"), ("motion_x", "<i4"), ("motion_y", "<i4"), ("motion_scale", "<u2")),
    ],
    align=True,
)


@pytest.mark.parametrize("seed", range(3))
def test_whole_pixel_vectors(seed: int):
    """The reader's own loops: blocks in the order told, the second list and blocks off the grid left out."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros(200, VECTOR)
    vectors["w"], vectors["h"] = rng.choice((4, 8, 16), 200), rng.choice((4, 8, 16), 200)
    vectors["dst_x"], vectors["dst_y"] = rng.integers(-2, 22, 200) * 4, rng.integers(-2, 16, 200) * 4
    vectors["dst_x"][:20] += 2
    vectors["src_x"] = vectors["dst_x"] + rng.integers(-9, 9, 200)
    vectors["src_y"] = vectors["dst_y"] + rng.integers(-9, 9, 200)
    vectors["source"] = rng.choice((-1, 1), 200)
    want = np.zeros((13, 20, 2), np.int32)
    for v in vectors:
        if v["source"] > 0 or v["dst_x"] % 4 or v["dst_y"] % 4:
            continue
        for dx in range(-(int(v["w"]) // 8), int(v["w"]) // 8):
            for dy in range(-(int(v["h"]) // 8), int(v["h"]) // 8):
                x, y = int(v["dst_x"]) // 4 + dx, int(v["dst_y"]) // 4 + dy
                if 0 <= x < 20 and 0 <= y < 13:
                    want[y, x] = int(v["src_x"]) - int(v["dst_x"]), int(v["src_y"]) - int(v["dst_y"])
    np.testing.assert_array_equal(oc.whole_pixel_vectors(vectors, 54, 83), want)
    assert not oc.whole_pixel_vectors(None, 54, 83).any()


@pytest.mark.parametrize(("height", "width", "size"), [(360, 640, 576), (640, 360, 576), (37, 90, 64), (500, 500, 96)])
def test_letterbox_and_valid_patches(height: int, width: int, size: int):
    pad = oc.letterbox(height, width, size)
    assert max(pad.resize_h, pad.resize_w) == size and (pad.height, pad.width) == (size, size)
    square = oc.squared(np.ones((height, width), np.float32), size)
    content = square > 0.5
    assert content.sum() == pad.resize_h * pad.resize_w and content[pad.top, pad.left]
    valid = oc.valid_patches(pad, 16)
    for h in range(size // 16):
        for w in range(size // 16):
            assert valid[h, w] == content[16 * h : 16 * h + 16, 16 * w : 16 * w + 16].all()


def test_squares_are_bilinear_without_antialiasing():
    """Each target pixel between the four nearest of its own place, as OpenCV's INTER_LINEAR."""
    energy = np.random.default_rng(0).random((9, 12)).astype(np.float32)
    found = oc.squared(energy, 32)
    pad = oc.letterbox(9, 12, 32)
    for y in range(pad.resize_h):
        for x in range(pad.resize_w):
            at = []
            for place, small, large in ((y, 9, pad.resize_h), (x, 12, pad.resize_w)):
                centre = min(max((place + 0.5) * small / large - 0.5, 0), small - 1)
                low = min(int(centre), small - 1)
                at.append((low, min(low + 1, small - 1), centre - low))
            (y0, y1, b), (x0, x1, a) = at
            want = (1 - b) * ((1 - a) * energy[y0, x0] + a * energy[y0, x1])
            want += b * ((1 - a) * energy[y1, x0] + a * energy[y1, x1])
            assert found[pad.top + y, pad.left + x] == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("padding", ["exclude", "zero"])
@pytest.mark.parametrize("first", ["none", "content", "full"])
def test_best_patches(padding: str, first: str):
    rng = np.random.default_rng(1)
    valid = np.zeros((4, 4), bool)
    valid[1:3] = True
    energy = (rng.random((6, 32, 32)) * valid.repeat(8, 0).repeat(8, 1)).astype(np.float32)
    found = oc.best_patches(energy, valid, patch=8, frames=3, padding=padding, first=first).tolist()
    scores = {
        (t, h, w): energy[t, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8].sum() if valid[h, w] else -1.0
        for t in range(6)
        for h in range(4)
        for w in range(4)
    }
    must = [[0, h, w] for h in range(4) for w in range(4) if first == "full" or (first == "content" and valid[h, w])]
    keep = 3 * (8 if padding == "exclude" and first != "full" else 16)
    assert len(found) == keep and found[: len(must)] == must
    rest = [p for p in sorted(scores, key=scores.__getitem__, reverse=True) if first == "none" or p[0] > 0]
    best = [list(p) for p in rest if scores[p] >= 0][: keep - len(must)]
    assert found[len(must) :][: len(best)] == best
    if padding == "exclude" and first != "full":
        assert all(valid[h, w] for _, h, w in found)


def test_a_budget_below_the_first_frame_cuts_it():
    valid = np.ones((2, 2), bool)
    found = oc.best_patches(np.ones((3, 8, 8), np.float32), valid, patch=4, frames=1, first="full")
    assert found.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("keep", [0, 1, 5, 30, 64, 100])
def test_visible_indices(keep: int):
    energy = np.random.default_rng(2).integers(-60, 60, (4, 16, 16)).astype(np.int16)
    sums = [
        np.abs(energy[t, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]).sum()
        for t in range(4)
        for h in range(4)
        for w in range(4)
    ]
    found = oc.visible_indices(energy, 4, keep)
    assert len(found) == min(keep, 64) and (np.diff(found) > 0).all()
    assert sorted(sums[i] for i in found) == sorted(sums, reverse=True)[: len(found)][::-1]


def test_a_static_clip_begins_with_equally_spaced_frames():
    calm = np.zeros((9, 16, 16), np.uint8)
    calm[5, :4, :4] = 3  # one patch with something
    found = oc.visible_indices(calm, 4, 80, static_frames=4)
    assert set(range(16)) | set(range(2 * 16, 3 * 16)) | set(range(5 * 16, 6 * 16)) | set(range(128, 144)) <= set(found)
    few = oc.visible_indices(calm, 4, 10, static_frames=4)
    assert [int((few // 16 == t).sum()) for t in (0, 2, 5, 8)] == [3, 3, 2, 2]
    assert 80 in oc.visible_indices(calm, 4, 1, static=False)


def test_camera_fields_follow_a_turn_and_a_zoom():
    y, x = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 30), indexing="ij")
    turn = np.stack([1 + 0.5 * x - 0.25 * y, -2 + 0.25 * x + 0.5 * y], axis=-1).astype(np.float32)
    for kind in ("similarity", "affine"):
        np.testing.assert_allclose(oc.camera_motion(turn, kind), turn, atol=1e-5)
    shear = np.stack([1 + 0.5 * x, 2 - 0.75 * x + 0.1 * y], axis=-1).astype(np.float32)
    np.testing.assert_allclose(oc.camera_motion(shear, "affine"), shear, atol=1e-5)
    moving = turn.copy()
    moving[:5, :6] += 9.0  # one thing that moves by itself is trimmed away
    np.testing.assert_allclose(oc.camera_motion(moving, "similarity")[10:], turn[10:], atol=0.3)
    few = np.zeros((20, 30, 2), np.float32)
    few[0, :5] = 4
    assert (oc.camera_motion(few, "affine") == 0).all()  # too few vectors: the median


def test_what_makes_no_sense():
    with pytest.raises(InputError):
        oc.uniform_frames(0)
    with pytest.raises(InputError, match="compensate is one of"):
        getattr(oc.motion_energy, "__wrapped__", oc.motion_energy)(
            np.zeros((2, 2, 2), np.float32), 8, 8, compensate="tilt"
        )
    with pytest.raises(ShapeError, match="no patches of"):
        oc.valid_patches(Pad(8, 8, 0, 0, 9, 9), 4)
    with pytest.raises(ShapeError, match="do not fit"):
        oc.best_patches(np.zeros((1, 8, 8), np.float32), np.ones((3, 3), bool), patch=4)
    with pytest.raises(ShapeError, match="no multiples"):
        oc.visible_indices(np.zeros((1, 9, 8), np.float32), 4, 3)
    assert oc.uniform_frames(5, 3, first=9) == (0, 2, 4)
