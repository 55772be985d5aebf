"""A command line, understood: tyro turns the commands' dataclasses into arguments and help."""

import inspect
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Annotated, Any

import tyro

from tubelet.cli.ask import Ask
from tubelet.cli.bench import Bench
from tubelet.cli.compare import Compare
from tubelet.cli.convert import Convert
from tubelet.cli.data import Data
from tubelet.cli.encode import Encode
from tubelet.cli.eval import Eval
from tubelet.cli.models import Models
from tubelet.cli.pages import Pages
from tubelet.cli.plan import Plan
from tubelet.cli.scene import Scene
from tubelet.cli.select import Select
from tubelet.cli.serve import Serve
from tubelet.cli.show import Show
from tubelet.cli.terminal import UsageError
from tubelet.cli.train import Train
from tubelet.errors import near_names

Command = (
    Encode
    | Show
    | Select
    | Compare
    | Ask
    | Serve
    | Scene
    | Eval
    | Plan
    | Data
    | Train
    | Convert
    | Models
    | Bench
    | Pages
)
COMMANDS: dict[str, type[Command]] = {
    "encode": Encode,
    "show": Show,
    "select": Select,
    "compare": Compare,
    "ask": Ask,
    "serve": Serve,
    "scene": Scene,
    "eval": Eval,
    "plan": Plan,
    "data": Data,
    "train": Train,
    "convert": Convert,
    "models": Models,
    "bench": Bench,
    "pages": Pages,
}

WIDEST = 100  # letters in a line of help, however wide the terminal is

_ABOUT = """Images and videos in, the visual tokens a language model reads out.

tubelet COMMAND --help explains a command and has an example. tubelet --version tells the version.
Exit codes: 0 done, 1 something failed, 2 wrong command line, 130 interrupted."""


_CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)  # groups of options have no names of their own


def _named(name: str, about: str) -> Any:
    return tyro.conf.subcommand(name, prefix_name=False, description=about)


_UNION = (
    Annotated[Encode, _named("encode", "pictures and videos to packed tokens in a safetensors file")]
    | Annotated[Show, _named("show", "a picture with its patch grid, or the frames of a clip with their times, as PNG")]
    | Annotated[Select, _named("select", "fewer tokens of pictures and clips, chosen, and a picture of which they are")]
    | Annotated[Compare, _named("compare", "several ways to choose tokens beside each other: pictures and numbers")]
    | Annotated[Ask, _named("ask", "a question about pictures and videos, answered by a vision-language model")]
    | Annotated[Serve, _named("serve", "a page in the browser: what the model sees, which tokens stay, what they cost")]
    | Annotated[Scene, _named("scene", "cameras, depth and points of a video or of pictures of one place, as a folder")]
    | Annotated[Eval, _named("eval", "a model's answers to a public benchmark, with all tokens and with fewer")]
    | Annotated[Plan, _named("plan", "what an input costs before it is read, and what fits a budget")]
    | Annotated[Data, _named("data", "what training data hold, and what is wrong with them")]
    | Annotated[Train, _named("train", "a projector, adapters or a model, as a file says, on one process or many")]
    | Annotated[Convert, _named("convert", "a checkpoint in another format, compared with what it was made from")]
    | Annotated[Models, _named("models", "what can be loaded")]
    | Annotated[Bench, _named("bench", "the encoders against where they came from, timed on this machine")]
    | Annotated[Pages, _named("pages", "pages to train and test a reader with, their questions and answers")]
)


class Help(io.StringIO):
    """What tyro prints, as if to stdout itself: its colours and its boxes are those of a terminal where that is one."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self.out = out

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.out.encoding

    def isatty(self) -> bool:
        return self.out.isatty()


def parse(args: Sequence[str]) -> Command:
    """The command that `args` ask for. Prints help or what is wrong and raises SystemExit, as argparse does, and
    UsageError for a command there is none of."""
    said = Help(sys.stdout)
    try:
        with redirect_stdout(said):
            return _parsed(args)
    finally:
        said.out.write(re.sub(r"\n{3,}", "\n\n", said.getvalue()))  # of an empty line tyro makes two


def _parsed(args: Sequence[str]) -> Command:
    if args[:1] == ["train"] and len(args) > 2 and not args[1].startswith("-") and {"--help", "-h"} & set(args):
        return Train(args[1], changes=("--help",))  # with a file, help is about its entries
    if args[:1] == ["train"] or (args[:1] == ["plan"] and "--train" in args):
        return _changing(args[0], args[1:])
    if args and args[0] in COMMANDS:
        about = wrapped(inspect.getdoc(COMMANDS[args[0]]) or "")
        kind, name = COMMANDS[args[0]], f"tubelet {args[0]}"
        return tyro.cli(kind, prog=name, description=about, args=list(args[1:]), config=_CONFIG)
    if args and not args[0].startswith("-"):
        raise UsageError(
            f"there is no command {args[0][:40]}{near_names(args[0], COMMANDS)}; tubelet --help lists them"
        )
    return tyro.cli(
        _UNION,  # pyright: ignore[reportArgumentType]
        prog="tubelet",
        description=wrapped(_ABOUT),
        args=list(args) or ["--help"],
        config=_CONFIG,
    )


def wrapped(text: str) -> str:
    """Paragraphs as lines that fit the terminal, at most WIDEST letters; an example is a line of its own.

    Each line begins with a space: tyro joins those that begin with a letter.
    """
    width = max(40, min(WIDEST, shutil.get_terminal_size().columns))
    parts = re.split(r"\n\s*\n|\n(?=Example:)", text)
    lines = [
        textwrap.fill(part, width, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False) for part in parts
    ]
    return "\n\n".join(lines).replace("\n\n Example:", "\n Example:").replace("\n Example:", "\n\n Example:", 1)


def _changing(name: str, args: Sequence[str]) -> Command:
    """A command whose file has entries: words that it does not know itself change those."""
    kind: Any = COMMANDS[name]
    about = wrapped(inspect.getdoc(kind) or "")
    given = {"prog": f"tubelet {name}", "description": about, "args": list(args), "config": _CONFIG}
    made, rest = tyro.cli(kind, **given, return_unknown_args=True)
    return replace(made, changes=tuple(rest))
