"""Features of a geometry network joined with the merged tokens of an encoder: gather by tubelet, connect, add.

    frames of features, C channels each            (F h w, C)      from a geometry network, in raster order
    tubelets of 2 x 2 places                       (n, 2 2 2 C)    gather_tubelets, one copy
    the language model's width, added to tokens    (n, D)          Connector, fuse

A row's channels stand as (frame, dy, dx, C) here, so that whole vectors of C are copied: the order of version 1.0 of
Spatial-MLLM. Version 1.1 was trained with (dy, dx, C, frame). Its weights are permuted once when they are loaded, and
back when they are saved; rows never are.
Source: diankun-wu/Spatial-MLLM:src/qwenvl/model/connector/mlp_add_connector.py@9fc4738 and, on branch v1.0,
src/models/modeling_qwen2_5_vl.py@3a8c647. Differs in that stills, odd numbers of frames and several videos work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.errors import ConfigError, KeyMismatch, ShapeError
from tubelet.geometry.tubelets import TubeletPlan, check_plans
from tubelet.packed import Grid, Packed, all_positions
from tubelet.packed.order import check_order
from tubelet.shapes import Float
from tubelet.weights.tensors import compare_names, entries_of

Version = Literal["1.0", "1.1"]
SPACE = 2  # places along each side that become one row

# ours -> upstream's, of each version
NAMES: dict[Version, dict[str, str]] = {
    "1.1": {"norm": "ln_q", "fc1": "mlp.0", "fc2": "mlp.2"},
    "1.0": {
        "norm": "token_merge_ln_q",
        "fc1": "token_merge_mlp.0",
        "fc2": "token_merge_mlp.2",
        "norm2": "vgg_to_language_ln_q",
        "fc3": "vgg_to_language_mlp.0",
        "fc4": "vgg_to_language_mlp.2",
    },
}


def gather_tubelets(features: Packed, plans: Sequence[TubeletPlan], *, frames: int = 2) -> Packed:
    """One row for each 2 x 2 places of each tubelet, 4 C channels a frame in the order (frame, dy, dx, C). One copy.

    features: whole items of frames in raster order, one plan each. A tubelet of one frame has it twice; with frames=1
    it has it once, and all must be single. Rows come out in raster order of (tubelets, h / 2, w / 2), which is the
    order of the encoder's merged tokens. Raises ShapeError naming the item with an odd side, with another number of
    frames than its plan, or with a pair where frames=1.

        >>> p = tubelet.pack([torch.arange(8.0)[:, None]], [tubelet.Item.of(2, 2, 2)])
        >>> gather_tubelets(p, [TubeletPlan(((0, 1),), (0.0, 0.5))]).x.tolist()
        [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]
    """
    check_plans(features, plans)
    check_order(features, 1)
    channels = features.x.shape[1]
    items = []
    for i, (item, plan) in enumerate(zip(features.items, plans, strict=True)):
        _, h, w = item.grid
        if h % SPACE or w % SPACE:
            raise ShapeError(f"a {h} x {w} grid has no 2 x 2 blocks", item=i, expected=SPACE, got=item.grid)
        if not 1 <= frames <= 2 or frames < max(len(own) for own in plan.tubelets):
            raise ShapeError(f"tubelets of two frames in rows of {frames}", item=i, limit=frames, got=2)
        items.append(replace(item, grid=Grid(len(plan), h // SPACE, w // SPACE), times_s=plan.times_s))
    lengths = tuple(item.grid.rows for item in items)
    out = features.x.new_empty(sum(lengths), frames * SPACE * SPACE * channels)
    start = 0
    for rows, item, plan, made in zip(features.unpack(), features.items, plans, items, strict=True):
        n, h, w = made.grid
        seen = rows.view(item.grid.t, h, SPACE, w, SPACE, channels)
        into = out[start : start + made.grid.rows].view(n, h, w, frames, SPACE, SPACE, channels)
        for k in range(frames):
            own = seen[k::2] if plan.in_pairs else seen[[pair[k] for pair in plan.pairs]]
            into[:, :, :, k].copy_(own.permute(0, 1, 3, 2, 4, 5))
        start += made.grid.rows
    return Packed(out, all_positions(items).to(out.device), tuple(items), lengths)


class Connector(nn.Module):
    """Rows of `gather_tubelets` to the width of the tokens: a norm and an MLP; in version 1.0 twice. Packed -> Packed.

    x -> fc2(gelu(fc1(norm x))), norms with eps 1e-6 and statistics in float32. Cost per row: 2 (8 C)^2 FLOP and more.
    Raises ShapeError for rows of another width.

        >>> connector = Connector(channels=4, width=12)
        >>> sum(p.numel() for p in connector.parameters())
        1484
    """

    def __init__(self, channels: int, width: int, version: Version = "1.1", *, frames: int = 2) -> None:
        super().__init__()
        if version not in get_args(Version):
            raise ConfigError(f"a connector's version is one of {get_args(Version)}", expected=NAMES, got=version)
        self.channels, self.width, self.frames = channels, width, frames
        self.version: Version = version
        wide = frames * SPACE * SPACE * channels
        hidden = 2 * SPACE * SPACE * channels
        self.norm = nn.RMSNorm(wide, eps=1e-6)
        self.fc1 = nn.Linear(wide, hidden)
        self.fc2 = nn.Linear(hidden, width)
        twice = version == "1.0"
        self.norm2 = nn.RMSNorm(width, eps=1e-6) if twice else None
        self.fc3 = nn.Linear(width, width) if twice else None
        self.fc4 = nn.Linear(width, width) if twice else None

    def forward(self, tubelets: Packed) -> Packed:
        wide = self.fc1.in_features
        if tubelets.x.shape[1] != wide:
            raise ShapeError(
                f"rows hold {tubelets.x.shape[1]} channels, this connector reads {wide}",
                expected=wide,
                got=tubelets.x.shape[1],
            )
        return tubelets.with_x(self.rows(tubelets.x.to(self.fc1.weight.dtype)))

    def rows(self, x: Float[Tensor, "T W"]) -> Float[Tensor, "T D"]:
        """`forward` of bare rows."""
        x = self.fc2(F.gelu(self.fc1(self.norm(x))))
        if self.norm2 is None or self.fc3 is None or self.fc4 is None:
            return x
        return self.fc4(F.gelu(self.fc3(self.norm2(x))))

    def folded(self) -> "Connector":
        """The connector for tubelets of one frame: gives on 4 C channels what this gives on them twice, at half of fc1.

        The root mean square of a vector and of the vector twice are the same; gain times matrix is summed over frames.
        For inference: fc1 is a copy, the rest is shared. Raises ConfigError where it reads one frame already.
        """
        if self.frames == 1:
            raise ConfigError("this connector reads tubelets of one frame already", expected=2, got=1)
        with torch.device("meta"):
            out = Connector(self.channels, self.width, self.version, frames=1)
        state = dict(self.state_dict(keep_vars=True))
        both = (self.fc1.weight.detach() * self.norm.weight.detach()).unflatten(1, (2, -1)).sum(dim=1)
        gain = torch.ones_like(both[0])
        state["fc1.weight"], state["norm.weight"] = (nn.Parameter(x, requires_grad=False) for x in (both, gain))
        out.load_state_dict(state, strict=True, assign=True)
        return out.train(self.training)


def fuse(tokens: Packed, spatial: Packed) -> Packed:
    """The encoder's merged tokens plus the connector's rows, which must be of the same grids and the same width.

    Raises ShapeError naming the first item that differs.

        >>> p = tubelet.pack([torch.ones(4, 8)], [tubelet.Item.of(1, 2, 2)])
        >>> fuse(p, p).x.equal(2 * p.x)
        True
    """
    if len(tokens) != len(spatial):
        raise ShapeError(f"{len(spatial)} items beside {len(tokens)}", expected=len(tokens), got=len(spatial))
    for i, (mine, theirs) in enumerate(zip(tokens.items, spatial.items, strict=True)):
        if mine.grid != theirs.grid or tokens.lengths[i] != spatial.lengths[i]:
            raise ShapeError(
                f"tokens of grid {tuple(mine.grid)} beside {tuple(theirs.grid)}",
                item=i,
                expected=mine.grid,
                got=theirs.grid,
            )
    if tokens.x.shape != spatial.x.shape:
        got = spatial.x.shape[1]
        raise ShapeError(f"{got} channels beside {tokens.x.shape[1]}", expected=tokens.x.shape[1], got=got)
    return tokens.with_x(tokens.x + spatial.x.to(tokens.dtype))


# ---- weights in upstream's names and order


def load_connector(weights: Mapping[str, Tensor], *, version: Version | None = None) -> Connector:
    """A connector of upstream's tensors; sizes, and the version unless told, come from their names and shapes.

    Columns of version 1.1 are permuted here, once. Raises ConfigError for weights of the other version, KeyMismatch
    listing what is missing, unexpected or misshaped.

        >>> again = load_connector(connector_tensors(Connector(4, 12)))
        >>> again.version
        '1.1'
    """
    found: Version | None = next((v for v, names in NAMES.items() if f"{names['norm']}.weight" in weights), None)
    if found is None:
        missing = sorted(f"{names['norm']}.weight" for names in NAMES.values())
        raise KeyMismatch("no connector of either version is here", missing=missing, unexpected=sorted(weights)[:8])
    if version is not None and version != found:
        raise ConfigError(f"the connector is of version {found}, not {version}", expected=version, got=found)
    wide = weights[f"{NAMES[found]['norm']}.weight"].numel()
    last = weights.get(f"{NAMES[found]['fc2']}.weight")
    if not wide or wide % (2 * SPACE * SPACE) or last is None or last.ndim != 2 or not len(last):
        raise KeyMismatch(f"no connector has a norm of {wide} and no last matrix", missing=(NAMES[found]["fc2"],))
    with torch.device("meta"):
        connector = Connector(wide // (2 * SPACE * SPACE), last.shape[0], found)
    names = {ours: _their_name(ours, found) for ours in connector.state_dict()}
    own = {theirs: tuple(connector.state_dict()[ours].shape) for ours, theirs in names.items()}
    compare_names(own, entries_of(weights), (), "connector")
    state = {ours: _ordered(ours, weights[theirs], found, back=False) for ours, theirs in names.items()}
    connector.load_state_dict(state, strict=True, assign=True)
    return connector


def connector_tensors(connector: Connector) -> dict[str, Tensor]:
    """The weights under upstream's names and in its order of channels. Raises ConfigError for a folded one."""
    if connector.frames != 2:
        raise ConfigError("a folded connector has no upstream form", expected=2, got=connector.frames)
    return {
        _their_name(ours, connector.version): _ordered(ours, value, connector.version, back=True)
        for ours, value in connector.state_dict().items()
    }


def _their_name(ours: str, version: Version) -> str:
    part, _, leaf = ours.partition(".")
    return f"{NAMES[version][part]}.{leaf}"


def _ordered(ours: str, value: Tensor, version: Version, *, back: bool) -> Tensor:
    """Channels of the first norm and of the columns of fc1: (dy dx C, frame) of version 1.1 <-> (frame, dy dx C)."""
    if version != "1.1" or ours not in ("norm.weight", "fc1.weight"):
        return value
    return value.unflatten(-1, (2, -1) if back else (-1, 2)).mT.flatten(-2).contiguous()
