"""The plan of a run: which files there are, how many rows each will have, and which shard each belongs to.

    OUT/plan.json           options, counts, and a line for each part; created last and once
    OUT/plan/00000.jsonl    one window of files by id: {"id", "source", "bytes", "rows", "kind", "shard"}

Names and headers are read, no pixels. A window is 65,536 files, or one archive, which is read from front to end.
Inside a window files are cut into shards by the size of their size, so that shards take equal time and one clip does
not stand behind a thousand stamps. A file's id is its place in the whole order.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from tubelet.errors import InputError, PlanMismatch, StoreError, TubeletError
from tubelet.packed.header import strict_json
from tubelet.pixels.planned import LoadConfig, PlannedInput, options_of, planned, threads
from tubelet.reading.tar import MemberFile, Piece
from tubelet.scale.options import EncodeOptions, flat
from tubelet.scale.sources import Listing, is_archive, list_sources, manifest_digests, members_of
from tubelet.scale.store import Store

PLAN, VERSION = "plan.json", 1
WINDOW = 65_536
MAX_PLAN_VALUES = 200_000_000  # two for each shard
Kind = Literal["picture", "clip", "unknown"]
Progress = Callable[[int], None]
"""Called after each file that was looked at, with how many are done."""


@dataclass(frozen=True)
class PlannedFile:
    """One line of a plan."""

    id: int
    source: str  # a path as it was named, or ARCHIVE:MEMBER
    bytes: int
    rows: int  # patches before the encoder; 0 where its header could not be read
    kind: Kind
    shard: int
    offset: int | None = None  # of a member's first byte in its archive


@dataclass(frozen=True)
class Part:
    """One window of the plan."""

    file: str  # in the store
    sha256: str
    first: int  # id of its first file
    files: int
    source: str  # of its first file; of an archive its path
    shard: int  # its first one
    shards: tuple[tuple[int, int], ...]  # files and rows of each
    archive: bool = False
    bytes: int = 0  # of the archive


@dataclass(frozen=True)
class Plan:
    """A whole plan without its lines, which `files_of` reads."""

    options: EncodeOptions
    sources: tuple[str, ...]  # as they were given
    folder: str  # that relative names start from
    parts: tuple[Part, ...]
    manifests: tuple[tuple[str, str], ...] = ()  # lists that were given, and the sha256 of each
    left_out: int = 0  # files of the folders that are no picture, clip or archive

    @property
    def files(self) -> int:
        return sum(part.files for part in self.parts)

    @property
    def shards(self) -> int:
        return sum(len(part.shards) for part in self.parts)

    @cached_property
    def rows(self) -> int:
        return sum(rows for part in self.parts for _, rows in part.shards)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of everything in it."""
        return hashlib.sha256(json.dumps(self._said(), sort_keys=True).encode()).hexdigest()

    def size_of(self, shard: int) -> tuple[int, int]:
        """Files and rows of a shard."""
        part = self.part_of_shard(shard)
        return part.shards[shard - part.shard]

    def part_of_shard(self, shard: int) -> Part:
        return self.parts[bisect_right(self._shard_starts, shard) - 1]

    def part_of_id(self, number: int) -> Part:
        return self.parts[bisect_right(self._id_starts, number) - 1]

    @cached_property
    def _shard_starts(self) -> list[int]:
        return [part.shard for part in self.parts]

    @cached_property
    def _id_starts(self) -> list[int]:
        return [part.first for part in self.parts]

    def _said(self) -> dict[str, Any]:
        counts = {"files": self.files, "shards": self.shards, "rows": self.rows, "left_out": self.left_out}
        head = {"version": VERSION, "options": self.options.as_dict(), "sources": list(self.sources)}
        head |= {"folder": self.folder, "manifests": dict(self.manifests), "counts": counts}
        return head | {
            "parts": [asdict(part) | {"shards": [list(pair) for pair in part.shards]} for part in self.parts]
        }

    def as_dict(self) -> dict[str, Any]:
        """What plan.json holds."""
        return {"fingerprint": self.fingerprint, **self._said()}


def shard_name(shard: int) -> str:
    """Where a shard is in a store.

    >>> shard_name(12_345)
    'shards/012/012345.safetensors'
    """
    return f"shards/{shard // 1000:03d}/{shard:06d}.safetensors"


def make_plan(
    sources: Sequence[str],
    options: EncodeOptions,
    store: Store,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan of everything that the sources mean (`list_sources`), written into the store; where there is one
    already, that one if it is the same, and no file is looked at again.

    workers: threads that read headers. Cost: one listing, and a header of each file, about 1,000 a second and thread.
    Raises PlanMismatch for a plan with other options, what `list_sources` raises, StoreError.
    """
    head = Plan(options, tuple(sources), os.getcwd(), ())  # noqa: PTH109
    if store.exists(PLAN):
        return same_plan(read_plan(store), replace(head, manifests=_sorted(manifest_digests(sources))))
    listing = list_sources(sources, without=store.place)
    head = replace(head, manifests=_sorted(listing.manifests), left_out=listing.left_out)
    return write_plan(head, _windows(listing, options), store, workers=workers, progress=progress)


def write_plan(
    head: Plan,
    windows: Iterable[Sequence[str] | Sequence[Piece]],
    store: Store,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """A plan of these windows. Raises as `make_plan`."""
    parts: list[Part] = []
    first = shard = 0
    for window in windows:
        lines = _cut(_probed(window, head.options, workers, progress, first), first, shard, head.options)
        text = "".join(json.dumps(asdict(line)) + "\n" for line in lines).encode()
        counts: dict[int, list[int]] = {}
        for line in lines:
            count = counts.setdefault(line.shard, [0, 0])
            count[0] += 1
            count[1] += line.rows
        one = window[0]
        inside = isinstance(one, Piece)
        part = Part(
            f"plan/{len(parts):05d}.jsonl",
            hashlib.sha256(text).hexdigest(),
            first,
            len(lines),
            one.archive if inside else one,
            shard,
            tuple((files, rows) for _, (files, rows) in sorted(counts.items())),
            inside,
            os.path.getsize(one.archive) if inside else 0,  # noqa: PTH202
        )
        store.replace(part.file, text)
        parts.append(part)
        first, shard = first + len(lines), shard + len(part.shards)
    if not parts:
        raise InputError("the archives hold no picture or clip", got=head.sources[:3])
    plan = replace(head, parts=tuple(parts))
    if not store.create(PLAN, (json.dumps(plan.as_dict(), indent=1) + "\n").encode()):
        return same_plan(read_plan(store), head)  # another run has planned at the same time
    return plan


def read_plan(store: Store) -> Plan:
    """The plan of a store. Raises StoreError where there is none, or one of another version."""
    if not store.exists(PLAN):
        raise StoreError("there is no plan.json: no run has begun here", source=store.place)
    said = strict_json(store.read(PLAN), StoreError, PLAN, most_values=MAX_PLAN_VALUES)
    try:
        if said["version"] != VERSION:
            raise StoreError(f"a plan of version {said['version']}, not {VERSION}", source=PLAN)
        parts = tuple(Part(**{**one, "shards": tuple((f, r) for f, r in one["shards"])}) for one in said["parts"])
        options = EncodeOptions.from_dict(said["options"])
        manifests, left_out = tuple(sorted(said["manifests"].items())), said["counts"]["left_out"]
        plan = Plan(options, tuple(said["sources"]), said["folder"], parts, manifests, left_out)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise StoreError("plan.json is damaged", source=PLAN) from e
    if plan.fingerprint != said["fingerprint"]:
        raise StoreError("plan.json was changed: its fingerprint is another", source=PLAN)
    return plan


def same_plan(plan: Plan, head: Plan) -> Plan:
    """The plan that is there, if it was made of the same sources with the same options.

    threads may be left open. Raises PlanMismatch naming every field that differs.
    """
    free = {} if head.options.threads is not None else {"threads": plan.options.threads}
    then, now = ({**flat(p.options.as_dict()), "sources": list(p.sources), **_lists(p)} for p in (plan, head))
    now |= free
    if any(not os.path.isabs(name) for name in plan.sources):  # noqa: PTH117
        then["folder"], now["folder"] = plan.folder, head.folder
    names = sorted({*then, *now})
    fields = {
        name: (then.get(name), now.get(name)) for name in names if _plain(then.get(name)) != _plain(now.get(name))
    }
    if fields:
        said = "; ".join(f"{name} was {old!r} and is {new!r}" for name, (old, new) in fields.items())
        error = PlanMismatch(f"the output was begun with other options: {said}"[:2000])
        error.fields = fields
        raise error
    return plan


def files_of(plan: Plan, part: Part, store: Store) -> list[PlannedFile]:
    """The lines of one window, in order of ids. Raises StoreError where it is not what plan.json says."""
    text = store.read(part.file)
    if hashlib.sha256(text).hexdigest() != part.sha256:
        raise StoreError(
            "this part of the plan is not what plan.json says: it was changed or is damaged", source=part.file
        )
    return [PlannedFile(**json.loads(line)) for line in text.splitlines()]


# ---- inside


def _sorted(digests: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(digests.items()))


def _lists(plan: Plan) -> dict[str, Any]:
    return {f"manifest {name}": digest for name, digest in plan.manifests}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _windows(listing: Listing, options: EncodeOptions) -> Iterator[Sequence[str] | Sequence[Piece]]:
    """Runs of at most WINDOW files, archives by themselves."""
    run: list[str] = []
    for name in listing.names:
        if is_archive(name) or len(run) == WINDOW:
            if run:
                yield run
            run = []
        if is_archive(name):
            pieces = members_of(name, options.job.limits)
            yield from (pieces[i : i + WINDOW] for i in range(0, len(pieces), WINDOW))
        else:
            run.append(name)
    if run:
        yield run


def _probed(
    window: Sequence[str] | Sequence[Piece],
    options: EncodeOptions,
    workers: int | None,
    progress: Progress | None,
    first: int,
) -> Iterator[PlannedFile]:
    """Every file with its size and its rows, from its header; id and shard are still to come."""
    trusted = "never" if isinstance(window[0], Piece) and options.isolate == "auto" else options.isolate
    how = options_of(LoadConfig(options.recipe, options.job, trusted), "skip", workers)
    with threads(how.workers) as pool:
        plans = planned(pool, (_opened(one) for one in window), how)
        for i, (one, plan) in enumerate(zip(window, plans, strict=True)):
            kind: Kind = "unknown" if plan.item is None else "clip" if plan.moves else "picture"
            if isinstance(one, Piece):
                found = PlannedFile(i, f"{one.archive}:{one.name}", one.size, plan.rows, kind, 0, one.offset)
            else:
                found = PlannedFile(i, one, _size(one), plan.rows, kind, 0)
            yield found
            if progress is not None:
                progress(first + i + 1)


def _opened(one: str | Piece) -> Any:
    return one if isinstance(one, str) else MemberFile(one)


def _size(path: str) -> int:
    """In bytes; 0 where nothing is there."""
    try:
        return os.path.getsize(path)  # noqa: PTH202
    except (OSError, ValueError):
        return 0


def _cut(files: Iterable[PlannedFile], first: int, shard: int, options: EncodeOptions) -> list[PlannedFile]:
    """The files of one window with their ids and shards, in order of ids."""
    lines = list(files)
    inside = any(line.offset is not None for line in lines)
    order = range(len(lines)) if inside else sorted(range(len(lines)), key=lambda i: lines[i].rows.bit_length())
    rows = count = 0
    number = shard
    shards = [0] * len(lines)
    for i in order:
        if count and (rows + lines[i].rows > options.shard_tokens or count == options.shard_files):
            number, rows, count = number + 1, 0, 0
        shards[i] = number
        rows, count = rows + lines[i].rows, count + 1
    return [replace(line, id=first + i, shard=shards[i]) for i, line in enumerate(lines)]


def planned_error(source: Any, name: str, config: LoadConfig, error: TubeletError) -> PlannedInput:
    """A file that is not to be opened, in the place of its plan: loading reports the error."""
    return PlannedInput(source, name, config, error=error.placed(source=name))
