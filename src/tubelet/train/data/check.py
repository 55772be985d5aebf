"""What is wrong with a data set, before a run finds out: records, files, placeholders, duplicates, lengths."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from tubelet.errors import AlignmentError, DecodeError, TubeletError, UnsafePath
from tubelet.shapes import Int64
from tubelet.train.data.mixture import generator
from tubelet.train.data.sample import Dataset, Media, Sample
from tubelet.train.data.spare import BadSample

RECORDS, FILES = 20_000, 500  # samples read, and those whose files are looked into, unless all are asked for
LISTED = 100  # faults that are told one by one
BINS = 24

Measure = Callable[[Sample], int]
"""Tokens of a sample, from the headers of its pictures and clips. Raises TubeletError."""


@dataclass
class Checked:
    """What `check` found. Counts are of the samples that were read, `samples` of all."""

    name: str
    samples: int = 0
    read: int = 0  # samples whose record was read
    looked: int = 0  # of these, those whose pictures' and clips' headers were read
    holds: Counter[str] = field(default_factory=Counter)  # samples with text only, an image, images, a video, both ...
    media: Counter[str] = field(default_factory=Counter)  # pictures and clips that samples name
    turns: int = 0
    letters: int = 0  # of all turns
    faults: Counter[str] = field(default_factory=Counter)  # samples by what is wrong with them
    listed: list[tuple[str, BadSample]] = field(default_factory=list)  # the first LISTED
    same_id: int = 0  # samples whose id another one has
    same_content: int = 0  # samples that say what another one says of the same files
    tokens: Int64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.int64))  # of those looked into

    @property
    def bad(self) -> int:
        return self.faults.total()

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        said = {k: v for k, v in self.__dict__.items() if k not in ("holds", "media", "faults", "listed", "tokens")}
        faults = [{"kind": kind, **one.__dict__} for kind, one in self.listed]
        counts = {name: dict(getattr(self, name).most_common()) for name in ("holds", "media", "faults")}
        return said | counts | {"bad": self.bad, "listed": faults, "tokens": describe(self.tokens)}


def check(
    dataset: Dataset,
    *,
    records: int | None = RECORDS,
    files: int | None = FILES,
    measure: Measure | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """What is in a data set and what is wrong with it. records, files: how many samples are read, and of how many the
    pictures and clips are looked into, chosen by the seed; None for all. measure: counts tokens of these. progress:
    told how many are done, of how many.

    Whether a file is there is asked for every sample that is read. Cost: a record and a look at each of its files'
    names, and what `measure` costs. Raises nothing about samples: what they raise is counted.
    """
    found = Checked(dataset.name, len(dataset))
    order = generator("check", seed).permutation(len(dataset))
    wanted = np.sort(order[:records]).tolist()
    looked = set(order[:files].tolist())
    ids: set[str] = set()
    contents: set[bytes] = set()
    there: dict[str, bool] = {}
    tokens: list[int] = []
    for done, index in enumerate(wanted, 1):
        try:
            sample = dataset[index]
        except TubeletError as e:
            _note(found, _kind(e), BadSample.of(index, e, dataset.name))
        else:
            _count(found, sample, ids, contents)
            missing = next((m for m in sample.media if not _there(m, there)), None)
            if missing is not None:
                bad = BadSample(index, sample.where, "InputError", f"there is no file {missing.name}")
                _note(found, "missing file", bad)
            elif measure is not None and index in looked:
                found.looked += 1
                try:
                    tokens.append(measure(sample))
                except TubeletError as e:
                    kind = "placeholders" if isinstance(e, AlignmentError) else "unreadable file"
                    _note(found, kind, BadSample.of(index, e, sample.where))
        found.read = done
        if progress is not None and (done % 64 == 0 or done == len(wanted)):
            progress(done, len(wanted))
    found.tokens = np.array(tokens, np.int64)
    return found


def _kind(error: TubeletError) -> str:
    if isinstance(error, DecodeError):
        return "broken JSON"
    if isinstance(error, AlignmentError):
        return "placeholders"
    return "unsafe name" if isinstance(error, UnsafePath) else "wrong form"


def _note(found: Checked, kind: str, bad: BadSample) -> None:
    found.faults[kind] += 1
    if len(found.listed) < LISTED:
        found.listed.append((kind, bad))


def _count(found: Checked, sample: Sample, ids: set[str], contents: set[bytes]) -> None:
    kinds = Counter(m.kind for m in sample.media)
    words = [kind if n == 1 else f"several {kind}s" for kind, n in kinds.items()]
    found.holds[" and ".join(sorted(words)) or "text only"] += 1
    found.media.update(kinds)
    found.turns += len(sample.turns)
    found.letters += sum(len(turn.text) for turn in sample.turns)
    content = repr((sample.turns, tuple(m.name for m in sample.media))).encode("utf-8", "replace")
    digest = blake2b(content, digest_size=16).digest()
    found.same_id += sample.id in ids
    found.same_content += digest in contents
    ids.add(sample.id)
    contents.add(digest)


def _there(media: Media, known: dict[str, bool]) -> bool:
    if not isinstance(media.source, str):
        return True  # a piece of an archive that was indexed
    if media.source not in known:
        known[media.source] = os.path.isfile(media.source)  # noqa: PTH113  that of Path raises where a name is too long
    return known[media.source]


# ---- lengths


def histogram(tokens: Int64[np.ndarray, " n"]) -> tuple[list[int], list[int]]:
    """Borders of at most BINS + 1 bins of one round width, one more than there are bins, and how many are in each.

    >>> histogram(np.array([3, 4, 52]))
    ([0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    """
    least, most = int(tokens.min()), int(tokens.max())
    width = next(f * 10**p for p in range(18) for f in (1, 2, 5) if f * 10**p * BINS > most - least)
    first = least // width
    counts = np.bincount(tokens // width - first)
    return [(first + i) * width for i in range(len(counts) + 1)], counts.tolist()


def describe(tokens: Int64[np.ndarray, " n"]) -> dict[str, Any] | None:
    """Sum, extremes, quantiles and histogram as plain values; None without any."""
    if not len(tokens):
        return None
    borders, counts = histogram(tokens)
    ordered: Sequence[int] = np.sort(tokens).tolist()
    at = {f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (5, 50, 95, 99)}
    return {
        "samples": len(tokens),
        "sum": int(tokens.sum()),
        "least": ordered[0],
        **at,
        "most": ordered[-1],
        "borders": borders,
        "counts": counts,
    }
