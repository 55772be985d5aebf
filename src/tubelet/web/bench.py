"""What the server works with, as one value that the command makes: the model, the files, the ceilings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import Views
from tubelet.reduce.inputs import Space

if TYPE_CHECKING:
    from tubelet.language.vlm.model import VLM

Sought = tuple[Tensor | None, Space]  # vectors of words, and the space that rows are brought to
MOST_UPLOAD = 50_000_000  # bytes of a file that is sent


@dataclass(frozen=True, eq=False)
class Bench:
    """A model, and what may be looked at with it."""

    name: str  # of the model, as a person gave it
    encoder: Encoder
    recipe: PixelRecipe  # that cuts files into its patches
    untrained: bool
    device: str = "cpu"
    told: str | None = None  # what --model has to say for this one; None: nothing, it is the default
    words: Callable[[str], Sought] | None = None  # a question's words as vectors; None where no words can be sought
    reader: "VLM | None" = None  # what answers questions
    reader_name: str | None = None
    views_of: Callable[[str | None], Views | None] = lambda rule: None  # a rule as --views takes it
    files: tuple[str, ...] = ()  # paths that may be opened by their number
    root: Path | None = None  # below which files may be opened by path
    most_upload: int = MOST_UPLOAD
