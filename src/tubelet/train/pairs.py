"""Pictures and their captions, trained to agree: what an alignment's batches are, and its model as the loop runs it.

sample -> picture -> views -> patches -+
       -> caption -> ids              -+-> PairBatch -> alignment -> loss over the pairs of all ranks
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tubelet.errors import InputError, TubeletError
from tubelet.language.vlm.lavida import FrontEnd
from tubelet.packed import Packed, concat
from tubelet.reading.limits import Limits
from tubelet.reading.read import read
from tubelet.reduce.siglip_text import SiglipText
from tubelet.shapes import Float
from tubelet.train.alignment import ALIGNMENT_HOMES, Alignment, AlignmentConfig
from tubelet.train.data.sample import Dataset
from tubelet.train.data.spare import BadSample, Spares, first_usable
from tubelet.train.loop import Loss
from tubelet.train.parts import keep_still
from tubelet.train.readout import mean_embeddings

PAIR_HOMES: Mapping[str, str] = {part: f"alignment.{home}" for part, home in ALIGNMENT_HOMES.items()}


@dataclass(frozen=True, eq=False)
class PairBatch:
    """N pictures and what is said of them."""

    patches: Packed  # of all views
    captions: tuple[tuple[int, ...], ...]  # token ids
    texts: tuple[str, ...]  # the same in words
    ids: tuple[int, ...]  # numbers of the samples
    step: int
    bad: tuple[BadSample, ...] = ()  # what was replaced

    def to(self, device: torch.device | str) -> "PairBatch":
        """The same with its patches on another device."""
        return replace(self, patches=self.patches.to(device))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Numbers of samples and a step in, `PairBatch` out; nothing is kept open."""

    dataset: Dataset
    front: FrontEnd  # cuts pictures into views; its weights are not used
    tokenizer: Any  # of the language model
    spares: Spares
    limits: Limits = Limits()
    isolate: Any = "never"

    def __call__(self, indices: Sequence[int], step: int) -> PairBatch:
        """The batch of these samples, bad ones replaced by their spares. Raises DataError."""
        found = [first_usable(i, self.spares, self.one, self.dataset.name) for i in indices]
        return PairBatch(
            concat([patches for (patches, _, _, _), _ in found]),
            tuple(ids for (_, ids, _, _), _ in found),
            tuple(text for (_, _, text, _), _ in found),
            tuple(number for (_, _, _, number), _ in found),
            step,
            tuple(bad for _, broken in found for bad in broken),
        )

    def one(self, index: int) -> tuple[Packed, tuple[int, ...], str, int]:
        """Patches, caption in ids and in words, and number of a sample. Raises InputError and what decoding raises."""
        sample = self.dataset[index]
        text = sample.turns[-1].text.strip()
        if len(sample.media) != 1 or sample.media[0].kind != "image" or not text:
            raise InputError("a pair is one picture and a caption", source=sample.where, expected=1)
        try:
            with sample.media[0].open() as source:
                [clip] = read([source], limits=self.limits, isolate=self.isolate, workers=1)
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            return self.front.patchify([clip]), ids, text, index
        except TubeletError as e:
            raise e.placed(source=e.source or sample.where) from e.__cause__


class PairTraining(nn.Module):
    """An alignment as the loop runs it: `forward(PairBatch) -> Loss`, a mean over the pairs of all ranks.

    table: (V, D), the language model's embeddings, frozen. text: whose words choose rows, None where no text does.
    """

    def __init__(
        self, front: FrontEnd, config: AlignmentConfig, table: Float[Tensor, "V D"], text: SiglipText | None, seed: int
    ) -> None:
        super().__init__()
        self.alignment = Alignment(front, config)
        self.parts, self.lines, self.seed = self.alignment.parts, self.alignment.lines, seed
        self._text = text
        self.text = None if text is None else text.model.requires_grad_(False)
        self.register_buffer("table", table, persistent=False)
        self.table: Tensor

    def train(self, mode: bool = True) -> "PairTraining":
        """Train mode, but for the towers."""
        super().train(mode)
        if mode:
            keep_still(self, self.parts, PAIR_HOMES)
        if self.text is not None:
            self.text.eval()
        return self

    def forward(self, batch: PairBatch) -> Loss:
        """Loss, and the mean cosine of pictures and their own captions."""
        seen = self.alignment.features(batch.patches)
        words = None if self._text is None else list(self._text.embed(batch.texts).float().split(1))
        texts = mean_embeddings(self.table, [list(ids) for ids in batch.captions])
        many = dist.is_initialized() and dist.get_world_size() > 1
        made = self.alignment(
            seen,
            words,
            texts,
            ids=batch.ids,
            seed=self.seed,
            step=batch.step,
            group=dist.group.WORLD if many else None,
        )
        cosine = nn.functional.cosine_similarity(made.pictures.detach().float(), texts.to(made.pictures.device)).mean()
        return Loss(made.loss, 1.0, {"cosine": cosine})
