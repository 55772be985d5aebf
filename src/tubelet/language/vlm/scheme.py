"""How a whole model is put together, as data: which features it reads, which ids stand for pixels, how it counts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from tubelet.errors import ConfigError, InputError
from tubelet.families.fields import Field, read_fields
from tubelet.language.placing.align import TokenIds
from tubelet.language.placing.mrope import ONE_D, PositionRule
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule

Wording = Literal["parts", "image_tag"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)
IMAGE_TAG = "<image>"


@dataclass(frozen=True)
class Scheme:
    """What is not in the weights of a vision-language model.

    token_ids: the placeholders, which may lie outside the vocabulary. rule: how positions are counted. pixels: how
    pictures become rows, video_pixels: how clips do, None = alike. states: numbers of the encoder's hidden states that
    are joined on channels, () for what the encoder gives. wording: how the chat template is told of an item, as a part
    of the message ({"type": "image"}) or as "<image>" in its text. square: pictures are first made square with a border
    of the mean colour (LLaVA's image_aspect_ratio "pad"). views: how a picture becomes views (its "anyres"), which are
    pooled and joined behind the projector; rows out of which some were chosen are joined and not pooled.
    Raises ConfigError for views that are squared first, or whose frames are blocks.

        >>> Scheme(TokenIds(image=9), pixels=tubelet.PixelRecipe(14)).rule.time
        'none'
    """

    token_ids: TokenIds
    pixels: PixelRecipe
    rule: PositionRule = ONE_D
    video_pixels: PixelRecipe | None = None
    states: tuple[int, ...] = ()
    wording: Wording = "parts"
    square: bool = False
    views: ViewRule | None = None

    def __post_init__(self) -> None:
        if self.views is not None and (self.square or self.rule.time == "blocks"):
            raise ConfigError(
                "views are not squared first, and a view is one run of placeholders", got=(self.square, self.rule.time)
            )
        if self.wording not in WORDINGS:
            raise ConfigError(f"wording is one of {', '.join(WORDINGS)}", expected=WORDINGS, got=self.wording)


def scheme_to(scheme: Scheme) -> dict[str, Any]:
    """Plain values for a config.json; `scheme_from` gives the scheme back."""
    said = asdict(scheme)
    rate = scheme.rule.tokens_per_second
    said["rule"]["tokens_per_second"] = str(rate if isinstance(rate, Fraction) else Fraction(float(rate)))
    if scheme.views is not None:
        said["views"]["pinpoints"] = [side for pinpoint in scheme.views.pinpoints for side in pinpoint]
    return said


_RECIPE = {
    "patch": Field(0, least=1),
    "rule": "",
    "temporal": 1,
    "merge": 1,
    "order": "raster",
    "size": Field(None, kind=int, none=True),
    "shortest": Field(None, kind=int, none=True),
    "min_pixels": Field(None, kind=int, none=True, most=1 << 40),
    "max_pixels": Field(None, kind=int, none=True, most=1 << 40),
    "max_video_pixels": Field(None, kind=int, none=True, most=1 << 40),
    "resampler": "torch",
    "interpolation": "bicubic",
}
_ID = Field(None, kind=int, none=True, least=-(1 << 31), most=1 << 31)
_FIELDS = {
    "token_ids": Field({"image": _ID, "video": _ID, "start": _ID, "end": _ID}),
    "rule": Field(
        {
            "time": "none",
            "tokens_per_second": "2",
            "arithmetic": "exact",
            "extent": "grid",
            "compat": Field(None, kind=str, none=True),
        }
    ),
    "states": Field((), kind=list),
    "wording": "parts",
    "square": False,
}
_NAME = Field(None, kind=str, none=True)
_VIEWS = {
    "tile": Field(0, least=1, most=1 << 16),
    "pinpoints": Field((), kind=list, least=1, most=1 << 20),
    "pool": _NAME,
    "join": "flat",
    "stride": 2,
    "compat": _NAME,
}


def scheme_from(said: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> Scheme:
    """The scheme of a config.json, every field checked; mean and std are the encoder's. Raises ConfigError."""
    plain = {k: v for k, v in said.items() if k not in ("pixels", "video_pixels", "views")}
    f = read_fields(plain, _FIELDS, where="tubelet.")
    clips = said.get("video_pixels")
    try:
        rule = dict(f["rule"])
        rule["tokens_per_second"] = Fraction(rule["tokens_per_second"])
        return Scheme(
            TokenIds(**f["token_ids"]),
            _recipe(said.get("pixels"), mean, std),
            PositionRule(**rule),
            None if clips is None else _recipe(clips, mean, std),
            tuple(f["states"]),
            f["wording"],
            f["square"],
            _views(said.get("views")),
        )
    except (InputError, ValueError, TypeError, ZeroDivisionError) as e:
        raise e if isinstance(e, ConfigError) else ConfigError("the section tubelet of config.json does not fit") from e


def _views(said: Any) -> ViewRule | None:
    """A view rule; its pinpoints stand there as one list of numbers, height and width in turn."""
    if said is None:
        return None
    if not isinstance(said, Mapping):
        raise ConfigError("tubelet.views is an object", source="config.json", got=type(said).__name__)
    f = read_fields(said, _VIEWS, where="tubelet.views.")
    sides = f.pop("pinpoints")
    if len(sides) % 2:
        raise ConfigError("pinpoints are pairs of a height and a width", source="config.json", got=len(sides))
    return ViewRule(pinpoints=tuple(zip(sides[::2], sides[1::2], strict=True)), **f)


def _recipe(said: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> PixelRecipe:
    if not isinstance(said, Mapping):
        raise ConfigError("tubelet.pixels is an object", source="config.json", got=type(said).__name__)
    plain = {k: v for k, v in said.items() if k not in ("mean", "std")}
    f = read_fields(plain, _RECIPE, where="tubelet.pixels.")
    return PixelRecipe(**f, mean=mean, std=std)  # pyright: ignore[reportArgumentType]
