"""VGGT: its rotary positions, DINOv2, aggregator, heads and the whole, on the packed engine."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tubelet import Item, Packed, pack
from tubelet.encoder.config import Rope
from tubelet.encoder.rope import apply_rope, rope_tables
from tubelet.geometry.cameras import decode_matrices
from tubelet.geometry.heads import CameraConfig, DPTConfig
from tubelet.geometry.vggt import VGGT, VGGTConfig, dense_maps, vggt_config
from tubelet.geometry.vggt_keys import assign_theirs, from_theirs
from tubelet.pixels.recipe import IMAGENET_MEAN, IMAGENET_STD

from ..cases import Case, Mismatch

PATCH = 14


def rows_of(images: Tensor, *, normalise: bool) -> Packed:
    """(B, S, 3, H, W) floats as a pack of B items of S frames, written out."""
    if normalise:
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        images = (images - mean) / std
    b, s, _, height, width = images.shape
    h, w = height // PATCH, width // PATCH
    rows = images.view(b, s, 3, h, PATCH, w, PATCH).permute(0, 1, 3, 5, 2, 4, 6).reshape(b, s * h * w, -1)
    return pack(list(rows), [Item.of(s, h, w)] * b)


def prefixed(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: x for name, x in weights.items()}


def run_rope2d(case: Case) -> None:
    """Rows and columns in halves of a head; channels in this engine's order, and back."""
    tokens, pos = case.inputs["tokens"], case.inputs["pos"]
    n = case.config["head_dim"] // 4
    rope = Rope("rotation", float(case.config["base"]), (0, 1, 1), layout="halves")
    out = []
    for x, place in zip(tokens, pos, strict=True):
        turn, _ = rope_tables(torch.cat([torch.zeros_like(place[:, :1]), place], dim=1), case.config["head_dim"], rope)
        ours = x.transpose(0, 1).unflatten(-1, (2, 2, n)).transpose(-3, -2).flatten(-3)
        turned = apply_rope(ours, turn, None, halves=True)
        out.append(turned.unflatten(-1, (2, 2, n)).transpose(-3, -2).flatten(-3).transpose(0, 1))
    case.check("tokens", torch.stack(out))


def run_dino(case: Case) -> None:
    """DINOv2 with registers: patches, class token and registers after the final norm, and its table of places."""
    c = case.config
    config = vggt_config(
        layers=1, width=c["embed_dim"], heads=c["num_heads"], patch_layers=c["depth"],
        table=c["img_size"] // c["patch_size"],
    )  # fmt: skip
    encoder = VGGT(config).patches
    weights = prefixed(case.weights, "aggregator.patch_embed.")
    shapes = {f"patches.{name}": x.shape for name, x in encoder.state_dict().items()}
    state = from_theirs(weights.__getitem__, shapes, config)
    encoder.load_state_dict({name.removeprefix("patches."): x for name, x in state.items()}, strict=True)
    images = case.inputs["images"]
    p = rows_of(images[None], normalise=False)
    features = encoder.eval().features(p)
    case.check("patch", features.tokens.x.view(len(images), -1, c["embed_dim"]))
    assert features.prefix is not None
    case.check("cls", features.prefix[:, 0])
    case.check("reg", features.prefix[:, 1:])
    if "pos_embed" in case.outputs:
        table = encoder.table
        assert table is not None
        assert table.prefix is not None
        grid = p.items[0].grid
        case.check("pos_embed", torch.cat([table.prefix, table.resized(grid.h, grid.w, p.device)])[None])


def network_of(c: Mapping[str, Any], **heads: Any) -> VGGTConfig:
    conv = c.get("patch_embed") == "conv"
    dino = c.get("dino") or {}
    order = [{"frame": "frame", "global": "scene"}[one] for one in c.get("aa_order", ("frame", "global"))]
    group = c.get("aa_block_size", 1)
    return vggt_config(
        layers=c["depth"], width=c["embed_dim"], heads=c["num_heads"],
        patch_layers=None if conv else dino["depth"], patch_heads=dino.get("num_heads"),
        table=c["img_size"] // c["patch_size"], spans=tuple(span for span in order for _ in range(group)), **heads,
    )  # fmt: skip


def run_aggregator(case: Case) -> None:
    """Every depth, special tokens included; in place and as plain modules."""
    config = network_of(case.config)
    model = assign_theirs(VGGT(config), prefixed(case.weights, "aggregator."))
    p = rows_of(case.inputs["images"], normalise=True)
    every = range(len(config.states))
    with torch.no_grad():
        fast = model.run(p, keep=every)
    slow = model.run(p, keep=every)
    for found in (fast, slow):
        for depth in every:
            rows = found.kept[depth].x.view(len(found.special[depth]), -1, config.kept_width)
            whole = torch.cat([found.special[depth], rows], dim=1)
            case.check(f"layer{depth}", whole.view_as(case.outputs[f"layer{depth}"]))


def base_of(c: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest network that a head alone fits on."""
    sizes = {"img_size": 56, "patch_size": PATCH, "patch_embed": "conv"}
    return {"embed_dim": c["dim_in"] // 2, "depth": 1, "num_heads": 1, **sizes}


def run_camera_head(case: Case) -> None:
    """Every iteration, the batch as scenes of one pack."""
    c = case.config
    config = network_of(
        base_of(c),
        camera=CameraConfig(c["dim_in"], c["trunk_depth"], c["num_heads"], c["num_iterations"]),
    )  # fmt: skip
    head = VGGT(config).camera
    assert head is not None
    load_head(head, "camera", prefixed(case.weights, "camera_head."), config)
    tokens = case.inputs["tokens"][:, :, 0]
    for i, got in enumerate(head(tokens.flatten(0, 1), [tokens.shape[1]] * len(tokens))):
        case.check(f"iter{i}", got.view_as(case.outputs[f"iter{i}"]))


def load_head(head: torch.nn.Module, name: str, weights: Mapping[str, Tensor], config: VGGTConfig) -> None:
    """Every tensor of the head, and no other in the case."""
    read: set[str] = set()

    def take(key: str) -> Tensor:
        read.add(key)
        return weights[key]

    state = from_theirs(take, {f"{name}.{key}": x.shape for key, x in head.state_dict().items()}, config)
    if weights.keys() - read:
        raise Mismatch(f"{len(weights.keys() - read)} weights were not read: {sorted(weights.keys() - read)[:3]}")
    head.load_state_dict({key.removeprefix(f"{name}."): x for key, x in state.items()}, strict=True)


def run_dpt(case: Case) -> None:
    """Depth, points, features."""
    c = case.config
    own = DPTConfig(
        c["dim_in"],
        layers=(0, 0, 0, 0),
        channels=tuple(c["out_channels"]),
        features=c["features"],
        out=None if c.get("feature_only") else c["output_dim"],
        activation=c.get("activation", "exp"),
        shrink=c.get("down_ratio", 1),
        places=c.get("pos_embed", True),
    )
    config = network_of(base_of(c), depth=own)
    head = VGGT(config).depth
    assert head is not None
    load_head(head, "depth", prefixed(case.weights, "depth_head."), config)
    images = case.inputs["images"]
    b, s, _, height, width = images.shape
    h, w = height // PATCH, width // PATCH
    layers = [case.inputs.get(f"tokens{i}", case.inputs.get("tokens0")) for i in range(len(own.layers))]
    packs = [pack(list(x[:, :, 5:].reshape(b, s * h * w, -1)), [Item.of(s, h, w)] * b) for x in layers if x is not None]
    if own.out is None:
        x, _ = head([p.x.view(b * s, h, w, -1) for p in packs])
        case.check("pred", x.view_as(case.outputs["pred"]))
        return
    values, confidence = dense_maps(head, packs)
    case.check("pred", torch.stack(values).view_as(case.outputs["pred"]))
    case.check("conf", torch.stack(confidence).view_as(case.outputs["conf"]))


def run_full(case: Case) -> None:
    """The whole network with its three heads."""
    c = case.config
    wide = 2 * c["embed_dim"]
    dpt = c["dpt"]
    shared = {
        "layers": tuple(dpt["intermediate_layer_idx"]),
        "channels": tuple(dpt["out_channels"]),
        "features": dpt["features"],
    }
    config = network_of(
        c,
        camera=CameraConfig(wide, c["camera"]["trunk_depth"], c["camera"]["num_heads"]),
        depth=DPTConfig(wide, **shared),
        points=DPTConfig(wide, out=4, activation="inv_log", **shared),
    )
    model = assign_theirs(VGGT(config), case.weights)
    got = model.run(rows_of(case.inputs["images"], normalise=True))
    batch = len(case.inputs["images"])
    case.check("pose_enc", got.poses[-1].view_as(case.outputs["pose_enc"]))
    world_to_cam, k, _ = decode_matrices(got.poses[-1].view_as(case.outputs["pose_enc"]), got.sizes[0])
    case.check("extrinsic", world_to_cam)
    case.check("intrinsic", k)
    case.check("depth", torch.stack(got.depth)[..., None])
    case.check("depth_conf", torch.stack(got.depth_confidence))
    case.check("world_points", torch.stack(got.points))
    case.check("world_points_conf", torch.stack(got.points_confidence))
    if len(got.cameras([str(i) for i in range(batch)])) != batch:
        raise Mismatch("a scene has no cameras")
