"""Pickle files: one door, a confined process behind it, and no second try."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.weights.tiny_models import random_encoder, tiny_config

from tubelet.errors import TubeletError, UnsafeFile, UnsafePath, WeightsError, WorkerDied
from tubelet.families import onevision as ov
from tubelet.families.family import to_theirs
from tubelet.weights import unpickle as door
from tubelet.weights.convert import convert
from tubelet.weights.load import load_encoder
from tubelet.weights.locate import CONFIG as CONFIG_FILE
from tubelet.weights.locate import SINGLE
from tubelet.weights.tensors import read_state
from tubelet.weights.unpickle import unpickle
from tubelet.weights.unpickle_child import tensors_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the door exists on POSIX only")

CONFIG = tiny_config("source")


def upstream_state(seed: int = 0) -> dict[str, torch.Tensor]:
    return {
        k: v.contiguous()
        for k, v in to_theirs(random_encoder(CONFIG, seed).state_dict(), ov.FAMILY.formats["source"], CONFIG).items()
    }


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path, call: str = "system") -> None:
        self.canary, self.call = canary, call

    def __reduce__(self) -> tuple[Any, ...]:
        if self.call == "system":
            return os.system, (f"touch {self.canary}",)
        if self.call == "exec":
            return exec, (f"open({str(self.canary)!r}, 'w').close()",)
        return os.mkdir, (str(self.canary),)


def wrapped(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The same tensors as checkpoints hold them."""
    return {
        "plain": state,
        "state_dict": {"state_dict": state, "optimizer": {"lr": 0.1}},
        "model": {"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        "module": {"module": state},
        "with_epoch": {**state, "epoch": 3},
    }


@pytest.mark.parametrize("wrap", wrapped({}))
def test_the_tensors_of_a_checkpoint_are_found(wrap: str):
    state = upstream_state()
    found, _ = tensors_of(wrapped(state)[wrap])
    assert [k.removeprefix("module.") for k in found] == list(state)
    assert all(torch.equal(a, b) for a, b in zip(found.values(), state.values(), strict=True))


def test_a_checkpoint_converts(tmp_path: Path):
    state = upstream_state()
    torch.save(wrapped(state)["model"], tmp_path / "backbone.pt")
    report = convert(tmp_path / "backbone.pt", tmp_path / "out", "packing", config=CONFIG, unsafe_pickle=True)
    assert report.bit_equal
    assert (report.from_format, report.source) == ("source", "backbone.pt")
    assert torch.equal(load_encoder(tmp_path / "out").state_dict()["patch.weight"], state["conv1.weight"].flatten(1))


@pytest.mark.usefixtures("confined_forks")
def test_a_configuration_beside_the_pickle_is_read(packing: Path, tmp_path: Path):
    torch.save(read_state(packing), packing / "pytorch_model.bin")
    (packing / SINGLE).unlink()
    report = convert(packing / "pytorch_model.bin", tmp_path / "out", "standard", unsafe_pickle=True)
    assert report.from_format == "packing"
    inner = hashlib.sha256((packing / "pytorch_model.bin").read_bytes()).digest()
    assert report.source_sha256 == hashlib.sha256(inner).hexdigest()
    (packing / CONFIG_FILE).unlink()
    (packing / CONFIG_FILE).symlink_to(tmp_path / "out" / CONFIG_FILE)
    with pytest.raises(UnsafePath):
        convert(packing / "pytorch_model.bin", tmp_path / "again", "standard", unsafe_pickle=True)


@pytest.mark.usefixtures("confined_forks")
def test_the_older_file_format_too(tmp_path: Path):
    torch.save(upstream_state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    made = unpickle(tmp_path / "old.pth", tmp_path / "out.safetensors")
    assert made.tensors == len(upstream_state())


@pytest.mark.usefixtures("confined_forks")
def test_shared_storage_and_views(tmp_path: Path):
    base = torch.arange(12.0).view(3, 4)
    torch.save({"a": base, "b": base, "c": base.T, "d": base[1:, 2]}, tmp_path / "shared.pt")
    made = unpickle(tmp_path / "shared.pt", tmp_path / "out.safetensors")
    assert made.tensors == 4


@pytest.mark.usefixtures("confined_forks")
@pytest.mark.parametrize(
    ("place", "call", "suffix"),
    [
        ("whole", "exec", ".bin"),
        pytest.param("whole", "system", ".pt", marks=pytest.mark.slow),
        pytest.param("whole", "mkdir", ".ckpt", marks=pytest.mark.slow),
        ("optimizer", "system", ".pth"),
        ("rng_state", "exec", ".pt"),
        ("key", "mkdir", ".bin"),
        ("plain pickle", "system", ".pt"),
        pytest.param("plain pickle", "exec", ".pkl", marks=pytest.mark.slow),
        ("zip member", "system", ".pt"),
    ],
)
def test_payloads_do_not_run(place: str, call: str, suffix: str, tmp_path: Path):
    canary = tmp_path / "canary"
    payload = Payload(canary, call)
    path = tmp_path / f"model{suffix}"
    state = upstream_state()
    if place == "plain pickle":
        path.write_bytes(pickle.dumps(payload))
    elif place == "zip member":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(payload))
            archive.writestr("archive/version", "3\n")
    else:
        saved = {"whole": payload, "optimizer": {**state, "optimizer": payload}}
        saved |= {"rng_state": {"state_dict": state, "rng": [payload]}, "key": {**state, "x": {"y": (payload,)}}}
        torch.save(saved[place], path)
    with pytest.raises(UnsafeFile):
        convert(path, tmp_path / "out", "packing", config=CONFIG, unsafe_pickle=True)
    for load in (load_encoder, lambda p: convert(p, tmp_path / "out", "packing")):
        with pytest.raises(UnsafeFile, match="unsafe-pickle"):
            load(path)
    assert not canary.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


@pytest.mark.usefixtures("confined_forks")
@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_refused(seed: int, tmp_path: Path):
    buffer = io.BytesIO()
    torch.save(upstream_state(), buffer)
    data = bytearray(buffer.getvalue())
    generator = torch.Generator().manual_seed(seed)
    cut = int(torch.randint(1, len(data), (), generator=generator))
    (tmp_path / "cut.pt").write_bytes(data[:cut])
    with pytest.raises(TubeletError):
        unpickle(tmp_path / "cut.pt", tmp_path / "out.safetensors")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3), {"model": {"x": "y"}}], ids=str)
def test_nothing_is_found_where_there_is_no_state_dict(content: Any):
    assert tensors_of(content)[0] == {}


@pytest.mark.usefixtures("confined_forks")
def test_a_file_without_a_state_dict(tmp_path: Path):
    torch.save({"model": {"x": "y"}}, tmp_path / "x.pt")
    with pytest.raises(UnsafeFile, match="state_dict"):
        unpickle(tmp_path / "x.pt", tmp_path / "out.safetensors")


def test_a_process_that_takes_too_long_ends(tmp_path: Path):
    torch.save(upstream_state(), tmp_path / "x.pt")
    with pytest.raises(WorkerDied, match=r"0\.01"):
        unpickle(tmp_path / "x.pt", tmp_path / "out.safetensors", deadline_s=0.01)
    with pytest.raises(WeightsError, match="no such file"):
        unpickle(tmp_path / "none.pt", tmp_path / "out.safetensors")


ATTEMPTS = (
    "import os; os.system('true')",
    "import subprocess; subprocess.run(['true'])",
    "import os; os.fork()",
    "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "import os; os.execv('/bin/true', ['true'])",
    "import socket; socket.socket().connect(('127.0.0.1', 9))",
    "open('written', 'w')",
    "import os; os.open('written', os.O_CREAT | os.O_WRONLY)",
    "import os; os.mkdir('made')",
    "import os; os.remove('mine')",
    "import os; os.rename('mine', 'yours')",
    "import os; os.truncate('mine', 0)",
    "import ctypes; ctypes.CDLL(None)",
    "bytearray(8 << 30)",
)
CONFINED = """
import sys
sys.path.insert(0, {folder!r})
import unpickle_child
unpickle_child.confine(1 << 30)
for attempt in {attempts!r}:
    try:
        exec(attempt)
    except (PermissionError, MemoryError):
        print("refused", flush=True)
    else:
        print("DONE", attempt, flush=True)
"""


def test_what_the_confined_process_cannot_do(tmp_path: Path):
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    code = CONFINED.format(folder=str(door.CHILD.parent), attempts=ATTEMPTS)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.stdout.decode().splitlines() == ["refused"] * len(ATTEMPTS), done.stderr.decode()[-400:]
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine"
