"""Weights of Pi3 under the names of yyfz233/Pi3, and from such files: strict. Channels of q and k: see vggt_keys."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tubelet.geometry.pi3 import PI3, Pi3, Pi3Config
from tubelet.geometry.vggt_keys import LAYER, half_first, read_network
from tubelet.weights.locate import Source, find_folder

UNREAD = ("image_mean", "image_std")  # which `Pi3.pixels` says


def theirs(name: str) -> str:
    """Their name of one of our tensors.

    >>> theirs("aggregator.layers.3.qkv.bias"), theirs("points.layers.0.fc1.weight")
    ('decoder.3.attn.qkv.bias', 'point_decoder.blocks.0.mlp.fc1.weight')
    """
    part, _, rest = name.partition(".")
    decoder = {"points": "point", "confidence": "conf", "poses": "camera"}.get(part)
    layer = re.fullmatch(r"layers\.(\d+)\.(\w+)(\..*)?", rest)
    if layer:
        home = {"patches": "encoder.blocks", "aggregator": "decoder"}.get(part, f"{decoder}_decoder.blocks")
        return f"{home}.{layer[1]}.{LAYER[layer[2]]}{layer[3] or ''}"
    if part == "patches":
        return "encoder." + rest.replace("patch.", "patch_embed.proj.").replace("norm_post.", "norm.")
    if decoder:
        return f"{decoder}_decoder." + rest.replace("project.", "projects.").replace("out.", "linear_out.")
    if part == "pose":
        rest = re.sub(r"^blocks\.(\d)\.(\d)", lambda m: f"res_conv.{m[1]}.res_conv{int(m[2]) + 1}", rest)
        rest = re.sub(r"^fc(\d)", lambda m: f"more_mlps.{2 * int(m[1]) - 2}", rest)
        return "camera_head." + rest.replace("shift.", "fc_t.").replace("rotation.", "fc_rot.")
    if name == "aggregator.prefix":
        return "register_token"
    return {"point_map": "point_head", "confidence_map": "conf_head"}[part] + f".proj.{rest}"


def to_theirs(state: Mapping[str, Tensor], config: Pi3Config) -> dict[str, Tensor]:
    """A state_dict of `Pi3` under their names, in their shapes and order of channels, each tensor in one piece."""
    out: dict[str, Tensor] = {}
    for name, x in state.items():
        if name == "patches.prefix":
            out["encoder.cls_token"], out["encoder.register_tokens"] = x[None, :1], x[None, 1:]
        elif name == "patches.table.weight":
            out["encoder.pos_embed"] = torch.cat([state["patches.table.prefix"], x])[None]
        elif name == "patches.patch.weight":
            out[theirs(name)] = x.unflatten(1, (3, config.trunk.pixels.patch, config.trunk.pixels.patch))
        elif name == "aggregator.prefix":
            out[theirs(name)] = x[None, None]
        elif name != "patches.table.prefix":
            out[theirs(name)] = _ordered(name, x, config)
    return {name: x.contiguous() for name, x in out.items()}


def from_theirs(
    read: Callable[[str], Tensor], shapes: Mapping[str, torch.Size], config: Pi3Config
) -> dict[str, Tensor]:
    """The state_dict of `Pi3` from tensors read by their names; shapes: of our tensors."""
    out: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name == "patches.prefix":
            out[name] = torch.cat([read("encoder.cls_token")[0], read("encoder.register_tokens")[0]])
        elif name.startswith("patches.table."):
            table = read("encoder.pos_embed")[0]
            out[name] = table[:1] if name.endswith("prefix") else table[1:]
        else:
            out[name] = _ordered(name, read(theirs(name)).reshape(shape), config)
    return out


def _ordered(name: str, x: Tensor, config: Pi3Config) -> Tensor:
    """Of layers whose q and k are turned, channels in the engine's order, or back in theirs."""
    turned = re.match(r"(aggregator|points|confidence|poses)\.layers\.\d+\.(qkv|norm_q|norm_k)\.", name)
    return half_first(x, config.decoder.head_dim) if turned else x


def load_pi3(
    source: Source,
    *,
    config: Pi3Config = PI3,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Pi3:
    """Pi3 with the weights of a folder, a .safetensors file or a hub id in yyfz233/Pi3's layout.

    dtype: of the layers, None keeps the stored one; heads stay float32. The published weights are for non-commercial
    use (CC BY-NC 4.0). Raises KeyMismatch with all names that do not fit, NotFinite, and what `load_encoder` raises.

        >>> from safetensors.torch import save_file
        >>> from tubelet.geometry.pi3 import pi3_config, untrained_pi3
        >>> config = pi3_config(layers=1, width=64, heads=2, patch_layers=1)
        >>> save_file(to_theirs(untrained_pi3(config).state_dict(), config), "pi3.safetensors")
        >>> load_pi3("pi3.safetensors", config=config).untrained
        False
    """
    checkpoint = find_folder(source, revision).checkpoint()
    entries = {name: entry for name, entry in checkpoint.entries.items() if name not in UNREAD}
    with torch.device("meta"):
        model = Pi3(config)
    wide = ("camera_head.", "point_head.", "conf_head.")
    expected = to_theirs(model.state_dict(), config)
    return read_network(
        *(model, checkpoint, entries, expected),
        lambda read, shapes: from_theirs(read, shapes, config),
        float32=wide,
        dtype=dtype,
        device=device,
    )
