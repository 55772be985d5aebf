"""FLOPs of a training batch, for MFU and for plans: what learns costs three passes, what lies behind it two, all else one.

    encoder, frozen      forward
    projector, learns    forward, gradients of weights, and of rows where the encoder learns
    language model       forward, gradients of rows, and of weights where it learns
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from tubelet.inspect.budget.flops import encoder_flop, training_flop
from tubelet.packed.grid import Grid
from tubelet.train.collate import PackedBatch
from tubelet.train.language import LanguageTraining
from tubelet.train.pairs import PairBatch, PairTraining


def work_of(model: nn.Module) -> Callable[[Any], float] | None:
    """FLOPs of a batch of this model, forward and backward; None for a model that is not known."""
    if isinstance(model, LanguageTraining):
        return lambda batch: language_flop(model, _grids(batch), batch.lengths, sum(batch.rows))
    if isinstance(model, PairTraining):
        return lambda batch: pair_flop(model, batch)
    return None


def language_flop(model: LanguageTraining, grids: Sequence[Grid], lengths: Sequence[int], rows: int) -> float:
    """grids: of what the encoder sees; lengths: tokens of each sample; rows: how many of them are visual."""
    vlm, config = model.vlm, model.vlm.encoder.config
    total = float(_encoder(config, grids, model.tower_learns))
    passes = 1 + _learns(vlm.projector) + model.tower_learns
    total += 2.0 * rows * _products(vlm.projector) * passes
    behind = model.tower_learns or _learns(vlm.projector) or vlm.newline is not None and vlm.newline.requires_grad
    learns = _learns(vlm.speaker)
    lm: Any = vlm.speaker.lm.config
    heads = lm.num_attention_heads
    width = getattr(lm, "head_dim", None) or lm.hidden_size // heads
    causal = 2.0 * sum(n * n for n in lengths) * heads * width * lm.num_hidden_layers
    return total + (2.0 * sum(lengths) * _products(vlm.speaker) + causal) * (1 + (behind or learns) + learns)


def pair_flop(model: PairTraining, batch: PairBatch) -> float:
    """The tower once, all the views; the projector on the rows that are kept."""
    alignment, front = model.alignment, model.alignment.front
    total = float(_encoder(front.encoder.config, _grids(batch), not alignment.frozen_tower))
    rows = alignment.config.budget * len(batch.ids)
    return total + 2.0 * rows * _products(front.projector) * (2 + (not alignment.frozen_tower))


def _grids(batch: PackedBatch | PairBatch) -> list[Grid]:
    packed = batch.pixels if isinstance(batch, PackedBatch) else batch.patches
    return [item.grid for item in packed.items]


def _encoder(config: Any, grids: Sequence[Grid], learns: bool) -> int:
    return sum((training_flop if learns else encoder_flop)(config, grids).values())


def _learns(module: nn.Module | None) -> bool:
    return module is not None and any(weight.requires_grad for weight in module.parameters())


def _products(module: nn.Module | None) -> int:
    """Numbers in the matrices that rows are multiplied with; tables that are looked up are none."""
    if module is None:
        return 0
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    heads = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    return sum(w.numel() for w in module.parameters() if w.ndim > 1 and (id(w) not in tables or id(w) in heads))
