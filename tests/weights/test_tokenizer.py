"""Tokenizers of strangers: every file of any kind is read or is one of our errors, and none leads out of its folder."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.language.vlm.tiny_speakers import TAG_TEMPLATE, tokenizer

from tubelet.errors import ConfigError, TubeletError, UnsafePath
from tubelet.weights.tokenizer import MOST_BYTES, MOST_VALUES, TEMPLATE_FOLDER, load_tokenizer

EXTRA = f"{TEMPLATE_FOLDER}/other.jinja"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a template of its own and another one."""
    folder = tmp_path_factory.mktemp("made")
    spoken = tokenizer(TAG_TEMPLATE)
    spoken.chat_template = {"default": TAG_TEMPLATE, "other": "{{ 1 }}"}
    spoken.save_pretrained(folder)
    (folder / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    assert (folder / EXTRA).exists()
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m"))


NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", EXTRA)


def test_what_was_saved_is_read(folder: Path):
    spoken = load_tokenizer(str(folder))
    assert spoken.chat_template == {"default": TAG_TEMPLATE, "other": "{{ 1 }}"}
    assert spoken.encode("abc") == tokenizer().encode("abc")


@pytest.mark.parametrize("name", [*NAMES, TEMPLATE_FOLDER])
def test_a_link_that_leads_out_is_not_followed(name: str, folder: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(UnsafePath, match="leads out"):
        load_tokenizer(str(folder))


def test_a_link_inside_is_followed(folder: Path):
    (folder / "tokenizer.json").rename(folder / "kept")
    (folder / "tokenizer.json").symlink_to("kept")
    assert load_tokenizer(str(folder)).encode("abc") == tokenizer().encode("abc")


def test_a_hub_s_cache_is_read(made: Path, tmp_path: Path):
    """snapshots/COMMIT/file -> ../../blobs/HASH, in folders below it one more."""
    root = tmp_path / "models--owner--name"
    snapshot, blobs = root / "snapshots" / ("a" * 40), root / "blobs"
    blobs.mkdir(parents=True)
    for i, path in enumerate(sorted(p for p in made.rglob("*") if p.is_file())):
        shutil.copy(path, blobs / str(i))
        link = snapshot / path.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(i), link.parent))
    assert load_tokenizer(str(snapshot)).chat_template == {"default": TAG_TEMPLATE, "other": "{{ 1 }}"}


# ---- files of a wrong kind


def folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def holding(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def too_large(path: Path) -> None:
    os.truncate(path, MOST_BYTES + 1)


KINDS = {
    "a folder": folder_there,
    "a pipe": pipe,
    "a loop": loop,
    "binary": holding(bytes(range(256)) * 20),
    "too large": too_large,
    "values": holding(b'{"a":[' + b"1," * MOST_VALUES + b"1]}"),
}
JSON = {
    "empty": holding(b""),
    "a list": holding(b"[1, 2]"),
    "a number": holding(b"7"),
    "null": holding(b"null"),
    "cut": holding(b'{"version": "1.0", "model": {'),
    "deep": holding(b'{"a":' * 5000 + b"1" + b"}" * 5000),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_wrong_kind_is_refused_before_it_is_opened(name: str, kind: str, folder: Path):
    if kind == "values" and not name.endswith(".json"):
        KINDS["too large"](folder / name)
    else:
        KINDS[kind](folder / name)
    with pytest.raises(TubeletError) as e:
        load_tokenizer(str(folder))
    assert e.value.source in (Path(name).name, folder.name)


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith(".json")])
@pytest.mark.parametrize("kind", JSON)
def test_json_of_a_wrong_form_is_refused(name: str, kind: str, folder: Path):
    JSON[kind](folder / name)
    with pytest.raises(ConfigError):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("said", [
    {"model_type": "qwen2", "num_hidden_layers": 10**9},
    {"model_type": "qwen2_vl", "text_config": {"num_hidden_layers": 10**9}},
])  # fmt: skip
def test_a_configuration_beside_it_of_a_stranger_s_numbers_is_refused_at_once(said: dict[str, Any], folder: Path):
    """transformers looks there for the kind of tokenizer, and makes the whole configuration for it."""
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "num_hidden_layers": 2}), encoding="utf-8")
    assert load_tokenizer(str(folder)).encode("abc") == tokenizer().encode("abc")
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        load_tokenizer(str(folder))


WRONG: list[Any] = [3, -1, "x", None, True, [], [1], {}, {"a": 1}, {"0": 1}, {"0": {"content": 5}}, 1e30]
FIELDS = {
    "tokenizer.json": ("version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"),
    "tokenizer_config.json": (
        "tokenizer_class", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "pad_token",
        "eos_token", "model_max_length", "chat_template", "padding_side", "model_input_names", "backend", "auto_map",
        "fast_tokenizer_files", "bos_token", "split_special_tokens", "clean_up_tokenization_spaces",
    ),
    "special_tokens_map.json": ("pad_token", "eos_token", "additional_special_tokens"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # what transformers says of such files is its own
@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields])
def test_a_field_of_a_wrong_form_is_read_or_refused(name: str, field: str, folder: Path):
    said = json.loads((folder / name).read_text(encoding="utf-8"))
    for wrong in WRONG:
        (folder / name).write_text(json.dumps(said | {field: wrong}), encoding="utf-8")
        try:
            load_tokenizer(str(folder))
        except TubeletError as e:
            assert "tokenizer" in str(e)


@pytest.mark.parametrize("name", ["no such/name", "\0", "a" * 5000])
def test_a_name_of_nothing_is_an_error(name: str):
    with pytest.raises(TubeletError):
        load_tokenizer(name)
