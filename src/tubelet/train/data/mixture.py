"""Several data sets as one, whole or in part, and Spatial-MLLM's registry of them.

registry  {"scanqa": {"annotation_path": "scanqa.jsonl", "data_path": "videos"}, ...}
asked     "scanqa%50,sqa3d"      half of the first, chosen by the seed, and all of the second
"""

import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from tubelet.errors import ConfigError, InputError
from tubelet.packed.header import open_regular
from tubelet.shapes import Int64
from tubelet.train.data.record import parse_json
from tubelet.train.data.sample import Dataset, Sample, placed

MAX_REGISTRY_BYTES = 4 << 20
FIELDS = {"annotation_path", "data_path"}


def generator(*key: object) -> np.random.Generator:
    """numpy's Philox for a key of texts and numbers: the same numbers on every machine."""
    digest = hashlib.sha256(repr(key).encode("utf-8", "replace")).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], np.uint64)))


@dataclass(frozen=True)
class Part:
    """Some samples of a data set, in its order."""

    dataset: Dataset
    chosen: Int64[np.ndarray, " n"]  # their numbers there, ascending

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.dataset.fingerprint.encode() + self.chosen.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.chosen[placed(index, len(self), self.name)])]


def part_of(dataset: Dataset, percent: int, seed: int) -> Dataset:
    """`percent` of the samples, rounded down, chosen by the seed and the data set's name; itself for 100.

    Raises InputError for other percentages than 1 to 100. Source: diankun-wu/Spatial-MLLM:src/qwenvl/data@9fc4738 takes
    random.sample(annotations, int(n * rate)), without a seed of its own and with rate as a float (29 % of 100 are 28).
    """
    if not 1 <= percent <= 100:
        raise InputError(f"a percentage is 1 to 100, got {percent}", source=dataset.name, limit=100, got=percent)
    if percent == 100:
        return dataset
    order = generator("part", seed, dataset.name).permutation(len(dataset))
    return Part(dataset, np.sort(order[: len(dataset) * percent // 100]).astype(np.int64))


@dataclass(frozen=True)
class Mixture:
    """Data sets one after the other. Raises InputError without any sample."""

    parts: tuple[Dataset, ...]
    ends: tuple[int, ...] = ()  # samples up to the end of each; counted here

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", tuple(accumulate(len(p) for p in self.parts)))
        if not self.ends or not self.ends[-1]:
            raise InputError("there is not one sample", source=self.name or None)

    @property
    def name(self) -> str:
        return ", ".join(p.name for p in self.parts)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("".join(p.fingerprint for p in self.parts).encode()).hexdigest()

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Sample:
        number = placed(index, len(self), self.name)
        i = bisect_right(self.ends, number)
        return self.parts[i][number - (self.ends[i - 1] if i else 0)]


@dataclass(frozen=True)
class Entry:
    """A data set of a registry."""

    annotation_path: str  # relative to the registry's folder, or absolute
    data_path: str  # where its pictures and clips are; "" is the registry's folder


def read_registry(file: str | os.PathLike[str]) -> dict[str, Entry]:
    """The data sets that a JSON file names. Raises InputError, and ConfigError for other fields than the two.

    >>> Path("sets.json").write_text('{"a": {"annotation_path": "a.jsonl", "data_path": ""}}')
    54
    >>> read_registry("sets.json")["a"].annotation_path
    'a.jsonl'
    """
    name = os.fsdecode(file)
    try:
        with open_regular(Path(name), InputError) as f:
            data = f.read(MAX_REGISTRY_BYTES + 1)
    except OSError as e:
        raise InputError(f"the registry cannot be read: {e.strerror or type(e).__name__}", source=name) from e
    if len(data) > MAX_REGISTRY_BYTES:
        raise InputError("the registry is too large", source=name, limit=MAX_REGISTRY_BYTES, got=len(data))
    said = parse_json(data, name)
    if not isinstance(said, dict) or not said:
        raise ConfigError("a registry is an object of data sets", source=name, got=type(said).__name__)
    folder = Path(name).parent
    found: dict[str, Entry] = {}
    for key, entry in said.items():
        if (
            not isinstance(entry, Mapping)
            or entry.keys() != FIELDS
            or not all(isinstance(v, str) for v in entry.values())
        ):
            shown = repr(entry)[:80]
            raise ConfigError(
                f"{key!r} has the texts annotation_path and data_path, got {shown}", source=name, got=shown
            )
        if re.search(r"%\d*$|,", key):
            raise ConfigError(f"a name has no comma and no percentage, got {key!r}", source=name, got=key)
        found[key] = Entry(str(folder / entry["annotation_path"]), str(folder / entry["data_path"]))
    return found


def asked(text: str, known: Sequence[str]) -> list[tuple[str, int]]:
    """Names and percentages of "a%50,b". Raises InputError for a name that is not known.

    >>> asked("a%50,b", ["a", "b"])
    [('a', 50), ('b', 100)]
    """
    found: list[tuple[str, int]] = []
    for one in text.split(","):
        match = re.fullmatch(r"(.*?)(?:%(\d{1,3}))?", one.strip(), re.DOTALL)
        name, percent = (match[1], match[2]) if match else (one, None)
        if name not in known:
            raise InputError(f"no data set {name!r}; there are {', '.join(known)}", expected=tuple(known), got=name)
        found.append((name, 100 if percent is None else int(percent)))
    return found
