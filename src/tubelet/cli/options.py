"""Options that several commands share, and what is made of them. Imports nothing heavy: help must come at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from tubelet.cli.terminal import UsageError
from tubelet.errors import InputError

if TYPE_CHECKING:
    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.reading.sampling import Sampling

DEFAULT_MODEL = "reader"  # in weights.locate.BUILT_IN
SEED = 0  # of the random weights of an untrained model


def option(text: str, metavar: str | None = None) -> Any:
    """Help for one option, without tyro's repetition of a default that says nothing."""
    return arg(help=text, metavar=metavar, help_behavior_hint="")


def _times(values: list[str]) -> tuple[float, ...]:
    return tuple(float(t) for t in values[0].split(","))


TimesSpec = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="S,S,...",
    instance_from_str=_times,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [",".join(f"{t:g}" for t in value)],
)

Files = Positional[
    Annotated[tuple[str, ...], option("pictures and videos, folders of them, '*.jpg' patterns, - for stdin", "FILE...")]
]
Overwrite = Annotated[bool, option("replace what was written before")]
Urls = Annotated[bool, option("FILE may be an address: http, https, s3, hf (needs tubelet[urls])")]
AnyModel = Annotated[
    str,
    option(
        "a folder or safetensors file, a hub id, or a variant with random weights (see tubelet models) "
        f"(default: {DEFAULT_MODEL}, which comes with tubelet)",
        "MODEL",
    ),
]
Config = Annotated[
    str | None, option("the variant that the weights are, instead of what their config.json says", "VARIANT")
]
StoredDtype = Annotated[Literal["stored", "float32", "bfloat16", "float16"], option("of the weights (default: stored)")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], option("where it runs (default: auto, the fastest there is)")]
Isolate = Annotated[
    Literal["auto", "always", "never"],
    option("decode in a process of its own, which a bad file may kill (default: auto: bytes and streams, not paths)"),
]
OnError = Annotated[
    Literal["raise", "skip"], option("a file that cannot be read ends the run, or is left out (default: raise)")
]


MaxTokens = Annotated[
    str | None,
    option(
        "most tokens of a picture or a clip, or none (default: the model's own; where it states none 4,096 of a "
        "picture and 16,384 of a clip)",
        "N",
    ),
]


def most_tokens(text: str) -> int | None:
    """The number that --max-tokens gives, None for "none". Raises UsageError.

    >>> most_tokens("4096"), most_tokens("none")
    (4096, None)
    """
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise UsageError(f"--max-tokens is a number from 1, or none, got {text!r}")
    return int(text)


@dataclass(frozen=True)
class FrameOptions:
    """Which frames of a clip are taken."""

    fps: Annotated[
        float | None, option("frames a second to take out of a clip (default: 2, at most 64 frames)", "F")
    ] = None
    num_frames: Annotated[int | None, option("or: so many frames, evenly over the clip", "N")] = None
    times: Annotated[
        Annotated[tuple[float, ...], TimesSpec] | None,
        option("or: the frames at these seconds, such as 0,1.5,3", "S,S,..."),
    ] = None

    @property
    def sampling(self) -> "Sampling":
        """The rule that at most one of the three options names. Raises UsageError."""
        return sampling_of(self.fps, self.num_frames, self.times)


@dataclass(frozen=True)
class ReadingOptions:
    """How files become pictures and clips."""

    max_pixels: Annotated[int | None, option("reduce pictures and frames that have more pixels", "N")] = None
    max_tokens: MaxTokens = None
    animation: Annotated[bool, option("read animated GIF, WebP and PNG as clips; otherwise their first frame")] = False
    isolate: Isolate = "auto"
    urls: Urls = False


@dataclass(frozen=True)
class OutputOptions:
    """What is said, and to whom."""  # Terminal reads these from the command line itself, before it is understood

    json: Annotated[bool, option("one JSON document on stdout instead of the table")] = False
    quiet: Annotated[bool, option("no progress bar and no table")] = False
    debug: Annotated[bool, option("show the traceback of an error")] = False


def sampling_of(fps: float | None, num_frames: int | None, times: tuple[float, ...] | None) -> "Sampling":
    """The rule that at most one of the three options names. Raises UsageError."""
    from tubelet.reading.sampling import Sampling

    try:
        return Sampling(fps, num_frames, times)
    except InputError as e:
        words = {"num_frames": "--num-frames", "times_s": "--times", "fps": "--fps"}
        message = e.message
        for name, flag in words.items():
            message = message.replace(name, flag)
        raise UsageError(message) from e


def with_budget(recipe: "PixelRecipe", max_pixels: int | None, max_tokens: str | None = None) -> "PixelRecipe":
    """The recipe with other ceilings: pixels of a picture or frame, tokens of a picture or clip ("none" lifts them).

    Raises UsageError where the size rule has none, and for words that are no number.
    """
    from dataclasses import replace

    from tubelet.pixels.recipe import UNBUDGETED

    if max_tokens is not None:
        recipe = recipe.budgeted(most_tokens(max_tokens))
    if max_pixels is None:
        return recipe
    if recipe.clips is not None:
        recipe = replace(recipe, clips=with_budget(recipe.clips, max_pixels))
    if recipe.rule in UNBUDGETED:
        raise UsageError(f"--max-pixels has no meaning for the size rule {recipe.rule} of this model")
    if max_pixels < recipe.unit**2:
        raise UsageError(f"--max-pixels {max_pixels} is below one patch of {recipe.unit} x {recipe.unit}")
    low = None if recipe.min_pixels is None else min(recipe.min_pixels, max_pixels)
    return replace(recipe, max_pixels=max_pixels, min_pixels=low)
