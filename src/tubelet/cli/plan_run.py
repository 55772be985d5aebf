"""`tubelet plan --train CONFIG.yaml`: steps, what learns, FLOPs, memory and time of a run before it starts."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tubelet.cli.terminal import OK, Terminal, megabytes, seconds
from tubelet.cli.train import read_run
from tubelet.train.plan import RunPlan, plan_run

if TYPE_CHECKING:
    from tubelet.train.run_config import RunConfig


def plan_training(
    terminal: Terminal, file: str, changes: tuple[str, ...], samples: int | None, processes: int, measure: bool
) -> int:
    """Do it; the exit code."""
    config = read_run(file, changes)
    found = plan_run(config, samples=samples, world=processes)
    rate = _rate(config, measure)
    more: dict[str, Any] = {} if rate is None else {"flop_per_s": rate, "seconds_per_step": found.flop_per_step / rate}
    terminal.show(table(config, found, processes, more))
    terminal.document({"command": "plan", "processes": processes, **found.as_dict(), **more})
    return OK


def _rate(config: "RunConfig", measure: bool) -> float | None:
    """FLOP a second of all processes: what the configuration says, or this machine's matrix products."""
    if not measure:
        return config.report.peak_flop_per_s
    from tubelet.inspect.speed.rate import gemm_rate

    return gemm_rate(1024, device=config.device or "cpu")


def table(config: "RunConfig", found: RunPlan, processes: int, more: dict[str, Any]) -> Group:
    """What a person reads."""
    unit = "pairs" if config.alignment is not None else "tokens"
    how = "counted" if found.exact else "estimated from some"
    memory, (tokens, patches) = found.memory, found.largest
    rows = [
        ("samples", f"{found.samples:,}, {how}"),
        (f"{unit} a sample", f"{found.tokens_per_sample:,.1f}"),
        (
            "samples a step",
            f"{found.samples_per_step:,.1f} ({processes} x {config.accumulation} batches of {config.budget:,} {unit})",
        ),
        ("steps of an epoch", f"{found.steps_per_epoch:,}"),
        ("steps of the run", f"{found.steps:,} ({found.epochs:,.2f} epochs)"),
        *(("learns", str(one)) for one in found.lines),
        ("TFLOP a step", f"{found.flop_per_step / 1e12:,.3g}"),
        ("memory of a process", megabytes(memory.total_bytes)),
        ("  weights", megabytes(memory.weights_bytes)),
        ("  optimizer", megabytes(memory.optimizer_bytes)),
        ("  at its highest", f"{megabytes(memory.work_bytes)} ({memory.where})"),
        ("  of a batch of", f"{tokens:,} {unit}, {patches:,} patches"),
    ]
    if "seconds_per_step" in more:
        step, rate = more["seconds_per_step"], more["flop_per_s"] / 1e12
        whole = seconds(step * found.steps)
        rows.append(("time", f"{seconds(step)} a step or more, {whole} for all, at {rate:,.3g} TFLOP/s"))
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    made.add_column()
    made.add_column()
    for name, value in rows:
        made.add_row(name, Text(value))
    notes = ["tensors alone: the runtime and the allocator need more"]
    if config.precision == "bf16":
        notes.append("planned in float32; under bfloat16 autocast it is less")
    if config.strategy == "fsdp2" and processes > 1:
        notes.append("of one process alone; FSDP2 shares out the optimizer's part and the gradients")
    return Group(made, Text("; ".join(notes)))
