"""projector_*: LLaVA's projectors. Batches [B, N, C] become packs of B items, and go through weights saved and loaded.

spatial_merge cases have the projector's own keys and inputs x<n> with their grids hw<n>; the other cases have one
projector for each output, named by its kind, with weight.<kind>.<key> and input.<kind>.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.language.project.compat import infer_hw
from tubelet.language.project.files import load_projector
from tubelet.language.project.projector import Projector, build_projector
from tubelet.packed import Item, Packed, pack

from ..cases import Case, Mismatch

UPSTREAM: dict[str, dict[str, Any]] = {"pooler": {"odd": "crop"}, "patch_merger": {"compat": "consecutive"}}


def load(weights: Mapping[str, Tensor], kind: str, **options: Any) -> Projector:
    """A projector from a file with LLaVA's names, as a user gets one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mm_projector.safetensors"
        save_file({f"model.mm_projector.{k}": v.contiguous() for k, v in weights.items()}, str(path))
        return load_projector(path, kind=kind, **options)


def project(projector: Projector, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, N, C] of one grid -> [B, M, D]: all at once, which must be what each gives alone."""
    items = [Item.of(1, *grid, picture=i) for i in range(len(x))]
    out = projector(pack(list(x), items))
    for rows, item, alone in zip(x, items, out.unpack(), strict=True):
        near = 1e-4 if x.dtype == torch.float32 else 5e-2
        torch.testing.assert_close(projector(pack([rows], [item])).x, alone, rtol=near, atol=near)
    return torch.stack(out.unpack())


def check_widths(projector: Projector, config: Mapping[str, Any], names: tuple[str, str]) -> None:
    widths = projector.config.in_dim, projector.config.out_dim
    if widths != tuple(config[n] for n in names):
        raise Mismatch(f"the weights are {widths[0]} -> {widths[1]}, the configuration says otherwise")


def run_projector(case: Case) -> None:
    if "ln_q.weight" in case.weights:
        run_spatial_merge(case)
    else:
        run_by_kind(case)


# ---- one projector for each output


def run_by_kind(case: Case) -> None:
    side = int(case.config["image_size"]) // int(case.config["patch_size"])
    for kind in case.outputs:
        weights = {k.removeprefix(f"{kind}."): v for k, v in case.weights.items() if k.startswith(f"{kind}.")}
        x = case.inputs[kind]
        if kind == "identity":
            projector = build_projector(kind, x.shape[-1], x.shape[-1])
        else:
            projector = load(weights, kind, **UPSTREAM.get(kind, {}))
            check_widths(projector, case.config, ("mm_hidden_size", "hidden_size"))
        with torch.no_grad():
            case.check(kind, project(projector, x, (side, side)))
            if kind == "patch_merger" and side % projector.config.merge == 0:
                in_blocks = in_block_order(x, side, projector.config.merge)
                case.check(kind, torch.stack(load(weights, kind)(in_blocks).unpack()))


def in_block_order(x: Tensor, side: int, merge: int) -> Packed:
    """The same rows, taken for block order: then the project's own way joins the rows that upstream joins."""
    return pack(list(x), [Item.of(1, side, side, picture=i) for i in range(len(x))], merge=merge)


# ---- the spatial merge, its gradients and its guess


def run_spatial_merge(case: Case) -> None:
    told = load(case.weights, "spatial_merge")
    guessing = load(case.weights, "spatial_merge", compat="infer_hw")
    check_widths(told, case.config, ("vit_dim", "llm_dim"))
    merge = int(case.config.get("spatial_merge_size", 2))
    if told.config.merge != merge:
        raise Mismatch(f"the weights merge {told.config.merge}, the configuration says {merge}")
    for name in case.outputs:
        match = re.fullmatch(r"(explicit|inferred_hw|inferred)(.*)", name)
        kind, key = (match[1], match[2]) if match else ("explicit", f"_{name}")
        if name == "infer_table":
            rows = case.outputs[name][:, 0].tolist()
            case.check(name, torch.tensor([[n, *guess(n, merge)] for n in rows]))
        elif kind == "inferred_hw":
            case.check(name, torch.tensor(guess(case.inputs[f"x{key}"].shape[1], merge)))
        elif f"x{key}" in case.inputs:
            x = case.inputs[f"x{key}"]
            grid = grid_of(case, key)
            with torch.no_grad():
                # the guess takes nothing from the grid it is given: a line of as many rows does as well
                line = (1, x.shape[1])
                case.check(name, project(guessing, x, line) if kind == "inferred" else project(told, x, grid))
    if "x_grad" in case.inputs:
        run_gradients(case, told)


def guess(rows: int, merge: int) -> tuple[int, int]:
    """What `infer_hw` says; 0, 0 where it refuses."""
    try:
        return infer_hw(rows, merge)
    except ShapeError:
        return 0, 0


def grid_of(case: Case, key: str) -> tuple[int, int]:
    """The grid of an input: its own hw, or the one the case's text gives, or that of an input with as many rows."""
    if f"hw{key}" in case.inputs:
        h, w = case.inputs[f"hw{key}"].tolist()
        return h, w
    rows = case.inputs[f"x{key}"].shape[1]
    text = re.findall(r"hw ?= ?[(\[](\d+), *(\d+)[)\]]", str(case.meta.get("description", "")))
    told = [(int(h), int(w)) for h, w in text]
    told += [(int(v[0]), int(v[1])) for k, v in case.inputs.items() if k.startswith("hw")]
    for h, w in told:
        if h * w == rows:
            return h, w
    raise Mismatch(f"the case does not say the grid of x{key}")


def run_gradients(case: Case, projector: Projector) -> None:
    """loss = mean(y cot), and its gradients by input and weights, for all items at once."""
    projector.zero_grad()
    x = case.inputs["x_grad"].clone().requires_grad_()
    h, w = grid_of(case, "_grad")
    out = projector(pack(list(x), [Item.of(1, h, w, picture=i) for i in range(len(x))]))
    y = torch.stack(out.unpack())
    loss = (y * case.inputs["cot"]).mean()
    loss.backward()
    got = {f"grad.{name}": weight.grad for name, weight in projector.named_parameters()}
    got |= {"grad_y": y, "grad_input": x.grad, "grad_loss": loss, "loss": loss}
    for name, value in got.items():
        if name in case.outputs and value is not None:
            case.check(name, value)
