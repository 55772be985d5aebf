"""An `EncoderConfig` and a `PixelRecipe` under Hugging Face's flat names.

transformers reads and changes fields of a configuration one by one: `config.hidden_size`, `from_pretrained(...,
num_hidden_layers=2)`. So a config.json here is flat, and no nested object is written beside it that a changed field
would contradict. The tables say names only; types, words and defaults are those of the dataclasses' own fields. A part
that may be absent has a field that says so: nothing is lost in silence.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, NamedTuple, get_type_hints

from tubelet.encoder.config import EncoderConfig, Head, Merger, Rope, Table
from tubelet.errors import ConfigError
from tubelet.families.fields import ACTS
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.plain import checked_value

BACKENDS = {"tubelet": "auto", "sdpa": "sdpa", "flash_attention_2": "flash"}  # attn_implementation -> ours
_NORMS = {"layer_norm": "layer", "rms_norm": "rms"}


class Flat(NamedTuple):
    """One field of a config.json."""

    hint: Any  # the type of its value, in our words
    default: Any  # in Hugging Face's words
    field: str | None = None  # of the dataclass; None where several fields say together what one of ours says
    words: Mapping[str, Any] | None = None  # Hugging Face's -> ours; None where they are the same

    def ours(self, name: str, value: Any) -> Any:
        """The value in our words, checked. Raises ConfigError."""
        if self.words is not None and value is not None:
            value = _one_of(name, value, self.words)
        return checked_value(value, self.hint, name)

    def theirs(self, value: Any) -> Any:
        """The value in Hugging Face's words."""
        if self.words is None or value is None:
            return value
        return next(word for word, ours in self.words.items() if ours == value)


def _table(kind: type[Any], names: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Flat]:
    """The fields of a dataclass by the names they have in a file. defaults: where the dataclass has none, or others."""
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind)}
    out: dict[str, Flat] = {}
    for name, ours in names.items():
        words = ACTS if name == "hidden_act" else _NORMS if name.endswith("norm_type") else None
        flat = Flat(hints[ours], known[ours].default, ours, words)
        if name in defaults:
            hint = flat.hint | None if defaults[name] is None else flat.hint
            flat = flat._replace(hint=hint, default=defaults[name])
        else:
            assert flat.default is not MISSING  # a file without the field must mean something
            flat = flat._replace(default=flat.theirs(flat.default))
        out[name] = flat
    return out


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


PIXEL_FIELDS = _table(
    PixelRecipe,
    {"patch_size": "patch", "temporal_patch_size": "temporal", "merge_size": "merge", "patch_order": "order"}
    | {"size_rule": "rule", "image_size": "size", "shortest_edge": "shortest", "image_mean": "mean", "image_std": "std"}
    | _same("min_pixels", "max_pixels", "max_video_pixels", "max_tokens", "max_clip_tokens")
    | _same("resampler", "interpolation"),
    {"patch_size": 16},
)
# Those of `PixelRecipe.clips`, where clips are sized otherwise: clip_rule None = as pictures
_CLIPS = {
    f"clip_{name}": Flat(get_type_hints(PixelRecipe)[name] | None, None)
    for name in ("rule", "size", "min_pixels", "max_pixels", "max_video_pixels", "max_tokens", "max_clip_tokens")
}
PIXEL_FIELDS |= _CLIPS
_BODY = _table(
    EncoderConfig,
    {"hidden_size": "hidden", "num_hidden_layers": "layers", "num_attention_heads": "heads"}
    | {"intermediate_size": "mlp", "hidden_act": "act", "layer_norm_type": "norm", "layer_norm_eps": "eps"}
    | {"head_norm_eps": "head_eps", "use_pre_norm": "pre_norm", "use_embed_norm": "embed_norm"}
    | {"use_gated_mlp": "gated", "use_layer_scale": "scale", "num_prefix_tokens": "prefix", "use_head": "pool"}
    | {"layer_spans": "spans", "qk_norm_type": "qk_norm", "qk_norm_eps": "qk_eps", "deepstack_layers": "deepstack"}
    | _same("patch_bias", "qkv_bias", "key_bias", "proj_bias", "mlp_bias", "span_frames", "span_side")
    | _same("prefix_per", "prefix_first", "prefix_angles"),
    {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
)
_ROPE = _table(Rope, {f"rope_{f.name}": f.name for f in fields(Rope)}, {})
_HEAD = _table(Head, {"head_type": "kind", "head_norm_type": "norm", "head_bias": "bias"}, {})
_PLACES = _table(Table, {"table_resize": "resize", "table_prefix": "prefix"}, {"table_resize": "bicubic"})


def _merger_table(width: str, name: str) -> dict[str, Flat]:
    """Of a merger over merge_size^2 tokens; the width None says that there is none."""
    names = {width: "out", f"{name}_norm_eps": "eps", f"{name}_norm_type": "norm", f"{name}_joined": "joined"}
    return _table(Merger, names, {width: None})


_MERGER = _merger_table("out_hidden_size", "merger")
_DEEPSTACK = _merger_table("deepstack_out_size", "deepstack")
_OTHERS = {
    "num_channels": Flat(int, 3),
    "use_rope": Flat(bool, True),  # the rope_ fields count
    "use_post_norm": Flat(bool, True),
    "post_norm_pooled": Flat(bool, False),  # the final norm is of what is pooled only
    "table_size": Flat(tuple[int, int] | None, None),  # height and width of the table; None = there is none
    "initializer_range": Flat(float, 0.02),  # transformers wants it; nothing here reads it
}
ENCODER_FIELDS = {**_BODY, **_ROPE, **_HEAD, **_PLACES, **_MERGER, **_DEEPSTACK, **_OTHERS}
# What stood for `layer_spans` in files of tubelet before it had them: a whole item or some frames for every layer, and
# windows of window_side patches for all but the full_layers. Prefix tokens stood before whichever it was.
_BEFORE_SPANS = {
    "window_frames": Flat(int | None, None),
    "window_side": Flat(int | None, None),
    "full_layers": Flat(tuple[int, ...], ()),
}


def with_spans(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file as today's; those of one written before layers named their spans mean the same. Raises
    ConfigError for a value of the wrong type, or for fields of both times."""
    old = _BEFORE_SPANS.keys() & given.keys()
    if not old:
        return given
    if "layer_spans" in given:
        raise ConfigError(f"{min(old)} says what layer_spans says", got=min(old))
    rest = dict(given)
    before = checked(_BEFORE_SPANS, rest)
    frames, side, full = before["window_frames"], before["window_side"], before["full_layers"]
    whole = "item" if frames is None else "frame"
    out = {"layer_spans": (whole,), "span_frames": 1 if frames is None else frames, "prefix_per": whole}
    if side is not None:
        layers = rest.get("num_hidden_layers", ENCODER_FIELDS["num_hidden_layers"].default)
        if not isinstance(layers, int) or any(not 0 <= i < layers for i in full):
            raise ConfigError(f"full_layers count 0..{layers} - 1", limit=layers, got=full)
        spans = tuple(whole if i in full else "window" for i in range(layers))
        out |= {"layer_spans": spans, "span_side": side}
    return rest | out


def checked(table: Mapping[str, Flat], given: dict[str, Any]) -> dict[str, Any]:
    """All fields of `table`, taken out of `given` where they are there, lists made tuples. Raises ConfigError."""
    out = {}
    for name, flat in table.items():
        value = given.pop(name, flat.default)
        out[name] = tuple(value) if isinstance(value, list) else value
        flat.ours(name, value)
    return out


def _read(table: Mapping[str, Flat], holder: Any) -> dict[str, Any]:
    """Our fields out of the attributes of `holder`. Raises ConfigError."""
    return {flat.field or name: flat.ours(name, getattr(holder, name)) for name, flat in table.items()}


def _written(table: Mapping[str, Flat], value: Any) -> dict[str, Any]:
    """The fields of a part under their names in a file; none of a part that is absent."""
    if value is None:
        return {}
    return {name: flat.theirs(getattr(value, flat.field)) for name, flat in table.items() if flat.field is not None}


def recipe_of(holder: Any) -> PixelRecipe:
    """The recipe that an object with the attributes of PIXEL_FIELDS stands for. Raises ConfigError."""
    said = _read(PIXEL_FIELDS, holder)
    own = {name.removeprefix("clip_"): said.pop(name) for name in _CLIPS}
    clips = None if own["rule"] is None else PixelRecipe(said["patch"], merge=said["merge"], **own)
    return PixelRecipe(**said, clips=clips)


def pixel_fields(recipe: PixelRecipe) -> dict[str, Any]:
    """The inverse of `recipe_of`."""
    clips = {} if recipe.clips is None else {n: getattr(recipe.clips, n.removeprefix("clip_")) for n in _CLIPS}
    return _written(PIXEL_FIELDS, recipe) | clips


def _one_of(name: str, value: Any, known: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} is one of {', '.join(known)}, got {value!r:.60}", expected=tuple(known), got=value)
    return known[value]


def backend_of(attn_implementation: Any) -> Any:
    """The encoder's attention backend for an `attn_implementation`. Raises ConfigError for any other word."""
    return _one_of("attn_implementation", attn_implementation, BACKENDS)


def encoder_fields(encoder: EncoderConfig) -> dict[str, Any]:
    """A configuration under Hugging Face's names."""
    table = encoder.table
    return {
        **_written(_BODY, encoder),
        **_written(_HEAD, encoder.head),
        **_written(_ROPE, encoder.rope),
        **_written(_PLACES, table),
        **_written(_MERGER, encoder.merger),
        **_written(_DEEPSTACK, encoder.deepstack_merger),
        **pixel_fields(encoder.pixels),
        "use_rope": encoder.rope is not None,
        "use_post_norm": encoder.post_norm is not False,
        "post_norm_pooled": encoder.post_norm == "pooled",
        **({} if table is None else {"table_size": (table.height, table.width)}),
    }


def encoder_of(holder: Any) -> EncoderConfig:
    """The configuration that an object with the attributes of both tables stands for. Raises ConfigError."""
    others = _read(_OTHERS, holder)
    if others["num_channels"] != 3:
        raise ConfigError("num_channels must be 3", expected=3, got=others["num_channels"])
    recipe, rope = recipe_of(holder), Rope(**_read(_ROPE, holder))
    size, places = others["table_size"], _read(_PLACES, holder)
    normed = others["use_post_norm"]
    return EncoderConfig(
        **_read(_BODY, holder),
        pixels=recipe,
        rope=rope if others["use_rope"] else None,
        post_norm="pooled" if normed and others["post_norm_pooled"] else normed,
        head=Head(**_read(_HEAD, holder)),
        table=None if size is None else Table(*size, **places),
        merger=_merger(_read(_MERGER, holder), recipe.merge),
        deepstack_merger=_merger(_read(_DEEPSTACK, holder), recipe.merge),
    )


def _merger(said: dict[str, Any], merge: int) -> Merger | None:
    return None if said["out"] is None else Merger(merge, **said)
