"""Cameras inside attention see no world, only each other; steps follow the frames that were chosen."""

import pytest
import torch

from tubelet.errors import ShapeError
from tubelet.geometry.cameras import inverse_poses
from tubelet.geometry.pose_index import pose_steps, steps_of_frames
from tubelet.geometry.prope import apply_maps, camera_attention, pose_maps, prope_maps
from tubelet.geometry.rotation import quaternion_to_rotation
from tubelet.geometry.tubelets import paired, singles
from tubelet.language.placing.mrope import rope_index
from tubelet.language.placing.rules import QWEN2_VL, TokenIds
from tubelet.language.placing.view_index import view_index


def poses(n: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    turn = quaternion_to_rotation(torch.randn(n, 4, generator=g))
    return torch.cat([turn, torch.randn(n, 3, 1, generator=g) * 0.3], dim=-1)


def test_attention_does_not_see_where_the_world_begins():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 12, 16, generator=g).unbind(0)
    views = inverse_poses(inverse_poses(poses(2))[:, :3])
    other = views @ inverse_poses(poses(1, seed=5))
    k9 = torch.tensor([[[30.0, 0, 20], [0, 31, 16], [0, 0, 1]]]).expand(2, 3, 3)
    a, b = (camera_attention(q, k, v, prope_maps(w, k9, (2, 3), (32, 40), 16)) for w in (views, other))
    assert torch.allclose(a, b, atol=1e-4)
    assert not torch.allclose(
        a, camera_attention(q, k, v, prope_maps(views.flip(0), k9, (2, 3), (32, 40), 16)), atol=1e-2
    )
    with pytest.raises(ShapeError):
        prope_maps(views, None, (2, 3), (32, 40), 12)


def test_the_maps_of_q_and_k_undo_each_other_and_text_stays():
    tubelets = torch.tensor([-1, 0, 0, 1, -1])
    maps = pose_maps(poses(2), tubelets, 32, scope=(0.0, 0.5))
    assert torch.allclose(maps.out @ maps.k, torch.eye(4).expand(5, 4, 4), atol=1e-5)
    x = torch.randn(3, 5, 32)
    y = apply_maps(x, maps, maps.q)
    assert torch.equal(y[:, [0, 4]], x[:, [0, 4]])
    assert torch.equal(y[..., 16:], x[..., 16:])
    assert not torch.allclose(y[:, 1, :16], x[:, 1, :16])
    for scope in ((0.5, 0.5), (-0.1, 0.5), (0.0, 1.5)):
        with pytest.raises(ShapeError):
            pose_maps(poses(2), tubelets, 32, scope=scope)


def test_steps_are_exact_where_float32_loses_one():
    frames = [15.0, 37, 61, 96, 105, 204, 214, 248, 311, 312, 346, 362]
    assert steps_of_frames(frames, paired(frames), 11)[-1] == 11
    assert steps_of_frames(frames, paired(frames), 11, arithmetic="float32")[-1] == 10
    assert steps_of_frames([3.0, 3.0], singles([0.0, 0.0]), 7) == [0, 0]
    assert steps_of_frames([3.0], singles([0.0]), 7) == [0]
    for wrong in (
        lambda: steps_of_frames([3.0], paired([0.0, 1.0]), 7),
        lambda: pose_steps(torch.eye(4)[None], paired([0.0, 1.0])),
    ):
        with pytest.raises(ShapeError):
            wrong()


def test_steps_of_poses_reach_from_nearest_to_farthest():
    cam = inverse_poses(poses(6))
    for anchor in ("first", "medoid"):
        p = pose_steps(cam, paired([0.0] * 6), top=16, anchor=anchor)
        assert float(p.min()) == 0.0
        assert float(p.max()) == 16.0
    alone = pose_steps(cam, singles([0.0] * 6), whole_range=False)
    assert float(alone[0]) == 0.0


def test_steps_of_one_are_qwen2_s_positions_in_batches_of_several_videos():
    grids = torch.tensor([[2, 4, 4], [3, 2, 4], [1, 4, 2]])
    n = [8, 6, 2]
    rows = [[7, *[9] * n[0], 7, 7, *[9] * n[1], 7], [*[9] * n[2], *[7] * 16]]
    width = max(len(r) for r in rows)
    ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    mask = (ids != 0).long()
    want = rope_index(ids, TokenIds(8, 9), QWEN2_VL, video_grid_thw=grids, attention_mask=mask)
    steps = [list(range(int(t))) for t in grids[:, 0]]
    got = view_index(ids, TokenIds(8, 9), grids, time_steps=steps, attention_mask=mask)
    assert torch.equal(got.position_ids.long(), want.position_ids)
    assert torch.equal(got.rope_deltas.long(), want.rope_deltas)
    four = view_index(
        ids,
        TokenIds(8, 9),
        grids,
        time_steps=steps,
        pose_steps=[[0.5] * len(s) for s in steps],
        axes="PTHW",
        attention_mask=mask,
    )
    assert torch.equal(four.position_ids[1:].long(), want.position_ids)
    for bad in (steps[:2], [[0], *steps[1:]]):
        with pytest.raises(ShapeError):
            view_index(ids, TokenIds(8, 9), grids, time_steps=bad, attention_mask=mask)
    with pytest.raises(ShapeError):
        view_index(ids, TokenIds(8, 9), grids + torch.tensor([0, 1, 0]), time_steps=steps, attention_mask=mask)
