"""A language model over packed prompts: samples end to end, each seeing itself alone, no padding and no mask.

    rows       a a a | b b | c c c c          positions as each sample's own rule says
    attention  causal inside a sample, by segments (tubelet.language.vlm.attention)

What training needs of a `PlacedCausalLM`: hidden states, and the head that a loss reads by itself, so that logits of
all rows never stand at once.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tubelet.errors import ConfigError
from tubelet.packed import Packed
from tubelet.shapes import Bool, Float, Int64

if TYPE_CHECKING:
    from tubelet.language.vlm.causal_lm import PlacedCausalLM

# What some models do between hidden states and logits; a head that is read by itself would leave it out in silence.
# Gemma 2's bend of them is no such thing: `softcap_of` tells a loss of it.
_BETWEEN = ("logits_scaling", "logit_scale")


def use_packed_attention(speaker: "PlacedCausalLM") -> None:
    """From here on the model takes packed rows alone (`packed_states`); it generates no more. Raises ConfigError for
    one whose logits are more than a product with its head, bent or not."""
    from tubelet.language.vlm.attention import PACKED, register

    config: Any = speaker.lm.config
    for name in _BETWEEN:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ConfigError(f"{config.model_type} has {name} between hidden states and logits", got=name)
    register()
    speaker.lm.set_attn_implementation(PACKED)


def packed_states(
    speaker: "PlacedCausalLM",
    embeds: Float[Tensor, "S D"],
    positions: Int64[Tensor, "3 S"],
    lengths: Sequence[int],
    *,
    axes: int = 1,
    deepstack: Sequence[Packed] = (),
    visual: Bool[Tensor, " S"] | None = None,
    blocks: Int64[Tensor, " S"] | None = None,
) -> Float[Tensor, "S D"]:
    """Last hidden states of samples of these lengths. Differentiable; no sync.

    axes: 3 for models that count t, h and w apart, 1 for plain positions. deepstack: rows for the first layers, with
    the places they stand at as `visual`. blocks: tokens of a sample with one number from 0 see each other both ways.
    Raises ConfigError where the model's attention is another one by now (models
    share their configuration), and what the attention raises.
    """
    from tubelet.language.vlm.attention import PACKED

    attention = speaker.lm.config._attn_implementation
    if attention != PACKED:
        raise ConfigError(
            f"attention is {attention!r:.40}, in which samples would see each other", expected=PACKED, got=attention
        )
    trunk: Any = speaker.lm if speaker.head is not None else speaker.lm.base_model
    given: dict[str, Any] = {"cu_seq_lens_q": [0, *accumulate(lengths)], "use_cache": False}
    if blocks is not None:
        given["block_ids"] = blocks
    if deepstack and len(deepstack[0].x):
        assert visual is not None
        given |= {"visual_pos_masks": visual[None], "deepstack_visual_embeds": [p.x.to(embeds) for p in deepstack]}
    places = positions[:1] if axes == 1 else positions[:, None]
    return trunk(inputs_embeds=embeds[None], position_ids=places, **given).last_hidden_state[0]


def output_head(speaker: "PlacedCausalLM") -> nn.Linear:
    """The matrix that turns hidden states into logits. Raises ConfigError where it is none."""
    head: Any = speaker.head if speaker.head is not None else speaker.lm.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"a head is a Linear, got {type(head).__name__}", got=type(head).__name__)
    return head


def softcap_of(speaker: "PlacedCausalLM") -> float | None:
    """What bounds the model's logits, cap * tanh(logits / cap); None where nothing does."""
    return getattr(speaker.lm.config, "final_logit_softcapping", None)
