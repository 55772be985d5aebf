"""How a whole model is put together, as data: which features it reads, which ids stand for pixels, how it counts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from tubelet.errors import ConfigError
from tubelet.language.placing.rules import ONE_D, PositionRule, TokenIds
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule
from tubelet.weights.locate import SECTION
from tubelet.weights.plain import from_plain, to_plain

Wording = Literal["parts", "image_tag", "prefix"]
Bidirectional = Literal["none", "images", "prefix"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)
IMAGE_TAG = "<image>"
MODEL_TYPE = "tubelet_vlm"  # of a whole model that tubelet wrote


@dataclass(frozen=True)
class Pointer:
    """A head of the language model that was trained to look at the row which the next token is read from.

    layer, head: counted from 0. sure: probability of a whole answer from which on it is to be trusted, measured on
    pages the model has not seen. looks: how many times as large a page is looked at, one look each; the likeliest of
    their answers is the page's. Raises ConfigError for a `sure` that is no probability and for looks out of reason.
    """

    layer: int
    head: int = 0
    sure: float = 0.5
    looks: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not 0 <= self.sure <= 1:
            raise ConfigError(f"sure is a probability, got {self.sure}", got=self.sure)
        if self.looks[:1] != (1.0,) or len(self.looks) > 8 or not all(0.25 <= look <= 4 for look in self.looks):
            raise ConfigError("looks are 1.0 and at most seven more of 0.25 to 4", got=self.looks)

    def check(self, text: Any) -> None:
        """Raises ConfigError where a language model of this configuration has no such head."""
        sizes = text.num_hidden_layers, text.num_attention_heads
        if not (0 <= self.layer < sizes[0] and 0 <= self.head < sizes[1]):
            got = self.layer, self.head
            raise ConfigError(f"the language model has {sizes} layers and heads, got {got}", limit=sizes, got=got)


@dataclass(frozen=True)
class Written:
    """How the text that a chat template wrote shows pictures and clips to the tokenizer, where these are not the same.

    One placeholder stands for all rows of a picture, of a tile or of a frame (`language.vlm.written_out`).
    """

    mark: str  # what the template writes for a picture
    text: str  # what stands there instead; with `tile`, for the whole picture, behind its tiles
    clip_mark: str | None = None  # what it writes for a clip, whose frames are written out one by one
    frame: str = ""  # of each, {} its number from 1, {time} where it stands as MM:SS
    between: str = ""  # frames
    tile: str | None = None  # of each tile, {row} and {col} from 1; None: tiles and whole have one placeholder together
    row_end: str = ""  # behind each row of tiles
    tiles_end: str = ""  # behind all tiles
    clip_begin: str = ""  # before the frames, {frames} how many in words, {duration} of the clip as H:MM:SS
    clip_end: str = ""  # behind them
    clip_template: str | None = None  # the chat template of messages with clips; None: the tokenizer's, as ever

    def __post_init__(self) -> None:
        if not self.mark or not self.text or (self.clip_mark is not None and (not self.clip_mark or not self.frame)):
            raise ConfigError("marks and texts are not empty", got=self)


@dataclass(frozen=True)
class Scheme:
    """What is not in the weights of a vision-language model.

    token_ids: the placeholders, which may lie outside the vocabulary. rule: how positions are counted. pixels: how
    pictures become rows, video_pixels: how clips do, None = alike. states: numbers of the encoder's hidden states that
    are joined on channels, () for what the encoder gives. wording: how the chat template is told of an item, as a part
    of the message ({"type": "image"}) or as "<image>" in its text; "prefix": no template, but items, the id that begins
    texts, the question and an end of line (PaliGemma). square: pictures are first made square with a border
    of the mean colour (LLaVA's image_aspect_ratio "pad"). views: how a picture becomes views (its "anyres"), which are
    pooled and joined behind the projector; rows out of which some were chosen are joined and not pooled. alone: only a
    picture that is alone in its prompt is cut into views; of several each is made square and seen whole (LLaVA's
    "anyres_max"): `for_pictures` says how a prompt is cut. pointer: the head that tells where an answer is read, if one
    was trained to. written: what pictures become in the text before it is put into tokens. bidirectional "images": rows
    that follow each other see each other both ways, everything else what stands before it (Gemma 3);
    "prefix": all that stands before the answer does (PaliGemma).
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
    alone: bool = False
    pointer: Pointer | None = None
    written: Written | None = None
    bidirectional: Bidirectional = "none"

    def __post_init__(self) -> None:
        if self.alone and self.views is None:
            raise ConfigError("a picture alone is cut into views, so there must be some", expected="views")
        cut = self.views is not None and self.views.cuts
        if self.views is not None and ((self.square and cut) or self.rule.time == "blocks"):
            raise ConfigError(
                "views are not squared first, and a view is one run of placeholders", got=(self.square, self.rule.time)
            )
        if self.bidirectional not in get_args(Bidirectional):
            known = get_args(Bidirectional)
            raise ConfigError(f"bidirectional is one of {', '.join(known)}", expected=known, got=self.bidirectional)
        if self.wording not in WORDINGS:
            raise ConfigError(f"wording is one of {', '.join(WORDINGS)}", expected=WORDINGS, got=self.wording)

    def for_pictures(self, stills: int) -> "Scheme":
        """The scheme by which a prompt with so many pictures, clips not counted, is cut."""
        if not self.alone or self.views is None or stills == 1:
            return self
        return replace(self, square=True, views=replace(self.views, pinpoints=()))


def scheme_to(scheme: Scheme) -> dict[str, Any]:
    """Plain values for a config.json; `scheme_from` gives the scheme back."""
    return to_plain(scheme)


def scheme_from(said: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> Scheme:
    """The scheme of a config.json, every field checked; mean and std are the encoder's. Raises ConfigError."""
    today = dict(said)
    for name in ("pixels", "video_pixels"):
        if isinstance(said.get(name), Mapping):
            today[name] = {**said[name], "mean": list(mean), "std": list(std)}
    if isinstance(said.get("views"), Mapping):
        today["views"] = {**said["views"], "pinpoints": _pairs(said["views"].get("pinpoints"))}
    return from_plain(Scheme, today, SECTION)


def _pairs(sides: Any) -> Any:
    """Pinpoints as pairs; files written before had one list of heights and widths in turn."""
    flat = isinstance(sides, list) and all(isinstance(side, int) for side in sides)
    if not flat or len(sides) % 2:
        return sides
    return list(zip(sides[::2], sides[1::2], strict=True))
