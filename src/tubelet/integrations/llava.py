"""The vision tower of LLaVA forks: pixels in, features in the shapes their code expects, any mix in one packed forward.

    images [B, 3, H, W]      ->  [B, h w, D]            pack  ->  chosen hidden states  ->  shaped like the input
    images [B, 3, T, H, W]   ->  [B, T h w, D]          and a class token before them, where cls_patch keeps it
    list of [3, H, W] and [3, T, H, W], any sizes  ->  list of [n_i, D]

Inside there is one `Packed` for the whole call; the shapes above exist only here, at the border. `VisionTower.pack` and
`VisionTower.features` are the two halves without them, and `encode_images` puts a projector behind.

Source: EvolvingLMMs-Lab/OneVision-Encoder:llava_next/llava/model/multimodal_encoder/hevc_vit_packing_tower.py@28efa3a,
hevc_vit_tower.py@6bac059 and llava_arch.py. What differs from them, each because theirs is wrong or refuses:

- both towers give h and w of the first image for a whole list; here each item has its own
- the packing tower refuses videos and sizes that are no multiple of the patch, the standard one runs a list one by one
  and gives it as [1, n, D]; here all of it is one forward, and pixels that do not fill a patch are left out
- the released tower takes any 8 square pictures for one clip of 8 frames; here a clip is what has a time axis
- slicefour on an encoder with few layers picks 5, 7 or 8 states while hidden_size says 4; here that is an error
- weights are not frozen on loading; the pooling head and layers behind the deepest chosen one do not run
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, ShapeError
from tubelet.language.vlm.llava_states import FEATURES as FEATURES
from tubelet.language.vlm.llava_states import keeps_class
from tubelet.language.vlm.llava_states import state_numbers as state_numbers
from tubelet.packed import Packed, concat, pack
from tubelet.pixels.patchify import from_pixels
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Shaped
from tubelet.weights.load import load_encoder

MERGES = {"spatial_merge": 2}  # mm_projector_type -> side of its blocks, as LLaVA's count of patches knows it


@dataclass(frozen=True)
class TowerConfig:
    """The fields LLaVA code reads from `tower.config`, under Hugging Face's names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int | None
    patch_size: int
    num_channels: int
    layer_norm_eps: float


class VisionTower(nn.Module):
    """`tower(images)` as LLaVA's code calls it, around any encoder, which is its `vision_tower`.

    select_layer and select_feature: LLaVA's mm_vision_select_layer and mm_vision_select_feature (`state_numbers` says
    what they pick). merge: side of the blocks the projector behind joins, for the counts of patches alone. image_size:
    the nominal side those counts are for; None takes the encoder's own. image_processor: kept for code that asks the
    tower for one, never called here. Nothing is frozen: call `requires_grad_(False)` for that. Raises ConfigError.

        >>> tower = VisionTower(tubelet.untrained("llava_vit_packing_small"), select_layer=-2)
        >>> tower(torch.zeros(2, 3, 32, 48)).shape
        torch.Size([2, 6, 384])
        >>> features, h, w = tower([torch.zeros(3, 32, 48), torch.zeros(3, 4, 16, 16)], return_spatial_dims=True)
        >>> [tuple(f.shape) for f in features], h, w
        ([(6, 384), (4, 384)], [2, 1], [3, 1])
    """

    is_loaded = True  # there is no tower without weights here; LLaVA asks before it calls load_model

    def __init__(
        self,
        encoder: Encoder,
        *,
        select_layer: int = -2,
        select_feature: str = "patch",
        merge: int = 1,
        image_size: int | None = None,
        image_processor: Any = None,
    ) -> None:
        super().__init__()
        for name, value in (("merge", merge), ("image_size", 1 if image_size is None else image_size)):
            if value < 1:
                raise ConfigError(f"{name} starts at 1, got {value}", limit=1, got=value)
        self.vision_tower = encoder
        self.states = state_numbers(select_feature, select_layer, encoder.config.layers)
        self.select_layer, self.select_feature = select_layer, select_feature
        self.merge = merge
        self.image_processor = image_processor
        self._image_size = image_size or encoder.pixels.size

    # ---- pixels to features

    def forward(self, images: Tensor | Sequence[Tensor], return_spatial_dims: bool = False) -> Any:
        """Features: [B, n, D] of a batch [B, 3, H, W] or [B, 3, T, H, W], a list of [n_i, D] of a list.

        Rows go time, picture row, column. uint8 values are pixels, floats are normalised pixels; both are moved to the
        tower's device, and features have the weights' type. return_spatial_dims: (features, h, w), the patches of a
        frame: two ints for a tensor, whose items are all alike, and two lists of ints for a list, one for each item.
        A clip has T h w rows. With cls_patch and an encoder that has a class token (CLIP), that comes first, before the
        rows of each frame where frames do not see each other; h and w do not count it, registers are left out. Cost:
        one forward for all items together. Raises ShapeError naming the item.
        """
        p = self.pack(images)
        if keeps_class(self.select_feature, self.vision_tower.config.prefix):
            each = self._class_first(p)
            out = torch.stack(each) if isinstance(images, Tensor) else each
        else:
            out = shaped_like(images, self.features(p))
        if not return_spatial_dims:
            return out
        h, w = [item.grid.h for item in p.items], [item.grid.w for item in p.items]
        return (out, h[0], w[0]) if isinstance(images, Tensor) else (out, h, w)

    def pack(self, images: Tensor | Sequence[Tensor]) -> Packed:
        """The patches of the images, one item each and rows in raster order whatever the encoder's merger wants."""
        recipe = replace(self.vision_tower.pixels, order="raster", merge=1)
        if isinstance(images, Tensor):
            if images.ndim not in (4, 5) or images.shape[1] != 3 or images.shape[0] < 1:
                raise ShapeError(
                    f"a batch is [B, 3, H, W] or [B, 3, T, H, W], got {tuple(images.shape)}", got=tuple(images.shape)
                )
            return from_pixels(self._ready(images, None), recipe)
        parts = [self._pack_one(i, image, recipe) for i, image in enumerate(images)]
        kinds = [part.dtype for part in parts]
        if len(set(kinds)) > 1:
            odd = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
            raise ShapeError("uint8 pixels and normalised floats in one list", item=odd, got=str(kinds[odd]))
        empty = pack([], []).with_x(torch.zeros(0, recipe.width, dtype=self.dtype, device=self.device))
        return concat(parts) if parts else empty

    def features(self, p: Packed) -> Packed:
        """The chosen hidden states of packed patches, joined on channels: (T, hidden_size), rows as they came.

        Takes what `tubelet.patchify` makes of files as well, with true times and any number of rows dropped. Raises
        ConfigError where the selection keeps a class token: that has no place in a grid, `tower(images)` gives it.
        """
        if keeps_class(self.select_feature, self.vision_tower.config.prefix):
            raise ConfigError(
                f"{self.select_feature} keeps the class token, which has no place in a grid: call the tower itself",
                expected="patch",
                got=self.select_feature,
            )
        states = self.vision_tower.hidden_states(p, only=self.states)
        return states[0] if len(states) == 1 else states[0].with_x(torch.cat([s.x for s in states], dim=1))

    def _class_first(self, p: Packed) -> list[Tensor]:
        """(n, D) of each item: the class token of each of its frames, or its own, before their rows, states joined."""
        ran = self.vision_tower.run(p, only=[self.states], until=max(self.states))
        prefix = ran.prefixes(self.states)
        assert prefix is not None  # `keeps_class` has asked
        rows = ran.rows(p, self.states).x.split(ran.layout.units)
        pieces = [torch.cat(pair) for pair in zip(prefix[:, :1], rows, strict=True)]
        out: list[Tensor] = []
        for length in p.lengths:
            own: list[Tensor] = []
            while sum(len(piece) - 1 for piece in own) < length:
                own.append(pieces.pop(0))
            out.append(torch.cat(own))
        return out

    def _pack_one(self, i: int, image: Tensor, recipe: PixelRecipe) -> Packed:
        if image.ndim not in (3, 4) or image.shape[0] != 3:
            raise ShapeError(
                f"an item of a list is [3, H, W] or [3, T, H, W], got {tuple(image.shape)}",
                item=i,
                got=tuple(image.shape),
            )
        try:
            return from_pixels(self._ready(image, i).unsqueeze(0), recipe)
        except ShapeError as e:
            raise e.placed(item=i) from None

    def _ready(self, x: Tensor, item: int | None) -> Tensor:
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ShapeError(f"pixels are uint8 or floats, got {x.dtype}", item=item, got=str(x.dtype))
        return x.to(self.device) if x.dtype == torch.uint8 else x.to(self.device, self.dtype)

    # ---- what LLaVA code asks a tower

    def load_model(self, device_map: Any = None) -> None:
        """Does nothing: the weights are there. LLaVA's builder calls it on every tower."""

    @property
    def config(self) -> TowerConfig:
        """The encoder's sizes under Hugging Face's names."""
        c = self.vision_tower.config
        return TowerConfig(c.hidden, c.mlp, c.layers, c.heads, self._image_size, c.pixels.patch, 3, c.eps)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the features."""
        return self.vision_tower.patch.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are; images are moved there."""
        return self.vision_tower.patch.weight.device

    @property
    def hidden_size(self) -> int:
        """Channels of the features: the encoder's width times the number of joined states."""
        return self.vision_tower.config.hidden * len(self.states)

    @property
    def image_size(self) -> int:
        """Nominal side in pixels. The tower itself reads any size. Raises ConfigError where nobody named one."""
        if self._image_size is None:
            raise ConfigError("this encoder names no nominal size: give the tower image_size=", expected="image_size")
        return self._image_size

    @property
    def num_patches_per_side(self) -> int:
        """Tokens along a side of an image of nominal size, after a merge; a rest that fills no block is not counted."""
        return self.image_size // self.vision_tower.pixels.patch // self.merge

    @property
    def num_patches(self) -> int:
        """Tokens of an image of nominal size: the square of num_patches_per_side. Upstream divides the unmerged square
        by 4 instead, which for an odd side is a number of tokens no image has (37 patches: 342, not 18 x 18)."""
        return self.num_patches_per_side**2

    @property
    def dummy_feature(self) -> Shaped[Tensor, "1 D"]:
        """One row of zeros, which LLaVA puts where a sample has no image."""
        return torch.zeros(1, self.hidden_size, dtype=self.dtype, device=self.device)


def shaped_like(images: Tensor | Sequence[Tensor], p: Packed) -> Any:
    """Rows of p as [B, n, D] where images are one tensor, as a list of [n_i, D] where they are a list. No copy."""
    return p.x.reshape(len(p), -1, p.x.shape[1]) if isinstance(images, Tensor) else p.unpack()


def encode_images(tower: VisionTower, projector: Callable[[Packed], Packed], images: Tensor | Sequence[Tensor]) -> Any:
    """LLaVA's `encode_images`: tower, then projector, for any mix of images and clips in one packed forward.

    A tensor gives [B, n, C], a list a list of [n_i, C]. The projector takes and gives a Packed (`language.project`), so
    spatial_merge knows each item's own grid and nobody passes heights and widths. Raises what the two raise.

        >>> tower = VisionTower(tubelet.untrained("llava_vit_packing_small"))
        >>> projector = tubelet.language.build_projector("spatial_merge", tower.hidden_size, 64)
        >>> mix = [torch.zeros(3, 32, 64), torch.zeros(3, 64, 32), torch.zeros(3, 5, 32, 32)]
        >>> [tuple(f.shape) for f in encode_images(tower, projector, mix)]
        [(2, 64), (2, 64), (5, 64)]
    """
    return shaped_like(images, projector(tower.features(tower.pack(images))))


def build_vision_tower(
    config: Mapping[str, Any] | object,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    image_processor: Any = None,
) -> VisionTower:
    """The tower a LLaVA configuration describes, a mapping or an object with these fields:

    mm_vision_tower (or vision_tower): a folder, a safetensors file or a hub id, as for `tubelet.load_encoder`; what it
    holds decides which encoder it is, never how its path is called. mm_vision_select_layer: required.
    mm_vision_select_feature: default "patch". mm_projector_type: "spatial_merge" makes the counts of patches those
    after a 2 x 2 merge. Raises ConfigError for a missing or unusable field, and what load_encoder raises.
    """

    def field(name: str) -> Any:
        return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)

    path = field("mm_vision_tower") or field("vision_tower")
    layer = field("mm_vision_select_layer")
    feature = field("mm_vision_select_feature") or "patch"
    if not isinstance(path, str) or not path:
        raise ConfigError("mm_vision_tower names no checkpoint", expected="mm_vision_tower", got=path)
    if not isinstance(layer, int):
        raise ConfigError(
            f"mm_vision_select_layer must be an integer (LLaVA's own is -2), got {layer!s:.40}",
            expected="mm_vision_select_layer",
            got=layer,
        )
    if feature not in FEATURES:
        raise ConfigError(f"select_feature is one of {', '.join(FEATURES)}", expected=tuple(FEATURES), got=feature)
    return VisionTower(
        load_encoder(path, dtype=dtype, device=device),
        select_layer=layer,
        select_feature=feature,
        merge=MERGES.get(str(field("mm_projector_type")), 1),
        image_processor=image_processor,
    )
