"""A scene whose every number is known: a room of 4 x 4 x 2 seen from a circle of cameras that look ahead or inward."""

import math
from typing import Literal

import numpy as np
import torch

from tubelet.geometry.cameras import cameras_of, unproject
from tubelet.geometry.scene import Scene

HALF = torch.tensor([2.0, 1.0, 2.0], dtype=torch.float64)  # of the room's sides; y is down


def circle(count: int, look: Literal["ahead", "out"] = "out", radius: float = 1.0, share: float = 1.0) -> torch.Tensor:
    """(F, 3, 4) world_to_cam of cameras on that share of a circle around the middle, level."""
    poses = []
    for i in range(count):
        a = 2 * math.pi * share * i / count
        out = torch.tensor([math.sin(a), 0.0, math.cos(a)], dtype=torch.float64)
        along = torch.tensor([math.cos(a), 0.0, -math.sin(a)], dtype=torch.float64)
        z = out if look == "out" else along
        down = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        turn = torch.stack([torch.linalg.cross(down, z), down, z])
        poses.append(torch.cat([turn, -(turn @ (radius * out))[:, None]], dim=1))
    return torch.stack(poses).float()


def room(
    count: int = 4, size: tuple[int, int] = (28, 42), look: Literal["ahead", "out"] = "out", share: float = 1.0
) -> Scene:
    """The exact scene: depth by rays, walls in the colours of their directions, surer to the right."""
    h, w = size
    k = torch.tensor([[w / 1.6, 0.0, w / 2], [0.0, w / 1.6, h / 2], [0.0, 0.0, 1.0]]).expand(count, 3, 3)
    cameras = cameras_of(circle(count, look, share=share), k, size, world="room.mp4", direction="world_to_cam")
    one = unproject(torch.ones(count, h, w, dtype=torch.float64), cameras.world_to_cam.double(), cameras.K.double())
    centre = cameras.centres.double()[:, None, None]
    ray = one - centre  # of depth 1
    depth = ((torch.where(ray < 0, -HALF, HALF) - centre) / ray).amin(-1)
    points = centre + depth[..., None] * ray
    stripe = (points * 2.0).floor().sum(-1, keepdim=True) % 2
    colours = (points / HALF * 0.4 + 0.5) * (0.7 + 0.3 * stripe)
    frames = (colours.clamp(0, 1) * 255).byte().numpy()
    confidence = torch.linspace(1.0, 3.0, w).expand(count, h, w).contiguous()
    times = tuple(0.5 * i for i in range(count))
    content = ((0.0, 0.0, float(w), float(h)),) * count
    maps = (depth.float(), confidence, points.float())
    return Scene(np.ascontiguousarray(frames), ("room.mp4",) * count, times, content, cameras, *maps, "exact", False)
