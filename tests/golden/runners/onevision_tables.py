"""temporal_tables, ov2_tables, std_residual_topk: integer rules, compared value by value."""

import math
import re
from collections.abc import Callable

import torch
from tests.golden.upstream import onevision_time as time
from torch import Tensor

from tubelet.families import onevision as ov
from tubelet.packed import Grid
from tubelet.pixels.sizes import ov2_smart_resize

from ..cases import Case, Mismatch


def column(rows: list[list[int]], compute: Callable[[list[int]], list[int]], keys: int) -> Tensor:
    """`rows` rebuilt: the first `keys` numbers of each as they are, the rest computed from them."""
    return torch.tensor([row[:keys] + compute(row) for row in rows], dtype=torch.int64)


def run_temporal_tables(case: Case) -> None:
    grids = [Grid(*row) for row in case.inputs["grid_thw"].tolist()] if "grid_thw" in case.inputs else []
    compute: dict[str, Callable[[list[int]], list[int]]] = {
        "interp": lambda r: [time.interpolate_frame_indices([r[2]], r[0], r[1])[0]],
        "linspace": lambda r: [time.linspace_frame_indices(r[0])[r[1]]],
    }
    keys = {"interp": 3, "linspace": 2}
    for name, want in case.outputs.items():
        if name == "positions":
            case.check(name, time.build_positions(grids))
        elif name in compute:
            case.check(name, column(want.tolist(), compute[name], keys[name]))


def run_ov2_tables(case: Case) -> None:
    compute: dict[str, Callable[[list[int]], list[int]]] = {
        "smart_resize": lambda r: list(ov2_smart_resize(r[0], r[1], r[2], r[3] or None, r[4] or None)),
        "select_frames": lambda r: [time.select_frames(r[0], r[1])[r[2]]],
        "choose_frames": lambda r: [
            time.choose_frames(r[0] / 10, r[1], fixed=r[2] or None, fps=r[3] / 10 if r[3] else None)
        ],
    }
    keys = {"smart_resize": 5, "select_frames": 3, "choose_frames": 4}
    for name, want in case.outputs.items():
        merge = re.fullmatch(r"pos_merge(\d+)", name)
        if merge:
            grids = scaled_grids(case.config["grids"], int(merge[1]), want.shape[0])
            case.check(name, time.build_positions(grids, merge=int(merge[1]), frames=frame_lists(case, grids)))
        elif name in compute:
            case.check(name, column(want.tolist(), compute[name], keys[name]))


def scaled_grids(grids: list[list[int]], merge: int, rows: int) -> list[Grid]:
    """The case's grids with h and w scaled to multiples of `merge`: the scale is the one that gives `rows` rows."""
    for base in range(1, 9):
        if all(h % base == 0 and w % base == 0 for _, h, w in grids):
            out = [Grid(t, h // base * merge, w // base * merge) for t, h, w in grids]
            if sum(math.prod(grid) for grid in out) == rows:
                return out
    raise Mismatch(f"no scale of {grids} has {rows} rows for merge {merge}")


def frame_lists(case: Case, grids: list[Grid]) -> list[list[int]] | None:
    """Real frame numbers where the case lists them for its grids."""
    frames = case.meta.get("extra", {}).get("frame_indices")
    return frames if frames and [len(f) for f in frames] == [g.t for g in grids] else None


def run_residual_topk(case: Case) -> None:
    patch = int(case.config.get("patch_size", 16))
    for name in case.outputs:
        match = re.fullmatch(r"k(\d+)\.(visible_indices|visible_mask|ids_restore)", name)
        if match:
            result = ov.mask_by_residual_topk(case.inputs["res"], int(match[1]), patch)
            case.check(name, result[("visible_indices", "visible_mask", "ids_restore").index(match[2])])
