"""PaliGemma in training, against transformers' own in the same process: ids, labels, loss and gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.language.vlm.peers import Peer, bpe
from tests.language.vlm.tiny_peers import paligemma
from tests.train.data_sets import lines, llava, picture

from tubelet import VLM
from tubelet.errors import ConfigError, InputError
from tubelet.train.collate import Collator, PackedBatch
from tubelet.train.data.open import open_dataset
from tubelet.train.data.sample import Sample, Turn
from tubelet.train.data.spare import Spares
from tubelet.train.language import LanguageTraining
from tubelet.train.open_model import load_vlm
from tubelet.train.run_config import ModelConfig
from tubelet.train.tokenize import Tokenizing, tokenize

# of its processor, which makes labels of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SAID = (("a.png", "What?", "A cat."), ("b.png", "Who is it, and where?", "Bello, der Hund"), (None, "Why?", "So."))


@pytest.fixture(scope="module", params=["paligemma", "paligemma2"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return paligemma(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    picture(made / "a.png", 70, 40, 1)
    picture(made / "b.png", 33, 90, 2)
    return made


def batch_of(vlm: VLM, folder: Path, ids: tuple[int, ...]) -> PackedBatch:
    records = [
        llava(n, name, f"<image>\n{asked}" if name else asked, said) for n, (name, asked, said) in enumerate(SAID)
    ]
    data = open_dataset(lines(folder / "a.jsonl", records))
    return Collator(data, Tokenizing.of(vlm), Spares(len(data), 0))(ids)


def theirs(peer: Peer, folder: Path, n: int) -> Any:
    """What transformers' processor makes of a sample with a picture."""
    name, asked, said = SAID[n]
    with Image.open(folder / str(name)) as opened:
        still = opened.convert("RGB")
    return peer.processor(text=[f"<image>{asked}"], images=[[still]], suffix=[said], return_tensors="pt")


def test_ids_and_labels_are_those_of_transformers(peer: Peer, folder: Path):
    for n in (0, 1):
        batch, given = batch_of(peer.vlm, folder, (n,)), theirs(peer, folder, n)
        assert batch.input_ids.tolist() == given["input_ids"][0].tolist()
        assert batch.labels.tolist() == torch.as_tensor(np.asarray(given["labels"]))[0].tolist()


def test_loss_and_gradients_are_those_of_transformers(peer: Peer, folder: Path):
    """Two samples packed; transformers sees one after the other."""
    peer.model.zero_grad()
    total = torch.zeros(())
    for n in (0, 1):
        given = theirs(peer, folder, n)
        labels = torch.as_tensor(np.asarray(given.pop("labels")))
        found = peer.model(**given, labels=labels).loss * int((labels[0, 1:] != -100).sum())
        found.backward()
        total += found.detach()
    vlm = load_vlm(ModelConfig(str(peer.folder)), 0)
    training = LanguageTraining(vlm, "encoder,projector,language_model").train()
    ours = training(batch_of(vlm, folder, (0, 1)))
    ours.total.backward()
    torch.testing.assert_close(ours.total.detach(), total, rtol=1e-4, atol=1e-4)
    inner, lm = peer.model.model, vlm.speaker.lm.base_model
    [linear] = [weight for weight in vlm.projector.parameters() if weight.ndim == 2]  # type: ignore[union-attr]
    pairs = [(linear, inner.multi_modal_projector.linear), (lm.embed_tokens.weight, inner.language_model.embed_tokens)]
    for mine, other in zip(lm.layers, inner.language_model.layers, strict=True):
        pairs += [(mine.self_attn.q_proj.weight, other.self_attn.q_proj)]
        pairs += [(mine.mlp.down_proj.weight, other.mlp.down_proj)]
    pairs += [(vlm.encoder.norm_post.weight, inner.vision_tower.post_layernorm)]  # type: ignore[union-attr]
    for mine, other in pairs:
        assert other.weight.grad is not None and bool(other.weight.grad.any())
        torch.testing.assert_close(mine.grad, other.weight.grad, rtol=2e-3, atol=2e-4)


def test_a_batch_with_a_sample_without_pictures(peer: Peer, folder: Path):
    vlm = load_vlm(ModelConfig(str(peer.folder)), 0)
    training = LanguageTraining(vlm, "projector").train()
    with torch.no_grad():
        whole, apart = (
            [training(batch_of(vlm, folder, ids)).total for ids in groups] for groups in ([(2, 0)], [(2,), (0,)])
        )
    torch.testing.assert_close(sum(whole), sum(apart), rtol=1e-5, atol=1e-4)


def test_a_caption_has_an_empty_question_and_turns_are_refused(peer: Peer):
    words = peer.vlm.tokenizer
    said = Sample("0", "a.json:1", (Turn("user", ("Tell.",)), Turn("assistant", ("A cat.",))))
    made = tokenize(said, [], Tokenizing.of(peer.vlm, style="plain"))
    assert (
        words.decode(made.ids) == "<bos>\nA cat.<eos>" and words.decode(made.ids[made.labels != -100]) == "A cat.<eos>"
    )
    more = (Turn("user", ("And?",)), Turn("assistant", ("No.",)))
    with pytest.raises(InputError, match="no turns"):
        tokenize(Sample("0", "a.json:1", (*said.turns, *more)), [], Tokenizing.of(peer.vlm))


def test_answers_need_an_end(peer: Peer):
    with pytest.raises(ConfigError, match="eos_token"):
        Tokenizing(bpe(("<image>",), bos="<bos>"), peer.vlm.scheme)
