"""A budget of tokens kept by choosing: of a clip first frames, as few as have to go, then the size of those that stay.

    64 frames of 2,304 tokens, max_clip_tokens = 16,384   ->   64 frames of at most 256
    600 frames                                            ->  128 frames of 128, evenly over the clip
    64 frames of 729 that have a fixed size               ->   22 frames

Host integers throughout, known before a pixel is decoded. The same functions stand behind `patchify`, `load_patches`,
`stream`, plans and every command, so that one input has one count.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tubelet.pixels.fit import Fit, sized
from tubelet.pixels.recipe import FILLING, FIXED, PixelRecipe

if TYPE_CHECKING:
    from tubelet.reading.clip import Clip

ROW_TOKENS = 128  # a row of time keeps so many where it has them: what Qwen2-VL's processors give a frame at least
CROPPED = 0.1  # a crop that drops more of a picture is told


def is_clip(frames: int, moves: bool) -> bool:
    """Whether `PixelRecipe.clips` and max_clip_tokens are for it: what comes from a video, and whatever has several
    frames."""
    return moves or frames > 1


def frames_within(height: int, width: int, frames: int, recipe: PixelRecipe) -> int:
    """How many of a clip's frames are taken: all of them, unless each row of time would have too few tokens.

    recipe: the one that sizes clips (`PixelRecipe.of`). A row of time keeps ROW_TOKENS tokens, or what its rule gives
    it where that is less, or fixed. At least one row of time stays. Raises as `fit`.

        >>> frames_within(1024, 576, 600, PixelRecipe(16, max_clip_tokens=16_384))
        128
    """
    most = recipe.max_clip_tokens
    if most is None or frames <= recipe.temporal:
        return frames
    free = replace(recipe, max_clip_tokens=None, max_video_pixels=_share(recipe, frames))
    size = sized(height, width, free, recipe.temporal)
    tokens = size.height * size.width // recipe.unit**2
    rows = max(1, most // (tokens if recipe.rule in FIXED else min(tokens, ROW_TOKENS)))
    return min(frames, rows * recipe.temporal)


def _share(recipe: PixelRecipe, frames: int) -> int | None:
    """What one row of time has of max_video_pixels."""
    if recipe.max_video_pixels is None:
        return None
    return max(recipe.max_video_pixels // -(-frames // recipe.temporal), recipe.unit**2)


def spread(frames: int, kept: int) -> list[int]:
    """Numbers of `kept` out of so many frames, ascending: the middles of that many equal parts.

    >>> spread(10, 4)
    [1, 3, 6, 8]
    """
    return list(range(frames)) if kept >= frames else [(2 * i + 1) * frames // (2 * kept) for i in range(kept)]


def clip_within(clip: "Clip", recipe: PixelRecipe) -> "Clip":
    """The clip with the frames that `recipe` has room for; itself where that is all. Copies the frames that stay.

    Raises as `fit`.
    """
    if not is_clip(len(clip), clip.is_video):
        return clip
    kept = frames_within(clip.height, clip.width, len(clip), recipe.of(clip=True))
    if kept == len(clip):
        return clip
    chosen = spread(len(clip), kept)
    return replace(clip, frames=clip.frames[chosen], times_s=times_of(clip.times_s, chosen))


def times_of(times_s: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
    """The times of the chosen frames."""
    return tuple(times_s[i] for i in chosen)


def told(clip: "Clip", recipe: PixelRecipe) -> "Clip":
    """`clip_within`, with what `size_notes` says of it among its notes: for those who show clips beside tokens."""
    fitted = clip_within(clip, recipe)
    notes = size_notes(clip.width, clip.height, len(clip), recipe, moves=clip.is_video)
    return replace(fitted, notes=(*clip.notes, *notes)) if notes else fitted


def size_notes(width: int, height: int, frames: int, recipe: PixelRecipe, *, moves: bool = False) -> tuple[str, ...]:
    """What a person might want to know of a size: that a budget made it smaller, that a crop drops more than a tenth of
    the picture, that a picture below one unit was enlarged where the rule does not enlarge every one anyway.

        >>> size_notes(2560, 1440, 1, PixelRecipe(16, max_tokens=4096))
        ('fitted to 4,080 of 14,400 tokens',)
    """
    own = recipe.of(is_clip(frames, moves))
    kept = frames_within(height, width, frames, own)
    size = sized(height, width, own, kept)
    notes: list[str] = []
    asked = _tokens(sized(height, width, own.budgeted(None), kept), frames, own)
    tokens = _tokens(size, kept, own)
    if asked > tokens:
        less = f", {kept:,} of {frames:,} frames" if kept < frames else ""
        notes.append(f"fitted to {tokens:,} of {asked:,} tokens{less}")
    if size.crop is not None:
        left, top, right, bottom = size.crop
        dropped = 1 - (right - left) * (bottom - top) / (size.resize_w * size.resize_h)
        if dropped > CROPPED:
            notes.append(f"the crop of {size.width} x {size.height} drops {dropped:.0%} of it")
    if min(width, height) < own.unit and own.rule not in FILLING:
        notes.append(f"{width} x {height} was enlarged: a side is below one unit of {own.unit} pixels")
    return tuple(notes)


def _tokens(size: Fit, frames: int, own: PixelRecipe) -> int:
    return -(-frames // own.temporal) * (size.height * size.width // own.unit**2)
