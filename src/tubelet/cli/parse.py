"""A command line, understood: tyro turns the commands' dataclasses into arguments and help."""

from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from tubelet.cli.ask import Ask
from tubelet.cli.bench import Bench
from tubelet.cli.compare import Compare
from tubelet.cli.convert import Convert
from tubelet.cli.data import Data
from tubelet.cli.encode import Encode
from tubelet.cli.models import Models
from tubelet.cli.pages import Pages
from tubelet.cli.plan import Plan
from tubelet.cli.select import Select
from tubelet.cli.show import Show

Command = Encode | Show | Select | Compare | Ask | Plan | Data | Convert | Models | Bench | Pages
COMMANDS: dict[str, type[Command]] = {
    "encode": Encode,
    "show": Show,
    "select": Select,
    "compare": Compare,
    "ask": Ask,
    "plan": Plan,
    "data": Data,
    "convert": Convert,
    "models": Models,
    "bench": Bench,
    "pages": Pages,
}

_ABOUT = """Images and videos in, the visual tokens a language model reads out.

tubelet COMMAND --help explains a command and has an example. tubelet --version tells the version.
Exit codes: 0 done, 1 something failed, 2 wrong command line, 130 interrupted."""


_CONFIG = (tyro.conf.FlagCreatePairsOff,)


def _named(name: str, about: str) -> Any:
    return tyro.conf.subcommand(name, prefix_name=False, description=about)


_UNION = (
    Annotated[Encode, _named("encode", "pictures and videos to packed tokens in a safetensors file")]
    | Annotated[Show, _named("show", "a picture with its patch grid, or the frames of a clip with their times, as PNG")]
    | Annotated[Select, _named("select", "fewer tokens of pictures and clips, chosen, and a picture of which they are")]
    | Annotated[Compare, _named("compare", "several ways to choose tokens beside each other: pictures and numbers")]
    | Annotated[Ask, _named("ask", "a question about pictures and videos, answered by a vision-language model")]
    | Annotated[Plan, _named("plan", "what an input costs before it is read, and what fits a budget")]
    | Annotated[Data, _named("data", "what training data hold, and what is wrong with them")]
    | Annotated[Convert, _named("convert", "a checkpoint in another format, compared with what it was made from")]
    | Annotated[Models, _named("models", "what can be loaded")]
    | Annotated[Bench, _named("bench", "the encoders against where they came from, timed on this machine")]
    | Annotated[Pages, _named("pages", "pages to train and test a reader with, their questions and answers")]
)


def parse(args: Sequence[str]) -> Command:
    """The command that `args` ask for. Prints help or what is wrong and raises SystemExit, as argparse does."""
    if args and args[0] in COMMANDS:
        return tyro.cli(COMMANDS[args[0]], prog=f"tubelet {args[0]}", args=list(args[1:]), config=_CONFIG)
    return tyro.cli(
        _UNION,  # pyright: ignore[reportArgumentType]
        prog="tubelet",
        description=_ABOUT,
        args=list(args),
        config=_CONFIG,
    )
