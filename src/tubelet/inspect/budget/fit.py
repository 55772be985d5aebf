"""The inverse of a plan: the largest size, the most frames or the highest rate that stays within a budget.

Each answer is the last of a growing row of plans that fits, found by halving: it fits, and one step more does not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, LimitError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.plan import plan
from tubelet.inspect.budget.values import Downstream, Plan
from tubelet.pixels.recipe import FILLING, PixelRecipe
from tubelet.pixels.views import Views

MOST_UNITS = 4096  # units on the longer side at which the search for a size stops
MOST_FRAMES = 65_536


@dataclass(frozen=True)
class Fitted:
    """What fits in place of one input. size: (width, height) that the size rule keeps as they are, with its frames
    unchanged; frames: the most with its size unchanged; fps: that many over the clip's duration. None: not even the
    smallest fits, or the recipe or the view rule decides by itself (a fixed size)."""

    input: Input
    size: tuple[int, int] | None
    frames: int | None
    fps: float | None


def fit_budget(
    one: Input,
    what: EncoderConfig | PixelRecipe,
    after: Downstream = Downstream(),
    views: Views | None = None,
    *,
    max_tokens: int | None = None,
    max_memory_bytes: int | None = None,
    **how: Any,
) -> Fitted:
    """The largest variations of one input inside a budget of tokens, of memory, or both; `how` is `memory`'s.

    The size keeps the input's ratio as well as whole units can, and the recipe's own pixel budget still holds: a size
    rule that shrinks a picture is not overruled. The budget asked for takes the place of the recipe's own of tokens.
    Raises ConfigError without a budget.

        >>> fit_budget(Input(1600, 900), PixelRecipe(14, merge=2), max_tokens=1000)
        Fitted(input=Input(width=1600, height=900, frames=1, name='', duration_s=None), size=(560, 308), frames=None, \
fps=None)
    """
    if max_tokens is None and max_memory_bytes is None:
        raise ConfigError("a budget is max_tokens or max_memory_bytes")
    recipe = (what if isinstance(what, PixelRecipe) else what.pixels).budgeted(None)
    what = recipe if isinstance(what, PixelRecipe) else replace(what, pixels=recipe)

    def fits(candidate: Input) -> Plan | None:
        try:
            return plan(candidate, what, after, views).check(
                max_tokens=max_tokens, max_memory_bytes=max_memory_bytes, **how
            )
        except LimitError:
            return None

    fixed = views is not None or recipe.rule in FILLING
    units = 0 if fixed else largest(lambda n: fits(scaled(one, recipe, after, n)) is not None, MOST_UNITS)
    step = recipe.temporal * after.time
    rows = largest(lambda n: fits(replace(one, frames=n * step)) is not None, MOST_FRAMES // step)
    chosen = scaled(one, recipe, after, units) if units else None
    frames = rows * step or None
    fps = None if frames is None or not one.duration_s else frames / one.duration_s
    return Fitted(one, None if chosen is None else (chosen.width, chosen.height), frames, fps)


def scaled(one: Input, recipe: PixelRecipe, after: Downstream, units: int) -> Input:
    """The input with `units` units on its longer side, the shorter at the nearest ratio, at least one; a unit is what
    one merged token covers."""
    unit = recipe.unit * after.space
    short = max(1, round(units * min(one.width, one.height) / max(one.width, one.height)))
    w, h = (units, short) if one.width >= one.height else (short, units)
    return replace(one, width=w * unit, height=h * unit)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The last n of 1 .. most that fits before one that does not, by doubling and halving; 0 when 1 does not.

    >>> largest(lambda n: n * n <= 50, 1000)
    7
    """
    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    if high > most:
        if fits(most):
            return most
        high = most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
