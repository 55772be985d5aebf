"""Which arguments of `generate` keep their meaning where rows stand among the ids of a prompt; all others are refused.

transformers knows of a prompt's ids. Behind them stand rows that it does not see: a mode that adds ids by itself, looks
ids up, rewrites or splits the prompt, or runs the model on another one, would answer another question. Fields that this
version of transformers has and that stand in neither table below are refused too, until somebody has tried them.
Imports transformers at its top, as `language.vlm.causal_lm` does.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.utils import GENERATION_MODES_MAPPING

from tubelet.errors import InputError, ShapeError

LOOPS = ("_sample", "_beam_search")  # the loops of transformers that `PlacedCausalLM` has looked through
CACHES = (None, "dynamic", "static", "offloaded")  # "quantized" rounds, "paged" takes ids alone

_EXACT = """
    max_new_tokens min_new_tokens early_stopping max_time stop_strings do_sample num_beams use_cache
    max_cache_len temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff repetition_penalty
    length_penalty no_repeat_ngram_size bad_words_ids renormalize_logits forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias
    watermarking_config num_return_sequences output_attentions output_hidden_states output_scores output_logits
    return_dict_in_generate pad_token_id bos_token_id eos_token_id disable_compile transformers_version
"""
# Read by assisted decoding alone, which is refused
_IDLE = """
    num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold max_matching_ngram_size
    assistant_lookbehind target_lookbehind assistant_ensemble_weight speculation_type
"""
EXACT = frozenset(_EXACT.split() + _IDLE.split())

_ASSISTED = "it proposes ids of its own, whose rows and positions it does not know"
_OTHER_LOOP = "it is no part of transformers any more, and loads code of strangers"
_TOTAL = "it counts rows and padding, so that an answer would depend on its batch: give max_new_tokens, min_new_tokens"
_ENCODER = "it is for models with an encoder of ids"
# name -> values at which nothing happens, beside None; why the others are refused
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "max_length": ((), _TOTAL),
    "min_length": ((0,), _TOTAL),
    "cache_implementation": (CACHES, f"caches are {', '.join(str(c) for c in CACHES[1:])}"),
    "cache_config": ((), "it is for quantized caches, which round"),
    "encoder_repetition_penalty": ((1.0,), _ENCODER),
    "encoder_no_repeat_ngram_size": ((0,), _ENCODER),
    "decoder_start_token_id": ((), _ENCODER),
    "forced_bos_token_id": ((), _ENCODER),
    "token_healing": ((False,), "it rewrites the end of the prompt and leaves its rows"),
    "guidance_scale": ((1.0,), "it runs the model on a prompt without its rows and positions"),
    "use_mtp": ((False,), _ASSISTED),
    "is_assistant": ((False,), _ASSISTED),
    "prompt_lookup_num_tokens": ((), _ASSISTED),
    "assistant_early_exit": ((), _ASSISTED),
    "low_memory": ((False,), _OTHER_LOOP),
    "penalty_alpha": ((0.0,), _OTHER_LOOP),
    "dola_layers": ((), _OTHER_LOOP),
    "diversity_penalty": ((0.0,), _OTHER_LOOP),
    "num_beam_groups": ((1,), _OTHER_LOOP),
    "constraints": ((), _OTHER_LOOP),
    "force_words_ids": ((), _OTHER_LOOP),
    "compile_config": ((), "a step reads sizes on the host and is not compiled"),
    "continuous_batching_config": ((), "continuous batching takes ids alone"),
    "prefill_chunk_size": ((), "transformers would cut the ids into chunks and forget the rows"),
}
# What else `generate` takes: name -> why it is refused
ARGUMENTS = {
    "assistant_model": _ASSISTED,
    "assistant_tokenizer": _ASSISTED,
    "negative_prompt_ids": "a negative prompt has no rows and positions",
    "negative_prompt_attention_mask": "a negative prompt has no rows and positions",
    "custom_generate": "another loop knows nothing of rows",
    "trust_remote_code": "no code of strangers is run",
}


def effective_settings(
    asked: Mapping[str, Any], settings: GenerationConfig | None, own: GenerationConfig | None
) -> dict[str, Any]:
    """Every field of GenerationConfig as `generate` will have it, None for transformers' own: an argument counts before
    the settings given, those before the model's own."""
    out = {}
    for name in vars(GenerationConfig()):
        held = [getattr(s, name, None) for s in (settings, own) if s is not None]
        out[name] = asked[name] if name in asked else next((value for value in held if value is not None), None)
    return out


def refuse_modes(asked: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """Raise InputError naming the first argument or setting that would not be exact here.

    asked: the arguments of the call; said: `effective_settings` of it.
    """
    for name, why in ARGUMENTS.items():
        if asked.get(name) is not None and asked[name] is not False:
            raise InputError(f"generate: {name} is refused: {why}", got=name)
    for name, value in said.items():
        if value is None or name in EXACT or name.startswith("_"):
            continue
        if name not in REFUSED:
            raise InputError(f"generate: {name} has not been tried with rows, so it is refused", got=name)
        idle, why = REFUSED[name]
        counted = name in ("max_length", "min_length") and said.get(f"{name[:3]}_new_tokens") is not None
        without_rows = name == "prefill_chunk_size" and asked.get("inputs_embeds") is None
        if value not in idle and not counted and not without_rows:
            raise InputError(f"generate: {name} is refused: {why}", limit=idle, got=value)
    probe = GenerationConfig()
    for name, value in said.items():
        setattr(probe, name, value)
    if GENERATION_MODES_MAPPING.get(mode := probe.get_generation_mode()) not in LOOPS:
        raise InputError(f"generate: {mode} is a loop that has not been tried with rows", expected=LOOPS, got=str(mode))
    beams, several = said["num_beams"] or 1, said["num_return_sequences"] or 1
    if asked.get("streamer") is not None and beams > 1:
        raise InputError("generate: beams change what was said, so nothing can be streamed", limit=1, got=beams)
    if several > (beams if beams > 1 or not said["do_sample"] else several):
        raise InputError(
            f"generate: {several} answers of {beams} beams, and nothing is drawn", limit=beams, got=several
        )


def check_prompt(given: Mapping[str, Any], fed: Tensor | None, past: int, rows_each: int) -> None:
    """Raise ShapeError or InputError for a prompt that transformers would cut or read in another way than it is meant.

    given: the arguments of the call. fed: (B, S, D) rows or (B, S) ids. past: tokens in the cache given. rows_each: how
    many rows of a batch a prompt becomes.
    """
    mask, visual = given.get("attention_mask"), given.get("visual")
    if mask is not None and mask.ndim == 2 and bool((mask[:, -1] == 0).any()):
        raise InputError("prompts are padded on the right; generation wants them padded on the left")
    if fed is None:
        return
    length = fed.shape[1]
    if visual is not None and visual.shape[1] < length:
        raise ShapeError(f"`visual` tells of {visual.shape[1]} of {length} tokens", limit=length, got=visual.shape[1])
    if not past:
        return
    if rows_each > 1:
        raise InputError("generate: a cache holds one answer of each prompt, not several", limit=1, got=rows_each)
    masked = length if mask is None else mask.shape[1]
    whole = masked == length and length > past
    if not whole and (fed.ndim == 3 or masked != past + length):
        raise ShapeError(
            f"a cache of {past} tokens goes on with the whole prompt, or with ids that follow it and a mask of both; "
            f"got {length} tokens and a mask of {masked}",
            expected=past + length,
            got=masked,
        )
