"""The content of one shard: a pack of tokens, with who is in it and who is not."""

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tubelet.errors import TubeletError
from tubelet.packed import Item
from tubelet.scale.encode import Encoded


class Bad(NamedTuple):
    """A file without tokens."""

    place: int  # in its shard
    error: TubeletError

    def as_dict(self, number: int) -> dict[str, Any]:
        """As JSON. number: its id."""
        said = self.error
        return {"id": number, "source": said.source, "error": type(said).__name__, "message": said.message}


@dataclass
class ShardContent:
    """What a shard will hold, as it grows."""

    x: list[Tensor] = field(default_factory=list)
    pos: list[Tensor] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)  # `picture` is the place of the file in the shard
    lengths: list[int] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    incomplete: list[int] = field(default_factory=list)  # places of clips that break off
    seconds: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Bad files by the name of their error."""
        return dict(Counter(type(one.error).__name__ for one in self.bad))

    def add(self, made: Encoded, items: Sequence[Item]) -> None:
        """The tokens of one pack."""
        self.x.append(made.tokens.x)
        self.pos.append(made.tokens.pos.to(torch.int32))
        self.items += items
        self.lengths += made.tokens.lengths
        if made.pooled is not None:
            self.pooled.append(made.pooled)

    def parts(self, empty: Tensor, words: Mapping[str, str]) -> tuple[Any, ...]:
        """What `pack_bytes` takes. The packs are given up for it. empty: the tokens, where there is none."""
        x = torch.cat(self.x) if self.x else empty
        self.x.clear()
        pos = torch.cat(self.pos) if self.pos else torch.zeros(0, 3, dtype=torch.int32)
        tensors = {"pooled": torch.cat(self.pooled)} if self.pooled else {}
        digests = {name: digest(t) for name, t in {"x": x, "pos": pos, **tensors}.items()}
        said = {**words, "sha256": json.dumps(digests)}
        return x, pos, self.items, self.lengths, tensors, said


def digest(tensor: Tensor) -> str:
    """The sha256 of a tensor's values, as they lie in a file."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    values: Any = flat.numpy()  # a buffer, without a copy
    return hashlib.sha256(values).hexdigest()


@lru_cache(maxsize=4)
def host_kind(device: str) -> str:
    """What computes: results are equal bit by bit on one kind, and nearly so on another."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
