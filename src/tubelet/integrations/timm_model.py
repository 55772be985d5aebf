"""An encoder with the methods that timm's users call: batches of one size in, tokens, maps or classes out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, KeyMismatch, ShapeError
from tubelet.families import onevision as ov
from tubelet.families.family import from_theirs, to_theirs
from tubelet.families.match import matches
from tubelet.packed import Grid, Item, Packed, all_positions, positions
from tubelet.pixels.patchify import from_pixels

POOLS = ("map", "avg", "max", "")


class TimmEncoder(nn.Module):
    """[B, 3, H, W] pictures or [B, 3, T, H, W] clips, uint8 or already normalised, to what a timm model gives.

    forward_features gives tokens [B, N, D] in raster order, time first, after the final norm (and merger); forward_head
    pools them ("map" is the encoder's pooling head) and applies the linear head, if there is one. Pixels that do not
    fill a unit at the right and bottom are left out. Any size is read unless dynamic_img_size is False.
    """

    pretrained_cfg: dict[str, Any]
    default_cfg: dict[str, Any]

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_classes: int = 0,
        global_pool: str | None = None,
        img_size: tuple[int, int] = (448, 448),
        dynamic_img_size: bool = True,
        drop_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.img_size, self.dynamic_img_size = img_size, dynamic_img_size
        self.embed_dim = encoder.config.hidden
        self.num_features = self.head_hidden_size = encoder.config.out
        self.num_prefix_tokens = 0
        self.seed = seed
        self._block = encoder.pixels.merge if encoder.pixels.order == "block" else 1
        reduction = encoder.pixels.patch
        self.feature_info = [
            {"num_chs": self.embed_dim, "reduction": reduction, "module": f"encoder.layers.{i}"}
            for i in range(len(encoder.layers))
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.global_pool = ""
        default = "avg" if encoder.pool is None else "map"
        self.reset_classifier(num_classes, default if global_pool is None else global_pool)

    # ---- forward

    def forward(self, x: Tensor) -> Tensor:
        """[B, classes], or [B, D] without classes, or [B, N, D] without pooling."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] after the final norm and, where there is one, the merger."""
        return _raster(self.encoder(self._rows(x)), self._block if self.encoder.merger is None else 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens [B, N, D] pooled and classified; pre_logits=True leaves the linear head out."""
        x = self.head_drop(self._pooled(x))
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """The outputs of some layers: timm's words and results.

        indices: the last n layers, layers by number, None = all. output_fmt "NCHW" gives maps [B, D, h, w] (clips:
        [B, D, T, h, w]), "NLC" tokens [B, N, D]. norm: apply the final norm to each. stop_early: final features are
        those of the last layer asked for. No layer runs that no result needs. Final features come before a merger.
        There are no prefix tokens, so return_prefix_tokens changes nothing. Raises ConfigError for another format,
        ShapeError for layers that there are not.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError("output_fmt is NCHW or NLC", expected=("NCHW", "NLC"), got=output_fmt)
        take = _taken(indices, len(self.encoder.layers))
        last = max(take)
        end = [] if intermediates_only else [last + 1 if stop_early else len(self.encoder.layers)]
        states = self.encoder.hidden_states(self._rows(x), only=[*(i + 1 for i in take), *end])
        normed = self.encoder.norm_post
        found = states[: len(take)]
        found = [p.with_x(normed(p.x)) for p in found] if norm else found
        tokens = [_raster(p, self._block) for p in found]
        maps = tokens if output_fmt == "NLC" else [_map(t, found[0].items[0].grid, x.ndim == 5) for t in tokens]
        final = None if intermediates_only else _raster(states[-1].with_x(normed(states[-1].x)), self._block)
        if output_dict:
            features = {} if final is None else {"image_features": final}
            return {"image_intermediates": maps, **features}
        return maps if intermediates_only else (final, maps)

    def get_intermediate_layers(
        self, x: Tensor, n: int | Sequence[int] = 1, reshape: bool = False, norm: bool = False
    ) -> list[Tensor]:
        """DINO's name for `forward_intermediates`: the last n layers, or those of these numbers."""
        fmt = "NCHW" if reshape else "NLC"
        return self.forward_intermediates(x, n, norm=norm, output_fmt=fmt, intermediates_only=True)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop, for good, the layers after the last one wanted, and the norm and heads on request."""
        take = _taken(indices, len(self.encoder.layers))
        last = max(take)
        if prune_head:
            self.encoder.pool = None
            self.reset_classifier(0, "")
        if prune_norm:
            self.encoder.norm_post = nn.Identity()
        self.encoder.layers = self.encoder.layers[: last + 1]
        post_norm = not isinstance(self.encoder.norm_post, nn.Identity)
        pool = self.encoder.pool is not None and post_norm
        self.encoder.config = replace(self.encoder.config, layers=last + 1, post_norm=post_norm, pool=pool)
        return take

    # ---- what timm's tools ask for

    def get_classifier(self) -> nn.Module:
        """The linear head; Identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another head: N(0, 0.02) seeded, biases zero. Raises ConfigError for a pooling that there is not."""
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in POOLS:
            raise ConfigError(f"global_pool is one of {', '.join(map(repr, POOLS))}", expected=POOLS, got=pool)
        if pool == "map" and self.encoder.pool is None:
            raise ConfigError("this encoder has no pooling head for global_pool='map'", expected="avg", got="map")
        self.num_classes, self.global_pool = num_classes, pool
        weight = self.encoder.patch.weight
        self.head: nn.Module = nn.Identity()
        if num_classes:
            head = nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
            generator = torch.Generator().manual_seed(self.seed)
            start = torch.randn(head.weight.shape, generator=generator) * 0.02
            with torch.no_grad():
                head.weight.copy_(start)
                head.bias.zero_()
            self.head = head

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """The nominal size, which matters only with dynamic_img_size=False."""
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else img_size

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute layers in the backward pass."""
        self.encoder.set_run_options(replace(self.encoder.options, gradient_checkpointing=enable))

    def no_weight_decay(self) -> set[str]:
        """Parameters besides norms and biases that should not decay."""
        return {"encoder.pool.probe"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Stem, layers and the rest, for layer-wise learning rates."""
        del coarse  # layers are the finest groups here
        ends = r"^encoder\.(?:norm_post|pool|merger)"
        return {
            "stem": r"^encoder\.(?:patch|norm_pre)",
            "blocks": [(r"^encoder\.layers\.(\d+)", None), (ends, (99999,))],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """This model's names, or those of the family's formats for the encoder alone (then the linear head stays).

        Raises KeyMismatch naming what is missing, unexpected or of another shape; nothing is loaded then.
        """
        if not any(k.startswith("encoder.patch.") for k in state_dict):
            state_dict = self._converted(state_dict)
        mine = {k: v.shape for k, v in self.state_dict().items()}
        missing = [k for k in mine if k not in state_dict]
        unexpected = [k for k in state_dict if k not in mine]
        shaped = [
            (k, tuple(mine[k]), tuple(v.shape)) for k, v in state_dict.items() if k in mine and v.shape != mine[k]
        ]
        if shaped or (strict and (missing or unexpected)):
            raise KeyMismatch(
                f"{len(missing)} missing, {len(unexpected)} unexpected, {len(shaped)} mis-shaped "
                f"({', '.join([*missing, *unexpected, *(s[0] for s in shaped)][:3])} ...)",
                missing=missing,
                unexpected=unexpected,
                misshaped=shaped,
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _converted(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = matches((ov.FAMILY,), theirs)
        if not found:
            raise KeyMismatch("no format knows these names", unexpected=sorted(theirs))
        fmt, named, lines = found[0].format, found[0].named, ov.FAMILY.formats[found[0].format]
        refuse_other_eps(fmt, self.encoder.config)
        ours = self.encoder.state_dict()
        expected = to_theirs(ours, lines, self.encoder.config)
        shaped = [
            (k, tuple(t.shape), tuple(theirs[named[k]].shape))
            for k, t in expected.items()
            if k in named and theirs[named[k]].shape != t.shape
        ]
        missing = [k for k in expected if k not in named]
        unexpected = [k for k in named if k not in expected]
        if missing or unexpected or shaped:
            raise KeyMismatch(
                f"as {fmt}: {len(missing)} missing, {len(unexpected)} unexpected, {len(shaped)} mis-shaped "
                f"({', '.join([*missing, *unexpected, *(s[0] for s in shaped)][:3])} ...)",
                missing=missing,
                unexpected=unexpected,
                misshaped=shaped,
            )
        shapes = {k: tuple(t.shape) for k, t in ours.items()}
        state = from_theirs(shapes, lines, self.encoder.config, lambda name: theirs[named[name]])
        kept = {f"head.{k}": v for k, v in self.head.state_dict().items()}
        return {**{f"encoder.{k}": v for k, v in state.items()}, **kept}

    # ---- inside

    def _rows(self, x: Tensor) -> Packed:
        if not self.dynamic_img_size and tuple(x.shape[-2:]) != self.img_size:
            raise ShapeError(
                f"this model takes {self.img_size}, got {tuple(x.shape[-2:])}; dynamic_img_size=True takes any size",
                expected=self.img_size,
                got=tuple(x.shape[-2:]),
            )
        return from_pixels(x, self.encoder.pixels)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.global_pool == "avg":
            return x.mean(dim=1)
        if self.global_pool == "max":
            return x.amax(dim=1)
        if self.global_pool == "":
            return x
        batch, count = x.shape[:2]
        items = tuple(Item.of(1, 1, count, picture=i) for i in range(batch))  # the pooling head reads no places
        return self.encoder.pooled(Packed(x.flatten(0, 1), all_positions(items).to(x.device), items, (count,) * batch))


def refuse_other_eps(fmt: str, config: EncoderConfig) -> None:
    """Raise ConfigError where a training checkpoint, which names no eps, would run with another than its own."""
    trained = {name: c.eps for name, c in ov.SOURCES.items() if c.norm == config.norm}
    if fmt == "source" and config.eps not in trained.values():
        raise ConfigError(
            f"a training checkpoint has eps {next(iter(trained.values()))}, this model {config.eps}: "
            f"create one of {', '.join(trained)}",
            expected=tuple(trained),
            got=config.eps,
        )


def _taken(indices: int | Sequence[int] | None, layers: int) -> list[int]:
    """Layer numbers from timm's ways to say them: None all, n the last n, or numbers, negative ones from the end."""
    if indices is None or isinstance(indices, int):
        count = layers if indices is None else indices
        wanted = list(range(layers - count, layers)) if 0 < count <= layers else []
    else:
        wanted = [i + layers if i < 0 else i for i in indices]
    if not wanted or not all(0 <= i < layers for i in wanted):
        raise ShapeError(f"layers {indices} of {layers}", limit=layers, got=indices)
    return wanted


def _raster(p: Packed, block: int) -> Tensor:
    """Rows of equal whole items in block order (1 = raster) as [B, N, D] in raster order."""
    grid = p.items[0].grid
    x = p.x.unflatten(0, (len(p), -1))
    if block == 1:
        return x
    place = positions(grid, merge=block).long()
    order = ((place[:, 0] * grid.h + place[:, 1]) * grid.w + place[:, 2]).argsort()
    return x[:, order.to(x.device)]


def _map(tokens: Tensor, grid: Grid, video: bool) -> Tensor:
    """[B, D, h, w], clips [B, D, T, h, w]."""
    shape = (grid.t, grid.h, grid.w) if video else (grid.h, grid.w)
    return tokens.transpose(1, 2).unflatten(2, shape).contiguous()
