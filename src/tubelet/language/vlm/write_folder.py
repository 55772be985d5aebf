"""A whole model written as one folder, whole or not at all; `language.vlm.read_folder` describes what is in it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tubelet.errors import ConfigError, KeyMismatch
from tubelet.families.catalogue import home_of, write_config
from tubelet.families.family import to_theirs
from tubelet.families.fields import CODE_FIELDS
from tubelet.geometry.branch import branch_tensors
from tubelet.language.project.config import SETTINGS
from tubelet.language.project.files import PREFIX
from tubelet.language.vlm.extra_files import SETTINGS_FILE
from tubelet.language.vlm.llava_tensors import NEWLINES
from tubelet.language.vlm.load_lm import HEAD, OWN, TEXT, require_speaker
from tubelet.language.vlm.read_folder import TOWER, ModelParts
from tubelet.language.vlm.scheme import MODEL_TYPE, scheme_to
from tubelet.packed.file import write_tensors
from tubelet.weights.load import report_of
from tubelet.weights.locate import CONFIG, INDEX, SECTION, SINGLE
from tubelet.weights.plain import to_plain
from tubelet.weights.save import staged
from tubelet.writing import write_json

if TYPE_CHECKING:
    from tubelet.language.vlm.causal_lm import PlacedCausalLM

SHARD_BYTES = 5 << 30


def save_model_parts(parts: ModelParts, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the folder described there, whole or not at all; `VLM.save_pretrained` says the rest."""
    encoder, lm = parts.encoder, parts.speaker.lm
    report = report_of(encoder)
    home = home_of(encoder.config)
    if home is None:
        raise ConfigError("no family can say what this encoder is, so no folder can hold it")
    family, layout = home
    table: Any = parts.speaker.get_input_embeddings()
    head: Any = parts.speaker.head if parts.speaker.head is not None else lm.get_output_embeddings()
    tied = head is not None and head.weight is table.weight
    text = {k: v for k, v in lm.config.to_dict().items() if k not in CODE_FIELDS}
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["VLM"],
        "vision_config": write_config(encoder.config, family, layout),
        "text_config": text,
        "tie_word_embeddings": tied,
        SECTION: scheme_to(parts.scheme),
    }
    metadata = {"format": "pt", "layout": layout, "table": family.table_id}
    if parts.projector is not None and parts.projector.state_dict():
        config[SETTINGS] = to_plain(parts.projector.config)
        metadata[SETTINGS] = json.dumps(to_plain(parts.projector.config))
    elif parts.projector is not None:
        raise ConfigError(f"{parts.projector.config.kind} has no weights to save", got=parts.projector.config.kind)
    if encoder.untrained or (report is not None and report.untrained):
        metadata["untrained"] = "true"
    theirs = to_theirs(encoder.state_dict(), family.formats[layout], encoder.config)
    tensors = {TOWER + family.prefixes[0] + name: tensor for name, tensor in theirs.items()}
    if parts.projector is not None:
        tensors |= {PREFIX + name: tensor for name, tensor in parts.projector.state_dict().items()}
    if parts.spatial is not None:
        tensors |= branch_tensors(parts.spatial)
        config["spatial_config"] = {"embed_dim": parts.spatial.vggt.config.aggregator.hidden}
        config["connector_config"] = {"connector_type": "mlp_add", "spatial_embeds_layer_idx": parts.spatial.level}
        if parts.spatial.vggt.untrained:
            metadata["untrained"] = "true"
    if parts.newline is not None:
        tensors[NEWLINES[0]] = parts.newline
    language = _language(parts.speaker, tied)
    try:
        require_speaker(config, language, folder.name)
    except KeyMismatch as e:
        raise ConfigError(
            "the language model's own class could not read it: merge or remove what was added to it (adapters) first",
            source=folder.name,
            got=(e.unexpected or e.missing)[:8],
        ) from e
    tensors |= language
    with staged(folder, overwrite) as beside:
        _write_tensors(tensors, beside, metadata)
        write_json(beside / CONFIG, config)
        settings = parts.speaker.generation_config
        if settings is not None:
            said = {k: v for k, v in settings.to_diff_dict().items() if k not in CODE_FIELDS}
            write_json(beside / SETTINGS_FILE, said)
        if parts.tokenizer is not None:
            parts.tokenizer.save_pretrained(str(beside))
    return folder


def _language(speaker: "PlacedCausalLM", tied: bool) -> dict[str, Tensor]:
    """The language model's tensors under the names the folder has; a tied head is left out."""
    inner = OWN + (TEXT if speaker.head is not None else "")
    out = {inner + name: tensor for name, tensor in speaker.lm.state_dict().items()}
    if tied:
        return {name: tensor for name, tensor in out.items() if not name.startswith(OWN + HEAD)}
    return out if speaker.head is None else out | {f"{OWN}{HEAD}weight": speaker.head.weight}


def _write_tensors(tensors: Mapping[str, Tensor], folder: Path, metadata: dict[str, str]) -> None:
    """One file, or shards of at most SHARD_BYTES with an index. One shard at a time comes to the host."""
    shards = list(_shards(tensors))
    names = [SINGLE] if len(shards) == 1 else [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
    ]  # fmt: skip
    for name, shard in zip(names, shards, strict=True):
        write_tensors(folder / name, {key: tensors[key] for key in shard}, metadata)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
        }
        write_json(folder / INDEX, index)


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names in order, as many together as fit."""
    held: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if held and size + tensor.nbytes > SHARD_BYTES:
            yield held
            held, size = [], 0
        held.append(name)
        size += tensor.nbytes
    yield held
