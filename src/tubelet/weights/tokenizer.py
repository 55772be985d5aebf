"""The tokenizer beside the weights: transformers', of files that are looked at before it opens one.

transformers opens what it likes of a folder: links that lead out of it, pipes, files of any size and form. So every
link is followed first, and what a tokenizer is read from is a regular file of bounded size that is JSON where its name
says so. In a hub's cache files are links into the repository's blobs, which is inside (`locate.root_of`).
"""

import os
import re
from pathlib import Path
from typing import Any

from tubelet.errors import ConfigError
from tubelet.families.fields import check_counts
from tubelet.packed.header import open_regular, read_small, strict_json
from tubelet.weights.locate import CONFIG, PICKLES, inside, json_file, root_of

TEMPLATE_FOLDER = "additional_chat_templates"
MOST_BYTES = 64 << 20  # tokenizer.json of 256,000 tokens and their merges takes 33 MB
MOST_VALUES = 3_000_000  # of any of its JSON files: those merges are 2 million
_OWN = re.compile(r"(.*token.*|vocab.*|merges|spiece.*|sentencepiece.*|tekken|chat_template.*)\.(json|txt|model|jinja)")


def load_tokenizer(name: str, *, revision: str | None = None, config: Any = None) -> Any:
    """transformers' tokenizer of a folder, a file or a hub id. config: the model's, where transformers knows none.

    Raises ConfigError for one that cannot be read, whatever it fails with, also because it asks for code of its own;
    UnsafePath for a link that leads out of the folder.
    """
    from transformers import AutoTokenizer

    place = Path(name)
    if os.path.isdir(name):  # noqa: PTH112  those of Path raise where a name is too long
        check_tokenizer_files(place)
        if config is None:
            _check_config(place)
    elif os.path.exists(name):  # noqa: PTH110
        _check_file(place, place)
    try:
        return AutoTokenizer.from_pretrained(name, config=config, revision=revision, trust_remote_code=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # a panic of the Rust library derives from nothing else
        raise ConfigError("the tokenizer cannot be read", source=place.name[:200]) from e


def check_tokenizer_files(folder: Path) -> None:
    """Raise ConfigError or UnsafePath naming the first file that a tokenizer must not be read from."""
    root = root_of(folder)
    more = folder / TEMPLATE_FOLDER
    entries = [*folder.iterdir(), *(inside(more, root).iterdir() if more.is_dir() else ())]
    for path in sorted(entries):
        if path.suffix.lower() in PICKLES:
            continue  # never opened
        real = inside(path, root) if path.is_symlink() else path
        if path.parent != folder or _OWN.fullmatch(path.name):
            _check_file(path, real)


def _check_config(folder: Path) -> None:
    """Raise ConfigError for a configuration of 10**9 layers, which transformers would begin to make here."""
    level = [json_file(folder, root_of(folder), CONFIG) or {}]
    while level:  # its parts are configurations too
        for part in level:
            check_counts(part)
        level = [inner for part in level for inner in part.values() if isinstance(inner, dict)]


def _check_file(named: Path, real: Path) -> None:
    """One file: a regular one that is not too large, JSON or text where its name says so."""
    if named.suffix == ".jinja":
        read_template(real)
        return
    try:
        with open_regular(real, ConfigError, MOST_BYTES) as file:
            text = file.read(MOST_BYTES) if named.suffix == ".json" else b"{}"
    except OSError as e:
        raise ConfigError("the file cannot be read", source=named.name) from e
    values = text.count(b",") + text.count(b"{") + text.count(b"[")
    if values <= MOST_VALUES and named.name == "tokenizer.json":
        return  # a library in Rust parses it, and takes another form for an error
    if not isinstance(strict_json(text, ConfigError, named.name, most_values=MOST_VALUES), dict):
        raise ConfigError("not a JSON object", source=named.name)


def read_template(path: Path) -> str:
    """The text of a chat template's file. Raises ConfigError for one that is none."""
    try:
        return read_small(path, ConfigError).decode("utf-8")
    except UnicodeDecodeError as e:
        raise ConfigError("a chat template is UTF-8 text", source=path.name) from e
