"""The path of cameras from above: where a known path is drawn, in which order, and what it is drawn with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.geometry.rooms import room

from tubelet.errors import NotFinite, ShapeError
from tubelet.geometry.cameras import Cameras
from tubelet.inspect.draw.cameras import axes_above, draw_camera_path, frame_colour, path_layout
from tubelet.inspect.draw.frames import MARGIN
from tubelet.inspect.draw.lettering import INK, TextLine

SIDE = 480


def circle_of(count: int = 8) -> Cameras:
    return room(count, (14, 28)).cameras


def turned(cameras: Cameras, seed: int = 3) -> Cameras:
    """The same cameras in a world that is turned, moved and three times as large."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn)
    rotation = cameras.world_to_cam[:, :, :3].double() @ turn.mT
    centres = 3.0 * cameras.centres.double() @ turn.mT + torch.tensor([5.0, -7.0, 11.0])
    pose = torch.cat([rotation, -(rotation @ centres[..., None])], dim=2)
    return replace(cameras, world_to_cam=pose.float())


def test_a_circle_of_cameras_is_drawn_as_a_circle_clockwise_from_the_top():
    layout = path_layout(circle_of(), side=SIDE)
    middle = layout.centres.mean(0)
    radii = np.linalg.norm(layout.centres - middle, axis=1)
    assert np.allclose(radii, radii[0], rtol=1e-5) and radii[0] > SIDE / 3
    assert np.allclose(radii, layout.scale, rtol=1e-5)  # the circle's radius is 1
    angle = np.arctan2(layout.centres[:, 0] - middle[0], middle[1] - layout.centres[:, 1])  # from the top, clockwise
    assert np.allclose(np.exp(1j * angle), np.exp(2j * np.pi * np.arange(8) / 8), atol=1e-5)
    outward = layout.frusta.mean(1) - layout.centres  # they look out
    assert np.allclose(
        outward / np.linalg.norm(outward, axis=1)[:, None], (layout.centres - middle) / radii[:, None], atol=1e-5
    )


def test_left_of_a_view_is_left():
    layout = path_layout(circle_of(1), side=SIDE)
    (left, right), centre = layout.frusta[0], layout.centres[0]
    assert left[0] < centre[0] < right[0] and left[1] == pytest.approx(right[1]) and left[1] < centre[1]
    assert right[0] - centre[0] == pytest.approx((centre[1] - right[1]) * 0.8)  # of a focal length of 1 / 1.6


def test_how_the_world_lies_and_its_unit_do_not_matter():
    scene = room(6, (14, 28), "ahead", 0.6)
    plain, other = path_layout(scene.cameras, side=SIDE), path_layout(turned(scene.cameras), side=SIDE)
    assert np.allclose(plain.centres, other.centres, atol=1e-2)
    assert np.allclose(plain.frusta, other.frusta, atol=1e-2)
    assert plain.scale == pytest.approx(3 * other.scale, rel=1e-4)


def test_above_is_where_the_cameras_own_up_points():
    right, ahead, up = axes_above(circle_of())
    assert np.allclose([right, ahead, up], [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-6)
    one = circle_of(2)
    down = torch.tensor(
        [[[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]] * 2
    )  # looks straight up: y of the world is down
    axes = axes_above(replace(one, world_to_cam=down))
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9) and np.linalg.det(axes) == pytest.approx(1)
    flipped = one.world_to_cam.clone()
    flipped[1, :2] *= -1  # the second camera is upside down, so their ups cancel
    axes = axes_above(replace(one, world_to_cam=flipped))
    assert np.allclose(axes[2], [0, -1, 0], atol=1e-6)


def test_every_camera_has_its_colour_in_the_order_of_the_path_and_the_first_a_ring():
    cameras = circle_of(8)
    picture = np.asarray(draw_camera_path(cameras, side=SIDE))
    centres = path_layout(cameras, side=SIDE).centres + MARGIN
    for i, (x, y) in enumerate(np.floor(centres).astype(int)):
        assert tuple(picture[y, x]) == frame_colour(i, 8)
        ring = picture[y - 9 : y + 10, x - 9 : x + 10].reshape(-1, 3)
        dark = int((np.abs(ring.astype(int) - INK).max(1) < 12).sum())
        assert (dark > 20) == (i == 0)
    light = [0.3 * r + 0.6 * g + 0.1 * b for r, g, b in (frame_colour(i, 8) for i in range(8))]
    assert light == sorted(light)
    middle = np.floor((centres[2] + centres[3]) / 2).astype(int)
    assert tuple(picture[middle[1], middle[0]]) == frame_colour(3, 8)  # the way to the fourth


def test_points_are_where_the_layout_says_in_their_colours():
    scene = room(4, (28, 42))
    cloud = scene.cloud(1.0)
    red = torch.tensor([[200, 0, 0]], dtype=torch.uint8).expand(len(cloud.points), 3)
    layout = path_layout(scene.cameras, cloud.points, side=SIDE)
    walls = layout.points - layout.centres.mean(0)
    assert np.allclose(np.abs(walls).max(), 2 * layout.scale, rtol=1e-4)  # half of the room's side
    assert layout.points.min() > 0 and layout.points.max() < SIDE
    assert float(np.abs(layout.heights).max()) == pytest.approx(float(cloud.points[:, 1].abs().max()))
    picture = np.asarray(draw_camera_path(scene.cameras, cloud.points, red, side=SIDE)).astype(int)
    on_wall = np.floor(layout.points[np.abs(walls).max(1) > 1.99 * layout.scale] + MARGIN).astype(int)
    drawn = picture[on_wall[:, 1], on_wall[:, 0]]
    assert np.mean(drawn[:, 0] - drawn[:, 1] > 40) > 0.95
    grey = np.asarray(draw_camera_path(scene.cameras, cloud.points, side=SIDE)).astype(int)
    drawn = grey[on_wall[:, 1], on_wall[:, 0]]
    assert np.mean(np.ptp(drawn, axis=1) < 12) > 0.95


def test_a_few_far_points_do_not_make_the_path_small():
    cameras = circle_of()
    points = torch.rand(1000, 3) - 0.5
    points[:5] = 1e6
    assert path_layout(cameras, points, side=SIDE).scale > 0.3 * path_layout(cameras, side=SIDE).scale
    every = torch.full((100, 3), 1e6)
    ends = path_layout(cameras, every, side=SIDE).centres
    assert np.ptp(ends[:, 0]) > SIDE / 60


def test_one_camera_equal_cameras_and_no_points_are_drawn():
    one = circle_of(1)
    for cameras in (one, one.choose([0, 0, 0]), replace(one, scale="metres")):
        for points in (None, torch.zeros(0, 3), torch.zeros(3, 3)):
            assert draw_camera_path(cameras, points, side=SIDE).size[0] == SIDE + 2 * MARGIN
    titled = draw_camera_path(one, lines=[TextLine(("a name",), 17)], side=SIDE)
    assert titled.height > draw_camera_path(one, side=SIDE).height


def test_what_cannot_be_drawn_is_told(as_in_production: None):
    cameras = circle_of(2)
    with pytest.raises(ShapeError, match="at least one camera"):
        path_layout(cameras.choose([]))
    broken = cameras.world_to_cam.clone()
    broken[1, 0, 0] = torch.nan
    with pytest.raises(NotFinite) as e:
        path_layout(replace(cameras, world_to_cam=broken))
    assert e.value.item == 1
    with pytest.raises(NotFinite, match="a point holds NaN"):
        path_layout(cameras, torch.tensor([[0.0, 0, 0], [0, torch.inf, 0]]))
    for side in (10, 1 << 20):
        with pytest.raises(ShapeError, match="pixels a side"):
            draw_camera_path(cameras, side=side)
