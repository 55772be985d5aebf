"""What is open: files that were read and encoded, each under a random id, the oldest forgotten first."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.errors import InputError
from tubelet.packed import Packed
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import Views
from tubelet.reading.clip import Clip
from tubelet.reading.sampling import Sampling
from tubelet.reduce.encoded import EncodedFile, encode_file
from tubelet.reduce.inputs import Space, inputs_of
from tubelet.reduce.methods import Inputs, Need

MOST_DOCUMENTS = 16
MOST_BYTES = 1 << 30  # of files, frames and tokens held, the newest document whatever its size
FROM_ENCODER: frozenset[Need] = frozenset(("attention", "keys"))


@dataclass(frozen=True)
class Source:
    """A file as it came."""

    name: str  # to show
    data: bytes = field(repr=False)
    path: str | None = None  # as the command that does the same would name it; None: it was sent
    again: Mapping[str, Any] = field(default_factory=dict)  # the JSON that opens it again, none for what was sent


@dataclass(frozen=True)
class Asked:
    """How a file is to be read."""

    sampling: Sampling = Sampling()
    views: str | None = None  # a rule as --views takes it
    animation: bool = False


class Document:
    """A file that was read and encoded, and what methods read of it, found when one asks. For one thread at a time."""

    def __init__(self, source: Source, asked: Asked, encoder: Encoder, seen: EncodedFile) -> None:
        self.id = secrets.token_urlsafe(12)
        self.source, self.asked, self.seen = source, asked, seen
        self._encoder, self._inputs, self._found = encoder, seen.inputs, frozenset[Need]()

    @property
    def clip(self) -> Clip:
        return self.seen.clip

    @property
    def tokens(self) -> Packed:
        return self.seen.inputs.tokens

    @property
    def size_bytes(self) -> int:
        """Of the file, its frames, patches and tokens."""
        held = (self.seen.patches.x, self.tokens.x)
        return len(self.source.data) + self.clip.frames.nbytes + sum(x.numel() * x.element_size() for x in held)

    def inputs(self, needs: Collection[Need], text: Tensor | None = None, space: Space = "auto") -> Inputs:
        """With everything `needs` asks for that the encoder can give, and the text; `space` is the same for all texts.

        The encoder runs once more where attention, keys or the words' space were not asked for before. Raises what
        `inputs_of` raises.
        """
        wanted = self._found | (FROM_ENCODER & set(needs))
        if wanted != self._found or (text is not None and self._inputs.text is None):
            had = self._inputs
            words = had.text if text is None else text
            more = {"smaller": had.smaller, "sparse": had.sparse}
            with torch.inference_mode():
                self._inputs = inputs_of(self._encoder, self.seen.patches, wanted, text=words, space=space, **more)
            self._found = wanted
        only = dict.fromkeys(FROM_ENCODER - set(needs))  # what another method asked for changes nothing here
        return replace(self._inputs, text=text, **only)


def open_document(
    source: Source, asked: Asked, encoder: Encoder, recipe: PixelRecipe, views_of: Callable[[str | None], Views | None]
) -> Document:
    """The file decoded in a child process, and encoded. Raises what `encode_file` raises."""
    seen = encode_file(
        source.data,
        encoder,
        recipe=recipe,
        views=views_of(asked.views),
        sampling=asked.sampling,
        animation=asked.animation,
        isolate="always",
    )
    return Document(source, asked, encoder, seen)


@runtime_checkable
class Held(Protocol):
    """What can be open."""

    id: str

    @property
    def size_bytes(self) -> int: ...


T = TypeVar("T", bound=Held)


class Documents(Generic[T]):
    """The last documents, at most `most` of them and `most_bytes` together."""

    def __init__(self, most: int = MOST_DOCUMENTS, most_bytes: int = MOST_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._held: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, document: T) -> None:
        """Keeps it; forgets those that were not asked for longest where there are too many."""
        with self._lock:
            self._held[document.id] = document
            while len(self._held) > 1 and (len(self._held) > self.most or self.bytes_held > self.most_bytes):
                self._held.popitem(last=False)

    def get(self, name: str) -> T:
        """The document of that id. Raises InputError for none, which it may have been."""
        with self._lock:
            if name not in self._held:
                raise InputError("this file is not open any more; open it again", got=name[:40])
            self._held.move_to_end(name)
            return self._held[name]

    @property
    def bytes_held(self) -> int:
        return sum(one.size_bytes for one in self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held
