"""What a family does to pixels before its first layer, as data."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from tubelet.doors import door
from tubelet.errors import ConfigError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # as mean and std: pixels from -1 to 1

Rule = Literal[
    "native_floor",
    "native_crop",
    "smart",
    "smart_compat",
    "smart_clip_compat",
    "shortest_crop",
    "square",
    "naflex",
    "longest_side",
]
Resampler = Literal["torch", "pillow"]
Interpolation = Literal["bicubic", "bilinear", "lanczos"]
RULES: tuple[Rule, ...] = get_args(Rule)
RESAMPLERS: tuple[Resampler, ...] = get_args(Resampler)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
SIZED = frozenset({"shortest_crop", "square", "longest_side"})  # rules with a side length
UNBUDGETED = SIZED | {"native_crop"}  # rules that take no max_pixels
FILLING = frozenset({"shortest_crop", "square", "naflex"})  # rules that enlarge every small picture as far as they go
FIXED = frozenset({"shortest_crop", "square"})  # rules that give every picture the same size

# Most tokens where a publisher states no limit: what processors of this kind are published with
PICTURE_TOKENS = 4096  # of a picture: 64 x 64 patches
CLIP_TOKENS = 16_384  # of a clip: 64 frames of 256


@dataclass(frozen=True)
class PixelRecipe:
    """How pictures become patches. Frozen and hashable: the same recipe always gives the same rows.

    A row holds the pixels of one tubelet as (channel, frame, row, column). max_tokens and max_clip_tokens hold above
    what the rule gives, and count merged tokens, of `unit` x `unit` pixels: a larger picture is made smaller, of a clip
    frames and size are chosen together (tubelet.pixels.budget). Raises ConfigError where fields contradict each other.

        >>> recipe = PixelRecipe(patch=14, merge=2, order="block", rule="smart", max_pixels=500_000)
        >>> recipe.unit, recipe.width
        (28, 588)
    """

    patch: int  # side of a patch in pixels
    rule: Rule = "native_floor"  # how the size is chosen; tubelet.pixels.fit describes each
    temporal: int = 1  # frames that one tubelet spans
    merge: int = 1  # the sides of the grid, in patches, are multiples of it
    order: Literal["raster", "block"] = "raster"  # block: the merge x merge patches of one merged token in turn
    size: int | None = None  # side length in pixels, of the rules that have one
    shortest: int | None = None  # the shorter side before a crop, in pixels; None = size
    min_pixels: int | None = None  # budget of one picture or frame, of the rules that have one
    max_pixels: int | None = None
    max_video_pixels: int | None = None  # budget of all rows of time of a clip together
    max_tokens: int | None = None  # of a picture, and of each row of time of a clip
    max_clip_tokens: int | None = None  # of a clip
    clips: "PixelRecipe | None" = None  # rule and budgets of clips, where a publisher has others; the rest is as here
    resampler: Resampler = "torch"  # whose: torch's fast one, or Pillow's, a few grey levels from it at most
    interpolation: Interpolation = "bicubic"  # the filter, antialiased
    mean: tuple[float, float, float] = CLIP_MEAN  # of red, green and blue, for pixels in 0..1
    std: tuple[float, float, float] = CLIP_STD

    @door
    def __post_init__(self) -> None:
        if min(self.patch, self.temporal, self.merge) < 1:
            raise ConfigError(f"patch, temporal and merge start at 1: {self.patch}, {self.temporal}, {self.merge}")
        if self.rule not in RULES:
            raise ConfigError(f"rule is one of {', '.join(RULES)}", expected=RULES, got=self.rule)
        if self.rule in SIZED and self.size is None:
            raise ConfigError(f"the rule {self.rule} needs a size", expected="size", got=None)
        if self.rule == "naflex" and self.max_pixels is None:
            raise ConfigError("the rule naflex fills a budget: it needs max_pixels", expected="max_pixels", got=None)
        if self.rule == "smart_clip_compat" and None in (self.min_pixels, self.max_video_pixels):
            raise ConfigError(
                "the rule smart_clip_compat needs the budget of a clip", expected=("min_pixels", "max_video_pixels")
            )
        if self.resampler not in RESAMPLERS:
            raise ConfigError("resampler is torch or pillow", expected=RESAMPLERS, got=self.resampler)
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"interpolation is one of {', '.join(INTERPOLATIONS)}", expected=INTERPOLATIONS, got=self.interpolation
            )
        if self.size is not None and self.size < self.unit:
            raise ConfigError(f"a side of {self.size} is below one unit of {self.unit} pixels", got=self.size)
        if self.shortest is not None and (self.rule != "shortest_crop" or self.shortest < (self.size or 0)):
            raise ConfigError(
                f"shortest is the side a crop of {self.size} is cut from, got {self.shortest} under {self.rule}",
                limit=self.size,
                got=self.shortest,
            )
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ConfigError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        self._check_budgets()

    def _check_budgets(self) -> None:
        for name in ("max_tokens", "max_clip_tokens"):
            if (most := getattr(self, name)) is not None and most < 1:
                raise ConfigError(f"{name} starts at 1, got {most}", limit=1, got=most)
        other = self.clips
        if other is None:
            return
        cut = {name: getattr(self, name) for name in ("patch", "temporal", "merge", "order")}
        seen = {name: getattr(self, name) for name in ("resampler", "interpolation", "mean", "std")}
        object.__setattr__(self, "clips", replace(other, **cut, **seen, clips=None))

    def of(self, clip: bool) -> "PixelRecipe":
        """The recipe that sizes a clip, or a picture.

        >>> PixelRecipe(14, clips=PixelRecipe(14, max_pixels=50_000)).of(clip=True).max_pixels
        50000
        """
        return self.clips if clip and self.clips is not None else self

    def budgeted(self, max_tokens: int | None) -> "PixelRecipe":
        """With so many tokens at most of a picture as of a clip; None: only what the rule itself limits."""
        clips = None if self.clips is None else self.clips.budgeted(max_tokens)
        return replace(self, max_tokens=max_tokens, max_clip_tokens=max_tokens, clips=clips)

    @property
    def unit(self) -> int:
        """Side in pixels of what one merged token covers: sizes are multiples of it."""
        return self.patch * self.merge

    @property
    def width(self) -> int:
        """Values in one row: 3 x temporal x patch x patch."""
        return 3 * self.temporal * self.patch * self.patch
