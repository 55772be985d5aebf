"""Spatial-MLLM: a folder in upstream's layout becomes a model whose VGGT sees the frames inside the pack, and back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tests.language.vlm.spatial_folder import NETWORK_CONFIG, network, write_spatial_folder
from tests.train.data_sets import lines, llava, picture

from tubelet import Clip, Item, Packed, pack, patchify
from tubelet.errors import ConfigError, KeyMismatch, ShapeError
from tubelet.geometry.branch import CONNECTOR, SpatialBranch, frames_of, picture_scenes
from tubelet.geometry.fuse import Connector
from tubelet.geometry.vggt import VGGT, untrained_vggt, vggt_config
from tubelet.geometry.vggt_keys import aggregator_config, to_theirs
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.read_folder import load_model_parts
from tubelet.pixels.recipe import PixelRecipe
from tubelet.train.collate import Collator
from tubelet.train.data.open import open_dataset
from tubelet.train.data.spare import Spares
from tubelet.train.language import LanguageTraining
from tubelet.train.parts import parts_of, set_modes, set_trainable
from tubelet.train.tokenize import Tokenizing

HEAD_NORM = "aggregator.frame_blocks.0.attn.q_norm.weight"


def clip(frames: int, height: int = 56, width: int = 84, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Clip(pixels, tuple(i / 2 for i in range(frames)), "clip", is_video=frames > 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spatial_folder(tmp_path_factory.mktemp("spatial"))


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VLM:
    return VLM.from_pretrained(folder)


def patches(vlm: VLM, *clips: Clip) -> Packed:
    return patchify(clips, replace(vlm.scheme.pixels, min_pixels=None, max_pixels=1 << 20))


def test_its_parts_are_those_of_the_file(vlm: VLM, folder: Path):
    assert vlm.spatial is not None and vlm.scheme.rule.time == "rows" and not vlm.untrained
    assert vlm.spatial.vggt.config == NETWORK_CONFIG
    want = network().state_dict()
    assert all(torch.equal(x, want[name]) for name, x in vlm.spatial.vggt.state_dict().items())
    p = patches(vlm, clip(4), clip(1))
    with torch.no_grad():
        rows = vlm.encode(p).tokens
        apart = vlm.encoder(p).x + vlm.spatial(p).x
    assert torch.equal(rows.x, apart) and rows.lengths == (12, 6)
    assert (vlm.spatial(p).x.abs().mean() > 0.01).item()


def test_it_comes_back_from_a_folder_of_ours_and_is_the_same(vlm: VLM, folder: Path, tmp_path: Path):
    vlm.save_pretrained(tmp_path / "out")
    again = VLM.from_pretrained(tmp_path / "out")
    mine, theirs = vlm.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(x, theirs[name]) for name, x in mine.items())
    assert again.scheme == vlm.scheme
    p = patches(vlm, clip(2))
    with torch.no_grad():
        assert torch.equal(again.encode(p).tokens.x, vlm.encode(p).tokens.x)


def test_frames_are_those_of_the_clip():
    recipe = PixelRecipe(14, temporal=2, merge=2, order="block", min_pixels=None, max_pixels=1 << 20)
    clips = [clip(4), clip(3, 28, 28, seed=1), clip(1, 84, 56, seed=2)]
    target = PixelRecipe(14, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    p = patchify(clips, recipe)
    got = frames_of(p, recipe, target)
    full = [clips[0].frames, clips[1].frames[[0, 1, 2, 2]], clips[2].frames[[0, 0]]]
    assert [i.grid.t for i in got.items] == [4, 4, 2] and got.dtype == torch.uint8
    for rows, frames in zip(got.unpack(), full, strict=True):
        n, height, width, _ = frames.shape
        cut = frames.reshape(n, height // 14, 14, width // 14, 14, 3).transpose(0, 1, 3, 5, 2, 4)
        assert torch.equal(rows, torch.from_numpy(cut.reshape(len(rows), -1)))
    mean, std = (torch.tensor(v).repeat_interleave(2 * 196) for v in (recipe.mean, recipe.std))
    mean_, std_ = (torch.tensor(v).repeat_interleave(196) for v in (target.mean, target.std))
    floats = p.with_x((p.x / 255 - mean) / std)
    torch.testing.assert_close(frames_of(floats, recipe, target).x, (got.x / 255 - mean_) / std_, atol=1e-5, rtol=1e-5)


def test_views_of_one_place_see_each_other_and_no_other_prompt(vlm: VLM):
    p = patches(vlm, clip(1, seed=1), clip(1, seed=2), clip(2, seed=3))
    with torch.no_grad():
        alone, together = vlm.encode(p).tokens, vlm.encode(p, scenes=(2, 1)).tokens
    assert torch.equal(alone.unpack()[2], together.unpack()[2])
    assert not torch.allclose(alone.unpack()[1], together.unpack()[1], atol=1e-4)
    assert picture_scenes(p, [True, True, False]) == (2, 1)
    several = patches(vlm, clip(1), clip(1, 28, 28), clip(1, 28, 28), clip(2, 28, 28), clip(2, 28, 28))
    assert picture_scenes(several, [True, True, True, False, False]) == (1, 2, 1, 1)
    question = ask(vlm, [clip(1, seed=1), clip(1, seed=2), clip(2, seed=3)], "Where?")
    assert question.ready.inputs_embeds.shape[0] == 1
    with torch.no_grad():
        want = vlm.encode(question.patches, scenes=(2, 1)).tokens.x
    assert torch.equal(question.rows.tokens.x, want)


def test_a_clip_is_encoded_once_for_many_questions(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    seen = []
    assert vlm.spatial is not None
    run = SpatialBranch.forward
    monkeypatch.setattr(SpatialBranch, "forward", lambda self, p, **k: (seen.append(len(p)), run(self, p, **k))[1])
    p = patches(vlm, clip(4, seed=9))
    vlm.cache.clear()
    with torch.no_grad():
        first = vlm.encode(p).tokens.x
        assert torch.equal(vlm.encode(p).tokens.x, first) and seen == [1]
        vlm.spatial.connector.fc2.bias.data += 1
        assert torch.allclose(vlm.encode(p).tokens.x, first + 1, atol=1e-5) and seen == [1, 1]
        vlm.spatial.connector.fc2.bias.data -= 1


def test_its_parts_learn_by_name(folder: Path):
    """As upstream trains it: connector, merger and language model; VGGT stands in eval mode and learns nothing."""
    vlm = VLM.from_pretrained(folder)
    found = parts_of(vlm)
    assert not found[""] and len(found["connector"]) == 5 and found["geometry"]
    told = set_trainable(vlm, ["connector", "language_model"])
    assert [one.part for one in told] == ["connector", "language_model"]
    set_modes(vlm, ["connector", "language_model"])
    assert vlm.spatial is not None and not vlm.spatial.vggt.training and vlm.spatial.connector.training
    p = patches(vlm, clip(2))
    rows = vlm.encode(p)
    ids = torch.tensor([[5, 148, *[151] * rows.tokens.lengths[0], 149, 7, 9]])
    vlm(vlm.ready(rows, ids)).square().mean().backward()
    learn = [name for name, w in vlm.named_parameters() if w.grad is not None]
    assert any(n.startswith("spatial.connector.") for n in learn) and not any("vggt" in n for n in learn)


def test_stills_of_one_training_sample_are_views_of_one_place(folder: Path, tmp_path: Path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", 84, 56, i)
    records = [llava(0, ["0.png", "1.png"], "Is <image> like <image>?", "No."), llava(1, "2.png", "<image>\nA?", "B.")]
    data, vlm = open_dataset(lines(tmp_path / "a.jsonl", records)), VLM.from_pretrained(folder)
    collator = Collator(data, Tokenizing.of(vlm), Spares(len(data), 0))
    batch = collator((0, 1))
    assert batch.scenes == (2, 1)
    model = LanguageTraining(vlm, "connector").train()
    found = model(batch)
    found.total.backward()
    each = []
    for n in (0, 1):
        one = collator((n,))
        logits = vlm(vlm.ready(vlm.encode(one.pixels, scenes=one.scenes), one.input_ids))[0]
        each.append(F.cross_entropy(logits[:-1], one.labels[1:], reduction="sum", ignore_index=-100).detach())
    torch.testing.assert_close(found.total.detach(), sum(each, torch.zeros(())), rtol=1e-4, atol=1e-4)
    assert vlm.spatial is not None and all(w.grad is not None for w in vlm.spatial.connector.parameters())


def test_what_does_not_fit_is_said(vlm: VLM, folder: Path, tmp_path: Path):
    recipe = vlm.encoder.pixels
    assert vlm.spatial is not None
    with pytest.raises(ConfigError, match="no geometry"):
        VLM(vlm.encoder, vlm.speaker, vlm.scheme).encode(patches(vlm, clip(1)), scenes=(1,))
    with torch.no_grad():  # also where features would be kept
        with pytest.raises(ConfigError, match="no geometry"):
            VLM(vlm.encoder, vlm.speaker, vlm.scheme).encode(patches(vlm, clip(1)), scenes=(1,))
        for scenes in ((), (1,), (1, 1, 1), (0, 2), (3, -1)):
            with pytest.raises(ShapeError, match="for 2"):
                vlm.encode(patches(vlm, clip(1), clip(2)), scenes=scenes)
    with pytest.raises(ConfigError, match="64 channels behind features of 128"):
        SpatialBranch(untrained_vggt(vggt_config(layers=1, width=64, heads=2)), Connector(64, 64), recipe)
    with pytest.raises(ConfigError, match="no level 2"):
        SpatialBranch(vlm.spatial.vggt, vlm.spatial.connector, recipe, level=2)
    narrow = SpatialBranch(vlm.spatial.vggt, Connector(64, 32), recipe)
    with pytest.raises(ConfigError, match="rows of 32 join"):
        VLM(vlm.encoder, vlm.speaker, vlm.scheme, spatial=narrow)
    with pytest.raises(ConfigError, match="hold no frames"):
        frames_of(patches(vlm, clip(1)), PixelRecipe(14), PixelRecipe(14))
    half = patches(vlm, clip(2))
    with pytest.raises(ShapeError, match="whole tubelets"):
        frames_of(half.keep(torch.arange(4), (4,)), recipe, PixelRecipe(14))
    with pytest.raises(ShapeError, match="block order"):
        frames_of(pack([torch.zeros(8, 1176)], [Item.of(1, 2, 4)]), recipe, PixelRecipe(14))
    config = json.loads((folder / "config.json").read_text())
    for change in ({"connector_type": "concat"}, {"spatial_embeds_layer_idx": "last"}):
        (tmp_path / "config.json").write_text(json.dumps(config | {"connector_config": change}))
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
        with pytest.raises(ConfigError, match="mlp_add"):
            load_model_parts(tmp_path)


def test_sizes_come_from_shapes():
    for config in (NETWORK_CONFIG, vggt_config(layers=3, width=64, heads=4, patch_layers=2, table=5)):
        with torch.device("meta"):
            shapes = {name: tuple(x.shape) for name, x in to_theirs(VGGT(config).state_dict(), config).items()}
        assert aggregator_config(shapes) == config
    table = "aggregator.patch_embed.pos_embed"
    for name, shape in (
        (table, ()),
        (table, (5,)),
        (table, (1, 0, 64)),
        (table, (1, 7, 64)),
        (HEAD_NORM, (0,)),
        (HEAD_NORM, (5,)),
    ):
        with pytest.raises(KeyMismatch):
            aggregator_config(shapes | {name: shape})
    for shape in ((1, 2, 1, 0), ()):
        with pytest.raises(KeyMismatch):
            aggregator_config(shapes | {"aggregator.camera_token": shape})
    shapes.pop("aggregator.camera_token")
    with pytest.raises(KeyMismatch, match="not those of VGGT"):
        aggregator_config(shapes)


@pytest.mark.parametrize("change", ["no section", "scalar norm", "flat matrix", "no connector"])
def test_a_stranger_s_folder_is_whole_or_refused(change: str, folder: Path, tmp_path: Path):
    """Without spatial_config it is still Spatial-MLLM, with its sizes in the tensors: never Qwen2.5-VL alone."""
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    if change == "no section":
        del config["spatial_config"], config["connector_config"]
    elif change == "scalar norm":
        tensors[f"{CONNECTOR}ln_q.weight"] = torch.tensor(1.0)
    elif change == "flat matrix":
        tensors[f"{CONNECTOR}mlp.2.weight"] = torch.ones(8)
    else:
        tensors = {name: x for name, x in tensors.items() if not name.startswith(CONNECTOR)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    if change == "no section":
        assert load_model_parts(tmp_path).spatial is not None
    else:
        with pytest.raises(KeyMismatch):
            load_model_parts(tmp_path)
