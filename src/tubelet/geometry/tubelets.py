"""Which frames make a tubelet: pairs, singles, or pairs only where the view hardly changes.

A tubelet of two frames is one row W0 x_a + W1 x_b: it names a place when a and b are neighbours, and a sum of two
places when frames were chosen far apart. A tubelet of one frame is (W0 + W1) x, which equals giving the frame twice, at
half the cost. One plan is read by all that need it: pixels, features of a geometry network, positions and budgets.

    frames 0 1 2 3 4     pairs (0 1) (2 3) (4)       singles (0) (1) (2) (3) (4)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, ShapeError
from tubelet.geometry.views import view_changes
from tubelet.packed import Grid, Item, Packed


@dataclass(frozen=True)
class TubeletPlan:
    """The frames of each tubelet of one video, in the order of time. Raises ShapeError.

    >>> TubeletPlan(((0, 1), (2,)), (0.0, 0.5, 4.0)).times_s
    (0.25, 4.0)
    """

    tubelets: tuple[tuple[int, ...], ...]  # numbers of frames, one or two each
    frame_times_s: tuple[float, ...]  # of every frame the numbers count

    def __post_init__(self) -> None:
        count = len(self.frame_times_s)
        if not self.tubelets:
            raise ShapeError("a video has at least one tubelet", limit=1, got=0)
        for i, frames in enumerate(self.tubelets):
            if len(frames) not in (1, 2) or any(not 0 <= f < count for f in frames):
                raise ShapeError(
                    f"a tubelet holds one or two of {count} frames, got {frames}", item=i, limit=count, got=frames
                )

    def __len__(self) -> int:
        return len(self.tubelets)

    @property
    def times_s(self) -> tuple[float, ...]:
        """The mean time of each tubelet's frames."""
        return tuple(sum(self.frame_times_s[f] for f in own) / len(own) for own in self.tubelets)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """First and second frame of each tubelet, a single one twice: what a two-frame patch embedding reads."""
        return tuple((own[0], own[-1]) for own in self.tubelets)

    @property
    def in_pairs(self) -> bool:
        """Whether the tubelets are (0, 1), (2, 3), ...: then nothing has to be gathered."""
        return self.tubelets == tuple((2 * i, 2 * i + 1) for i in range(len(self.tubelets)))


def paired(times_s: Sequence[float]) -> TubeletPlan:
    """Consecutive frames in pairs; the last of an odd number by itself, which equals repeating it."""
    n = len(times_s)
    return TubeletPlan(tuple((i, i + 1) if i + 1 < n else (i,) for i in range(0, n, 2)), tuple(times_s))


def singles(times_s: Sequence[float]) -> TubeletPlan:
    """Every frame by itself: for frames that were chosen far apart."""
    return TubeletPlan(tuple((i,) for i in range(len(times_s))), tuple(times_s))


def pair_by_view(cam_to_world: Tensor, times_s: Sequence[float], *, limit: float = 0.2) -> TubeletPlan:
    """Two consecutive frames in a pair where the view changes by at most `limit` (`view_changes`), else single ones.

    Pairs are made from the first frame on. One sync. Raises ShapeError where cameras and times differ in number.

        >>> len(pair_by_view(torch.eye(4).expand(4, 4, 4), (0.0, 1.0, 2.0, 3.0)))
        2
    """
    if len(cam_to_world) != len(times_s):
        raise ShapeError(
            f"{len(cam_to_world)} cameras for {len(times_s)} frames", expected=len(times_s), got=len(cam_to_world)
        )
    near = [change <= limit for change in view_changes(cam_to_world).tolist()]
    out: list[tuple[int, ...]] = []
    i = 0
    while i < len(times_s):
        two = i < len(near) and near[i]
        out.append((i, i + 1) if two else (i,))
        i += 2 if two else 1
    return TubeletPlan(tuple(out), tuple(times_s))


# ---- pixels


def tubelet_pixels(p: Packed, plans: Sequence[TubeletPlan]) -> Packed:
    """Rows of single frames, (T, 3 p p), as rows of tubelets, (T', 3 2 p p): channel, frame, y, x.

    p: whole items in raster order, or in block order, which stays. A single frame stands twice: the plain way, whatever
    the plan. Where every tubelet is single, `fold_encoder` reads the frames as they are. Raises ShapeError.
    """
    check_plans(p, plans)
    parts: list[Tensor] = []
    items: list[Item] = []
    pos: list[Tensor] = []
    for rows, places, item, plan in zip(p.unpack(), p.pos.split(p.lengths), p.items, plans, strict=True):
        frames = rows.view(item.grid.t, -1, 3, 1, rows.shape[1] // 3)
        first, second = (frames[[pair[k] for pair in plan.pairs]] for k in (0, 1))
        parts.append(torch.cat([first, second], dim=3).flatten(2).flatten(0, 1))
        items.append(planned_item(item, plan))
        pos.append(planned_places(places, item.grid, len(plan)))
    lengths = tuple(len(part) for part in parts)
    return Packed(torch.cat(parts), torch.cat(pos), tuple(items), lengths)


def planned_item(item: Item, plan: TubeletPlan) -> Item:
    """The item with a row of time for each tubelet."""
    return replace(item, grid=Grid(len(plan), item.grid.h, item.grid.w), times_s=plan.times_s)


def planned_places(places: Tensor, grid: Grid, tubelets: int) -> Tensor:
    """The places of an item's first frame for each tubelet: the order of rows inside a frame stays."""
    frame = places[: grid.h * grid.w]
    out = frame.repeat(tubelets, 1)
    out[:, 0] = torch.arange(tubelets, device=out.device, dtype=out.dtype).repeat_interleave(len(frame))
    return out


def check_plans(p: Packed, plans: Sequence[TubeletPlan]) -> None:
    """Raises ShapeError unless there is one plan for the frames of each item, and no row was dropped."""
    if len(plans) != len(p):
        raise ShapeError(f"{len(plans)} plans for {len(p)} items", expected=len(p), got=len(plans))
    if not p.whole:
        raise ShapeError("tubelets are made of whole frames, before rows are dropped")
    for i, (item, plan) in enumerate(zip(p.items, plans, strict=True)):
        if len(plan.frame_times_s) != item.grid.t:
            raise ShapeError(
                f"a plan of {len(plan.frame_times_s)} frames for {item.grid.t}",
                item=i,
                expected=item.grid.t,
                got=len(plan.frame_times_s),
            )


def fold_encoder(encoder: Encoder) -> Encoder:
    """The encoder for single frames: its recipe cuts tubelets of one frame, its patch matrix is the sum over frames.

    Gives on each frame what `encoder` gives on the frame twice, reading half the values. All other weights are shared
    with `encoder`. Raises ConfigError where its tubelets have one frame already.
    """
    recipe = encoder.config.pixels
    if recipe.temporal == 1:
        raise ConfigError("this encoder's tubelets have one frame already", expected=2, got=1)
    single = replace(encoder.config, pixels=replace(recipe, temporal=1))
    with torch.device("meta"):
        folded = Encoder(single, encoder.options)
    state = dict(encoder.state_dict(keep_vars=True))
    area = recipe.patch * recipe.patch
    weight = state["patch.weight"].detach()
    state["patch.weight"] = torch.nn.Parameter(
        weight.view(len(weight), 3, recipe.temporal, area).sum(dim=2).flatten(1), requires_grad=False
    )
    folded.load_state_dict(state, strict=True, assign=True)
    folded.untrained = encoder.untrained
    return folded.train(encoder.training)
