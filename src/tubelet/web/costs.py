"""Numbers of a plan for a size, frames and a budget that somebody is still changing: `budget.plan`, and its memory."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import InputError, near_names
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.networks import LANGUAGE
from tubelet.inspect.budget.plan import plan
from tubelet.inspect.budget.values import Downstream
from tubelet.pixels.views import Views
from tubelet.pixels.views_plan import ViewRule
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling

LIMITS = Limits()


def input_of(asked: Mapping[str, str]) -> Input:
    """The picture or clip that width, height, and duration and fps mean. Raises InputError for what they cannot be.

    Frames of a clip are those that its sampling takes where frames come as often as that.

        >>> input_of({"width": "640", "height": "360", "duration": "4.5", "fps": "2"})
        Input(width=640, height=360, frames=9, name='', duration_s=4.5)
    """
    width, height = (_number(asked, name, 1, LIMITS.max_side) for name in ("width", "height"))
    if "duration" not in asked:
        return Input(int(width), int(height))
    duration = _number(asked, "duration", 0.001, LIMITS.max_seconds)
    rate = _number(asked, "fps", 0.001, 1000.0) if "fps" in asked else None
    frames = len(Sampling(fps=rate).times(0.0, duration, LIMITS))
    return Input(int(width), int(height), frames, duration_s=duration)


def costs(
    asked: Mapping[str, str], config: EncoderConfig, views: Views | None, *, device: str = "cpu"
) -> dict[str, Any]:
    """Patches, tokens, FLOPs, memory, KV cache of what is asked: width, height; duration, fps; budget; llm.

    Raises InputError, and what `plan` raises.
    """
    name = asked.get("llm")
    if name is not None and name not in LANGUAGE:
        raise InputError(f"no language model of that name{near_names(name, LANGUAGE)}", expected=tuple(LANGUAGE))
    budget = int(_number(asked, "budget", 1, LIMITS.max_tokens)) if "budget" in asked else None
    if budget is not None and isinstance(views, ViewRule):  # rows that are chosen are neither pooled nor joined
        views = views.unpooled
    return dict(_costs(input_of(asked), config, views, budget, name, device))


@lru_cache(maxsize=256)
def _costs(
    one: Input, config: EncoderConfig, views: Views | None, budget: int | None, llm: str | None, device: str
) -> tuple[tuple[str, Any], ...]:
    found = plan(one, config, Downstream(select=budget, llm=None if llm is None else LANGUAGE[llm]), views)
    [item] = found.items
    memory = found.memory(dtype="float32", device=device)
    whole = item.merged_rows
    told = {
        "frames": item.input.frames,
        "resized": [item.width, item.height],
        "grid": list(item.merged),
        "patches": found.patches,
        "encoded": whole,
        "tokens": found.tokens,
        "flop": found.flop,
        "stages": [{"name": s.name, "flop": s.flop} for s in found.stages if s.flop],
        "memory_bytes": memory.total_bytes,
        "kv_bytes": found.kv_bytes(),
        "mrope_extent": found.extent,
        "notes": list(item.notes),
    }
    return tuple(told.items())


def _number(asked: Mapping[str, str], name: str, low: float, high: float) -> float:
    text = asked.get(name, "")
    try:
        value = float(text[:40])
    except ValueError:
        raise InputError(f"{name} is a number", got=text[:40]) from None
    if not low <= value <= high:  # also what is no number at all
        raise InputError(f"{name} is {low:g} to {high:g}", limit=high, got=text[:40])
    return value
