"""From clips to a scene: frames of one size, one run of the network, and which of them are kept.

    a video, or pictures -> frames_of_clips -> SceneFrames -> look_at -> Scene

By time, frames are chosen before the network runs, by what they see or where they stand after it has seen them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal, get_args

import numpy as np
import torch

from tubelet.doors import door
from tubelet.errors import ConfigError, InputError, LimitError, ShapeError
from tubelet.geometry.cameras import unproject
from tubelet.geometry.frames import SIDE, How, SizedFrames, size_frames
from tubelet.geometry.network import Points, heads_for
from tubelet.geometry.sampling import Frames, cover_space, farthest_poses, uniform_frames
from tubelet.geometry.scene import Box, Scene
from tubelet.geometry.vggt import VGGT, SceneFeatures
from tubelet.reading.clip import Clip
from tubelet.shapes import UInt8

By = Literal["time", "space", "poses"]
MOST_FRAMES = 256  # attention over a scene is quadratic in them


@dataclass(frozen=True, eq=False)
class SceneFrames:
    """Frames of one scene, sized for the network."""

    frames: UInt8[np.ndarray, "F H W 3"]
    names: tuple[str, ...]  # the file each came from
    times_s: tuple[float, ...] | None  # None: pictures
    content: tuple[Box, ...]  # where the picture lies in each frame
    name: str  # of the scene
    notes: tuple[str, ...] = ()  # what a person might want to know of the files

    def __len__(self) -> int:
        return len(self.frames)

    def choose(self, frames: Sequence[int]) -> "SceneFrames":
        """These frames, in this order."""
        times = None if self.times_s is None else tuple(self.times_s[i] for i in frames)
        names, content = tuple(self.names[i] for i in frames), tuple(self.content[i] for i in frames)
        return SceneFrames(self.frames[list(frames)], names, times, content, self.name, self.notes)


@door
def frames_of_clips(
    clips: Sequence[Clip], *, fit: How = "crop", side: int = SIDE, most: int = MOST_FRAMES
) -> SceneFrames:
    """The frames of one video, or of pictures of one place, sized as `size_frames` does.

    Raises InputError without a clip or for a video beside others, LimitError for more than `most` frames, ShapeError
    for pictures that come out in several sizes ("pad" and "square" make them one).

        >>> len(frames_of_clips(tubelet.read(["walk.mp4"], num_frames=3)))
        3
    """
    if not clips:
        raise InputError("a scene has at least one frame", limit=1, got=0)
    videos = [i for i, clip in enumerate(clips) if clip.is_video]
    if videos and len(clips) > 1:
        raise InputError(
            "a scene is one video, or pictures; this is a video beside others",
            item=videos[0],
            source=clips[videos[0]].source,
        )
    count = sum(len(clip) for clip in clips)
    if count > most:
        raise LimitError(f"a scene of {count} frames, at most {most} are seen at once", limit=most, got=count)
    sized: list[SizedFrames] = []
    for i, clip in enumerate(clips):
        try:
            sized.append(size_frames(clip.frames, fit, side=side))
        except InputError as e:
            raise e.placed(item=i, source=clip.source) from None
        before, own = sized[0].frames.shape[1:3], sized[-1].frames.shape[1:3]
        if own != before:
            raise ShapeError(
                f"{own[1]} x {own[0]} pixels beside frames of {before[1]} x {before[0]}; fit pad or square makes them "
                "one size",
                item=i,
                source=clip.source,
                expected=before,
                got=own,
            )
    each = [len(clip) for clip in clips]
    names = [clip.source for clip, n in zip(clips, each, strict=True) for _ in range(n)]
    content = [one.content for one, n in zip(sized, each, strict=True) for _ in range(n)]
    name = clips[0].source + (f" and {len(clips) - 1} more" if len(clips) > 1 else "")
    times = clips[0].times_s if videos else None
    notes = [note for clip in clips for note in _notes(clip)]
    if any(top < 0 for _, top, _, _ in content):
        notes.append("the top and bottom of the frames are cut off; fit pad keeps them")
    frames = np.concatenate([one.frames for one in sized])
    return SceneFrames(frames, tuple(names), times, tuple(content), name, tuple(notes))


def _notes(clip: Clip) -> list[str]:
    of = "" if clip.frames_expected is None else f": {len(clip)} of {clip.frames_expected} frames"
    damaged = [] if clip.complete else [f"INCOMPLETE{of}"]
    return [f"{PurePath(clip.source).name}: {note}" for note in (*damaged, *clip.notes)]


@door
def look_at(
    model: VGGT,
    seen: SceneFrames,
    *,
    keep: int | None = None,
    by: By = "time",
    points: Points = "depth",
    name: str = "?",
    stage: Callable[[str], object] | None = None,
) -> Scene:
    """The scene the network sees: cameras, depth and points of at most `keep` frames, in the order of time.

    by: "time" keeps frames evenly and the network sees no other; "space" keeps those that together see the most of the
    points, "poses" those whose cameras stand farthest apart, of all that the network has seen, so cost is that of all.
    "poses" keeps fewer where the rest stand where kept ones do. points: "depth" puts every pixel at its depth, which
    upstream finds more exact than the point "head"; its points and confidence otherwise. name: of the network, to show.
    stage: told what begins, a word each. Cost: `vggt_macs`. Raises ConfigError for a network without a head that is
    needed, NotFinite for a camera with NaN, and by "space" for no finite point at all.

        >>> from tubelet.geometry.network import load_network
        >>> seen = frames_of_clips(tubelet.read(["walk.mp4"], num_frames=3), fit="square", side=56)
        >>> look_at(load_network("vggt_tiny"), seen, keep=2, by="space")
        Scene('walk.mp4', 2 frames of 56x56, UNTRAINED)
    """
    if by not in get_args(By) or points not in get_args(Points):
        raise ConfigError(f"by is one of {get_args(By)}, points one of {get_args(Points)}", got=(by, points))
    missing = [head for head in heads_for(points) if getattr(model, head) is None]
    if missing:
        raise ConfigError(f"this network has no {missing[0]} head", expected=heads_for(points), got=missing[0])
    tell = stage or (lambda _: None)
    keep = len(seen) if keep is None else keep
    if by == "time":
        seen = seen.choose(uniform_frames(len(seen), keep))
    tell("seeing")
    device = next(model.parameters()).device
    with torch.no_grad():
        rows = SizedFrames(seen.frames, seen.content[0], False).rows().to(device)
        found = model.run(rows, heads=heads_for(points))
    tell("points")
    scene = _scene(model, seen, found, points, name)
    if by == "time" or keep >= len(seen):
        return scene
    tell("choosing")
    if by == "space":
        inside = torch.where(scene.usable[..., None], scene.points, torch.nan)  # margins are no part of the place
        chosen = cover_space(inside.numpy(), scene.confidence.numpy(), keep, fill=True).frames
    else:
        chosen = tuple(sorted(farthest_poses(scene.cameras.cam_to_world, keep)))
    return choose_frames(scene, chosen)


def choose_frames(scene: Scene, frames: Frames) -> Scene:
    """The scene with these frames alone, in this order; its world stays that of the first frame there was."""
    index = torch.tensor(frames, dtype=torch.int64)
    return Scene(
        scene.frames[list(frames)],
        tuple(scene.names[i] for i in frames),
        None if scene.times_s is None else tuple(scene.times_s[i] for i in frames),
        tuple(scene.content[i] for i in frames),
        scene.cameras.choose(frames),
        scene.depth[index],
        scene.confidence[index],
        scene.points[index],
        scene.network,
        scene.untrained,
    )


def _scene(model: VGGT, seen: SceneFrames, found: SceneFeatures, points: Points, name: str) -> Scene:
    cameras = found.cameras([seen.name])[0]
    depth = found.depth[0].float()
    if points == "depth":
        xyz, confidence = unproject(depth, cameras.world_to_cam, cameras.K), found.depth_confidence[0]
    else:
        xyz, confidence = found.points[0], found.points_confidence[0]
    flags = None if cameras.bounded is None else cameras.bounded.cpu()
    here = replace(cameras, world_to_cam=cameras.world_to_cam.cpu(), K=cameras.K.cpu(), bounded=flags)
    maps = (depth.cpu(), confidence.float().cpu(), xyz.float().cpu())
    return Scene(seen.frames, seen.names, seen.times_s, seen.content, here, *maps, name, model.untrained)
