"""OneVision-Encoder, its LlavaViT ancestors, and LLaVA-OneVision-2's vision tower: the family, as data.

    llava_vit_packing_{small,base,large,huge,giant}   one sequence of many images and clips; format "packing"
    llava_vit_{small,base,large,huge,giant}           the same encoder fed batches; format "standard"
    ov_encoder_{base,large,huge}                      as released; format "standard"
    llava_onevision2                                  windows of 4 frames, block order, merger; format "ov2"

All are one `EncoderConfig`. The standard huge is another network than the packing huge, and giant has heads of 96.
The training models (SOURCES) have LayerNorm eps 1e-5 and the smallest float32 as eps of the head's RMSNorm, which
upstream's converters silently replace by 1e-6; files written here keep the eps of what they were made from.
Sources: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/*.py@28efa3a and tests/test_onevision_encoder.py@c2cd3e0,
EvolvingLMMs-Lab/LLaVA-OneVision-2:transformers_impl/llavaonevision2@2c3c25e.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.errors import ShapeError
from tubelet.families.family import Dialects, Family
from tubelet.families.onevision_config import FLOAT32_EPS, MODEL_TYPES, config_from, config_to, format_of
from tubelet.families.onevision_keys import FORMATS, IGNORED, TABLES, Format
from tubelet.packed.grid import Grid
from tubelet.pixels.recipe import CLIP_TOKENS, PICTURE_TOKENS, PixelRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from tubelet.shapes import Bool, Int64

__all__ = [
    "FAMILY",
    "FORMATS",
    "FORMAT_OF",
    "SOURCES",
    "VARIANTS",
    "Format",
    "Visible",
    "clip_processor",
    "config_from",
    "config_to",
    "format_of",
    "head_visible",
    "mask_by_residual_topk",
    "standard_visible",
]


def _encoder(patch: int, layers: int, hidden: int, heads: int, mlp: int, image_size: int = 448) -> EncoderConfig:
    pixels = PixelRecipe(
        patch, rule="native_floor", size=image_size, max_tokens=PICTURE_TOKENS, max_clip_tokens=CLIP_TOKENS
    )
    return EncoderConfig(hidden, layers, heads, mlp, pixels)


_PACKING = {
    "small": _encoder(16, 6, 384, 6, 1536),
    "base": _encoder(16, 12, 768, 12, 3072),
    "large": _encoder(14, 24, 1024, 16, 4096),
    "huge": _encoder(14, 32, 1280, 20, 5120),
    "giant": _encoder(14, 40, 1536, 16, 6144),
}
_STANDARD = {**_PACKING, "huge": _encoder(14, 27, 1536, 16, 4608)}
_HEAD = {
    "base": _encoder(14, 12, 768, 12, 3072, image_size=224),
    "large": _encoder(14, 24, 1024, 16, 4096, image_size=224),
    "huge": _encoder(14, 32, 1280, 20, 5120, image_size=224),
}
_OV2 = replace(
    _encoder(14, 24, 1024, 16, 4096),
    pixels=PixelRecipe(
        14,
        rule="smart",
        merge=3,
        order="block",
        size=448,
        min_pixels=256 * 28 * 28,
        max_pixels=1605632,
        max_clip_tokens=CLIP_TOKENS,
    ),
    post_norm=False,
    pool=False,
    spans=("frame",),
    span_frames=4,
    merger=Merger(3, 1024, 1e-6),
)

VARIANTS: dict[str, EncoderConfig] = {
    **{f"llava_vit_packing_{size}": config for size, config in _PACKING.items()},
    **{f"llava_vit_{size}": config for size, config in _STANDARD.items()},
    **{f"ov_encoder_{size}": config for size, config in _HEAD.items()},
    "llava_onevision2": _OV2,
}

SOURCES: dict[str, EncoderConfig] = {
    **{f"llava_vit_{size}_ln": replace(c, eps=1e-5, head_eps=FLOAT32_EPS) for size, c in _PACKING.items()},
    "llava_vit_base_rms": replace(_PACKING["base"], norm="rms", eps=FLOAT32_EPS),
}

FORMAT_OF: dict[str, Format] = {
    **dict.fromkeys(SOURCES, "source"),
    **{name: "packing" if "packing" in name else "standard" for name in VARIANTS},
    "llava_onevision2": "ov2",
}


def counterpart(variant: str, to: str) -> str | None:
    """The variant of format `to` with the same size word, as upstream's converters pair them; None outside LlavaViT.

    >>> counterpart("llava_vit_packing_huge", "standard")
    'llava_vit_huge'
    """
    if not variant.startswith("llava_vit_"):
        return None
    size = variant.removeprefix("llava_vit_").removeprefix("packing_").removesuffix("_ln")
    pattern = {"packing": "llava_vit_packing_{}", "standard": "llava_vit_{}", "source": "llava_vit_{}_ln"}.get(to)
    found = pattern.format(size) if pattern else None
    return found if found in FORMAT_OF else None


FAMILY = Family(
    name="onevision",
    model_types=tuple(MODEL_TYPES),
    architecture="LlavaViTPackingModel",
    formats=TABLES,
    config_from=config_from,
    config_to=config_to,
    holders=("llava_onevision2",),
    ignored=IGNORED,
    variants={**VARIANTS, **SOURCES},
    dialects=Dialects(format_of, FORMAT_OF, counterpart),
    source="EvolvingLMMs-Lab/OneVision-Encoder@28efa3a",
)


def clip_processor(config: EncoderConfig, size: int | None = None) -> PixelRecipe:
    """The preprocessing upstream saves beside its models: shortest side to `size`, centre crop, CLIP mean and std.

    These encoders read any size, so their own recipe keeps the picture whole; this one repeats upstream's published
    numbers. Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/conversion_utils.py@28efa3a.
    """
    return replace(config.pixels, rule="shortest_crop", size=size or config.pixels.size or 448)


# ---- which rows the batch models see: three meanings of "visible_indices"


class Visible(NamedTuple):
    """Rows to keep of one item, in this order, and the (t, h, w) each is given. rows None keeps all as they stand."""

    rows: "Int64[Tensor, ' K'] | None"
    positions: "Int64[Tensor, 'K 3']"


def unravel(indices: "Int64[Tensor, ' K']", h: int, w: int) -> "Int64[Tensor, 'K 3']":
    """(t, h, w) of flat row numbers in a grid of h x w patches per frame, however many frames it has."""
    import torch  # variants are known without

    return torch.stack([indices // (h * w), indices // w % h, indices % w], dim=1)


def standard_visible(grid: Grid, visible: "Tensor | None") -> Visible:
    """The history model: indices always choose rows of the clip, and a permutation permutes the output.

    Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/vit_preview_v0_hf.py@28efa3a.
    """
    import torch

    rows = torch.arange(grid.rows) if visible is None else _indices(grid, visible)
    return Visible(None if visible is None else rows, unravel(rows, grid.h, grid.w))


def head_visible(grid: Grid, visible: "Tensor | None" = None, positions: "Tensor | None" = None) -> Visible:
    """HEAD's model: as many indices as rows choose places only, fewer choose rows and places.

    With grid.rows indices no row is moved or dropped: the k-th row is said to stand where index k stands in a virtual
    clip (training packs chosen patches of 64 frames into a short clip this way). With fewer, rows are gathered, and the
    indices count rows of this clip. `positions` (K, 3) replace the places either way.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:onevision_encoder/modeling_onevision_encoder.py@c2cd3e0.
    Unlike it, a clip longer than 64 frames simply goes on counting.
    """
    import torch

    chosen = torch.arange(grid.rows) if visible is None else visible
    gathered = chosen.numel() != grid.rows
    indices = _indices(grid, chosen) if gathered else chosen.long().cpu()
    places = unravel(indices, grid.h, grid.w) if positions is None else positions
    if places.shape != (indices.numel(), 3):
        raise ShapeError(
            f"positions of {tuple(places.shape)} for {indices.numel()} rows",
            expected=(indices.numel(), 3),
            got=tuple(places.shape),
        )
    return Visible(indices if gathered else None, places)


def _indices(grid: Grid, visible: "Tensor") -> "Tensor":
    rows = visible.long().cpu()
    if rows.ndim != 1 or (rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < grid.rows):
        raise ShapeError(f"visible rows are a 1-D index into the {grid.rows} rows of {tuple(grid)}", limit=grid.rows)
    return rows


def mask_by_residual_topk(
    residual: "Tensor", keep: int, patch: int
) -> "tuple[Int64[Tensor, 'B K'], Bool[Tensor, 'B L'], Int64[Tensor, 'B L']]":
    """The `keep` patches with the largest sum of |residual| in each clip: indices (ascending), mask, restore order.

    residual: (B, 1, T, H, W), sides multiples of `patch`; keep is cut to 0 .. L = patches of a clip. Among equal sums
    the lowest index wins (upstream leaves that open). restore[b, i] is where patch i stands when kept patches come
    first. Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/vit_preview_v0_hf.py@28efa3a.
    """
    import torch

    if residual.ndim != 5 or residual.shape[1] != 1 or residual.shape[3] % patch or residual.shape[4] % patch:
        raise ShapeError(
            f"residual must be (B, 1, T, H, W) with sides in {patch}s", expected=patch, got=tuple(residual.shape)
        )
    scores = residual[:, 0].abs().unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).sum(dim=(3, 5)).flatten(1)
    length = scores.shape[1]
    keep = max(0, min(keep, length))
    order = scores.argsort(dim=1, descending=True, stable=True)
    indices = order[:, :keep].sort(dim=1).values
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, indices, True)
    first, second = mask.cumsum(1) - 1, keep + (~mask).cumsum(1) - 1
    return indices, mask, torch.where(mask, first, second)
