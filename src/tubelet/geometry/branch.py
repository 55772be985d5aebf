"""Geometry beside an encoder: the frames inside a pack of tubelets through VGGT and a connector, one row a token.

    tubelets of pixels, blocks of 2 x 2           (t h w, 3 x 2 x 14 x 14)
    their frames in raster order                  (2 t h w, 3 x 14 x 14)        frames_of, one copy
    VGGT's features of one level                  (2 t h w, 2 C)
    tubelets of 2 x 2 places                      (t h w / 4, 16 C)             gather_tubelets
    rows of the language model's width            (t h w / 4, D)                Connector

The pixels are those of the encoder: nothing is read or resized twice, and what is packed together stays so.
Source: diankun-wu/Spatial-MLLM:src/qwenvl/model/spatial_mllm.py, spatial_encoder.py@9fc4738. Differs in that stills,
odd numbers of frames and several videos work, and that one level of VGGT is kept and not all 24.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tubelet.errors import ConfigError, NotFinite, ShapeError
from tubelet.geometry.fuse import SPACE, Connector, connector_tensors, gather_tubelets, load_connector
from tubelet.geometry.tubelets import paired
from tubelet.geometry.vggt import VGGT
from tubelet.geometry.vggt_keys import load_vggt, to_theirs
from tubelet.packed import Grid, Packed, all_positions
from tubelet.packed.order import check_order
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.locate import CheckpointFolder
from tubelet.weights.tensors import TensorReader

NETWORK, CONNECTOR = "spatial_encoder.vggt_model.", "connector."
FRAMES = 2  # of a tubelet


def frames_of(p: Packed, pixels: PixelRecipe, target: PixelRecipe) -> Packed:
    """The frames that whole tubelets hold, an item of 2 t frames each, rows in raster order. One copy.

    pixels: the recipe the tubelets were cut with, in block order; target: whose mean and std rows of floats get. uint8
    rows stay so. A picture is a tubelet of the same frame twice. Raises ShapeError for rows in another order and where
    rows were dropped, ConfigError for tubelets that do not hold two frames.

        >>> recipe = PixelRecipe(14, temporal=2, merge=2, order="block")
        >>> frames_of(tubelet.pack([torch.zeros(8, 1176)], [tubelet.Item.of(2, 2, 2)]), recipe, PixelRecipe(14))
        Packed(T=16, D=588, float32, cpu, 1 items: [4x2x2])
    """
    side = pixels.patch
    if (pixels.temporal, pixels.merge, target.patch, target.temporal) != (FRAMES, SPACE, side, 1):
        raise ConfigError(
            f"tubelets of {pixels.temporal} frames of {side} pixels, {pixels.merge} x {pixels.merge} a token, hold no "
            f"frames of {target.patch}",
            expected=(FRAMES, SPACE, target.patch),
            got=(pixels.temporal, pixels.merge, side),
        )
    if not p.whole:
        raise ShapeError("frames are made of whole tubelets, before rows are dropped")
    if p.x.shape[1] != pixels.width:
        raise ShapeError(f"rows of {p.x.shape[1]} values", expected=pixels.width, got=p.x.shape[1])
    check_order(p, SPACE)
    items = tuple(
        replace(i, grid=Grid(FRAMES * i.grid.t, i.grid.h, i.grid.w), times_s=tuple(s for s in i.times_s for _ in "ab"))
        for i in p.items
    )
    lengths = tuple(FRAMES * n for n in p.lengths)
    out = p.x.new_empty(sum(lengths), 3 * side * side)
    start = 0
    for rows, item, n in zip(p.unpack(), p.items, lengths, strict=True):
        t, h, w = item.grid
        seen = rows.view(t, h // SPACE, w // SPACE, SPACE, SPACE, 3, FRAMES, side * side)
        into = out[start : start + n].view(t, FRAMES, h // SPACE, SPACE, w // SPACE, SPACE, 3, side * side)
        into.copy_(seen.permute(0, 6, 1, 3, 2, 4, 5, 7))
        start += n
    if out.is_floating_point():
        out = _renormalised(out, pixels, target)
    return Packed(out, all_positions(items).to(out.device), items, lengths)


def _renormalised(x: Tensor, pixels: PixelRecipe, target: PixelRecipe) -> Tensor:
    """(x std + mean - mean') / std', channel by channel."""
    mean, std, mean_, std_ = (
        torch.tensor(v, dtype=torch.float32, device=x.device)[:, None]
        for v in (pixels.mean, pixels.std, target.mean, target.std)
    )
    return (x.unflatten(1, (3, -1)).float() * (std / std_) + (mean - mean_) / std_).flatten(1)


class SpatialBranch(nn.Module):
    """VGGT and a connector beside an encoder: patches of the encoder -> rows that are added to its merged tokens.

    pixels: how the encoder's patches are cut. level: of VGGT, whose features are taken; the last one in what is
    published. Heads of VGGT do not run. Raises ConfigError where the two do not fit.

        >>> from tubelet.geometry.vggt import untrained_vggt, vggt_config
        >>> vggt = untrained_vggt(vggt_config(layers=1, width=64, heads=2, patch_layers=None))
        >>> branch = SpatialBranch(vggt, Connector(128, 32), PixelRecipe(14, temporal=2, merge=2, order="block"))
        >>> branch(tubelet.pack([torch.zeros(16, 1176)], [tubelet.Item.of(1, 4, 4)], merge=2)).x.shape
        torch.Size([4, 32])
    """

    def __init__(self, vggt: VGGT, connector: Connector, pixels: PixelRecipe, *, level: int = -1) -> None:
        super().__init__()
        wide, levels = vggt.config.kept_width, len(vggt.config.states)
        if connector.channels != wide:
            got = connector.channels
            raise ConfigError(f"a connector of {got} channels behind features of {wide}", expected=wide, got=got)
        if connector.frames != FRAMES:
            raise ConfigError("a connector of single frames reads no pairs", expected=FRAMES, got=connector.frames)
        if not -levels <= level < levels:
            raise ConfigError(f"there is no level {level} of {levels}", limit=levels, got=level)
        self.vggt, self.connector = vggt, connector
        self.pixels, self.level = pixels, level

    def forward(self, p: Packed, *, scenes: Sequence[int] | None = None) -> Packed:
        """Rows of the merged grids. scenes: how many consecutive items each scene has; None: an item each.

        Raises ShapeError for rows that are not the encoder's whole patches and scenes that do not add up.
        """
        frames = frames_of(p, self.pixels, self.vggt.pixels)
        level = self.level % len(self.vggt.config.states)
        features = self.vggt.run(frames, scenes=scenes, keep=(level,), heads=()).kept[level]
        plans = [paired([float(f) for f in range(item.grid.t)]) for item in features.items]
        return self.connector(gather_tubelets(features, plans))


def picture_scenes(p: Packed, stills: Sequence[bool]) -> tuple[int, ...]:
    """Scenes of one question's items: stills of one size that follow each other are views of one place, a clip is a
    scene by itself. stills: of each item, whether it is a still; a clip of two frames is one tubelet as well.

        >>> rows, picture = [torch.zeros(4, 1)] * 3, tubelet.Item.of(1, 2, 2)
        >>> picture_scenes(tubelet.pack(rows, [picture] * 3), [True, True, False])
        (2, 1)
    """
    return still_scenes([item.grid for item in p.items], stills)


def still_scenes(grids: Sequence[Grid], stills: Sequence[bool]) -> tuple[int, ...]:
    """`picture_scenes` of items of these grids."""
    scenes: list[int] = []
    before = None
    for grid, still in zip(grids, stills, strict=True):
        if still and grid == before:
            scenes[-1] += 1
        else:
            scenes.append(1)
        before = grid if still else None
    return tuple(scenes)


def several(p: Packed, scenes: Sequence[int] | None, branch: SpatialBranch | None) -> tuple[int, ...] | None:
    """The scenes; None where each item is one by itself. Raises ConfigError where there is no branch that sees them,
    ShapeError where they do not add up to the items.

        >>> several(tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 2, 2)]), None, None) is None
        True
    """
    if scenes is None:
        return None
    if branch is None:
        raise ConfigError("this model has no geometry that sees scenes", expected=None, got=tuple(scenes)[:8])
    if min(scenes, default=0) < 1 or sum(scenes) != len(p):
        raise ShapeError(f"scenes of {sum(scenes)} items for {len(p)}", expected=len(p), got=tuple(scenes)[:8])
    return None if max(scenes) == 1 else tuple(scenes)


# ---- weights


def load_branch(
    folder: CheckpointFolder,
    pixels: PixelRecipe,
    *,
    level: int = -1,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> SpatialBranch:
    """The branch in a checkpoint of Spatial-MLLM; heads of VGGT are neither read nor asked for.

    Raises KeyMismatch, ConfigError, NotFinite and what `load_vggt` raises.
    """
    vggt = load_vggt(folder, heads=(), config=None, prefix=NETWORK, dtype=dtype, device=device)
    keys = {key for key in folder.home if key.startswith(CONNECTOR)}
    checkpoint = folder.checkpoint(keys)
    with TensorReader(checkpoint) as read:
        weights = {key.removeprefix(CONNECTOR): read(key).to(device, dtype, copy=True) for key in sorted(keys)}
    for name, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise NotFinite(f"NaN or infinity in {CONNECTOR}{name}", source=folder.name, got=name)
    return SpatialBranch(vggt, load_connector(weights), pixels, level=level).eval()


def branch_tensors(branch: SpatialBranch) -> dict[str, Tensor]:
    """The weights under upstream's names."""
    network = to_theirs(branch.vggt.state_dict(), branch.vggt.config)
    out = {NETWORK + name: tensor for name, tensor in network.items()}
    return out | {CONNECTOR + name: tensor for name, tensor in connector_tensors(branch.connector).items()}
