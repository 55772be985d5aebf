"""Configuration files of others, read as closed sets of fields with types and ranges.

A configuration file comes from strangers, so every field is known by name and type. Fields that name code to run or
switch trust on are refused by name wherever they stand; unknown fields are refused because a field that is silently
ignored is a model that silently differs.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from typing import Any

from tubelet.errors import ConfigError

# A field of these names can make other libraries import or download code. They are never read and never written.
CODE_FIELDS = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "custom_pipelines",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation",
        "_experts_implementation_internal",
        "kernel_config",
        "use_kernels",
    }
)

# What Hugging Face writes into any configuration and what does not change what a vision encoder computes.
_HARMLESS = """
    _attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures bad_words_ids
    base_config_key begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label is_decoder
    is_encoder_decoder label2id length_penalty max_length min_length model_type name_or_path no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores pad_token_id
    prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p
    use_bfloat16 use_cache
"""
HARMLESS_FIELDS = frozenset(_HARMLESS.split())

# Upstream's names of activations -> ours, for `choices`
ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}

LARGEST = 1 << 20  # of a whole number that has no limit of its own
_LARGEST_OF = {"num_hidden_layers": 1024, "num_attention_heads": 1024, "depth": 1024, "num_heads": 1024}
_LARGEST_OF |= {"patch_size": 1024, "temporal_patch_size": 1024, "spatial_merge_size": 64}
_LARGEST_FLOAT = 1e12
_MOST_NUMBERS = 1024  # in a list
MOST_LAYERS, MOST_COUNT = 1024, 2**53  # of what other libraries make: layers and experts, and any whole number
# What other libraries raise of numbers and names that make no model
UNFIT = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Field:
    """One field of a configuration.

    default: upstream's where the file is silent. kind: bool, int, float, str or list (of whole numbers); None takes the
    default's. least, most: of a number or of each number in a list; None takes 1 (0 where the default is 0, for floats
    and in lists) and a generous limit. choices: the only values there are; what a mapping gives for a value is what is
    read. none: null is a value. A mapping as `default` is an object with fields of its own.
    """

    default: Any
    kind: type | None = None
    least: float | None = None
    most: float | None = None
    choices: Collection[Any] | None = None
    none: bool = False


def read_fields(
    config: Mapping[str, Any], fields: Mapping[str, Any], inert: Set[str] = frozenset(), where: str = ""
) -> dict[str, Any]:
    """Every field of `fields` with its checked value, or its default.

    fields: name -> Field, or -> a default alone, whose type is the field's. inert: further names that may stand there
    and mean nothing (dropouts, initialisers). where: put before names in messages. Raises ConfigError naming the field
    for anything unknown, of the wrong type, out of range or able to name code.

        >>> read_fields({"depth": 32, "dropout": 0.1}, {"depth": 24, "eps": 1e-6}, inert={"dropout"})
        {'depth': 32, 'eps': 1e-06}
    """
    refuse_code(config, where)
    known = fields.keys() | HARMLESS_FIELDS | inert
    unknown = sorted(str(key) for key in config if key not in known)
    if unknown:
        names = ", ".join(f"{where}{name:.60}" for name in unknown[:8])
        raise ConfigError(f"unknown field {names}", got=tuple(unknown[:64]))
    out: dict[str, Any] = {}
    for name, said in fields.items():
        field = said if isinstance(said, Field) else Field(said)
        if isinstance(field.default, Mapping):
            out[name] = _object(where + name, config.get(name, {}), field)
        else:
            out[name] = _checked(where + name, config.get(name, field.default), field)
    return out


def refuse_code(value: Any, where: str = "") -> None:
    """Look through everything inside `value`, without recursion, for a field that could name code.

    Raises ConfigError saying where it stands.

        >>> refuse_code({"vision_config": {"depth": 32}})
    """
    todo: list[tuple[Any, str]] = [(value, where)]
    while todo:
        node, path = todo.pop()
        if isinstance(node, Mapping):
            for key, inner in node.items():
                if key in CODE_FIELDS:
                    raise ConfigError(
                        f"{path}{key} can name code to run; it is refused. Remove it, or pass config= to load without "
                        "reading this file",
                        got=str(key),
                    )
                todo.append((inner, f"{path}{key}."))
        elif isinstance(node, (list, tuple)):
            todo += [(inner, path) for inner in node]


def check_counts(said: Mapping[str, Any]) -> None:
    """Look through the numbers of a configuration that another library makes a model of: it would begin to make 10**9
    layers. Raises ConfigError naming the field.

        >>> check_counts({"hidden_size": 4096, "num_hidden_layers": 28})
    """
    for name, value in said.items():
        most = MOST_LAYERS if str(name).endswith(("_layers", "_layer", "_experts")) else MOST_COUNT
        if isinstance(value, int) and abs(value) > most:
            raise ConfigError(f"{name:.60} is {value:.9g}", limit=most, got=value)


def _object(name: str, value: Any, field: Field) -> dict[str, Any] | None:
    if value is None and field.none:
        return None
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} has a value of the wrong type: {type(value).__name__}", expected=name, got=value)
    return read_fields(value, field.default, where=f"{name}.")


def _checked(name: str, value: Any, field: Field) -> Any:
    """`value` with its type, range and choice checked; whole numbers for a float become one, lists tuples."""
    kind: Any = field.kind or type(field.default)
    if value is None:
        if field.none or field.default is None:
            return None
        raise ConfigError(f"{name} has a value of the wrong type: null", expected=name)
    if not _is_kind(value, kind):
        raise ConfigError(f"{name} has a value of the wrong type: {type(value).__name__}", expected=name, got=value)
    if kind in (list, tuple):
        if len(value) > _MOST_NUMBERS:
            raise ConfigError(f"{name} has {len(value):,} numbers", limit=_MOST_NUMBERS, got=len(value))
        for v in value:
            _in_range(name, v, field, 0, LARGEST)
        return tuple(value)
    if field.choices is not None:
        if value not in field.choices:
            shown = ", ".join(str(c) for c in field.choices)
            expected = tuple(field.choices)
            raise ConfigError(f"{name} is one of {shown}, got {value!r:.60}", expected=expected, got=value)
        return field.choices[value] if isinstance(field.choices, Mapping) else value
    if kind is int:
        least = 0 if field.default == 0 else 1
        _in_range(name, value, field, least, _LARGEST_OF.get(name.rpartition(".")[2], LARGEST))
    elif kind is float:
        _in_range(name, value, field, 0, _LARGEST_FLOAT)  # NaN is not in any range
        return float(value)
    return value


def _is_kind(value: Any, kind: type) -> bool:
    if kind in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_is_whole(v) for v in value)
    if kind is int:
        return _is_whole(value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _in_range(name: str, value: float, field: Field, least: float, most: float) -> None:
    least = least if field.least is None else field.least
    most = most if field.most is None else field.most
    if not least <= value <= most:
        raise ConfigError(f"{name} must be {least:g} to {most:g}, got {value!s:.40}", limit=(least, most), got=value)
