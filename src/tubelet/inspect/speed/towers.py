"""Vision towers of transformers and timm beside ours, of one shape and with the same random weights.

Nothing is downloaded: a tower is built from its configuration, and its weights are read into our encoder through the
family's key table. `TOWERS` lists what can be compared; transformers and timm are imported when a tower is built.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.families.catalogue import families
from tubelet.families.family import Family, from_theirs, to_theirs
from tubelet.packed import Item, Packed, pack
from tubelet.packed.padded import to_padded
from tubelet.pixels.patchify import unpatchify
from tubelet.weights.load import initial_state

Grids = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Shape:
    """Sizes all towers of a comparison share. image: the side of the square that towers of one size read."""

    hidden: int = 768
    heads: int = 12
    mlp: int = 3072
    layers: int = 2
    patch: int = 16
    image: int = 256

    @property
    def common(self) -> dict[str, Any]:
        """Names most configurations of transformers have."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "patch_size": self.patch,
            "image_size": self.image,
        }


@dataclass(frozen=True)
class Tower:
    """What a family is compared with. kind: what it reads, "packed" rows, pictures of any size "padded" to the largest,
    or "square" pictures. build: its class and configuration. own: our family where it is not the one of that name."""

    family: str
    peer: str
    kind: str
    build: Callable[[Shape], nn.Module]
    weights: bool = True


def _qwen2(s: Shape) -> nn.Module:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(
        depth=s.layers,
        embed_dim=s.hidden,
        hidden_size=s.hidden,
        num_heads=s.heads,
        mlp_ratio=s.mlp // s.hidden,
        patch_size=s.patch,
    )
    return Qwen2VisionTransformerPretrainedModel(config)


def _qwen2_5(s: Shape) -> nn.Module:
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    config = Qwen2_5_VLVisionConfig(
        depth=s.layers,
        hidden_size=s.hidden,
        out_hidden_size=s.hidden,
        intermediate_size=s.mlp,
        num_heads=s.heads,
        patch_size=s.patch,
        window_size=8 * s.patch,
        fullatt_block_indexes=list(range(3, s.layers, 4)) or [s.layers - 1],
    )
    return Qwen2_5_VisionTransformerPretrainedModel(config)


def _qwen3(s: Shape) -> nn.Module:
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    config = Qwen3VLVisionConfig(
        depth=s.layers,
        hidden_size=s.hidden,
        out_hidden_size=s.hidden,
        intermediate_size=s.mlp,
        num_heads=s.heads,
        patch_size=s.patch,
        deepstack_visual_indexes=[0],
    )
    return Qwen3VLVisionModel(config)


def _siglip2(s: Shape) -> nn.Module:
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    fields = {k: v for k, v in s.common.items() if k != "image_size"}
    return Siglip2VisionModel(Siglip2VisionConfig(num_patches=256, vision_use_head=False, **fields))


def _pixtral(s: Shape) -> nn.Module:
    from transformers import PixtralVisionConfig, PixtralVisionModel

    return PixtralVisionModel(PixtralVisionConfig(**{**s.common, "image_size": 64 * s.patch}))


def _square(name: str, **fields: Any) -> Callable[[Shape], nn.Module]:
    def build(s: Shape) -> nn.Module:
        import transformers

        config, model = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Model")
        return model(config(**{**s.common, **fields}))

    return build


def _timm(s: Shape) -> nn.Module:
    import timm

    return timm.create_model(
        f"naflexvit_base_patch{s.patch}_gap",
        depth=s.layers,
        embed_dim=s.hidden,
        num_heads=s.heads,
        mlp_ratio=s.mlp / s.hidden,
        num_classes=0,
    )


TOWERS: tuple[Tower, ...] = (
    Tower("qwen2_vl", "transformers Qwen2-VL", "packed", _qwen2),
    Tower("qwen2_5_vl", "transformers Qwen2.5-VL", "packed", _qwen2_5),
    Tower("qwen3_vl", "transformers Qwen3-VL", "packed", _qwen3),
    Tower("siglip2", "transformers SigLIP2 NaFlex", "padded", _siglip2),
    Tower("siglip2", "timm NaFlexViT", "padded", _timm, weights=False),
    Tower("pixtral", "transformers Pixtral", "padded", _pixtral),
    Tower("siglip", "transformers SigLIP", "square", _square("SiglipVision", vision_use_head=False)),
    Tower("clip", "transformers CLIP", "square", _square("CLIPVision")),
    Tower("mlcd", "transformers MLCD", "square", _square("MLCDVision")),
    Tower("dinov2", "transformers DINOv2", "square", _square("Dinov2", mlp_ratio=4)),
    Tower("dinov3_vit", "transformers DINOv3", "square", _square("DINOv3ViT")),
    Tower("aimv2", "transformers AIMv2", "square", _square("Aimv2Vision", use_head=False)),
)


# ---- the same weights on both sides


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with random weights of a size that keeps activations near 1, in inference mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim < 2 or "token" in name:
                near = 1.0 if name.endswith("weight") or "lambda" in name else 0.0
                p.copy_(near + 0.02 * torch.randn(p.shape, generator=generator))
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * (p.shape[0] / p.numel()) ** 0.5)
    return module.eval()


def encoder_of(family: Family, peer: nn.Module) -> Encoder:
    """Our encoder of the peer's configuration with the peer's weights. Raises ConfigError when the names do not fit."""
    config = family.config_from(peer.config.to_diff_dict())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    with torch.device("meta"):
        encoder = Encoder(config)
    state = encoder.state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    theirs = dict(peer.named_parameters())
    for lines in family.formats.values():
        if to_theirs(state, lines, config).keys() <= theirs.keys():
            values = from_theirs(shapes, lines, config, lambda name: theirs[name].detach())
            encoder.load_state_dict(values, assign=True)
            return encoder.eval()
    raise ConfigError(f"no key table of {family.name} names the tensors of {type(peer).__name__}", got=family.name)


def pair(tower: Tower, shape: Shape, *, attention: str = "sdpa") -> tuple[Encoder, nn.Module]:
    """Ours and the peer, random and equal (timm's has the shape of ours and other weights)."""
    family = next(f for f in families() if f.name == tower.family)
    peer = seeded(tower.build(shape))
    if tower.weights:
        peer.set_attn_implementation(attention)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        return encoder_of(family, peer), peer
    like = next(t for t in TOWERS if t.family == tower.family and t.weights)
    config = family.config_from(like.build(shape).config.to_diff_dict())  # pyright: ignore
    encoder = Encoder(config)
    encoder.load_state_dict(initial_state(config))
    return encoder.eval(), peer


# ---- how they are called


def rows_of(config: EncoderConfig, grids: Grids, dtype: torch.dtype, device: str, seed: int = 0) -> Packed:
    """Random normalised rows of items of these grids, in the order the encoder reads."""
    generator = torch.Generator().manual_seed(seed)
    items = [Item.of(*grid, picture=i) for i, grid in enumerate(grids)]
    rows = [torch.randn(i.grid.rows, config.pixels.width, generator=generator) for i in items]
    merge = config.pixels.merge if config.pixels.order == "block" else 1
    return pack(rows, items, merge=merge).to(device, dtype)


def call_of(tower: Tower, peer: nn.Module, p: Packed, config: EncoderConfig) -> Callable[[], Tensor]:
    """The peer's forward on the same rows, its inputs made ready now; gives what `flat_of` can compare."""
    if tower.kind == "packed":
        return lambda: peer(p.x, grid_thw=p.grid_thw).pooler_output
    frames = [f.permute(2, 0, 1) for item in unpatchify(p, config.pixels) for f in item]
    if tower.kind == "square":
        pixels = torch.stack(frames)
        return lambda: peer(pixel_values=pixels).last_hidden_state[:, config.prefix :].flatten(0, 1)
    x, keep = to_padded(p)
    sizes = torch.tensor([(i.grid.h, i.grid.w) for i in p.items])
    if tower.family == "pixtral":
        return _pixtral_call(peer, frames)
    patch = config.pixels.patch
    if not tower.weights:
        coords = torch.zeros(*x.shape[:2], 2, dtype=torch.long, device=x.device)
        for i, (h, w) in enumerate(sizes.tolist()):
            coords[i, : h * w] = torch.cartesian_prod(torch.arange(h), torch.arange(w))
        return lambda: peer.forward_features(x, patch_coord=coords, patch_valid=keep)  # pyright: ignore[reportCallIssue]
    last = x.unflatten(2, (3, patch, patch)).permute(0, 1, 3, 4, 2).flatten(2).contiguous()
    naflex = {"pixel_values": last, "pixel_attention_mask": keep.int(), "spatial_shapes": sizes}
    return lambda: peer(**naflex).last_hidden_state[keep]


def _pixtral_call(peer: nn.Module, frames: list[Tensor]) -> Callable[[], Tensor]:
    high, wide = max(f.shape[1] for f in frames), max(f.shape[2] for f in frames)
    canvas = frames[0].new_zeros(len(frames), 3, high, wide)
    for i, f in enumerate(frames):
        canvas[i, :, : f.shape[1], : f.shape[2]] = f
    sizes = torch.tensor([f.shape[1:] for f in frames])
    return lambda: peer(pixel_values=canvas, image_sizes=sizes).last_hidden_state[0]
