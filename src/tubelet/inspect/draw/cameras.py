r"""The path of cameras seen from above, with what they saw: where each stood, which way it looked, in which order.

        . . . . .           points, as they are seen from above
       .   \ /    .         a frustum: its tip is the camera, its width the field of view
       .    o--o           the path, dark at the first frame, light at the last
          (o)   .           the first frame has a ring

Above is where the cameras' own up points on average; the first frame looks up the page. Lengths are those of the world.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from tubelet.errors import NotFinite, ShapeError
from tubelet.geometry.cameras import Cameras
from tubelet.inspect.draw.frames import FRAME, MARGIN, MOST_SIDE, NARROW
from tubelet.inspect.draw.lettering import INK, MUTED, PAPER, Colour, TextLine, caption, length, words
from tubelet.inspect.draw.shades import VIRIDIS, legend, shades
from tubelet.shapes import Float, UInt8

FRUSTUM = 0.06  # length of a frustum over the side of the drawing
EDGE = 0.07  # empty margin over the side
OFF = 0.02  # share of points at each end of an axis that may lie outside the drawing
MOST_AWAY = 20.0  # points enlarge the drawing to so many times the extent of the cameras, at most
FINE = 3  # drawn so many times larger and then reduced
_FLAT = 1e-6


class PathLayout(NamedTuple):
    """Where everything stands in a square drawing, (x, y) in pixels, y down."""

    centres: Float[np.ndarray, "F 2"]  # of the cameras
    frusta: Float[np.ndarray, "F 2 2"]  # left and right end of each one's view
    points: Float[np.ndarray, "P 2"]
    heights: Float[np.ndarray, " P"]  # of the points above the first camera, in the world's unit
    scale: float  # pixels of a unit
    axes: Float[np.ndarray, "3 3"]  # to the right, up the page and towards the viewer, as directions of the world


def axes_above(cameras: Cameras) -> Float[np.ndarray, "3 3"]:
    """Right, ahead and up of a view from above: up is the mean of the cameras' own, or the first one's where they
    cancel; ahead is where the first camera looks, or its own up where it looks straight up or down."""
    turn = cameras.world_to_cam[:, :, :3].detach().cpu().double().numpy()
    up = -turn[:, 1].mean(0)
    up = up if np.linalg.norm(up) > 0.1 else -turn[0, 1]
    up = up / np.linalg.norm(up)
    for ahead in (turn[0, 2], -turn[0, 1], turn[0, 0]):
        ahead = ahead - (ahead @ up) * up
        if np.linalg.norm(ahead) > 0.1:
            break
    ahead = ahead / np.linalg.norm(ahead)
    return np.stack([np.cross(ahead, up), ahead, up])


def path_layout(cameras: Cameras, points: Float[Tensor, "P 3"] | None = None, *, side: int = 720) -> PathLayout:
    """Where cameras and points stand on a square of `side` pixels, both axes in one scale.

    All cameras are inside; points enlarge the drawing, but for a few far ones at each end and to 20 times the extent of
    the cameras. Raises ShapeError without a camera, NotFinite naming the first camera or point that is none.

        >>> from tubelet.geometry.cameras import decode_poses
        >>> ahead = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1.0, 1.2], [0, 0, -1, 0, 0, 0, 1, 1.0, 1.2]])
        >>> one, two = path_layout(decode_poses(ahead, (84, 112), world="walk.mp4")).centres
        >>> bool(one[0] == two[0] and two[1] < one[1])  # the second has gone ahead, up the page
        True
    """
    if not len(cameras):
        raise ShapeError("a path has at least one camera", limit=1, got=0)
    xyz = np.zeros((0, 3)) if points is None else points.detach().cpu().double().numpy()
    for what, rows in (("camera", cameras.world_to_cam.detach().cpu().flatten(1).numpy()), ("point", xyz)):
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise NotFinite(f"a {what} holds NaN or infinity", item=int(bad[0]))
    axes = axes_above(cameras)
    centres = cameras.centres.detach().cpu().double().numpy()
    flat, seen = centres @ axes[:2].T, xyz @ axes[:2].T
    low, high = flat.min(0), flat.max(0)
    if len(seen):
        middle, reach = (low + high) / 2, (high - low).max() / 2
        near, far = np.quantile(seen, [OFF, 1 - OFF], axis=0)
        if reach > _FLAT * np.abs(far - near).max():
            near, far = np.maximum(near, middle - MOST_AWAY * reach), np.minimum(far, middle + MOST_AWAY * reach)
        low, high = np.minimum(low, near), np.maximum(high, far)
    extent = float((high - low).max())
    extent = extent if extent > _FLAT * max(1e-12, float(np.abs(centres).max())) else 1.0
    scale = side * (1 - 2 * (EDGE + FRUSTUM)) / extent

    def placed(where: np.ndarray) -> np.ndarray:
        return (where - (low + high) / 2) * scale * (1, -1) + side / 2

    ends = centres[:, None] + _view_ends(cameras) * (FRUSTUM * side / scale)
    heights = (xyz - centres[0]) @ axes[2]
    return PathLayout(placed(flat), placed(ends @ axes[:2].T), placed(seen), heights, scale, axes)


def _view_ends(cameras: Cameras) -> Float[np.ndarray, "F 2 3"]:
    """From each camera to the left and right end of the middle line of its view, at a depth of 1 or what is as long."""
    k = cameras.K.detach().cpu().double().numpy()
    turn = cameras.world_to_cam[:, :, :3].detach().cpu().double().numpy()
    edges = np.array([0.0, cameras.size[1]])
    x = (edges[None] - k[:, 0, 2, None]) / k[:, 0, 0, None]
    rays = np.stack([x, np.zeros_like(x), np.ones_like(x)], axis=-1)
    rays /= np.maximum(1.0, np.abs(x).max(axis=1))[:, None, None]
    return rays @ turn  # row vectors: R^T ray


def frame_colour(frame: int, count: int) -> Colour:
    """The colour of a frame in a path of so many: dark at the first, light at the last."""
    r, g, b = np.rint(shades(VIRIDIS, np.array(0.0 if count < 2 else 0.92 * frame / (count - 1)))).astype(int).tolist()
    return r, g, b


def draw_camera_path(
    cameras: Cameras,
    points: Float[Tensor, "P 3"] | None = None,
    colours: UInt8[Tensor, "P 3"] | None = None,
    *,
    lines: Sequence[TextLine] = (),
    side: int = 720,
) -> Image.Image:
    """The cameras' path from above with the points they saw, a scale and a legend, as an RGB picture.

    colours: of the points; grey without. lines: what to say above. side: of the drawing, captions not counted.
    Raises ShapeError for a side without room for words, and what `path_layout` raises. Cost: one pass over the points.

        >>> from tubelet.geometry.cameras import decode_poses
        >>> ahead = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1.0, 1.2], [0, 0, -1, 0, 0, 0, 1, 1.0, 1.2]])
        >>> draw_camera_path(decode_poses(ahead, (84, 112), world="walk.mp4")).mode
        'RGB'
    """
    if not NARROW <= side <= MOST_SIDE // FINE:
        limits = (NARROW, MOST_SIDE // FINE)
        raise ShapeError(f"a drawing has {limits[0]} to {limits[1]} pixels a side, got {side}", limit=limits, got=side)
    layout = path_layout(cameras, points, side=side)
    picture = Image.fromarray(_points_drawn(layout, colours, side))
    picture = _path_drawn(picture, layout)
    _scale_drawn(picture, layout.scale, cameras.scale)
    ImageDraw.Draw(picture).rectangle((0, 0, side - 1, side - 1), outline=FRAME)
    head = caption(side, lines) if lines else None
    foot = legend(f"{len(cameras)} cameras from above", "first", "last")
    top = MARGIN + (0 if head is None else head.height + 8)
    page = Image.new("RGB", (side + 2 * MARGIN, top + side + 8 + foot.height + MARGIN), PAPER)
    if head is not None:
        page.paste(head, (MARGIN, MARGIN))
    page.paste(picture, (MARGIN, top))
    page.paste(foot, (MARGIN, top + side + 8))
    return page


def _points_drawn(layout: PathLayout, colours: Tensor | None, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The mean colour of the points in each pixel, paler where there are few."""
    x, y = np.floor(layout.points.T).astype(np.int64)
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    place = (y * side + x)[inside]
    rgb = np.full((len(layout.points), 3), 120.0) if colours is None else colours.cpu().numpy().astype(np.float64)
    count = np.bincount(place, minlength=side * side).astype(np.float64)
    total = np.stack([np.bincount(place, rgb[inside, c], side * side) for c in range(3)], axis=1)
    typical = np.quantile(count[count > 0], 0.9) if count.any() else 1.0
    strength = 0.75 * np.clip(count / typical, 0.0, 1.0)[:, None] ** 0.5
    mean = total / np.maximum(count, 1.0)[:, None]
    out = np.array(PAPER) * (1 - strength) + mean * strength
    return np.rint(out).astype(np.uint8).reshape(side, side, 3)


def _path_drawn(picture: Image.Image, layout: PathLayout) -> Image.Image:
    """The picture with frusta, then the path, then a dot a camera, the first with a ring."""
    count = len(layout.centres)
    large = picture.resize((picture.width * FINE, picture.height * FINE), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(large)

    def at(point: np.ndarray) -> tuple[float, float]:
        return float(point[0]) * FINE, float(point[1]) * FINE

    for i in range(count):
        colour = frame_colour(i, count)
        ends = [at(end) for end in layout.frusta[i]]
        pen.line([at(layout.centres[i]), *ends, at(layout.centres[i])], fill=colour, width=FINE + 1, joint="curve")
    for i in range(1, count):
        pen.line([at(layout.centres[i - 1]), at(layout.centres[i])], fill=frame_colour(i, count), width=2 * FINE)
    for i in reversed(range(count)):  # the first on top
        (x, y), r = at(layout.centres[i]), 4 * FINE
        if i == 0:
            ring = 8 * FINE
            pen.ellipse((x - ring, y - ring, x + ring, y + ring), outline=INK, width=2 * FINE)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=frame_colour(i, count), outline=PAPER, width=FINE)
    return large.reduce(FINE)


def _scale_drawn(picture: Image.Image, scale: float, unit: str) -> None:
    """A bar of a round length at the lower left."""
    units = picture.width / 5 / scale
    power = 10.0 ** math.floor(math.log10(units))
    round_units = max(f * power for f in (1, 2, 5) if f * power <= units)
    wide = round(round_units * scale)
    text = f"{round_units:g} {'m' if unit == 'metres' else 'of the unit of the scene'}"
    x, y = 14, picture.height - 16
    pen = ImageDraw.Draw(picture)
    pen.rectangle((x - 6, y - 24, x + max(wide, math.ceil(length(text, 12))) + 6, y + 7), fill=PAPER)
    picture.paste(words(text, 12, MUTED), (x, y - 21))
    pen.line((x, y, x + wide, y), fill=INK, width=2)
    for end in (x, x + wide):
        pen.line((end, y - 3, end, y + 3), fill=INK, width=2)
