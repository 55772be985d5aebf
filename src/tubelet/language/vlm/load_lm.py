"""The language model of a checkpoint: its tensors alone, strict, into transformers' own class.

    key in the file                            name in the model
    model.language_model.layers.0 ...          model.layers.0 ...      transformers 5, Qwen3-VL
    language_model.model.layers.0 ...          model.layers.0 ...      transformers 4 of LLaVA, and what tubelet writes
    model.text_model.layers.0 ...              model.layers.0 ...      Idefics3, SmolVLM
    model.layers.0 ...                         model.layers.0 ...      Qwen2-VL and Qwen2.5-VL as published, LLaVA

Nothing of a vision part is read, and only the shards the language model stands in are opened. The class comes from
transformers' own tables by the model type of the text configuration; no file can name code.
"""

import inspect
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tubelet.errors import ConfigError, KeyMismatch, NotFinite, RunError
from tubelet.families.fields import UNFIT, check_counts, refuse_code
from tubelet.language.vlm.llava import LLAVA_BASES, LLAVA_CLASSES
from tubelet.weights.locate import CheckpointFolder
from tubelet.weights.tensors import TensorReader, compare_names, stored_type

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from tubelet.language.vlm.causal_lm import PlacedCausalLM

TEXT, HEAD = "model.", "lm_head."
LAYOUTS = (("model.language_model.", "lm_head."), ("language_model.model.", "language_model.lm_head."))
LAYOUTS += (("model.text_model.", "lm_head."), (TEXT, HEAD))
EXPERTS = (".experts.gate_up_proj", ".experts.down_proj")
OWN = "language_model."  # before every name in what tubelet writes
# What may stand beside the language model under "model." and is not part of it
BESIDE = ("model.visual.", "model.vision_tower.", "model.vision_model.", "model.vision_encoder.", "model.mm_projector.")
BESIDE += ("model.vision_resampler.", "model.image_newline", "model.language_model.", "model.multi_modal_projector.")
TIED = ("gemma", "gemma2", "gemma3_text")
_SAMPLING = {"repetition_penalty": float, "temperature": float, "top_p": float, "top_k": int, "do_sample": bool}
_TOP_K = 50  # transformers' own number where nobody says another
_IDS = ("bos_token_id", "pad_token_id", "eos_token_id")


def require_transformers(what: str) -> None:
    """Raises RunError saying how to install transformers where it is not."""
    try:
        import transformers  # noqa: F401
    except ImportError as e:
        raise RunError(f"{what} needs transformers: pip install 'tubelet[hf]'", expected="transformers") from e


@dataclass(frozen=True)
class TextPart:
    """What a configuration says of the language model. tied: the head has the weights of the embeddings. headed: the
    class gives hidden states and needs a head."""

    config: "PreTrainedConfig"
    model_class: "type[PreTrainedModel]"
    headed: bool
    tied: bool


def text_part(config: Mapping[str, Any]) -> TextPart:
    """The language model that a whole model's config.json describes. Raises ConfigError, RunError without transformers.

    A configuration with text_config (transformers', tubelet's), a flat one of Qwen2-VL or Qwen2.5-VL, or LLaVA's.
    """
    require_transformers("a language model")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    refuse_code(config)
    kind, text = config.get("model_type"), config.get("text_config")
    if isinstance(text, Mapping):
        found = _config_of(text.get("model_type") or f"{kind}_text", text)
    elif isinstance(kind, str) and f"{kind}_text" in CONFIG_MAPPING:
        found = _config_of(f"{kind}_text", config)
    elif kind in LLAVA_BASES:
        named = config.get("architectures")
        classes = [LLAVA_CLASSES[name] for name in named if name in LLAVA_CLASSES] if isinstance(named, list) else []
        found = _config_of(classes[0] if classes else LLAVA_BASES[kind], config)
    else:
        raise ConfigError(
            f"no language model is known for model_type {kind!r:.60}", expected=tuple(LLAVA_BASES), got=kind
        )
    tied = _tied(config, found)
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    trunks: Any = MODEL_MAPPING
    if type(found) in causal:
        found.tie_word_embeddings = tied
        return TextPart(found, causal[type(found)], False, tied)
    if type(found) not in trunks:
        raise ConfigError(f"transformers has no text model of type {found.model_type!r:.60}", got=found.model_type)
    return TextPart(found, trunks[type(found)], True, tied)


def _tied(config: Mapping[str, Any], found: "PreTrainedConfig") -> bool:
    """Whether the head is the table of embeddings. A whole model's own word counts before its text part's, but for
    Qwen2-VL and Qwen2.5-VL, which transformers 4 saved with the word in the text part alone."""
    whole, text = config.get("tie_word_embeddings"), config.get("text_config")
    usual = found.model_type in TIED and found.tie_word_embeddings  # what published files do not say
    inner = (
        text.get("tie_word_embeddings", usual)
        if isinstance(text, Mapping)
        else getattr(found, "tie_word_embeddings", False)
    )
    if config.get("model_type") in ("qwen2_vl", "qwen2_5_vl"):
        return bool(whole or inner)
    return bool(inner if whole is None else whole)


def _config_of(kind: str, said: Mapping[str, Any]) -> "PreTrainedConfig":
    """transformers' configuration of one type, from the fields that it has; others (a vision part's) are left out."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ConfigError(f"transformers has no configuration of type {kind!r:.60}", got=kind)
    made = CONFIG_MAPPING[kind]
    known = set(inspect.signature(made.__init__).parameters) | {"rope_scaling", "rope_theta", "rope_parameters"}
    known |= {"sliding_window_pattern", "rope_local_base_freq"}  # of Gemma 3, which reads and does not name them
    known |= set(made.attribute_map.values())  # the names under which transformers saves some of them
    given = {k: v for k, v in said.items() if k in known and k not in ("self", "kwargs", "dtype", "torch_dtype")}
    check_counts(given)
    try:
        return made(**given)
    except (*UNFIT, StrictDataclassError) as e:
        raise ConfigError(f"the text configuration of type {kind} does not fit", got=kind) from e


def load_speaker(
    folder: CheckpointFolder,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> "PlacedCausalLM":
    """The language model of a checkpoint, ready for `generate`. settings: what generation_config.json says.

    dtype: None keeps the stored type (the widest, where files mix). Raises KeyMismatch with all missing, unexpected and
    mis-shaped names, ConfigError, NotFinite, UnsafeFile, RunError without transformers.
    """
    part = text_part(config)
    from tubelet.language.vlm.causal_lm import PlacedCausalLM

    expected, base = _expected(part)
    keys = _keys(expected, base, folder.home, part.tied, folder.name)
    checkpoint = folder.checkpoint(set(keys.values()))
    entries = {name: checkpoint.entries[key] for name, key in keys.items()}
    turned = _turned(part, expected, {name: entry.shape for name, entry in entries.items()})
    shapes = {name: expected[name] for name in keys}
    compare_names(shapes | {name: _turn(shapes[name]) for name in turned}, entries, (), folder.name)
    kind = dtype or stored_type(list(entries.values()))
    state: dict[str, Tensor] = {}
    with TensorReader(checkpoint) as read:
        for name, key in keys.items():
            stored = read(key).transpose(1, 2).contiguous() if name in turned else read(key)
            state[name] = stored.to(device, kind, copy=True)
            if not bool(state[name].isfinite().all()):
                raise NotFinite(f"NaN or infinity in {name} as {kind}", source=folder.name, got=name)
    head: nn.Linear | None = None
    if part.headed:
        weight = state.pop(f"{HEAD}weight", state[f"{TEXT}embed_tokens.weight"])
        state = {name.removeprefix(TEXT): tensor for name, tensor in state.items()}
        head = headed(weight)
    model = filled(part.model_class, part.config, state)
    nn.Module.to(model, torch.device(device))  # buffers; the weights are there already
    if head is not None and part.tied:
        head.weight = model.get_input_embeddings().weight  # pyright: ignore[reportAttributeAccessIssue]
    speaker = PlacedCausalLM(model, head).eval()
    speaker.generation_config = generation_settings(settings or {}, part.config)
    return speaker


def require_speaker(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises KeyMismatch where `load_speaker` would, for a folder of this configuration and these tensors."""
    part = text_part(config)
    expected, base = _expected(part)
    keys = _keys(expected, base, tensors.keys(), part.tied, source)
    found = {name: tuple(tensors[key].shape) for name, key in keys.items()}
    if wrong := tuple((name, expected[name], shape) for name, shape in found.items() if shape != expected[name]):
        raise KeyMismatch("the shapes of the language model differ", misshaped=wrong, source=source)


def headed(weight: Tensor) -> nn.Linear:
    """A head without bias, of this weight."""
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    head.weight = nn.Parameter(weight)
    return head


def filled(
    model_class: "type[PreTrainedModel]", config: "PreTrainedConfig", state: dict[str, Tensor]
) -> "PreTrainedModel":
    """The model with these tensors, none of them copied, without a progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        dtype = next(iter(state.values())).dtype
        return model_class.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    finally:
        if shown:
            logging.enable_progress_bar()


def _expected(part: TextPart) -> tuple[dict[str, tuple[int, ...]], str]:
    """Names and shapes of the model's tensors with the head's, and the name of the embeddings' table.

    Raises ConfigError where transformers cannot make it.
    """
    try:
        with torch.device("meta"):
            model = part.model_class(part.config)
    except UNFIT as e:
        kind = part.config.model_type
        raise ConfigError(f"no language model of type {kind} can be made of this configuration", got=kind) from e
    before = TEXT if part.headed else ""
    shapes = {before + name: tuple(t.shape) for name, t in model.state_dict().items()}
    table = model.get_input_embeddings()
    base = next(before + name + ".weight" for name, module in model.named_modules() if module is table)
    if part.headed:
        shapes[f"{HEAD}weight"] = shapes[base]
    return shapes, base


def _keys(
    expected: Mapping[str, tuple[int, ...]], base: str, keys: Collection[str], tied: bool, source: str
) -> dict[str, str]:
    """Name -> key in the file, without the head where it is the embeddings' table. Raises KeyMismatch."""
    for text, head in LAYOUTS:
        names = {name: _key(name, text, head) for name in expected}
        if names[base] in keys:
            break
    else:
        raise KeyMismatch("the file holds no language model", missing=(base,), source=source)
    wanted = {name: key for name, key in names.items() if not (tied and name.startswith(HEAD))}
    missing = tuple(name for name, key in wanted.items() if key not in keys)
    extra = _unexpected(keys, set(names.values()), text, head)
    if missing or extra:
        said = [f"{len(some)} {what} ({', '.join(some[:3])}{' ...' if len(some) > 3 else ''})"
                for what, some in (("missing", missing), ("unexpected", extra)) if some]  # fmt: skip
        raise KeyMismatch(
            f"the tensors are not those of the language model: {'; '.join(said)}",
            missing=missing,
            unexpected=extra,
            source=source,
        )
    return wanted


def _key(name: str, text: str, head: str) -> str:
    if name.startswith(HEAD):
        return head + name.removeprefix(HEAD)
    if name.startswith(TEXT):
        return text + name.removeprefix(TEXT)
    return text.removesuffix(TEXT) + name  # a model whose trunk has another name, in what tubelet writes


def _turned(
    part: TextPart, expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]
) -> frozenset[str]:
    """Names whose experts' matrices lie in the file as (experts, in, out), as in published Qwen3-VL-MoE files; the
    model has (experts, out, in), and so has what transformers 5 writes. down_proj decides for both, because gate and up
    together may happen to be square."""
    names = [name for name in stored if name.endswith(EXPERTS)] if part.config.model_type == "qwen3_vl_moe_text" else []
    down = [name for name in names if name.endswith(EXPERTS[1])]
    turned = any(stored[name] == _turn(expected[name]) != expected[name] for name in down)
    return frozenset(names if turned else ())


def _turn(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[2], shape[1])


def _unexpected(keys: Collection[str], wanted: Collection[str], text: str, head: str) -> tuple[str, ...]:
    """Keys that look like the language model's and are not; buffers of angles are computed, never read."""
    return tuple(
        key
        for key in sorted(keys)
        if key.startswith((text, head))
        and key not in wanted
        and not key.endswith("rotary_emb.inv_freq")
        and not (text == TEXT and key.startswith(BESIDE))
    )


def generation_settings(said: Mapping[str, Any], config: "PreTrainedConfig") -> Any:
    """transformers' GenerationConfig with what a file may say: the ids of bos, pad and eos, and how to sample.

    Ids that the file leaves out are the text configuration's. Raises ConfigError for a value of the wrong type.
    """
    from transformers import GenerationConfig

    given: dict[str, Any] = {}
    for name in _IDS:
        value = said.get(name, getattr(config, name, None))
        ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if value is not None:
            if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
                raise ConfigError(f"{name} is a token id", source="generation_config.json", got=value)
            given[name] = value
    for name, kind in _SAMPLING.items():
        value = said.get(name)
        if value is None:
            continue
        whole_as_float = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if not (isinstance(value, kind) or whole_as_float) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{name} has the wrong type", source="generation_config.json", got=value)
        given[name] = kind(value)
    if "pad_token_id" not in given and "eos_token_id" in given:
        ends = given["eos_token_id"]
        given["pad_token_id"] = ends[0] if isinstance(ends, list) else ends
    return GenerationConfig(**given)


def replace_settings(
    settings: Any, max_new_tokens: int, temperature: float | None, top_p: float | None, num_beams: int
) -> Any:
    """A copy of a GenerationConfig with these choices. What the file says of temperature, top_p and top_k is left out:
    published ones say top_k=1, with which a temperature would change nothing."""
    made = deepcopy(settings)
    drawn = temperature is not None
    changes = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": drawn, "max_length": None}
    changes |= {"temperature": temperature if drawn else 1.0, "top_p": top_p if drawn and top_p is not None else 1.0}
    changes |= {"top_k": _TOP_K}
    for name, value in changes.items():
        setattr(made, name, value)
    return made
