"""Vision features kept by content: an item seen again in a later turn is not encoded again.

The key is a hash over everything that decides the features, each part told apart from its neighbours by its kind and
length: ("ab", "c") and ("a", "bc") have different keys, a picture and a clip of the same bytes have different keys, and
so have the same bytes under another recipe, shape or type.
"""

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tubelet.errors import ConfigError
from tubelet.packed import Packed

FORMAT = "tubelet-features-1"
DEFAULT_BYTES = 1 << 30
_ENTRY_BYTES = 512  # of the host, for the key and the objects of one entry


def content_key(*parts: bytes | str | int | float | Tensor) -> str:
    """64 hex digits that differ when any part does: its kind, its length and its bytes are hashed, in order.

    A tensor's parts are its type, its shape and its values (copied to the host: a sync on an accelerator). Cost: about
    a second for every gigabyte.

        >>> content_key("ab", "c") == content_key("a", "bc")
        False
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        if isinstance(part, Tensor):
            _feed(digest, b"T", f"{part.dtype} {tuple(part.shape)}".encode())
            _feed(digest, b"D", part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(part, bytes):
            _feed(digest, b"b", part)
        elif isinstance(part, str):
            _feed(digest, b"s", part.encode("utf-8", "surrogatepass"))
        elif isinstance(part, int):
            _feed(digest, b"i", str(int(part)).encode())
        else:
            _feed(digest, b"f", struct.pack("<d", part))
    return digest.hexdigest()


def _feed(digest: "hashlib.blake2b", kind: bytes, data: object) -> None:
    view = memoryview(data)  # pyright: ignore[reportArgumentType]  bytes or an array of bytes
    digest.update(kind + struct.pack("<Q", view.nbytes))
    digest.update(view)


def item_key(p: Packed, index: int, decoder: str, options: str) -> str:
    """The key of item `index` of patches: what cut its pixels (`decoder`), what reads them (`options`), whether its
    rows are pixels or floats, picture or clip, its grid, and the values and places of its rows.

    Its number in the pack, its box and its times are left out: they do not change its features.
    """
    item, start, stop = p.items[index], p.starts[index], p.starts[index + 1]
    mode = f"{p.dtype} {'picture' if item.grid.t == 1 else 'clip'}"
    return content_key(FORMAT, decoder, options, mode, *item.grid, p.x[start:stop], p.pos[start:stop].to(torch.int64))


@dataclass
class Counts:
    """What a cache has done so far."""

    hits: int = 0
    misses: int = 0
    evicted: int = 0


@dataclass(eq=False)
class FeatureCache:
    """Tensors of items by key, at most `limit_bytes` of them; the longest unused go first. limit_bytes=0 keeps none.

    What is larger than the limit is not kept; an entry counts 512 bytes beside its tensors, so that empty ones are
    bounded too. Values stay on their device and must not be written to. Threads may share a cache; a copy of it
    (`copy.deepcopy` of a model, say) begins empty.

        >>> cache = FeatureCache(limit_bytes=1000)
        >>> cache.put("a", (torch.zeros(10),))
        >>> cache.get("a")[0].shape, cache.counts.hits
        (torch.Size([10]), 1)
    """

    limit_bytes: int = DEFAULT_BYTES
    counts: Counts = field(default_factory=Counts)
    _kept: "OrderedDict[str, tuple[Tensor, ...]]" = field(default_factory=OrderedDict, init=False, repr=False)
    _bytes: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.limit_bytes < 0:
            raise ConfigError(f"a cache has at least 0 bytes, got {self.limit_bytes}", limit=0, got=self.limit_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureCache, (self.limit_bytes,)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        return self._bytes

    def get(self, key: str) -> tuple[Tensor, ...] | None:
        """The tensors of a key, which is now the last one used; None where there are none."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.counts.misses += 1
                return None
            self._kept.move_to_end(key)
            self.counts.hits += 1
            return found

    def put(self, key: str, tensors: Iterable[Tensor]) -> None:
        """Keep tensors under a key, each in memory of its own: a view would keep its neighbours alive."""
        given = tuple(tensors)
        size = _size(given)
        own = tuple(t.detach().clone() for t in given) if size <= self.limit_bytes else None
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes -= 0 if old is None else _size(old)
            if own is None:
                return
            self._kept[key] = own
            self._bytes += size
            while self._bytes > self.limit_bytes:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
                self.counts.evicted += 1

    def clear(self) -> None:
        """Forget everything; the counts stay."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


def _size(tensors: Iterable[Tensor]) -> int:
    return _ENTRY_BYTES + sum(t.nbytes for t in tensors)
