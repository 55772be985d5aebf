"""VGGT on the packed engine: tokens of frames that know their scene, cameras, depth and points. Packed in, Packed out.

    rows of pixels -> DINOv2 per frame -> [camera | 4 registers | patches] per frame -> 24 x (frame layer, scene layer)
                   -> camera head: poses of all frames;  DPT heads: depth and points of every pixel

An item is a video of frames of one size (one frame a row of time) or a picture; a scene is one item, or as many as
`scenes` says. Scenes of different size and length stand in one pack. Which frame is a scene's first counts, the order
of the others does not. Only the layers that are asked for are kept: 0.1 GB instead of 2.5 GB at 16 frames of 476 x 644.
Attention over a scene is quadratic in its rows, and runs in memory that is not.
Source: diankun-wu/Spatial-MLLM:src/qwenvl/external/vggt/models/aggregator.py, vggt.py, layers/@9fc4738, written from
their description. Differs: angles are float32 whatever the weights' type.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from tubelet.encoder.config import EncoderConfig, Rope, Table
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, ShapeError
from tubelet.geometry.cameras import Cameras, Size, decode_poses
from tubelet.geometry.heads import CameraConfig, CameraHead, DPTConfig, DPTHead
from tubelet.packed import Packed
from tubelet.packed.order import check_order
from tubelet.pixels.recipe import IMAGENET_MEAN, IMAGENET_STD, PixelRecipe

M = TypeVar("M", bound=nn.Module)
SPECIAL = 5  # a camera token and four registers before the patches of each frame
CHUNK = 4  # frames that a DPT head sees at once


@dataclass(frozen=True)
class VGGTConfig:
    """A network of the VGGT kind, as data. Raises ConfigError where its parts do not fit.

    >>> vggt_config(layers=2, width=64, heads=4).kept_width
    128
    """

    aggregator: EncoderConfig  # layers that see a frame and a scene in turn
    patches: EncoderConfig | None  # what makes its rows; None: its own patch embedding
    camera: CameraConfig | None = None
    depth: DPTConfig | None = None
    points: DPTConfig | None = None

    def __post_init__(self) -> None:
        names = self.aggregator.layer_spans
        if set(names) != {"frame", "scene"} or names.count("frame") != names.count("scene"):
            raise ConfigError("as many layers see a frame as see a scene", expected=("frame", "scene"), got=names)
        if (self.patches is None) != self.aggregator.embed:
            raise ConfigError("rows are embedded by patches or by the aggregator", got=self.aggregator.embed)
        if self.patches is not None and self.patches.out != self.aggregator.hidden:
            expected, got = self.aggregator.hidden, self.patches.out
            raise ConfigError(f"patches of {got} channels for an aggregator of {expected}", expected=expected, got=got)
        for head in (self.camera, self.depth, self.points):
            if head is not None and head.width != self.kept_width:
                got = head.width
                raise ConfigError(f"a head of {got} on {self.kept_width} channels", expected=self.kept_width, got=got)

    @property
    def pixels(self) -> PixelRecipe:
        """How pictures become rows."""
        return self.aggregator.pixels if self.patches is None else self.patches.pixels

    @property
    def kept_width(self) -> int:
        """Channels of what a level gives: those of its frame layer, then those of its scene layer."""
        return 2 * self.aggregator.hidden

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads it has."""
        return tuple(name for name in ("camera", "depth", "points") if getattr(self, name) is not None)

    def levels_read(self, keep: Sequence[int] = (), heads: Sequence[str] = ()) -> tuple[int, ...]:
        """The levels, from 0 and in order, whose states these results are made of: no other is kept. Without results
        it is the last."""
        levels = len(self.states)
        read = {level % levels for level in keep}
        for name, head in (("depth", self.depth), ("points", self.points)):
            read |= set(head.layers) if name in heads and head is not None else set()
        if not read or (self.camera is not None and "camera" in heads):
            read.add(levels - 1)
        return tuple(sorted(read))

    @property
    def states(self) -> tuple[tuple[int, int], ...]:
        """Of each level, from 0, the hidden states of its frame layer and its scene layer."""
        found = {
            s: [i + 1 for i, own in enumerate(self.aggregator.layer_spans) if own == s] for s in ("frame", "scene")
        }
        return tuple(zip(found["frame"], found["scene"], strict=True))


def vggt_config(
    *,
    layers: int = 24,
    width: int = 1024,
    heads: int = 16,
    patch_layers: int | None = 24,
    patch_heads: int | None = None,
    table: int = 37,
    camera: CameraConfig | None = None,
    depth: DPTConfig | None = None,
    points: DPTConfig | None = None,
    spans: tuple[str, ...] = ("frame", "scene"),
) -> VGGTConfig:
    """The configuration of VGGT in any size; `VGGT_1B` is the published one.

    layers: frame layers, and as many scene layers. patch_layers: of DINOv2; None: one matrix instead. table: places a
    side of its learned positions.
    """
    recipe = PixelRecipe(14, "smart", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    bare = {"pool": False, "pre_norm": False, "scale": True, "prefix": SPECIAL, "prefix_per": "frame"}
    patches = None
    if patch_layers is not None:
        places = Table(table, table, "bicubic_antialias", prefix=True)
        patches = EncoderConfig(
            *(width, patch_layers, patch_heads or heads, 4 * width, recipe),
            **{**bare, "rope": None, "patch_bias": True, "spans": ("frame",), "table": places},
        )
    aggregator = EncoderConfig(
        *(width, 2 * layers, heads, 4 * width, recipe),
        **{**bare, "eps": 1e-5, "post_norm": False, "prefix_first": True, "qk_norm": "layer", "spans": spans},
        rope=Rope("rotation", 100.0, (0, 1, 1), layout="halves", origin=1),
        embed=patches is None,
        patch_bias=patches is None,
    )
    return VGGTConfig(aggregator, patches, camera, depth, points)


VGGT_1B = vggt_config(
    camera=CameraConfig(2048), depth=DPTConfig(2048), points=DPTConfig(2048, out=4, activation="inv_log")
)


@dataclass(frozen=True, eq=False)
class SceneFeatures:
    """What `VGGT.run` gives of a pack; only what was asked for and what the network has heads for."""

    kept: dict[int, Packed]  # level -> (T, 2 C) rows in the pack's order: frame layer's channels, then scene layer's
    special: dict[int, Tensor]  # level -> (F, 5, 2 C): the camera token and registers of every frame
    frames: tuple[int, ...]  # how many each item has
    sizes: tuple[Size, ...]  # (height, width) in pixels of every item's frames
    scenes: tuple[int, ...]  # how many consecutive items each scene has
    poses: tuple[Tensor, ...] = ()  # (F, 9) pose encodings of each iteration, the last the best
    depth: tuple[Tensor, ...] = ()  # of each item (t, H, W), in the unit of its scene
    depth_confidence: tuple[Tensor, ...] = ()  # of each item (t, H, W), from 1 up
    points: tuple[Tensor, ...] = ()  # of each item (t, H, W, 3), in the world of its scene's first camera
    points_confidence: tuple[Tensor, ...] = ()  # of each item (t, H, W)

    def cameras(self, worlds: Sequence[str]) -> tuple[Cameras, ...]:
        """The cameras of each scene, whose worlds are named so.

        Raises ConfigError without a camera head, ShapeError where names and scenes differ in number or the items of a
        scene have frames of several sizes, which one value of cameras cannot hold.
        """
        if not self.poses:
            raise ConfigError("no camera head has run", expected="camera", got=None)
        if len(worlds) != len(self.scenes):
            expected = len(self.scenes)
            raise ShapeError(f"{len(worlds)} names for {expected} scenes", expected=expected, got=len(worlds))
        out, start = [], 0
        for world, (a, b) in zip(worlds, pairwise(accumulate(self.scenes, initial=0)), strict=True):
            own = set(self.sizes[a:b])
            if len(own) != 1:
                raise ShapeError(f"frames of several sizes in scene {world!r}", item=a, expected=1, got=sorted(own))
            count = sum(self.frames[a:b])
            out.append(decode_poses(self.poses[-1][start : start + count], own.pop(), world=world))
            start += count
        return tuple(out)


class VGGT(nn.Module):
    """A network of the VGGT kind; see the module's head. Heads the configuration lacks do not exist.

    >>> model = untrained_vggt(vggt_config(layers=1, width=64, heads=2, patch_layers=1, camera=CameraConfig(128, 1, 2)))
    >>> p = tubelet.pack([torch.rand(3 * 4 * 6, 588)], [tubelet.Item.of(3, 4, 6)])
    >>> model.run(p).poses[-1].shape
    torch.Size([3, 9])
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        self.untrained = False  # whether the weights are random
        if config.patches is not None:
            self.patches = Encoder(config.patches)
        self.aggregator = Encoder(config.aggregator)
        self.camera = None if config.camera is None else CameraHead(config.camera)
        self.depth = None if config.depth is None else DPTHead(config.depth)
        self.points = None if config.points is None else DPTHead(config.points)

    @property
    def pixels(self) -> PixelRecipe:
        """How pictures become the rows this network reads."""
        return self.config.pixels

    def forward(self, p: Packed, *, scenes: Sequence[int] | None = None) -> Packed:
        """Features of every row after the last level, (T, 2 C). No head runs, and nothing else is kept."""
        last = len(self.config.states) - 1
        return self.run(p, scenes=scenes, keep=(last,), heads=()).kept[last]

    def run(
        self,
        p: Packed,
        *,
        scenes: Sequence[int] | None = None,
        keep: Sequence[int] = (),
        heads: Sequence[str] = ("camera", "depth", "points"),
    ) -> SceneFeatures:
        """Features and the heads' results of a pack of pixels, as `patchify` cuts them with `pixels`.

        scenes: how many consecutive items make each scene; None: an item each. keep: levels, from 0, whose rows are
        wanted; negative ones count from the last. heads: those that run, where the network has them. Cost:
        `tubelet.geometry.cost.vggt_macs`. Raises ShapeError for rows or scenes that do not fit (DPT heads need whole
        items in raster order), ConfigError for a level or head there is none of.
        """
        config, levels = self.config, len(self.config.states)
        wrong = [k for k in keep if not -levels <= k < levels] + [
            h for h in heads if h not in ("camera", "depth", "points")
        ]
        if wrong:
            raise ConfigError(f"there is no level or head {wrong[0]!r}", limit=levels, got=wrong[0])
        keep = tuple(k % levels for k in keep)
        dense = {
            name: head for name in ("depth", "points") if name in heads and (head := getattr(self, name)) is not None
        }
        camera = self.camera if "camera" in heads else None
        rows = p if config.patches is None else self.patches(p)
        pairs = {level: config.states[level] for level in config.levels_read(keep, heads)}
        until = max(number for pair in pairs.values() for number in pair)
        ran = self.aggregator.run(rows, only=tuple(pairs.values()), until=until, scenes=scenes)
        frames = ran.layout.units_of(p)
        scenes = (1,) * len(p) if scenes is None else tuple(scenes)
        per_scene = [sum(frames[a:b]) for a, b in pairwise(accumulate(scenes, initial=0))]
        special: dict[int, Tensor] = {}
        for level in keep:
            own = ran.prefixes(pairs[level])
            assert own is not None
            special[level] = own
        patch = config.pixels.patch
        out = SceneFeatures(
            {level: ran.rows(p, pairs[level]) for level in keep},
            special,
            frames,
            tuple((item.grid.h * patch, item.grid.w * patch) for item in p.items),
            scenes,
        )
        if camera is not None:
            tokens = ran.prefixes(pairs[levels - 1])
            assert tokens is not None
            out = replace(out, poses=camera(tokens[:, 0], per_scene))
        for name, head in dense.items():
            layers = [ran.rows(p, pairs[level]) for level in head.config.layers]
            values, confidence = dense_maps(head, layers)
            squeezed = tuple(v[..., 0] for v in values) if name == "depth" else values
            out = replace(out, **{name: squeezed, f"{name}_confidence": confidence})
        return out


def dense_maps(head: DPTHead, layers: Sequence[Packed]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The head's map and confidence of every item of the pack, `CHUNK` frames at a time."""
    if not layers[0].whole:
        raise ShapeError("a map needs every row of its frames: no row may be dropped before")
    check_order(layers[0], 1)
    values, confidences = [], []
    for i, item in enumerate(layers[0].items):
        t, h, w = item.grid
        maps = [layer.x[layer.starts[i] : layer.starts[i + 1]].view(t, h, w, -1) for layer in layers]
        parts = [head([m[a : a + CHUNK] for m in maps]) for a in range(0, t, CHUNK)]
        values.append(torch.cat([value for value, _ in parts]))
        confidences.append(torch.cat([confidence for _, confidence in parts if confidence is not None]))
    return tuple(values), tuple(confidences)


def untrained_vggt(config: VGGTConfig, seed: int = 0) -> VGGT:
    """The network with seeded random weights, for trying things out; what it says means nothing, and it says so."""
    with torch.device("meta"):
        model = VGGT(config)
    model.untrained = True
    return with_random_weights(model, seed)


def with_random_weights(model: M, seed: int) -> M:
    """A network made on meta with seeded random weights, in eval mode: small ones, biases 0, other vectors 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in model.state_dict().items():
        if name.endswith("bias"):
            state[name] = torch.zeros(like.shape)
        else:
            state[name] = (
                torch.ones(like.shape) if like.ndim == 1 else torch.randn(like.shape, generator=generator) * 0.02
            )
    model.load_state_dict(state, assign=True)
    return model.eval()
