"""What a safetensors file says it holds, checked before any of it is believed.

    8 bytes        length n of the header, little endian
    n bytes        JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {..}}
    the rest       the tensors, end to end

The safetensors library refuses most lies itself. Here every one is refused with a typed error, and so are duplicate
names, which it accepts. Only the header is read: the cost does not grow with the tensors.
"""

import json
import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tubelet.errors import TubeletError, UnsafeFile, WeightsError

MAX_HEADER_BYTES = 32 << 20
MAX_SMALL_BYTES = 2 << 20  # configurations and templates; one with 21,843 class names is the largest known, 1.6 MB
MAX_INDEX_BYTES = 16 << 20  # which shard a tensor stands in; 140,000 tensors take 11 MB
MAX_VALUES = 100_000  # of one configuration, about half a second
MAX_DEPTH = 100  # objects and lists in one another; configurations of models have up to 10
MAX_HEADER_VALUES = 500_000  # of an index or a header, eight a tensor
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
FORMAT = "tubelet-packed-1"  # of a pack, in its metadata
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it; start and end count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked safetensors file."""

    path: Path
    tensors: dict[str, Entry]
    metadata: dict[str, str] = field(default_factory=dict)
    size: int = 0


def strict_json(
    text: bytes,
    error: type[TubeletError],
    source: str,
    *,
    any_number: bool = False,
    most_values: int = MAX_VALUES,
) -> Any:
    """JSON without duplicate names, NaN, infinities, numbers out of range or absurd depth; `error` is raised if not.

    any_number: NaN and infinities are for the caller to judge. most_values: counted, a little high, before a value is
    made, as what they cost is many times their bytes.
    """
    values = text.count(b",") + text.count(b"{") + text.count(b"[")
    if values > most_values:
        raise error(f"about {values:,} values", source=source, limit=most_values, got=values)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, value in pairs:
            if name in out:
                raise error(f"the name {name!r:.80} stands twice", source=source, got=name[:80])
            out[name] = value
        return out

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value) and not any_number:
            raise error(f"the number {digits:.40} is out of range", source=source, got=digits[:40])
        return value

    try:
        said = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_float=number, parse_constant=number)
    except RecursionError as e:
        raise error("the JSON is nested too deeply", source=source, limit=MAX_DEPTH) from e
    except ValueError as e:
        if isinstance(e, TubeletError):
            raise
        raise error("not valid JSON", source=source) from e
    level = (
        [said] if isinstance(said, (dict, list)) else []
    )  # how deep the parser itself goes differs from one Python to the next
    for _ in range(MAX_DEPTH):
        level = [value for node in level for value in (node.values() if isinstance(node, dict) else node)
                 if isinstance(value, (dict, list))]  # fmt: skip
        if not level:
            return said
    raise error("the JSON is nested too deeply", source=source, limit=MAX_DEPTH)


def open_regular(path: Path, error: type[TubeletError] = UnsafeFile, most_bytes: int | None = None) -> BinaryIO:
    """A regular file of at most `most_bytes`, open for reading; never waits, as opening a pipe would.

    The opener of every file but the pictures and clips that are read. Raises `error`, and OSError where there is none.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except ValueError as e:  # NUL, or letters that no name has
        raise error("no file can be called so", source=ascii(path.name)[1:-1]) from e
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise error("not a regular file", source=path.name)
        if most_bytes is not None and info.st_size > most_bytes:
            raise error(f"{info.st_size:,} bytes", source=path.name, limit=most_bytes, got=info.st_size)
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_small(path: Path, error: type[TubeletError], most_bytes: int = MAX_SMALL_BYTES) -> bytes:
    """The content of a regular file of at most `most_bytes`. Raises `error`."""
    try:
        with open_regular(path, error, most_bytes) as file:
            return file.read(most_bytes)
    except OSError as e:
        raise error("the file cannot be read", source=path.name) from e


def read_header(path: Path) -> Header:
    """The header of one safetensors file, checked whole. Raises UnsafeFile saying what is wrong."""
    source = path.name
    try:
        with open_regular(path) as file:
            info = os.fstat(file.fileno())
            first = file.read(len(_LFS))
            if first == _LFS:
                raise UnsafeFile("a Git LFS pointer, not the weights: run `git lfs pull`", source=source)
            if info.st_size < 10:
                raise UnsafeFile(f"{info.st_size} bytes cannot be a safetensors file", source=source, got=info.st_size)
            length = int.from_bytes(first[:8], "little")
            if length > MAX_HEADER_BYTES:
                raise UnsafeFile(
                    f"a header of {length:,} bytes is above {MAX_HEADER_BYTES:,}",
                    source=source,
                    limit=MAX_HEADER_BYTES,
                    got=length,
                )
            if length > info.st_size - 8:
                raise UnsafeFile("the header is longer than the file", source=source, limit=info.st_size, got=length)
            file.seek(8)
            text = file.read(length)
    except OSError as e:
        raise WeightsError("the file cannot be read", source=source) from e
    if not text.startswith(b"{") or len(text) != length:
        raise UnsafeFile("the header is not a JSON object", source=source)
    data = strict_json(text, UnsafeFile, source, most_values=MAX_HEADER_VALUES)
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnsafeFile("the metadata must be text", source=source)
    tensors = {name: _entry(name, raw, source) for name, raw in data.items()}
    _check_layout(tensors, info.st_size - 8 - length, source)
    return Header(path, tensors, metadata, info.st_size)


def _entry(name: str, raw: Any, source: str) -> Entry:
    """One described tensor, its size in bytes equal to what shape and type need."""

    def whole(values: Any) -> bool:
        return isinstance(values, list) and all(
            isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 62 for v in values
        )

    if not isinstance(raw, dict) or raw.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnsafeFile(f"{name!r:.80} is not described by dtype, shape and data_offsets", source=source)
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise UnsafeFile(f"{name!r:.80} has the unknown type {dtype!r:.40}", source=source, expected=tuple(_ITEM_BYTES))
    if not whole(shape) or len(shape) > 16 or not whole(offsets) or len(offsets) != 2:
        raise UnsafeFile(f"{name!r:.80} has an impossible shape or offset", source=source)
    needed = math.prod(shape) * _ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != needed:
        raise UnsafeFile(
            f"{name!r:.80} needs {needed} bytes and is given {offsets[1] - offsets[0]}",
            source=source,
            expected=needed,
            got=offsets[1] - offsets[0],
        )
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _check_layout(tensors: dict[str, Entry], available: int, source: str) -> None:
    """Tensors follow each other without overlap or hole and end where the file ends."""
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            word = "overlaps" if entry.start < end else "leaves a hole before"
            raise UnsafeFile(f"{name!r:.80} {word} byte {end}", source=source, expected=end, got=entry.start)
        end = entry.end
    if end != available:
        raise UnsafeFile(
            f"the tensors need {end:,} bytes and the file has {available:,}", source=source, expected=end, got=available
        )


# ---- what of ours a file is


def holds(path: Path, wanted: Callable[[Header], bool]) -> bool:
    """Whether it is a safetensors file with such a header."""
    try:
        return wanted(read_header(path))
    except WeightsError:  # no safetensors file
        return False


def is_pack(path: Path) -> bool:
    """Whether a file is a pack's by its header, for `writing.file_place`: a pack replaces no other."""
    return holds(path, of_a_pack)


def of_a_pack(header: Header) -> bool:
    return header.metadata.get("format") == FORMAT
