"""What is said of a shard: by the worker that had it, and in its file. No torch: for those who watch a run."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tubelet.errors import UnsafeFile
from tubelet.packed.header import Header, strict_json

State = Literal["done", "skipped", "busy", "lost_race"]


@dataclass(frozen=True)
class Report:
    """What became of one shard: small, because it travels through engines."""

    shard: int
    state: State  # skipped: it was there; busy: another works on it; lost_race: another was first
    files: int = 0
    tokens: int = 0  # written
    bytes: int = 0  # written
    bad: dict[str, int] = field(default_factory=dict)  # files that could not be encoded, by the name of the error
    deaths: int = 0  # of earlier attempts
    seconds: float = 0.0

    @property
    def bad_files(self) -> int:
        return sum(self.bad.values())


class ShardWords(NamedTuple):
    """What stands beside the tensors of a shard."""

    ids: tuple[int, ...]
    files: tuple[str, ...]
    bad: tuple[dict[str, Any], ...]
    lengths: tuple[int, ...]
    items: tuple[dict[str, Any], ...]
    sha256: dict[str, str]
    fingerprint: str
    seconds: float
    incomplete: frozenset[int]


def shard_words(header: Header) -> ShardWords:
    """The words in the header of a shard. Raises UnsafeFile for a file that is none."""
    meta = header.metadata
    source = header.path.name
    try:
        ids, files, bad, lengths, items, digests, incomplete = (
            strict_json(meta[name].encode(), UnsafeFile, source, any_number=True, most_values=1_000_000)
            for name in ("ids", "files", "bad", "lengths", "items", "sha256", "incomplete")
        )
        agree = len(ids) == len(files) and len(items) == len(lengths) and {one["id"] for one in bad} <= set(ids)
        if not agree or not all(0 <= item["picture"] < len(ids) for item in items):
            raise UnsafeFile("the words of the shard contradict each other", source=source)
        own = (tuple(ids), tuple(files), tuple(bad), tuple(lengths), tuple(items), dict(digests))
        return ShardWords(*own, meta["fingerprint"], float(meta["seconds"]), frozenset(incomplete))
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise UnsafeFile("not a shard of a run", source=source) from e
