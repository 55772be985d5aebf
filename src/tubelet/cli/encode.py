"""`tubelet encode`: files in, one safetensors file of packed tokens out, and a table of what happened."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tubelet.cli.options import (
    DEFAULT_MODEL,
    Animation,
    Config,
    Debug,
    Files,
    Fps,
    Isolate,
    Json,
    MaxPixels,
    NumFrames,
    OnError,
    Quiet,
    Times,
    option,
    require_files,
    sampling_of,
    with_budget,
)
from tubelet.cli.output import output_file
from tubelet.cli.progress import Tick, progress
from tubelet.cli.terminal import FAILED, OK, Terminal, UsageError, file_name
from tubelet.errors import InputError, TubeletError

if TYPE_CHECKING:
    from torch import Tensor

    from tubelet.cli.model import Model
    from tubelet.packed.grid import Item
    from tubelet.pixels.load import LoadedSource
    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.reading.sampling import Sampling

CHUNK_ROWS = 32_768  # patches that are decoded and encoded together; memory grows with it, results do not change
CHUNK_FILES = 256
BLIND_FILES = 16  # files in a chunk whose headers may not be read in this process
STAGES = ("open", "decode", "resize", "pack", "encode")


@dataclass(frozen=True)
class Encode:
    """Encode pictures and videos into one safetensors file of packed tokens.

    The written file holds x, the tokens; pos, the place (t, h, w) of each; with --pool also pooled, one vector for
    each file; and the grids, times and names as JSON metadata. Tokens stand in the order of the files. With --on-error
    skip a file that cannot be read is named and left out, the rest is written, and the exit code is 1.

    Example: tubelet encode receipt.png walk.mp4 --fps 2 --pool --out tokens.safetensors
    """

    files: Files
    out: Annotated[str, option("the safetensors file to write", "FILE")]
    model: Annotated[
        str,
        option(
            "a variant (see tubelet models; random weights), a folder or safetensors file, or a hub id "
            f"(default: {DEFAULT_MODEL}, untrained)",
            "MODEL",
        ),
    ] = DEFAULT_MODEL
    config: Config = None
    pool: Annotated[bool, option("also one vector per file, from the pooling head or the class token")] = False
    fps: Fps = None
    num_frames: NumFrames = None
    times: Times = None
    max_pixels: MaxPixels = None
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], option("of weights and tokens (default: float32)")] = (
        "float32"
    )
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], option("(default: auto, the fastest there is)")] = "auto"
    on_error: OnError = "raise"
    isolate: Isolate = "auto"
    workers: Annotated[int | None, option("threads that decode (default: one for each core)", "N")] = None
    animation: Animation = False
    json: Json = False
    quiet: Quiet = False
    debug: Debug = False

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.cli.encode_report import encode_document, encode_table

        sampling = self._checked()
        out = output_file(self.out, self.files)
        start = time.perf_counter()
        from tubelet.cli.model import load_model

        model = load_model(self.model, self.dtype, self.device, pool=self.pool, config=self.config)
        recipe = with_budget(model.encoder.pixels, self.max_pixels)
        result = Result(model_s=time.perf_counter() - start)
        with progress(terminal, len(self.files)) as tick:
            for chunk in chunks(self.files, recipe, sampling, self.animation, self.isolate):
                self._chunk(chunk, recipe, sampling, model, result, terminal, tick)
        if not result.items:
            raise InputError(f"none of the {len(self.files)} files could be read; nothing was written")
        saving = time.perf_counter()
        result.save(out, model, self.files)
        result.save_s = time.perf_counter() - saving
        result.wall_s = time.perf_counter() - start
        terminal.show(encode_table(result, model, self.out, terminal.columns))
        terminal.document(encode_document(result, model, self.out))
        return FAILED if any(r.error for r in result.reports) else OK

    def _checked(self) -> "Sampling":
        require_files(self.files)
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, got {self.workers}")
        return sampling_of(self.fps, self.num_frames, self.times)

    def _chunk(
        self,
        chunk: range,
        recipe: "PixelRecipe",
        sampling: "Sampling",
        model: "Model",
        result: "Result",
        terminal: Terminal,
        tick: "Tick",
    ) -> None:
        """Decode and encode files number `chunk` and add them to the result."""
        from tubelet.pixels.load import load_patches

        tick("decoding", chunk.start)
        try:
            loaded = load_patches(
                [self.files[i] for i in chunk],
                recipe,
                fps=sampling.fps,
                num_frames=sampling.num_frames,
                times_s=sampling.times_s,
                animation=self.animation,
                isolate=self.isolate,
                on_error=self.on_error,
                workers=self.workers,
                progress=lambda done, total, name: tick("decoding", chunk.start + done),
            )
        except TubeletError as e:
            e.item = None if e.item is None else e.item + chunk.start
            raise
        for i, report in zip(chunk, loaded.sources, strict=True):
            if report.error is not None:
                report.error.item = i
                terminal.say(str(report.error))
        tick("encoding", chunk.stop)
        result.add(loaded.sources, *encode_pack(loaded.packed, model, self.pool), first=chunk.start)


@dataclass
class Result:
    """What a run has made so far: tokens on the host, their items, and a report for each file."""

    reports: "list[LoadedSource]" = field(default_factory=list)
    encode_s: list[float] = field(default_factory=list)  # for each file: its share of its chunk, by tokens
    items: "list[Item]" = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    x: "list[Tensor]" = field(default_factory=list)
    pos: "list[Tensor]" = field(default_factory=list)
    pooled: "list[Tensor]" = field(default_factory=list)
    model_s: float = 0.0
    save_s: float = 0.0
    wall_s: float = 0.0

    def add(
        self, reports: "Sequence[LoadedSource]", tokens: Any, pooled: "Tensor | None", spent: float, *, first: int
    ) -> None:
        """The tokens of one chunk whose first file is number `first`."""
        total = sum(tokens.lengths) or 1
        for report in reports:
            rows = 0 if report.item is None else tokens.lengths[report.item]
            self.encode_s.append(spent * rows / total)
        self.reports += reports
        self.items += [replace(item, picture=item.picture + first) for item in tokens.items]
        self.lengths += tokens.lengths
        self.x.append(tokens.x)
        self.pos.append(tokens.pos)
        if pooled is not None:
            self.pooled.append(pooled)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def save(self, out: Path, model: "Model", files: Sequence[str]) -> None:
        """Write everything as one pack. Raises RunError."""
        from tubelet import __version__
        from tubelet.packed import Packed

        x, pos = joined(self.x), joined(self.pos)
        packed = Packed(x, pos, tuple(self.items), tuple(self.lengths))
        left_out = {str(i): r.error.as_dict()["error"] for i, r in enumerate(self.reports) if r.error is not None}
        metadata = {
            "tubelet": __version__,
            "model": json.dumps(model.as_dict(), default=str),
            "files": json.dumps([file_name(f) for f in files]),
            "left_out": json.dumps(left_out),
            "untrained": "true" if model.untrained else "false",
        }
        packed.save(out, {"pooled": joined(self.pooled)} if self.pooled else None, metadata)


def joined(parts: "list[Tensor]") -> "Tensor":
    """Tensors end to end; `parts` shrinks to the result, each part freed once it is copied: no second copy of all."""
    if len(parts) > 1:
        out = parts[0].new_empty(sum(len(p) for p in parts), *parts[0].shape[1:])
        start = len(out)
        while parts:
            last = parts.pop()
            out[start - len(last) : start] = last
            start -= len(last)
        parts.append(out)
    return parts[0]


def encode_pack(packed: Any, model: "Model", pool: bool) -> "tuple[Any, Tensor | None, float]":
    """Tokens on the host, one vector an item if wanted, and the seconds it took. Syncs."""
    import torch

    start = time.perf_counter()
    with torch.inference_mode():
        rows = packed.to(model.device)
        features = model.encoder.features(rows) if pool else None
        tokens = (model.encoder(rows) if features is None else features.tokens).to("cpu")
        pooled = None if features is None or features.pooled is None else features.pooled.cpu()
    return tokens, pooled, time.perf_counter() - start


# ---- before the work


def chunks(
    files: Sequence[str], recipe: "PixelRecipe", sampling: "Sampling", animation: bool, isolate: str
) -> Iterator[range]:
    """Consecutive files that are worked on together, as ranges: about CHUNK_ROWS patches by what their headers say."""
    first, rows = 0, 0
    for i, file in enumerate(files):
        more = CHUNK_ROWS // BLIND_FILES if isolate == "always" else expected_rows(file, recipe, sampling, animation)
        if i > first and (rows + more > CHUNK_ROWS or i - first >= CHUNK_FILES):
            yield range(first, i)
            first, rows = i, 0
        rows += more
    yield range(first, len(files))


def expected_rows(file: str, recipe: "PixelRecipe", sampling: "Sampling", animation: bool) -> int:
    """Patches a file will have, from its header alone; 0 where that fails, because reading it will tell why."""
    from tubelet.pixels.resize import grid_of
    from tubelet.reading.picture.image import PictureInfo
    from tubelet.reading.read import probe

    try:
        info = probe(file)
        if isinstance(info, PictureInfo):
            frames = info.frames if animation else 1
        else:
            frames = len(sampling.times(0.0, info.duration_s or 0.0))
        return grid_of(info.height, info.width, max(frames, 1), recipe).rows
    except TubeletError:
        return 0
