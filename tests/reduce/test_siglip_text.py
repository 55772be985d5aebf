"""SigLIP's text tower: from a folder on disk, with a tokenizer of a few words, against transformers itself."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tests.reduce.tiny_siglip import saved

from tubelet.errors import ConfigError, InputError, KeyMismatch, WeightsError
from tubelet.packed import Item, pack
from tubelet.reduce.relevance import relevance
from tubelet.reduce.siglip_text import SiglipText


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("siglip"))


def test_vectors_are_the_text_features_of_the_whole_model(folder: Path):
    text = SiglipText.load(folder)
    got = text.embed(["Total", "invoice date"])
    assert got.shape == (2, text.width) == (2, 16)
    ids = torch.tensor([[2, 0, 0, 0, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0, 0, 0]])
    model = hf.SiglipModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model.text_model(input_ids=ids).pooler_output
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(text.embed("invoice date")[0], expected[1])


def test_words_of_a_question(folder: Path):
    text = SiglipText.load(folder)
    question = "What is the total of the invoice?"
    torch.testing.assert_close(text.words(question), text.embed(["total", "invoice"]))
    torch.testing.assert_close(text.words(question, whole=True)[2], text.embed([question])[0])
    rows = torch.cat([torch.randn(3, 16), text.embed(["invoice"])])
    near = relevance(pack([rows], [Item.of(1, 2, 2)]), text.words(question))
    assert int(near.argmax()) == 3


def test_longer_texts_are_cut_to_what_the_model_reads(folder: Path):
    text = SiglipText.load(folder)
    torch.testing.assert_close(text.embed(["total " * 20]), text.embed(["total " * 8]))


def test_what_is_no_text_or_no_model_is_refused(folder: Path, tmp_path: Path):
    text = SiglipText.load(folder)
    for bad in ([], [""], ["total", "  "]):
        with pytest.raises(InputError, match="at least one word"):
            text.embed(bad)
    with pytest.raises(InputError, match="no word"):
        text.words("What is it?")
    with pytest.raises(WeightsError, match="neither"):
        SiglipText.load(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="no SigLIP text model"):
        SiglipText.load(tmp_path)


def test_loading_reads_the_text_part_alone_and_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]):
    SiglipText.load(folder)
    said = capfd.readouterr()
    assert "UNEXPECTED" not in said.out + said.err
    assert "Loading weights" not in said.out + said.err


def test_a_text_tower_that_is_not_whole_is_named(folder: Path, tmp_path: Path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stored = load_file(tmp_path / "model.safetensors")
    gone = "text_model.head.bias"
    save_file({k: v for k, v in stored.items() if k != gone}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(KeyMismatch) as caught:
        SiglipText.load(tmp_path)
    assert caught.value.missing == (gone,)
    save_file({**stored, gone: torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(KeyMismatch) as caught:
        SiglipText.load(tmp_path)
    assert caught.value.misshaped == ((gone, (16,), (3,)),)


def test_a_model_of_another_kind_is_refused(folder: Path, tmp_path: Path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "clip"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="not a SigLIP text model"):
        SiglipText.load(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"num_hidden_layers": 10**9}, {"vocab_size": 10**9}, {"hidden_size": -4}, {"num_attention_heads": 0}],
    ids=str,
)
def test_numbers_of_a_stranger_take_neither_time_nor_memory(fields: dict[str, Any], folder: Path, tmp_path: Path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said.get("text_config", said).update(fields)
    (tmp_path / "config.json").write_text(json.dumps(said), encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ConfigError, KeyMismatch)):
        SiglipText.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # kB


@pytest.mark.usefixtures("as_in_production")
def test_another_model_is_refused(folder: Path):
    wrong: Any = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="not a SigLIP text model"):
        SiglipText(wrong, SiglipText.load(folder).tokenizer)
