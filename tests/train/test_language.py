"""A vision-language model in training: packed samples are what they are one by one, and what learns moves."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.language.vlm.tiny_peers import gemma3, idefics3, internvl, number_words, paligemma
from tests.language.vlm.tiny_speakers import tokenizer, whole_model
from tests.train.data_sets import lines, llava, picture
from tests.train.tiny_models import write_language_model, write_siglip
from torch import Tensor

from tubelet import VLM, Clip
from tubelet.errors import ConfigError
from tubelet.language.vlm.chat import as_written, ask
from tubelet.language.vlm.packed_lm import packed_states, use_packed_attention
from tubelet.train.collate import Collator, PackedBatch
from tubelet.train.data.open import open_dataset
from tubelet.train.data.sample import Media, Sample, Turn
from tubelet.train.data.spare import Spares
from tubelet.train.language import LANGUAGE_HOMES, LanguageTraining
from tubelet.train.marks import Header
from tubelet.train.open_model import load_vlm
from tubelet.train.parts import parts_of
from tubelet.train.run_config import ModelConfig
from tubelet.train.tokenize import Tokenizing, tokenize

KINDS = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PEERS = (
    "gemma3",
    "internvl",
    "paligemma",
    "smolvlm",
)  # which write pictures out, cut them or let their rows see each other


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    for kind in KINDS[1:]:
        whole_model(kind).save_pretrained(home / kind)
        tokenizer().save_pretrained(home / kind)
    with number_words():
        makers = {"paligemma": partial(paligemma, "paligemma"), "smolvlm": partial(idefics3, "smolvlm")}
        for kind, made in {"gemma3": gemma3, "internvl": internvl, **makers}.items():
            made(home / kind)
    write_language_model(home / "llava")
    write_siglip(home / "siglip")
    return {kind: home / kind for kind in (*KINDS, *PEERS, "siglip")}


def vlm_of(kind: str, folders: dict[str, Path]) -> VLM:
    path = str(folders[kind])
    new = {"vision_tower": str(folders["siglip"]), "projector": "mlp2x_gelu"} if kind == "llava" else {}
    return load_vlm(ModelConfig(path, **new), 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("data")
    picture(folder / "a.png", 70, 40, 1)
    picture(folder / "b.png", 33, 90, 2)
    records = [
        llava(0, "a.png", "<image>\nWhat?", "A cat."),
        llava(1, None, "Hello?", "Hi."),
        llava(2, ["a.png", "b.png"], "Is <image> like <image>?", "No."),
    ]
    return open_dataset(lines(folder / "a.jsonl", records))


def batch_of(vlm: VLM, data: Any, ids: tuple[int, ...]) -> PackedBatch:
    return Collator(data, Tokenizing.of(vlm), Spares(len(data), 0))(ids)


def loss_by_samples(vlm: VLM, data: Any, ids: tuple[int, ...]) -> Tensor:
    """The slow twin: each sample alone through the model's ordinary forward, logits and all."""
    total = torch.zeros(())
    for i in ids:
        one = batch_of(vlm, data, (i,))
        rows = as_written(vlm.encode(one.pixels), vlm.scheme) if len(one.pixels) else None
        logits = vlm(vlm.ready(rows, one.input_ids, labels=one.labels))[0]
        total = total + F.cross_entropy(logits[:-1], one.labels[1:], reduction="sum", ignore_index=-100)
    return total


@pytest.mark.parametrize("kind", (*KINDS, *PEERS))
def test_a_packed_batch_is_its_samples_one_by_one(kind: str, folders: dict[str, Path], data: Any):
    vlm = vlm_of(kind, folders)
    part = "projector" if kind in ("llava", *PEERS) else "encoder"
    learns = "projector" if part == "projector" else "encoder.merger"
    weight = next(p for n, p in vlm.named_parameters() if n.startswith(learns))
    want = loss_by_samples(vlm, data, (0, 1, 2))
    want.backward()
    assert weight.grad is not None
    gradient = weight.grad.clone()
    vlm.zero_grad()
    model = LanguageTraining(vlm, part).train()
    found = model(batch_of(vlm, data, (0, 1, 2)))
    found.total.backward()
    torch.testing.assert_close(found.total.detach(), want.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weight.grad, gradient, rtol=2e-3, atol=1e-4)
    assert float(found.counted) == sum(int((batch_of(vlm, data, (i,)).labels[1:] != -100).sum()) for i in range(3))


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl"])
def test_a_batch_of_text_alone_reaches_all_that_learns(kind: str, folders: dict[str, Path], data: Any):
    vlm = vlm_of(kind, folders)
    want = loss_by_samples(vlm, data, (1,)).detach()
    model = LanguageTraining(vlm, "mm_mlp_adapter" if kind == "llava" else "mm_vision_tower,mm_language_model").train()
    found = model(batch_of(vlm, data, (1,)))
    found.total.backward()
    torch.testing.assert_close(found.total.detach(), want, rtol=1e-5, atol=1e-5)
    learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert learning and not [n for n, p in learning if p.grad is None]
    towers = [p.grad for n, p in learning if "speaker" not in n and p.grad is not None]
    assert not any(bool(g.any()) for g in towers)


def test_a_sample_that_is_not_finite_stays_its_own(folders: dict[str, Path]):
    """Attention never mixes samples, not even NaN."""
    vlm = vlm_of("llava", folders)
    use_packed_attention(vlm.speaker)
    g = torch.Generator().manual_seed(0)
    embeds = torch.randn(12, 48, generator=g)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]]).expand(3, -1)
    with torch.no_grad():
        clean = packed_states(vlm.speaker, embeds, positions, (5, 3, 4))
        embeds[6] = torch.nan
        dirty = packed_states(vlm.speaker, embeds, positions, (5, 3, 4))
    assert torch.equal(dirty[:5], clean[:5]) and torch.equal(dirty[8:], clean[8:])
    assert bool(dirty[6:8].isnan().any())
    vlm.speaker.lm.set_attn_implementation("sdpa")  # as another model of the same configuration would do it
    with pytest.raises(ConfigError, match="samples would see each other"):
        packed_states(vlm.speaker, embeds, positions, (5, 3, 4))


def test_what_learns_is_float32_and_a_frozen_tower_stands_still(folders: dict[str, Path], data: Any):
    model = ModelConfig(str(folders["llava"]), str(folders["siglip"]), "mlp2x_gelu", dtype="bfloat16")
    vlm = load_vlm(model, 0)
    training = LanguageTraining(vlm, "mm_mlp_adapter").train()
    types = {name: {w.dtype for _, w in found} for name, found in parts_of(training, LANGUAGE_HOMES).items() if found}
    assert types == {
        "projector": {torch.float32}, "encoder": {torch.bfloat16}, "language_model": {torch.bfloat16}
    }  # fmt: skip
    assert not vlm.encoder.training and vlm.projector is not None and vlm.projector.training
    found = training(batch_of(vlm, data, (0, 1)))
    found.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vlm.projector.parameters())


def test_a_tower_whose_head_is_not_used_learns_without_it(folders: dict[str, Path], data: Any):
    """SigLIP's pooling head meets no row here: it is no part of what learns, and that is said."""
    vlm = vlm_of("llava", folders)
    training = LanguageTraining(vlm, "mm_vision_tower").train()
    training(batch_of(vlm, data, (0,))).total.backward()
    assert not [n for n, p in training.named_parameters() if p.requires_grad and p.grad is None]
    assert not any(p.requires_grad for p in vlm.encoder.pool.parameters())  # type: ignore[union-attr]
    assert training.lines[0].parameters == sum(p.numel() for p in vlm.encoder.parameters() if p.requires_grad)
    assert training.unused and all(name.startswith("vlm.encoder.pool.") for name in training.unused)


def test_a_folder_without_what_it_needs_is_refused(folders: dict[str, Path], tmp_path: Path):
    with pytest.raises(ConfigError, match=r"model\.vision_tower and model\.projector"):
        load_vlm(ModelConfig(str(folders["llava"])), 0)
    said = json.loads((folders["llava"] / "config.json").read_text())
    vlm = vlm_of("llava", folders)
    vlm.speaker.lm.config.logits_scaling = 8.0
    with pytest.raises(ConfigError, match="logits_scaling"):
        LanguageTraining(vlm, "projector")
    assert said["model_type"] == "llama"


@pytest.mark.parametrize("kind", ["spatial_merge", "patch_merger", "pooler", "linear"])
def test_a_new_projector_of_each_kind(kind: str, folders: dict[str, Path], data: Any):
    model = ModelConfig(str(folders["llava"]), str(folders["siglip"]), kind)
    vlm = load_vlm(model, 0)
    batch = batch_of(vlm, data, (0, 2))
    assert batch.rows == ((16, 32) if kind == "linear" else (4, 8))
    LanguageTraining(vlm, "mm_mlp_adapter").train()(batch).total.backward()
    again = load_vlm(replace(model), 0)
    assert vlm.projector is not None and again.projector is not None
    assert all(torch.equal(a, b) for a, b in zip(vlm.projector.parameters(), again.projector.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["internvl", "paligemma", "smolvlm"])
def test_a_clip_is_taught_as_it_is_asked_about(kind: str, folders: dict[str, Path]):
    """The ids of a sample begin with those of the same question, tags and times of frames among them."""
    vlm = vlm_of(kind, folders)
    still = Clip(np.zeros((1, 50, 90, 3), np.uint8), (0.0,))
    clip = Clip(np.zeros((5, 40, 60, 3), np.uint8), (0.0, 0.5, 1.0, 1.5, 62.0), "", is_video=True, duration_s=63.5)
    asked = ask(vlm, [clip, still], "What?").ready.input_ids[0].tolist()
    headers = [Header("video", 60, 40, clip.times_s, 63.5), Header("image", 90, 50, (0.0,))]
    media = tuple(Media(one.kind, "a") for one in headers)
    turns = (Turn("user", (0, 1, "What?")), Turn("assistant", ("A dog.",)))
    taught = tokenize(Sample("0", "a.json:1", turns, media), headers, Tokenizing.of(vlm))
    assert taught.ids.tolist()[: len(asked)] == asked
    assert (taught.labels[: len(asked)] == -100).all() and (taught.labels[len(asked) :] != -100).all()
    assert taught.rows == asked.count(vlm.scheme.token_ids.image)


def test_a_caption_follows_a_picture_that_is_written_out(folders: dict[str, Path]):
    vlm = vlm_of("gemma3", folders)
    one = Sample("0", "a.json:1", (Turn("user", (0,)), Turn("assistant", ("A cat.",))), (Media("image", "a"),))
    taught = tokenize(one, [Header("image", 90, 50, (0.0,))], Tokenizing.of(vlm, style="plain"))
    said = vlm.tokenizer.decode(taught.ids)
    assert said == f"<bos>\n\n<start_of_image>{'<image_soft_token>' * 16}<end_of_image>\n\nA cat.\n"
    assert vlm.tokenizer.decode(taught.ids[taught.labels != -100]) == "A cat.\n"
    with pytest.raises(ConfigError, match="no clips"):
        tokenize(one, [Header("video", 90, 50, (0.0, 1.0))], Tokenizing.of(vlm, style="plain"))
