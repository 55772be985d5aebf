"""What a run is: documented values, read from YAML and changed on the command line.

    budget: 8192                      tubelet.train.config.read_config(TrainConfig, "run.yaml",
    steps: 4750                                                        ["--optimizer.lr", "2e-3"])
    optimizer: {lr: 1e-3}

Nothing in such a file can name code. Unknown names, wrong types and values out of range are errors that say which.
"""

import difflib
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tubelet.errors import ConfigError
from tubelet.packed.header import read_small
from tubelet.train.order import Cost

C = TypeVar("C")
_MOST_BYTES = 128 << 10  # of a YAML file, which takes a second to parse
Strategy = Literal["one", "ddp", "fsdp2"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for everything, or Muon for hidden matrices and AdamW for the rest."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3  # AdamW's, at the top of the schedule
    betas: tuple[float, float] = (0.9, 0.95)  # AdamW's
    eps: float = 1e-8  # AdamW's
    weight_decay: float = 0.0  # of matrices; vectors, norms, biases and embeddings have none
    clip: float | None = 1.0  # largest norm of the whole gradient; None leaves it
    muon_lr: float = 0.02  # Muon's, at the top of the schedule
    muon_momentum: float = 0.95  # with Nesterov's correction
    muon_weight_decay: float = 0.0
    muon_steps: int = 5  # of Newton and Schulz
    adamw_names: tuple[str, ...] = ("*embed*", "*patch*", "*lm_head*", "*.head.*")  # matrices that Muon leaves to AdamW
    split: Mapping[str, int] = field(default_factory=lambda: {"*qkv.weight": 3})  # matrices stacked in one, by rows

    def __post_init__(self) -> None:
        _above("optimizer", self, "lr", "eps", "muon_lr", "muon_steps")
        _from_zero("optimizer", self, "weight_decay", "muon_weight_decay", "muon_momentum")
        if self.clip is not None:
            _above("optimizer", self, "clip")


@dataclass(frozen=True)
class ScheduleConfig:
    """The factor on every learning rate, by optimizer step: up in a line, level, down to `final`."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0  # the first step has 1 / warmup_steps of the rate
    decay_from: float = 0.0  # share of all steps after which the rate falls; 0: right after the warm-up
    final: float = 0.0  # factor after the last step

    def __post_init__(self) -> None:
        _from_zero("schedule", self, "warmup_steps", "final")
        if not 0 <= self.decay_from <= 1:
            raise ConfigError(
                f"schedule.decay_from lies in 0 to 1, got {self.decay_from}", limit=1, got=self.decay_from
            )


@dataclass(frozen=True)
class SaveConfig:
    """When checkpoints are written and which stay."""

    every_steps: int | None = None  # None: by time alone
    every_s: float | None = 300.0  # by rank 0's clock; None: by steps alone. The last step is always saved
    keep: int = 2  # newest ones, at least 2
    keep_every: int | None = None  # those at multiples of this many steps stay for good
    on_error: Literal["stop", "go_on"] = "stop"  # go_on: a full disk is told and training continues

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_s", "keep_every"):
            if getattr(self, name) is not None:
                _above("save", self, name)
        if self.keep < 2:
            raise ConfigError(f"save.keep is at least 2, got {self.keep}", limit=2, got=self.keep)


@dataclass(frozen=True)
class ReportConfig:
    """What is told. log.jsonl is always written."""

    bar: bool = True  # progress on standard error: a bar on a terminal, else plain lines
    line_s: float = 30.0  # seconds from one plain line to the next; the first and the last step have one
    every_steps: int = 1  # one line of log.jsonl for so many steps
    curve: bool = True  # curve.png of loss, rate and tokens a second, drawn when a run stops
    tensorboard: bool = False  # needs the package tensorboard
    peak_flop_per_s: float | None = None  # of all devices together; with it MFU is told

    def __post_init__(self) -> None:
        _above("report", self, "every_steps")
        if self.peak_flop_per_s is not None:
            _above("report", self, "peak_flop_per_s")


@dataclass(frozen=True)
class TrainConfig:
    """One run of the loop. Model and data are the caller's."""

    budget: int  # tokens of one micro-batch on one rank
    steps: int = 0  # optimizer steps; every schedule counts them. 0: as many as `epochs` takes
    epochs: int | None = None  # how often every sample is seen, where `steps` is 0
    folder: Path = Path("run")  # checkpoints, log and curve
    seed: int = 0  # of order, dropout, masks
    strategy: Strategy = "one"
    device: Literal["cpu", "cuda"] | None = None  # None: a GPU where there is one
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; weights stay as they are
    accumulation: int = 1  # micro-batches of a rank in one step
    cost: Cost = field(default_factory=Cost)  # work of a sample, by which ranks are balanced
    gradient_checkpointing: bool = False  # less memory, about a third more work
    ema: float | None = None  # decay of a running mean of the weights, such as 0.999
    nonfinite_in_a_row: int = 3  # so many skipped steps one after the other end the run
    resume: str = "auto"  # auto: the newest whole checkpoint of the folder; never; or a checkpoint's folder
    init: Path | None = None  # a checkpoint whose weights a new run starts from, at step 0
    init_optimizer: bool = False  # with its optimizer's state
    prefetch: int = 0  # threads that make the next step's batches meanwhile
    deterministic: bool = False  # torch's deterministic kernels: bit-equal restarts on a GPU; a CPU has them anyway
    timeout_s: float = 600.0  # a rank that does not come within it ends the run
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        _above("", self, "budget", "accumulation", "nonfinite_in_a_row", "timeout_s")
        _from_zero("", self, "steps", "prefetch", "seed")
        if not self.steps and (self.epochs or 0) < 1:
            raise ConfigError("a run has steps, or epochs from 1", limit=1, got=(self.steps, self.epochs))
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema lies between 0 and 1, got {self.ema}", limit=1, got=self.ema)


def _above(where: str, config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            _refuse(where, name, "above 0", getattr(config, name))


def _from_zero(where: str, config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            _refuse(where, name, "0 or more", getattr(config, name))


def _refuse(where: str, name: str, expected: str, got: Any) -> None:
    label = f"{where}.{name}" if where else name
    raise ConfigError(f"{label} must be {expected}, got {got}", expected=expected, got=got)


def read_config(kind: type[C], path: str | os.PathLike[str], args: Sequence[str] = (), prog: str | None = None) -> C:
    """A dataclass of `kind` from a YAML file, with what `args` (a command line's words) change in it.

    Raises ConfigError that names the entry. Wrong words in `args` print what is wrong and raise SystemExit, as every
    command does. Needs pyyaml (the extra `train`).

        >>> _ = Path("run.yaml").write_text("budget: 64\\nsteps: 10\\noptimizer: {lr: 1e-2}")
        >>> config = read_config(TrainConfig, "run.yaml", ["--optimizer.clip", "0.5"])
        >>> config.steps, config.optimizer.lr, config.optimizer.clip
        (10, 0.01, 0.5)
    """
    import tyro
    import yaml

    file = Path(path)
    if not os.path.isfile(file):  # noqa: PTH113  that of Path raises where a name is too long
        raise ConfigError("there is no such regular file", source=file.name or str(file))
    content = read_small(file, ConfigError, _MOST_BYTES)
    try:
        tree = yaml.safe_load(content.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # pyyaml lets through what its values raise
        mark = getattr(e, "problem_mark", None)
        where = "" if mark is None else f", from line {mark.line + 1} on"
        raise ConfigError(f"the file could not be read as YAML{where}", source=file.name) from e
    try:
        config = from_tree(kind, {} if tree is None else tree)
    except ConfigError as e:
        raise e.placed(source=file.name) from e.__cause__
    if not args:
        return config
    # what a file leaves out (None) is no option: it has no values that one could be changed of
    how = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    return tyro.cli(kind, default=config, args=list(args), prog=prog or f"{file.name} and", config=how)


def to_tree(config: Any) -> dict[str, Any]:
    """A dataclass as plain values of JSON and YAML; `from_tree` reads it back."""
    return cast(dict[str, Any], _plain(asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def from_tree(kind: type[C], tree: Any, where: str = "") -> C:
    """A dataclass of `kind` from nested plain values. Raises ConfigError that names the entry."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where or 'the configuration'} must be a list of names with values", got=tree)
    hints = get_type_hints(kind)
    names = [f.name for f in fields(cast(Any, kind))]
    for name in tree:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 1)
            hint = f"; {near[0]} is meant?" if near else ""
            raise ConfigError(f"no entry {_joined(where, str(name))}{hint}", expected=names, got=name)
    required = [f.name for f in fields(cast(Any, kind)) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [_joined(where, name) for name in required if name not in tree]:
        raise ConfigError(f"{', '.join(missing)} missing", expected=missing)
    return kind(**{name: _value(hints[name], tree[name], _joined(where, name)) for name in names if name in tree})


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotation says, or ConfigError."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # X | None is the only one there is
        return None if value is None else _value(inner[0], value, where)
    if is_dataclass(hint):
        return from_tree(cast(type, hint), value, where)
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return _named_tuple(hint, value, where)
    shown, right = getattr(hint, "__name__", str(hint)), False
    if origin is Literal:
        shown, right = " or ".join(map(str, inner)), value in inner
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        shown = f"{len(kinds)} values"
        if len(kinds) == len(value):
            return tuple(_value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(k): _value(inner[1], v, _joined(where, str(k))) for k, v in value.items()}
    elif hint is float:
        value, right = _number(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif isinstance(hint, type):
        right = type(value) is hint  # so that true is not the number 1
    if not right:
        raise ConfigError(f"{where} must be {shown}, got {value!r}", expected=shown, got=value)
    return value


def _number(value: Any) -> tuple[Any, bool]:
    """YAML 1.1 takes 1e-3 for a text; a person means a number."""
    if isinstance(value, str):
        try:
            return float(value), True
        except ValueError:
            return value, False
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if right else value, right


def _named_tuple(kind: type, value: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    if isinstance(value, list | tuple) and len(value) <= len(hints):
        value = dict(zip(hints, value, strict=False))
    if not isinstance(value, Mapping) or set(value) - set(hints):
        raise ConfigError(f"{where} must have {', '.join(hints)}, got {value!r}", expected=list(hints), got=value)
    return kind(**{k: _value(hints[k], v, _joined(where, k)) for k, v in value.items()})
