"""`tubelet data check`: what a training data set holds and what is wrong with it, before a run finds out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from tubelet.cli.options import DEFAULT_MODEL, FrameOptions, OutputOptions, Overwrite, option
from tubelet.cli.output import output_file
from tubelet.cli.progress import progress
from tubelet.cli.terminal import FAILED, OK, Terminal, UsageError, file_name, visible
from tubelet.writing import save_png

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Group

    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.reading.sampling import Sampling
    from tubelet.train.data.check import Checked
    from tubelet.train.data.sample import Sample

SHOWN = 10  # faults in the table; --json has more


@dataclass(frozen=True)
class Data:
    """Check training data: samples, missing files, broken records, placeholders, duplicates, lengths in tokens.

    A data set is LLaVA's JSON, JSON lines of chats, a WebDataset tar, a folder of pictures with texts, or a registry
    with percentages (sets.json:scanqa%50,sqa3d). Without --all, 20,000 samples are read and the files of 500 looked
    into. Exit code 1 if anything is wrong.

    Example: tubelet data check blip_laion_cc_sbu_558k.json --root images --plot lengths.png
    """

    action: Positional[Annotated[Literal["check"], option("what to do", "check")]]
    paths: Positional[Annotated[tuple[str, ...], option("data sets", "PATH...")]]
    root: Annotated[str | None, option("where records name their files from (default: their own folder)", "DIR")] = None
    all: Annotated[bool, option("read every sample and look into every file")] = False
    follow_links: Annotated[bool, option("links may lead out of the folder")] = False
    model: Annotated[
        str, option(f"whose tokens: a variant, folder, file or hub id (default: {DEFAULT_MODEL})", "MODEL")
    ] = DEFAULT_MODEL
    merge: Annotated[int, option("so many by so many of them become one (default: 1)", "N")] = 1
    tokenizer: Annotated[
        str | None, option("a folder or hub id; then lengths include the text, without the template", "TOKENIZER")
    ] = None
    plot: Annotated[str | None, option("a .png of the lengths", "PNG")] = None
    seed: Annotated[int, option("of what is chosen (default: 0)", "N")] = 0
    frames: FrameOptions = FrameOptions()
    overwrite: Overwrite = False
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        if not self.paths:
            raise UsageError("name at least one data set")
        if self.merge < 1:
            raise UsageError(f"--merge must be at least 1, got {self.merge}")
        sampling = self.frames.sampling
        out = None if self.plot is None else output_file(self.plot, (), overwrite=self.overwrite, option="--plot")
        from tubelet.train.data.check import FILES, RECORDS, check
        from tubelet.train.data.open import open_dataset

        dataset = open_dataset(self.paths, root=self.root, seed=self.seed, follow_links=self.follow_links)
        measure = measured(*self._recipe(), sampling, self._words())
        records, files = (None, None) if self.all else (RECORDS, FILES)
        total = len(dataset) if records is None else min(records, len(dataset))
        with progress(terminal, total) as tick:
            found = check(
                dataset,
                records=records,
                files=files,
                measure=measure,
                seed=self.seed,
                progress=lambda done, _: tick("checking", done),
            )
        what = "tokens" if self.tokenizer is not None else "visual tokens"
        if out is not None and len(found.tokens):
            with out.file() as path:
                save_png(drawn(found, what), path)
        terminal.show(table(found, what))
        if self.plot is not None and not self.output.json and not self.output.quiet:
            terminal.line(f"plot    {visible(self.plot) if len(found.tokens) else 'nothing to draw'}")
        plot = None if self.plot is None or not len(found.tokens) else file_name(self.plot)
        terminal.document({"command": "data check", "counted": what, **found.as_dict(), "plot": plot})
        return FAILED if found.bad else OK

    def _recipe(self) -> "tuple[PixelRecipe, int]":
        """How pictures are cut, and how many patches along a side become one token."""
        from dataclasses import replace

        from tubelet.families.catalogue import variants

        if self.model in (known := variants()):
            config = known[self.model][1]
        else:
            from tubelet.cli.model import load_model

            config = load_model(self.model, None, "cpu", pool=False).encoder.config
        side = self.merge * (1 if config.merger is None else config.merger.merge)
        merge = self.merge * config.pixels.merge
        return replace(config.pixels, merge=merge, order="block" if merge > 1 else "raster"), side

    def _words(self) -> Callable[[str], int] | None:
        """How many tokens a text has."""
        if self.tokenizer is None:
            return None
        from tubelet.language.vlm.load_lm import require_transformers
        from tubelet.weights.tokenizer import load_tokenizer

        require_transformers("--tokenizer")
        tokenizer = load_tokenizer(self.tokenizer)
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def measured(
    recipe: "PixelRecipe", side: int, sampling: "Sampling", words: Callable[[str], int] | None
) -> "Callable[[Sample], int]":
    """Counts the tokens of a sample from the headers of its files. side: patches along a side of a token."""
    from tubelet.inspect.budget.inputs import Input
    from tubelet.inspect.budget.plan import plan
    from tubelet.reading.limits import Limits
    from tubelet.train.collate import header_of

    limits = Limits()

    def measure(sample: "Sample") -> int:
        total = 0 if words is None else sum(words(turn.text) for turn in sample.turns)
        for media in sample.media:
            seen = header_of(media, sampling, limits)
            planned = plan(Input(seen.width, seen.height, len(seen.times_s)), recipe)
            total += planned.patches // side**2
        return total

    return measure


def table(found: "Checked", what: str) -> "Group":
    """What a person reads: counts, faults, the first of them, lengths."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from tubelet.train.data.check import describe

    counts = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    counts.add_column()
    counts.add_column(justify="right")
    share = "" if found.read == found.samples else f", {found.read:,} of them read"
    rows: list[tuple[str, str]] = [("samples", f"{found.samples:,}{share}")]
    rows += [(f"  {kind}", f"{n:,}") for kind, n in found.holds.most_common()]
    rows += [(f"{kind}s", f"{n:,}") for kind, n in found.media.most_common()]
    rows += [("turns", f"{found.turns:,}"), ("letters of text", f"{found.letters:,}")]
    rows += [("files looked into", f"those of {found.looked:,} samples")]
    rows += [("the same id twice", f"{found.same_id:,}"), ("the same sample twice", f"{found.same_content:,}")]
    rows += [(f"WRONG: {kind}", f"{n:,}") for kind, n in found.faults.most_common()]
    for name, number in rows:
        counts.add_row(name, number)
    parts: list[Any] = [counts]
    lengths = describe(found.tokens)
    if lengths is not None:
        parts.append(_lengths(lengths, what))
    parts += [
        Text(visible(f"sample {bad.index}, {kind}: {bad.where}: {bad.reason}")) for kind, bad in found.listed[:SHOWN]
    ]
    if found.bad > SHOWN:
        parts.append(Text(f"and {found.bad - SHOWN:,} more; --json lists the first {len(found.listed):,}"))
    return Group(*parts)


def _lengths(lengths: dict[str, Any], what: str) -> Any:
    from rich import box
    from rich.table import Table

    said = " ".join(f"{name} {lengths[name]:,}" for name in ("least", "p5", "p50", "p95", "p99", "most"))
    bars = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{what} a sample: {said}", title_justify="left")
    bars.add_column(what, justify="right")
    bars.add_column("samples", justify="right")
    bars.add_column("")
    highest = max(lengths["counts"])
    for low, high, n in zip(lengths["borders"], lengths["borders"][1:], lengths["counts"], strict=False):
        bars.add_row(f"{low:,} to {high - 1:,}", f"{n:,}", "#" * -(-40 * n // highest))
    return bars


def drawn(found: "Checked", what: str) -> "Image":
    """The histogram of lengths as a picture."""
    from pathlib import Path

    from tubelet.inspect.draw.chart import Panel, chart
    from tubelet.inspect.draw.lettering import INK, TextLine
    from tubelet.train.data.check import histogram

    borders, counts = histogram(found.tokens)
    x = [float(border) for border in borders for _ in (0, 1)]
    y = [0.0, *(float(n) for n in counts for _ in (0, 1)), 0.0]
    panel = Panel("samples", f"{what} of a sample", tuple(x), tuple(y), "{:,.0f}".format)
    told = (f"{len(found.tokens):,} of {found.samples:,} samples", f"{int(found.tokens.sum()):,} {what}")
    return chart([[panel]], [TextLine((Path(found.name).name or "data",), 19, INK), TextLine(told)])
