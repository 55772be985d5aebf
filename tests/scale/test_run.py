"""A run gives what encoding file by file gives: every file once, bad ones listed, the same bits whoever works."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.cli_inputs import write_picture
from tests.scale.conftest import Begun
from tests.scale.runs import BROKEN, Fork, bad_of, digests, forked, options, words_of

from tubelet import load_patches
from tubelet.encoder.model import Encoder
from tubelet.errors import InputError, StoreError
from tubelet.packed import Packed
from tubelet.packed.token_file import TokenFile
from tubelet.scale.encode import encode_pack
from tubelet.scale.local import here, run
from tubelet.scale.options import EncodeOptions, Reduction
from tubelet.scale.plan import Plan, make_plan, shard_name
from tubelet.scale.status import finish, status, verify
from tubelet.scale.store import Store, open_store
from tubelet.scale.tokens import TokenFolder
from tubelet.scale.work import Worker


def test_every_file_has_the_tokens_that_it_has_alone(whole: tuple[Plan, Store], sixty: Path, encoder: Encoder):
    plan, store = whole
    tokens = TokenFolder(store.place)
    seen = 0
    for number in range(plan.files):
        file = tokens.file(number)
        if Path(file.source).name.partition("-")[2] in BROKEN:
            with pytest.raises(InputError, match=BROKEN[Path(file.source).name.partition("-")[2]]):
                tokens[number]
            continue
        alone = encode_pack(
            load_patches(file.source, encoder.pixels, fps=5.0).packed, encoder, "cpu", Reduction(pool=True)
        )
        got = tokens.by_file(file.source)
        assert got.equal(alone.tokens)
        assert got.check(finite=True).items == alone.tokens.items
        ids, pooled = tokens.pooled(file.shard)
        assert alone.pooled is not None
        assert torch.equal(pooled[ids.index(number)], alone.pooled[0])
        seen += 1
    assert seen == 50


def test_every_id_is_there_once_and_bad_files_are_listed_with_their_kind(whole: tuple[Plan, Store]):
    plan, store = whole
    ids = [number for k in range(plan.shards) for number in words_of(store, k).ids]
    assert sorted(ids) == list(range(60))
    bad = bad_of(plan, store)
    assert len(bad) == 10
    assert {Path(name).name.partition("-")[2]: kind for name, kind in bad.items()} == BROKEN
    assert verify(plan, store) == []


def test_two_workers_write_the_same(begun: Begun, encoder: Encoder, expected: dict[int, dict[str, str]]):
    plan, store = begun()
    reports = list(run(store, workers=2, start=forked(store, encoder)))
    assert sorted(report.shard for report in reports) == list(range(plan.shards))
    assert {report.state for report in reports} == {"done"}
    assert sum(report.bad_files for report in reports) == 10
    assert digests(plan, store) == expected
    assert list(store.list("attempts")) == []


def test_ranks_write_the_same_and_leave_nothing(begun: Begun, encoder: Encoder, expected: dict[int, dict[str, str]]):
    plan, store = begun()
    worker = Worker(store, encoder=encoder)
    first = [next(reports).shard for reports in [here(worker, rank=1, world=2, wait=False)]]
    assert first == [1]
    list(here(worker, rank=0, world=2, wait=False))
    assert digests(plan, store) == expected
    with pytest.raises(InputError, match="rank below world"):
        run(store, rank=2, world=2)


def test_a_shard_is_a_token_file(whole: tuple[Plan, Store]):
    plan, store = whole
    with store.local(shard_name(1)) as path:
        file = TokenFile.load(path)
    words = words_of(store, 1)
    assert file.names == tuple(words.files[item["picture"]] for item in words.items)
    assert file.pooled is not None
    assert json.loads(file.metadata["ids"]) == list(words.ids)
    assert file.metadata["fingerprint"] == plan.fingerprint


def test_packs_hold_every_file_once_and_no_more_than_asked(whole: tuple[Plan, Store]):
    plan, store = whole
    tokens = TokenFolder(store.place)
    good = set(range(plan.files)) - {one["id"] for k in range(plan.shards) for one in words_of(store, k).bad}
    seen: list[int] = []
    for ids, pack in tokens.packs(100, seed=3):
        assert len(pack.x) <= 100 or len(pack) == 1
        assert torch.equal(pack[0].x, tokens[ids[0]].x)
        seen += ids
    assert sorted(seen) == sorted(good)
    again = [n for ids, _ in tokens.packs(100, seed=3) for n in ids]
    assert again == seen != [n for ids, _ in tokens.packs(100, seed=4) for n in ids]
    shared = [n for rank in range(3) for ids, _ in tokens.packs(100, rank=rank, world=3) for n in ids]
    assert sorted(shared) == sorted(good)


def test_an_unfinished_run_can_be_read_and_says_what_is_missing(begun: Begun, encoder: Encoder):
    plan, store = begun()
    Worker(store, encoder=encoder).run(0)
    tokens = TokenFolder(store.place)
    assert tokens.done == (0,)
    ids = words_of(store, 0).ids
    other = next(n for n in range(plan.files) if n not in ids)
    with pytest.raises(StoreError, match="not there yet"):
        tokens[other]
    found = status(plan, store)
    assert (found.done, found.pending, found.files_done) == (1, plan.shards - 1, len(ids))
    assert verify(plan, store) == [f"{shard_name(k)}: missing" for k in range(1, plan.shards)]
    assert finish(plan, store) is None


def test_the_index_is_read_without_tubelet(begun: Begun, encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    plan, store = begun()
    list(here(Worker(store, encoder=encoder)))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)  # as where it is not installed
    said = finish(plan, store)
    assert said is not None
    assert (said["files"], said["bad"], said["index"]) == (60, 10, "index.jsonl")
    rows = [json.loads(line) for line in store.read("index.jsonl").splitlines()]
    assert sorted(row["id"] for row in rows) == list(range(60))
    row = next(row for row in rows if row["rows"] > 1)
    with store.local(shard_name(row["shard"])) as path:
        x = Packed.load(path).x[row["first_row"] : row["first_row"] + row["rows"]]
    assert torch.equal(x, TokenFolder(store.place)[row["id"]].x)
    assert np.prod(row["grid"]) == row["rows"]
    assert len(store.read("bad.jsonl").splitlines()) == 10


@pytest.mark.slow
def test_memory_does_not_grow_with_the_files(tmp_path: Path, model: Path, encoder: Encoder):
    """5,000 small files, two workers: what each holds after its second shard is what it holds after its last."""
    one = write_picture(tmp_path / "one.jpg", 48, 48).read_bytes()
    (tmp_path / "files").mkdir()
    for i in range(5_000):
        (tmp_path / "files" / f"{i:05d}.jpg").write_bytes(one)
    store = open_store(tmp_path / "out")
    plan = make_plan([str(tmp_path / "files")], options(model, encoder, shard_tokens=2_000, shard_files=4_096), store)
    start, workers = forked(store, encoder), []

    def noted(link: socket.socket) -> Fork:
        workers.append(start(link))
        return workers[-1]

    held = [[resident(one.pid) for one in workers] for _ in run(store, workers=2, start=noted)]
    assert (len(workers), len(held)) == (2, plan.shards)
    assert plan.shards > 20
    for worker in (0, 1):
        assert max(pages[worker] for pages in held[4:]) < 1.1 * held[4][worker]


def resident(pid: int) -> int:
    """Pages that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


@pytest.mark.parametrize("place", ["x", "pos"])
def test_verify_finds_one_wrong_byte(begun: Begun, encoder: Encoder, place: str):
    plan, store = begun()
    list(here(Worker(store, encoder=encoder)))
    assert verify(plan, store) == []
    with store.local(shard_name(2)) as path:
        from tubelet.packed.header import read_header

        header = read_header(path)
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little") + header.tensors[place].start
        data[start] ^= 1
        path.write_bytes(data)
    assert verify(plan, store) == [f"{shard_name(2)}: the sha256 of {place} is not what it was"]


@pytest.mark.parametrize(
    "reduction",
    [
        Reduction(pool=True, tokens=False),
        Reduction(merge=2),
        Reduction(method="divprune", budget=4),
        Reduction(method="attention", percent=25.0, pool=True),
        Reduction(method="random", budget=5, seed=3),
    ],
    ids=["pooled", "merged", "divprune", "attention", "random"],
)
def test_what_is_stored_is_what_will_be_used(
    reduction: Reduction, tmp_path: Path, model: Path, encoder: Encoder, sixty: Path
):
    wanted: EncodeOptions = options(model, encoder, shard_tokens=400, reduction=reduction)
    store = open_store(tmp_path / "out")
    make_plan([str(sixty / "a" / "b")], wanted, store)
    list(here(Worker(store, encoder=encoder)))
    tokens = TokenFolder(store.place)
    for number in range(len(tokens)):
        got, file = tokens[number], tokens.file(number)
        rows = load_patches(file.source, encoder.pixels).packed
        alone = encode_pack(rows, encoder, "cpu", reduction, [number])
        assert got.equal(alone.tokens)
        if not reduction.tokens:
            assert len(got.x) == 0
        if reduction.budget is not None:
            assert len(got.x) == min(reduction.budget, file.rows)
        if reduction.merge > 1:
            assert got.x.shape[1] == 4 * 64
