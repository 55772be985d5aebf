"""Weights of VGGT under the names of facebook/VGGT-1B, and from such files: strict, and only the heads asked for.

The aggregator's rotary positions pair channels i and i + 16 inside each half of a head (rows, columns); this engine
pairs i and i + 32 of the whole. The rows of q and k and their norms are put in that order once; q k^T does not see it.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tubelet.errors import ConfigError, KeyMismatch, NotFinite
from tubelet.geometry.vggt import VGGT, VGGT_1B, M, VGGTConfig, vggt_config
from tubelet.packed.header import Entry
from tubelet.weights.locate import Checkpoint, Source, find_folder
from tubelet.weights.tensors import TensorReader, compare_names, entries_of, stored_type

HEADS = {"camera": "camera_head", "depth": "depth_head", "points": "point_head"}
UNREAD = ("track_head.", "aggregator.patch_embed.mask_token")  # no part of this network

LAYER = {
    "qkv": "attn.qkv",
    "norm_q": "attn.q_norm",
    "norm_k": "attn.k_norm",
    "proj": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale1": "ls1.gamma",
    "scale2": "ls2.gamma",
    "norm1": "norm1",
    "norm2": "norm2",
}
_CAMERA = {"empty_pose": "empty_pose_tokens", "modulation": "poseLN_modulation.1", "fc1": "pose_branch.fc1"}
_CAMERA |= {"fc2": "pose_branch.fc2"}
_DPT = {"conv1": "scratch.output_conv1", "conv2": "scratch.output_conv2.0", "conv3": "scratch.output_conv2.2"}
# Two tensors of theirs that are rows of ours: the first and the rest of (5, C)
_TOKENS = {
    "aggregator.prefix_first": ("aggregator.camera_token", "aggregator.register_token", 0),
    "aggregator.prefix": ("aggregator.camera_token", "aggregator.register_token", 1),
}


def theirs(name: str, config: VGGTConfig) -> str:
    """Their name of one of our tensors that is one of theirs.

    >>> theirs("aggregator.layers.3.qkv.bias", VGGT_1B)
    'aggregator.global_blocks.1.attn.qkv.bias'
    """
    part, _, rest = name.partition(".")
    layer = re.fullmatch(r"(?:layers|trunk)\.(\d+)\.(\w+)(\..*)?", rest)
    if part == "patches":
        if layer:
            return f"aggregator.patch_embed.blocks.{layer[1]}.{LAYER[layer[2]]}{layer[3] or ''}"
        return "aggregator.patch_embed." + rest.replace("patch.", "patch_embed.proj.").replace("norm_post.", "norm.")
    if part == "aggregator":
        if layer:
            spans, i = config.aggregator.layer_spans, int(layer[1])
            kind = "frame" if spans[i] == "frame" else "global"
            return f"aggregator.{kind}_blocks.{spans[:i].count(spans[i])}.{LAYER[layer[2]]}{layer[3] or ''}"
        return "aggregator." + rest.replace("patch.", "patch_embed.proj.")
    head = HEADS[part]
    if part == "camera":
        if layer:
            return f"{head}.trunk.{layer[1]}.{LAYER[layer[2]]}{layer[3] or ''}"
        own, dot, leaf = rest.partition(".")
        return f"{head}.{_CAMERA.get(own, own)}{dot}{leaf}"
    rest = re.sub(r"^resize\.", "resize_layers.", rest)
    rest = re.sub(r"^inward\.(\d)", lambda m: f"scratch.layer{int(m[1]) + 1}_rn", rest)
    rest = re.sub(r"^fusions\.(\d)\.", lambda m: f"scratch.refinenet{int(m[1]) + 1}.", rest)
    rest = re.sub(r"\.unit(\d)\.", r".resConfUnit\1.", rest)
    return f"{head}." + re.sub(r"^conv\d", lambda m: _DPT[m[0]], rest)


def to_theirs(state: Mapping[str, Tensor], config: VGGTConfig) -> dict[str, Tensor]:
    """A state_dict of `VGGT` under their names, in their shapes and order of channels, each tensor in one piece."""
    out: dict[str, Tensor] = {}
    for name, x in state.items():
        if name in _TOKENS or name in ("patches.prefix", "patches.table.prefix", "patches.table.weight"):
            continue
        out[theirs(name, config)] = _shaped(name, x, config)
    first, rest = state["aggregator.prefix_first"], state["aggregator.prefix"]
    both = torch.stack([first, rest])[None]  # (1, 2, 5, C)
    out["aggregator.camera_token"], out["aggregator.register_token"] = both[:, :, :1], both[:, :, 1:]
    if "patches.prefix" in state:
        cls, registers = state["patches.prefix"].split([1, len(state["patches.prefix"]) - 1])
        out["aggregator.patch_embed.cls_token"] = cls[None]
        out["aggregator.patch_embed.register_tokens"] = registers[None]
        table = torch.cat([state["patches.table.prefix"], state["patches.table.weight"]])
        out["aggregator.patch_embed.pos_embed"] = table[None]
    return {name: x.contiguous() for name, x in out.items()}  # as files take them


def from_theirs(
    read: Callable[[str], Tensor], shapes: Mapping[str, torch.Size], config: VGGTConfig
) -> dict[str, Tensor]:
    """The state_dict of `VGGT` from tensors read by their names; shapes: of our tensors."""
    out: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name in _TOKENS:
            camera, registers, slot = _TOKENS[name]
            out[name] = torch.cat([read(camera)[0, slot], read(registers)[0, slot]])
        elif name == "patches.prefix":
            parts = [read(f"aggregator.patch_embed.{n}")[0] for n in ("cls_token", "register_tokens")]
            out[name] = torch.cat(parts)
        elif name.startswith("patches.table."):
            table = read("aggregator.patch_embed.pos_embed")[0]
            out[name] = table[:1] if name.endswith("prefix") else table[1:]
        else:
            out[name] = _ordered(name, read(theirs(name, config)).reshape(shape), config)
    return out


def _shaped(name: str, x: Tensor, config: VGGTConfig) -> Tensor:
    x = _ordered(name, x, config)
    if name.endswith("patch.weight"):
        return x.unflatten(1, (3, config.pixels.patch, config.pixels.patch))
    return x[None, None] if name == "camera.empty_pose" else x


def _ordered(name: str, x: Tensor, config: VGGTConfig) -> Tensor:
    """Channels of q, k and their norms in the engine's order, or back in theirs."""
    if not re.match(r"aggregator\.layers\.\d+\.(qkv|norm_q|norm_k)\.", name):
        return x
    return half_first(x, config.aggregator.head_dim)


def half_first(x: Tensor, head_dim: int) -> Tensor:
    """Channels of q and k in a (3 D, ...) matrix or bias of a layer, or those of a head's norm: (axis, half, n) <->
    (half, axis, n) of each head, which undoes itself."""
    n = head_dim // 4
    if len(x) == head_dim:
        return x.view(2, 2, n).transpose(0, 1).reshape(x.shape)
    q, k, v = x.chunk(3)
    turned = [y.unflatten(0, (-1, 2, 2, n)).transpose(1, 2).reshape(y.shape) for y in (q, k)]
    return torch.cat([*turned, v])


def load_vggt(
    source: Source,
    *,
    heads: Sequence[str] = tuple(HEADS),
    config: VGGTConfig | None = VGGT_1B,
    prefix: str = "",
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> VGGT:
    """VGGT with the weights of a folder, a .safetensors file or a hub id in facebook/VGGT-1B's layout.

    heads: of camera, depth, points; the tensors of others, and the track head's, are not read. dtype: of the layers,
    None keeps the stored one; heads stay float32, as their results are lengths and angles. config: None takes the
    sizes from the tensors, which say nothing of heads. prefix: before every name, in a whole model's file; names
    without it are another part's. Raises KeyMismatch with all
    names that do not fit, NotFinite, ConfigError for a head there is none of, and what `load_encoder` raises.

        >>> from safetensors.torch import save_file
        >>> from tubelet.geometry.vggt import untrained_vggt, vggt_config
        >>> config = vggt_config(layers=1, width=64, heads=2, patch_layers=None)
        >>> save_file(to_theirs(untrained_vggt(config).state_dict(), config), "vggt.safetensors")
        >>> load_vggt("vggt.safetensors", heads=[], config=config).untrained
        False
    """
    wrong = [h for h in heads if h not in HEADS]
    if wrong:
        raise ConfigError(f"there is no head {wrong[0]!r}", expected=tuple(HEADS), got=wrong[0])
    folder = find_folder(source, revision)
    unread = tuple(prefix + n for n in (*UNREAD, *(f"{head}." for name, head in HEADS.items() if name not in heads)))
    wanted = {key for key in folder.home if key.startswith(prefix) and not key.startswith(unread)}
    checkpoint = folder.checkpoint(wanted)
    entries = {key.removeprefix(prefix): checkpoint.entries[key] for key in sorted(wanted)}
    if config is None:
        config = aggregator_config({name: entry.shape for name, entry in entries.items()}, checkpoint.name)
    config = replace(config, **{name: getattr(config, name) if name in heads else None for name in HEADS})
    with torch.device("meta"):
        model = VGGT(config)
    expected, whole = to_theirs(model.state_dict(), config), config
    return read_network(
        *(model, checkpoint, entries, expected),
        lambda read, shapes: from_theirs(read, shapes, whole),
        prefix=prefix,
        float32=tuple(HEADS.values()),
        dtype=dtype,
        device=device,
    )


def read_network(
    model: M,
    checkpoint: Checkpoint,
    entries: Mapping[str, Entry],
    expected: Mapping[str, Tensor],
    from_theirs: Callable[[Callable[[str], Tensor], Mapping[str, torch.Size]], dict[str, Tensor]],
    *,
    prefix: str = "",
    float32: tuple[str, ...] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> M:
    """A network made on meta, with a checkpoint's weights. entries: by their names without `prefix`; expected: tensors
    as the network would write them; float32: beginnings of names that are read so. Raises KeyMismatch, NotFinite.
    """
    own = model.state_dict()
    compare_names({name: tuple(x.shape) for name, x in expected.items()}, entries, (), checkpoint.name)
    kind = dtype or stored_type([entries[name] for name in expected])
    with TensorReader(checkpoint) as reader:

        def read(name: str) -> Tensor:
            at = torch.float32 if name.startswith(float32) else kind
            tensor = reader(prefix + name).to(device, at, copy=True)
            if not bool(tensor.isfinite().all()):
                raise NotFinite(f"NaN or infinity in {name}", source=checkpoint.name, got=name)
            return tensor

        state = from_theirs(read, {name: x.shape for name, x in own.items()})
    model.load_state_dict({name: x.contiguous() for name, x in state.items()}, strict=True, assign=True)
    return model.eval()


def aggregator_config(shapes: Mapping[str, tuple[int, ...]], source: str = "vggt") -> VGGTConfig:
    """The sizes of a network without heads, from the shapes of tensors under their names: width, number of layers,
    channels of an attention head (those of its norms; DINOv2's, which has none, are as wide) and places of its table.

    Raises KeyMismatch where one of the tensors that say it is missing or is no square table.
    """
    named = ("aggregator.camera_token", "aggregator.frame_blocks.0.attn.q_norm.weight")
    missing = [name for name in named if not shapes.get(name)]
    if missing:
        raise KeyMismatch("these tensors are not those of VGGT", missing=missing, source=source)
    width, head = shapes[named[0]][-1], shapes[named[1]][0]

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})

    dino = "aggregator.patch_embed."
    table = f"{dino}pos_embed"
    places = shapes.get(table)
    side = 37 if places is None else math.isqrt(max(0, (places[1] if len(places) == 3 else 0) - 1))
    if places is not None and (not side or places != (1, side * side + 1, width)):
        wanted = (1, max(1, side) ** 2 + 1, width)
        raise KeyMismatch("positions are those of a square and a class token", misshaped=[(table, wanted, places)])
    if not width or not head or width % head:
        raise KeyMismatch(f"{width} channels are no heads of {head}", misshaped=[(named[1], (width,), (head,))])
    patch_layers = count(f"{dino}blocks.") if places is not None else None
    layers = count("aggregator.frame_blocks.")
    return vggt_config(layers=layers, width=width, heads=width // head, patch_layers=patch_layers, table=side)


def assign_theirs(model: VGGT, tensors: Mapping[str, Tensor]) -> VGGT:
    """The model with tensors of theirs already in memory. Raises KeyMismatch listing what does not fit."""
    own = model.state_dict()
    expected = {name: tuple(x.shape) for name, x in to_theirs(own, model.config).items()}
    read = {name: x for name, x in tensors.items() if not name.startswith(UNREAD)}
    compare_names(expected, entries_of(read), (), "vggt")
    state = from_theirs(tensors.__getitem__, {name: x.shape for name, x in own.items()}, model.config)
    model.load_state_dict({name: x.clone() for name, x in state.items()}, strict=True, assign=True)
    return model.eval()
