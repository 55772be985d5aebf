"""A whole model in a folder: three layouts in, one out.

    complete Qwen2-VL, Qwen2.5-VL, Qwen3-VL    vision_config and text_config, or flat; model.visual. ...
    transformers' LlavaNext                    vision_config and text_config; multi_modal_projector. ..., image_newline
    LLaVA                                      mm_projector_type, mm_vision_select_layer ...; model.mm_projector. ...
    what tubelet writes                        vision_config, text_config and a section `tubelet`; and these tensors

        model.image_newline     of models whose views are unpadded         tubelet.language.llava reads it
        vision_tower. ...       the encoder under its family's names       tubelet.load_encoder reads it
        model.mm_projector. ... the projector under LLaVA's                tubelet.load_projector reads it
        language_model. ...     the language model under transformers'     tubelet.language.lm reads it

Each part is read by its own strict reader, and no file names code or a path: LLaVA's tower, where it is not inside, is
named by the caller.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.encoder.states import state_numbers
from tubelet.errors import ConfigError, WeightsError
from tubelet.families import home_of, require_variant, variants, write_config
from tubelet.families.family import to_theirs
from tubelet.families.fields import CODE_FIELDS, refuse_code
from tubelet.families.processors import recipe_from
from tubelet.families.qwen_vl import qwen3_video_pixels, video_pixels
from tubelet.language.align import LLAVA, TokenIds
from tubelet.language.llava import (
    ANYRES,
    JOINS,
    LLAVA_NEXT,
    NEWLINES,
    llava_views,
    next_pixels,
    next_projector,
    next_scheme,
    read_newline,
)
from tubelet.language.lm import HEAD, LLAVA_BASES, OWN, TEXT, load_speaker, require_transformers
from tubelet.language.mrope import QWEN2_5_VL, QWEN2_VL, QWEN3_VL, PositionRule
from tubelet.language.scheme import Scheme, scheme_from, scheme_to
from tubelet.pixels.recipe import PixelRecipe
from tubelet.project import Projector
from tubelet.projector_files import PREFIX, SETTINGS, load_projector
from tubelet.weights.header import strict_json
from tubelet.weights.load import load_encoder, open_weights, report_of
from tubelet.weights.locate import CONFIG, INDEX, SINGLE, Place, find_place, inside
from tubelet.weights.save import staged

if TYPE_CHECKING:
    from tubelet.language.speaker import Speaker

MODEL_TYPE = "tubelet_vlm"
SECTION = "tubelet"
TOWER = "vision_tower."
SETTINGS_FILE, PROCESSOR, VIDEO_PROCESSOR = (
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
SHARD_BYTES = 5 << 30
_RULES = {"qwen2_vl": QWEN2_VL, "qwen2_5_vl": QWEN2_5_VL, "qwen3_vl": QWEN3_VL}
_QWEN_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


@dataclass(frozen=True, eq=False)
class Parts:
    """What a whole model consists of. tokenizer: transformers', or None. newline: of joined views, or None."""

    encoder: Encoder
    projector: Projector | None
    speaker: "Speaker"
    scheme: Scheme
    tokenizer: Any = None
    newline: Tensor | None = None


def read_parts(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    vision_tower: str | os.PathLike[str] | None = None,
) -> Parts:
    """The parts of the model in a folder or of a hub id; `VLM.from_pretrained` describes the arguments.

    Raises ConfigError for a configuration of no known layout, and what the readers of the parts raise.
    """
    require_transformers("a vision-language model")
    place = find_place(source, revision)
    config = place.config()
    if config is None:
        raise ConfigError("a whole model needs its config.json", source=place.name, expected=CONFIG)
    refuse_code(config)
    beside = _Beside(place, source)
    kind = config.get("model_type")
    if kind in LLAVA_BASES:
        encoder, projector, scheme = _llava(place, config, source, revision, dtype, device, vision_tower, beside)
    elif kind in _RULES or kind == MODEL_TYPE:
        if vision_tower is not None:
            raise ConfigError("vision_tower is for LLaVA's layout; this model holds its own", got=str(vision_tower))
        own = partial(_own_pixels, config) if kind == MODEL_TYPE else None
        encoder = _encoder(source, revision, dtype, device, own)
        projector = None
        if kind == MODEL_TYPE:
            scheme = _own(config, encoder)
            if SETTINGS in config:
                projector = load_projector(source, revision=revision, dtype=dtype, device=device)
        else:
            scheme = qwen_scheme(str(kind), config, encoder.config, beside(PROCESSOR), beside(VIDEO_PROCESSOR))
    elif kind == LLAVA_NEXT:
        if vision_tower is not None:
            raise ConfigError("vision_tower is for LLaVA's layout; this model holds its own", got=str(vision_tower))
        processor = place.processor() or {}
        encoder = _encoder(source, revision, dtype, device, partial(next_pixels, processor))
        projector = next_projector(place, config, dtype, device)
        scheme = next_scheme(config, encoder.config, processor)
    else:
        known = (MODEL_TYPE, *_RULES, LLAVA_NEXT, *LLAVA_BASES)
        raise ConfigError(f"no whole model of model_type {kind!r:.60} is known", expected=known, got=kind)
    ends = scheme.views is not None and scheme.views.join == "unpad"
    newline = read_newline(place, dtype, device) if ends else None
    speaker = load_speaker(place, config, dtype=dtype, device=device, settings=beside(SETTINGS_FILE))
    described = None if kind in _RULES else speaker.lm.config  # transformers knows its own model types only
    return Parts(encoder, projector, speaker, scheme, beside.tokenizer(revision, described), newline)


class _Beside:
    """Small files beside the weights: local ones, or of a hub repository at the commit the weights are of."""

    def __init__(self, place: Place, source: str | os.PathLike[str]) -> None:
        self.place = place
        self.repo = None if Path(source).exists() else str(source)

    def __call__(self, name: str) -> dict[str, Any]:
        """A JSON object; {} where there is no such file. Raises ConfigError."""
        path = self.path(name)
        if path is None:
            return {}
        said = strict_json(path.read_bytes(), ConfigError, name)
        if not isinstance(said, dict):
            raise ConfigError("not a JSON object", source=name)
        return said

    def path(self, name: str) -> Path | None:
        """Where the file is; None without one. Raises UnsafePath for one that leads out of the folder."""
        local = self.place.folder / name
        if local.is_symlink() or local.exists():
            return inside(local, self.place.root)
        if self.repo is None:
            return None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

        try:
            return Path(hf_hub_download(self.repo, name, revision=self.place.folder.name))
        except EntryNotFoundError:
            return None
        except (OSError, ValueError, HfHubHTTPError) as e:
            raise WeightsError(f"{name} could not be fetched", source=self.repo) from e

    def tokenizer(self, revision: str | None, config: Any) -> Any:
        """transformers' tokenizer with the model's chat template, or None where the folder has none. Raises ConfigError
        for one that cannot be read, also because it asks for code of its own."""
        from transformers import AutoTokenizer

        where = self.repo or str(self.place.folder)
        if self.repo is None and not any((self.place.folder / name).exists() for name in TOKENIZER_FILES):
            return None
        at = self.place.folder.name if self.repo else revision
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, config=config, revision=at, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ConfigError("the tokenizer cannot be read", source=self.place.name) from e
        if tokenizer.chat_template is None:
            tokenizer.chat_template = self._template()
        return tokenizer

    def _template(self) -> str | None:
        plain, wrapped = TEMPLATES
        path = self.path(plain)
        if path is not None:
            return path.read_text(encoding="utf-8")
        template = self(wrapped).get("chat_template")
        return template if isinstance(template, str) else None


# ---- the layouts


def qwen_scheme(
    kind: str,
    config: Mapping[str, Any],
    encoder: EncoderConfig,
    processor: Mapping[str, Any],
    video_processor: Mapping[str, Any],
) -> Scheme:
    """The scheme of a complete Qwen-VL checkpoint; clips are sized as its family's video processor does. Raises
    ConfigError."""
    ids = {name: config.get(name, default) for name, default in _QWEN_IDS.items()}
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids.values()):
        raise ConfigError("token ids are whole numbers", source=CONFIG, got=tuple(ids.values()))
    rule: PositionRule = _RULES[kind]
    if rule.time == "seconds":
        vision = config.get("vision_config") or {}
        rate = vision.get("tokens_per_second", 4)
        if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 0 <= rate < 1e6:
            raise ConfigError("tokens_per_second is a number", source=CONFIG, got=rate)
        rule = replace(rule, tokens_per_second=rate)
    pixels = recipe_from(processor, encoder.pixels)
    if kind == "qwen3_vl":
        clips = _qwen3_clips(encoder, video_processor)
    else:
        clips = replace(video_pixels(encoder), mean=pixels.mean, std=pixels.std)
    tokens = TokenIds(*(ids[name] for name in _QWEN_IDS))
    return Scheme(tokens, pixels, rule, clips)


def _qwen3_clips(encoder: EncoderConfig, processor: Mapping[str, Any]) -> PixelRecipe:
    """The recipe for clips of Qwen3-VL, with the budget of a whole clip that its video processor has."""
    recipe = qwen3_video_pixels(encoder)
    size = processor.get("size")
    if size is None:
        return recipe
    budget = [size.get(name) for name in ("shortest_edge", "longest_edge")] if isinstance(size, Mapping) else [None]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 1 << 40 for n in budget):
        raise ConfigError("size has the numbers shortest_edge and longest_edge", source=VIDEO_PROCESSOR, got=size)
    return replace(recipe, min_pixels=budget[0], max_video_pixels=budget[1])


def _encoder(
    source: str | os.PathLike[str],
    revision: str | None,
    dtype: torch.dtype | None,
    device: torch.device | str,
    pixels: Callable[[PixelRecipe], PixelRecipe] | None = None,
) -> Encoder:
    """The encoder of the folder, with the pixels that the whole model's files say, where these are not its own."""
    config = None
    if pixels is not None:
        found = open_weights(source, revision=revision).config
        wanted = pixels(found.pixels)
        config = None if wanted == found.pixels else replace(found, pixels=wanted)
    return load_encoder(source, config=config, revision=revision, dtype=dtype, device=device)


def _own_pixels(config: Mapping[str, Any], pixels: PixelRecipe) -> PixelRecipe:
    """The recipe with the mean and std that the section `tubelet` has beside its own."""
    section = config.get(SECTION)
    said = section.get("pixels") if isinstance(section, Mapping) else None
    if not isinstance(said, Mapping):
        return pixels
    named = {"image_processor_type": "CLIPImageProcessor", "image_mean": said.get("mean"), "image_std": said.get("std")}
    return recipe_from(named, pixels)


def _own(config: Mapping[str, Any], encoder: Encoder) -> Scheme:
    said = config.get(SECTION)
    if not isinstance(said, Mapping):
        raise ConfigError(f"the section {SECTION} is missing", source=CONFIG, expected=SECTION)
    return scheme_from(said, encoder.pixels.mean, encoder.pixels.std)


def _llava(
    place: Place,
    config: Mapping[str, Any],
    source: str | os.PathLike[str],
    revision: str | None,
    dtype: torch.dtype | None,
    device: torch.device | str,
    tower: str | os.PathLike[str] | None,
    beside: _Beside,
) -> tuple[Encoder, Projector, Scheme]:
    """LLaVA's tower, projector and how they are used. Raises ConfigError for what would silently read pictures in
    another way: views that are resized to a number, start and end tokens, a class token among the features."""
    anyres = config.get("image_aspect_ratio") == ANYRES
    for name, fine in (
        ("image_aspect_ratio", (None, "square", "pad", ANYRES)),
        ("mm_patch_merge_type", tuple(JOINS) if anyres else (None, "flat")),
        ("mm_use_im_start_end", (None, False)),
        ("mm_use_im_patch_token", (None, False, True)),
    ):
        if config.get(name) not in fine:
            raise ConfigError(f"{name} = {config[name]!r:.40} is not read here", expected=fine, got=config[name])
    inner = any(key.startswith(("model.vision_tower.", "vision_tower.")) for key in place.home)
    named = config.get("mm_vision_tower") or config.get("vision_tower")
    if tower is None and not inner:
        raise ConfigError(
            f"the vision tower is not in the file; its configuration says {named!r:.80}: pass vision_tower=, a folder "
            "or a hub id",
            expected="vision_tower",
            got=named,
        )
    if inner:
        encoder = load_encoder(source, config=_tower_config(tower), revision=revision, dtype=dtype, device=device)
    else:
        assert tower is not None
        encoder = load_encoder(tower, dtype=dtype, device=device)
    layer, feature = config.get("mm_vision_select_layer", -2), config.get("mm_vision_select_feature", "patch")
    if not isinstance(layer, int) or isinstance(layer, bool) or not isinstance(feature, str):
        raise ConfigError("mm_vision_select_layer is an integer and mm_vision_select_feature a name", source=CONFIG)
    if "cls" in feature and encoder.config.prefix:
        raise ConfigError(f"{feature} puts the class token among the rows, which is not read here", got=feature)
    states = state_numbers(feature, layer, encoder.config.layers)
    projector = load_projector(source, revision=revision, dtype=dtype, device=device)
    pixels = recipe_from(beside(PROCESSOR), encoder.pixels)
    square = config.get("image_aspect_ratio") == "pad"
    views = llava_views(config, pixels)
    if views is not None:
        pixels = replace(pixels, resampler="pillow")  # whose filter LLaVA cuts views with
    return encoder, projector, Scheme(LLAVA, pixels, states=states, wording="image_tag", square=square, views=views)


def _tower_config(tower: str | os.PathLike[str] | None) -> EncoderConfig | str | None:
    """What a tower inside a LLaVA file is: a variant's name, or what a checkpoint elsewhere says of itself."""
    if tower is None or str(tower) in variants():
        return None if tower is None else require_variant(str(tower))[1]
    return open_weights(tower).config


# ---- writing


def write_parts(parts: Parts, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the folder described in the module's head, whole or not at all; `VLM.save_pretrained` says the rest."""
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
        config[SETTINGS] = asdict(parts.projector.config)
        metadata[SETTINGS] = json.dumps(asdict(parts.projector.config))
    elif parts.projector is not None:
        raise ConfigError(f"{parts.projector.config.kind} has no weights to save", got=parts.projector.config.kind)
    if getattr(encoder, "untrained", False) or (report is not None and report.untrained):
        metadata["untrained"] = "true"
    theirs = to_theirs(encoder.state_dict(), family.formats[layout], encoder.config)
    tensors = {TOWER + family.prefixes[0] + name: tensor for name, tensor in theirs.items()}
    if parts.projector is not None:
        tensors |= {PREFIX + name: tensor for name, tensor in parts.projector.state_dict().items()}
    if parts.newline is not None:
        tensors[NEWLINES[0]] = parts.newline
    tensors |= _language(parts.speaker, tied)
    with staged(folder, overwrite) as beside:
        _write_tensors(tensors, beside, metadata)
        (beside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        settings = parts.speaker.generation_config
        if settings is not None:
            said = {k: v for k, v in settings.to_diff_dict().items() if k not in CODE_FIELDS}
            (beside / SETTINGS_FILE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        if parts.tokenizer is not None:
            parts.tokenizer.save_pretrained(str(beside))
    return folder


def _language(speaker: "Speaker", tied: bool) -> dict[str, Tensor]:
    """The language model's tensors under the names the folder has; a tied head is left out."""
    inner = OWN + (TEXT if speaker.head is not None else "")
    out = {inner + name: tensor for name, tensor in speaker.lm.state_dict().items()}
    if tied:
        return {name: tensor for name, tensor in out.items() if not name.startswith(OWN + HEAD)}
    return out if speaker.head is None else out | {f"{OWN}{HEAD}weight": speaker.head.weight}


def _write_tensors(tensors: Mapping[str, Tensor], folder: Path, metadata: dict[str, str]) -> None:
    """One file, or shards of at most SHARD_BYTES with an index. One shard at a time is copied to the host."""
    shards = list(_shards(tensors))
    names = [SINGLE] if len(shards) == 1 else [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
    ]  # fmt: skip
    for name, shard in zip(names, shards, strict=True):
        (folder / name).touch()  # its mode is the one the user's umask gives; the writer would make it private
        mode = (folder / name).stat().st_mode
        own = {key: tensors[key].detach().to("cpu").clone(memory_format=torch.contiguous_format) for key in shard}
        save_file(own, str(folder / name), metadata=metadata)
        (folder / name).chmod(mode)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


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
