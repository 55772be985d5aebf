"""Features by tubelet and choice of frames: tubelet against upstream's way of doing the same.

    python benchmarks/geometry.py            writes results/geometry.json
    python benchmarks/geometry.py --quick    three rounds of smaller inputs, written as geometry_quick.json

Upstream's way is written plainly below, from its description: features copied to channels first and back for the
connector, voxels of each frame as a Python set. Results must be equal before anything is timed. Scenes are in
geometry_scenes.py.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import harness
import tubelet
from tubelet.geometry.fuse import gather_tubelets
from tubelet.geometry.sampling import cover_space
from tubelet.geometry.tubelets import paired


@dataclass(frozen=True)
class Settings:
    rounds: int
    frames: int = 16  # of the clip that is merged, 476 x 644
    channels: int = 2048
    pool: int = 128  # frames to choose from
    points: tuple[int, int] = (98, 130)  # a quarter of VGGT's 392 x 518 along each side
    keep: int = 16


def upstream_merge(scenes: list[Tensor], h: int, w: int) -> Tensor:
    """(S, 5 + h w, C) of each scene -> rows of (dy, dx, C, frame): a copy with channels first, another with blocks
    first and channels and frames last, and a third that joins the scenes, also where there is one."""
    rows = []
    for x in scenes:
        s, _, c = x.shape
        maps = x[:, 5:].view(s, h, w, c).permute(0, 3, 1, 2).contiguous()
        blocks = maps.view(s // 2, 2, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 4, 6, 2, 1).contiguous()
        rows.append(blocks.view(-1, 8 * c))
    return torch.cat(rows)


def merging(settings: Settings) -> dict[str, Any]:
    """The clip's features in version 1.0's order against version 1.1's: a connector reads either after loading."""
    h, w, c = 34, 46, settings.channels
    x = torch.randn(settings.frames, 5 + h * w, c)
    p = tubelet.pack([x[:, 5:].reshape(-1, c)], [tubelet.Item.of(settings.frames, h, w)])
    plan = paired([float(i) for i in range(settings.frames)])
    mine = gather_tubelets(p, [plan]).x
    assert torch.equal(mine.view(-1, 2, 2, 2, c).permute(0, 2, 3, 4, 1).flatten(1), upstream_merge([x], h, w))
    del mine
    turns: dict[str, Callable[[], object]] = {
        "tubelet": lambda: gather_tubelets(p, [plan]),
        "upstream's copies of features": lambda: upstream_merge([x], h, w),
        "floor: a copy of as many bytes": lambda: p.x.clone(),
    }
    return harness.compare("merge", turns, rounds=settings.rounds, unit="clip")


def with_sets(points: np.ndarray, confidence: np.ndarray, keep: int) -> list[int]:
    """Greedy maximum coverage with a Python set of voxels for each frame."""
    seen = confidence >= np.percentile(confidence, 50)
    rows = points[seen]
    low = rows.min(axis=0)
    edge = (rows.max(axis=0) - low).min() / np.float32(20)
    sets = []
    for own, mask in zip(points, seen, strict=True):
        sets.append({tuple(cell) for cell in np.floor((own[mask] - low) / edge).astype(np.int64)})
    covered: set[tuple[int, ...]] = set()
    chosen: list[int] = []
    while len(chosen) < keep:
        gains = [len(one - covered) for one in sets]
        best = int(np.argmax(gains))
        if not gains[best]:
            break
        chosen.append(best)
        covered |= sets[best]
    return chosen


def sampling(settings: Settings) -> dict[str, Any]:
    """A camera that goes along a corridor: each frame sees a stretch of walls and floor."""
    g = np.random.default_rng(0)
    shape = (settings.pool, *settings.points)
    along = np.linspace(0, 30, settings.pool)[:, None, None] + 4 * g.random(shape)
    points = np.stack([6 * g.random(shape), 3 * g.random(shape), along], axis=-1).astype(np.float32)
    confidence = (1 + g.random(shape)).astype(np.float32)
    assert list(cover_space(points, confidence, settings.keep).order) == with_sets(points, confidence, settings.keep)
    turns: dict[str, Callable[[], object]] = {
        "tubelet": lambda: cover_space(points, confidence, settings.keep),
        "Python sets": lambda: with_sets(points, confidence, settings.keep),
    }
    return harness.compare("space-aware sampling", turns, rounds=settings.rounds, unit="video")


def main() -> None:
    parser = argparse.ArgumentParser(description="Geometry, against upstream's way.")
    parser.add_argument("--quick", action="store_true", help="three rounds of smaller inputs")
    quick = parser.parse_args().quick
    settings = Settings(3, channels=256, pool=24, points=(28, 37)) if quick else Settings(rounds=5)
    torch.set_num_threads(1)
    results = {"merge": merging(settings), "sampling": sampling(settings)}
    print(f"\nwritten: {harness.save('geometry_quick' if quick else 'geometry', results, settings=settings).name}")


if __name__ == "__main__":
    main()
