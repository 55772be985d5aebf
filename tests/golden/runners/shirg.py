"""golden/shirg: every version of the selection, its parts, pooled views, and what it trained with."""

import re
from collections.abc import Callable

import torch
from tests.golden.upstream import shirg_training
from torch import Tensor

from tubelet.reduce.history import fovea as shirg_fovea
from tubelet.reduce.history import scale as shirg_scale
from tubelet.reduce.history import v1 as shirg_v1
from tubelet.reduce.history import v2 as shirg_v2
from tubelet.reduce.history.fovea import Pooling
from tubelet.reduce.history.parts import Chosen, best_of_regions, cosmax
from tubelet.reduce.history.versions import VERSIONS

from ..cases import Case, Mismatch

SELECTIONS = {
    r"v1b_var_maxdot": "shirg-v1b",
    r"v2_single": "shirg-v2",
    r"v2_multiview_4608": "shirg-v2-views",
    r"v2_summary": "shirg-v2-summary",
    r"v3_attention": "shirg-v3",
    r"x_selection_clamped": "shirg-x-merge",
    r"x_selection": "shirg-x",
    r"fixed768": "shirg-fixed",
    r"fixed1152": "shirg-fixed-1152",
    r"dist_merge": "shirg-dual",
    r"fovea_topk_05b260e": "shirg-fovea",
    r"fovea_topk_ff3dcac": "shirg-fovea3",
}
POOLS: dict[str, Pooling] = {
    "fovea5_global_pool": "cropped",
    "fovea2_global_pool_196of784": "padded",
    "fovea2_global_pool_256": "halved",
}


def run_shirg(case: Case) -> None:
    parts: dict[str, Callable[[Case], None]] = {
        "v1_saliency": run_v1_saliency,
        "v1_forward": run_v1_forward,
        "v2_coverage": run_v2_parts,
        "v2_multiview_edge": run_v2_parts,
        "v3_components": run_v3_parts,
        "x_components": run_x_parts,
        "x_adaptive": run_x_budget,
        "fixed_coverage": run_regions,
        "dist_neighbor": run_dual_parts,
        "fovea2_components": run_fovea_parts,
        "fovea2_forward": run_fovea_forward,
        "fovea2_merge_similar": run_fovea_merge,
        "fovea2_global": run_pool,
        "fovea5_global": run_pool,
        "rotary": run_coordinates,
        "token_dropout": run_dropout,
        "infonce": run_info_nce,
    }
    for prefix, runner in parts.items():
        if case.name.startswith(prefix):
            return runner(case)
    return run_selection(case)


def run_selection(case: Case) -> None:
    x, text, params = case.inputs["tokens"], case.inputs.get("text"), case.meta["params"]
    name, options = version_of(case)
    check_chosen(case, x, VERSIONS[name].run(x, text, budget=params["K"], **options))


def version_of(case: Case) -> tuple[str, dict[str, float]]:
    if match := re.match(r"distmod_([0-9a-f]{7})", case.name):
        return f"shirg-modular-{match[1]}", {}
    if "method" in case.meta["params"]:
        return f"shirg-fovea2-{case.meta['params']['method']}", case.meta["params"]["params"]
    for pattern, name in SELECTIONS.items():
        if case.name.startswith(pattern):
            return name, {}
    raise Mismatch(f"{case.name} is no version the project has")


def check_chosen(case: Case, x: Tensor, chosen: Chosen) -> None:
    """Tokens, and the row each equals: by what the version says, and by looking for the token among the input's."""
    case.check("tokens", chosen.tokens)
    case.check("index", chosen.index)
    if not torch.equal(found_in(x, chosen.tokens), chosen.index):
        raise Mismatch("index: not the rows the tokens are")
    if "coords" in case.outputs:
        assert chosen.coords is not None
        case.check("coords", chosen.coords)


def found_in(x: Tensor, tokens: Tensor) -> Tensor:
    """The first row of each image that a token equals exactly, -1 where none does."""
    same = (tokens[:, :, None] == x[:, None]).all(dim=3)
    return torch.where(same.any(dim=2), same.int().argmax(dim=2), -1)


# ---- version 1


def run_v1_saliency(case: Case) -> None:
    alpha = case.meta["params"]["alpha"]
    case.check("saliency", shirg_v1.v1_saliency(case.inputs["tokens"], case.inputs["text"], alpha))


def run_v1_forward(case: Case) -> None:
    x, text, params = case.inputs["tokens"], case.inputs["text"], case.meta["params"]
    case.check("group_of_token", shirg_v1.v1_groups(x.shape[1], params["target_tokens"]))
    saliency = [shirg_v1.v1_saliency(image, words, params["alpha"]) for image, words in zip(x, text, strict=True)]
    case.check("saliency", torch.stack(saliency))
    check_chosen(case, x, shirg_v1.v1(x, text, budget=params["target_tokens"], alpha=params["alpha"]))


# ---- versions 2 and 3


def run_v2_parts(case: Case) -> None:
    if "coverage_index" in case.outputs:
        case.check("coverage_index", shirg_v2.v2_coverage(case.inputs["scores"], case.meta["params"]["min_regions"]))
    else:
        case.check("edge", shirg_v2.v2_multiview_edge(case.inputs["tokens"]))


def run_v3_parts(case: Case) -> None:
    x, text = case.inputs["tokens"], case.inputs["text"]
    importance = shirg_v2.v3_importance(x)
    case.check("attention_importance", importance)
    case.check("spatial_gradient", shirg_v2.v3_gradient(x))
    case.check("text_relevance", cosmax(x, text))
    case.check("coverage_index", shirg_v2.v3_coverage(importance, case.meta["params"]["min_regions"]))


# ---- one view, two scales


def run_x_parts(case: Case) -> None:
    x, scores, params = case.inputs["tokens"], case.inputs["scores"], case.meta["params"]
    groups = shirg_scale.merged_neighbours(scores, params["epsilon"])
    index = torch.tensor([group[0] for group in groups])
    case.check("centroids", shirg_scale.coordinates(params["H"]))
    case.check("neighbor_distance", shirg_scale.x_neighbour(x))
    case.check("patch_entropy", shirg_scale.x_adaptive_k(x)[1])
    case.check("merged_tokens", x[:, index])
    case.check("merged_coords", shirg_scale.merged_coordinates(params["H"], groups))
    case.check("merged_index", index.expand(len(x), -1))


def run_x_budget(case: Case) -> None:
    budget, entropy = shirg_scale.x_adaptive_k(case.inputs["tokens"])
    case.check("budget", budget)
    case.check("entropy", entropy)


def run_regions(case: Case) -> None:
    for name in case.outputs:
        region = re.fullmatch(r"cov(\d+)", name)
        if region:
            case.check(name, best_of_regions(case.inputs["scores"], case.meta["params"]["H"], int(region[1])))


def run_dual_parts(case: Case) -> None:
    x, scores, params = case.inputs["tokens"], case.inputs["scores"], case.meta["params"]
    tokens, coords, values, _ = shirg_scale.merged_blocks(x, scores, params["epsilon"])
    case.check("coordinates", shirg_scale.coordinates(params["H"]))
    case.check("neighbor", shirg_scale.scale_neighbour(x))
    case.check("merged_tokens", tokens)
    case.check("merged_coords", coords)
    case.check("merged_scores", values)


# ---- fovea


def run_fovea_parts(case: Case) -> None:
    x = case.inputs["tokens"]
    case.check("edge_prior", shirg_fovea.edge_prior(x))
    case.check("distance_penalty", shirg_fovea.mean_cosine(x))
    side = shirg_fovea.side_of(x)
    case.check("radial_weight", shirg_fovea.radial_weight(side, case.meta["params"]["radial_sigma"]))


def run_fovea_forward(case: Case) -> None:
    pooled = shirg_fovea.global_view(case.inputs["view0"], "halved")
    detail = VERSIONS["shirg-fovea2-base"].run(case.inputs["view1"], case.inputs["text"], budget=724)
    case.check("tokens", torch.cat([pooled, detail.tokens], dim=1))
    case.check("index_detail", detail.index)


def run_fovea_merge(case: Case) -> None:
    threshold = case.meta["params"]["threshold"]
    case.check("tokens", shirg_fovea.merge_similar(case.inputs["tokens"], threshold))


def run_pool(case: Case) -> None:
    case.check("global_pooled", shirg_fovea.global_view(case.inputs["view0"], POOLS[case.name]))
    details = [x for name, x in sorted(case.inputs.items()) if name != "view0"]
    case.check("n_detail", torch.tensor([x.shape[1] for x in details]))


# ---- training


def run_coordinates(case: Case) -> None:
    weight, bias = (case.inputs[f"weight.coord_proj.{name}"] for name in ("weight", "bias"))
    case.check("embedding", shirg_training.coordinate_embedding(case.inputs["coords"], weight, bias))


def run_dropout(case: Case) -> None:
    x, keep, params = case.inputs["tokens"], case.outputs["mask"].bool(), case.meta["params"]
    rate, least = params["rate"], params["min_keep"]
    wanted = shirg_training.dropout_keeps(x.shape[1], rate=rate, least=least)
    if not params["spatial"] and bool((keep.sum(dim=1) != wanted).any()):
        raise Mismatch(f"mask: {keep.sum(dim=1).tolist()} tokens kept, expected {wanted}")
    if params["structured"]:
        for mask, kind in zip(keep, case.inputs["types"], strict=True):
            kept = int(mask[kind == 0].sum()), int(mask[kind == 1].sum())
            if kept != shirg_training.structured_keeps(kind == 0, rate=rate, least=least):
                raise Mismatch(f"mask: {kept} tokens kept of the global view and the others")
    case.check("mask", keep)
    case.check("tokens", shirg_training.token_dropout(x, keep, rate=rate))


def run_info_nce(case: Case) -> None:
    loss = shirg_training.info_nce(
        case.inputs["vision"], case.inputs["text"], temperature=case.meta["params"]["temperature"]
    )
    case.check("loss", loss[None])
