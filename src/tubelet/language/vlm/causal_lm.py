"""The language model as `generate` drives it: rows and their positions at prefill, token ids and a cache after that.

    prefill   embeds (B, S, D), places (B, S) or (B, 3, S), deepstack (B, L, S, D)     positions = places
    decode    ids (B, q), cache of n tokens                                             positions = n + delta

transformers' own `generate` does the rest: greedy, sampling, beams, batches, streaming, the cache. Nothing of it is
rewritten here; one forward decides what is fed and where it stands. This is the one file of the part that imports
transformers at its top, so it is imported where it is used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from tubelet.errors import InputError, ShapeError

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

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own. Raises InputError for chunks of a prompt given as rows: there it would cut the ids and
        forget the rows."""
        settings = kwargs.get("generation_config") or self.generation_config
        chunk = kwargs.get("prefill_chunk_size", getattr(settings, "prefill_chunk_size", None))
        if chunk and kwargs.get("inputs_embeds") is not None:
            raise InputError("transformers cannot prefill rows in chunks: leave prefill_chunk_size out", got=chunk)
        return super().generate(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

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
    ) -> CausalLMOutputWithPast:
        """Logits of the tokens given. places, delta, deepstack: see the class; without them positions count from 0.
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
        if deepstack is not None and start < deepstack.shape[2]:
            given |= _deepstack(deepstack, start, stop)
        if self.head is None:
            return self.lm(**given, logits_to_keep=logits_to_keep)
        out = self.lm(**given)
        hidden = out.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        more = {name: out.get(name) for name in (CACHE, "hidden_states", "attentions")}
        return CausalLMOutputWithPast(logits=self.head(hidden[:, kept]), **more)


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
