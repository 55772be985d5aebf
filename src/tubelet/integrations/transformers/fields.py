"""The fields of an `EncoderConfig` and of a `PixelRecipe` under Hugging Face's names, each with its type.

A part that may be absent has a field that says so, and every word of a closed set is known, so that a configuration
survives a file of plain values: nothing is lost in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, get_args

from tubelet.encoder.config import EncoderConfig, Head, Merger, Rope, Span, Table
from tubelet.errors import ConfigError
from tubelet.families.fields import ACTS
from tubelet.pixels.recipe import CLIP_MEAN, CLIP_STD, INTERPOLATIONS, RESAMPLERS, RULES, PixelRecipe

BACKENDS = {"tubelet": "auto", "sdpa": "sdpa", "flash_attention_2": "flash"}  # attn_implementation -> ours
_NORMS = {"layer_norm": "layer", "rms_norm": "rms"}


@dataclass
class PixelFields:
    """A `PixelRecipe` under Hugging Face's names. resampler, interpolation, patch_order and size_rule are its own
    words."""

    patch_size: int = 16
    temporal_patch_size: int = 1
    merge_size: int = 1
    patch_order: str = "raster"
    size_rule: str = "native_floor"
    image_size: int | None = None
    shortest_edge: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_video_pixels: int | None = None
    resampler: str = "torch"
    interpolation: str = "bicubic"
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD


@dataclass
class EncoderFields:
    """The rest of an `EncoderConfig` under Hugging Face's names; a part that may be absent has a field that says so.

    head_norm_eps: of the pooling head's norm, None = layer_norm_eps. out_hidden_size: of a merger over merge_size^2
    tokens, None = there is none. layer_spans, span_frames and span_side: what layers attend to, as `EncoderConfig` has
    it. use_rope: the rope_ fields count. table_size: height and width of the table of positions, None = there is none.
    qk_norm_type: of q and k, None = they have no norm. post_norm_pooled: the final norm
    is of what is pooled only. deepstack_layers: those with a merger of their own, deepstack_out_size wide."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    num_channels: int = 3
    hidden_act: str = "gelu"
    layer_norm_type: str = "layer_norm"
    layer_norm_eps: float = 1e-6
    head_norm_eps: float | None = None
    rope_mode: str = "onevision"
    rope_theta: float = 10000.0
    rope_split: tuple[int, int, int] = (4, 6, 6)
    use_rope: bool = True
    rope_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rope_layout: str = "pairs"
    rope_places: str = "index"
    rope_origin: int = 0
    table_size: tuple[int, int] | None = None
    table_resize: str = "bicubic"
    table_prefix: bool = False
    num_prefix_tokens: int = 0
    prefix_per: str = "item"
    prefix_first: bool = False
    prefix_angles: bool = False
    patch_bias: bool = False
    use_pre_norm: bool = True
    use_post_norm: bool = True
    post_norm_pooled: bool = False
    use_embed_norm: bool = False
    use_gated_mlp: bool = False
    use_layer_scale: bool = False
    qkv_bias: bool = True
    key_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    use_head: bool = True
    head_type: str = "probe"
    head_norm_type: str = "rms_norm"
    head_bias: bool = True
    layer_spans: tuple[str, ...] = ("item",)
    span_frames: int = 1
    span_side: int | None = None
    qk_norm_type: str | None = None
    out_hidden_size: int | None = None
    merger_norm_eps: float = 1e-6
    merger_norm_type: str = "layer_norm"
    merger_joined: bool = False
    deepstack_layers: tuple[int, ...] = ()
    deepstack_out_size: int | None = None
    deepstack_norm_eps: float = 1e-6
    deepstack_norm_type: str = "layer_norm"
    deepstack_joined: bool = False
    initializer_range: float = 0.02


@dataclass
class FieldsBeforeSpans:
    """What stood for `layer_spans` in files of tubelet before it had them: a whole item or some frames for every layer,
    and windows of window_side patches for all but the full_layers. Prefix tokens stood before whichever it was."""

    window_frames: int | None = None
    window_side: int | None = None
    full_layers: tuple[int, ...] = ()


def with_spans(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file as today's; those of one written before layers named their spans mean the same. Raises
    ConfigError for a value of the wrong type, or for fields of both times."""
    old = {f.name for f in fields(FieldsBeforeSpans)} & given.keys()
    if not old:
        return given
    if "layer_spans" in given:
        raise ConfigError(f"{min(old)} says what layer_spans says", got=min(old))
    rest = dict(given)
    f = FieldsBeforeSpans(**checked(FieldsBeforeSpans, rest))
    whole = "item" if f.window_frames is None else "frame"
    out = {
        "layer_spans": (whole,),
        "span_frames": 1 if f.window_frames is None else f.window_frames,
        "prefix_per": whole,
    }
    if f.window_side is not None:
        layers = rest.get("num_hidden_layers", EncoderFields.num_hidden_layers)
        if not isinstance(layers, int) or any(not 0 <= i < layers for i in f.full_layers):
            raise ConfigError(f"full_layers count 0..{layers} - 1", limit=layers, got=f.full_layers)
        spans = tuple(whole if i in f.full_layers else "window" for i in range(layers))
        out |= {"layer_spans": spans, "span_side": f.window_side}
    return rest | out


def checked(kind: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """All fields of `kind`, taken out of `given` where they are there, lists made tuples. Raises ConfigError."""
    out = {}
    for f in fields(kind):
        value = given.pop(f.name, f.default)
        value = tuple(value) if isinstance(value, list) else value
        if not _is(value, f.type):
            raise ConfigError(f"{f.name} has a value of the wrong type: {value!s:.60}", expected=str(f.type), got=value)
        out[f.name] = value
    return out


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_is(value, k) for k in get_args(kind))
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if args := get_args(kind):  # tuple[int, ...] is of any length
        right = isinstance(value, tuple) and (args[1] is Ellipsis or len(value) == len(args))
        return right and all(_is(v, args[0]) for v in value)
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)


def recipe_of(holder: Any) -> PixelRecipe:
    """The recipe that an object with `PixelFields`' attributes stands for. Raises ConfigError."""
    f = PixelFields(**checked(PixelFields, {f.name: getattr(holder, f.name) for f in fields(PixelFields)}))
    return PixelRecipe(
        patch=f.patch_size,
        rule=_one_of("size_rule", f.size_rule),
        temporal=f.temporal_patch_size,
        merge=f.merge_size,
        order=_one_of("patch_order", f.patch_order),
        size=f.image_size,
        shortest=f.shortest_edge,
        min_pixels=f.min_pixels,
        max_pixels=f.max_pixels,
        max_video_pixels=f.max_video_pixels,
        resampler=_one_of("resampler", f.resampler),
        interpolation=_one_of("interpolation", f.interpolation),
        mean=f.image_mean,
        std=f.image_std,
    )


def pixel_fields(recipe: PixelRecipe) -> dict[str, Any]:
    """The inverse of `recipe_of`."""
    return {
        "patch_size": recipe.patch,
        "temporal_patch_size": recipe.temporal,
        "merge_size": recipe.merge,
        "patch_order": recipe.order,
        "size_rule": recipe.rule,
        "image_size": recipe.size,
        "shortest_edge": recipe.shortest,
        "min_pixels": recipe.min_pixels,
        "max_pixels": recipe.max_pixels,
        "max_video_pixels": recipe.max_video_pixels,
        "resampler": recipe.resampler,
        "interpolation": recipe.interpolation,
        "image_mean": recipe.mean,
        "image_std": recipe.std,
    }


_WORDS: dict[str, dict[str, Any]] = {
    "size_rule": {w: w for w in RULES},
    "patch_order": {w: w for w in ("raster", "block")},
    "resampler": {w: w for w in RESAMPLERS},
    "interpolation": {w: w for w in INTERPOLATIONS},
    "rope_mode": {w: w for w in ("onevision", "rotation")},
    "rope_layout": {w: w for w in ("pairs", "halves")},
    "rope_places": {w: w for w in ("index", "centred")},
    "prefix_per": {w: w for w in ("frame", "item")},
    "layer_spans": {w: w for w in get_args(Span)},
    "qk_norm_type": _NORMS,
    "table_resize": {w: w for w in ("bicubic", "bicubic_antialias", "bilinear_antialias", "corners", "sincos")},
    "head_type": {w: w for w in ("probe", "query", "first")},
    "hidden_act": ACTS,
    "layer_norm_type": _NORMS,
    "head_norm_type": _NORMS,
    "merger_norm_type": _NORMS,
    "deepstack_norm_type": _NORMS,
    "attn_implementation": BACKENDS,
}


def _one_of(name: str, value: Any) -> Any:
    known = _WORDS[name]
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} is one of {', '.join(known)}, got {value!r:.60}", expected=tuple(known), got=value)
    return known[value]


def backend_of(attn_implementation: Any) -> Any:
    """The encoder's attention backend for an `attn_implementation`. Raises ConfigError for any other word."""
    return _one_of("attn_implementation", attn_implementation)


def encoder_fields(encoder: EncoderConfig) -> dict[str, Any]:
    """A configuration under Hugging Face's names."""
    out = {
        "hidden_size": encoder.hidden,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp,
        "hidden_act": _word(ACTS, encoder.act),
        "layer_norm_type": _word(_NORMS, encoder.norm),
        "layer_norm_eps": encoder.eps,
        "head_norm_eps": encoder.head_eps,
        "use_rope": encoder.rope is not None,
        "patch_bias": encoder.patch_bias,
        "use_pre_norm": encoder.pre_norm,
        "use_post_norm": encoder.post_norm is not False,
        "post_norm_pooled": encoder.post_norm == "pooled",
        "use_embed_norm": encoder.embed_norm,
        "use_gated_mlp": encoder.gated,
        "use_layer_scale": encoder.scale,
        "qkv_bias": encoder.qkv_bias,
        "key_bias": encoder.key_bias,
        "proj_bias": encoder.proj_bias,
        "mlp_bias": encoder.mlp_bias,
        "num_prefix_tokens": encoder.prefix,
        "prefix_per": encoder.prefix_per,
        "prefix_first": encoder.prefix_first,
        "prefix_angles": encoder.prefix_angles,
        "use_head": encoder.pool,
        "head_type": encoder.head.kind,
        "head_norm_type": _word(_NORMS, encoder.head.norm),
        "head_bias": encoder.head.bias,
        "layer_spans": encoder.spans,
        "span_frames": encoder.span_frames,
        "span_side": encoder.span_side,
        "qk_norm_type": None if encoder.qk_norm is None else _word(_NORMS, encoder.qk_norm),
        **_merger_fields(encoder.merger, "out_hidden_size", "merger"),
        "deepstack_layers": encoder.deepstack,
        **_merger_fields(encoder.deepstack_merger, "deepstack_out_size", "deepstack"),
        **pixel_fields(encoder.pixels),
    }
    if rope := encoder.rope:
        out |= {"rope_mode": rope.mode, "rope_theta": rope.theta, "rope_split": rope.split, "rope_shift": rope.shift}
        out |= {"rope_layout": rope.layout, "rope_places": rope.places, "rope_origin": rope.origin}
    if table := encoder.table:
        out |= {"table_size": (table.height, table.width), "table_resize": table.resize, "table_prefix": table.prefix}
    return out


def _merger_fields(merger: Merger | None, width: str, name: str) -> dict[str, Any]:
    if merger is None:
        return {}
    norm = {f"{name}_norm_eps": merger.eps, f"{name}_norm_type": _word(_NORMS, merger.norm)}
    return {width: merger.out, **norm, f"{name}_joined": merger.joined}


def _word(words: Mapping[str, Any], ours: str) -> str:
    return next(theirs for theirs, value in words.items() if value == ours)


def encoder_of(holder: Any) -> EncoderConfig:
    """The configuration that an object with the attributes of both stands for. Raises ConfigError."""
    f = EncoderFields(**checked(EncoderFields, {f.name: getattr(holder, f.name) for f in fields(EncoderFields)}))
    if f.num_channels != 3:
        raise ConfigError("num_channels must be 3", expected=3, got=f.num_channels)
    recipe = recipe_of(holder)
    return EncoderConfig(
        hidden=f.hidden_size,
        layers=f.num_hidden_layers,
        heads=f.num_attention_heads,
        mlp=f.intermediate_size,
        pixels=recipe,
        norm=_one_of("layer_norm_type", f.layer_norm_type),
        eps=f.layer_norm_eps,
        head_eps=f.head_norm_eps,
        act=_one_of("hidden_act", f.hidden_act),
        rope=_rope(f),
        patch_bias=f.patch_bias,
        pre_norm=f.use_pre_norm,
        post_norm="pooled" if f.use_post_norm and f.post_norm_pooled else f.use_post_norm,
        pool=f.use_head,
        spans=tuple(_one_of("layer_spans", word) for word in f.layer_spans),
        span_frames=f.span_frames,
        span_side=f.span_side,
        qk_norm=None if f.qk_norm_type is None else _one_of("qk_norm_type", f.qk_norm_type),
        merger=_merger(f, recipe.merge, f.out_hidden_size, "merger"),
        gated=f.use_gated_mlp,
        qkv_bias=f.qkv_bias,
        key_bias=f.key_bias,
        proj_bias=f.proj_bias,
        mlp_bias=f.mlp_bias,
        scale=f.use_layer_scale,
        embed_norm=f.use_embed_norm,
        table=_table(f),
        prefix=f.num_prefix_tokens,
        prefix_per=_one_of("prefix_per", f.prefix_per),
        prefix_first=f.prefix_first,
        prefix_angles=f.prefix_angles,
        head=Head(_one_of("head_type", f.head_type), _one_of("head_norm_type", f.head_norm_type), f.head_bias),
        deepstack=f.deepstack_layers,
        deepstack_merger=_merger(f, recipe.merge, f.deepstack_out_size, "deepstack"),
    )


def _rope(f: EncoderFields) -> Rope | None:
    mode, layout = _one_of("rope_mode", f.rope_mode), _one_of("rope_layout", f.rope_layout)
    places = _one_of("rope_places", f.rope_places)
    rope = Rope(mode, f.rope_theta, f.rope_split, f.rope_shift, layout, places, f.rope_origin)
    return rope if f.use_rope else None


def _table(f: EncoderFields) -> Table | None:
    resize = _one_of("table_resize", f.table_resize)
    return None if f.table_size is None else Table(*f.table_size, resize, f.table_prefix)


def _merger(f: EncoderFields, merge: int, out: int | None, name: str) -> Merger | None:
    norm = _one_of(f"{name}_norm_type", getattr(f, f"{name}_norm_type"))
    eps, joined = getattr(f, f"{name}_norm_eps"), getattr(f, f"{name}_joined")
    return None if out is None else Merger(merge, out, eps, norm, joined)
