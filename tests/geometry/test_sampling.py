"""Frame choice: equal to plain twins with Python sets, and defined for whatever comes in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import ConfigError, NotFinite, ShapeError
from tubelet.geometry.sampling import (
    add_neighbours,
    cover_space,
    farthest_poses,
    pose_coverage,
    sorted_neighbours,
    spread_poses,
    uniform_frames,
)
from tubelet.geometry.views import lie_medoid, lie_scalar, pose_distances, view_changes


def with_sets(points: np.ndarray, confidence: np.ndarray, keep: int) -> list[int]:
    """Greedy maximum coverage as one would write it first."""
    seen = confidence >= np.percentile(confidence, 50)
    rows = points[seen]
    low = rows.min(axis=0)
    edge = (rows.max(axis=0) - low).min() / points.dtype.type(20)
    sets = [
        {tuple(c) for c in np.floor((p[m] - low) / edge).astype(int).tolist()}
        for p, m in zip(points, seen, strict=True)
    ]
    covered: set[tuple[int, ...]] = set()
    chosen: list[int] = []
    while len(chosen) < keep:
        gains = [len(s - covered) for s in sets]
        best = gains.index(max(gains))
        if not gains[best]:
            break
        chosen.append(best)
        covered |= sets[best]
    return chosen


@given(
    seed=st.integers(0, 10_000), frames=st.integers(1, 9), keep=st.integers(1, 9), spread=st.sampled_from([1.0, 300.0])
)
def test_coverage_chooses_what_sets_choose(seed: int, frames: int, keep: int, spread: float):
    g = np.random.default_rng(seed)
    points = (g.random((frames, 3, 5, 3)) * [1.0, spread, spread]).astype(np.float32)
    confidence = (1 + g.random((frames, 3, 5))).astype(np.float32)
    found = cover_space(points, confidence, keep)
    assert list(found.order) == with_sets(points, confidence, keep)
    assert found.frames == tuple(sorted(found.order))


def test_a_scene_too_wide_for_a_table_is_numbered():
    g = np.random.default_rng(0)
    points = (g.random((4, 3, 5, 3)) * [1.0, 3000.0, 3000.0]).astype(np.float32)  # 20 x 60,000 x 60,000 voxels
    confidence = np.ones((4, 3, 5), dtype=np.float32)
    assert list(cover_space(points, confidence, 4).order) == with_sets(points, confidence, 4)


def test_planes_lines_points_and_equal_frames():
    g = np.random.default_rng(0)
    points, ones = g.random((6, 4, 4, 3)), np.ones((6, 4, 4))
    flat = cover_space(points * [1, 1, 0], ones, 3)
    assert flat.edge == pytest.approx(cover_space(points * [1, 1, 0] + [0, 0, 5], ones, 3).edge)
    assert len(flat.frames) == 3
    assert len(cover_space(points * [1, 0, 0], ones, 3).frames) == 3
    assert cover_space(points * 0, ones, 3).frames == (0,)
    same = np.repeat(points[:1], 6, axis=0)
    assert cover_space(same, ones, 3).frames == (0,)
    assert cover_space(same, ones, 3, fill=True).frames == (0, 2, 5)
    assert cover_space(same, ones, 9, fill=True).frames == tuple(range(6))
    assert cover_space(points[:1], ones[:1], 3).frames == (0,)


def test_what_is_not_finite_is_unseen():
    g = np.random.default_rng(0)
    points, confidence = g.random((6, 4, 4, 3)), 1 + g.random((6, 4, 4))
    points[2] = np.nan
    confidence[3] = np.inf
    found = cover_space(points, confidence, 6)
    assert not {2, 3} & set(found.frames)
    assert found.voxels[2] == found.voxels[3] == 0
    with pytest.raises(NotFinite):
        cover_space(points * np.nan, confidence, 6)
    with pytest.raises(ShapeError, match="confidence above"):
        cover_space(g.random((2, 4, 4, 3)), np.zeros((2, 4, 4)), 1)
    with pytest.raises(ShapeError):
        cover_space(points, confidence[:3], 6)
    for count, keep in ((0, 1), (6, 0)):
        with pytest.raises(ShapeError):
            cover_space(points[:count], confidence[:count], keep)


def test_uniform_frames():
    assert uniform_frames(16, 16) == tuple(range(16))
    assert uniform_frames(3, 8) == (0, 1, 2)
    assert uniform_frames(7, 1) == (0,)
    with pytest.raises(ShapeError):
        uniform_frames(0, 1)


# ---- poses


def walk(n: int = 12, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    poses = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    poses[:, :3, :3] = torch.linalg.qr(torch.randn(n, 3, 3, generator=g, dtype=torch.float64)).Q
    poses[:, :3, :3] *= torch.linalg.det(poses[:, :3, :3])[:, None, None]
    poses[:, :3, 3] = torch.randn(n, 3, generator=g, dtype=torch.float64)
    return poses


@pytest.mark.parametrize("weights", ["max", "spread"])
def test_farthest_is_farthest_each_time(weights: str):
    poses = walk()
    d = pose_distances(poses, weights).numpy()  # pyright: ignore
    order = farthest_poses(poses, 5, weights=weights)  # pyright: ignore
    assert order[0] == d.sum(1).argmin()
    for i in range(1, 5):
        assert order[i] == d[list(order[:i])].min(0).argmax()
    assert farthest_poses(poses, 2, start="first")[0] == 0


def test_cameras_that_stand_still_or_only_turn_or_only_move():
    still = torch.eye(4).repeat(5, 1, 1)
    assert farthest_poses(still, 3) == (0,)
    assert spread_poses(still, 3) == (0,)
    assert len(spread_poses(still, 3, method="grid")) == 3
    assert lie_scalar(still).tolist() == [0.0] * 5
    assert view_changes(still).tolist() == [0.0] * 4
    turned = walk()
    turned[:, :3, 3] = 0
    moved = walk()
    moved[:, :3, :3] = torch.eye(3)
    for poses in (turned, moved):
        for weights in ("max", "spread"):
            assert len(farthest_poses(poses, 4, weights=weights)) == 4
        assert bool(view_changes(poses).isfinite().all())
        assert float(lie_scalar(poses).max()) == 1.0
    assert farthest_poses(walk()[:1], 3) == (0,)
    assert pose_coverage(pose_distances(walk()[:2], "spread"), (0, 1)) == (0, 0, 0)


def test_bad_poses_are_told():
    bad = walk(4)
    bad[2, 0, 0] = float("nan")
    for call in (lambda p: farthest_poses(p, 2), lambda p: spread_poses(p, 2), lie_scalar, lie_medoid, view_changes):
        with pytest.raises(NotFinite) as raised:
            call(bad)
        assert raised.value.item == 2
        with pytest.raises(ShapeError):
            call(bad[:0])
    with pytest.raises(ShapeError):
        lie_scalar(walk(4), anchor=4)


@pytest.mark.usefixtures("as_in_production")
def test_words_that_are_none_of_ours_are_told():
    for wrong in ({"start": "last"}, {"weights": "sum"}):
        with pytest.raises(ConfigError):
            farthest_poses(walk(4), 2, **wrong)  # pyright: ignore
    with pytest.raises(ConfigError):
        spread_poses(walk(4), 2, method="dice")  # pyright: ignore
    with pytest.raises(ConfigError):
        add_neighbours([1], 100, mode="beside")  # pyright: ignore


def test_the_unit_of_length_of_a_scene_does_not_matter():
    poses, larger = walk(), walk()
    larger[:, :3, 3] *= 37.0
    assert farthest_poses(poses, 6) == farthest_poses(larger, 6)
    assert torch.allclose(lie_scalar(poses), lie_scalar(larger))
    assert torch.allclose(view_changes(poses), view_changes(larger))


# ---- neighbours


@given(
    keys=st.sets(st.integers(0, 40), min_size=1, max_size=8),
    step=st.integers(1, 12),
    mode=st.sampled_from(["after", "before"]),
)
def test_every_key_keeps_its_pair(keys: set[int], step: int, mode: str):
    pairs = add_neighbours(sorted(keys), 41, step=step, mode=mode)  # pyright: ignore
    assert len(pairs) == len(keys)
    for key, (a, b) in zip(sorted(keys), pairs, strict=True):
        assert 0 <= a <= b <= 40
        assert key in (a, b)
        assert b - a in (0, step)
        assert not (keys - {key}) & {a, b}


def test_upstream_s_sort_breaks_pairs():
    pairs = add_neighbours([10, 50, 90], 100, step=30)
    assert pairs == ((10, 40), (50, 80), (60, 90))
    assert sorted_neighbours(pairs) == (10, 40, 50, 60, 80, 90)
    for bad in ([3, 3], [5, 4], [-1, 2], [99, 100]):
        with pytest.raises(ShapeError):
            add_neighbours(bad, 100)
    with pytest.raises(ConfigError):
        add_neighbours([1], 100, step=0)
