"""What learned, out of a run's newest whole checkpoint, in the form that others read.

projector        final/mm_projector.safetensors   tubelet.load_projector reads it
adapters         final/adapter                    peft and tubelet.train.lora.load_lora read it
anything else    final/model                      tubelet.VLM.from_pretrained reads it: the whole model
"""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from tubelet.errors import CheckpointError, ConfigError
from tubelet.language.project.files import save_projector
from tubelet.train.checkpoint import read_part
from tubelet.train.language import LANGUAGE_HOMES, LanguageTraining
from tubelet.train.lora import save_lora
from tubelet.train.manifest import STEPS, Naming, newest_whole
from tubelet.train.open_model import open_language, open_pairs
from tubelet.train.parts import chosen_parts
from tubelet.train.resume import Trained
from tubelet.train.run_config import RunConfig

ADAPTER, MODEL = "adapter", "model"


def export(config: RunConfig, folder: str | os.PathLike[str], naming: Naming = STEPS) -> Path:
    """Write what a run's newest whole checkpoint holds. The model is opened anew, so what is written is what was saved.

    Raises CheckpointError without a whole checkpoint, ConfigError for a whole model where there is none (an alignment),
    and what saving raises.
    """
    out = Path(folder)
    path = newest_whole(config.folder, naming).path
    if path is None:
        raise CheckpointError("there is no whole checkpoint", source=str(config.folder))
    pairs = config.alignment is not None
    model: Any = open_pairs(config)[0] if pairs else open_language(config)
    fill(model, path)
    out.mkdir(parents=True, exist_ok=True)
    if config.export == "whole" and pairs:
        raise ConfigError("an alignment has no language model to write: export parts", got="whole")
    if config.lora is not None or pairs:
        save_lora(model.alignment.front if pairs else model.vlm, out / ADAPTER, overwrite=True)
    if config.export == "whole" or (not pairs and config.lora is None and not _projector_alone(model)):
        if config.lora is not None:
            raise ConfigError("adapters are merged before a whole model is written: export parts", got="whole")
        model.vlm.save_pretrained(out / MODEL, overwrite=True)
    elif config.lora is None and not pairs:
        save_projector(model.vlm.projector, out)
    return out


def has_weights(config: RunConfig, naming: Naming = STEPS) -> bool:
    """Whether the newest whole checkpoint holds weights in a form that is read here: DeepSpeed's own shards are not."""
    path = newest_whole(config.folder, naming).path
    return path is not None and ((path / "model").is_dir() or (path / "model.safetensors").exists())


def fill(model: nn.Module, path: Path) -> None:
    """Read a checkpoint's weights into the model's trained parameters and buffers: the loop's, or Trainer's."""
    weights = Trained(model, (), None).parts()["model"]
    trainers = path / "model.safetensors"
    if not trainers.exists():
        read_part(path / "model", weights)
        return
    with safe_open(trainers, framework="pt") as file, torch.no_grad():
        missing = sorted(weights.keys() - set(file.keys()))
        if missing:
            raise CheckpointError(f"{len(missing)} tensors are missing: {missing[:3]}", source=str(trainers))
        for name, tensor in weights.items():
            tensor.copy_(file.get_tensor(name))


def _projector_alone(model: LanguageTraining) -> bool:
    return chosen_parts(model.parts, LANGUAGE_HOMES) == ("projector",)
