"""Which samples every rank sees at every step: a pure function of seed and step, with numpy alone.

    epoch 0, permuted      epoch 1, permuted
    [..|...|....|..|...|.. ..|...|....|..          |  borders of batches of at most `budget` tokens
    [    step 0    |    step 1    |  step 2        a step is world x accumulation neighbouring batches

The samples of a stream of epochs are cut into batches greedily; the tail of an epoch is joined with the head of the
next, so none is dropped and none repeated. Inside a step samples are dealt over its batches, and batches over ranks, by
falling cost, largest first to the least loaded. Nothing is stored: a restart computes the same step again.
"""

import heapq
import io
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from tubelet.errors import ConfigError, DataError, LimitError
from tubelet.writing import new_file

MAX_SEED = 2**63  # seeds are one word of Philox's key
_KEPT_EPOCHS = 3  # in memory: a step at a border reads two
_SPARE, _DRAW = 1, 2  # words of Philox's counter that keep the uses of one seed apart; an order has 0


class Cost(NamedTuple):
    """Work of a sample of n tokens, quadratic n^2 + linear n + constant, in any unit."""

    quadratic: float = 0.0
    linear: float = 1.0
    constant: float = 0.0


BY_TOKENS = Cost()


class MicroBatch(NamedTuple):
    """What one rank computes at once."""

    number: int  # its place in the step, 0 to world x accumulation - 1; seeds are made from it
    ids: tuple[int, ...]  # sample numbers, in the order of the stream


class _Epoch(NamedTuple):
    ids: np.ndarray  # (N,) sample numbers, permuted
    starts: np.ndarray  # where in `ids` a batch starts
    first: int  # number of the first of these batches, counted from the beginning of the run
    left: int  # tokens for which the last batch still has room when the next epoch begins


class Batches:
    """`at(step)` for samples with known token counts.

    The set of samples of a step, and its micro-batches, depend on world x accumulation and not on world alone.
    Cost: the first `at` in an epoch sorts it (about 0.3 s for a million samples), others read what is kept.
    Raises LimitError for a sample that fits no batch.

        >>> batches = Batches([3, 2, 4, 1, 2], budget=5, seed=7, world=2)
        >>> [[micro.ids for micro in rank] for rank in batches.at(0)]
        [[(3, 2)], [(4, 1)]]
    """

    def __init__(
        self,
        tokens: Sequence[int] | np.ndarray,  # of each sample, at least 1
        budget: int,  # tokens a micro-batch may hold
        *,
        seed: int = 0,
        world: int = 1,  # ranks
        accumulation: int = 1,  # micro-batches of a rank in one step
        cost: Cost = BY_TOKENS,
    ) -> None:
        self.tokens = np.ascontiguousarray(tokens, dtype=np.int64)
        self.budget, self.seed, self.world, self.accumulation, self.cost = budget, seed, world, accumulation, cost
        _check_seed(seed)
        if world < 1 or accumulation < 1:
            raise ConfigError(f"world {world} and accumulation {accumulation} must be 1 or more")
        if self.tokens.ndim != 1 or not len(self.tokens):
            raise DataError(f"there must be one token count a sample, got shape {self.tokens.shape}")
        least, most = int(self.tokens.argmin()), int(self.tokens.argmax())
        if self.tokens[least] < 1:
            raise LimitError("a sample must have a token", item=least, limit=1, got=int(self.tokens[least]))
        if self.tokens[most] > budget:
            n = int(self.tokens[most])
            raise LimitError(f"a sample of {n:,} tokens fits no batch of {budget:,}", item=most, limit=budget, got=n)
        self._total = int(self.tokens.sum())
        self._firsts = [0]  # of epoch e: how many batches start before it
        self._lefts = [0]  # of epoch e: the room that the batch before it has
        self._kept: dict[int, _Epoch] = {}
        self._by_length: np.ndarray | None = None

    @property
    def per_step(self) -> int:
        """Micro-batches of one step over all ranks."""
        return self.world * self.accumulation

    @property
    def fingerprint(self) -> str:
        """Digest of everything the order follows from; of world and accumulation only their product."""
        facts = (self.budget, self.seed, self.per_step, *self.cost)
        return sha256(repr(facts).encode() + self.tokens.tobytes()).hexdigest()

    def at(self, step: int) -> tuple[tuple[MicroBatch, ...], ...]:
        """The micro-batches of every rank, `at(step)[rank][k]`. Every rank has `accumulation` of them."""
        if step < 0:
            raise ConfigError(f"steps count from 0, got {step}", limit=0, got=step)
        first = step * self.per_step
        batches = [self._ids(number) for number in range(first, first + self.per_step)]
        micros = [MicroBatch(i, tuple(ids.tolist())) for i, ids in enumerate(self._balanced(batches))]
        loads = [float(self._costs(np.asarray(micro.ids)).sum()) for micro in micros]
        ranks: list[list[MicroBatch]] = [[] for _ in range(self.world)]
        totals = [0.0] * self.world
        for i in sorted(range(len(micros)), key=lambda i: (-loads[i], i)):
            rank = min((r for r in range(self.world) if len(ranks[r]) < self.accumulation), key=totals.__getitem__)
            ranks[rank].append(micros[i])
            totals[rank] += loads[i]
        return tuple(tuple(sorted(rank)) for rank in ranks)

    def epoch(self, step: int) -> int:
        """The epoch in which the step's first batch starts."""
        return self._place(step * self.per_step)[0]

    def steps(self, epochs: int) -> int:
        """How many steps it takes until every sample was seen `epochs` times."""
        self._reach(lambda: len(self._firsts) > epochs)
        return -(-self._firsts[epochs] // self.per_step)

    def spare(self, sample: int, attempt: int) -> int:
        """A sample to take in place of an unusable one: no longer than it, so that the budget holds; by seed, sample
        and attempt alone. Raises DataError when there is no other."""
        if self._by_length is None:
            self._by_length = np.argsort(self.tokens, kind="stable")
        length = self.tokens[sample]
        count = int(np.searchsorted(self.tokens[self._by_length], length, side="right"))
        if count < 2:
            raise DataError(f"no other sample has {length:,} tokens or fewer", item=sample, limit=int(length))
        place = _words(self.seed, sample, 1, counter=(attempt, _SPARE))[0] % count
        found = int(self._by_length[place])
        return found if found != sample else int(self._by_length[(place + 1) % count])

    # ---- the stream

    def _ids(self, number: int) -> np.ndarray:
        """Samples of one batch of the stream."""
        (epoch, start), (last, end) = self._place(number), self._place(number + 1)
        if epoch == last:
            return self._epoch(epoch).ids[start:end]
        between = [self._epoch(e).ids for e in range(epoch + 1, last)]
        return np.concatenate([self._epoch(epoch).ids[start:], *between, self._epoch(last).ids[:end]])

    def _place(self, number: int) -> tuple[int, int]:
        """Epoch and place in it where a batch starts."""
        self._reach(lambda: self._firsts[-1] > number)
        epoch = bisect_right(self._firsts, number) - 1
        return epoch, int(self._epoch(epoch).starts[number - self._firsts[epoch]])

    def _reach(self, far_enough: Callable[[], bool]) -> None:
        """Cut epochs, one after the other, until it is so."""
        while not far_enough():
            last = self._epoch(len(self._firsts) - 1)
            self._firsts.append(last.first + len(last.starts))
            self._lefts.append(last.left)

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._kept:
            while len(self._kept) >= _KEPT_EPOCHS:
                del self._kept[min(self._kept)]
            self._kept[epoch] = self._cut(epoch)
        return self._kept[epoch]

    def _cut(self, epoch: int) -> _Epoch:
        # Sorting raw words of the generator, not Generator.permutation: numpy promises the former to stay.
        ids = np.argsort(_words(self.seed, epoch, len(self.tokens)), kind="stable")
        sums = np.concatenate([[0], np.cumsum(self.tokens[ids])])
        left = self._lefts[epoch]
        at = int(np.searchsorted(sums, left, side="right")) - 1  # what the batch before takes of this epoch
        if at == len(ids):
            return _Epoch(ids, np.empty(0, np.int64), self._firsts[epoch], left - self._total)
        ends = (np.searchsorted(sums, sums[:-1] + self.budget, side="right") - 1).tolist()
        starts = []
        while at < len(ids):
            starts.append(at)
            at = ends[at]
        left = self.budget - (self._total - int(sums[starts[-1]]))
        return _Epoch(ids, np.array(starts, np.int64), self._firsts[epoch], left)

    # ---- the balance

    def _costs(self, ids: np.ndarray) -> np.ndarray:
        n = self.tokens[ids].astype(np.float64)
        return self.cost.quadratic * n * n + self.cost.linear * n + self.cost.constant

    def _balanced(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        """The same samples in as many batches of even cost; as they were where that does not fit the budget."""
        ids = np.concatenate(batches)
        costs, tokens = self._costs(ids).tolist(), self.tokens[ids].tolist()
        bins: list[list[int]] = [[] for _ in batches]
        rooms = [self.budget] * len(batches)
        heap = [(0.0, b) for b in range(len(batches))]
        for i in sorted(range(len(ids)), key=lambda i: (-costs[i], i)):
            full = []
            while heap and rooms[heap[0][1]] < tokens[i]:
                full.append(heapq.heappop(heap))
            if not heap:
                return batches
            load, b = heapq.heappop(heap)
            bins[b].append(i)
            rooms[b] -= tokens[i]
            for entry in (*full, (load + costs[i], b)):
                heapq.heappush(heap, entry)
        return [ids[sorted(chosen)] for chosen in bins] if all(bins) else batches


def seed_of(seed: int, step: int, number: int) -> int:
    """The seed of everything random in one micro-batch: dropout, masks, thinning. 0 to 2^63 - 1.

    number is the micro-batch's place in the step, so the same micro-batch draws the same on whatever rank it runs.
    """
    return int(_words(seed, step, 1, counter=(number, _DRAW))[0]) & (2**63 - 1)


def _words(seed: int, key: int, count: int, counter: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Raw 64-bit words of Philox."""
    words = np.random.Philox(key=[seed, key], counter=[0, 0, *counter]).random_raw(count)
    return np.asarray(words, dtype=np.uint64)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < MAX_SEED:
        raise ConfigError(f"a seed lies in 0 to 2^63 - 1, got {seed}", limit=MAX_SEED, got=seed)


def cached_tokens(
    path: str | os.PathLike[str], fingerprint: str, count: Callable[[], Sequence[int] | np.ndarray]
) -> np.ndarray:
    """(N,) int64 token counts of the file at `path` if it has the same `fingerprint`, else `count()`, written there.

    fingerprint: whatever changes when the counts would: the data set's digest, recipe and tokenizer. A damaged file is
    counted again. Raises RunError where the file cannot be written.

        >>> [cached_tokens("order.npz", "first", count).tolist() for count in (lambda: [3, 5], list)]
        [[3, 5], [3, 5]]
    """
    target = Path(path)
    try:
        # Opened here: numpy leaves a file open when its archive is damaged. A pipe would be waited for.
        if target.is_file():
            with target.open("rb") as file, np.load(file, allow_pickle=False) as held:
                if str(held["fingerprint"]) == fingerprint:
                    return np.asarray(held["tokens"], dtype=np.int64)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass  # not there, another program's, or cut short: counting is always right
    tokens = np.ascontiguousarray(count(), dtype=np.int64)
    archive = io.BytesIO()  # numpy leaves its archive open where a disk is full
    np.savez(archive, tokens=tokens, fingerprint=np.array(fingerprint))
    with new_file(target, lambda _: True) as beside:
        beside.write_bytes(archive.getvalue())  # a view would outlive the archive in an error's traceback
    return tokens
