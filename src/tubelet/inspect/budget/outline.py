"""What a folder says of a model, for plans: its encoder, and what follows it in a whole model. No weight is read.

Headers of safetensors give the sizes of VGGT, which stand in no configuration, and how large the language model is.
No torch, unless VGGT is inside or shapes alone tell which network it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.fields import LARGEST, refuse_code
from tubelet.inspect.budget.memory import ITEM_BYTES, Dtype
from tubelet.inspect.budget.networks import LanguageShape
from tubelet.inspect.budget.values import Downstream
from tubelet.language.project.config import SETTINGS, ProjectorConfig
from tubelet.language.vlm.layouts import LAYOUTS, files_of, is_layout
from tubelet.language.vlm.qwen import SPATIAL_MLLM, spatial_level, without_spatial
from tubelet.language.vlm.scheme import MODEL_TYPE, Scheme, scheme_from
from tubelet.pixels.views_plan import ViewRule
from tubelet.weights.locate import CONFIG, SECTION, CheckpointFolder, Source, find_folder
from tubelet.weights.opened import Opened, open_weights, stored_name
from tubelet.weights.plain import from_plain

if TYPE_CHECKING:
    from tubelet.geometry.vggt import VGGTConfig

# Projectors whose cost a plan knows -> their matrices, and whether they average what they merge
PLANNED = {"identity": ("identity", False), "linear": ("linear", False), "mlp2x_gelu": ("mlp2x_gelu", False)}
PLANNED |= {"soft_tokens": ("linear", True), "pixel_shuffle": ("mlp2x_gelu", False), "merge_linear": ("linear", False)}
# What text configurations of published models leave out, because it is upstream's default
USUAL: dict[str, dict[str, int]] = {
    "llama": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008},
    "gemma": {"head_dim": 256},
    "gemma2": {"head_dim": 256},
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
    "mistral": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336}
    | {"num_key_value_heads": 8},
}


@dataclass(frozen=True)
class ModelOutline:
    """A folder's encoder, as many layers as run, and what follows it. language: values in the language model's weights;
    None where there is none or its files would have to be fetched. stored: the type the encoder's weights are kept
    in. scheme: how the whole model cuts a prompt's pictures."""

    encoder: EncoderConfig
    after: Downstream = Downstream()
    whole: bool = False
    language: int | None = None
    stored: str = "float32"
    scheme: Scheme | None = None

    def views(self, stills: int = 1) -> ViewRule | None:
        """How a picture is cut into views, in a prompt with so many pictures; None where it is not."""
        return None if self.scheme is None else self.scheme.for_pictures(stills).views

    def language_bytes(self, dtype: Dtype) -> int:
        """The language model's weights in that type; 0 where their number is not known."""
        return (self.language or 0) * ITEM_BYTES[dtype]


def outline_model(source: Source, *, revision: str | None = None) -> ModelOutline:
    """The outline of a folder, a file or a hub id, of which no weights but those of VGGT are fetched.

    Of what `outline_whole` does not know the encoder alone is told. Raises what `load_encoder` raises before it reads a
    tensor.
    """
    folder = find_folder(source, revision)
    found = outline_whole(folder)
    if found is not None:
        return found
    opened = open_weights(folder)
    return ModelOutline(opened.config, stored=_kept(folder, opened))


def outline_whole(folder: CheckpointFolder) -> ModelOutline | None:
    """The outline of a whole model of a kind in `language.vlm.layouts`, of a Spatial-MLLM, or of what tubelet wrote;
    None for any other folder, and for a model that joins several hidden states or repeats odd edges."""
    config = folder.config()
    kind = None if config is None else config.get("model_type")
    if config is None or not (kind in (SPATIAL_MLLM, MODEL_TYPE) or is_layout(config)):
        return None
    refuse_code(config)
    level = spatial_level(config) if kind in (SPATIAL_MLLM, MODEL_TYPE) else None
    if kind == SPATIAL_MLLM:
        config = without_spatial(config)
        kind, folder = config["model_type"], replace(folder, described=config)
    opened = open_weights(folder)
    pixels, projector = opened.config.pixels, "identity"
    merge = 1
    if kind == MODEL_TYPE:
        scheme = scheme_from(_section(config), pixels.mean, pixels.std)
        if SETTINGS in config:
            own = from_plain(ProjectorConfig, config[SETTINGS], SETTINGS)
            projector, merge = own.kind, own.merge
            if own.odd != "error":
                return None
    else:
        layout, files = LAYOUTS[str(kind)], files_of(folder, config)
        config_of = replace(opened.config, pixels=layout.pixels(files, pixels))
        scheme, named = layout.scheme(files, config_of), layout.projector(files, config_of)
        projector, merge = ("identity", 1) if named is None else (named.kind, named.merge or 1)
    if len(scheme.states) > 1 or projector not in PLANNED:
        return None
    matrices, averaged = PLANNED[projector]
    llm = language_shape(config, Path(folder.name).name)
    after = Downstream(
        space=merge,
        llm=llm,
        projector=matrices,
        averaged=averaged,
        geometry=None if level is None else _geometry(folder),
        level=-1 if level is None else level,
    )
    clips = scheme.pixels.clips if scheme.video_pixels is None else scheme.video_pixels
    encoder = replace(opened.config, pixels=replace(scheme.pixels, clips=clips))
    if scheme.states:  # what lies behind the state is loaded and never runs
        encoder = replace(encoder, layers=scheme.states[0], pool=False, post_norm=False, merger=None, deepstack=())
    language = _language_values(folder, opened, spatial=level is not None)
    return ModelOutline(encoder, after, True, language, _kept(folder, opened), scheme)


def language_shape(config: Mapping[str, Any], name: str = "language model") -> LanguageShape | None:
    """The language model that a whole model's config.json describes; None where it leaves out what has no default.

    Raises ConfigError for numbers that make no model.
    """
    text = config.get("text_config")
    said = text if isinstance(text, Mapping) else config
    said = {**USUAL.get(str(said.get("model_type")), {}), **said}
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    width, layers, heads, mlp = (_count(said, field) for field in fields)
    kv_heads, head_dim = _count(said, "num_key_value_heads"), _count(said, "head_dim")
    experts, inner = _count(said, "num_experts_per_tok"), _count(said, "moe_intermediate_size")
    mlp = experts * inner if experts and inner else mlp
    if not (width and layers and heads and mlp):
        return None
    return LanguageShape(name, width, layers, kv_heads or heads, head_dim or max(1, width // heads), heads, mlp)


def _count(said: Mapping[str, Any], field: str) -> int | None:
    value = said.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
        raise ConfigError(f"{field} is a number from 1", source=CONFIG, limit=LARGEST, got=value)
    return value


def _section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    said = config.get(SECTION)
    if not isinstance(said, Mapping):
        raise ConfigError(f"the section {SECTION} is missing", source=CONFIG, expected=SECTION)
    return said


def _geometry(folder: CheckpointFolder) -> "VGGTConfig":
    from tubelet.geometry.branch import NETWORK
    from tubelet.geometry.vggt_keys import aggregator_config

    entries = folder.checkpoint({key for key in folder.home if key.startswith(NETWORK)}).entries
    shapes = {key.removeprefix(NETWORK): e.shape for key, e in entries.items() if key.startswith(NETWORK)}
    return aggregator_config(shapes, folder.name)


def _language_values(folder: CheckpointFolder, opened: Opened, *, spatial: bool) -> int | None:
    """Values of the tensors that are part of neither encoder, geometry nor connector; of a hub nothing is fetched."""
    if folder.fetch is not None:
        return None
    vision, beside = set(opened.match.named.values()), ()
    if spatial:
        from tubelet.geometry.branch import CONNECTOR, NETWORK

        beside = NETWORK, CONNECTOR
    entries = folder.checkpoint().entries.items()
    return sum(math.prod(e.shape) for key, e in entries if key not in vision and not key.startswith(beside))


def _kept(folder: CheckpointFolder, opened: Opened) -> str:
    return folder.dtype or stored_name(opened.entries.values())
