"""Logits processors and stopping criteria that see of a prompt what it says: text, without stand-ins and padding.

    ids in the batch     0 0 1 . . . 7 8 | 5     0 padding, . stand-ins where rows are, 5 said so far
    ids that are seen        1       7 8   5     as if the prompt were its text alone

What reads ids row by row (repetition, n-grams, biases, watermarks, stop strings) is called for prompts of one length at
a time; what reads no prompt is called as it is; one of another kind may look at the batch as a whole, and where its
prompts say different numbers of tokens it cannot. Imports transformers at its top.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as processors
from transformers.generation import stopping_criteria as criteria

from tubelet.errors import InputError

_BY_LENGTH_OR_SCORE = (
    processors.MinLengthLogitsProcessor,
    processors.MinNewTokensLengthLogitsProcessor,
    processors.ForcedEOSTokenLogitsProcessor,
    processors.InfNanRemoveLogitsProcessor,
    processors.ExponentialDecayLengthPenalty,
    processors.SuppressTokensLogitsProcessor,
    processors.SuppressTokensAtBeginLogitsProcessor,
    processors.TemperatureLogitsWarper,
    processors.TopHLogitsWarper,
    processors.TopKLogitsWarper,
    processors.TopPLogitsWarper,
    processors.MinPLogitsWarper,
    processors.TypicalLogitsWarper,
    processors.EpsilonLogitsWarper,
    processors.EtaLogitsWarper,
    processors.LogitNormalization,
    criteria.MaxLengthCriteria,
    criteria.MaxTimeCriteria,
    criteria.EosTokenCriteria,  # the last token, which was said
)
_ROW_BY_ROW = (
    processors.RepetitionPenaltyLogitsProcessor,
    processors.NoRepeatNGramLogitsProcessor,
    processors.NoBadWordsLogitsProcessor,
    processors.SequenceBiasLogitsProcessor,
    processors.WatermarkLogitsProcessor,
    criteria.StopStringCriteria,
)


@dataclass(frozen=True, eq=False)
class VisibleIds:
    """Which ids of a batch of prompts are text."""

    prompts: int  # B
    length: int  # S, of the padded prompts
    parts: tuple[
        tuple[int, int, Tensor], ...
    ]  # prompts first to last of as many ids; where these are, (last - first, n)

    def of(self, ids: Tensor) -> list[tuple[slice, Tensor]]:
        """Rows of the batch and the ids they show. ids: (B * k, S + what was said), any k rows of each prompt."""
        each = ids.shape[0] // self.prompts
        out = []
        for first, last, places in self.parts:
            rows = slice(first * each, last * each)
            text = ids[rows].gather(1, places.to(ids.device).repeat_interleave(each, dim=0))
            out.append((rows, torch.cat([text, ids[rows, self.length :]], dim=1)))
        return out


def visible_ids(ids: Tensor, mask: Tensor | None, visual: Tensor | None, rows_each: int) -> VisibleIds | None:
    """What is text of ids (B * rows_each, S); None where all is. mask and visual: as many rows, their ends aligned."""
    length = ids.shape[1]
    seen = torch.ones_like(ids, dtype=torch.bool)
    if mask is not None and length:
        seen &= mask[:, -length:] != 0
    if visual is not None and length:
        seen &= ~visual[:, -length:].to(seen.device)
    seen = seen[::rows_each].cpu()
    if bool(seen.all()):
        return None
    parts, first = [], 0
    for count, alike in groupby(seen.sum(1).tolist()):
        last = first + len(list(alike))
        parts.append((first, last, seen[first:last].nonzero()[:, 1].view(last - first, count).to(ids.device)))
        first = last
    return VisibleIds(len(seen), length, tuple(parts))


def on_visible_ids(
    made: "processors.LogitsProcessorList", stops: "criteria.StoppingCriteriaList", text: VisibleIds
) -> tuple["processors.LogitsProcessorList", "criteria.StoppingCriteriaList"]:
    """The same processors and criteria, shown the text alone. Raises InputError for one of a kind that is not known
    where prompts of the batch say different numbers of tokens."""
    return (
        processors.LogitsProcessorList([_shown(one, text, _Processor) for one in made]),
        criteria.StoppingCriteriaList([_shown(one, text, _Criterion) for one in stops]),
    )


def _shown(one: Any, text: VisibleIds, wrapper: Any) -> Any:
    if type(one) in _BY_LENGTH_OR_SCORE:
        return one
    if type(one) not in _ROW_BY_ROW and len(text.parts) > 1:
        raise InputError(
            f"generate: {type(one).__name__} sees a batch as a whole, and its prompts say different numbers of tokens "
            "beside their rows: give one prompt at a time",
            got=type(one).__name__,
        )
    if isinstance(getattr(one, "prompt_ignore_length", None), Tensor):
        one = processors.RepetitionPenaltyLogitsProcessor(one.penalty)  # transformers' own way to leave out padding
    return wrapper(one, text)


class _Processor(processors.LogitsProcessor):
    def __init__(self, inner: Any, text: VisibleIds) -> None:
        self.inner, self.text = inner, text

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        parts = self.text.of(input_ids)
        return torch.cat([self.inner(ids, scores[rows]) for rows, ids in parts])


class _Criterion(criteria.StoppingCriteria):
    def __init__(self, inner: Any, text: VisibleIds) -> None:
        self.inner, self.text = inner, text
        if hasattr(inner, "eos_token_id"):  # by which `generate` knows that answers end at different times
            self.eos_token_id = inner.eos_token_id

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.cat([self.inner(ids, scores, **kwargs) for _, ids in self.text.of(input_ids)])
