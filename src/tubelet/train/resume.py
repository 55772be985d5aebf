"""Where a run is: what goes into a checkpoint, and how a run begins from one or from nothing."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tubelet import __version__
from tubelet.errors import CheckpointError, RunError
from tubelet.train.checkpoint import Checkpoints, read_part, read_state, shapes_of
from tubelet.train.config import TrainConfig, to_tree
from tubelet.train.manifest import folders
from tubelet.train.optimizer import Ema, make_room, state_tensors
from tubelet.train.order import Batches
from tubelet.train.strategy import Group

_FREE = ("folder", "resume", "timeout_s", "prefetch", "report")  # entries that change nothing about the weights
_DIGEST_VALUES = 256  # of each frozen tensor: enough to tell checkpoints apart, cheap for any model


@dataclass
class Progress:
    """What the loop counts. Everything else about a step follows from its number."""

    step: int = 0  # steps behind us, skipped ones too
    skipped: int = 0  # of these, steps without an update
    skipped_in_a_row: int = 0  # ... at the end of them


@dataclass(frozen=True)
class Trained:
    """The tensors of a run: the model without a cover, its optimizers, and the mean of its weights."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    ema: Ema | None

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds, by part and name: trained parameters and persistent buffers; frozen ones are not
        written, because they are in the checkpoint that they came from. The tensors themselves, not copies."""
        kept = self.model.state_dict().keys()
        weights = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        weights |= {n: b for n, b in self.model.named_buffers() if n in kept}
        parts = {"model": weights, "optimizer": state_tensors(self.optimizers)}
        return parts if self.ema is None else {**parts, "ema": self.ema.tensors}

    def fill(self, path: Path, names: Sequence[str]) -> None:
        """Read the named parts of a checkpoint into the tensors."""
        if "optimizer" in names:
            make_room(self.optimizers, shapes_of(path / "optimizer"))
        parts = self.parts()
        for name in names:
            read_part(path / name, parts[name])


def frozen_digest(model: nn.Module) -> str:
    """Digest of names, shapes and a few values of what is not trained: a resume must find the same. Syncs."""
    digest = sha256()
    for name, p in model.named_parameters():
        if not p.requires_grad:
            values = p.detach().flatten()[:: max(1, p.numel() // _DIGEST_VALUES)][:_DIGEST_VALUES]
            digest.update(repr((name, tuple(p.shape), str(p.dtype))).encode())
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state_of(config: TrainConfig, group: Group, progress: Progress, batches: Batches, frozen: str) -> dict[str, Any]:
    """The plain values of a checkpoint."""
    return {
        **asdict(progress),
        "epoch": batches.epoch(progress.step),
        "order": batches.fingerprint,
        "frozen": frozen,
        "world": group.world,
        "strategy": group.strategy,
        "machine": _machine(group),
        "tubelet": __version__,
        "config": to_tree(config),
    }


def _machine(group: Group) -> dict[str, Any]:
    """What bit-equality depends on besides the world size."""
    cuda = torch.cuda.get_device_name(group.device) if group.device.type == "cuda" else None
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": cuda or platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def begin(
    config: TrainConfig, group: Group, checkpoints: Checkpoints, trained: Trained, batches: Batches, frozen: str
) -> tuple[Progress, str]:
    """The progress to go on from, with every tensor in place, and the sentence that says so. A collective.

    Raises CheckpointError for a checkpoint that is not whole or not of this run, RunError for resume="never" in a
    folder that has checkpoints.
    """
    if config.resume == "never":
        if any(folders(config.folder)):
            raise RunError("the folder has checkpoints; resume='auto' goes on from them", source=str(config.folder))
        path, lost = None, ()
    elif config.resume == "auto":
        path, lost = checkpoints.newest_whole()
    else:
        path, lost = checkpoints.whole(Path(config.resume)), ()
    told = [f"{name} is not whole and was left out: {reason}" for name, reason in lost]
    if path is None:
        return Progress(), "; ".join([*told, _fresh(config, checkpoints, trained)])
    state = read_state(path)
    differ = list(_differences(state, batches, frozen))
    if config.resume == "auto" and differ:
        raise CheckpointError(f"it belongs to another run: {'; '.join(differ)}", source=str(path))
    trained.fill(path, tuple(trained.parts()))
    told += [f"goes on from step {state['step']:,} of {path}", *differ, *_changes(config, state["config"])]
    now = {"world": group.world, **_machine(group)}
    then = {"world": state["world"], **state["machine"]}
    other = [f"{k} {then.get(k)} -> {now[k]}" for k in now if now[k] != then.get(k)]
    told.append(f"not bit-equal to an unbroken run: {', '.join(other)}" if other else "same machine, bit-equal")
    return Progress(state["step"], state["skipped"], state["skipped_in_a_row"]), "; ".join(told)


def _fresh(config: TrainConfig, checkpoints: Checkpoints, trained: Trained) -> str:
    if config.init is None:
        return f"starts at step 0 in {config.folder}"
    path = checkpoints.whole(config.init)
    trained.fill(path, ("model", "optimizer") if config.init_optimizer else ("model",))
    if trained.ema is not None:
        trained.ema.restart()
    return f"starts at step 0 in {config.folder} with the weights of {path}"


def _differences(state: Mapping[str, Any], batches: Batches, frozen: str) -> Iterator[str]:
    if state["order"] != batches.fingerprint:
        yield "samples, seed, budget, cost or ranks x accumulation differ, so the order does"
    if state["frozen"] != frozen:
        yield "the frozen parameters are others"


def _changes(config: TrainConfig, before: Mapping[str, Any]) -> Iterator[str]:
    now = dict(_flat({k: v for k, v in to_tree(config).items() if k not in _FREE}))
    then = dict(_flat({k: v for k, v in before.items() if k not in _FREE}))
    for name in sorted(now.keys() | then.keys()):
        if now.get(name) != then.get(name):
            yield f"{name} {then.get(name)} -> {now.get(name)}"


def _flat(tree: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value
