"""One body over every store: creating is the only commit; what fails leaves nothing; and a run goes on after it."""

import errno
import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pytest
import torch
from safetensors.torch import save, save_file
from tests.full_disk import may_grow_to
from tests.scale.conftest import Begun
from tests.scale.runs import Fork, digests
from tests.scale.s3 import Server

from tubelet import writing as writing_module
from tubelet.encoder.model import Encoder
from tubelet.errors import InputError, StoreError, UnsafeFile
from tubelet.packed.header import read_header
from tubelet.scale import store as store_module
from tubelet.scale.local import here
from tubelet.scale.poison import take
from tubelet.scale.status import done_shards, verify
from tubelet.scale.store import Bucket, Folder, Store, open_store
from tubelet.scale.words import shard_words
from tubelet.scale.work import Worker


def folder(path: Path) -> Store:
    return Folder(path / "out")


def local_bucket(path: Path) -> Store:
    (path / "bucket").mkdir()
    return Bucket("file:///bucket", obstore.store.LocalStore(path / "bucket"))


def memory_bucket(path: Path) -> Store:
    return Bucket("memory:///", obstore.store.MemoryStore())


def s3_bucket(server: Server, path: Path) -> Store:
    return open_store(f"{server.new_bucket()}/out")


@pytest.fixture(params=[folder, local_bucket, memory_bucket, s3_bucket], ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[[Path], Store]:
    """Each kind of store."""
    return partial(s3_bucket, request.getfixturevalue("s3")) if request.param is s3_bucket else request.param


def test_what_a_store_promises(make: Callable[[Path], Store], tmp_path: Path):
    store = make(tmp_path)
    assert list(store.list("shards")) == []
    assert not store.exists("shards/000/a")
    assert store.create("shards/000/a", b"one")
    assert not store.create("shards/000/a", b"two")
    assert store.read("shards/000/a") == b"one"
    store.replace("plan.json", b"1")
    store.replace("plan.json", b"22")
    assert store.read("plan.json") == b"22"
    store.create("shards/001/b", b"three")
    assert {(e.name, e.size) for e in store.list("shards")} == {("shards/000/a", 3), ("shards/001/b", 5)}
    with store.local("shards/001/b") as path:
        assert path.read_bytes() == b"three"
    for name, text in (("short", "yes"), ("long", "y" * 100_000)):  # a header within the first bytes, and beyond
        store.create(name, save({"x": torch.arange(50_000)}, {"said": text}))
        with store.head(name) as path:
            header = read_header(path)
            assert (header.metadata["said"], header.tensors["x"].shape) == (text, (50_000,))
    store.remove("shards/000/a")
    store.remove("shards/000/a")
    assert not store.exists("shards/000/a")
    with pytest.raises(StoreError) as told:
        store.read("shards/000/a")
    assert told.value.path == "shards/000/a"


def test_of_many_who_create_one_is_first(make: Callable[[Path], Store], tmp_path: Path):
    store, barrier = make(tmp_path), threading.Barrier(8)
    won: list[int] = []

    def create(number: int) -> None:
        barrier.wait()
        if store.create("shards/000/a", b"%d" % number * 100_000):
            won.append(number)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("shards/000/a") == b"%d" % won[0] * 100_000
    assert [e.name for e in store.list("shards")] == ["shards/000/a"]


def test_a_place_without_hard_links_renames_and_one_without_either_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    store = Folder(tmp_path / "out")
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.read("a") == b"1"
    monkeypatch.setattr(writing_module, "_renameat2", lambda *_: errno.EINVAL)
    with pytest.raises(StoreError, match="no hard links here"):
        store.create("b", b"1")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


def test_a_bucket_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(InputError, match=r'pip install "tubelet\[bucket\]"'):
        open_store("s3://bucket/out")


class Failing:
    """A store whose n-th change fails as a full disk does, before or after it was made."""

    def __init__(self, store: Store, at: int) -> None:
        self._store, self._left = store, at

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def _count(self, name: str, size: int) -> None:
        self._left -= 1
        if self._left == 0:
            error = StoreError("it could not be written: No space left on device", source=name)
            error.needed_bytes = size
            raise error

    def create(self, name: str, data: bytes) -> bool:
        self._count(name, len(data))
        return self._store.create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self._count(name, len(data))
        self._store.replace(name, data)


def test_a_store_that_fails_at_any_call_leaves_whole_shards_only(
    begun: Begun, encoder: Encoder, expected: dict[int, dict[str, str]]
):
    plan, store = begun()
    worker = Worker(store, encoder=encoder)
    for at in range(1, 2 * 4 + 1):  # two changes a shard: its note, itself
        worker.store = Failing(store, at)  # type: ignore[assignment]
        before = len(done_shards(plan, store))
        with pytest.raises(StoreError) as told:
            list(here(worker))
        assert told.value.needed_bytes is not None
        assert len(done_shards(plan, store)) == before + (at - 1) // 2
        assert list(store.list("attempts")) == []
        if len(done_shards(plan, store)) + 5 > plan.shards:
            break
    worker.store = store
    list(here(worker))
    assert digests(plan, store) == expected
    assert verify(plan, store) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_disk_that_is_full_or_read_only_is_told_with_what_was_needed(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(code, os.strerror(code))

    store = Folder(tmp_path / "out")
    monkeypatch.setattr(store_module, "_flushed", full)
    with pytest.raises(StoreError, match=os.strerror(code)) as told:
        store.create("shards/000/a", bytes(1234))
    assert told.value.needed_bytes == 1234
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
    assert store_module.Entry("a", 1, 0.0).size == 1


def test_a_file_that_may_not_grow_leaves_nothing(begun: Begun, encoder: Encoder, expected: dict[int, dict[str, str]]):
    """The system's own limit, in a process of its own."""
    plan, store = begun()

    def work() -> None:
        may_grow_to(4_096)  # notes fit, shards do not
        try:
            list(here(Worker(store, encoder=encoder)))
        except StoreError as error:
            os._exit(7 if (error.needed_bytes or 0) > 4_096 else 8)

    assert Fork(work).wait(60.0) == 7
    assert [p for p in (Path(store.place) / "shards").rglob(".*") if p.is_file()] == []
    assert list(store.list("attempts")) == []
    list(here(Worker(store, encoder=encoder)))
    assert digests(plan, store) == expected


def test_what_killed_writers_left_is_not_counted_and_is_tidied(begun: Begun, encoder: Encoder):
    plan, store = begun()
    (Path(store.place) / "shards" / "000").mkdir(parents=True)
    left = Path(store.place) / "shards" / "000" / ".000000.safetensors.0123456789ab"
    left.write_bytes(b"half")
    assert done_shards(plan, store) == {}
    list(here(Worker(store, encoder=encoder)))
    store.tidy()
    assert not left.exists()
    assert verify(plan, store) == []


def test_a_damaged_note_is_an_error_of_ours(tmp_path: Path):
    store = open_store(tmp_path)
    for content in (b"{", b"[]", b'{"host": 1}'):
        store.replace("attempts/000003.1", content)
        with pytest.raises(StoreError, match="note of an attempt is damaged"):
            take(store, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("items", [{"picture": 2}]), ("bad", [{"id": 9}]), ("files", ["a"]), ("lengths", [1, 2]), ("items", [3])],
)
def test_words_of_a_shard_that_contradict_each_other(name: str, value: list[Any], tmp_path: Path):
    said: dict[str, Any] = {"ids": [5, 6], "files": ["a", "b"], "bad": [{"id": 6}], "lengths": [3]}
    said |= {"items": [{"picture": 0}], "sha256": {}, "incomplete": []}
    words = {"fingerprint": "f", "seconds": "1.0"}
    for change in ({}, {name: value}):
        metadata = words | {key: json.dumps(one) for key, one in (said | change).items()}
        save_file({"x": torch.zeros(3, 2)}, tmp_path / "s.safetensors", metadata)
        header = read_header(tmp_path / "s.safetensors")
        if not change:
            assert shard_words(header).ids == (5, 6)
            continue
        with pytest.raises(UnsafeFile):
            shard_words(header)
