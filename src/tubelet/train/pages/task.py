"""What a reader is trained by: its answers, and three losses that only training knows.

    answers   the next byte of each answer, and its end
    columns   of each patch the letters over its two strips       (labels.py)   on the encoder's rows
    slots     of each row its letters in order                    (labels.py)   on the projected rows
    pointer   the first head of one layer of the language model looks at the row that shows the letter to come

Without slots the rows know which letters there are and not in which order; without the pointer the language model does
not find its way to them in a small run's time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.merging import tokens_merged
from tubelet.errors import ConfigError
from tubelet.language.vlm.model import VLM
from tubelet.packed import Packed
from tubelet.shapes import Float, Int64
from tubelet.train.loop import Loss
from tubelet.train.pages.batch import PageBatch
from tubelet.train.pages.labels import CLASSES, IGNORED, PLACES

SMALLEST = 1e-30  # of a share of attention, before its logarithm


@dataclass(frozen=True)
class Weights:
    """What each loss counts for; at 0 it is not computed. answers 0 leaves the language model out."""

    answers: float = 1.0
    columns: float = 0.1
    slots: float = 1.0
    pointer: float = 1.0


class Seen(NamedTuple):
    """What one run gives. losses: by name, means; figures: scalars to tell; right: by question, whether every byte of
    its answer is, in the order of the batch's questions."""

    losses: Mapping[str, Tensor]
    figures: Mapping[str, Tensor]
    right: Tensor


class ReaderTask(nn.Module):
    """A reader with the heads of its training losses; `forward(batch)` is the weighted sum.

    Only `vlm` is what is shipped; its scheme says which head points. seed: of the heads' fresh weights. Raises
    ConfigError for a model without such a head.
    """

    parts_rest = True  # a step without questions runs no language model, see `tubelet.train.strategy.wrapped`

    def __init__(self, vlm: VLM, weights: Weights = Weights(), *, seed: int = 0) -> None:
        super().__init__()
        if vlm.scheme.pointer is None:
            raise ConfigError("the scheme of a reader names the head that learns to point")
        self.vlm, self.weights, self.pointer = vlm, weights, vlm.scheme.pointer
        vlm.speaker.lm.set_attn_implementation("eager")  # whose attention can be read
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.columns = nn.Linear(vlm.encoder.config.hidden, 2 * CLASSES)
            self.slots = nn.Linear(vlm.width, 2 * PLACES * CLASSES)
            for head in (self.columns, self.slots):
                nn.init.normal_(head.weight, std=0.02)
                nn.init.zeros_(head.bias)

    def forward(self, batch: PageBatch) -> Loss:
        """The weighted sum of the losses' means, with every one of them and how well each thing was told."""
        seen = self.run(batch)
        total = torch.stack([getattr(self.weights, name) * loss for name, loss in seen.losses.items()]).sum()
        losses = {f"loss_{name}": loss.detach() for name, loss in seen.losses.items()}
        return Loss(total, 1.0, {**losses, **seen.figures})

    def run(self, batch: PageBatch) -> Seen:
        """All losses that have a weight, with how well each thing was told. Without questions there are no answers."""
        encoder, projector = self.vlm.encoder, self.vlm.projector
        seen = encoder.trunk(batch.patches)
        merged = seen if encoder.merger is None else tokens_merged(seen, encoder.merger)
        rows = merged if projector is None else projector(merged)
        losses: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {"rms_rows": rms(rows.x)}
        if self.weights.columns:
            losses["columns"], figures["columns"] = told(self.columns(seen.x), batch.columns)
        if self.weights.slots:
            losses["slots"], figures["slots"] = told(self.slots(F.rms_norm(rows.x, rows.x.shape[1:])), batch.slots)
        right = torch.zeros(0, dtype=torch.bool, device=batch.ids.device)
        if self.weights.answers and bool((batch.labels != IGNORED).any()):
            answer = self._answers(batch, rows)
            losses |= answer.losses
            figures |= answer.figures
            right = answer.right
        return Seen(losses, figures, right)

    def _answers(self, batch: PageBatch, rows: Packed) -> Seen:
        lm: Any = self.vlm.speaker.lm
        embeds = lm.get_input_embeddings()(batch.ids)
        figures = {"rms_embeddings": rms(embeds)}
        embeds = laid_in(embeds, rows.x, batch)
        blind = torch.zeros(batch.sees.shape, dtype=embeds.dtype, device=embeds.device)
        blind = blind.masked_fill_(~batch.sees, torch.finfo(embeds.dtype).min)[:, None]
        out = lm.model(
            inputs_embeds=embeds,
            attention_mask=blind,
            position_ids=batch.places,
            use_cache=False,
            output_attentions=bool(self.weights.pointer),
        )
        asked = batch.labels != IGNORED
        logits, wanted = lm.lm_head(out.last_hidden_state[asked]).float(), batch.labels[asked]
        losses = {"answers": F.cross_entropy(logits, wanted)}
        hit = logits.argmax(-1) == wanted
        right = whole(hit, batch)
        figures |= {"bytes": hit.float().mean(), "exact": right.float().mean()}
        if self.weights.pointer and bool((batch.pointers != IGNORED).any()):
            losses["pointer"], figures["pointer"] = pointed(
                out.attentions[self.pointer.layer][:, self.pointer.head], batch
            )
        return Seen(losses, figures, right)


def told(logits: Float[Tensor, "N CK"], wanted: Int64[Tensor, "N K"]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of K letters a row, and the share of letters that were told: of places that hold one."""
    logits = logits.float().unflatten(1, (wanted.shape[1], CLASSES)).flatten(0, 1)
    flat = wanted.flatten()
    kept = flat != IGNORED
    logits, flat = logits[kept], flat[kept]
    hit = (logits.argmax(-1) == flat) & (flat > 0)
    return F.cross_entropy(logits, flat), hit.sum() / (flat > 0).sum().clamp(min=1)


def pointed(attention: Float[Tensor, "B S S"], batch: PageBatch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of one head's attention over a page's rows with the row of the next letter, and how often its
    largest share lies there."""
    most = max(batch.rows)
    marked = batch.pointers != IGNORED
    wanted = batch.pointers[marked]
    shares = attention[:, :, :most][marked].float()
    counts = torch.tensor(batch.rows, device=shares.device)[:, None].expand_as(marked)[marked]
    shares = shares * (torch.arange(most, device=shares.device) < counts[:, None])
    mine = shares.gather(1, wanted[:, None])[:, 0]
    loss = (shares.sum(1).clamp(min=SMALLEST).log() - mine.clamp(min=SMALLEST).log()).mean()
    return loss, (shares.argmax(1) == wanted).float().mean()


def laid_in(embeds: Float[Tensor, "B S D"], rows: Float[Tensor, "M D"], batch: PageBatch) -> Float[Tensor, "B S D"]:
    """The embeddings with each page's rows at its beginning."""
    return torch.where(batch.owner[..., None] == 0, torch.zeros_like(embeds).masked_scatter(
        (batch.owner == 0)[..., None], rows.to(embeds.dtype)), embeds)  # fmt: skip


def whole(hit: Tensor, batch: PageBatch) -> Tensor:
    """By question, whether every byte of its answer and its end were right; hit: of the tokens with a label."""
    asked = batch.labels != IGNORED
    before = torch.tensor([0, *(len(q) for q in batch.questions)], device=hit.device).cumsum(0)[:-1]
    number = (before[:, None] + batch.owner - 1)[asked]
    wrong = torch.zeros(sum(len(q) for q in batch.questions), device=hit.device)
    return wrong.index_add_(0, number, (~hit).float()) == 0


def rms(x: Tensor) -> Tensor:
    """Root of the mean square, without a gradient."""
    return x.detach().float().square().mean().sqrt()
