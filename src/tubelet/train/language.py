"""A vision-language model as the loop trains it: packed batches in, the next token's loss out.

    pixels -> encoder -> projector -> rows -+
                                            +-> packed rows -> language model -> hidden states -> next_token
    input_ids -> embeddings ----------------+

Samples stand end to end and see themselves alone. A batch without pixels runs the encoder on a blank pack and touches
its text with the result, so that all ranks run the same collectives.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tubelet.language.placing.touch import blank, touch
from tubelet.language.vlm.batch import picture_blocks
from tubelet.language.vlm.chat import as_written
from tubelet.language.vlm.features import VisualRows
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.packed_lm import output_head, packed_states, softcap_of, use_packed_attention
from tubelet.language.vlm.scheme import Bidirectional
from tubelet.train.collate import PackedBatch, place_batch
from tubelet.train.loop import Loss
from tubelet.train.losses import IGNORE, next_token, targets_in
from tubelet.train.parts import HOMES, Counted, count_trainable, keep_still, set_trainable

LANGUAGE_HOMES: Mapping[str, str] = {part: f"vlm.{home}" for part, home in HOMES.items()}


class LanguageTraining(nn.Module):
    """The model with its parts that learn; `lines` says how many numbers those are. The VLM is changed in place.

    What learns is float32, so that small updates are not lost; what is frozen keeps its type. parts: as in
    `tubelet.train.parts`. Raises ConfigError for parts that the model has not, and for language models that cannot be
    read packed.
    """

    def __init__(self, vlm: VLM, parts: str | Sequence[str]) -> None:
        super().__init__()
        self.vlm, self.parts = vlm, parts
        use_packed_attention(vlm.speaker)
        set_trainable(self, parts, LANGUAGE_HOMES)
        self.unused = tuple(self._freeze_unused())
        self.lines: tuple[Counted, ...] = count_trainable(self, parts, LANGUAGE_HOMES)
        for weight in self.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        self.tower_learns = any(weight.requires_grad for weight in vlm.encoder.parameters())
        beside = [] if vlm.spatial is None else vlm.spatial.parameters()  # its connector may learn alone
        self.features_learn = self.tower_learns or any(weight.requires_grad for weight in beside)

    def _freeze_unused(self) -> Iterator[str]:
        """Names of weights that no row of this model meets, frozen: a pooling head, and layers behind the last state
        that the projector reads. A gradient of theirs would be waited for in vain."""
        states = self.vlm.scheme.states
        for name, weight in self.vlm.encoder.named_parameters():
            first, *rest = name.split(".")
            behind = first in ("norm_post", "merger", "deepstack")
            behind |= first == "layers" and int(rest[0]) >= max(states, default=0)
            if weight.requires_grad and (first == "pool" or (states and behind)):
                weight.requires_grad_(False)
                yield f"vlm.encoder.{name}"

    def train(self, mode: bool = True) -> "LanguageTraining":
        """Train mode, but for parts that stand still while they are frozen."""
        super().train(mode)
        if mode:
            keep_still(self, self.parts, LANGUAGE_HOMES)
        return self

    def forward(self, batch: PackedBatch) -> Loss:
        """The summed loss over all labels of the batch, and how many those are."""
        rows = self.rows(batch)
        real = as_written(rows, self.vlm.scheme) if len(batch.pixels) else _none_of(rows)
        embeds, positions = place_batch(batch, real.tokens, self.vlm.scheme, self.vlm.speaker.embed)
        return self.loss(batch, self.touched(batch, embeds, rows), positions, real)

    def touched(self, batch: PackedBatch, embeds: Tensor, rows: VisualRows) -> Tensor:
        """The embeddings, with a blank pack's rows in their graph where the batch has no pixels."""
        if len(batch.pixels):
            return embeds
        embeds = touch(embeds, rows.tokens, *rows.deepstack)
        if self.vlm.newline is not None:
            embeds = embeds + torch.nan_to_num(self.vlm.newline * 0.0).sum().to(embeds)
        return embeds

    def rows(self, batch: PackedBatch) -> VisualRows:
        """The batch's rows in the language model's width, or those of a blank pack."""
        pixels = batch.pixels if len(batch.pixels) else blank(self.vlm.scheme.pixels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.features_learn):
            features = self.vlm.features(pixels, scenes=None if self.vlm.spatial is None else batch.scenes or None)
        return self.vlm.project(features, join=bool(len(batch.pixels)))

    def loss(self, batch: PackedBatch, embeds: Tensor, positions: Tensor, rows: VisualRows) -> Loss:
        """The loss over rows that stand in their places."""
        scheme, speaker = self.vlm.scheme, self.vlm.speaker
        ids = scheme.token_ids
        visual = (batch.input_ids == ids.image) | (batch.input_ids == (ids.image if ids.video is None else ids.video))
        states = packed_states(
            speaker,
            embeds,
            positions,
            batch.lengths,
            axes=1 if scheme.rule.time == "none" else 3,
            deepstack=rows.deepstack,
            visual=visual,
            blocks=_blocks(batch, visual, scheme.bidirectional),
        )
        head = output_head(speaker)
        how = {"bias": head.bias, "cu_seqlens": batch.cu_seqlens, "count": 1, "cap": softcap_of(speaker)}
        total = next_token(states, batch.labels, head=head.weight, **how)
        return Loss(total, targets_in(batch.labels, batch.cu_seqlens))


def _blocks(batch: PackedBatch, visual: Tensor, bidirectional: Bidirectional) -> Tensor | None:
    """Tokens of a sample that see each other both ways, as `blocks_of` has them; what has no label is no answer."""
    if bidirectional == "none":
        return None
    return picture_blocks(visual) if bidirectional == "images" else -(batch.labels != IGNORE).long()


def _none_of(rows: VisualRows) -> VisualRows:
    return VisualRows(rows.tokens.reorder([]), tuple(deep.reorder([]) for deep in rows.deepstack))
