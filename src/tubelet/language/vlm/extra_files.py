"""Small files beside the weights of a whole model: JSON objects, the tokenizer and its chat template."""

import os
from pathlib import Path
from typing import Any

from tubelet.errors import ConfigError, WeightsError
from tubelet.weights.header import strict_json
from tubelet.weights.locate import PROCESSORS, CheckpointFolder, inside

VIDEO_PROCESSOR = "video_preprocessor_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")


class ExtraFiles:
    """Small files beside the weights: local ones, or of a hub repository at the commit the weights are of."""

    def __init__(self, place: CheckpointFolder, source: str | os.PathLike[str]) -> None:
        self.place = place
        self.repo = None if Path(source).exists() else str(source)

    def __call__(self, name: str) -> dict[str, Any]:
        """A JSON object; {} where there is no such file. Raises ConfigError."""
        path = self.path(name)
        if path is None:
            return {}
        said = strict_json(path.read_bytes(), ConfigError, name)
        if not isinstance(said, dict):
            raise ConfigError("not a JSON object", source=name)
        return said

    def path(self, name: str) -> Path | None:
        """Where the file is; None without one. Raises UnsafePath for one that leads out of the folder."""
        local = self.place.folder / name
        if local.is_symlink() or local.exists():
            return inside(local, self.place.root)
        if self.repo is None:
            return None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

        try:
            return Path(hf_hub_download(self.repo, name, revision=self.place.folder.name))
        except EntryNotFoundError:
            return None
        except (OSError, ValueError, HfHubHTTPError) as e:
            raise WeightsError(f"{name} could not be fetched", source=self.repo) from e

    def video_processor(self) -> dict[str, Any]:
        """What is said of how clips become pixels: the part video_processor of processor_config.json where there is
        one, else video_preprocessor_config.json. The order is transformers'. Raises ConfigError."""
        part = self(PROCESSORS).get("video_processor")
        if part is None:
            return self(VIDEO_PROCESSOR)
        if not isinstance(part, dict):
            raise ConfigError("video_processor is an object", source=PROCESSORS, got=type(part).__name__)
        return part

    def tokenizer(self, revision: str | None, config: Any) -> Any:
        """transformers' tokenizer with the model's chat template, or None where the folder has none. Raises ConfigError
        for one that cannot be read, also because it asks for code of its own."""
        from transformers import AutoTokenizer

        where = self.repo or str(self.place.folder)
        if self.repo is None and not any((self.place.folder / name).exists() for name in TOKENIZER_FILES):
            return None
        at = self.place.folder.name if self.repo else revision
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, config=config, revision=at, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ConfigError("the tokenizer cannot be read", source=self.place.name) from e
        template = self._template()
        if template is not None:  # the processor's, which knows of pictures; the tokenizer's own may know of text alone
            tokenizer.chat_template = template
        return tokenizer

    def _template(self) -> str | None:
        plain, wrapped = TEMPLATES
        path = self.path(plain)
        if path is not None:
            return path.read_text(encoding="utf-8")
        template = self(wrapped).get("chat_template")
        return template if isinstance(template, str) else None
