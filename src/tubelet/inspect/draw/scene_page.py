"""One HTML file that turns a scene's points in any browser: no other file, no other host, no library.

Points are quantised to 16 bits along each axis of the box around them, the surest first, and stand in the page as
base64: 12 letters a point with its colour. `scene.html` beside this file is the page without them, and turn.js the
script that turns them, which the page holds whole.
"""

import base64
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from tubelet.errors import LimitError
from tubelet.geometry.cameras import Cameras
from tubelet.geometry.scene import Cloud, Scene
from tubelet.inspect.draw.cameras import axes_above, frame_colour
from tubelet.inspect.draw.lettering import time_text
from tubelet.shapes import Float, UInt8

MOST_POINTS = 200_000  # 2.4 MB of base64
STEPS = 65535  # of a side of the box
SMALL = 0.12  # length of a drawn frustum over the typical distance of points from their middle


class Quantised(NamedTuple):
    """Points in whole steps: low + step / 65535 x size."""

    steps: bytes  # (P, 3) of little-endian uint16
    colours: bytes  # (P, 3) of uint8
    low: tuple[float, float, float]
    size: tuple[float, float, float]


def quantise(points: Float[np.ndarray, "P 3"], colours: UInt8[np.ndarray, "P 3"]) -> Quantised:
    """Off by half a step at most, a 131,070th of the box's side.

    >>> quantise(np.array([[0.0, 0, 5], [1, 2, 5]]), np.zeros((2, 3), np.uint8)).size
    (1.0, 2.0, 0.0)
    """
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    size = high - low
    steps = np.rint((points - low) / np.where(size > 0, size, 1.0) * STEPS).astype("<u2")
    (a, b, c), (d, e, f) = low.tolist(), size.tolist()
    return Quantised(steps.tobytes(), np.ascontiguousarray(colours).tobytes(), (a, b, c), (d, e, f))


def turn_script() -> str:
    """The script that turns points and cameras, a module of JavaScript: of this page, and of the inspector's."""
    return files("tubelet.inspect.draw").joinpath("turn.js").read_text(encoding="utf-8")


def scene_page(scene: Scene, cloud: Cloud | None = None, *, most: int = MOST_POINTS) -> str:
    """The page as text: points and cameras of a scene, to be turned by mouse, touch and keys.

    cloud: the points, of which at most `most` are drawn; None: those of `Scene.cloud()`. Raises LimitError beyond
    `MOST_POINTS`, and what `Scene.cloud` raises.

        >>> from tubelet.geometry.look import frames_of_clips, look_at
        >>> from tubelet.geometry.network import load_network
        >>> seen = frames_of_clips(tubelet.read(["walk.mp4"], num_frames=2), fit="square", side=56)
        >>> scene_page(look_at(load_network("vggt_tiny"), seen))[:15]
        '<!DOCTYPE html>'
    """
    if most > MOST_POINTS:
        raise LimitError(f"a page has at most {MOST_POINTS:,} points", limit=MOST_POINTS, got=most)
    cloud = (scene.cloud() if cloud is None else cloud).thinned(most)
    points = cloud.points.numpy()
    packed = quantise(points, cloud.colours.numpy())
    times = scene.times_s or (None,) * len(scene)
    labels = [frame_label(name, time) for name, time in zip(scene.names, times, strict=True)]
    said = told_of(scene.name, scene.network, scene.cameras, labels, points, cloud.total, packed)
    network = html.escape(scene.network)
    notice = f'<p class="alarm">{network} is UNTRAINED: random weights, this scene means nothing</p>'
    parts = {
        "title": html.escape(scene.name),
        "about": html.escape(said["about"]),
        "notice": notice if scene.untrained else "",
        "scene": json.dumps(said, allow_nan=False).replace("<", "\\u003c"),
        "points": base64.b64encode(packed.steps).decode("ascii"),
        "colours": base64.b64encode(packed.colours).decode("ascii"),
        "turn": turn_script(),
    }
    empty = files("tubelet.inspect.draw").joinpath("scene.html").read_text(encoding="utf-8")
    pieces = empty.split("{{")  # one pass: what is put in is never looked through
    return pieces[0] + "".join(parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces[1:]))


def told_of(
    name: str,
    network: str,
    cameras: Cameras,
    labels: Sequence[str],
    points: Float[np.ndarray, "P 3"],
    total: int,
    packed: Quantised,
) -> dict[str, Any]:
    """What turn.js is told besides the points. labels: of the frames. total: the points that there were to choose from.
    Axes are those of a view from above; a drawn camera is as large as suits the points. Plain values."""
    count = len(cameras)
    spread = points.astype(np.float64)
    typical = float(np.quantile(np.linalg.norm(spread - np.median(spread, axis=0), axis=1), 0.8))
    centres, k = cameras.centres.double().numpy(), cameras.K.double().numpy()
    apart = float(np.linalg.norm(centres - centres[0], axis=1).max())
    reach = SMALL * (max(typical, apart / 2) or 1.0)
    h, w = cameras.size
    x, y = np.array([0, w, w, 0])[None], np.array([0, 0, h, h])[None]
    rays = np.stack([(x - k[:, 0, 2:]) / k[:, :1, 0], (y - k[:, 1, 2:]) / k[:, 1:2, 1], np.ones((count, 4))], axis=-1)
    rays *= reach / np.maximum(1.0, np.abs(rays[..., :2]).max(axis=(1, 2)))[:, None, None]
    turn = cameras.world_to_cam[:, :, :3].double().numpy()
    corners = centres[:, None] + rays @ turn
    frames = f"{count} frames" if count != 1 else "1 frame"
    return {
        "name": name,
        "about": f"{frames}, {len(points):,} of {total:,} points, the surest first; {network}",
        "count": len(points),
        "low": packed.low,
        "size": packed.size,
        "axes": axes_above(cameras).tolist(),
        "focal": float(min(k[0, 0, 0] / w, k[0, 1, 1] / h)),
        "frames": [
            {
                "label": labels[i],
                "centre": centres[i].tolist(),
                "corners": corners[i].tolist(),
                "ahead": turn[i, 2].tolist(),
                "colour": "#{:02x}{:02x}{:02x}".format(*frame_colour(i, count)),
            }
            for i in range(count)
        ],
    }


def frame_label(source: str, time_s: float | None) -> str:
    """A frame's file without its folders, and when it is."""
    name = PurePath(source).name
    return name if time_s is None else f"{name} at {time_text(time_s)}"
