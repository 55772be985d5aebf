"""A checkpoint up to where its family, its format and its configuration are known, and no tensor is read.

Nothing here needs torch, unless shapes alone must tell which published network the tensors are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.catalogue import find, format_of, read_config, require_variant, write_config
from tubelet.families.family import Family, to_theirs
from tubelet.families.match import Match, matches
from tubelet.families.processors import recipe_from
from tubelet.packed.header import Entry
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.locate import SECTION, Checkpoint, CheckpointFolder, Source, find_folder
from tubelet.weights.plain import from_plain

if TYPE_CHECKING:
    from tubelet.encoder.model import Encoder

Shapes = dict[str, tuple[int, ...]]
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of a header -> of torch


class Opened(NamedTuple):
    """A checkpoint whose family is known: its files, its names, and the encoder it describes."""

    checkpoint: Checkpoint
    match: Match
    config: EncoderConfig

    @property
    def entries(self) -> dict[str, Entry]:
        """The encoder's tensors by their bare names."""
        return {name: self.checkpoint.entries[key] for name, key in self.match.named.items()}


def stored_name(entries: Iterable[Entry]) -> str:
    """The one type all tensors are kept in, as torch calls it: the stored one, or the narrowest that holds all of them.

    >>> stored_name([Entry("BF16", (), 0, 2), Entry("F16", (), 2, 4)])
    'float32'
    """
    kinds = {FLOATS[entry.dtype] for entry in entries} or {"float32"}
    return kinds.pop() if len(kinds) == 1 else "float64" if "float64" in kinds else "float32"


def open_weights(source: Source, *, config: EncoderConfig | str | None = None, revision: str | None = None) -> Opened:
    """`load_encoder` up to where the family, the format and the configuration are known and no tensor is read."""
    folder = find_folder(source, revision)
    if isinstance(config, str):
        raw, (family, settled) = None, require_variant(config)
        found = matches((family,), folder.home)
        if not found:
            raise ConfigError(f"no tensor has a name of {family.name}'s, which {config} is", source=folder.name)
    else:
        raw, settled = (folder.config(), None) if config is None else (None, config)
        found = find(raw, folder.home)
    checkpoint = folder.checkpoint({key for match in found for key in match.named.values()})
    if raw is not None:
        return _sized(Opened(checkpoint, found[0], read_config(raw, found[0].family, found[0].format)), folder)
    tried = [Opened(checkpoint, match, settled) for match in found] if settled is not None else []
    if tried:
        return next((one for one in tried if _fits(one)), tried[0])
    return _sized(_by_shapes(checkpoint, found), folder)


def _sized(opened: Opened, folder: CheckpointFolder) -> Opened:
    """With the pixel recipe that the files beside the weights say, of clips as well. Raises ConfigError.

    A whole model that tubelet wrote says it in its own section, and the encoder alone sees pictures as the model does.
    """
    family, config = opened.match.family, opened.config
    section = (folder.config() or {}).get(SECTION)
    if isinstance(section, Mapping) and isinstance(section.get("pixels"), Mapping):
        still, clips = (_own_recipe(section.get(name), config.pixels) for name in ("pixels", "video_pixels"))
        assert still is not None
        return opened._replace(config=replace(config, pixels=still if clips is None else replace(still, clips=clips)))
    said = None if family.processor_to is None else folder.processor()
    if said is not None:
        config = replace(config, pixels=recipe_from(said, config.pixels))
    if family.clips_from is not None:
        clips = family.clips_from(config, folder.video_processor())
        config = replace(config, pixels=replace(config.pixels, clips=clips))
    return opened._replace(config=config)


def _own_recipe(said: Any, pixels: PixelRecipe) -> PixelRecipe | None:
    """A recipe of the section, with the mean and std that files written before leave to the encoder."""
    if said is None:
        return None
    known = {"mean": list(pixels.mean), "std": list(pixels.std)}
    return from_plain(PixelRecipe, known | dict(said) if isinstance(said, Mapping) else said, SECTION)


def _by_shapes(checkpoint: Checkpoint, found: Sequence[Match]) -> Opened:
    """The one published network that has exactly these tensors."""
    fits: dict[str, Opened] = {}
    tried: list[str] = []
    for match in found:
        for name, config in match.family.variants.items():
            if match.family.dialects is None or format_of(match.family, name) == match.format:
                opened = Opened(checkpoint, match, config)
                tried.append(name)
                if _fits(opened):
                    fits[name] = opened
    if len(fits) != 1:
        choice = f"shapes fit {' and '.join(fits)}" if fits else f"shapes fit none of {', '.join(tried)}"
        raise ConfigError(
            f"no config.json, and the {choice}: pass config=, a configuration or the name of a variant",
            source=checkpoint.name,
            expected="config.json",
            got=tuple(fits),
        )
    return next(iter(fits.values()))


def _fits(opened: Opened) -> bool:
    """Whether the family can say what this encoder is, and the file has exactly its tensors."""
    match = opened.match
    try:
        write_config(opened.config, match.family, match.format)
        expected = skeleton(opened.config, match.family, match.format)[1]
    except ConfigError:  # this family has no names for a part of it
        return False
    spare = match.family.unused.keys() - expected.keys()
    return {n: e.shape for n, e in opened.entries.items() if n not in spare} == expected


def skeleton(config: EncoderConfig, family: Family, fmt: str) -> "tuple[Encoder, Shapes]":
    """The encoder without values, and the shapes of all its tensors by their bare names in this format."""
    import torch

    from tubelet.encoder.model import Encoder

    with torch.device("meta"):
        encoder = Encoder(config)
    theirs = to_theirs(encoder.state_dict(), family.formats[fmt], config)
    return encoder, {name: tuple(t.shape) for name, t in theirs.items()}
