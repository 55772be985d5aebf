"""The picture of `tubelet plan --plot`: tokens and memory against side length and against frames."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tubelet.cli.terminal import megabytes
from tubelet.errors import InputError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.plan import plan
from tubelet.inspect.budget.values import Plan
from tubelet.inspect.draw.chart import Panel, chart
from tubelet.inspect.draw.lettering import INK, TextLine

if TYPE_CHECKING:
    from PIL.Image import Image

POINTS = 48
MIB = 2**20


def plan_chart(found: Plan, how: dict[str, Any], max_tokens: int | None, max_memory_bytes: int | None) -> "Image":
    """Two panels for the first input, or four where memory is known: its side length at its ratio and frames, and its
    frames at its size, from nothing to twice what it has. `how` is `memory`'s; the red point is the input itself."""
    one = found.items[0].input
    unit = found.recipe.unit * found.after.space
    step = found.recipe.temporal * found.after.time
    longest, frames = 2 * max(one.width, one.height, unit), max(2 * one.frames, 16 * step)
    sides = _curve(found, [_scaled(one, longest * i / POINTS) for i in range(1, POINTS + 1)])
    counts = [n for n in _some(step, frames) if n > 1 or found.views is None]  # a rule of views cuts no clips
    clips = _curve(found, [replace(one, frames=n) for n in counts])
    here = plan(one, found.config or found.recipe, found.after, found.views)
    axes = [
        ("longer side in pixels", [(float(max(i.width, i.height)), p) for i, p in sides], max(one.width, one.height)),
        ("frames", [(float(i.frames), p) for i, p in clips], one.frames if one.frames in counts else None),
    ]
    rows = [[_tokens(label, points, at, here, max_tokens) for label, points, at in axes]]
    if found.config is not None:
        rows.append([_memory(label, points, at, here, max_memory_bytes, how) for label, points, at in axes])
    clip = f"{one.width} x {one.height}" + (f", {one.frames} frames" if one.frames > 1 else "")
    kind = f"{how['dtype']} on {how['device']}" if found.config is not None else "tokens only"
    several = f"first of {len(found.items):,} inputs" if len(found.items) > 1 else ""
    told = [t for t in (several, clip, f"{here.tokens:,} tokens", f"inference, {kind}") if t]
    title = [TextLine((Path(one.name).name or "plan",), 19, INK), TextLine(tuple(told))]
    return chart(rows, title)


def _curve(found: Plan, inputs: list[Input]) -> list[tuple[Input, Plan]]:
    """The plans of those inputs that the size rule takes."""
    out: list[tuple[Input, Plan]] = []
    for one in inputs:
        try:
            out.append((one, plan(one, found.config or found.recipe, found.after, found.views)))
        except InputError:
            continue
    return out


def _scaled(one: Input, longest: float) -> Input:
    scale = longest / max(one.width, one.height)
    return replace(one, width=max(1, round(one.width * scale)), height=max(1, round(one.height * scale)))


def _some(step: int, most: int) -> list[int]:
    """At most POINTS multiples of `step` up to `most`."""
    stride = max(1, most // step // POINTS)
    return [step * n for n in range(1, most // step + 1, stride)]


def _tokens(label: str, points: list[tuple[float, Plan]], at: float | None, here: Plan, limit: int | None) -> Panel:
    x, y = tuple(x for x, _ in points), tuple(float(p.tokens) for _, p in points)
    mark = None if at is None else (at, here.tokens)
    title = "tokens" if limit is None or _shown(limit, y) is not None else f"tokens: {limit:,} is above all of this"
    return Panel(title, label, x, y, "{:,.0f}".format, mark=mark, limit=_shown(limit, y))


def _memory(
    label: str,
    points: list[tuple[float, Plan]],
    at: float | None,
    here: Plan,
    limit: int | None,
    how: dict[str, Any],
) -> Panel:
    x, y = tuple(x for x, _ in points), tuple(p.memory(**how).total_bytes / MIB for _, p in points)
    level = _shown(None if limit is None else limit / MIB, y)
    mark = None if at is None else (at, here.memory(**how).total_bytes / MIB)
    title = "memory" if limit is None or level is not None else f"memory: {megabytes(limit)} is above all of this"
    return Panel(title, label, x, y, _mebibytes, mark=mark, limit=level)


def _shown(limit: float | None, y: tuple[float, ...]) -> float | None:
    """A limit far above the curve would flatten it; the title says it then."""
    return limit if limit is not None and limit <= 3 * max(y) else None


def _mebibytes(value: float) -> str:
    return "0" if value == 0 else megabytes(round(value * MIB))
