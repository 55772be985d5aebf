"""The connectors of Spatial-MLLM, and the gathering of features by tubelet, in upstream's orders of channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tubelet import Item, Packed, pack
from tubelet.geometry.fuse import Connector, connector_tensors, fuse, gather_tubelets, load_connector
from tubelet.geometry.tubelets import paired, singles

from ..cases import Case, Mismatch

SPECIAL = 5  # camera and register tokens before the patches of each frame


def features_of(layers: Sequence[Tensor], grids: Sequence[tuple[int, int]], special: int = SPECIAL) -> Packed:
    """(S, P, C) tokens of each scene as a pack, without those that are no patches."""
    items = [Item.of(len(x), h, w) for x, (h, w) in zip(layers, grids, strict=True)]
    return pack([x[:, special:].flatten(0, 1) for x in layers], items)


def gathered(features: Packed, *, twice: bool = False) -> Packed:
    make = singles if twice else paired
    return gather_tubelets(features, [make([float(t) for t in range(i.grid.t)]) for i in features.items])


def frame_last(x: Tensor, channels: int) -> Tensor:
    """Version 1.1's order of channels, written out."""
    return x.view(len(x), 2, 2, 2, channels).permute(0, 2, 3, 4, 1).flatten(1)


def run_merge(case: Case) -> None:
    """Rows in version 1.1's order. Grids of several rows make up one scene."""
    if "layer" in case.inputs:
        layers = [case.inputs["layer"]]
    else:
        index = case.config["layer_idx"]
        layers = [case.inputs[f"video{i}.layer{index}"] for i in range(len(case.config["patch_start_idx"]))]
    rows = case.inputs["grid_thw"].tolist()
    grids: list[tuple[int, int]] = []
    for layer in layers:
        taken = 0
        t, h, w = rows[0]
        grids.append((h, w))
        while 2 * taken < len(layer):
            t, *_ = rows.pop(0)
            taken += t
    got = gathered(features_of(layers, grids))
    case.check("merged", frame_last(got.x, layers[0].shape[-1]), exact=True)


def run_connector(case: Case) -> None:
    """Weights permuted once, rows never; and back, bit by bit."""
    connector = load_connector(case.weights)
    back = connector_tensors(connector)
    if any(not torch.equal(back[name], value) for name, value in case.weights.items()):
        raise Mismatch("the connector's weights do not come back")
    if connector.version == "1.0":
        _run_v10(case, connector)
        return
    layer = case.inputs[f"layer{len([n for n in case.inputs if n.startswith('layer')]) - 1}"]
    _, h, w = case.inputs["grid_thw"][0].tolist()
    spatial = connector(gathered(features_of([layer], [(h, w)])))
    tokens = spatial.with_x(case.inputs["embeds_2d"])
    if "spatial" in case.outputs:
        case.check("spatial", spatial.x)
    case.check("fused", fuse(tokens, spatial).x)


def _run_v10(case: Case, connector: Connector) -> None:
    tokens = case.inputs["tokens"]
    _, _, h, w, _ = case.outputs["video"].shape
    features = features_of(list(tokens), [(2 * h, 2 * w)] * len(tokens), case.config["patch_start_idx"])
    case.check("merged_raw", gathered(features).x.view_as(case.outputs["merged_raw"]))
    for name, twice in (("video", False), ("images", True)):
        rows = gathered(features, twice=twice)
        case.check(name, connector(rows).x.view_as(case.outputs[name]))
    alone = gather_tubelets(features, [singles([float(t) for t in range(i.grid.t)]) for i in features.items], frames=1)
    case.check("images", connector.folded()(alone).x.view_as(case.outputs["images"]))
