"""The vision part straight out of whole vision-language models, of every family; nothing else is read."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from tests.weights.hub import COMMIT, FakeHub
from tests.weights.whole_models import LANGUAGE, config_of, small, tensors_of, whole

from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, KeyMismatch, WeightsError
from tubelet.families.catalogue import families
from tubelet.families.family import Family
from tubelet.weights import locate, tensors
from tubelet.weights.convert import convert
from tubelet.weights.load import load_encoder, report_of
from tubelet.weights.locate import CONFIG, INDEX, PROCESSOR, PROCESSORS, SINGLE
from tubelet.weights.save import save_encoder
from tubelet.weights.tensors import read_state

FAMILIES = families()
PREFIXES = ["model.visual.", "visual.", "vision_tower.", "model.vision_tower.", "vision_model.", "model.vision_model."]
CLIP = next(f for f in FAMILIES if f.name == "clip")
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What load_encoder reads: files whose header is looked at, files opened, keys of tensors taken, their bytes."""
    seen: dict[str, list[Any]] = {"headers": [], "files": [], "keys": [], "bytes": []}
    true_header = locate.read_header

    class Spy:
        def __init__(self, path: str, framework: str) -> None:
            seen["files"].append(Path(path).name)
            self.inside = safe_open(path, framework=framework)

        def __enter__(self) -> "Spy":
            self.inside.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.inside.__exit__(*error)

        def get_tensor(self, key: str) -> torch.Tensor:
            tensor = self.inside.get_tensor(key)
            seen["keys"].append(key)
            seen["bytes"].append(tensor.nbytes)
            return tensor

    def read_header(path: Path) -> Any:
        seen["headers"].append(path.name)
        return true_header(path)

    monkeypatch.setattr(tensors, "safe_open", Spy)
    monkeypatch.setattr(locate, "read_header", read_header)
    return seen


def same(a: Encoder, b: Encoder) -> bool:
    """Whether the weights are equal; keys' biases that no file stores are zero in what is loaded."""
    other = b.state_dict()
    return all(torch.equal(t, other[k]) for k, t in a.state_dict().items() if not k.endswith("qkv.bias"))


@every_family
@pytest.mark.parametrize("shards", [1, 4])
def test_only_the_tensors_needed_are_read(family: Family, shards: int, read: dict[str, list[Any]], tmp_path: Path):
    first, theirs = whole(tmp_path, family, "model.visual.", shards)
    again = load_encoder(tmp_path)  # the language model is all NaN: reading it would raise
    assert same(first, again)
    assert sorted(read["keys"]) == sorted(f"model.visual.{k}" for k in theirs)
    assert sum(read["bytes"]) == sum(t.nbytes for t in theirs.values())
    language_shard = f"model-{shards:05d}-of-{shards:05d}.safetensors"
    assert language_shard not in (*read["headers"], *read["files"])
    report = report_of(again)
    assert report is not None
    assert (report.family, report.prefix, report.bytes) == (family.name, "model.visual.", sum(read["bytes"]))
    assert set(report.ignored) == set(LANGUAGE)


@pytest.mark.parametrize("prefix", [*PREFIXES, "vision_tower.vision_model.", "model.vision_tower.vision_model."])
def test_prefixes_of_whole_models(prefix: str, tmp_path: Path):
    first, _ = whole(tmp_path, CLIP, prefix)
    assert same(first, load_encoder(tmp_path))


def test_shards_of_the_language_model_need_not_be_there(tmp_path: Path):
    first, _ = whole(tmp_path, CLIP, "vision_tower.", shards=3)
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    assert same(first, load_encoder(tmp_path))
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match="model-00001"):
        load_encoder(tmp_path)


def test_of_a_hub_only_the_shards_needed_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    origin = tmp_path / "origin"
    first, _ = whole(origin, CLIP, "vision_tower.", shards=3)
    hub = FakeHub(origin, tmp_path / "models--owner--vlm")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert same(first, load_encoder("owner/vlm", revision="main"))
    assert hub.revisions == ["main", COMMIT]  # the same one, wherever the branch is by now
    assert {CONFIG, PROCESSOR, PROCESSORS, INDEX} < hub.asked.keys()
    assert set(hub.asked.values()) == {1}
    assert sorted(p.name for p in hub.snapshot.glob("*.safetensors")) == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
    ]


@every_family
def test_saved_in_the_same_format(family: Family, tmp_path: Path):
    whole(tmp_path / "vlm", family, "visual.")
    encoder = load_encoder(tmp_path / "vlm")
    saved = read_state(save_encoder(encoder, tmp_path / "saved"))
    _, theirs = tensors_of(family, small(family))
    spare = {family.prefixes[0] + name for name in family.unused if name not in theirs}
    assert saved.keys() == {family.prefixes[0] + name for name in theirs} | spare
    assert all(torch.equal(saved[family.prefixes[0] + name], t) for name, t in theirs.items())
    assert not any(bool(saved[name].any()) for name in spare)
    again = load_encoder(tmp_path / "saved")  # the zeros of unused tensors are optional, and let be
    assert all(torch.equal(t, again.state_dict()[k]) for k, t in encoder.state_dict().items())
    assert (tmp_path / "saved" / "preprocessor_config.json").exists() == (family.processor_to is not None)


def test_converting_takes_the_vision_part(tmp_path: Path):
    _, theirs = whole(tmp_path / "vlm", CLIP, "model.vision_tower.", shards=3)
    report = convert(tmp_path / "vlm", tmp_path / "out", "clip")
    assert (report.family, report.bit_equal, report.max_abs_diff) == ("clip", True, 0.0)
    assert read_state(tmp_path / "out").keys() == theirs.keys()
    with pytest.raises(ConfigError, match="formats of clip are clip"):
        convert(tmp_path / "vlm", tmp_path / "x", "packing")


def test_the_wrong_family_is_said(tmp_path: Path):
    siglip = next(f for f in FAMILIES if f.name == "siglip")
    whole(tmp_path, siglip, "vision_tower.")
    said = config_of(CLIP, small(CLIP))
    (tmp_path / CONFIG).write_text(json.dumps({"model_type": "llava", "vision_config": said}), encoding="utf-8")
    with pytest.raises(KeyMismatch, match=r"read as clip under 'vision_tower\.'; the names are rather siglip's"):
        load_encoder(tmp_path)
    odd = {"model_type": "bert", "vision_config": {"model_type": "bert_vision"}}
    (tmp_path / CONFIG).write_text(json.dumps(odd), encoding="utf-8")
    with pytest.raises(ConfigError, match="'bert_vision' in its vision_config"):
        load_encoder(tmp_path)


def test_a_tower_under_an_unknown_prefix_is_said(tmp_path: Path):
    whole(tmp_path, CLIP, "tower.of.strangers.")
    with pytest.raises(ConfigError, match=r"is clip, but no tensor has one of its names: .*tower\.of"):
        load_encoder(tmp_path)
    assert (tmp_path / SINGLE).exists()
