"""What the notebook beside this computes, in plain functions: a file, a method, a budget and words become a picture and
numbers.

    python examples/notebook/look.py
"""

from functools import lru_cache

from PIL import Image

import tubelet
from tubelet.inspect.draw.cells import layers_of
from tubelet.inspect.draw.kept import draw_kept
from tubelet.reduce.encoded import EncodedFile, encode_file
from tubelet.reduce.methods import METHODS, choose, needs_of
from tubelet.reduce.settings import Settings
from tubelet.reduce.spelled_text import SpelledText

MODEL = "reader"  # comes with tubelet; a folder or hub id of another encoder goes, too, without words


@lru_cache(maxsize=1)
def model() -> tuple[tubelet.Encoder, SpelledText]:
    """The encoder, and words in the space of its rows."""
    return tubelet.load_encoder(MODEL), SpelledText.load(MODEL)


def methods(words: str) -> list[str]:
    """Names of the methods that a picture and these words are enough for."""
    there = {"attention", "keys", *(("text",) if words.strip() else ())}
    return [name for name in METHODS if set(needs_of(name, Settings())) <= there]


@lru_cache(maxsize=8)
def encoded(file: str, words: str) -> EncodedFile:
    """A file as tokens, with all that those methods read."""
    encoder, spelled = model()
    needs = ("attention", "keys", *(("text",) if words.strip() else ()))
    side = {"text": spelled.words(words), "space": spelled.rows} if words.strip() else {}
    return encode_file(file, encoder, needs, **side)


def look(file: str, method: str, percent: float, words: str = "") -> tuple[Image.Image, dict[str, str]]:
    """The kept tokens of a file on its picture, and the numbers. Raises TubeletError."""
    seen = encoded(file, words)
    tokens = seen.inputs.tokens
    choice = choose(method, seen.inputs, budget=max(1, round(len(tokens.x) * percent / 100)))
    layers = layers_of(tokens, choice.kept, 0, choice.scores)
    kept = len(choice.kept.x)
    numbers = {
        "grid": " x ".join(map(str, tokens.items[0].grid)),
        "tokens": f"{len(tokens.x):,}",
        "kept": f"{kept:,} ({kept / len(tokens.x):.1%})",
        "reading, encoding": f"{seen.seconds['read']:.2f} s, {seen.seconds['encode']:.2f} s",
    }
    if choice.scores is not None and layers[0].scale is not None:
        numbers["scores"] = "{:.4g} to {:.4g}".format(*layers[0].scale)
    return draw_kept(seen.clip, layers, heat=choice.scores is not None), numbers


if __name__ == "__main__":
    for name in ("divprune", "text"):
        picture, numbers = look("examples/receipt.png", name, 15, "total")
        print(f"{name}: {picture.width} x {picture.height}", *(f"{k} {v}" for k, v in numbers.items()), sep="; ")
