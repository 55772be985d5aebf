"""What conversions share: a source made readable, its digest, and a report that stands beside what was written."""

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from tubelet.errors import TubeletError, WeightsError
from tubelet.packed.header import open_regular
from tubelet.weights.locate import CONFIG, PICKLES, SINGLE, inside, root_of
from tubelet.writing import scratch, write_json

REPORT = "conversion.json"


class Readable(NamedTuple):
    """A source that can be read."""

    weights: Path  # what is read: the source itself, or a safetensors file made of a pickle
    pickle: Path | None  # the file it was made of
    skipped: tuple[str, ...]  # entries of the pickle that are no tensors


@contextmanager
def readable(source: Path, *, unsafe_pickle: bool, config: bool = True) -> Iterator[Readable]:
    """The source, or while the block lasts a safetensors file of a pickle, which a confined process reads.

    config: the config.json beside the pickle comes along. Raises what `unpickle` raises.
    """
    if not (unsafe_pickle and source.suffix.lower() in PICKLES and os.path.isfile(source)):  # noqa: PTH113  that of Path raises where a name is too long
        yield Readable(source, None, ())
        return
    from tubelet.weights.unpickle import unpickle  # needs POSIX, and only this door needs it

    with scratch(Path(tempfile.gettempdir())) as folder:
        made = unpickle(source, folder / SINGLE)
        beside = source.parent / CONFIG
        if config and beside.exists():
            shutil.copyfile(inside(beside, root_of(source.parent)), folder / CONFIG)
        try:
            yield Readable(made.path, source, tuple(made.skipped))
        except TubeletError as e:
            if e.source == SINGLE or str(folder) in (e.source or ""):  # the caller never heard of that file
                raise e.placed(source=source.name) from e.__cause__
            raise


def sha256_of(files: Sequence[Path]) -> str:
    """sha256 over the sha256 of each weight file, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.name):
        with open_regular(path) as file:
            total.update(hashlib.file_digest(cast(io.BufferedReader, file), "sha256").digest())
    return total.hexdigest()


def write_report(said: dict[str, Any], folder: Path) -> None:
    """conversion.json, the fields of a report, into a folder that is being written.

    Raises WeightsError where its tensors differ."""
    if not said["bit_equal"]:
        raise WeightsError("the written tensors differ from those that were read", source=said["out"])
    write_json(folder / REPORT, said)
