"""`tubelet encode`: files in, packed tokens out: one safetensors file and a table, or a folder (`cli.shards`)."""

import time
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tubelet.cli.encode_report import Result
from tubelet.cli.options import (
    DEFAULT_MODEL,
    AnyModel,
    Config,
    Files,
    FrameOptions,
    OnError,
    OutputOptions,
    Overwrite,
    ReadingOptions,
    option,
    with_budget,
)
from tubelet.cli.output import output_file
from tubelet.cli.progress import Tick, progress
from tubelet.cli.shards import Asked, KeepingOptions, ShardOptions, names_shards, run_shards
from tubelet.cli.sources import Inputs, inputs_of
from tubelet.cli.terminal import FAILED, OK, Terminal, UsageError
from tubelet.cli.work import with_work_told
from tubelet.errors import InputError

if TYPE_CHECKING:
    from tubelet.cli.model import Model
    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.reading.job import ReadJob
    from tubelet.reading.sampling import Sampling
    from tubelet.scale.options import Reduction


@dataclass(frozen=True)
class Encode:
    """Encode pictures and videos into one safetensors file of packed tokens.

    The written file holds x, the tokens; pos, the place (t, h, w) of each; with --pool also pooled, one vector for
    each file; and the grids, times and names as JSON metadata. Tokens stand in the order of the files. With --on-error
    skip a file that cannot be read is named and left out, the rest is written, and the exit code is 1.

    --out OUT/ is for any number of files: folders with those below, lists (.txt, .jsonl, - for stdin) and .tar
    archives become a folder or bucket of files of about 262,144 tokens and an index. The same command, or --resume
    OUT/, goes on after a kill; several may work at once, --workers on this machine, --rank and --world under any
    launcher, or --engine ray. Bad files are listed. Exit codes: 1 some are bad, 3 more than --max-bad, 143 SIGTERM.

    Example: tubelet encode receipt.png walk.mp4 --fps 2 --out tokens.safetensors
    """

    files: Files
    out: Annotated[
        str | None, option("the .safetensors file to write, - for stdout; or for many files a folder, OUT/", "FILE")
    ] = None
    model: AnyModel = DEFAULT_MODEL
    config: Config = None
    pool: Annotated[bool, option("also one vector per file, from the pooling head or the class token")] = False
    frames: FrameOptions = FrameOptions()
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], option("of weights and tokens (default: float32)")] = (
        "float32"
    )
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], option("where it runs (default: auto, the fastest there is)")
    ] = "auto"
    overwrite: Overwrite = False
    on_error: OnError = "raise"
    reading: ReadingOptions = ReadingOptions()
    workers: Annotated[
        int | None,
        option(
            "threads that decode (default: one for each core); with OUT/ processes with a model each (default: 1)", "N"
        ),
    ] = None
    keeping: KeepingOptions = KeepingOptions()
    shards: ShardOptions = ShardOptions()
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.cli.encode_report import encode_document, encode_table
        from tubelet.packed.header import is_pack
        from tubelet.reading.job import ReadJob

        sampling = self._checked()
        if self.shards.place is not None or names_shards(self.out):
            return run_shards(self._asked(), terminal)
        out, wanted = self._one_file()
        inputs = inputs_of(self.files, terminal, urls=self.reading.urls)
        where = {"overwrite": self.overwrite, "suffix": ".safetensors", "terminal": terminal}
        place = output_file(out, inputs.names, is_pack, **where)
        job = ReadJob(sampling=sampling, animation=self.reading.animation)
        inputs = inputs.outlined(job, self.reading.isolate, skip=self.on_error == "skip")
        start = time.perf_counter()
        from tubelet.cli.model import load_model
        from tubelet.scale.encode import check_reduction

        model = load_model(self.model, self.dtype, self.device, pool=self.pool, config=self.config)
        check_reduction(model.encoder, wanted)
        model.encoder.set_run_options(replace(model.encoder.options, say=terminal.say))
        recipe = with_budget(model.encoder.pixels, self.reading.max_pixels, self.reading.max_tokens)
        result = Result(model_s=time.perf_counter() - start)
        with progress(terminal, len(inputs)) as tick:
            self._encode(inputs, recipe, job, model, wanted, result, terminal, tick)
        if not result.items:
            raise InputError(f"none of the {len(inputs)} files could be read; nothing was written")
        saving = time.perf_counter()
        with place.file() as path:
            result.save(path, model, inputs.names)
        result.save_s = time.perf_counter() - saving
        result.wall_s = time.perf_counter() - start
        terminal.show(encode_table(result, model, out, terminal.columns))
        terminal.document(encode_document(result, model, out))
        return FAILED if any(r.error for r in result.reports) else OK

    def _checked(self) -> "Sampling":
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, got {self.workers}")
        return self.frames.sampling

    def _asked(self) -> Asked:
        """What concerns a run of many files."""
        given = tuple(f.name for f in fields(self) if f.name != "files" and getattr(self, f.name) != f.default)
        return Asked(**{f.name: getattr(self, f.name) for f in fields(Asked) if f.name != "given"}, given=given)

    def _one_file(self) -> "tuple[str, Reduction]":
        """Where the one file goes, and what is made of its tokens. Raises UsageError for options of many."""
        if self.out is None:
            raise UsageError("--out names the .safetensors file to write, or for many files a folder, OUT/")
        if self.shards != ShardOptions():
            other = ShardOptions()
            names = [f.name for f in fields(other) if getattr(self.shards, f.name) != getattr(other, f.name)]
            raise UsageError(f"--{names[0].replace('_', '-')} is for many files: --out is a folder then, OUT/")
        return self.out, self.keeping.reduction(pool=self.pool)

    def _encode(
        self,
        inputs: Inputs,
        recipe: "PixelRecipe",
        job: "ReadJob",
        model: "Model",
        wanted: "Reduction",
        result: "Result",
        terminal: Terminal,
        tick: "Tick",
    ) -> None:
        """Decode and encode the files, pack by pack, and add them to the result."""
        from tubelet.pixels.stream import stream
        from tubelet.scale.encode import encode_pack

        done = 0
        how: Any = {"isolate": self.reading.isolate, "on_error": self.on_error, "workers": self.workers}
        sources = with_work_told(terminal, inputs.sources, recipe, job, model, **how)
        how |= {"ahead": model.device != "cpu", "progress": lambda files, name: tick("decoding", files)}
        for loaded in stream(sources, recipe, job, **how):
            for error in loaded.errors:
                terminal.say(str(error))
            done += len(loaded.sources)
            tick("encoding", done)
            ids = [item.picture for item in loaded.packed.items]
            result.add(loaded.sources, *encode_pack(loaded.packed, model.encoder, model.device, wanted, ids))
            tick("decoding", done)
