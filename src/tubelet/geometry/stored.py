"""The folder of a scene, read again: what its cameras.json says, of which nothing is believed before it is checked.

Files are where `Scene.save` puts them, whatever the folder says of their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from tubelet.errors import InputError, TubeletError
from tubelet.geometry.cameras import Cameras, cameras_of
from tubelet.geometry.look import MOST_FRAMES
from tubelet.geometry.scene import DEEPEST, FORMAT, Box, depth_part, image_part
from tubelet.packed.header import strict_json

MOST_TOLD_BYTES = 4 << 20  # of a cameras.json; 256 frames take 400 kB
MOST_PIXELS = 1 << 27  # of all frames together; 256 of 518 x 518 are 69 million
LONGEST = 300  # letters of a name
_FAR, _NEAR = 1e30, 1e-6  # numbers of a camera, and its shortest focal length in pixels


@dataclass(frozen=True, eq=False)
class StoredScene:
    """What a scene's folder says of F frames, checked."""

    cameras: Cameras
    names: tuple[str, ...]  # the file each frame came from
    times_s: tuple[float, ...] | None  # None: pictures
    content: tuple[Box, ...]  # left, top, right, bottom of the picture in each frame's pixels
    network: str
    untrained: bool
    depth_scale: float  # depth of a stored 1
    share: float  # of the usable points that is kept
    kept: int  # points
    usable: int

    def __len__(self) -> int:
        return len(self.names)


def read_stored(text: bytes, source: str = "cameras.json") -> StoredScene:
    """What a cameras.json says. Raises InputError for one that `Scene.save` did not write, or that was changed since.

    >>> read_stored(b"{}")
    Traceback (most recent call last):
    tubelet.errors.InputError: cameras.json: not the folder of a scene that tubelet scene writes
    """
    if len(text) > MOST_TOLD_BYTES:
        raise InputError(f"more than {MOST_TOLD_BYTES:,} bytes", source=source, limit=MOST_TOLD_BYTES, got=len(text))
    said = strict_json(text, InputError, source)
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise InputError("not the folder of a scene that tubelet scene writes", source=source, expected=FORMAT)
    try:
        return _stored(said)
    except TubeletError as e:
        raise InputError(e.message, source=source, item=e.item, got=e.got) from e


def _stored(said: dict[str, Any]) -> StoredScene:
    size, depth, points = (_object(said, name) for name in ("size", "depth", "points"))
    h, w = _whole(size, "height", 1, 65535), _whole(size, "width", 1, 65535)
    frames = said.get("frames")
    if not isinstance(frames, list) or not 1 <= len(frames) <= MOST_FRAMES:
        raise InputError(f"frames is a list of 1 to {MOST_FRAMES}", limit=MOST_FRAMES)
    if len(frames) * h * w > MOST_PIXELS:
        raise InputError(f"{len(frames)} frames of {w} x {h} are more than {MOST_PIXELS:,} pixels", limit=MOST_PIXELS)
    for i, one in enumerate(frames):
        if not isinstance(one, dict) or one.get("image") != image_part(i) or one.get("depth") != depth_part(i):
            raise InputError("a frame is an object with the names of its image and its depth", item=i)
    times = [one.get("time_s") for one in frames]
    timed = None if times == [None] * len(times) else tuple(_numbers(times, (len(times),)).tolist())
    k = _numbers([one.get("K") for one in frames], (len(frames), 3, 3))
    if not bool((k[:, (0, 1), (0, 1)] >= _NEAR).all()):
        raise InputError("a focal length that is not above 0")
    poses = _numbers([one.get("world_to_cam") for one in frames], (len(frames), 3, 4))
    boxes = _numbers([one.get("content") for one in frames], (len(frames), 4)).tolist()
    metres = said.get("unit") == "metres"
    usable = _whole(points, "usable", 1, 2**53)
    return StoredScene(
        cameras_of(
            poses.float(),
            k.float(),
            (h, w),
            world=_text(said, "world"),
            direction="world_to_cam",
            scale="metres" if metres else "scene",
        ),
        tuple(_text(one, "source") for one in frames),
        timed,
        tuple((left, top, right, bottom) for left, top, right, bottom in boxes),
        _text(said, "network"),
        _flag(said, "untrained"),
        _number(depth, "scale", 1e-300, _FAR / DEEPEST),
        _number(points, "share", 1e-300, 1.0),
        _whole(points, "kept", 1, usable),
        usable,
    )


def _object(said: dict[str, Any], name: str) -> dict[str, Any]:
    found = said.get(name)
    if not isinstance(found, dict):
        raise InputError(f"{name} is no object")
    return found


def _text(said: dict[str, Any], name: str) -> str:
    found = said.get(name)
    if not isinstance(found, str) or not found:
        raise InputError(f"{name} is no text")
    return found[-LONGEST:]


def _flag(said: dict[str, Any], name: str) -> bool:
    found = said.get(name)
    if not isinstance(found, bool):
        raise InputError(f"{name} is true or false")
    return found


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_FAR <= value <= _FAR


def _whole(said: dict[str, Any], name: str, low: int, high: int) -> int:
    found = said.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
        raise InputError(f"{name} is a whole number from {low} to {high}")
    return found


def _number(said: dict[str, Any], name: str, low: float, high: float) -> float:
    found = said.get(name)
    if not _is_number(found) or not low <= found <= high:
        raise InputError(f"{name} is a number from {low:g} to {high:g}")
    return float(found)


def _numbers(said: Any, shape: Sequence[int]) -> Tensor:
    """A nested list of exactly this shape, float64."""
    level = [said]
    for length in shape:
        if not all(isinstance(one, list) and len(one) == length for one in level):
            raise InputError(f"numbers that are not {' x '.join(map(str, shape[1:] or (1,)))} for every frame")
        level = [value for one in level for value in one]
    if not all(map(_is_number, level)):
        raise InputError(f"a camera or a time holds what is no number up to {_FAR:g}")
    return torch.tensor(level, dtype=torch.float64).reshape(tuple(shape))
