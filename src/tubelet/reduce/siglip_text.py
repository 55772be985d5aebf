"""SigLIP's own text tower, from its checkpoint: words as vectors in the space its pooled pictures are in.

Needs the extra `hf` (transformers). What it gives is what tubelet.reduce.relevance.relevance reads, beside rows brought
to the same space by `in_joint_space`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerBase, SiglipTextModel
from transformers.models.siglip import SiglipTextConfig

from tubelet.errors import ConfigError, InputError, KeyMismatch
from tubelet.families.fields import UNFIT, check_counts
from tubelet.reduce.relevance import content_words
from tubelet.shapes import Float
from tubelet.weights.locate import Checkpoint, CheckpointFolder, Source, find_checkpoint
from tubelet.weights.tensors import TensorReader
from tubelet.weights.tokenizer import check_tokenizer_files, load_tokenizer


def _stored(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The model's tensors, of these shapes, out of a checkpoint, which names them text_model.*. Raises KeyMismatch."""
    wanted = {name: f"text_model.{name.removeprefix('text_model.')}" for name in shapes}
    missing = [key for key in wanted.values() if key not in checkpoint.home]
    if missing:
        raise KeyMismatch(
            f"{len(missing)} tensors of a text tower are missing", missing=missing, source=checkpoint.name
        )
    there = {name: tuple(checkpoint.entries[key].shape) for name, key in wanted.items()}
    other = [(wanted[n], shapes[n], shape) for n, shape in there.items() if shape != shapes[n]]
    if other:
        raise KeyMismatch(f"{len(other)} tensors of another shape", misshaped=other, source=checkpoint.name)
    with TensorReader(checkpoint) as reader:
        return {name: reader(key) for name, key in wanted.items()}


class SiglipText:
    """Words or phrases to (S, D) vectors, each read by itself: a SigLIP text model with its tokenizer.

    tokenizer: texts to input_ids, as transformers' do. Texts are padded to the model's longest, as it was trained, and
    lower-cased, as upstream's processor does. Raises ConfigError for a model of another kind.
    """

    def __init__(self, model: SiglipTextModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(model, SiglipTextModel):
            raise ConfigError("not a SigLIP text model", expected="SiglipTextModel", got=type(model).__name__)
        self.model, self.tokenizer = model.eval(), tokenizer

    @classmethod
    def load(
        cls,
        source: Source,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        revision: str = "main",
    ) -> "SiglipText":
        """The text part of a folder or hub id of SigLIP: safetensors only, no remote code, and only its tensors.

        Raises ConfigError where there is no such configuration or tokenizer, KeyMismatch naming tensors that are
        missing or of another shape, and what reading weights raises.
        """
        known = isinstance(source, CheckpointFolder)
        name, at = source.for_transformers if known else (os.fspath(source), revision)
        if os.path.isdir(name):  # noqa: PTH112  that of Path raises where a name is too long
            check_tokenizer_files(Path(name))
        checkpoint = find_checkpoint(source, revision)
        said = checkpoint.config() or {}
        for part in (said, said.get("text_config")):
            check_counts(part if isinstance(part, Mapping) else {})
        try:
            config = AutoConfig.from_pretrained(name, revision=at, trust_remote_code=False)
        except (OSError, *UNFIT) as e:
            raise ConfigError("no SigLIP text model with safetensors there", source=name) from e
        tokenizer = load_tokenizer(name, revision=at)
        config = getattr(config, "text_config", config)
        if not isinstance(config, SiglipTextConfig):
            raise ConfigError("not a SigLIP text model", expected="siglip", got=getattr(config, "model_type", None))
        try:
            with torch.device("meta"):
                shapes = {name: tuple(t.shape) for name, t in SiglipTextModel(config).state_dict().items()}
        except UNFIT as e:
            raise ConfigError("no SigLIP text model can be made of this configuration", source=checkpoint.name) from e
        stored = _stored(checkpoint, shapes)
        model = SiglipTextModel(config)  # not before the file has shown that it has as much
        torch.nn.Module.to(model, dtype=dtype or torch.float32)
        model.load_state_dict(stored)
        torch.nn.Module.to(model, torch.device(device))
        return cls(model, tokenizer)

    @property
    def width(self) -> int:
        """Channels of a vector."""
        config = self.model.config
        assert isinstance(config, SiglipTextConfig)
        return config.projection_size or config.hidden_size

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Float[Tensor, "S D"]:
        """One vector for each text. Raises InputError for no texts or an empty one."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts or any(not text.strip() for text in texts):
            raise InputError("a text has at least one word", got=texts)
        config = self.model.config
        assert isinstance(config, SiglipTextConfig)
        batch = self.tokenizer(
            [text.lower() for text in texts],
            padding="max_length",
            truncation=True,
            max_length=config.max_position_embeddings,
            return_tensors="pt",
        )
        ids = batch["input_ids"]
        assert isinstance(ids, Tensor)
        out = self.model(input_ids=ids.to(self.model.device)).pooler_output
        assert isinstance(out, Tensor)
        return out

    def words(self, question: str, *, whole: bool = False) -> Float[Tensor, "S D"]:
        """The words of a question that name something (`content_words`), and the question itself if `whole`."""
        return self.embed([*content_words(question), *([question] if whole else [])])
