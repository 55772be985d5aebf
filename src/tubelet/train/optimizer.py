"""Optimizers over named groups of parameters, the schedule of their rates, and a running mean of the weights."""

import math
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from tubelet.encoder.cpu import work_dtype
from tubelet.errors import ConfigError
from tubelet.train.config import OptimizerConfig, ScheduleConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic: steepest at 0, into about 0.7 to 1.2 after five steps


class Muon(torch.optim.Optimizer):
    """Momentum of a matrix, made nearly orthogonal: every direction of the update has about the same length.

    groups: dicts of `params` (matrices) and `parts`, for each how many matrices are stacked in it by rows (3 for a
    fused q, k, v), which are made orthogonal apart. lr is multiplied by sqrt(max(1, rows / columns)) of each.
    Under FSDP2 each rank puts the whole update together.
    Source: https://kellerjordan.github.io/posts/muon, as torch.optim.Muon has it; differs by `parts` and
    by sharded parameters. Cost: 2 steps x (2 m^2 n + m^3) FLOPs for an m x n matrix, m its shorter side.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})
        for group in self.param_groups:
            for p, parts in zip(group["params"], group["parts"], strict=True):
                if p.ndim != 2 or p.shape[0] % parts:
                    raise ConfigError(f"{tuple(p.shape)} is not {parts} matrices stacked by rows", got=tuple(p.shape))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p, parts in zip(group["params"], group["parts"], strict=True):
                if p.grad is None:
                    continue
                rows, columns = p.shape[0] // parts, p.shape[1]
                pieces = self._direction(p, group["momentum"]).chunk(parts)
                update = torch.cat([orthogonal(piece, group["steps"]) for piece in pieces])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                scale = -group["lr"] * math.sqrt(max(1.0, rows / columns))
                _local(p).add_(_local(_like(update, p)), alpha=scale)

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        grad, state = p.grad, self.state[p]
        assert grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(grad)
        state["momentum"].lerp_(grad, 1 - momentum)
        direction = grad.lerp(state["momentum"], momentum)  # Nesterov's
        return direction.full_tensor() if isinstance(direction, DTensor) else direction


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """U V^T of a matrix U S V^T, about: singular values near 1, by Newton and Schulz.

    In bfloat16 where the device multiplies it, else in float32, which an older CPU does thirty times as fast.

        >>> m = orthogonal(torch.diag(torch.tensor([1.0, 5.0])))
        >>> bool((m.diag() > 0.6).all() and (m.diag() < 1.3).all())
        True
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(work_dtype(torch.bfloat16) if matrix.device.type == "cpu" else torch.bfloat16)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(whole: Tensor, p: Tensor) -> Tensor:
    """This rank's share of a tensor that every rank has whole."""
    if not isinstance(p, DTensor):
        return whole
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Optimizers over what the (wrapped) model trains, in groups with a `name`, the tensors' `names` and a `top` rate.

    adamw: matrices and larger, with weight decay; adamw_no_decay: vectors and embeddings; muon: hidden matrices.
    Raises ConfigError when `split` does not divide a matrix.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[str, list[tuple[str, Tensor]]] = {"muon": [], "adamw": [], "adamw_no_decay": []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            matrix = p.ndim >= 2 and id(p) not in embeddings
            hidden = matrix and p.ndim == 2 and not any(fnmatchcase(name, known) for known in config.adamw_names)
            which = "muon" if hidden and config.kind == "muon" else "adamw" if matrix else "adamw_no_decay"
            groups[which].append((name, p))
    made: list[torch.optim.Optimizer] = []
    if muon := groups.pop("muon"):
        group = _group("muon", muon, config.muon_lr)
        group["parts"] = [_parts(name, config.split) for name, _ in muon]
        settings = {"momentum": config.muon_momentum, "weight_decay": config.muon_weight_decay}
        made.append(Muon([group], lr=config.muon_lr, steps=config.muon_steps, **settings))
    rest = [_group(name, pairs, config.lr) for name, pairs in groups.items() if pairs]
    for group in rest:
        group["weight_decay"] = config.weight_decay if group["name"] == "adamw" else 0.0
    if rest:
        made.append(torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, eps=config.eps))
    return made


def _group(name: str, pairs: Sequence[tuple[str, Tensor]], top: float) -> dict[str, Any]:
    return {"name": name, "names": [n for n, _ in pairs], "params": [p for _, p in pairs], "lr": top, "top": top}


def _parts(name: str, split: Mapping[str, int]) -> int:
    return next((parts for known, parts in split.items() if fnmatchcase(name, known)), 1)


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """What every rate is multiplied by at optimizer step `step` of `steps`, counted from 0.

    >>> [round(factor(ScheduleConfig("linear", warmup_steps=2), s, 6), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = max(float(config.warmup_steps), config.decay_from * steps)
    if config.kind == "constant" or step <= start or start >= steps:
        return 1.0
    done = min(1.0, (step - start) / (steps - start))
    shape = 1 - done if config.kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final + (1 - config.final) * shape


def set_rates(optimizers: Sequence[torch.optim.Optimizer], by: float) -> None:
    """Give every group its top rate times `by`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * by


def state_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Every tensor of the optimizers' states, as `parameter/what`."""
    out = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                out |= {f"{name}/{what}": value for what, value in optimizer.state.get(p, {}).items()}
    return out


def make_room(optimizers: Sequence[torch.optim.Optimizer], held: Collection[str]) -> None:
    """Zero states of the parameters that have one in `held`, for `state_tensors` to give and a checkpoint to fill.

    A parameter's states are those of its optimizer, whatever `held` names: another optimizer's do not fit.
    Moments have their parameter's shape and are sharded as it is; counts lie on the host.
    """
    parameters = {key.rpartition("/")[0] for key in held}
    for optimizer in optimizers:
        moments = ("momentum",) if isinstance(optimizer, Muon) else ("exp_avg", "exp_avg_sq")
        for group in optimizer.param_groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                if name in parameters:
                    counts = {} if isinstance(optimizer, Muon) else {"step": torch.tensor(0.0)}
                    optimizer.state[p] = counts | {what: torch.zeros_like(p) for what in moments}


class Ema:
    """A running mean of the trained weights in float32: `tensors` by parameter name, sharded as the weights are.

    The decay grows with the steps taken, (1 + n) / (10 + n), up to the one asked for, so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.tensors = {n: p.detach().float().clone() for n, p in self._weights.items()}

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again from the weights as they are."""
        for name, p in self._weights.items():
            _local(self.tensors[name]).copy_(_local(p))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, p in self._weights.items():
            _local(self.tensors[name]).lerp_(_local(p).float(), share)
