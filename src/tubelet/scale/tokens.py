"""The results of a run, finished or not: by id, by file, or as packs to train with."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import torch
from safetensors import safe_open
from torch import Tensor

from tubelet.doors import doors
from tubelet.errors import InputError, StoreError
from tubelet.packed import Packed
from tubelet.packed.file import item_from
from tubelet.packed.header import read_header
from tubelet.scale.plan import PlannedFile, files_of, read_plan, shard_name
from tubelet.scale.status import done_shards
from tubelet.scale.store import Store, open_store
from tubelet.scale.words import ShardWords, shard_words

_HEADERS = 256  # of shards that are kept in memory


@doors
class TokenFolder:
    """What `tubelet encode FILES --out OUT/` writes. Ids count from 0 in the order of the plan.

    >>> from tubelet.scale import local, options, plan
    >>> recipe = tubelet.PixelRecipe(patch=16, max_pixels=20_000)
    >>> wanted = options.EncodeOptions("llava_vit_packing_small", "untrained, seed 0", recipe)
    >>> _ = plan.make_plan(["receipt.png"], wanted, open_store("out/"))
    >>> [report.state for report in local.run(open_store("out/"))]
    ['done']
    >>> TokenFolder("out/").by_file("receipt.png")
    Packed(T=77, D=384, float32, cpu, 1 items: [1x11x7])
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        """Raises StoreError where no run has begun."""
        self.store: Store = open_store(place)
        self.plan = read_plan(self.store)
        self._words = lru_cache(_HEADERS)(self._read_words)
        self._part = lru_cache(2)(self._read_part)

    def __len__(self) -> int:
        """Files of the plan, encoded or not."""
        return self.plan.files

    @property
    def done(self) -> tuple[int, ...]:
        """The shards that are there. Cost: one listing."""
        return tuple(sorted(done_shards(self.plan, self.store)))

    def file(self, number: int) -> PlannedFile:
        """What the plan says of a file. Raises IndexError, which ends loops."""
        if not 0 <= number < len(self):
            raise IndexError(f"file {number} of {len(self):,}")
        part = self.plan.part_of_id(number)
        return self._part(self.plan.parts.index(part))[number - part.first]

    def id_of(self, source: str) -> int:
        """The id of a file by its name as it stands in the plan. Raises InputError for one that is not planned."""
        key = os.fsencode(source)
        starts = [i for i, part in enumerate(self.plan.parts) if os.fsencode(part.source) <= key]
        for i in reversed(starts):
            part = self.plan.parts[i]
            if part.archive and not source.startswith(f"{part.source}:"):
                continue
            for file in self._part(i):
                if file.source == source:
                    return file.id
            if not part.archive:
                break
        raise InputError("no such file is in the plan", source=source)

    def __getitem__(self, number: int) -> Packed:
        """The tokens of one file, on the host. Cost: its bytes; of a bucket those of its shard.

        Raises IndexError; StoreError where its shard is not there yet; InputError where the file could not be encoded,
        saying why.
        """
        file = self.file(number)
        words = self._words(file.shard)
        place = words.ids.index(number)
        for said in words.bad:
            if said["id"] == number:
                raise InputError(f"it could not be encoded: {said['error']}: {said['message']}", source=file.source)
        n = next(i for i, item in enumerate(words.items) if item["picture"] == place)
        first = sum(words.lengths[:n])
        rows = slice(first, first + words.lengths[n])
        with self.store.local(shard_name(file.shard)) as path, safe_open(str(path), framework="pt") as opened:
            x, pos = (opened.get_slice(name)[rows] for name in ("x", "pos"))
        return Packed(x, pos, (item_from(words.items[n] | {"picture": 0}),), (words.lengths[n],))

    def by_file(self, source: str) -> Packed:
        """The tokens of a file by its name. Raises as `id_of` and indexing."""
        return self[self.id_of(source)]

    def pooled(self, shard: int) -> tuple[tuple[int, ...], Tensor]:
        """Ids and pooled vectors of a shard. Raises StoreError where none were stored."""
        words = self._words(shard)
        with self.store.local(shard_name(shard)) as path, safe_open(str(path), framework="pt") as opened:
            if "pooled" not in words.sha256:
                raise StoreError("the run stored no pooled vectors", source=shard_name(shard))
            return tuple(words.ids[item["picture"]] for item in words.items), opened.get_tensor("pooled")

    def packs(
        self, max_tokens: int, *, seed: int | None = None, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[tuple[int, ...], Packed]]:
        """Ids and tokens of whole files, at most `max_tokens` a pack where one file has not more, over what is done.

        seed: shards, and the files in each, in an order drawn from it; without one in order. rank, world: shards
        rank, rank + world, ... of that order, so that processes share them. `picture` counts inside a pack. Cost: one
        shard in memory. Raises InputError for numbers that mean nothing.
        """
        if max_tokens < 1 or not 0 <= rank < world:
            text = f"max_tokens from 1 and rank below world, got {max_tokens}, {rank} of {world}"
            raise InputError(text, limit=1, got=(max_tokens, rank, world))
        shards = list(self.done)
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        order = range(len(shards)) if draw is None else torch.randperm(len(shards), generator=draw).tolist()
        for k in [shards[i] for i in order][rank::world]:
            own = None if seed is None else torch.Generator().manual_seed(hash((seed, k)) & (1 << 62) - 1)
            yield from self._packs_of(k, max_tokens, own)

    # ---- inside

    def _packs_of(
        self, shard: int, most: int, draw: torch.Generator | None
    ) -> Iterator[tuple[tuple[int, ...], Packed]]:
        words = self._words(shard)
        with self.store.local(shard_name(shard)) as path:
            whole = Packed.load(path)
        order = range(len(whole)) if draw is None else torch.randperm(len(whole), generator=draw).tolist()
        group: list[int] = []
        rows = 0
        for i in (*order, None):
            if group and (i is None or rows + whole.lengths[i] > most):
                chosen = whole.reorder(group)
                ids = tuple(words.ids[item.picture] for item in chosen.items)
                items = tuple(replace(item, picture=n) for n, item in enumerate(chosen.items))
                yield ids, Packed(chosen.x, chosen.pos, items, chosen.lengths)
                group, rows = [], 0
            if i is not None:
                group.append(i)
                rows += whole.lengths[i]

    def _read_words(self, shard: int) -> ShardWords:
        name = shard_name(shard)
        if not self.store.exists(name):
            raise StoreError("this shard is not there yet", source=name)
        with self.store.head(name) as path:
            return shard_words(read_header(path))

    def _read_part(self, index: int) -> list[PlannedFile]:
        return files_of(self.plan, self.plan.parts[index], self.store)

    def __repr__(self) -> str:
        return (
            f"TokenFolder({self.store.place!r}, {len(self):,} files, {len(self.done):,} of {self.plan.shards:,} shards)"
        )
