"""FLOPs of a training batch, for MFU and for plans: the products that a step computes, each as often as it is needed.

    forward                      every matrix with the rows that it meets
    gradients of rows            once more, where anything before them learns
    gradients of the matrix      once more, where it learns itself
    attention                    two products forward, five back, over whole squares of each sample, as torch counts it

Layers that gradient checkpointing runs again are not counted, as is the custom for MFU; the head is, for the loss reads
it twice.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from tubelet.inspect.budget.flops import encoder_flop, training_flop
from tubelet.language.placing.prompt import IGNORED
from tubelet.language.vlm.packed_lm import output_head
from tubelet.packed.grid import Grid
from tubelet.train.collate import PackedBatch
from tubelet.train.language import LanguageTraining
from tubelet.train.pairs import PairBatch, PairTraining


def work_of(model: nn.Module) -> Callable[[Any], float] | None:
    """FLOPs of a batch of this model, forward and backward; None for a model that is not known."""
    if isinstance(model, LanguageTraining):
        return lambda batch: language_flop(model, batch)
    if isinstance(model, PairTraining):
        return lambda batch: pair_flop(model, batch)
    return None


def language_flop(model: LanguageTraining, batch: PackedBatch) -> float:
    """Of a batch whose labels are on the host."""
    vlm, tower = model.vlm, model.tower_learns
    total = _encoder(vlm.encoder.config, _grids(batch), tower)
    total += _products(vlm.projector, sum(batch.rows), back=tower)
    behind = tower or _learns(vlm.projector) or (vlm.newline is not None and vlm.newline.requires_grad)
    back = behind or _learns(vlm.speaker)
    lm: Any = vlm.speaker.lm.config
    width = getattr(lm, "head_dim", None) or lm.hidden_size // lm.num_attention_heads
    square = 2.0 * sum(n * n for n in batch.lengths) * lm.num_attention_heads * width * lm.num_hidden_layers
    total += square * (7 if back else 2)
    head = output_head(vlm.speaker)
    asked = int((batch.labels != IGNORED).sum())
    total += _products(vlm.speaker, sum(batch.lengths), back=back) - _products(head, sum(batch.lengths), back=back)
    return total + _products(head, asked, back=back) + 2.0 * asked * head.weight.numel()


def pair_flop(model: PairTraining, batch: PairBatch) -> float:
    """The tower on all views, what scores rows on all of them, the projector on those that are kept."""
    alignment, front = model.alignment, model.alignment.front
    total = _encoder(front.encoder.config, _grids(batch), not alignment.frozen_tower)
    if alignment.config.weights.text:
        total += _products(front.encoder.pool, len(batch.patches.x), back=False)
        text: Any = model.text
        total += _products(text, len(batch.ids) * text.config.max_position_embeddings, back=False)
    return total + _products(front.projector, alignment.config.budget * len(batch.ids), back=True)


def _grids(batch: PackedBatch | PairBatch) -> list[Grid]:
    packed = batch.pixels if isinstance(batch, PackedBatch) else batch.patches
    return [item.grid for item in packed.items]


def _encoder(config: Any, grids: Sequence[Grid], learns: bool) -> float:
    return float(sum((training_flop if learns else encoder_flop)(config, grids).values()))


def _learns(module: nn.Module | None) -> bool:
    return module is not None and any(weight.requires_grad for weight in module.parameters())


def _products(module: nn.Module | None, rows: int, *, back: bool) -> float:
    """Of the matrices in a module that rows are multiplied with; tables that are looked up are none."""
    if module is None:
        return 0.0
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    heads = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    found = [w for w in module.parameters() if w.ndim > 1 and (id(w) not in tables or id(w) in heads)]
    return 2.0 * rows * sum(w.numel() * (1 + back + w.requires_grad) for w in found)
