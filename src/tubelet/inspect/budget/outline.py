"""What a folder says of a model, for plans: its encoder, and what follows it in a whole model. No weight is read.

Headers of safetensors give the sizes of VGGT, which stand in no configuration, and how large the language model is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.fields import LARGEST, refuse_code
from tubelet.geometry.branch import CONNECTOR, NETWORK
from tubelet.geometry.vggt import VGGTConfig
from tubelet.geometry.vggt_keys import aggregator_config
from tubelet.inspect.budget.memory import ITEM_BYTES, Dtype
from tubelet.inspect.budget.networks import LanguageShape
from tubelet.inspect.budget.values import Downstream
from tubelet.language.vlm.qwen import RULES, SPATIAL_MLLM, qwen_scheme, spatial_level, without_spatial
from tubelet.language.vlm.read_folder import MODEL_TYPE
from tubelet.language.vlm.scheme import SECTION, scheme_from
from tubelet.weights.load import Opened, open_weights
from tubelet.weights.locate import CONFIG, CheckpointFolder, Source, find_folder
from tubelet.weights.tensors import stored_type

BESIDE = (NETWORK, CONNECTOR)


@dataclass(frozen=True)
class ModelOutline:
    """A folder's encoder and what follows it. language: values in the language model's weights; None where there is
    none or its files would have to be fetched. stored: the type of the encoder's weights."""

    encoder: EncoderConfig
    after: Downstream = Downstream()
    whole: bool = False
    language: int | None = None
    stored: str = "float32"

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
    return ModelOutline(opened.config, stored=_stored(opened))


def outline_whole(folder: CheckpointFolder) -> ModelOutline | None:
    """The outline of a complete Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Spatial-MLLM, or of what tubelet wrote without a
    projector; None for any other folder."""
    config = folder.config()
    kind = None if config is None else config.get("model_type")
    if config is None or kind not in (*RULES, SPATIAL_MLLM, MODEL_TYPE):
        return None
    refuse_code(config)
    level = spatial_level(config) if kind in (SPATIAL_MLLM, MODEL_TYPE) else None
    if kind == SPATIAL_MLLM:
        config = without_spatial(config)
        kind, folder = config["model_type"], replace(folder, described=config)
    opened = open_weights(folder)
    if opened.config.merger is None:  # a projector follows, which a plan is told of by its own options
        return None
    if kind == MODEL_TYPE:
        pixels = opened.config.pixels
        scheme = scheme_from(_section(config), pixels.mean, pixels.std)
    else:
        scheme = qwen_scheme(str(kind), config, opened.config)
    after = Downstream(
        llm=language_shape(config, Path(folder.name).name),
        geometry=None if level is None else _geometry(folder),
        level=-1 if level is None else level,
    )
    clips = scheme.pixels.clips if scheme.video_pixels is None else scheme.video_pixels
    encoder = replace(opened.config, pixels=replace(scheme.pixels, clips=clips))
    return ModelOutline(encoder, after, True, _language_values(folder, opened), _stored(opened))


def language_shape(config: Mapping[str, Any], name: str = "language model") -> LanguageShape | None:
    """The language model that a whole model's config.json describes; None where it leaves out what has no default.

    Raises ConfigError for numbers that make no model.
    """
    text = config.get("text_config")
    said = text if isinstance(text, Mapping) else config
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


def _geometry(folder: CheckpointFolder) -> VGGTConfig:
    entries = folder.checkpoint({key for key in folder.home if key.startswith(NETWORK)}).entries
    shapes = {key.removeprefix(NETWORK): e.shape for key, e in entries.items() if key.startswith(NETWORK)}
    return aggregator_config(shapes, folder.name)


def _language_values(folder: CheckpointFolder, opened: Opened) -> int | None:
    """Values of the tensors that are part of neither encoder, geometry nor connector; of a hub nothing is fetched."""
    if folder.fetch is not None:
        return None
    vision = set(opened.match.named.values())
    entries = folder.checkpoint().entries.items()
    return sum(math.prod(e.shape) for key, e in entries if key not in vision and not key.startswith(BESIDE))


def _stored(opened: Opened) -> str:
    return str(stored_type(list(opened.entries.values()))).removeprefix("torch.")
