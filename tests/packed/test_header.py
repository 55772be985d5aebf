"""Safetensors headers that lie. Attacks are made from seeds; none may load, crash or be believed."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tubelet.errors import ConfigError, InputError, TubeletError, UnsafeFile, WeightsError
from tubelet.packed import Item, Packed
from tubelet.packed.header import (
    MAX_DEPTH,
    MAX_HEADER_BYTES,
    MAX_HEADER_VALUES,
    MAX_SMALL_BYTES,
    MAX_VALUES,
    read_header,
    read_small,
    strict_json,
)
from tubelet.weights.locate import find_checkpoint, find_folder

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: str | bytes | dict[str, Any], data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    """A safetensors file from any header and any data, true or not."""
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.int64)}, str(path), {"k": "v"})
    return path


def test_a_real_file(good: Path):
    header = read_header(good)
    assert header.tensors["a"].shape == (2, 3)
    assert {e.dtype for e in header.tensors.values()} == {"F32", "I64"}
    assert header.metadata == {"k": "v"}


def test_no_tensors_and_empty_tensors_are_fine(tmp_path: Path):
    assert read_header(write(tmp_path / "none", {}, b"")).tensors == {}
    empty = {"e": {"dtype": "F32", "shape": [0, 5], "data_offsets": [0, 0]}, "f": F32}
    assert read_header(write(tmp_path / "empty", empty)).tensors["e"].shape == (0, 5)


def test_cut_at_every_byte(good: Path, tmp_path: Path):
    whole = good.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for n in range(len(whole)):
        cut.write_bytes(whole[:n])
        with pytest.raises(UnsafeFile):
            read_header(cut)
    cut.write_bytes(whole + b"\0")
    with pytest.raises(UnsafeFile, match="bytes"):
        read_header(cut)


ATTACKS: dict[str, dict[str, Any] | str | bytes] = {
    "overlap": {"a": F32, "b": {**F32, "data_offsets": [4, 12]}},
    "same place": {"a": F32, "b": F32},
    "hole": {"a": F32, "b": {**F32, "data_offsets": [12, 20]}},
    "hole at the start": {"a": {**F32, "data_offsets": [4, 12]}},
    "duplicate": '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
    '"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "duplicate field": '{"a": {"dtype": "F32", "dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}',
    "shape overflow": {"a": {**F32, "shape": [2**32, 2**32]}},
    "shape overflow to zero": {"a": {**F32, "shape": [2**62, 4], "data_offsets": [0, 0]}},
    "negative shape": {"a": {**F32, "shape": [-1, -2]}},
    "fractional shape": {"a": {**F32, "shape": [2.0]}},
    "boolean shape": {"a": {**F32, "shape": [True, 2]}},
    "too many axes": {"a": {**F32, "shape": [1] * 20 + [2]}},
    "shape as text": {"a": {**F32, "shape": "2"}},
    "backward offsets": {"a": {**F32, "data_offsets": [8, 0]}},
    "three offsets": {"a": {**F32, "data_offsets": [0, 4, 8]}},
    "huge offset": {"a": {**F32, "data_offsets": [0, 2**70]}},
    "too few bytes": {"a": {**F32, "shape": [3]}},
    "unknown type": {"a": {**F32, "dtype": "PICKLE"}},
    "type as list": {"a": {**F32, "dtype": ["F32"]}},
    "no type": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "extra field": {"a": {**F32, "code": "import os"}},
    "tensor as list": {"a": [1, 2]},
    "metadata of numbers": {"a": F32, "__metadata__": {"x": 1}},
    "metadata as list": {"a": F32, "__metadata__": ["x"]},
    "list": "[1, 2, 3]",
    "text": '"hello"',
    "not JSON": "{'a': 1}",
    "NaN": '{"a": NaN}',
    "infinite": '{"a": 1e999}',
    "a number of 5,000 digits": '{"a": ' + "9" * 5000 + "}",
    "deep": '{"a": ' + "[" * 10_000 + "]" * 10_000 + "}",
    "deep objects": '{"a": ' * 10_000 + "1" + "}" * 10_000,
    "not UTF-8": b'{"\xff": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16-le"),
    "leading space": ' {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "zeros": b"\0" * 64,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_lies(name: str, tmp_path: Path):
    with pytest.raises(UnsafeFile) as caught:
        read_header(write(tmp_path / "attack.safetensors", ATTACKS[name]))
    assert caught.value.source == "attack.safetensors"
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1, MAX_HEADER_BYTES + 1, 10_000])
def test_header_lengths(length: int, tmp_path: Path):
    with pytest.raises(UnsafeFile) as caught:
        read_header(write(tmp_path / "a.safetensors", {"a": F32}, length=length))
    assert caught.value.got == length


def test_pointers_empty_files_and_folders(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(UnsafeFile, match="git lfs pull"):
        read_header(path)
    path.write_bytes(b"")
    with pytest.raises(UnsafeFile, match="0 bytes"):
        read_header(path)
    with pytest.raises(UnsafeFile, match="regular"):
        read_header(tmp_path)
    with pytest.raises(WeightsError):
        read_header(tmp_path / "absent")


def test_flipped_headers_are_typed_or_true(good: Path, tmp_path: Path):
    whole = good.read_bytes()
    length = int.from_bytes(whole[:8], "little") + 8
    bad = tmp_path / "bad.safetensors"
    refused = 0
    for seed in range(400):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(length)] ^= 1 << rng.randrange(8)
        bad.write_bytes(data)
        try:
            header = read_header(bad)
        except UnsafeFile:
            refused += 1
        else:
            assert sum(e.end - e.start for e in header.tensors.values()) == 56
    assert refused > 200


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    return path


def test_a_pipe_is_refused_and_not_waited_for(pipe: Path):
    with pytest.raises(UnsafeFile, match="regular"):
        read_header(pipe)
    with pytest.raises(ConfigError, match="regular"):
        read_small(pipe, ConfigError)
    with pytest.raises(InputError, match="regular"):
        Packed.load(pipe)
    with pytest.raises(TubeletError):
        find_checkpoint(pipe)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_pipe_in_a_folder_is_refused(good: Path, tmp_path: Path, name: str):
    (folder := tmp_path / "folder").mkdir()
    if name != "model.safetensors":
        good.rename(folder / "model.safetensors")
    os.mkfifo(folder / name)
    with pytest.raises(UnsafeFile, match="regular") as caught:
        find_checkpoint(folder)
    assert caught.value.source == name


def test_small_files_are_bounded(tmp_path: Path):
    large = tmp_path / "config.json"
    with large.open("wb") as file:
        file.truncate(MAX_SMALL_BYTES + 1)
    with pytest.raises(ConfigError) as caught:
        read_small(large, ConfigError)
    assert caught.value.limit == MAX_SMALL_BYTES


def test_a_pack_with_a_name_twice_is_refused(tmp_path: Path):
    path = tmp_path / "pack.safetensors"
    Packed(torch.arange(6.0).view(2, 3), torch.zeros(2, 3, dtype=torch.int32), (Item.of(1, 1, 2),), (2,)).save(path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    said = json.loads(header)
    for name in ("x", "pos", "__metadata__"):
        again = header.rstrip()[:-1] + b"," + json.dumps({name: said[name]}).encode()[1:]
        write(path, again, rest)
        with pytest.raises(UnsafeFile, match="twice"):
            Packed.load(path)
    metadata = said["__metadata__"]
    metadata["items"] = metadata["items"].replace('"picture"', '"picture": 3, "picture"')
    write(path, json.dumps(said), rest)
    with pytest.raises(UnsafeFile, match="twice"):
        Packed.load(path)


MANY = b",".join([b"{}"] * 60_000)


@pytest.mark.parametrize(
    ("text", "most"),
    [
        (b'{"a":[' + MANY + b"]}", MAX_VALUES),
        (b"{" + b",".join(b'"k%d":{}' % i for i in range(60_000)) + b"}", MAX_VALUES),
        (b"[" * 200_000, MAX_VALUES),
        (b"[" + b",".join([b"0"] * 600_000) + b"]", MAX_HEADER_VALUES),
    ],
    ids=["a list", "keys", "depth", "numbers"],
)
def test_values_are_counted_before_one_is_made(text: bytes, most: int, monkeypatch: pytest.MonkeyPatch):
    """2 MB of `{}` took 15 s to become objects."""
    monkeypatch.setattr("tubelet.packed.header.json.loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(ConfigError, match="values") as e:
        strict_json(text, ConfigError, "config.json", most_values=most)
    assert (e.value.source, e.value.limit) == ("config.json", most)


@pytest.mark.parametrize(("opens", "closes"), [(b'{"a":', b"}"), (b"[", b"]")], ids=["objects", "lists"])
def test_json_is_as_deep_as_said_and_no_deeper(opens: bytes, closes: bytes):
    """Of 5,000 levels Python 3.14 makes objects that others then fail on; 3.11 refuses them by itself."""
    at_most = opens * MAX_DEPTH + b"1" + closes * MAX_DEPTH
    assert strict_json(at_most, ConfigError, "config.json")
    with pytest.raises(ConfigError, match="too deeply") as e:
        strict_json(opens + at_most + closes, ConfigError, "config.json")
    assert e.value.limit == MAX_DEPTH


def test_a_header_of_many_values_is_refused(tmp_path: Path):
    text = b'{"a":[' + b",".join([b"0"] * 600_000) + b"]}"
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UnsafeFile, match="values"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "processor_config.json", "model.safetensors.index.json"]
)
def test_small_files_are_small(name: str, tmp_path: Path):
    """Each kind of small file beside weights, by its bytes and by its values."""
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    index = name.endswith("index.json")
    if index:
        (tmp_path / "model.safetensors").unlink()
    for text in (b" " * ((16 << 20) + 1), b"[" + b",".join([b"0"] * 600_000) + b"]"):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(UnsafeFile if index else ConfigError, match=r"bytes|values"):
            folder = find_folder(tmp_path)
            folder.config()
            folder.processor()
