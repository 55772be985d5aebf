"""The words that `select` and `compare` look for: read by a model's text tower, by their letters, or from a file."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tubelet.cli.terminal import file_name
from tubelet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from tubelet.cli.model import Model
    from tubelet.reduce.inputs import Space

TEXT_SIDE = (
    "--text needs a model with a text side: --model reader, which looks for words as they are printed, or such as "
    "google/siglip-so400m-patch14-384 for what pictures show; or give --text-embeddings FILE.safetensors with (S, D) "
    "vectors in this model's space"
)


def require_text_side(text: str | None, name: str, config: str | None) -> None:
    """Raise InputError, saying what to give, where --text is to be read by a model that has no text tower. Of a folder
    or file names are looked at, of a hub nothing. name, config: --model and --config."""
    if text is None:
        return
    from tubelet.families.catalogue import find, variants
    from tubelet.weights.locate import find_folder, is_here

    if name in variants():  # random weights
        raise InputError(TEXT_SIDE, source=name, expected="siglip")
    if not is_here(name) or _spelled(name):
        return
    folder = find_folder(name)
    family = find(folder.config() if config is None else None, folder.home)[0].family
    if family.name != "siglip" or not any("text_model." in key for key in folder.home):
        raise InputError(TEXT_SIDE, source=file_name(name), expected="siglip")


class SoughtWords(NamedTuple):
    """The vectors of the words that are asked for, or None, and the space that rows are brought to."""

    words: "Tensor | None"
    space: "Space"


def words_of(text: str | None, file: str | None, space: "Space", model: "Model", name: str) -> SoughtWords:
    """What is asked for by a text or a file of vectors, in a space that the model's rows can be brought to. name:
    --model, which may be a folder.

    Raises InputError for a file that holds no words, and as `require_text_side`, which says it before the model is
    loaded.
    """
    from tubelet.weights.load import report_of

    if file is not None:
        return SoughtWords(_stored_words(file), space)
    if text is None:
        return SoughtWords(None, space)
    if _spelled(name):
        from tubelet.reduce.spelled_text import SpelledText

        side = SpelledText.load(name, device=model.device)
        return SoughtWords(side.words(text), side.rows if space == "auto" else space)
    report = report_of(model.encoder)
    if report is None or report.family != "siglip":  # of a hub, where nobody looked before
        raise InputError(TEXT_SIDE, source=model.name, expected="siglip")
    from tubelet.reduce.siglip_text import SiglipText

    return SoughtWords(SiglipText.load(name).words(text), space)


def _spelled(name: str) -> bool:
    """Whether words are stored beside a model's weights. Of a hub nothing is fetched for this."""
    from tubelet.families.catalogue import variants
    from tubelet.reduce.spelled_text import place_of
    from tubelet.weights.locate import is_here

    return name not in variants() and is_here(name) and place_of(name).is_file()


def _stored_words(file: str) -> "Tensor":
    from safetensors import SafetensorError, safe_open

    from tubelet.packed.header import read_header

    name = file_name(file)
    try:
        if Path(file).exists():
            read_header(Path(file))
        with safe_open(file, framework="pt") as f:
            keys = list(f.keys())
            key = "text" if "text" in keys else keys[0] if len(keys) == 1 else None
            found = None if key is None else f.get_tensor(key)
    except (OSError, SafetensorError) as e:
        raise InputError("the file with vectors of words cannot be read as safetensors", source=name) from e
    if found is None:
        raise InputError("of several tensors, one must be called text", source=name, got=sorted(keys)[:8])
    if found.ndim != 2 or not found.is_floating_point() or not len(found):
        raise InputError(f"vectors of words are (S, D), got {tuple(found.shape)}", source=name, got=tuple(found.shape))
    return found.float()
