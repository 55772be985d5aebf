"""tower_*: the vision tower under every feature selection, its properties, and encode_images behind it.

Outputs are `MODE@LAYER.batch`, `.hw`, `.list0` .., `.list_hw`, `.video`, `.video_hw`; without `MODE@LAYER.` they belong
to the tower encode_images uses, patch@-2. `extra.properties` holds properties by MODE@LAYER or by the type of projector
whose tokens the tower is to count. Which encoder it is, is found from the tensors.

Three things upstream gives are not what the project gives; they are made here from what it gives, by name:
`first_of` (h and w of the first image stand for a whole list), `as_batch` (the standard tower's list items are batches
of one), `upstream_num_patches` (the unmerged square divided by 4, also for odd sides).
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tubelet.families import onevision as ov
from tubelet.families.match import matches
from tubelet.integrations.llava import MERGES, VisionTower, encode_images
from tubelet.language.project.projector import build_projector

from ..cases import Case, Mismatch
from .onevision_convert import source_config
from .onevision_model import build

DEFAULT = "patch@-2"
PROJECTOR = "projector."
NAME = re.compile(r"(?:(?P<selection>\w+@-?\d+)\.)?(?P<kind>batch|hw|list\d+|list_hw|video|video_hw)")


class Towers:
    """One encoder from the case's weights, and a tower around it for each selection and each merge."""

    def __init__(self, case: Case) -> None:
        weights = {k: v for k, v in case.weights.items() if not k.startswith(PROJECTOR)}
        self.format = matches((ov.FAMILY,), weights)[0].format
        self.encoder = build(source_config(case.config, self.format), weights, self.format)

    def tower(self, selection: str, projector: str = "spatial_merge") -> VisionTower:
        feature, _, layer = selection.rpartition("@")
        return VisionTower(
            self.encoder, select_feature=feature, select_layer=int(layer), merge=MERGES.get(projector, 1)
        )


def run_tower(case: Case) -> None:
    towers = Towers(case)
    for name, wanted in case.meta.get("extra", {}).get("properties", {}).items():
        tower = towers.tower(name) if "@" in name else towers.tower(DEFAULT, name)
        for field, value in wanted.items():
            check_property(tower, f"properties of {name}: {field}", field, value)
    for grad in (False, True):  # without gradients a CPU runs in place; with them the plain modules run
        with torch.set_grad_enabled(grad):
            for name in case.outputs:
                check_output(case, towers, name)


def check_output(case: Case, towers: Towers, name: str) -> None:
    if name == "encode_images":
        case.check(name, encode_images(towers.tower(DEFAULT), projector_of(case), case.inputs["images"]))
        return
    match = NAME.fullmatch(name)
    if match is None:
        raise Mismatch(f"output {name} is not one the project gives")
    tower, kind = towers.tower(match["selection"] or DEFAULT), match["kind"]
    if kind.startswith("list"):
        features, h, w = tower(list_of(case), return_spatial_dims=True)
        if kind == "list_hw":
            case.check(name, torch.tensor(first_of(h, w)))
        else:
            item = features[int(kind.removeprefix("list"))]
            case.check(name, as_batch(item) if towers.format == "standard" else item)
        return
    features, h, w = tower(case.inputs["video" if kind.startswith("video") else "images"], return_spatial_dims=True)
    case.check(name, torch.tensor([h, w]) if kind.endswith("hw") else features)


def list_of(case: Case) -> list[Tensor]:
    count = sum(name.startswith("list") for name in case.inputs)
    return [case.inputs[f"list{i}"] for i in range(count)]


def projector_of(case: Case) -> torch.nn.Module:
    """The spatial merge projector with the case's weights, all of them and no other."""
    weights = {k.removeprefix(PROJECTOR): v for k, v in case.weights.items() if k.startswith(PROJECTOR)}
    width, out = weights["ln_q.weight"].shape[0], weights["mlp.2.weight"].shape[0]
    expected = case.meta.get("extra", {}).get("llm_dim", out)
    if out != expected:
        raise Mismatch(f"the projector's weights give {out} channels, the case says {expected}")
    merge = math.isqrt(weights["mlp.0.weight"].shape[1] // width)
    projector = build_projector("spatial_merge", width, out, merge=merge)
    projector.load_state_dict(weights, strict=True)
    return projector.eval()


# ---- what upstream says otherwise


def first_of(h: Sequence[int], w: Sequence[int]) -> tuple[int, int]:
    return h[0], w[0]


def as_batch(features: Tensor) -> Tensor:
    return features.unsqueeze(0)


def upstream_num_patches(tower: VisionTower) -> int:
    side = tower.image_size // tower.config.patch_size
    return side**2 // tower.merge**2


def check_property(tower: VisionTower, what: str, field: str, value: Any) -> None:
    """Raise Mismatch unless the tower says what the case says; sizes and types in the form JSON gives them."""
    got = getattr(tower, field, None)
    if field == "num_patches":
        side = tower.image_size // tower.config.patch_size
        if side % tower.merge == 0 and got != upstream_num_patches(tower):
            raise Mismatch(f"{what}: {got} for {side} patches a side and a merge of {tower.merge}")
        got = upstream_num_patches(tower)
    if isinstance(got, Tensor):
        got = list(got.shape)
    if isinstance(got, torch.dtype | torch.device):
        got, value = str(got).removeprefix("torch."), str(value).removeprefix("torch.")
    if got != value:
        raise Mismatch(f"{what} is {got}, expected {value}")
