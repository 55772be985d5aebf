"""golden/shirg, LaViDa's own code: views of a picture, pooling, joining and placing, tables of positions resized."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tubelet.encoder.config import Table
from tubelet.encoder.table import PositionTable
from tubelet.language.placing.place import place
from tubelet.language.placing.prompt import expand_placeholders
from tubelet.language.placing.rules import LLAVA
from tubelet.packed import pack
from tubelet.packed.grid import Item
from tubelet.pixels.patchify import patchify, unpatchify
from tubelet.pixels.recipe import HALF, PixelRecipe
from tubelet.pixels.views import LAVIDA, view_items
from tubelet.pixels.views_plan import ViewRule
from tubelet.reading.clip import Clip
from tubelet.reduce.join import join_views, pooled_views

from ..cases import Case, Mismatch

SIDE = 384
WHOLE = PixelRecipe(24, mean=HALF, std=HALF, resampler="pillow")  # a patch that divides a view, so all of it is there
JOINS = {"flat": "flat", "spatial": "spatial", "spatial_unpad": "unpad"}


def run_lavida(case: Case) -> None:
    for prefix, runner in (
        ("lavida_anyres", run_views),
        ("lavida_best", run_sizes),
        ("lavida_pool", run_pool),
        ("lavida_splice", run_splice),
        ("position_table", run_table),
    ):
        if case.name.startswith(prefix):
            return runner(case)
    raise Mismatch(f"no runner for {case.name}")


def rule_of(case: Case, **changes: Any) -> ViewRule:
    """LaViDa's rule with the case's pinpoints, which it writes (width, height)."""
    said = case.meta["params"].get("grid_pinpoints")
    pinpoints = LAVIDA.pinpoints if said is None else tuple((h, w) for w, h in said)
    return replace(LAVIDA, pinpoints=pinpoints, **changes)


def run_views(case: Case) -> None:
    picture = case.inputs["image"].permute(1, 2, 0).contiguous()
    rule = rule_of(case)
    p = patchify([Clip(picture.numpy()[None], (0.0,))], WHOLE, views=rule)
    views = torch.stack([frames[0].permute(2, 0, 1) for frames in unpatchify(p, WHOLE)]).float() / 127.5 - 1
    tiling = rule.tiling(*picture.shape[:2])
    case.check("crops", views[:, :, 180:204, 180:204])
    case.check("view_mean", views.flatten(1).mean(dim=1))
    case.check("view_std", views.flatten(1).std(dim=1))
    case.check("n_views", torch.tensor([len(views)]))
    case.check("best_resolution", torch.tensor([tiling.pad.width, tiling.pad.height]))


def run_sizes(case: Case) -> None:
    rule = rule_of(case)
    found = [rule.tiling(height, width) for width, height in case.inputs["sizes_wh"].tolist()]
    case.check("best_resolution_wh", torch.tensor([(t.pad.width, t.pad.height) for t in found]))
    case.check("grid_wh", torch.tensor([(t.cols, t.rows) for t in found]))


def run_pool(case: Case) -> None:
    params, x = case.meta["params"], case.inputs["features"]
    side = round(x.shape[1] ** 0.5)
    p = pack(list(x), [Item.of(1, side, side, picture=n) for n in range(len(x))])
    pooled = pooled_views(p, rule_of(case, pool=params["mode"], stride=params["stride"]))
    case.check("pooled", torch.stack(pooled.unpack()))


def run_splice(case: Case) -> None:
    """The prompt as placed: rows in place of the one placeholder, text around them from the table."""
    params, table = case.meta["params"], case.inputs["embed"]
    width, height = params["image_size"]
    rule = rule_of(case, join=JOINS[params["mm_patch_merge_type"]])
    items = [item for _, item in view_items(height, width, (0.0,), 0, PixelRecipe(14), rule)]
    items = items[: len(case.inputs["features"])]  # the global view alone, where a case has one view
    rows = join_views(pooled_views(pack(list(case.inputs["features"]), items), rule), rule, case.inputs["newline"])
    ids = params["input_ids"]
    prompt = expand_placeholders(ids, [sum(rows.lengths)], LLAVA, labels=ids)
    given, labels = torch.tensor(prompt.ids)[None], torch.tensor(prompt.labels)[None]

    def embed(wanted: Tensor) -> Tensor:
        return table[wanted]

    seq = place(rows, given, LLAVA, embed=embed, labels=labels)
    case.check("inputs_embeds", seq.inputs_embeds)
    assert seq.labels is not None
    case.check("labels", seq.labels)
    case.check("input_ids", given)


def run_table(case: Case) -> None:
    weight = case.inputs["table"]
    old, new = (round(n**0.5) for n in (len(weight), case.meta["params"]["tokens"]))
    table = PositionTable(Table(old, old, "bicubic"), weight.shape[1])
    assert table.weight is not None
    table.weight.data = weight
    case.check("interpolated", table.resized(new, new, weight.device))
