"""Hostile and broken checkpoints of several families, from seeds: typed errors, full lists, no code, no path left."""

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.weights.whole_models import config_of, small, tensors_of
from torch import Tensor

from tubelet.errors import ConfigError, KeyMismatch, NotFinite, UnsafeFile, UnsafePath, WeightsError
from tubelet.families.catalogue import families
from tubelet.families.family import Family
from tubelet.families.fields import CODE_FIELDS
from tubelet.weights.load import load_encoder
from tubelet.weights.locate import CONFIG, INDEX, SINGLE

CHOSEN = ("onevision", "clip", "siglip", "dinov2", "qwen2_vl")
FAMILIES = [f for f in families() if f.name in CHOSEN]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
SEEDS = range(6)
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
_events: list[str] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _events is None:
        return
    if event.startswith(_FORBIDDEN) or (event == "open" and "attacked" in str(args[0]) and _writes(args)):
        _events.append(event)
    if event == "open" and str(args[0]) in ("/etc/passwd", "/etc/hostname"):
        _events.append(f"open {args[0]}")


def _writes(args: tuple[Any, ...]) -> bool:
    return isinstance(args[1], str) and any(c in args[1] for c in "wax+")


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    """No attack starts a program, opens a socket, or reads outside; audited by the interpreter itself."""
    global _events
    yield
    seen, _events = _events, None
    assert not seen, seen


def attack(folder: Path, error: type[Exception] | tuple[type[Exception], ...], **options: Any) -> Any:
    """Load under watch; the error that must come."""
    global _events
    _events = []
    before = {p: p.stat().st_mtime_ns for p in folder.parent.rglob("*")}
    with pytest.raises(error) as caught:
        load_encoder(folder, **options)
    assert {p: p.stat().st_mtime_ns for p in folder.parent.rglob("*")} == before, "something was written"
    return caught.value


def write(folder: Path, tensors: dict[str, Tensor], config: Any) -> Path:
    folder.mkdir(parents=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, str(folder / SINGLE))
    (folder / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return folder


def model(family: Family) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return tensors_of(family, small(family))[1], config_of(family, small(family))


def test_the_watch_sees_programs_and_files():
    global _events
    _events = []
    os.system("true")
    with pytest.raises(OSError, match="attacked"):
        open("/nowhere/attacked", "w")  # noqa: PTH123, SIM115
    seen, _events = _events, None
    assert "os.system" in seen
    assert "open" in seen


# ---- D1: names and shapes


@every_family
@pytest.mark.parametrize("seed", SEEDS)
def test_missing_unexpected_and_misshaped_are_all_listed(family: Family, seed: int, tmp_path: Path):
    tensors, config = model(family)
    rng = random.Random(seed)
    names = sorted(tensors)
    lost, bent, typed = (names.pop(rng.randrange(len(names))) for _ in range(3))
    renamed = f"{names[0]}.renamed{seed}"
    tensors[renamed] = tensors.pop(lost)
    tensors[bent] = torch.zeros(*tensors[bent].shape, 2)
    tensors[typed] = tensors[typed].int()
    e = attack(write(tmp_path / "attacked", tensors, config), KeyMismatch)
    assert e.missing == (lost,)
    assert e.unexpected == (renamed,)
    assert {name for name, *_ in e.misshaped} == {bent, typed}
    assert f"read as {family.name}" in str(e)


@every_family
def test_a_tensor_twice_under_wrappers(family: Family, tmp_path: Path):
    tensors, config = model(family)
    name = sorted(tensors)[0]
    e = attack(write(tmp_path / "attacked", {**tensors, f"module.{name}": tensors[name]}, config), KeyMismatch)
    assert set(e.unexpected) == {name, f"module.{name}"}


# ---- D2: pickles


@every_family
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "w.pkl"])
def test_pickles_are_refused_by_name(family: Family, name: str, tmp_path: Path):
    canary = tmp_path / "canary"
    folder = tmp_path / "attacked"
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(model(family)[1]), encoding="utf-8")
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    for source in (folder, folder / name):
        attack(source, UnsafeFile)
    assert not canary.exists()


# ---- D3: files that lie


@every_family
@pytest.mark.parametrize("seed", SEEDS)
def test_cut_and_flipped_files(family: Family, seed: int, tmp_path: Path):
    tensors, config = model(family)
    folder = write(tmp_path / "attacked", tensors, config)
    whole = (folder / SINGLE).read_bytes()
    rng = random.Random(seed)
    length = int.from_bytes(whole[:8], "little")
    cut = rng.choice([rng.randrange(16), rng.randrange(length), rng.randrange(len(whole))])
    (folder / SINGLE).write_bytes(whole[:cut])
    attack(folder, UnsafeFile)
    wrong = bytearray(whole)
    wrong[rng.randrange(4, 8)] = rng.randrange(1, 256)
    (folder / SINGLE).write_bytes(bytes(wrong))
    attack(folder, UnsafeFile)


@every_family
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite(family: Family, value: float, tmp_path: Path):
    tensors, config = model(family)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = value
    assert attack(write(tmp_path / "attacked", tensors, config), NotFinite).got == name


# ---- D4: paths


@every_family
@pytest.mark.parametrize("shard", ["../../etc/passwd", "/etc/passwd", "a/../../b.safetensors", "..", "~/x.safetensors"])
def test_an_index_leads_nowhere(family: Family, shard: str, tmp_path: Path):
    tensors, config = model(family)
    folder = write(tmp_path / "attacked", tensors, config)
    (folder / SINGLE).unlink()
    index = {"weight_map": {**dict.fromkeys(tensors, "a.safetensors"), "lm_head.weight": shard}}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    attack(folder, UnsafePath)


@every_family
def test_links_out_and_shards_without_end(family: Family, tmp_path: Path):
    tensors, config = model(family)
    folder = write(tmp_path / "attacked", tensors, config)
    (folder / SINGLE).rename(tmp_path / "outside.safetensors")
    (folder / "a.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "a.safetensors")}), encoding="utf-8")
    attack(folder, UnsafePath)
    many = {f"t{i}": f"s{i}.safetensors" for i in range(5000)}
    (folder / INDEX).write_text(json.dumps({"weight_map": many}), encoding="utf-8")
    attack(folder, UnsafeFile)


# ---- D5: configurations


@every_family
@pytest.mark.parametrize("name", sorted(CODE_FIELDS))
def test_no_configuration_names_code(family: Family, name: str, tmp_path: Path):
    tensors, config = model(family)
    value = {"AutoModel": "evil.Model"}
    places = {
        "own": {**config, name: value},
        "deep": {**config, "id2label": [{"0": {name: value}}]},
        "whole": {"model_type": "vlm", "vision_config": {**config, name: value}},
        "beside": {"model_type": "vlm", "vision_config": config, "text_config": {"x": {name: True}}},
    }
    for place, said in places.items():
        e = attack(write(tmp_path / place / "attacked", tensors, said), ConfigError)
        assert f"{name} can name code" in str(e)


@every_family
def test_broken_configurations(family: Family, tmp_path: Path):
    tensors, config = model(family)
    folder = write(tmp_path / "attacked", tensors, config)
    text = json.dumps(config)
    numbers = [k for k, v in config.items() if isinstance(v, int) and not isinstance(v, bool)]
    wrong: list[str] = [json.dumps({**config, k: v}) for k in numbers for v in (-1, "7", 1.5, True, 10**30, {}, [[]])]
    wrong += [json.dumps({**config, "surprise": 1}), json.dumps([config]), text[:-1], "", "\0"]
    wrong += [text[:-1] + ', "x": 1e999}', text[:-1] + ', "x": NaN}', text[:-1] + ', "model_type": "clip"}']
    wrong += ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000]
    for said in wrong:
        (folder / CONFIG).write_text(said, encoding="utf-8")
        attack(folder, (ConfigError, WeightsError))


# ---- D6: the wrong checkpoint


@every_family
def test_the_weights_of_another_network(family: Family, tmp_path: Path):
    tensors, config = model(family)
    deeper = {k.replace(".0.", ".1."): v for k, v in tensors.items() if ".0." in k and "mlp.0" not in k}
    e = attack(write(tmp_path / "a" / "attacked", {**tensors, **deeper}, config), KeyMismatch)
    assert e.unexpected
    other = next(f for f in FAMILIES if f is not family)
    foreign = tensors_of(other, small(other))[0]
    assert foreign.config != small(family)
    attack(write(tmp_path / "b" / "attacked", tensors_of(other, small(other))[1], config), (ConfigError, KeyMismatch))
