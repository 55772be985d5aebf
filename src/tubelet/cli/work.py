"""How long a command will take, said before it begins."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tubelet.cli.terminal import Terminal, seconds

if TYPE_CHECKING:
    from tubelet.cli.model import Model
    from tubelet.encoder.config import EncoderConfig
    from tubelet.packed.grid import Grid
    from tubelet.pixels.planned import PlannedInput
    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.reading.job import ReadJob

LONG_S = 15.0  # what takes less is not told
LONG_FLOP = 2e11  # what has less is never long, and no rate is measured for it
MOST_FILES = 256  # whose headers are read before the first is encoded; of more nothing is told


def with_work_told(
    terminal: Terminal, files: Sequence[Any], recipe: "PixelRecipe", job: "ReadJob", model: "Model", **how: Any
) -> "Sequence[Any] | Sequence[PlannedInput]":
    """The files, or their plans where they are few enough to be planned at once; then long work is told before.

    how: isolate, on_error and workers, as `stream` takes them. Raises: as `plan_inputs`.
    """
    from tubelet.pixels.stream import plan_inputs

    if terminal.quiet or len(files) > MOST_FILES:
        return files
    plans = plan_inputs(list(files), recipe, job, **how)
    grids = [plan.item.grid for plan in plans if plan.item is not None]
    tell_work(terminal, model.encoder.config, grids, dtype=model.dtype, device=model.device)
    return plans


def tell_work(
    terminal: Terminal, config: "EncoderConfig", grids: "Iterable[Grid]", *, dtype: str, device: str, times: int = 1
) -> None:
    """Say how long encoding these items takes, as often as `times`, where that is long."""
    from tubelet.inspect.budget.flops import encoder_flop

    flop = times * sum(encoder_flop(config, list(grids)).values())
    tell_flop(terminal, flop, config.hidden, dtype=dtype, device=device)


def tell_flop(terminal: Terminal, flop: int, width: int, *, dtype: str, device: str) -> None:
    """Say how long so many FLOPs take at the rate of this machine's matrix products, where that is long."""
    from tubelet.inspect.speed.rate import gemm_rate

    if terminal.quiet or flop < LONG_FLOP:
        return
    rate = gemm_rate(width, dtype=dtype, device=device, rounds=2)
    if flop / rate >= LONG_S:
        terminal.say(
            f"about {seconds(flop / rate)} or more: {flop / 1e9:,.0f} GFLOP at {rate / 1e9:,.0f} GFLOP/s as measured"
        )
