"""A checkpoint is looked for once, its headers are read once, and a hub is asked once for each file."""

from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.language.vlm.test_folder import clip_tower, hand_made
from tests.language.vlm.test_folder import llava_folder as llava_beside
from tests.language.vlm.test_llava_views import llava_folder, next_model, processor
from tests.language.vlm.tiny_speakers import llama
from tests.weights.hub import COMMIT, FakeHub

from tubelet import load_encoder, load_projector
from tubelet.language.vlm import write_folder
from tubelet.language.vlm.llava_tensors import read_newline
from tubelet.language.vlm.model import VLM
from tubelet.weights import locate
from tubelet.weights.locate import find_folder
from tubelet.weights.tensors import read_state


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file's header was read, and each folder looked into ("in" before its name)."""
    seen: Counter[str] = Counter()
    header, folder = locate.read_header, locate._from_folder

    def read_header(path: Path) -> locate.Header:
        seen[path.name] += 1
        return header(path)

    def from_folder(path: Path, name: str) -> locate.CheckpointFolder:
        seen[f"in {path.name}"] += 1
        return folder(path, name)

    monkeypatch.setattr(locate, "read_header", read_header)
    monkeypatch.setattr(locate, "_from_folder", from_folder)
    return seen


@pytest.mark.parametrize("layout", ["tubelet", "LLaVA", "LlavaNext"])
def test_each_layout_is_found_once(layout: str, tmp_path: Path, found: Counter[str]):
    folder = tmp_path / "m"
    if layout == "tubelet":
        hand_made().save_pretrained(folder)
    elif layout == "LLaVA":
        llava_folder(folder)
    else:
        next_model("clip").save_pretrained(folder)
        processor().save_pretrained(folder)
    found.clear()
    if layout == "LLaVA":
        VLM.from_pretrained(folder, vision_tower=folder / "tower")
        assert found == {"in m": 1, "in tower": 1, "model.safetensors": 2}  # the tower's file has the same name
    else:
        VLM.from_pretrained(folder)
        assert found == {"in m": 1, "model.safetensors": 1}


def test_a_projector_beside_is_a_checkpoint_of_its_own(tmp_path: Path, found: Counter[str]):
    clip_tower(tmp_path / "clip")
    llava_beside(tmp_path / "llava", llama(), "llava_llama")
    found.clear()
    VLM.from_pretrained(tmp_path / "llava", vision_tower=tmp_path / "clip")
    assert found == {"in llava": 1, "in clip": 1, "model.safetensors": 2, "mm_projector.safetensors": 1}


def test_headers_of_shards_are_read_once(tmp_path: Path, found: Counter[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(write_folder, "SHARD_BYTES", 100_000)
    hand_made().save_pretrained(tmp_path / "m")
    found.clear()
    VLM.from_pretrained(tmp_path / "m")
    assert set(found.values()) == {1} and len(found) > 4


def test_every_reader_takes_what_was_found(tmp_path: Path, found: Counter[str]):
    llava_folder(tmp_path / "m")
    place = find_folder(tmp_path / "m")
    found.clear()
    by_path = load_encoder(tmp_path / "m", config=load_encoder(tmp_path / "m" / "tower").config)
    assert sum(found.values()) == 4
    found.clear()
    encoder = load_encoder(place, config=by_path.config)
    projector, newline = load_projector(place), read_newline(place)
    assert torch.equal(newline, read_state(place)["model.image_newline"])
    assert not found
    assert all(torch.equal(t, encoder.state_dict()[name]) for name, t in by_path.state_dict().items())
    assert all(
        torch.equal(t, projector.state_dict()[k]) for k, t in load_projector(tmp_path / "m").state_dict().items()
    )


# ---- a hub


def test_a_hub_is_asked_once_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One file, and shards; also for files that it does not have. The tokenizer's are transformers' to ask for."""
    hand = hand_made()
    hand.tokenizer = None
    hand.save_pretrained(tmp_path / "one")
    monkeypatch.setattr(write_folder, "SHARD_BYTES", 100_000)
    hand.save_pretrained(tmp_path / "many")
    for name in ("one", "many"):
        hub = FakeHub(tmp_path / name, tmp_path / "cache" / f"models--owner--{name}")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
        monkeypatch.setattr("tubelet.language.vlm.extra_files.ExtraFiles.tokenizer", lambda self, config: None)
        vlm = VLM.from_pretrained(f"owner/{name}", revision="main")
        assert all(torch.equal(t, vlm.state_dict()[k]) for k, t in hand.state_dict().items())
        assert set(hub.asked.values()) == {1}
        assert {p.name for p in (tmp_path / name).iterdir()} <= hub.asked.keys()
        assert hub.revisions == ["main", *[COMMIT] * (len(hub.revisions) - 1)]


def test_only_what_is_loaded_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hand_made().save_pretrained(tmp_path / "m")
    hub = FakeHub(tmp_path / "m", tmp_path / "models--owner--m")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    folder = find_folder("owner/m")
    load_encoder(folder)
    load_projector(folder)
    assert set(hub.asked.values()) == {1}
    assert "generation_config.json" not in hub.asked
    assert folder.for_transformers == ("owner/m", COMMIT)
    assert find_folder(tmp_path / "m").for_transformers == (str(tmp_path / "m"), None)


def test_the_two_files_of_a_projector_s_folder_do_not_meet(tmp_path: Path):
    """A file that was named is read, whatever else lies beside it."""
    llava_beside(tmp_path, llama(), "llava_llama")
    tensors = load_file(str(tmp_path / "model.safetensors"))
    inside = {f"model.{k}": v + 1 for k, v in load_projector(tmp_path).state_dict().items()}
    inside = {k.replace("model.", "model.mm_projector.", 1): v for k, v in inside.items()}
    save_file({**tensors, **inside}, str(tmp_path / "model.safetensors"))
    by_folder = load_projector(find_folder(tmp_path)).state_dict()
    by_file = load_projector(find_folder(tmp_path / "model.safetensors")).state_dict()
    assert all(torch.equal(t + 1, by_file[name]) for name, t in by_folder.items())
