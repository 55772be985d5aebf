"""What a geometry network of the VGGT kind costs beside an encoder: FLOPs of every part by closed formulas, and stages.

    patches        DINOv2 over every frame                     linear in the frames
    frame layers   attention inside a frame                    linear
    scene layers   attention over all frames of a scene        quadratic: at 16 frames of 644 x 476 most of it
    camera         cameras of a scene see each other           hardly anything
    depth, points  convolutions over every pixel               linear
    connector      2 x 2 places of two frames to one row

Sizes come from `VGGTConfig` alone. Counted are products, as in tubelet.inspect.budget.flops.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tubelet.encoder.config import Span
from tubelet.errors import ShapeError
from tubelet.geometry.cost import camera_macs, dpt_macs
from tubelet.geometry.fuse import SPACE
from tubelet.geometry.heads import POSE
from tubelet.geometry.vggt import SPECIAL, VGGTConfig
from tubelet.inspect.budget.flops import attention_flop, encoder_flop, product_flop, segments_of_layers
from tubelet.inspect.budget.values import Downstream, PlannedItem, Stage, scenes_of
from tubelet.packed.grid import Grid
from tubelet.pixels.recipe import PixelRecipe

SCENE_LAYERS = "scene layers"


class Flop(NamedTuple):
    """FLOPs of one part. attention: the part of them that grows with the square of its segments."""

    all: int
    attention: int = 0


def vggt_flop(
    config: VGGTConfig,
    frames: Sequence[Grid],
    *,
    scenes: Sequence[int] | None = None,
    heads: Sequence[str] = (),
    level: int = -1,
) -> dict[str, Flop]:
    """FLOPs of one run by part, for items of these grids of single frames.

    scenes: how many consecutive items make each scene; None: an item each. heads: those that run, of those it has.
    level: the one whose features are kept; what comes after the deepest that is read does not run.

        >>> from tubelet.geometry.vggt import VGGT_1B
        >>> cost = vggt_flop(VGGT_1B, [Grid(16, 34, 46)], heads=("camera",))
        >>> {name: round(part.all / 2e12, 3) for name, part in cost.items()}  # 10^12 multiply-adds
        {'patches': 9.532, 'frame layers': 9.517, 'scene layers': 38.557, 'camera': 0.014}
    """
    out: dict[str, Flop] = {}
    if config.patches is not None:
        own = encoder_flop(config.patches, frames)
        out["patches"] = Flop(sum(own.values()), own["attention"])
    out |= _aggregator_flop(config, frames, scenes, max(config.levels_read((level,), heads)))
    for name in (name for name in config.heads if name in heads):
        head = getattr(config, name)
        if name == "camera":
            rows, attention = camera_macs(head, frames_of_scenes(frames, scenes))
            out[name] = Flop(2 * (rows + attention), 2 * attention)
        else:
            out[name] = Flop(2 * sum(grid.t * dpt_macs(head, grid.h, grid.w) for grid in frames))
    return out


def frames_of_scenes(frames: Sequence[Grid], scenes: Sequence[int] | None) -> tuple[int, ...]:
    """How many frames each scene has."""
    counts = iter(grid.t for grid in frames)
    return tuple(sum(next(counts) for _ in range(n)) for n in (scenes or (1,) * len(frames)))


def _aggregator_flop(
    config: VGGTConfig, frames: Sequence[Grid], scenes: Sequence[int] | None, deepest: int
) -> dict[str, Flop]:
    own = config.aggregator
    ran = own.layer_spans[: max(config.states[deepest])]
    rows = encoder_flop(own, frames)
    lengths = segments_of_layers(own, frames, scenes)
    out: dict[str, Flop] = {} if not own.embed else {"patches": Flop(rows["patch"])}
    named: dict[str, Span] = {"frame layers": "frame", SCENE_LAYERS: "scene"}
    for name, span in named.items():
        count = ran.count(span)
        attention = count * attention_flop(own.hidden, lengths[span])
        out[name] = Flop(count * rows["linear"] // own.layers + attention, attention)
    return out


def connector_flop(channels: int, rows: int, wide: int, width: int) -> int:
    """The connector's MLP on `rows` rows of `wide` channels, features of `channels` a place, to `width`."""
    hidden = 2 * SPACE * SPACE * channels
    return product_flop(rows, wide, hidden) + product_flop(rows, hidden, width)


# ---- beside an encoder


def frames_of_items(items: Sequence[PlannedItem], recipe: PixelRecipe) -> list[Grid]:
    """The frames inside the encoder's tubelets: what the network sees of each input."""
    return [Grid(i.grid.t * recipe.temporal, i.grid.h, i.grid.w) for i in items]


def geometry_stages(items: Sequence[PlannedItem], recipe: PixelRecipe, after: Downstream) -> list[Stage]:
    """What the network makes of the frames, and what its connector reads and gives: as many rows as merged tokens.

    Raises ShapeError for patches of another size than the network's, or that merge to rows of several widths.
    """
    config = after.geometry
    if config is None or not items:
        return []
    if config.pixels.patch != recipe.patch:
        expected, got = config.pixels.patch, recipe.patch
        raise ShapeError(f"patches of {got} pixels beside a network of {expected}", expected=expected, got=got)
    frames = frames_of_items(items, recipe)
    cost = vggt_flop(config, frames, scenes=scenes_of(items), heads=config.heads, level=after.level)
    count, rows = sum(g.t for g in frames), sum(g.rows for g in frames)
    inside, hidden = rows + SPECIAL * count, config.aggregator.hidden
    shapes: dict[str, tuple[int | None, ...]] = {
        "patches": (rows, hidden),
        "frame layers": (inside, hidden),
        SCENE_LAYERS: (inside, hidden),
        "camera": (count, POSE),
        "depth": (rows * config.pixels.patch**2,),
        "points": (rows * config.pixels.patch**2, 3),
    }
    tokens = {SPECIAL + g.h * g.w for g in frames}
    whole = (count, tokens.pop()) if len(tokens) == 1 else (inside,)
    stages = [Stage(f"geometry {name}", shapes[name], *part) for name, part in cost.items()]
    stages.insert(list(cost).index(SCENE_LAYERS) + 1, Stage("aggregator", (*whole, config.kept_width)))
    return [*stages, *_connector_stages(items, frames, config.kept_width, after)]


def _connector_stages(
    items: Sequence[PlannedItem], frames: Sequence[Grid], channels: int, after: Downstream
) -> list[Stage]:
    merged = sum(i.merged.rows for i in items)
    wides = {channels * grid.rows // i.merged.rows for i, grid in zip(items, frames, strict=True)}
    if len(wides) != 1:
        raise ShapeError("tokens of the inputs stand for several numbers of patches", got=tuple(sorted(wides)))
    (wide,) = wides
    out = [Stage("connector input", (merged, wide))]
    if after.language_width is None:
        return out
    flop = connector_flop(channels, merged, wide, after.language_width)
    return [*out, Stage("connector", (merged, after.language_width), flop)]
