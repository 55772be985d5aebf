"""What is done, from the listing alone; whether it is right; and what is made of a run that is done.

status    done, pending, bad, tokens, bytes, tokens a second, time left; while others write
verify    every sha256, every id exactly once
finish    index.parquet or index.jsonl, bad.jsonl, DONE.json: derived, may be deleted and made again
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tubelet.errors import InputError, WeightsError
from tubelet.packed.header import Header, read_header
from tubelet.scale.plan import Plan, files_of, shard_name
from tubelet.scale.store import Entry, Store
from tubelet.scale.words import ShardWords, shard_words

DONE, BAD, INDEX = "DONE.json", "bad.jsonl", "index"
MOST_READ = 20_000  # shards whose headers are read for a status
_RECENT_S = 600.0  # what the rate is measured over
_ROWS_AT_ONCE = 64  # shards of one row group of the index
_READERS = 8


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    shards: int
    done: int
    files: int
    files_done: int
    rows: int  # patches of all files, as planned
    rows_done: int
    bytes: int  # written
    tokens: int | None  # written; None where there are too many shards to look at
    bad: int | None  # files that could not be encoded; None as well
    rows_per_s: float | None  # over the last ten minutes in which something was written
    left_s: float | None  # at that rate

    @property
    def pending(self) -> int:
        return self.shards - self.done

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"pending": self.pending}


def done_shards(plan: Plan, store: Store) -> dict[int, Entry]:
    """The shards of a plan that are there. Cost: one listing."""
    found: dict[int, Entry] = {}
    for entry in store.list("shards"):
        stem = entry.name.rpartition("/")[2].removesuffix(".safetensors")
        if stem.isdigit() and entry.name == shard_name(int(stem)) and int(stem) < plan.shards:
            found[int(stem)] = entry
    return found


def status(plan: Plan, store: Store) -> Status:
    """How far a run is. Cost: one listing, and the headers of up to 20,000 shards. Raises StoreError."""
    done = done_shards(plan, store)
    sizes = [plan.size_of(k) for k in done]
    tokens = bad = None
    if len(done) <= MOST_READ:
        words = [one for _, one in _words_of(done, store)]
        tokens, bad = sum(sum(one.lengths) for one in words), sum(len(one.bad) for one in words)
    rows_done = sum(rows for _, rows in sizes)
    rate = _rate(plan, done)
    left = None if rate is None else (plan.rows - rows_done) / rate
    return Status(
        plan.shards,
        len(done),
        plan.files,
        sum(files for files, _ in sizes),
        plan.rows,
        rows_done,
        sum(entry.size for entry in done.values()),
        tokens,
        bad,
        rate,
        left,
    )


def verify(plan: Plan, store: Store) -> list[str]:
    """What is wrong with a run, a line each; nothing where it is whole and right. Cost: every shard is read."""
    done = done_shards(plan, store)
    wrong = [f"{shard_name(k)}: missing" for k in range(plan.shards) if k not in done]
    for part in plan.parts:
        expected: dict[int, list[int]] = {}
        for file in files_of(plan, part, store):
            expected.setdefault(file.shard, []).append(file.id)
        for k, ids in expected.items():
            if k in done:
                wrong += [f"{shard_name(k)}: {text}" for text in _wrong(plan, store, k, ids)]
    return wrong


def finish(plan: Plan, store: Store) -> dict[str, Any] | None:
    """index, bad.jsonl and DONE.json of a run that is done, and what the last one says; None of one that is not.

    The index is Parquet where pyarrow is installed, JSON lines elsewhere. Raises StoreError.
    """
    done = done_shards(plan, store)
    if len(done) < plan.shards:
        return None
    bad: list[str] = []
    tokens = files = 0
    seconds = 0.0
    index = _Index()
    words = _words_of(dict(sorted(done.items())), store)
    while group := list(islice(words, _ROWS_AT_ONCE)):
        for k, one in group:
            bad += [json.dumps(said | {"shard": k}) + "\n" for said in one.bad]
            tokens, files, seconds = tokens + sum(one.lengths), files + len(one.ids), seconds + one.seconds
        index.add([row for k, one in group for row in index_rows(k, one)])
    name, data = index.content()
    store.replace(name, data)
    store.replace(BAD, "".join(bad).encode())
    said = {"fingerprint": plan.fingerprint, "files": files, "bad": len(bad), "shards": plan.shards}
    said |= {"tokens": tokens, "worker_seconds": round(seconds, 3), "index": name}
    store.replace(DONE, (json.dumps(said, indent=1) + "\n").encode())
    for entry in list(store.list("attempts")):
        store.remove(entry.name)
    store.tidy()
    return said


def index_rows(shard: int, words: ShardWords) -> Iterator[dict[str, Any]]:
    """A row for each file of a shard: id, source, shard, first row and rows in it, grid, times, error."""
    bad = {said["id"]: said for said in words.bad}
    own: dict[int, tuple[int, int, dict[str, Any]]] = {}
    start = 0
    for item, length in zip(words.items, words.lengths, strict=True):
        own[item["picture"]] = (start, length, item)
        start += length
    for place, (number, source) in enumerate(zip(words.ids, words.files, strict=True)):
        row: dict[str, Any] = {"id": number, "source": source, "shard": shard, "first_row": 0, "rows": 0}
        row |= {
            "grid": None,
            "times_s": None,
            "complete": number not in words.incomplete,
            "error": None,
            "message": None,
        }
        if place in own:
            first, length, item = own[place]
            row |= {"first_row": first, "rows": length, "grid": item["grid"], "times_s": item["times_s"]}
        if number in bad:
            row |= {"error": bad[number]["error"], "message": bad[number]["message"], "complete": False}
        yield row


# ---- inside


def _words_of(done: dict[int, Entry], store: Store) -> Iterator[tuple[int, ShardWords]]:
    """The words of these shards, in the order given, a few read ahead."""

    def one(item: tuple[int, Entry]) -> tuple[int, ShardWords]:
        with store.head(item[1].name) as path:
            return item[0], shard_words(read_header(path))

    with ThreadPoolExecutor(_READERS, thread_name_prefix="tubelet-status") as pool:
        waiting = iter(done.items())
        while group := list(islice(waiting, 8 * _READERS)):
            yield from pool.map(one, group)


def _rate(plan: Plan, done: dict[int, Entry]) -> float | None:
    """Rows a second between the first and the last shard of the last ten minutes of writing."""
    if len(done) < 2:
        return None
    last = max(entry.time_s for entry in done.values())
    recent = sorted((e.time_s, plan.size_of(k)[1]) for k, e in done.items() if last - e.time_s <= _RECENT_S)
    span = last - recent[0][0]
    return sum(rows for _, rows in recent[1:]) / span if span > 0 else None


def _wrong(plan: Plan, store: Store, shard: int, ids: list[int]) -> Iterator[str]:
    """What is wrong with one shard."""
    with store.local(shard_name(shard)) as path:
        try:
            header = read_header(path)
            words = shard_words(header)
        except WeightsError as e:
            yield e.message
            return
        if words.fingerprint != plan.fingerprint:
            yield "it belongs to another plan"
        if sorted(words.ids) != sorted(ids):
            yield f"it holds other files than planned: {len(words.ids)} of {len(ids)}"
        places = [item["picture"] for item in words.items]
        told = sorted([*(words.ids[place] for place in places), *(one["id"] for one in words.bad)])
        if told != sorted(words.ids):
            yield "not every file in it has tokens or an error, once"
        for name, expected in words.sha256.items():
            if name not in header.tensors:
                yield f"the tensor {name} is missing"
            elif _digest(header, name) != expected:
                yield f"the sha256 of {name} is not what it was"


def _digest(header: Header, name: str) -> str:
    """The sha256 of a tensor's values, as they lie in the file."""
    start = header.size - max(entry.end for entry in header.tensors.values())
    entry = header.tensors[name]
    values: Any = np.memmap(header.path, np.uint8, "r")  # a buffer, without a copy
    return hashlib.sha256(values[start + entry.start : start + entry.end]).hexdigest()


class _Index:
    """Rows on their way into one file."""

    def __init__(self) -> None:
        try:
            import pyarrow  # pyright: ignore[reportMissingImports]
            import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            self._schema = None
            self._lines: list[str] = []
            return
        kinds = {"id": pyarrow.int64(), "source": pyarrow.string(), "shard": pyarrow.int64()}
        kinds |= {"first_row": pyarrow.int64(), "rows": pyarrow.int64(), "grid": pyarrow.list_(pyarrow.int32())}
        kinds |= {"times_s": pyarrow.list_(pyarrow.float64()), "complete": pyarrow.bool_()}
        kinds |= {"error": pyarrow.string(), "message": pyarrow.string()}
        self._arrow, self._schema = pyarrow, pyarrow.schema(list(kinds.items()))
        self._bytes = BytesIO()
        self._writer = parquet.ParquetWriter(self._bytes, self._schema)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """More rows, in order."""
        for row in rows:  # a name with bytes that are not UTF-8
            row["source"] = row["source"].encode("utf-8", "backslashreplace").decode("utf-8")
        if self._schema is None:
            self._lines += [json.dumps(row) + "\n" for row in rows]
        else:
            self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))

    def content(self) -> tuple[str, bytes]:
        """Name and bytes of the file."""
        if self._schema is None:
            return f"{INDEX}.jsonl", "".join(self._lines).encode()
        self._writer.close()
        return f"{INDEX}.parquet", self._bytes.getvalue()


def bad_so_far(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """Every bad file of the shards that are there: id, source, error, message. Cost: their headers."""
    return [said for _, words in _words_of(done_shards(plan, store), store) for said in words.bad]


def require_ours(store: Store) -> None:
    """Raise InputError for a folder with something else in it, in which a run must not begin."""
    root = Path(store.place)
    if "://" in store.place or not root.exists():
        return
    if not root.is_dir():
        raise InputError("the output is a file where a folder is to be", source=root.name)
    own = {"plan.json", "plan", "shards", "attempts", DONE, BAD, f"{INDEX}.parquet", f"{INDEX}.jsonl"}
    strange = sorted(p.name for p in root.iterdir() if p.name not in own and not p.name.startswith((".", "retry-")))
    if strange:
        text = f"the output holds {', '.join(strange[:3])}, which a run does not write: name an empty or a new folder"
        raise InputError(text, source=root.name)
