"""What a run will take, before it starts: steps, what learns, FLOPs, memory, and which batch is the largest.

    data (a choice of samples, headers only) -> tokens -> order -> steps of an epoch
    model on torch's meta device + the largest of the first batches -> every living tensor, moment by moment

The model is read once for its shapes and types; nothing of it is computed. Not counted: the interpreter and torch, what
an allocator keeps, and what a device's own kernels work in.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tubelet.errors import ConfigError
from tubelet.inspect.budget.alive import KernelsOf, LivingBytes, run_backward
from tubelet.inspect.budget.memory import SMALL, kernels_of
from tubelet.packed import Item, Packed
from tubelet.reduce.relevance import in_joint_space
from tubelet.shapes import Int64
from tubelet.train.collate import PackedBatch
from tubelet.train.costs import measure
from tubelet.train.data.spare import Spares, planned
from tubelet.train.language import LanguageTraining
from tubelet.train.launch import Opened, open_run
from tubelet.train.loop import recompute
from tubelet.train.losses import info_nce
from tubelet.train.order import Batches
from tubelet.train.pairs import PairBatch, PairTraining
from tubelet.train.parts import Counted
from tubelet.train.run_config import RunConfig
from tubelet.train.work import work_of

CHOSEN = 512  # samples whose tokens are counted; more are drawn from these
LOOKED = 16  # steps whose batches are compared
_PRODUCTS = {  # what autocast gives bfloat16, of what models here call
    *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.scaled_dot_product_attention),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm),
}


@dataclass(frozen=True)
class RunMemory:
    """Bytes of one process by what they are for; `work_bytes` holds activations and gradients at the highest moment."""

    weights_bytes: int
    optimizer_bytes: int  # AdamW's two moments or Muon's one, and the running mean
    work_bytes: int
    where: str  # the weight that was used last then

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.optimizer_bytes + self.work_bytes


@dataclass(frozen=True)
class RunPlan:
    """A run in numbers. exact: whether every sample was counted, or some were and stand for the others."""

    samples: int
    exact: bool
    tokens_per_sample: float
    samples_per_step: float  # on average, all ranks and micro-batches together
    steps_per_epoch: int
    steps: int
    epochs: float
    lines: tuple[Counted, ...]
    flop_per_step: float  # on average over the batches looked at
    memory: RunMemory
    largest: tuple[int, int]  # tokens and patches of the batch that memory is of

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        said = {k: v for k, v in self.__dict__.items() if k not in ("lines", "memory")}
        memory = {**self.memory.__dict__, "total_bytes": self.memory.total_bytes}
        return {**said, "learns": [one.__dict__ for one in self.lines], "memory": memory}


def plan_run(config: RunConfig, *, samples: int | None = None, world: int = 1) -> RunPlan:
    """The plan of a run on `world` processes. samples: as if the data were so many, each like one of those there.

    Cost: reading the model, 512 headers, the pictures of one batch; about a second of CPU for each layer of a language
    model. Raises what opening the run raises.
    """
    if world < 1 or (samples is not None and samples < 1):
        raise ConfigError("processes and samples start at 1", limit=1, got=(world, samples))
    opened = open_run(config)
    tokens, chosen = _tokens(opened, config.seed)
    count = len(opened.dataset) if samples is None else samples
    exact = opened.collator is None or (samples is None and len(chosen) == count)
    every = tokens if exact and len(tokens) == count else np.random.default_rng(config.seed).choice(tokens, count)
    how: dict[str, Any] = {"seed": config.seed, "world": world, "accumulation": config.accumulation}
    batches = Batches(every, config.budget, cost=config.cost, **how)
    epoch = batches.steps(1)
    steps = config.steps or batches.steps(config.epochs or 1)
    looked, flop = _largest(opened, config, tokens, chosen, how)
    learns = sum(w.numel() for w in opened.model.parameters() if w.requires_grad)
    states = (1 if config.optimizer.kind == "muon" else 2) + (config.ema is not None)
    size = (
        (sum(looked.lengths), len(looked.pixels.x))
        if isinstance(looked, PackedBatch)
        else (len(looked.ids), len(looked.patches.x))
    )
    return RunPlan(
        count,
        exact,
        float(every.mean()),
        count / epoch if epoch else 0.0,
        epoch,
        steps,
        steps / epoch,
        opened.lines,
        flop * world * config.accumulation,
        replace(run_memory(opened.model, looked, config), optimizer_bytes=4 * learns * states),
        size,
    )


def _tokens(opened: Opened, seed: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Tokens of a choice of samples, and their numbers; of all where they are few."""
    count = len(opened.dataset)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:CHOSEN])
    if opened.collator is None:
        return np.ones(len(chosen), np.int64), chosen
    return planned(measure(opened.collator, chosen.tolist(), workers=opened.collator.workers).tokens), chosen


def _largest(
    opened: Opened, config: RunConfig, tokens: Int64[np.ndarray, " n"], chosen: Int64[np.ndarray, " n"], how: Any
) -> tuple[PackedBatch | PairBatch, float]:
    """The micro-batch with the most tokens of the first steps over the samples looked at, and FLOPs of a mean one."""
    batches = Batches(tokens, config.budget, cost=config.cost, **how)
    micros = [micro.ids for step in range(LOOKED) for rank in batches.at(step) for micro in rank]
    make = opened.collate(Spares(len(opened.dataset), config.seed))
    most = max(micros, key=lambda ids: int(tokens[list(ids)].sum()))
    looked = make(tuple(chosen[list(most)].tolist()), 0)
    work = work_of(opened.model)
    mean = float(np.mean([tokens[list(ids)].sum() for ids in micros])) / float(tokens[list(most)].sum())
    return looked, 0.0 if work is None else work(looked) * mean


def run_memory(model: nn.Module, batch: PackedBatch | PairBatch, config: RunConfig) -> RunMemory:
    """Bytes of forward and backward of one micro-batch, on torch's meta device, where the model is left.

    The optimizer's own moments are not in it. Raises ConfigError for a model that is not known.
    """
    weights = sum(
        t.numel() * t.element_size() for t in {id(t): t for t in [*model.parameters(), *model.buffers()]}.values()
    )
    if config.gradient_checkpointing:
        recompute(model)
    model.train()
    nn.Module.to(model, "meta")
    cuda = config.device == "cuda" or (config.device is None and torch.cuda.is_available())
    device = "cuda" if cuda else "cpu"
    pixels = batch.pixels if isinstance(batch, PackedBatch) else batch.patches
    given = pixels.x.numel() * pixels.x.element_size() + 12 * len(pixels.x)
    shown = Packed(pixels.x.to("meta"), pixels.pos.to("meta"), pixels.items, pixels.lengths)
    known: Any = model.vlm if isinstance(model, LanguageTraining) else getattr(model, "alignment", model)
    half = config.precision == "bf16"
    count = LivingBytes(known, kernels_of("bfloat16" if half else "float32", device))
    with KernelsOf(device), _Casts(device), count:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            loss = _loss(model, batch, shown)
        count.end_forward()
        run_backward(loss)
    where = max(count.most, key=lambda moment: count.most[moment])
    return RunMemory(weights, 0, count.most[where] + given + SMALL, f"{where[0]}, {where[2]}")


def _loss(model: nn.Module, batch: PackedBatch | PairBatch, shown: Packed) -> Tensor:
    if isinstance(model, LanguageTraining) and isinstance(batch, PackedBatch):
        return _language_loss(model, replace(batch, pixels=shown))
    if isinstance(model, PairTraining) and isinstance(batch, PairBatch):
        return _pair_loss(model, replace(batch, patches=shown))
    raise ConfigError(f"no memory is known of a {type(model).__name__}", got=type(model).__name__)


class _Casts(TorchFunctionMode):
    """What autocast to bfloat16 does, which torch's meta device knows nothing of: products read bfloat16, and of a
    weight that learns the first such copy is kept as long as autocast lasts."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        self._kept = dict[int, Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        if not torch.is_autocast_enabled(self._device):  # also in what backward computes again it is
            self._kept.clear()
            return func(*args, **(kwargs or {}))
        return func(*map(self._cast, args), **{name: self._cast(value) for name, value in (kwargs or {}).items()})

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_meta or value.dtype != torch.float32:
            return value
        if not (value.requires_grad and value.is_leaf):
            return value.to(torch.bfloat16)
        if id(value) not in self._kept:
            self._kept[id(value)] = value.to(torch.bfloat16)
        return self._kept[id(value)]


def _language_loss(model: LanguageTraining, batch: PackedBatch) -> Tensor:
    """The forward pass without values: rows go into their places by number, and what is said stays on the host."""
    rows = model.rows(batch)
    ids = model.vlm.scheme.token_ids.placeholders
    visual = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    for one in ids:
        visual |= batch.input_ids == one
    embeds = model.vlm.speaker.embed(torch.empty_like(batch.input_ids, device="meta"))
    if len(batch.pixels):
        embeds = embeds.index_copy(0, visual.nonzero().squeeze(1).to("meta"), rows.tokens.x.to(embeds.dtype))
    embeds = model.touched(batch, embeds, rows)
    positions = torch.zeros(3, len(batch.input_ids), dtype=torch.int64, device="meta")
    return model.loss(batch, embeds, positions, rows).total


def _pair_loss(model: PairTraining, batch: PairBatch) -> Tensor:
    """The forward pass without values: which rows are chosen nobody knows, how many is known."""
    alignment, front, count = model.alignment, model.alignment.front, len(batch.ids)
    seen = alignment.features(batch.patches)
    if alignment.config.weights.text:
        with torch.no_grad():
            in_joint_space(front.encoder, seen.scoring)
    budget = alignment.config.budget
    kept, items = slice(count * budget), (Item.of(1, 1, budget),) * count
    rows = Packed(seen.rows.x[kept].clone(), seen.rows.pos[kept], items, (budget,) * count)
    projected = front.projector(rows)
    vectors = (
        projected.x.unflatten(0, (count, budget)).mean(dim=1)
        if alignment.readout is None
        else alignment.readout(projected)
    )
    return info_nce(vectors, torch.empty_like(vectors), temperature=alignment.config.temperature)
