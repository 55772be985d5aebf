"""How many bytes are alive, moment by moment, while an encoder runs: counted on the real Encoder without values.

    Encoder on torch's meta device -> every tensor has a size and a life, none has memory -> bytes of living storages

What a local variable holds, what autograd saves and when backward frees it, is so because it is the same code that
runs. Only two things are written by hand: what kernels work in beside their tensors (tubelet.inspect.budget.scratch),
and the operator that `scaled_dot_product_attention` is on a CPU, which it is not on meta.

Layers of a kind are alike, so few of them run: the first, the last, and between them one of each span. A layer left out
adds what one of its kind left behind in the forward pass, and the gradients of its weights in the backward pass.
"""

import weakref
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tubelet.encoder.attention import Backend
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.cpu import work_dtype
from tubelet.encoder.kernels import chosen
from tubelet.encoder.layers import MergerMLP
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.inspect.budget.results import result_of
from tubelet.inspect.budget.scratch import Kernels
from tubelet.packed import Packed
from tubelet.packed.grid import Grid, Item

RNG_STATE = 5056  # bytes of the CPU generator's state, which each checkpoint keeps
Moment = tuple[str, int, str]  # "forward", "loss" or "backward"; the layer; the part whose weight was met last
_BEFORE = {
    "patch": "patch embedding",
    "norm_embed": "norm of the patch embedding",
    "table": "positions of the table",
    "prefix": "prefix tokens",
    "prefix_first": "prefix tokens",
    "prefix_angles": "angles of prefix tokens",
    "norm_pre": "norm before the layers",
}
_AFTER = {"norm_post": "norm after the layers", "merger": "merger"}


class LivingBytes(TorchDispatchMode):
    """Counts storages that operators make, from their making to their end, and the most of them in each moment.

    module: whose weights name the moments: a moment is named by the one that was used last. layers: how many it has,
    of an encoder. part_of: of a weight's name, the layer and the part; None: an encoder's. Views and writes in place
    make nothing. Not reentrant.
    """

    def __init__(
        self,
        module: nn.Module,
        kernels: Kernels,
        layers: int = 0,
        part_of: Callable[[str], tuple[int, str]] | None = None,
    ) -> None:
        super().__init__()
        part_of = part_of or (lambda name: _part(name, layers))
        self.kernels = kernels
        self.alive, self.most = 0, dict[Moment, int]()
        self.begins = dict[int, int]()  # bytes alive when the forward pass comes to each layer
        self.moment: Moment = ("forward", -1, "rotary tables")
        self.layers = layers
        self._parts = {w.untyped_storage()._cdata: part_of(name) for name, w in module.named_parameters()}
        self._living = dict[int, weakref.ref[torch.UntypedStorage]]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it is never compiled; to be kept out of that, torch would import dynamo: seconds, for a plan

    def end_forward(self) -> None:
        """From here on it is the loss, and the backward pass as soon as a weight is met."""
        self.moment = ("loss", self.layers, "loss")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for each in args:
            if isinstance(each, Tensor) and (part := self._parts.get(each.untyped_storage()._cdata)):
                self._enter(*part)
        if func.is_view:
            return func(*args, **(kwargs or {}))
        given = [a for each in args for a in (each if isinstance(each, (list, tuple)) else (each,))]
        real = [a for a in given if isinstance(a, Tensor)]
        if real and not any(a.is_meta for a in real):  # numbers on the host have values
            out = func(*args, **(kwargs or {}))
        else:
            out = result_of(func, args, kwargs or {})
        if "attention" in func.__name__ or "attn" in func.__name__:
            self.moment = (*self.moment[:2], "attention")
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        now = self.alive + self.kernels.beside(func, args, out)
        if now > self.most.get(self.moment, 0):
            self.most[self.moment] = now
        return out

    def _enter(self, layer: int, part: str) -> None:
        phase = self.moment[0]
        if phase == "forward":
            self.begins.setdefault(layer, self.alive)
        self.moment = ("backward" if phase == "loss" else phase, layer, part)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._living or key in self._parts:
            return

        def ended(_: Any) -> None:
            self.alive -= size
            del self._living[key]

        self._living[key] = weakref.ref(storage, ended)
        self.alive += size


def _part(name: str, layers: int) -> tuple[int, str]:
    """Of a weight's name, the layer it is in and what that part is called."""
    first, *rest = name.split(".")
    if first == "layers":
        return int(rest[0]), f"{rest[1]} of a layer"
    return (layers, _AFTER[first]) if first in _AFTER else (-1, _BEFORE.get(first, first))


class KernelsOf(TorchFunctionMode):
    """Attention and RMSNorm as the operators that this device has, which meta does not choose by itself."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.fused = device != "cpu"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:  # keeps its result and a log-sum of each row and head
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **(kwargs or {}))[0]
        if func is F.rms_norm and self.fused:  # one kernel that keeps its input and a number for each row
            x, shape = args
            return F.layer_norm(x, shape, (kwargs or {})["weight"])
        return func(*args, **(kwargs or {}))


def run_backward(loss: Tensor) -> None:
    """`loss.backward()`, which leaves every function mode, and layers that run again in it need `KernelsOf`."""
    one = (loss.new_ones(()),)
    Variable._execution_engine.run_backward(
        (loss,), one, False, False, (), allow_unreachable=True, accumulate_grad=True
    )


@dataclass(frozen=True)
class _Sample:
    """The layers that run in place of all, by their numbers and in order; -1 stands for what is before the layers,
    and their count for what is after them."""

    spans: tuple[str, ...]  # of every layer
    layers: tuple[int, ...]  # those that run

    @cached_property
    def stands(self) -> tuple[int, ...]:
        """For every layer, the one that runs in its place, by its number among those that run."""
        if len(self.layers) == len(self.spans):
            return self.layers
        last = len(self.spans) - 1
        kinds = {self.spans[i]: n for n, i in enumerate(self.layers) if 0 < i < last}
        ends = {0: 0, last: len(self.layers) - 1}
        return tuple(ends[i] if i in ends else kinds[s] for i, s in enumerate(self.spans))

    def left_out(self, saved: Sequence[int], gradient: int) -> tuple[dict[int, int], dict[int, int]]:
        """Bytes that the layers left out add to a moment of each that runs, in the forward and the backward pass: the
        most for any layer it stands for.

        saved: what each that runs leaves behind in the forward pass. gradient: of one layer's weights.
        """
        behind = [*accumulate((saved[n] for n in self.stands), initial=0)]
        shown = [*accumulate(saved, initial=0)]
        count, ran = len(self.spans), len(self.layers)
        forward: dict[int, int] = {}
        backward: dict[int, int] = {}
        for i, n in [(-1, -1), *enumerate(self.stands), (count, ran)]:
            before = behind[max(i, 0)] - shown[max(n, 0)]
            after = gradient * ((count - i) - (ran - n))
            forward[n] = max(before, forward.get(n, before))
            backward[n] = max(before + after, backward.get(n, before + after))
        return forward, backward


def _sample(config: EncoderConfig) -> _Sample:
    spans = config.layer_spans
    between = {spans[i]: i for i in range(len(spans) - 2, 0, -1)}  # the first of each kind
    return _Sample(spans, tuple(sorted({0, len(spans) - 1, *between.values()})))


def few_layers(config: EncoderConfig, sample: _Sample | None = None) -> EncoderConfig:
    """The encoder with the layers that run in place of all, and without deepstack, which `forward` leaves out."""
    sample = _sample(config) if sample is None else sample
    spans = tuple(config.layer_spans[i] for i in sample.layers)
    return replace(config, layers=len(spans), spans=spans, deepstack=(), deepstack_merger=None)


@lru_cache(maxsize=32)
def _encoder(config: EncoderConfig, dtype: torch.dtype, options: RunOptions, plain: bool) -> Encoder:
    with torch.inference_mode(False), torch.device("meta"):
        encoder = Encoder(config, options).to(dtype)
    if plain:
        encoder.layers[0].register_forward_hook(lambda *_: None)  # what has a hook does not run in place
    return encoder


@lru_cache(maxsize=64)
def parameter_count(config: EncoderConfig) -> int:
    """Values in all weights of an encoder. One layer is made and counts for all, which are alike."""
    one = replace(config, layers=1, spans=config.layer_spans[:1], deepstack=(), deepstack_merger=None)
    encoder = _encoder(one, torch.float32, RunOptions(), False)
    found = _values(encoder) + (config.layers - 1) * _values(encoder.layers[0])
    if config.deepstack_merger is not None:
        with torch.device("meta"):
            found += len(config.deepstack) * _values(MergerMLP(config.deepstack_merger, config.hidden))
    return found


def _values(module: nn.Module) -> int:
    return sum(w.numel() for w in module.parameters())


def moments(
    config: EncoderConfig,
    grids: Sequence[Grid],
    dtype: torch.dtype,
    kernels: Kernels,
    *,
    training: bool = False,
    checkpointing: bool = False,
    device: str = "cpu",
    plain: bool = False,
    floats: bool = False,
    scenes: Sequence[int] | None = None,
    sampled: bool = True,
) -> dict[str, int]:
    """Bytes beyond weights and input rows at the highest moment in each part of one call for whole items.

    training: forward, the mean square of the tokens as loss, and backward, with gradients of all weights. floats: rows
    are normalised pixels. sampled: few layers run for all. Cost: some 10 ms for each that runs, whatever the sizes.
    """
    sample = _sample(config) if sampled else _Sample(config.layer_spans, tuple(range(config.layers)))
    small = few_layers(config, sample)
    spans = small.layer_spans
    backend: Backend = "varlen" if device != "cpu" and dtype.itemsize < 4 else "sdpa"
    encoder = _encoder(small, dtype, RunOptions(backend, checkpointing), plain or device != "cpu")
    rows = sum(g.rows for g in grids)
    x = torch.empty(rows, config.pixels.width, dtype=dtype if floats else torch.uint8, device="meta")
    pos = torch.empty(rows, 3, dtype=torch.int32, device="meta")
    p = Packed(x, pos, tuple(Item.of(*g) for g in grids), tuple(g.rows for g in grids))
    encoder = deepcopy(encoder) if training else encoder  # its gradients are this call's
    count = LivingBytes(encoder, kernels, len(encoder.layers))
    if device == "cpu" and not training:
        chosen(work_dtype(dtype))  # a trial's memory is not the pack's
    with torch.inference_mode(False), torch.set_grad_enabled(training), KernelsOf(device), count:
        tokens = encoder(p, scenes=scenes)
        if training:
            count.end_forward()
            loss = tokens.x.square().mean()
            run_backward(loss)
    layer = _values(encoder.layers[0]) * dtype.itemsize
    begins = [count.begins[n] for n in range(len(spans))]
    saved = [b - a for a, b in pairwise(begins)] + [0]  # what the last leaves behind is left in any case
    forward, backward = sample.left_out(saved, layer)
    found: dict[str, int] = {}
    for (phase, n, part), most in count.most.items():
        name = f"backward of {part}" if phase == "backward" else part
        more = (backward if phase == "backward" else forward)[n]
        more += RNG_STATE * (len(sample.spans) + 1) if checkpointing else 0
        found[name] = max(found.get(name, 0), most + more)
    return found
