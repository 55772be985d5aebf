"""Whether a question fits into this machine's memory, told before the model is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tubelet.cli.options import with_budget
from tubelet.cli.terminal import Terminal, file_name, megabytes
from tubelet.cli.work import tell_flop

if TYPE_CHECKING:
    from tubelet.inspect.budget.values import Plan
    from tubelet.reading.clip import Clip


def tell_room(
    terminal: Terminal,
    model: str,
    clips: "Sequence[Clip]",
    *,
    dtype: str,
    device: str,
    max_pixels: int | None,
    max_tokens: str | None = None,
) -> None:
    """Say where the memory there is falls short of what seeing these clips needs at least, and where scenes are long.

    Nothing is said of a model whose sizes its folder does not tell, nor where the system does not tell what is free.
    """
    from tubelet.encoder.device import device_of
    from tubelet.inspect.budget.memory import ITEM_BYTES
    from tubelet.inspect.budget.outline import outline_whole
    from tubelet.inspect.budget.room import free_bytes
    from tubelet.inspect.budget.scene_cost import scene_cost
    from tubelet.weights.locate import find_folder, is_here

    outline = outline_whole(find_folder(model)) if is_here(model) else None  # of a hub nothing is fetched for this
    if outline is None:
        return
    kind: Any = outline.stored if dtype == "stored" else dtype
    views = outline.views(sum(not clip.is_video or len(clip) == 1 for clip in clips))
    most = max_pixels, max_tokens
    found, where = _planned(outline.encoder, outline.after, clips, most, views), device_of(device)
    if (cost := scene_cost(found)) is not None:
        terminal.say(cost.text)
    if kind in ITEM_BYTES:
        tell_flop(terminal, found.flop, outline.encoder.hidden, dtype=kind, device=where)
    there = free_bytes(where)
    if there is None or kind not in ITEM_BYTES:
        return
    seeing = found.memory(dtype=kind, device="cpu" if where == "cpu" else "cuda").total_bytes
    need = seeing + outline.language_bytes(kind) + (found.kv_bytes(kind) or 0)
    if need > there:
        terminal.say(
            f"{file_name(model)} needs at least {megabytes(need)} for this, and {where} has {megabytes(there)} free: "
            "fewer frames (--num-frames) or smaller ones (--max-pixels) need less"
        )


def _planned(
    encoder: Any, after: Any, clips: "Sequence[Clip]", most: tuple[int | None, str | None], views: Any
) -> "Plan":
    from dataclasses import replace

    from tubelet.inspect.budget.inputs import Input
    from tubelet.inspect.budget.plan import plan

    config = replace(encoder, pixels=with_budget(encoder.pixels, *most))
    inputs = [
        Input(c.width, c.height, len(c), file_name(c.source or ""), (c.duration_s or 0.0) if c.is_video else None)
        for c in clips
    ]
    return plan(inputs, config, after, views)
