"""A worker: the model once, then one shard after the other, each read, encoded and committed in one step.

    Worker(store).run(k)    there already? -> note the attempt -> packs, one read ahead -> one create -> Report

What it needs stands in the store. It can die at any moment: a shard is there whole or not at all.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any

import torch

from tubelet import __version__
from tubelet.encoder.device import device_of
from tubelet.encoder.model import Encoder
from tubelet.errors import InputError, TubeletError, WeightsError, WorkerDied
from tubelet.families.catalogue import variants
from tubelet.packed.file import pack_bytes
from tubelet.pixels.load import Loaded
from tubelet.pixels.planned import LoadConfig
from tubelet.pixels.stream import MAX_INPUTS, stream
from tubelet.reading.read import Isolate
from tubelet.reading.tar import Piece
from tubelet.scale.encode import check_reduction, encode_pack
from tubelet.scale.options import EncodeOptions, weights_digest
from tubelet.scale.plan import Part, PlannedFile, files_of, planned_error, read_plan, shard_name
from tubelet.scale.poison import LEASE_S, MOST_DEATHS, Attempt, drop_own, take
from tubelet.scale.shard import Bad, ShardContent, host_kind
from tubelet.scale.store import Store
from tubelet.scale.words import Report, State
from tubelet.weights.load import load_encoder, untrained

PACK_TOKENS = {"cpu": 8_192}
PACK_TOKENS_ACCELERATOR = 65_536


class Worker:
    """Encodes the shards of one store.

    device: as `device_of` takes it. readers: threads that decode. on_file: called with the id of a file before it is
    touched. timer: the system ends this process where a step takes longer than the lease allows, which needs
    `ended_by_timer`.
    Raises: InputError where there is no such device, StoreError where there is no plan.
    """

    def __init__(
        self,
        store: Store,
        *,
        device: str = "cpu",
        readers: int | None = None,
        lease_s: float = LEASE_S,
        timer: bool = False,
        on_file: Callable[[int], None] | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        """encoder: the plan's, where the caller has it; otherwise it is loaded for the first shard that needs it."""
        self.store, self.device, self.readers = store, device_of(device), readers
        self.lease_s, self.timer, self.on_file = lease_s, timer, on_file
        self.plan = read_plan(store)
        self._given = encoder
        self._window: tuple[Part, list[PlannedFile]] | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """The model of the plan. Raises WeightsError where its weights are not those of the plan."""
        if self._given is not None:
            return self._given
        return open_encoder(self.plan.options, self.device)

    def run(self, shard: int) -> Report:
        """Encode a shard and commit it, unless it is there or at work elsewhere.

        Files that cannot be read are listed in it. Raises StoreError for a store that fails (a full disk), what loading
        the model raises; then nothing of the shard is there and its note is gone.
        """
        if self.store.exists(shard_name(shard)):
            return Report(shard, "skipped")
        _ = self.encoder  # a model that cannot be loaded is no death of the shard
        try:
            return self._attempted(shard)
        except (KeyboardInterrupt, SystemExit):  # to end in order is no death, whenever it is asked for
            drop_own(self.store, shard)
            raise

    def _attempted(self, shard: int) -> Report:
        attempt = take(self.store, shard, lease_s=self.lease_s, timer=self.timer)
        if attempt is None:
            return Report(shard, "busy")
        with attempt:
            if self.store.exists(shard_name(shard)):  # since it was looked at
                attempt.done = True
                return Report(shard, "skipped")
            start = perf_counter()
            files = self.files_of(shard)
            content = self._encoded(files, attempt)
            content.seconds = perf_counter() - start
            data = pack_bytes(*content.parts(self._empty(), self._words(shard, files, content)))
            attempt.beat()
            first = self.store.create(shard_name(shard), data)
            attempt.done = True
            tokens, size = sum(content.lengths), len(data)
            counts = content.counts
            state: State = "done" if first else "lost_race"
            return Report(shard, state, len(files), tokens, size, counts, attempt.deaths, perf_counter() - start)

    def files_of(self, shard: int) -> list[PlannedFile]:
        """The files of a shard, in order of their ids. The window they stand in is read once."""
        part = self.plan.part_of_shard(shard)
        if self._window is None or self._window[0] != part:
            self._window = (part, files_of(self.plan, part, self.store))
        return [file for file in self._window[1] if file.shard == shard]

    # ---- inside

    def _encoded(self, files: Sequence[PlannedFile], attempt: Attempt) -> ShardContent:
        encoder, content = self.encoder, ShardContent()
        if attempt.deaths >= MOST_DEATHS:
            text = f"its shard has ended {attempt.deaths} workers"
            how = {"limit": MOST_DEATHS, "got": attempt.deaths}
            content.bad = [Bad(i, WorkerDied(text, source=file.source, **how)) for i, file in enumerate(files)]
            return content
        wanted = self.plan.options.reduction
        for places, loaded in self._packs(files, attempt):
            attempt.beat()
            for report in loaded.sources:
                place = places[report.index]
                if report.error is not None:
                    content.bad.append(Bad(place, report.error.placed(source=files[place].source)))
                elif not report.complete:
                    content.incomplete.append(place)
            if not len(loaded.packed):
                continue
            own = [places[item.picture] for item in loaded.packed.items]
            ids = [files[place].id for place in own]
            made = encode_pack(loaded.packed, encoder, self.device, wanted, ids)
            items = [replace(item, picture=place) for item, place in zip(made.tokens.items, own, strict=True)]
            content.add(made, items)
        return content

    def _packs(self, files: Sequence[PlannedFile], attempt: Attempt) -> Iterator[tuple[Sequence[int], Loaded]]:
        """Packs of the files with the place of each input in `files`."""
        options = self.plan.options
        most = options.pack_tokens or PACK_TOKENS.get(self.device, PACK_TOKENS_ACCELERATOR)
        if attempt.deaths < 2:
            careful = attempt.deaths > 0
            isolate = self._isolate("always" if careful else options.isolate, files)
            how: dict[str, Any] = {"max_rows": most, "max_inputs": 1 if careful else MAX_INPUTS, "isolate": isolate}
            sources = self._sources(files, isolate)
            how |= {"on_error": "skip", "workers": self.readers, "ahead": True}
            packs = stream(sources, options.recipe, options.job, **how)
            everything = range(len(files))
            yield from ((everything, loaded) for loaded in packs)
            return
        isolate = self._isolate("always", files)
        for place, file in enumerate(files):
            if file.id in attempt.suspects:
                error: TubeletError = WorkerDied(
                    "the worker that began it died", source=file.source, got=attempt.deaths
                )
                one: Any = self._failed(file, isolate, error)
            else:
                attempt.beat(file.id)
                (one,) = self._sources([file], isolate)
            how = {"isolate": isolate, "on_error": "skip", "workers": self.readers, "max_rows": most}
            for loaded in stream([one], options.recipe, options.job, **how):
                yield (place,), loaded
        attempt.settle()

    def _isolate(self, wanted: Isolate, files: Sequence[PlannedFile]) -> Isolate:
        """Members of an archive that was named are as trusted as files that were."""
        inside = bool(files) and files[0].offset is not None
        return "never" if wanted == "auto" and inside else wanted

    def _sources(self, files: Sequence[PlannedFile], isolate: Isolate) -> Iterator[Any]:
        """What to read of each file, when its turn comes: a path, a member's bytes, or why neither."""
        for file in files:
            if self.on_file is not None:
                self.on_file(file.id)
            try:
                yield self._source(file)
            except InputError as e:
                yield self._failed(file, isolate, e)

    def _source(self, file: PlannedFile) -> str | bytes:
        folder, part = self.plan.folder, self.plan.part_of_id(file.id)
        if file.offset is not None:
            archive = os.path.join(folder, part.source)  # noqa: PTH118
            _same_size(archive, part.bytes, "the archive")
            return Piece(archive, file.source.removeprefix(f"{part.source}:"), file.offset, file.bytes).read()
        path = os.path.join(folder, file.source)  # noqa: PTH118
        _same_size(path, file.bytes, "the file")
        return path

    def _failed(self, file: PlannedFile, isolate: Isolate, error: TubeletError) -> Any:
        options = self.plan.options
        return planned_error(file.source, file.source, LoadConfig(options.recipe, options.job, isolate), error)

    def _empty(self) -> torch.Tensor:
        """No token, of the width and type that there would be."""
        options = self.plan.options
        width = self.encoder.config.out * options.reduction.merge**2
        return torch.zeros(0, width, dtype=getattr(torch, options.dtype))

    def _words(self, shard: int, files: Sequence[PlannedFile], content: ShardContent) -> dict[str, str]:
        report = self.encoder.report
        model = {"name": self.plan.options.model, "variant": None if report is None else report.variant}
        return {
            "tubelet": __version__,
            "fingerprint": self.plan.fingerprint,
            "shard": str(shard),
            "ids": json.dumps([file.id for file in files]),
            "files": json.dumps([file.source for file in files]),
            "bad": json.dumps([one.as_dict(files[one.place].id) for one in content.bad]),
            "left_out": json.dumps({str(one.place): type(one.error).__name__ for one in content.bad}),
            "incomplete": json.dumps([files[place].id for place in content.incomplete]),
            "model": json.dumps(model | {"dtype": self.plan.options.dtype}),
            "untrained": "true" if self.encoder.untrained else "false",
            "seconds": f"{content.seconds:.3f}",
            "host": host_kind(self.device),
        }


def open_encoder(options: EncodeOptions, device: str) -> Encoder:
    """The model of a plan on a device. Raises WeightsError where its weights are not those of the plan."""
    if (found := weights_digest(options.model)) != options.weights:
        text = "the weights are not those that the plan was made with"
        raise WeightsError(text, source=options.model, expected=options.weights, got=found)
    if options.threads is not None and device == "cpu":
        torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    if options.model in variants():
        encoder = untrained(options.model).to(device, dtype)
    else:
        encoder = load_encoder(options.model, config=options.config, dtype=dtype, device=device)
    check_reduction(encoder, options.reduction)
    return encoder


def _same_size(path: str, expected: int, what: str) -> None:
    """Raise InputError where something of another size is there than was planned; where nothing is, reading says so."""
    try:
        found = os.path.getsize(path)  # noqa: PTH202
    except (OSError, ValueError):
        return
    if found != expected:
        raise InputError(f"{what} has another size than when it was planned", expected=expected, got=found)
