"""The bad files of a run, tried once more: a run of its own in OUT/retry-1, retry-2, ..."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from tubelet.errors import InputError
from tubelet.reading.tar import Piece
from tubelet.scale.plan import PLAN, Plan, PlannedFile, files_of, write_plan
from tubelet.scale.status import bad_so_far
from tubelet.scale.store import Store, open_store


def retry_bad(plan: Plan, store: Store, *, workers: int | None = None) -> tuple[Plan, Store]:
    """A plan of the files that could not be encoded, with the same options, and the store it was written into.

    Its files have ids of their own and the names they had; each call begins another. Raises InputError where no
    file is bad.
    """
    bad = {said["id"] for said in bad_so_far(plan, store)}
    if not bad:
        raise InputError("no file of this run is bad", source=store.place)
    number = 1
    while (beside := open_store(f"{store.place.rstrip('/')}/retry-{number}")).exists(PLAN):
        number += 1
    again = replace(plan, parts=(), sources=(f"bad files of {store.place}",), manifests=(), left_out=0)
    return write_plan(again, _windows(plan, store, bad), beside, workers=workers), beside


def _windows(plan: Plan, store: Store, bad: set[int]) -> Iterator[Sequence[str] | Sequence[Piece]]:
    """The bad files, those of one archive by themselves."""
    for part in plan.parts:
        if bad.isdisjoint(range(part.first, part.first + part.files)):
            continue
        lines = [line for line in files_of(plan, part, store) if line.id in bad]
        for inside, group in groupby(lines, key=lambda line: line.offset is not None):
            found = list(group)
            yield [_piece(part.source, line) for line in found] if inside else [line.source for line in found]


def _piece(archive: str, line: PlannedFile) -> Piece:
    return Piece(archive, line.source.removeprefix(f"{archive}:"), line.offset or 0, line.bytes)
