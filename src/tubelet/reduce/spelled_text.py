"""Words as vectors of the letters they are written with, and the rows of an encoder that reads print in their space.

A word is looked for where it is printed, so what counts is its spelling: two words that share letters lie near each
other, whatever they mean. SigLIP's text tower (tubelet.reduce.siglip_text) is the one for what pictures show.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.errors import InputError, KeyMismatch, ShapeError
from tubelet.packed import Packed
from tubelet.packed.file import replace_tensors
from tubelet.reduce.relevance import content_words
from tubelet.shapes import Float, Int64
from tubelet.weights.locate import CheckpointFolder, Source, find_checkpoint, find_folder
from tubelet.weights.tensors import TensorReader

FILE = "text.safetensors"  # beside the model's own weights
PIECES, LONGEST = 4096, 3  # numbers that pieces of words are counted to, letters of a piece
NAMES = ("pieces.weight", "rows.weight")


class SpelledText(nn.Module):
    """Words and rows to vectors of one space, each of length 1. Fresh weights from torch's global generator.

    A word is the sum of its pieces of 1 to 3 letters, its ends among them, in lower case; a row its product with one
    matrix. Trained by `tubelet.train.pages.spelling`. width: channels of a row; channels: of the space.

        >>> side = SpelledText(width=256)
        >>> side.words("What is the total?").shape
        torch.Size([1, 96])
    """

    def __init__(self, width: int, channels: int = 96) -> None:
        super().__init__()
        self.pieces = nn.EmbeddingBag(PIECES, channels, mode="sum")
        self.matrix = nn.Linear(width, channels, bias=False)

    @classmethod
    def load(cls, source: Source, *, device: torch.device | str = "cpu") -> "SpelledText":
        """What is stored beside the weights of a folder, in float32. Raises KeyMismatch for other tensors than these,
        WeightsError where there is none."""
        checkpoint = find_checkpoint(place_of(source))
        if set(checkpoint.entries) != set(NAMES):
            lost, more = sorted(set(NAMES) - set(checkpoint.entries)), sorted(set(checkpoint.entries) - set(NAMES))
            raise KeyMismatch("not words as their letters", missing=lost, unexpected=more, source=checkpoint.name)
        with TensorReader(checkpoint) as reader:
            pieces, matrix = (reader(name).float() for name in NAMES)
        if pieces.ndim != 2 or matrix.ndim != 2 or len(pieces) != PIECES or len(matrix) != pieces.shape[1]:
            wanted = ((PIECES, *pieces.shape[1:]), (*pieces.shape[1:], *matrix.shape[1:]))
            found = [(n, w, tuple(t.shape)) for n, w, t in zip(NAMES, wanted, (pieces, matrix), strict=True)]
            raise KeyMismatch("words and rows of different spaces", misshaped=found, source=checkpoint.name)
        with torch.device("meta"):
            side = cls(matrix.shape[1], len(matrix))
        side.load_state_dict({"pieces.weight": pieces, "matrix.weight": matrix}, assign=True)
        return side.to(device).eval()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it beside the weights in a folder, in half precision. Raises what `writing.new_file` raises."""
        stored = zip(NAMES, (self.pieces.weight, self.matrix.weight), strict=True)
        tensors = {name: t.detach().half().contiguous() for name, t in stored}
        replace_tensors(Path(folder) / FILE, tensors, {}, lambda old: old.tensors.keys() == set(NAMES))

    def embed(self, words: Sequence[str]) -> Float[Tensor, "S C"]:
        """One vector a word. Raises InputError for no words or an empty one."""
        words = [words] if isinstance(words, str) else list(words)
        if not words or any(not word.strip() for word in words):
            raise InputError("a text has at least one word", got=words)
        device = self.pieces.weight.device
        numbers = [pieces_of(word) for word in words]
        starts = torch.tensor([0, *map(len, numbers[:-1])], device=device).cumsum(0)
        return F.normalize(self.pieces(torch.cat(numbers).to(device), starts), dim=1)

    @torch.no_grad()
    def words(self, question: str) -> Float[Tensor, "S C"]:
        """The words of a question that name something (`content_words`)."""
        return self.embed(content_words(question))

    def rows(self, tokens: Packed) -> Packed:
        """The rows of the encoder this was trained beside, in the space of the words. Raises ShapeError for others."""
        width = self.matrix.in_features
        if tokens.x.shape[1] != width:
            text = f"these words are beside rows of {width} values, not of {tokens.x.shape[1]}"
            raise ShapeError(text, expected=width, got=tokens.x.shape[1])
        return tokens.with_x(F.normalize(self.matrix(tokens.x.to(self.matrix.weight.dtype)), dim=1))


def pieces_of(word: str) -> Int64[Tensor, " P"]:
    """Numbers of a word's pieces: of 1 to 3 letters of its UTF-8 bytes in lower case, between an end and an end."""
    letters = b"\x02" + word.strip().lower().encode() + b"\x03"
    found = [letters[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(letters) - n + 1)]
    return torch.tensor([zlib.crc32(piece) % PIECES for piece in found if piece.strip(b"\x02\x03")], dtype=torch.int64)


def place_of(source: Source) -> Path:
    """Where the words of a folder are, whether they are there or not."""
    folder = source if isinstance(source, CheckpointFolder) else find_folder(source)
    return folder.folder / FILE
