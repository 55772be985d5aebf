"""What a model card says of a reader: what it is, how it was made, what it reads and what not."""

import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tubelet.inspect.speed.turns import machine
from tubelet.language.vlm.scheme import Pointer
from tubelet.train.pages.evaluate import Share, constants
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.measured import MOST_WRONG, Measured, Said
from tubelet.train.pages.page import SCOPE_A
from tubelet.train.pages.run import StageConfig

ROWS = 8  # of a stage's curve
FIGURES = ("columns", "slots", "pointer", "bytes", "exact")  # shares that training tells, means over its own batches


def card(
    stage: StageConfig, fonts: Fonts, measured: Mapping[str, Measured], blind: Measured, pointer: Pointer, pages: int
) -> str:
    """The card of a reader. Its curves are read from the logs of the stage and of those it began with. blind: the
    questions of the first kind of pages, with other pages' pictures. pages: of the first kind."""
    first = next(iter(measured.values()))
    constant = constants(s.question for s in first.said if s.question.answer).get("")
    rows = "\n".join(
        f"| {name} | {told(one.exact())} | {one.near():.3f} | {told(one.absent())} | {told(one.confident())} |"
        f" {told(one.wrong())} |"
        for name, one in measured.items()
    )
    folders = folders_of(stage)
    logs = [folder / "log.jsonl" for folder in folders]
    here = machine()
    return CARD.format(
        rows=rows,
        commands="\n".join(
            f"    python -m tubelet.train.pages examples/reader/{folder.name}.yaml" for folder in folders
        ),
        last=folders[-1].name,
        pages=pages,
        kinds=_by(first, lambda s: s.question.kind),
        layouts=_by(first, lambda s: s.page.layout),
        ems=_by(first, lambda s: f"{s.page.em} px"),
        sizes=_by(first, lambda s: f"{s.page.pixels.shape[1]} x {s.page.pixels.shape[0]}"),
        blind=told(blind.exact()),
        constants=told(first.constant()),
        placed=told(first.placed()),
        sure=pointer.sure,
        looks=", ".join(f"{look:g}" for look in pointer.looks),
        wrong=MOST_WRONG,
        constant="none" if constant is None else f'"{constant.answer}", {100 * constant.share:.1f} %',
        fonts=fonts.sha256,
        families=len({face.family for face in fonts.faces}),
        scope=", ".join(name for name, _ in SCOPE_A),
        torch=torch.__version__,
        python=platform.python_version(),
        machine=f"{here['cores']} cores of {here['cpu']}",
        curves="\n\n".join(curve(log) for log in logs if log.is_file()),
    )


def _by(one: Measured, of: Callable[[Said], str]) -> str:
    """Rows of exact answers by what `of` says of a question and its page."""
    names = sorted({of(s) for s in one.said if s.question.answer})
    return "\n".join(f"| {name} | {told(one.exact(lambda s, n=name: of(s) == n))} |" for name in names)


def folders_of(stage: StageConfig) -> list[Path]:
    """The folders of the stages, the first one first: one begins with the weights of the one before, its neighbour."""
    folder = stage.train.folder.expanduser()
    if stage.train.init is None:
        return [folder]
    before = stage.train.init.expanduser()
    stages = sorted(path.parent for path in before.parent.glob("*/log.jsonl") if path.parent.name < folder.name)
    return [*(stages or [before]), folder]


def curve(log: Path) -> str:
    """Steps, pages, hours and a few rows of what a stage's log tells."""
    steps = [said for said in map(json.loads, log.read_text().splitlines()) if said["kind"] == "step"]
    steps = list({said["step"]: said for said in steps}.values())  # a step done again counts once
    hours = sum(said["seconds"] for said in steps) / 3600
    pages = sum(said["tokens"] for said in steps)
    names = [name for name in FIGURES if any(name in said for said in steps)]
    lines = [
        f"{log.parent.name}: {len(steps):,} steps, {pages:,} pages, {hours:.1f} hours",
        "",
        f"| steps | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for n in range(min(ROWS, len(steps))):
        part = steps[n * len(steps) // ROWS : (n + 1) * len(steps) // ROWS] or steps[n : n + 1]
        lines.append(f"| to {part[-1]['step'] + 1:,} | {' | '.join(_mean(part, name) for name in names)} |")
    return "\n".join(lines)


def _mean(steps: list[dict[str, Any]], name: str) -> str:
    values = [said[name] for said in steps if said.get(name) is not None]
    return f"{100 * sum(values) / len(values):.1f} %" if values else ""


def told(share: Share) -> str:
    """A share with its interval and of how many."""
    low, high = share.interval
    return f"{100 * share.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {share.asked:,}"


CARD = """---
license: apache-2.0
---
# A reader of small pages

It answers questions about receipts, forms and tables of up to 320 x 480 pixels with letters of 20 pixels to the em or
more: an encoder of 16 x 16 patches with 3-D rotation, a 2 x 2 merge, a projector, and a language model over bytes, all
of this library's own parts. It was made to show and to test the library, not to read the world's paper.

## Data
Pages that this library prints (`tubelet pages`) in {families} families of fonts found on the system (SHA-256 of the
choice: {fonts}); no page of anyone's, no weights of others. Training read no page, font family or word of those below.

## How it is made again
{commands}
    python -m tubelet.train.pages.ship examples/reader/{last}.yaml FOLDER {pages}
Seeds as the files say, {machine}; measured with torch {torch} and Python {python}. Shares of right letters, pointers,
bytes and whole answers over the batches that were trained on, in float32:

{curves}

## What it reads
A page is looked at {looks} times as large, where it is not as large as the reader takes anyway, and the
likeliest answer is told. Unseen pages, held-out families of fonts, held-out words. Exact: every letter right, of
questions whose answer is there.
ANLS: how near the letters are, a mean. Absent: it says nothing to what is not there. Sure: probability of the whole
answer at least {sure:.3f}, chosen on other pages so that at most {wrong:.0%} of such answers are wrong. Intervals are
Wilson's of 95 %.

| pages | exact | ANLS | absent | sure | sure and wrong |
|---|---|---|---|---|---|
{rows}

Of the first row's questions {blind} are answered right with another page's picture, and the
answer that is most often right to each kind of question would be right for {constants}; the
most frequent of all is {constant}. Of right answers the place it points at first touches the answer: {placed}.

| kind of answer ({scope}) | exact |
|---|---|
{kinds}

| layout | exact |
|---|---|
{layouts}

| letters to the em | exact |
|---|---|
{ems}

| page | exact |
|---|---|
{sizes}

## What it does not read
Photographs, handwriting, scans of old paper, pages of books, letters below 14 pixels, languages with letters beyond
ASCII, EUR and GBP signs. What it is not sure of it says so; an answer of which it is sure may still be wrong.
"""
