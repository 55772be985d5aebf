"""A command line, understood: tyro turns the commands' dataclasses into arguments and help."""

from collections.abc import Sequence
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
from tubelet.cli.show import Show
from tubelet.cli.train import Train

Command = Encode | Show | Select | Compare | Ask | Scene | Eval | Plan | Data | Train | Convert | Models | Bench | Pages
COMMANDS: dict[str, type[Command]] = {
    "encode": Encode,
    "show": Show,
    "select": Select,
    "compare": Compare,
    "ask": Ask,
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


def parse(args: Sequence[str]) -> Command:
    """The command that `args` ask for. Prints help or what is wrong and raises SystemExit, as argparse does."""
    if args[:1] == ["train"] and len(args) > 2 and not args[1].startswith("-") and {"--help", "-h"} & set(args):
        return Train(args[1], changes=("--help",))  # with a file, help is about its entries
    if args[:1] == ["train"] or (args[:1] == ["plan"] and "--train" in args):
        return _changing(args[0], args[1:])
    if args and args[0] in COMMANDS:
        return tyro.cli(COMMANDS[args[0]], prog=f"tubelet {args[0]}", args=list(args[1:]), config=_CONFIG)
    return tyro.cli(
        _UNION,  # pyright: ignore[reportArgumentType]
        prog="tubelet",
        description=_ABOUT,
        args=list(args),
        config=_CONFIG,
    )


def _changing(name: str, args: Sequence[str]) -> Command:
    """A command whose file has entries: words that it does not know itself change those."""
    kind: Any = COMMANDS[name]
    made, rest = tyro.cli(kind, prog=f"tubelet {name}", args=list(args), config=_CONFIG, return_unknown_args=True)
    return replace(made, changes=tuple(rest))
