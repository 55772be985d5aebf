"""When a scene is long: the layers that see all of it do most of the work, and fewer frames are worth it."""

from dataclasses import dataclass

from tubelet.inspect.budget.fit import largest
from tubelet.inspect.budget.geometry import SCENE_LAYERS, frames_of_items, vggt_flop
from tubelet.inspect.budget.values import Plan, scenes_of
from tubelet.packed.grid import Grid


@dataclass(frozen=True)
class SceneCost:
    """Layers that see whole scenes do more than half of everything. share: of all FLOPs; frames: of the longest scene;
    halved: at how many frames of that size these layers cost half as much, 0 where one tubelet costs more."""

    share: float
    frames: int
    halved: int

    @property
    def text(self) -> str:
        """One line for people.

        >>> SceneCost(0.58, 16, 10).text
        'layers that see a whole scene of 16 frames do 58% of all FLOPs, which grow with the square: 10 frames halve it'
        """
        less = f": {self.halved:,} frames halve it" if self.halved else ""
        return (
            f"layers that see a whole scene of {self.frames:,} frames do {self.share:.0%} of all FLOPs, which grow "
            f"with the square{less}"
        )


def scene_cost(found: Plan) -> SceneCost | None:
    """What scenes cost, where that is most of the plan; None where it is not, or no network sees scenes."""
    config = found.after.geometry
    part = next((s.flop for s in found.stages if s.name == f"geometry {SCENE_LAYERS}"), 0)
    if config is None or not part or 2 * part < found.flop:
        return None
    frames, starts = frames_of_items(found.items, found.recipe), 0
    longest: list[Grid] = []
    for count in scenes_of(found.items):
        own = frames[starts : starts + count]
        longest = max(longest, own, key=lambda grids: sum(g.rows for g in grids))
        starts += count
    total, (_, h, w) = sum(g.t for g in longest), longest[0]

    def cost(n: int) -> int:
        return vggt_flop(config, [Grid(n, h, w)], level=found.after.level)[SCENE_LAYERS].all

    step, half = found.recipe.temporal, cost(total) // 2
    return SceneCost(part / found.flop, total, step * largest(lambda n: cost(n * step) <= half, total // step))
