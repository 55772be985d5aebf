"""Small files beside the weights of a whole model: JSON objects, the tokenizer and its chat template."""

from pathlib import Path
from typing import Any

from tubelet.errors import ConfigError
from tubelet.packed.header import read_small, strict_json
from tubelet.weights.locate import PROCESSOR, PROCESSORS, CheckpointFolder, inside
from tubelet.weights.tokenizer import load_tokenizer, read_template

SETTINGS_FILE = "generation_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")


class ExtraFiles:
    """Small files beside the weights; those of a hub come in one request, at the commit the weights are of."""

    def __init__(self, checkpoint: CheckpointFolder) -> None:
        self.checkpoint = checkpoint
        if checkpoint.fetch is not None:
            checkpoint.fetch((SETTINGS_FILE, PROCESSOR, PROCESSORS, *TEMPLATES))

    def __call__(self, name: str) -> dict[str, Any]:
        """A JSON object; {} where there is no such file. Raises ConfigError."""
        path = self.path(name)
        if path is None:
            return {}
        said = strict_json(read_small(path, ConfigError), ConfigError, name)
        if not isinstance(said, dict):
            raise ConfigError("not a JSON object", source=name)
        return said

    def path(self, name: str) -> Path | None:
        """Where the file is; None without one. Raises UnsafePath for one that leads out of the folder."""
        local = self.checkpoint.folder / name
        return inside(local, self.checkpoint.root) if local.is_symlink() or local.exists() else None

    def tokenizer(self, config: Any) -> Any:
        """transformers' tokenizer with the model's chat template, or None where the folder has none. Raises ConfigError
        for one that cannot be read, also because it asks for code of its own."""
        local = self.checkpoint.fetch is None
        if local and not any((self.checkpoint.folder / name).exists() for name in TOKENIZER_FILES):
            return None
        name, commit = self.checkpoint.for_transformers
        tokenizer = load_tokenizer(name, revision=commit, config=config)
        template = self._template()
        if template is not None:  # the processor's, which knows of pictures; the tokenizer's own may know of text alone
            tokenizer.chat_template = template
        return tokenizer

    def _template(self) -> str | None:
        plain, wrapped = TEMPLATES
        path = self.path(plain)
        if path is not None:
            return read_template(path)
        template = self(wrapped).get("chat_template")
        return template if isinstance(template, str) else None
