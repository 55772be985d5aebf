"""A projector adapted to rows it was not trained on: pictures in views, a selection, LoRA, a loss against frozen text.

    pictures -> views -> tower, frozen -> select -> (thin) -> projector + LoRA -> one vector a picture -+
                         5 x 729 rows     980                                                           |-> InfoNCE
    captions -> the language model's embeddings, frozen, their mean ------------------------------------+

What the plan for SHIRG on LaViDa describes in its steps 1 to 4, with what it gets wrong put right: the views are real
tiles (3,645 different rows), the projector reads the layer it was trained on, rows are chosen by a text in the tower's
own space, vectors are pooled before they are compared, both directions count, and ranks compare with each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tubelet.errors import ConfigError, ShapeError
from tubelet.language.vlm.lavida import FrontEnd, ViewFeatures
from tubelet.packed import Packed
from tubelet.reading.clip import Clip
from tubelet.reduce.relevance import in_joint_space
from tubelet.reduce.settings import TEXT_ONLY, Settings, Weights
from tubelet.reduce.shirg import shirg
from tubelet.shapes import Float
from tubelet.train.lora import SEED, Lora, add_lora
from tubelet.train.losses import TEMPERATURE, LearnedScale, info_nce, sigmoid
from tubelet.train.parts import HOMES, set_trainable
from tubelet.train.readout import AttentionReadout, mean_rows
from tubelet.train.thin import thin

# Parts of an Alignment, for tubelet.train.parts.
ALIGNMENT_HOMES: Mapping[str, str] = {
    **{part: f"front.{home}" for part, home in HOMES.items()},
    "readout": "readout",
    "scale": "scale",
}


@dataclass(frozen=True)
class AlignmentConfig:
    """How the projector is adapted; the defaults are the plan's."""

    budget: int = 980  # rows kept of each picture, before the projector
    weights: Weights = TEXT_ONLY  # what the choice of rows counts
    lora: Lora = SEED  # adapters, on parts of the front end
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    temperature: float = TEMPERATURE  # of info_nce, where it starts if it learns
    learn_temperature: bool = False
    readout: Literal["mean", "attention"] = "mean"  # one vector of a picture's rows
    thin: float = 0.0  # share of the kept rows that leaves while training

    def __post_init__(self) -> None:
        if self.loss not in ("info_nce", "sigmoid") or self.readout not in ("mean", "attention"):
            raise ConfigError(
                "the loss is info_nce or sigmoid, the readout mean or attention", got=(self.loss, self.readout)
            )
        if self.budget < 1 or not self.temperature > 0 or not 0 <= self.thin < 1:
            raise ConfigError(f"budget from 1, temperature above 0, thin 0 to below 1: {self}", got=self.budget)


class Aligned(NamedTuple):
    """loss: a scalar with its graph. pictures: (N, D) vectors, for `tubelet.inspect.metrics.alignment.alignment`."""

    loss: Float[Tensor, ""]
    pictures: Float[Tensor, "N D"]


class Alignment(nn.Module):
    """A front end with adapters and the loss that trains them; the front end is changed in place and kept.

    Its adapters learn, and the readout and the scale where those have weights; `lines` says how many. Raises
    ConfigError where adapters do not fit (`add_lora`).
    """

    def __init__(self, front: FrontEnd, config: AlignmentConfig) -> None:
        super().__init__()
        add_lora(front, config.lora)
        self.front, self.config = front, config
        width = front.projector.config.out_dim
        self.readout = AttentionReadout(width) if config.readout == "attention" else None
        self.scale: LearnedScale | None = None
        if config.loss == "sigmoid":
            self.scale = LearnedScale(10.0, bias=-10.0)
        elif config.learn_temperature:
            self.scale = LearnedScale(1 / config.temperature)
        self.parts = ("lora", *(part for part in ("readout", "scale") if getattr(self, part) is not None))
        self.lines = set_trainable(self, self.parts, ALIGNMENT_HOMES)
        learns = any(weight.requires_grad for weight in front.encoder.parameters())
        self.frozen_tower = not learns

    def look(self, clips: Sequence[Clip]) -> ViewFeatures:
        """The tower's rows of all views; without a graph while no weight of the tower learns."""
        return self.features(self.front.patchify(clips))

    def features(self, patches: Packed) -> ViewFeatures:
        """The same from patches of views, as `front.patchify` gives them."""
        patches = patches.to(self.front.encoder.patch.weight.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_tower):
            return self.front.features(patches)

    def kept(self, seen: ViewFeatures, words: Sequence[Tensor] | Tensor | None) -> Packed:
        """The rows that go on, `budget` of each picture. words: as in `tubelet.reduce.relevance.relevance`."""
        weights = self.config.weights
        with torch.no_grad():  # a choice has no gradient
            space = in_joint_space(self.front.encoder, seen.scoring) if weights.text else None
        return shirg(seen.rows, words, Settings(weights=weights), budget=self.config.budget, features=space)

    def forward(
        self,
        seen: ViewFeatures,
        words: Sequence[Tensor] | Tensor | None,
        texts: Float[Tensor, "N D"],
        *,
        ids: Sequence[int | str] = (),
        seed: int = 0,
        step: int = 0,
        group: dist.ProcessGroup | None = None,
    ) -> Aligned:
        """The loss of N pictures against N texts, and the pictures' vectors.

        seen: what `look` gave, once for a batch that is used again. texts: frozen vectors in the language model's
        width (`mean_embeddings`). ids: the sample of each picture, where rows are thinned, with seed and step. group:
        as in `info_nce`. Raises ShapeError for another number of texts or ids, and what the stages raise.
        """
        rows = self.kept(seen, words)
        if self.training and self.config.thin:
            pictures = list(dict.fromkeys(item.picture for item in rows.items))
            if len(ids) != len(pictures):
                raise ShapeError(f"{len(ids)} ids for {len(pictures)} pictures", expected=len(pictures), got=len(ids))
            names = [ids[pictures.index(item.picture)] for item in rows.items]
            rows = thin(rows, names, seed=seed, step=step, rate=self.config.thin)
        projected = self.front.projector(rows)
        vectors = mean_rows(projected) if self.readout is None else self.readout(projected)
        targets = texts.detach().to(vectors)
        if self.config.loss == "sigmoid":
            assert self.scale is not None
            assert self.scale.bias is not None
            return Aligned(sigmoid(vectors, targets, scale=self.scale(), bias=self.scale.bias, group=group), vectors)
        temperature = self.config.temperature if self.scale is None else 1 / self.scale()
        return Aligned(info_nce(vectors, targets, temperature=temperature, group=group), vectors)
