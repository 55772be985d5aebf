"""The language model as `generate` drives it: rows and their positions at prefill, token ids and a cache after that.

    prefill   embeds (B, S, D), places (B, S) or (B, 3, S), deepstack (B, L, S, D)     positions = places
    decode    ids (B, q), cache of n tokens                                             positions = n + delta

transformers' own `generate` does the rest: greedy, sampling, beams, batches, streaming, the cache. Nothing of it is
rewritten here; one forward decides what is fed and where it stands. This file and the two that
`generate` asks have transformers at their top, so they are imported where they are used.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast

from tubelet.errors import ConfigError, InputError, ShapeError, TubeletError

# The name that transformers has for its cache: "cache" since 5.24, "past_key_values" before
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class PlacedCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model of transformers that reads rows at places of their own.

    lm: a causal language model, whose logits are taken as they are; or with `head` a text model, whose last hidden
    states the head turns into logits (Qwen-VL's, which transformers has in no causal form).

    Positions are given and kept: what `generate` counts by itself is not used. `forward` takes either `input_ids` or
    `inputs_embeds` and, as `generate` hands them on at every step, `places` and `deepstack` of the whole prompt, and
    `delta` (B,): the position after the prompt minus the prompt's (padded) length. A prompt may therefore come in
    chunks, and generation may go on from a cache.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, lm: PreTrainedModel, head: nn.Linear | None = None) -> None:
        super().__init__(lm.config)
        self.lm = lm
        self.head = head
        if lm.can_generate() and lm.generation_config is not None:
            self.generation_config = lm.generation_config

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """The language model was asked when it was made; like attention, how its experts run is its own choice."""
        return True

    def get_input_embeddings(self) -> nn.Module:
        """The table of token embeddings."""
        return self.lm.get_input_embeddings()

    def embed(self, ids: Tensor) -> Tensor:
        """(..., D) of token ids (...), as the language model's own first step gives them."""
        return self.get_input_embeddings()(ids)

    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **asked: Any
    ) -> Any:
        """transformers' own, exact or refused. Ids of prompt and answer, or a dict of outputs where that is asked.

        Greedy, sampled and beam search with their settings are exact: an answer is that of its prompt alone, whatever
        stands beside it in the batch. Logits processors and stopping criteria are shown the text of a prompt, without
        padding and without what stands where rows are (`visual`, (B, S), True there). Modes that add, look up or
        rewrite ids are refused, and so is what this library does not know (`language.vlm.generate_modes`). Raises
        InputError naming the argument, also where transformers refuses a value; ShapeError for a cache that does not
        fit.
        """
        from tubelet.language.vlm.generate_modes import check_prompt, effective_settings, refuse_modes

        said = effective_settings(asked, generation_config, self.generation_config)
        refuse_modes(asked, said)
        rows_each = max(said["num_beams"] or 1, said["num_return_sequences"] or 1)
        fed = next((t for t in (asked.get("inputs_embeds"), inputs, asked.get("input_ids")) if t is not None), None)
        cache = next((asked[name] for name in ("cache", "past_key_values") if asked.get(name) is not None), None)
        check_prompt(asked, fed, 0 if cache is None else int(cache.get_seq_length()), rows_each)
        settings = deepcopy(generation_config)  # the caller's stay theirs
        if settings is None:
            asked["disable_compile"] = True  # a step reads the cache's length on the host
        else:
            settings.disable_compile = True
        mixin: Any = super()
        try:
            return mixin.generate(inputs, generation_config=settings, **asked)
        except (ValueError, TypeError, LookupError) as e:
            if isinstance(e, TubeletError):
                raise
            raise InputError("transformers' generate refuses these arguments") from e

    def _sample(self, input_ids: Tensor, **given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        mixin: Any = super()
        return mixin._sample(input_ids, **_shown(input_ids, given))

    def _beam_search(self, input_ids: Tensor, **given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        mixin: Any = super()
        return mixin._beam_search(input_ids, **_shown(input_ids, given))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        places: Tensor | None = None,
        delta: Tensor | None = None,
        deepstack: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: Cache | None = None,
        visual: Tensor | None = None,
        blocks: Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits of the tokens given. places, delta, deepstack: see the class; without them positions count from 0.
        visual: where rows stand in the prompt. blocks: what is seen both ways (`PromptBatch`); nothing without it.
        cache or past_key_values: `CACHE` is the name that the installed transformers hands on and takes."""
        cache = past_key_values if cache is None else cache
        fed = inputs_embeds if inputs_embeds is not None else input_ids
        if fed is None:
            raise ShapeError("the language model was given neither token ids nor embeddings")
        start = 0 if cache is None else int(cache.get_seq_length())
        stop = start + fed.shape[1]
        given: dict[str, Any] = {
            "input_ids": None if inputs_embeds is not None else input_ids,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            CACHE: cache,
            "use_cache": use_cache,
            "return_dict": True,
        }
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        given |= {name: value for name, value in asked.items() if value is not None}
        if places is not None:
            given["position_ids"] = _positions(places, delta, start, stop)
        if blocks is not None and start < blocks.shape[1]:
            given["attention_mask"] = self._masks(given, blocks)
        if deepstack is not None and start < deepstack.shape[2]:
            given |= _deepstack(deepstack, start, stop)
        if self.head is None:
            return self.lm(**given, logits_to_keep=logits_to_keep)
        out = self.lm(**given)
        hidden = out.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        more = {name: out.get(name) for name in (CACHE, "hidden_states", "attentions")}
        return CausalLMOutputWithPast(logits=self.head(hidden[:, kept]), **more)

    def _masks(self, given: Mapping[str, Any], blocks: Tensor) -> Any:
        """transformers' own masks of this model's layers, in which tokens of a block see each other.

        Raises ConfigError for an attention that takes no mask.
        """
        config: Any = self.lm.config
        if config._attn_implementation not in ("eager", "sdpa", "flex_attention"):
            raise ConfigError("tokens that see each other both ways need a mask", got=config._attn_implementation)
        embeds = given["inputs_embeds"]
        embeds = self.embed(given["input_ids"]) if embeds is None else embeds
        how: dict[str, Any] = {"config": config, "inputs_embeds": embeds, "attention_mask": given["attention_mask"]}
        how |= {CACHE: given[CACHE], "position_ids": given.get("position_ids"), "block_sequence_ids": blocks}
        whole = create_causal_mask(**how)
        if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
            return whole
        return {"full_attention": whole, "sliding_attention": create_sliding_window_causal_mask(**how)}


def _shown(input_ids: Tensor, given: dict[str, Any]) -> dict[str, Any]:
    """What a loop of transformers is given, with processors and criteria that see the text alone."""
    from tubelet.language.vlm.visible_ids import on_visible_ids, visible_ids

    given.pop("tokenizer", None)  # of stop strings, which have it by now; it would go on to `forward`
    settings = given["generation_config"]
    rows_each = max(settings.num_beams or 1, settings.num_return_sequences or 1)
    text = visible_ids(input_ids, given.get("attention_mask"), given.get("visual"), rows_each)
    if text is None:
        return given
    made, stops = on_visible_ids(given["logits_processor"], given["stopping_criteria"], text)
    return given | {"logits_processor": made, "stopping_criteria": stops}


def _positions(places: Tensor, delta: Tensor | None, start: int, stop: int) -> Tensor:
    """Positions of tokens `start` to `stop` in the form transformers takes: (B, q), or (3, B, q) for three axes."""
    length = places.shape[-1]
    parts = [places[..., start : min(stop, length)]]
    if stop > length:
        if delta is None:
            raise ShapeError(f"positions of {length} tokens and no delta for those that follow", limit=length, got=stop)
        ahead = torch.arange(max(start, length), stop, device=places.device)
        later = (ahead + delta[:, None]).to(places.dtype)  # (B, q)
        parts.append(later if places.ndim == 2 else later[:, None].expand(-1, places.shape[1], -1))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return whole if whole.ndim == 2 else whole.movedim(1, 0)


def _deepstack(rows: Tensor, start: int, stop: int) -> dict[str, Any]:
    """What is added to the hidden states behind the first L layers, in the form Qwen3-VL's text model takes: zeros
    where no row of an item stands, so every place may be named."""
    part = rows[:, :, start:stop]
    if part.shape[2] != stop - start:
        raise ShapeError(
            f"deepstack rows end at {rows.shape[2]}, in the middle of the tokens fed", limit=rows.shape[2], got=stop
        )
    everywhere = torch.ones(part.shape[0], part.shape[2], dtype=torch.bool, device=part.device)
    return {"visual_pos_masks": everywhere, "deepstack_visual_embeds": list(part.transpose(0, 1).flatten(1, 2))}
