"""Where weights are found, and the paths that must not be followed."""

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from tubelet.errors import ConfigError, UnsafeFile, UnsafePath, WeightsError
from tubelet.weights.load import load_encoder, report_of
from tubelet.weights.locate import CONFIG, INDEX, SINGLE, find_checkpoint
from tubelet.weights.tensors import read_state


def shard(folder: Path, parts: int = 3) -> dict[str, str]:
    """Split model.safetensors into shards with an index; returns the weight map."""
    state = load_file(str(folder / SINGLE))
    (folder / SINGLE).unlink()
    weight_map = {key: f"model-{i % parts + 1:05d}-of-{parts:05d}.safetensors" for i, key in enumerate(state)}
    for name in set(weight_map.values()):
        save_file({k: v for k, v in state.items() if weight_map[k] == name}, str(folder / name))
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}), encoding="utf-8")


def test_a_folder_a_file_and_shards_are_the_same(packing: Path):
    first = load_encoder(packing).state_dict()
    by_file = load_encoder(packing / SINGLE).state_dict()
    shard(packing)
    sharded = load_encoder(packing)
    by_index = load_encoder(packing / INDEX).state_dict()
    for other in (by_file, sharded.state_dict(), by_index):
        assert all(torch.equal(other[k], v) for k, v in first.items())
    report = report_of(sharded)
    assert report is not None
    assert report.tensors == len(first)
    assert report.bytes == sum(v.numel() * 4 for v in first.values())


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "../model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:\\model.safetensors",
        "",
        ".",
        "..",
        "a\0.safetensors",
        "~/model.safetensors",
        "http://host/model.safetensors",
        ".hidden.safetensors",
    ],
)
def test_shards_are_plain_names(name: str, packing: Path):
    weight_map = shard(packing)
    write_index(packing, {**weight_map, next(iter(weight_map)): name})
    with pytest.raises(UnsafePath):
        load_encoder(packing)


def test_a_shard_that_is_a_link_out_is_refused(packing: Path, tmp_path: Path):
    weight_map = shard(packing)
    outside = tmp_path / "outside.safetensors"
    victim = packing / weight_map[next(iter(weight_map))]
    victim.rename(outside)
    victim.symlink_to(outside)
    with pytest.raises(UnsafePath):
        load_encoder(packing)


@pytest.mark.parametrize("name", [SINGLE, CONFIG])
def test_links_out_of_the_folder_are_refused(name: str, packing: Path, tmp_path: Path):
    (packing / name).rename(tmp_path / name)
    (packing / name).symlink_to(tmp_path / name)
    with pytest.raises(UnsafePath):
        load_encoder(packing)


def test_a_hub_cache_is_made_of_links(packing: Path, tmp_path: Path):
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / "0123"
    blobs = repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in (SINGLE, CONFIG):
        (packing / name).rename(blobs / f"blob-{name}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"blob-{name}")
    assert load_encoder(snapshot).config.layers == 2
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to("/etc/hostname")
    with pytest.raises(UnsafePath):
        load_encoder(snapshot)


def test_missing_and_surplus_shards(packing: Path):
    weight_map = shard(packing)
    names = sorted(set(weight_map.values()))
    (packing / names[0]).rename(packing / "away")
    with pytest.raises(WeightsError, match="missing") as caught:
        load_encoder(packing)
    assert caught.value.source == names[0]
    (packing / "away").rename(packing / names[0])
    key = next(iter(weight_map))
    write_index(packing, {k: v for k, v in weight_map.items() if k != key})
    with pytest.raises(UnsafeFile, match="disagree"):
        load_encoder(packing)
    write_index(packing, {**weight_map, "ghost": names[0]})
    with pytest.raises(UnsafeFile, match="ghost"):
        load_encoder(packing)


def test_an_index_of_a_million_shards(packing: Path):
    (packing / SINGLE).unlink()
    write_index(packing, {f"k{i}": f"model-{i}.safetensors" for i in range(100_000)})
    with pytest.raises(UnsafeFile, match="shards"):
        load_encoder(packing)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "{", "\x00"])
def test_indices_that_are_none(content: str, packing: Path):
    (packing / SINGLE).unlink()
    (packing / INDEX).write_text(content, encoding="utf-8")
    with pytest.raises(UnsafeFile):
        load_encoder(packing)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".PT", ".pkl"])
def test_pickles_are_refused_and_never_opened(suffix: str, tmp_path: Path):
    path = tmp_path / f"pytorch_model{suffix}"
    os.mkfifo(path)  # opening it for reading would wait for ever
    for source in (path, tmp_path):
        with pytest.raises(UnsafeFile, match="tubelet convert --unsafe-pickle"):
            load_encoder(source)


def test_a_pickle_shard_is_refused(packing: Path):
    weight_map = shard(packing)
    write_index(packing, {**weight_map, next(iter(weight_map)): "pytorch_model.bin"})
    with pytest.raises(UnsafeFile, match="unsafe-pickle"):
        load_encoder(packing)


def test_what_is_not_there(tmp_path: Path):
    with pytest.raises(WeightsError, match="hub id"):
        load_encoder(tmp_path / "nothing")
    with pytest.raises(WeightsError, match=SINGLE):
        load_encoder(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsafeFile, match="safetensors"):
        load_encoder(tmp_path / "model.gguf")
    for source in ("http://host/model", "../../x/y", "a/b/c", "-x/y", "owner/..", ""):
        with pytest.raises(WeightsError):
            find_checkpoint(source)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000 + "]" * 10_000,
        '{"model_type": "llava_vit_packing", "layer_norm_eps": 1e999}',
        '{"model_type": "llava_vit_packing", "layer_norm_eps": NaN}',
        '{"hidden_size": 64, "hidden_size": 32}',
        '{"hidden_size": ' + "9" * 6000 + "}",
        "[]",
        "null",
        "",
        "\ufeff{}",
        '{"model_type": "llava_vit_packing", "auto_map": {"AutoModel": "evil.Model"}}',
        '{"model_type": "llava_vit_packing", "trust_remote_code": true}',
    ],
    ids=lambda t: t[:50],
)
def test_hostile_configurations(text: str, packing: Path):
    (packing / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_encoder(packing)


def test_a_configuration_file_can_be_passed_by(packing: Path):
    config = load_encoder(packing).config
    (packing / CONFIG).write_text('{"auto_map": {}}', encoding="utf-8")
    assert load_encoder(packing, config=config).config == config


def test_read_state_gives_the_files_own_names(packing: Path):
    state = read_state(packing)
    assert torch.equal(state["layernorm_pre.weight"], load_encoder(packing).state_dict()["norm_pre.weight"])


# ---- the hub, at its border: nothing is fetched in tests


def test_a_hub_id_fetches_only_what_is_read(packing: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(packing)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    encoder = load_encoder("owner/name", revision="abc")
    assert (asked["repo"], asked["revision"]) == ("owner/name", "abc")
    assert set(asked) == {"repo", "revision", "allow_patterns"}
    assert all(p.endswith((".safetensors", ".json")) for p in asked["allow_patterns"])
    report = report_of(encoder)
    assert report is not None
    assert report.source == "owner/name"


def test_a_hub_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def snapshot_download(repo: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("offline at 10.0.0.1")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(WeightsError) as caught:
        load_encoder("owner/name")
    assert "10.0.0.1" not in str(caught.value)
    assert isinstance(caught.value.__cause__, LocalEntryNotFoundError)
