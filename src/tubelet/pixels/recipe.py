"""What a family does to pixels before its first layer, as data."""

from dataclasses import dataclass
from typing import Literal

from tubelet.errors import ConfigError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Rule = Literal["native_floor", "smart", "smart_compat", "shortest_crop", "square"]
RULES: tuple[Rule, ...] = ("native_floor", "smart", "smart_compat", "shortest_crop", "square")


@dataclass(frozen=True)
class PixelRecipe:
    """How pictures become patches. Frozen and hashable: the same recipe always gives the same rows.

    patch: side of a patch in pixels. temporal: frames one tubelet spans. merge: sides of the grid are multiples of it.
    order: "raster", or "block" to put the merge x merge patches of one merged token next to each other. A row holds
    its pixels as (channel, frame, row, column).

    rule: how the size is chosen (tubelet.pixels.resize describes each); size: its side length where it has one;
    min_pixels and max_pixels: its budget where it has one. mean and std: of the family, for pixels in 0..1.
    """

    patch: int
    rule: Rule = "native_floor"
    temporal: int = 1
    merge: int = 1
    order: Literal["raster", "block"] = "raster"
    size: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if min(self.patch, self.temporal, self.merge) < 1:
            raise ConfigError(f"patch, temporal and merge start at 1: {self.patch}, {self.temporal}, {self.merge}")
        if self.rule not in RULES:
            raise ConfigError(f"rule is one of {', '.join(RULES)}", expected=RULES, got=self.rule)
        if self.rule in ("shortest_crop", "square") and self.size is None:
            raise ConfigError(f"the rule {self.rule} needs a size", expected="size", got=None)

    @property
    def unit(self) -> int:
        """Side in pixels of what one merged token covers: sizes are multiples of it."""
        return self.patch * self.merge

    @property
    def width(self) -> int:
        """Values in one row: 3 x temporal x patch x patch."""
        return 3 * self.temporal * self.patch * self.patch
