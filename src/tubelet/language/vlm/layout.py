"""How a kind of published whole model is read, as a value: functions of what its files say. No tensor is read for it.

    pixels      how pictures become rows        from preprocessor_config.json, where the encoder's family does not say
    projector   which kind it is, under which names its tensors stand
    scheme      token ids, hidden states, views, how clips are cut

A new kind of whole model is one file with a `Layout`, and a line in `language.vlm.layouts`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.language.vlm.scheme import Scheme
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.locate import CONFIG


@dataclass(frozen=True)
class ModelFiles:
    """What a folder says of a whole model beside its weights."""

    kind: str  # model_type
    config: Mapping[str, Any]  # config.json
    processor: Mapping[str, Any]  # of pictures; {} where nothing is said
    video: Mapping[str, Any]  # of clips; {} where nothing is said

    def token(self, default: int | None, *names: str) -> int:
        """The token id under the first of these names that is there. Raises ConfigError for what is none."""
        found = next((self.config[name] for name in names if self.config.get(name) is not None), default)
        if not isinstance(found, int) or isinstance(found, bool):
            raise ConfigError(f"{names[0]} is a token id", source=CONFIG, got=found)
        return found

    def only(self, *fields: tuple[str, Sequence[Any]]) -> None:
        """Raises ConfigError for a field of config.json that has another than one of these values."""
        for name, fine in fields:
            if self.config.get(name) not in fine:
                raise ConfigError(
                    f"{name} = {self.config[name]!r:.40} is not read here", expected=tuple(fine), got=self.config[name]
                )


@dataclass(frozen=True)
class NamedProjector:
    """A projector as a file has it."""

    kind: str  # of tubelet.language.project.projector
    names: Mapping[str, str]  # ours -> the end of the name in the file, of modules or of tensors
    merge: int | None = None  # what the tensors do not say
    eps: float | None = None


@dataclass(frozen=True)
class Layout:
    """Three functions of the files; each raises ConfigError for what would silently read pictures in another way."""

    scheme: Callable[[ModelFiles, EncoderConfig], Scheme]  # the encoder has the pixels that `pixels` gave
    pixels: Callable[[ModelFiles, PixelRecipe], PixelRecipe] = lambda files, recipe: recipe
    projector: Callable[[ModelFiles, EncoderConfig], NamedProjector | None] = lambda files, encoder: None


def joined_states(files: ModelFiles, encoder: EncoderConfig, default: int) -> tuple[int, ...]:
    """The hidden states that vision_feature_layer names, counted from 0; a class token among them is refused.

    Raises ConfigError.
    """
    strategy = files.config.get("vision_feature_select_strategy", "default" if encoder.prefix else "full")
    if strategy != ("default" if encoder.prefix else "full"):
        raise ConfigError(
            f"vision_feature_select_strategy {strategy!r:.40} keeps a class token, or drops a patch as if it were one",
            expected="default" if encoder.prefix else "full",
            got=strategy,
        )
    layers = files.config.get("vision_feature_layer", default)
    wanted: list[Any] = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    count = encoder.layers + 1
    if not wanted or not all(isinstance(n, int) and not isinstance(n, bool) and -count <= n < count for n in wanted):
        raise ConfigError(f"vision_feature_layer counts {count} hidden states", source=CONFIG, limit=count, got=layers)
    return tuple(n % count for n in wanted)


def fixed_side(pixels: PixelRecipe) -> int:
    """The side of a tower of one size. Raises ConfigError for any other."""
    if pixels.size is None:
        raise ConfigError(f"views need a tower of a fixed size; its rule is {pixels.rule}", got=pixels.rule)
    return pixels.size
