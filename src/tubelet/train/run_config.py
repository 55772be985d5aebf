"""What `tubelet train` runs, as one file: a model, its data, what learns, and how (`tubelet.train.config`).

model: {path: models/llava, vision_tower: models/siglip}        tubelet.train.config.read_config(RunConfig, "run.yaml",
data: {paths: [blip_laion_cc_sbu_558k.json], style: plain}                                     ["--steps", "20"])
parts: mm_mlp_adapter
budget: 16384
epochs: 1
"""

from dataclasses import dataclass, field
from typing import Literal

from tubelet.errors import ConfigError
from tubelet.train.alignment import AlignmentConfig
from tubelet.train.config import TrainConfig
from tubelet.train.lora import Lora
from tubelet.train.tokenize import Style


@dataclass(frozen=True)
class ModelConfig:
    """Where the model is, and what of it is new."""

    path: str  # folder or hub id of a whole model; with `projector` a language model alone will do
    vision_tower: str | None = None  # where the tower is when it is not inside
    projector: str | None = None  # a new one of this kind, in place of the folder's: mlp2x_gelu, spatial_merge ...
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"  # of what is frozen; what learns is float32
    max_pixels: int | None = None  # pictures and frames that have more are reduced
    text_tower: str | None = None  # of an alignment: folder or hub id of SigLIP, whose words choose rows


@dataclass(frozen=True)
class DataConfig:
    """What is learned from, and how samples become tokens."""

    paths: tuple[str, ...]  # JSON, JSON lines, tars, folders, or sets.json:name%50; one after the other
    root: str | None = None  # the folder that records name their pictures from; None: the records' own
    follow_links: bool = False  # links in it may lead out
    style: Style = "chat"  # plain: picture, caption, end of line, as LLaVA's first stage
    max_length: int | None = None  # tokens of a sample, longer ones are cut; None: the budget
    fps: float | None = None  # frames a second taken out of clips; None: 2, at most 64 frames
    num_frames: int | None = None  # or so many frames of each
    most_bad: float = 0.01  # share of samples that may be unusable
    workers: int = 1  # threads that read samples of a batch
    isolate: Literal["always", "never"] = "never"  # decode in a child process that may die

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("data.paths names at least one data set")
        if not 0 <= self.most_bad <= 1 or self.workers < 1 or (self.max_length or 1) < 1:
            raise ConfigError("data.most_bad lies in 0 to 1, workers and max_length start at 1", got=self.most_bad)


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainConfig):
    """One run: what `tubelet train` reads. Of an alignment `budget` counts pairs, otherwise tokens."""

    model: ModelConfig  # what is trained
    data: DataConfig  # on what
    parts: str = "mm_mlp_adapter"  # what learns, by names (tubelet.train.parts); with `lora` or `alignment` it is those
    lora: Lora | None = field(default=None)  # adapters that learn in place of `parts`
    alignment: AlignmentConfig | None = field(default=None)  # pictures against captions, no language model
    export: Literal["parts", "whole", "none"] = "parts"  # written to `final` at the end: what learned, or the model

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora is not None and self.alignment is not None:
            raise ConfigError("an alignment has its own lora: alignment.lora", got="lora")
        if self.alignment is not None and self.alignment.weights.text and self.model.text_tower is None:
            raise ConfigError(
                "rows are chosen by a text (alignment.weights.text): model.text_tower says whose words, or set it to 0"
            )
        if self.alignment is None and self.model.text_tower is not None:
            raise ConfigError("model.text_tower is for an alignment", got=self.model.text_tower)
