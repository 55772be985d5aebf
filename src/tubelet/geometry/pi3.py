"""Pi3 on the packed engine: a point and a confidence for every pixel, a pose for every frame; no frame is the first.

    rows of pixels -> DINOv2 per frame -> [5 registers | patches] per frame -> 18 x (frame layer, scene layer)
                   -> three decoders of five frame layers: points in the frame's camera, confidence, poses

Items and scenes are VGGT's. Nothing says which frame of a scene comes when: frames in another order give the same in
that order. Poses and points are in a world of the scene's own, whose scale and place mean nothing.
Source: yyfz/Pi3:pi3/models/pi3.py, layers/@9fa3ddb and Wang et al., "Pi3: permutation-equivariant visual geometry
learning", 2025, written from their description. Differs: angles are float32 whatever the weights' type; confidence is
given as a probability.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.attention import resolve
from tubelet.encoder.config import EncoderConfig, Span
from tubelet.encoder.layers import Layer, LayerInputs, SegmentSpan, span_of
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, NotFinite, ShapeError
from tubelet.geometry.cameras import LEAST_FOV, MOST_FOV, Cameras, Size, cameras_of
from tubelet.geometry.rotation import orthogonal
from tubelet.geometry.vggt import VGGTConfig, vggt_config, with_random_weights
from tubelet.packed import Packed
from tubelet.packed.order import check_order
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Bool, Float


@dataclass(frozen=True)
class Pi3Config:
    """A network of the Pi3 kind, as data. Raises ConfigError where its parts do not fit.

    >>> pi3_config(layers=1, width=64, heads=2, patch_layers=1).decoder.layers
    5
    """

    trunk: VGGTConfig  # patches and aggregator, without heads
    decoder: EncoderConfig  # the layers of each of the three decoders
    out: int = 1024  # channels that the decoders of points and confidence give
    pose_out: int = 512  # channels that the decoder of poses gives

    def __post_init__(self) -> None:
        own, said = self.trunk.aggregator, self.decoder
        if (own.head_dim, own.rope, own.prefix) != (said.head_dim, said.rope, said.prefix) or own.prefix_first:
            raise ConfigError("decoders see the aggregator's rows where they stand", expected=own.head_dim)


def pi3_config(
    *,
    layers: int = 18,
    width: int = 1024,
    heads: int = 16,
    patch_layers: int | None = 24,
    table: int = 37,
    decoder_layers: int = 5,
    decoder_width: int | None = None,
    pose_out: int | None = None,
) -> Pi3Config:
    """The configuration of Pi3 in any size; `PI3` is the published one.

    layers: frame layers of the trunk, and as many scene layers. patch_layers: of DINOv2. decoder_width, pose_out: None
    for the trunk's and half of it.
    """
    trunk = vggt_config(layers=layers, width=width, heads=heads, patch_layers=patch_layers, table=table)
    aggregator = replace(trunk.aggregator, eps=1e-6, qk_eps=1e-5, prefix_first=False)
    wide = decoder_width or width
    decoder = replace(
        aggregator,
        hidden=wide,
        layers=decoder_layers,
        heads=wide * heads // width,
        mlp=4 * wide,
        spans=("frame",),
        qk_norm=None,
        qk_eps=None,
        scale=False,
        embed=False,
        patch_bias=False,
    )
    return Pi3Config(replace(trunk, aggregator=aggregator), decoder, wide, pose_out or wide // 2)


PI3 = pi3_config()


class FrameDecoder(nn.Module):
    """Layers that see a frame, over the aggregator's rows with their prefix tokens: (R, 2 C) -> (R, out)."""

    def __init__(self, config: Pi3Config, out: int) -> None:
        super().__init__()
        self.project = nn.Linear(config.trunk.kept_width, config.decoder.hidden)
        self.layers = nn.ModuleList(Layer(config.decoder, "frame") for _ in range(config.decoder.layers))
        self.out = nn.Linear(config.decoder.hidden, out)

    def forward(self, x: Float[Tensor, "R C"], inputs: LayerInputs) -> Float[Tensor, "R E"]:
        x = self.project(x)
        for layer in self.layers:
            x = layer(x, inputs)
        return self.out(x)


class PoseHead(nn.Module):
    """A frame's patches to a camera-to-world pose: two residual blocks, their mean, an MLP, the nearest rotation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        block = [nn.ModuleList(nn.Linear(width, width) for _ in range(3)) for _ in range(2)]
        self.blocks = nn.ModuleList(block)
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
        self.shift, self.rotation = nn.Linear(width, 3), nn.Linear(width, 9)

    def forward(self, x: Float[Tensor, "T E"], rows: Sequence[int]) -> Float[Tensor, "F 4 4"]:
        """rows: patches of each frame."""
        for block in self.blocks:
            y = x
            for linear in block:  # pyright: ignore[reportGeneralTypeIssues]  a ModuleList of linears
                y = F.relu(linear(y))
            x = x + y
        x = torch.stack([part.mean(dim=0) for part in x.split(list(rows))])
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        if not bool((known := x.isfinite().all(dim=1)).all()):  # no rotation is near NaN
            raise NotFinite("this frame's features hold NaN or infinity", item=int((~known).nonzero()[0]))
        turn = orthogonal(F.normalize(self.rotation(x).unflatten(-1, (3, 3)), dim=-1))
        pose = torch.cat([turn, self.shift(x)[..., None]], dim=-1)
        return torch.cat([pose, pose.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(pose), 1, 4)], dim=1)


@dataclass(frozen=True, eq=False)
class SeenPoints:
    """What `Pi3.run` gives of a pack."""

    cam_to_world: Float[Tensor, "F 4 4"]  # OpenCV's axes, in the world of the frame's scene
    local: tuple[Tensor, ...]  # of each item (t, H, W, 3): x, y, z in the frame's own camera, z > 0
    confidence: tuple[Tensor, ...]  # of each item (t, H, W), 0 to 1
    scenes: tuple[int, ...]  # how many consecutive items each scene has

    def points(self) -> tuple[Tensor, ...]:
        """Of each item (t, H, W, 3), in the world of its scene."""
        out, start = [], 0
        for local in self.local:
            pose = self.cam_to_world[start : start + len(local), None, None]
            out.append((pose[..., :3, :3] @ local[..., None])[..., 0] + pose[..., :3, 3])
            start += len(local)
        return tuple(out)

    def cameras(self, worlds: Sequence[str]) -> tuple[Cameras, ...]:
        """The cameras of each scene, whose worlds are named so. The network says no focal length: it is the one that
        fits the frame's points best, in squares of pixels, with the principal point in the middle. Where none above 0
        does, as with random weights, it is bounded and told in `bounded`, as `decode_poses` does.

        Raises ShapeError where names and scenes differ in number or frames of a scene in size.
        """
        if len(worlds) != len(self.scenes):
            expected = len(self.scenes)
            raise ShapeError(f"{len(worlds)} names for {expected} scenes", expected=expected, got=len(worlds))
        out, start = [], 0
        for world, (a, b) in zip(worlds, pairwise(accumulate(self.scenes, initial=0)), strict=True):
            sizes: set[Size] = {(x.shape[1], x.shape[2]) for x in self.local[a:b]}
            if len(sizes) != 1:
                raise ShapeError(f"frames of several sizes in scene {world!r}", item=a, expected=1, got=sorted(sizes))
            local = torch.cat(self.local[a:b])
            poses = self.cam_to_world[start : start + len(local)]
            k, bounded = _lenses(local)
            cameras = cameras_of(poses, k, sizes.pop(), world=world, direction="cam_to_world")
            out.append(replace(cameras, bounded=bounded))
            start += len(local)
        return tuple(out)


class Pi3(nn.Module):
    """A network of the Pi3 kind; see the module's head.

    >>> model = untrained_pi3(pi3_config(layers=1, width=64, heads=2, patch_layers=1))
    >>> p = tubelet.pack([torch.rand(3 * 4 * 6, 588)], [tubelet.Item.of(3, 4, 6)])
    >>> model.run(p).points()[0].shape
    torch.Size([3, 56, 84, 3])
    """

    def __init__(self, config: Pi3Config) -> None:
        super().__init__()
        self.config = config
        self.untrained = False  # whether the weights are random
        if config.trunk.patches is not None:
            self.patches = Encoder(config.trunk.patches)
        self.aggregator = Encoder(config.trunk.aggregator)
        pixels = config.trunk.pixels.patch**2
        self.points, self.point_map = FrameDecoder(config, config.out), nn.Linear(config.out, 3 * pixels)
        self.confidence, self.confidence_map = FrameDecoder(config, config.out), nn.Linear(config.out, pixels)
        self.poses, self.pose = FrameDecoder(config, config.pose_out), PoseHead(config.pose_out)

    @property
    def pixels(self) -> PixelRecipe:
        """How pictures become the rows this network reads."""
        return self.config.trunk.pixels

    def run(self, p: Packed, *, scenes: Sequence[int] | None = None) -> SeenPoints:
        """Points, confidence and poses of a pack of pixels, as `patchify` cuts them with `pixels`.

        scenes: how many consecutive items make each scene; None: an item each. Raises ShapeError for rows or scenes
        that do not fit: whole items in raster order. NotFinite naming a frame of the pack whose features are NaN.
        """
        if not p.whole:
            raise ShapeError("a map needs every row of its frames: no row may be dropped before")
        check_order(p, 1)
        trunk, last = self.config.trunk, self.config.trunk.states[-1]
        ran = self.aggregator.run(p if trunk.patches is None else self.patches(p), only=[last], scenes=scenes)
        x, layout, backend = ran.state(last), ran.layout, resolve("auto", p.device, self.aggregator.dtype)
        spans: dict[Span, SegmentSpan] = {"frame": span_of(layout.spans["frame"], backend, p.device)}
        inputs = LayerInputs(*self.aggregator.rotary_tables(p, layout), backend, spans)

        def decoded(decoder: FrameDecoder) -> Tensor:
            return layout.from_layout(decoder(x, inputs)).float()  # heads are float32, as what they give are lengths

        xyz = self._maps(p, self.point_map(decoded(self.points)))
        doubt = self._maps(p, self.confidence_map(decoded(self.confidence)))
        frames = [item.grid.h * item.grid.w for item in p.items for _ in range(item.grid.t)]
        depth = [m[..., 2:].exp() for m in xyz]
        return SeenPoints(
            self.pose(decoded(self.poses), frames),
            tuple(torch.cat([m[..., :2] * z, z], dim=-1) for m, z in zip(xyz, depth, strict=True)),
            tuple(m[..., 0].sigmoid() for m in doubt),
            (1,) * len(p) if scenes is None else tuple(scenes),
        )

    def _maps(self, p: Packed, rows: Float[Tensor, "T E"]) -> list[Tensor]:
        """Rows of (channel, y, x) in a patch as images: of each item (t, H, W, channels)."""
        side, out = self.pixels.patch, []
        for item, part in zip(p.items, rows.split(list(p.lengths)), strict=True):
            t, h, w = item.grid
            cells = part.view(t, h, w, -1, side, side).permute(0, 1, 4, 2, 5, 3)
            out.append(cells.reshape(t, h * side, w * side, -1))
        return out


def untrained_pi3(config: Pi3Config, seed: int = 0) -> Pi3:
    """The network with seeded random weights; what it says means nothing, and it says so."""
    with torch.device("meta"):
        model = Pi3(config)
    model.untrained = True
    return with_random_weights(model, seed)


def _lenses(local: Float[Tensor, "F H W 3"]) -> tuple[Float[Tensor, "F 3 3"], Bool[Tensor, " F"]]:
    """K of each frame, by least squares of u - W/2 = f x/z and of v - H/2 = f y/z over all its pixels, and where a
    field of view had to be bounded."""
    f, h, w, _ = local.shape
    ray = local[..., :2] / local[..., 2:]
    half = local.new_tensor([w / 2, h / 2])
    y, x = torch.meshgrid(torch.arange(h, device=local.device), torch.arange(w, device=local.device), indexing="ij")
    seen = torch.stack([x, y], dim=-1) - half
    said = (seen * ray).sum(dim=(1, 2)) / ray.square().sum(dim=(1, 2))  # of columns, of rows
    least, most = half / math.tan(MOST_FOV / 2), half / math.tan(LEAST_FOV / 2)
    focal = said.clamp(least, most)
    k = torch.zeros(f, 3, 3, dtype=local.dtype, device=local.device)
    k[:, 0, 0], k[:, 1, 1], k[:, 2, 2] = focal[:, 0], focal[:, 1], 1.0
    k[:, 0, 2], k[:, 1, 2] = half
    return k, (focal != said).any(dim=1)
