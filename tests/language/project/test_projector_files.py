"""Weights of projectors in files: round trips, LLaVA's names, and everything that must be refused."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tubelet.errors import (
    ConfigError,
    KeyMismatch,
    NotFinite,
    RunError,
    TubeletError,
    UnsafeFile,
    UnsafePath,
    WeightsError,
)
from tubelet.language.project.files import FILE, convert_projector, load_projector, save_projector
from tubelet.language.project.projector import Projector, build_projector
from tubelet.weights.locate import CONFIG, INDEX

KINDS = [
    "linear",
    "mlp1x_gelu",
    "mlp2x_gelu",
    "mlp2x_res2x_gelu",
    "pooler",
    "spatial_merge",
    "patch_merger",
    "soft_tokens",
    "pixel_shuffle",
    "merge_linear",
]
BY_KEYS = [k for k in KINDS if k not in ("spatial_merge", "patch_merger", "merge_linear")]
posix = pytest.mark.skipif(sys.platform == "win32", reason="the door for pickles exists on POSIX only")


def made(kind: str, seed: int = 0, **options: Any) -> Projector:
    projector = build_projector(kind, 6, 10, **options)
    generator = torch.Generator().manual_seed(seed)
    for weight in projector.parameters():
        weight.data = torch.randn(weight.shape, generator=generator)
    return projector


def same(a: Projector, b: Projector) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)


def write(path: Path, state: dict[str, Tensor], prefix: str = "model.mm_projector.") -> Path:
    save_file({prefix + k: v.contiguous() for k, v in state.items()}, str(path))
    return path


# ---- in and out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_undoes_saving(kind: str, dtype: torch.dtype, tmp_path: Path):
    projector = made(kind).to(dtype)
    path = save_projector(projector, tmp_path)
    assert path == tmp_path / FILE
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert all(key.startswith("model.mm_projector.") for key in load_file(str(path)))
    for source in (path, tmp_path):
        loaded = load_projector(source)
        assert same(loaded, projector)
        assert loaded.config == projector.config
    assert (
        load_projector(path, dtype=torch.float64).state_dict()[next(iter(projector.state_dict()))].dtype
        == torch.float64
    )


def test_options_are_saved_and_can_be_given_anew(tmp_path: Path):
    projector = made("spatial_merge", merge=3, odd="pad_edge", eps=1e-5)
    path = save_projector(projector, tmp_path / "p.safetensors")
    assert load_projector(path).config == projector.config
    again = load_projector(path, odd="crop", eps=1e-6, compat="infer_hw").config
    assert (again.odd, again.eps, again.compat, again.merge) == ("crop", 1e-6, "infer_hw", 3)
    other = load_projector(path, kind="patch_merger").config
    assert (other.kind, other.odd, other.eps, other.merge) == ("patch_merger", "error", 1e-6, 3)


@pytest.mark.parametrize("kind", BY_KEYS)
@pytest.mark.parametrize(
    "prefix",
    ["", "mm_projector.", "model.mm_projector.", "module.model.mm_projector.", "base_model.model.mm_projector."],
)
def test_the_kind_is_found_from_the_keys_whatever_wraps_them(kind: str, prefix: str, tmp_path: Path):
    projector = made(kind)
    loaded = load_projector(write(tmp_path / "x.safetensors", projector.state_dict(), prefix))
    assert loaded.config.kind == kind
    assert same(loaded, projector)


def test_two_kinds_with_the_same_keys_must_be_told_apart(tmp_path: Path):
    path = write(tmp_path / "x.safetensors", made("spatial_merge", merge=3).state_dict())
    with pytest.raises(ConfigError, match="patch_merger"):
        load_projector(path)
    loaded = load_projector(path, kind="spatial_merge")
    assert (loaded.config.kind, loaded.config.merge, loaded.config.in_dim, loaded.config.out_dim) == (
        "spatial_merge", 3, 6, 10,
    )  # fmt: skip
    (tmp_path / CONFIG).write_text(json.dumps({"mm_projector_type": "patch_merger", "mm_hidden_size": 6}))
    assert load_projector(path).config.kind == "patch_merger"
    assert load_projector(path, kind="spatial_merge").config.kind == "spatial_merge"


def test_a_whole_checkpoint_in_shards(tmp_path: Path):
    projector = made("mlp2x_gelu")
    items = [(f"model.mm_projector.{k}", v) for k, v in projector.state_dict().items()]
    shards = [dict(items[:1]), {**dict(items[1:]), "model.image_newline": torch.ones(4)}]
    shards[0]["model.layers.0.weight"] = torch.zeros(2, 2, dtype=torch.int32)
    index = {}
    for i, shard in enumerate(shards):
        name = f"model-{i}.safetensors"
        save_file(shard, str(tmp_path / name))
        index |= dict.fromkeys(shard, name)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index}))
    (tmp_path / CONFIG).write_text(json.dumps({"mm_projector_type": "mlp2x_gelu", "hidden_size": 4096}))
    assert same(load_projector(tmp_path), projector)
    report = convert_projector(tmp_path, tmp_path / "out")
    assert report.ignored == ("model.image_newline", "model.layers.0.weight")
    assert (report.kind, report.tensors, report.bytes, report.bit_equal) == ("mlp2x_gelu", 4, 4 * (60 + 100 + 20), True)
    assert same(load_projector(tmp_path / "out"), projector)
    save_projector(made("linear", seed=1), tmp_path)  # the projector's own file comes before the checkpoint
    (tmp_path / CONFIG).unlink()
    assert load_projector(tmp_path).config.kind == "linear"


# ---- what does not fit


def test_all_names_that_do_not_fit_are_told(tmp_path: Path):
    state = made("mlp2x_gelu").state_dict()
    state["2.weight"] = torch.zeros(10, 11)
    state["4.weight"] = state.pop("2.bias")
    with pytest.raises(KeyMismatch) as caught:
        load_projector(write(tmp_path / "x.safetensors", state), kind="mlp2x_gelu")
    assert caught.value.missing == ("2.bias",)
    assert caught.value.unexpected == ("4.weight",)
    assert caught.value.misshaped == (("2.weight", (10, 10), (10, 11)),)


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("linear", "weight"),
        ("mlp2x_gelu", "0.weight"),
        ("pooler", "conv_pool.weight"),
        ("spatial_merge", "ln_q.weight"),
    ],
)
def test_weights_that_were_saved_while_spread_over_processes(kind: str, first: str, tmp_path: Path):
    state = {k: torch.zeros(0) for k in made(kind).state_dict()}
    with pytest.raises(KeyMismatch, match="spread over processes") as caught:
        load_projector(write(tmp_path / "x.safetensors", state), kind=kind)
    assert caught.value.misshaped[0][0] == first
    del state[first]
    with pytest.raises(KeyMismatch) as caught:
        load_projector(write(tmp_path / "x.safetensors", state), kind=kind)
    assert caught.value.missing == (first,)


@pytest.mark.parametrize(
    "state",
    [
        {"gate.weight": torch.zeros(2, 2)},
        {"0.weight": torch.zeros(2, 2), "0.scale": torch.zeros(2)},
        {"bias": torch.zeros(2)},
        {"0.bias": torch.zeros(2)},
        {"3.pre_norm.weight": torch.zeros(2)},
        {"0.weight": torch.zeros(2, 2, 2), "0.bias": torch.zeros(2)},
        {"weight": torch.zeros(2, 2, dtype=torch.int64), "bias": torch.zeros(2)},
    ],
    ids=lambda state: " ".join(state),
)
def test_keys_of_no_projector(state: dict[str, Tensor], tmp_path: Path):
    with pytest.raises(KeyMismatch):
        load_projector(write(tmp_path / "x.safetensors", state))


def test_one_tensor_under_two_names(tmp_path: Path):
    save_file(
        {"mm_projector.weight": torch.zeros(2, 2), "model.mm_projector.weight": torch.ones(2, 2)},
        str(tmp_path / "x.safetensors"),
    )
    with pytest.raises(KeyMismatch, match="same tensor"):
        load_projector(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        "[]",
        "{",
        '{"kind": 3}',
        '{"kind": "linear", "eps": "small"}',
        '{"kind": "linear", "odd": null}',
        '{"code": "x"}',
        '{"kind": "../../x"}',
        '{"kind": "linear", "odd": "crop"}',
        '{"kind": "identity"}',
    ],
)
def test_metadata_that_says_something_else(metadata: str, tmp_path: Path):
    state = {k: v.contiguous() for k, v in made("linear").state_dict().items()}
    save_file(state, str(tmp_path / "x.safetensors"), metadata={"projector": metadata})
    with pytest.raises(ConfigError):
        load_projector(tmp_path / "x.safetensors")


def test_a_configuration_that_names_something_else(tmp_path: Path):
    path = write(tmp_path / "x.safetensors", made("linear").state_dict())
    for said in (3, "perceiver", "identity"):
        (tmp_path / CONFIG).write_text(json.dumps({"mm_projector_type": said}))
        with pytest.raises(ConfigError):
            load_projector(path)
    with pytest.raises(ConfigError):
        load_projector(path, dtype=torch.int8)


def test_not_a_number_is_refused(tmp_path: Path):
    state = made("linear").state_dict()
    state["bias"][3] = float("nan")
    with pytest.raises(NotFinite, match="bias"):
        load_projector(write(tmp_path / "x.safetensors", state))


def test_files_that_are_not_there_or_not_safe(tmp_path: Path):
    with pytest.raises(WeightsError):
        load_projector(tmp_path / "none.safetensors")
    (tmp_path / "mm_projector.bin").write_bytes(b"PK")
    for source in (tmp_path / "mm_projector.bin", tmp_path):
        with pytest.raises(UnsafeFile, match="unsafe-pickle"):
            load_projector(source)
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / FILE).symlink_to(save_projector(made("linear"), tmp_path / "real.safetensors"))
    with pytest.raises(UnsafePath):
        load_projector(tmp_path / "away")


def test_saving_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_projector(made("linear"), tmp_path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tubelet.packed.file.save_file", full)
    with pytest.raises(RunError):
        save_projector(made("linear", seed=1), tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_what_cannot_be_saved(tmp_path: Path):
    with pytest.raises(ConfigError, match="no weights"):
        save_projector(build_projector("identity", 4, 4), tmp_path)
    with pytest.raises(ConfigError, match="safetensors"):
        save_projector(made("linear"), tmp_path / "mm_projector.bin")
    assert not list(tmp_path.iterdir())


# ---- LLaVA's own file


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@posix
@pytest.mark.usefixtures("confined_forks")
def test_the_stage_one_file_comes_in_through_the_door(tmp_path: Path):
    projector = made("spatial_merge").to(torch.float16)
    source = tmp_path / "mm_projector.bin"
    torch.save({f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}, source)
    with pytest.raises(UnsafeFile, match="unsafe-pickle"):
        convert_projector(source, tmp_path / "out")
    with pytest.raises(ConfigError, match="patch_merger"):
        convert_projector(source, tmp_path / "out", unsafe_pickle=True)
    assert not (tmp_path / "out").exists()
    report = convert_projector(source, tmp_path / "out", kind="spatial_merge", unsafe_pickle=True)
    assert (report.source, report.kind, report.bit_equal, report.ignored) == (
        "mm_projector.bin", "spatial_merge", True, (),
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["conversion.json", FILE]
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["source_sha256"] == report.source_sha256
    assert same(load_projector(tmp_path / "out"), projector)
    with pytest.raises(WeightsError, match="exists"):
        convert_projector(source, tmp_path / "out", kind="spatial_merge", unsafe_pickle=True)
    (tmp_path / CONFIG).write_text(json.dumps({"mm_projector_type": "patch_merger"}))
    report = convert_projector(source, tmp_path / "out", unsafe_pickle=True, overwrite=True)
    assert report.kind == "patch_merger"


@posix
@pytest.mark.usefixtures("confined_forks")
def test_a_stage_one_file_that_is_a_program_does_not_run(tmp_path: Path):
    canary = tmp_path / "canary"
    torch.save({**made("linear").state_dict(), "extra": Payload(canary)}, tmp_path / "mm_projector.bin")
    with pytest.raises(TubeletError):
        convert_projector(tmp_path / "mm_projector.bin", tmp_path / "out", unsafe_pickle=True)
    assert not canary.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["mm_projector.bin"]
