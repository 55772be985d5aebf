"""The plain layers by torch.compile: one graph for all layers of a kind and for every number of rows.

    rows, rotary tables, cu_seqlens  ->  a layer, compiled  ->  rows        as often as there are layers

Layers of one encoder differ in their weights alone, which a graph takes as inputs, so a first call costs one layer's
compiling whatever the depth. Lengths are data and the number of rows is free: another mix of items compiles nothing. A
single row is run eagerly, for torch makes a size of 1 a graph of its own. What the compiler made stays on disk where
torch keeps it (TORCHINDUCTOR_CACHE_DIR, else the user's folder in the temporary one), for later processes.

"auto" waits until the work would have paid for the compiling. Where it cannot be had, because no C++ compiler or
Triton is there or a part of a layer cannot be traced, "auto" says so and runs eagerly from then on.
"""

import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.encoder.config import EncoderConfig, Span
from tubelet.encoder.layers import LayerInputs
from tubelet.encoder.options import RunOptions
from tubelet.errors import ConfigError

# Rows x layers x width from which "auto" compiles, by device and by whether weights learn; no entry: never. Estimated,
# not measured: a kind of layer compiles in 5 s (twice that with a backward pass, on 2 cores), and a compiled one is
# spared some ten passes over its rows and their hidden values, at 2 bytes each and 4 TB/s; 25 passes where it learns.
PAYS = {("cuda", False): 1e12, ("cuda", True): 8e11}


class CompiledLayers:
    """What of an encoder is compiled, and whether it shall be. Called as a layer is, with that layer before the rest.

    A copy begins with nothing compiled. What is compiled is bound to no encoder: the layer is an argument.
    """

    def __init__(self, options: RunOptions, config: EncoderConfig) -> None:
        self.options, self.config = options, config
        self.seen = 0.0  # rows x layers x width that "auto" ran eagerly without gradients
        self.failed = False  # whether "auto" has found that it cannot be had
        self._made: dict[tuple[Span, bool], Callable[..., Tensor]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledLayers, (self.options, self.config)

    def under(self, options: RunOptions) -> "CompiledLayers":
        """The same for other options: with what is compiled, where they compile as these do."""
        found = CompiledLayers(options, self.config)
        if options.compile == self.options.compile:
            found.seen, found.failed, found._made = self.seen, self.failed, self._made
        return found

    def wanted(self, x: Tensor, layers: nn.ModuleList) -> bool:
        """Whether these rows go through compiled layers; "auto" counts them."""
        how = self.options.compile
        if how is None or self.failed or torch.compiler.is_compiling() or x.is_meta or x.shape[0] < 2:
            return False
        if how != "auto":
            return True
        learns = torch.is_grad_enabled() and (x.requires_grad or any(w.requires_grad for w in layers.parameters()))
        pays = PAYS.get((x.device.type, learns))
        if pays is None or any(m._forward_hooks or m._forward_pre_hooks for m in layers.modules()):
            return False
        unit = float(len(layers) * self.config.hidden)
        ahead = self.options.rows_ahead * unit
        if learns:  # compiled layers have no second derivative: only who knows what is ahead has asked for them
            return ahead >= pays
        self.seen += x.shape[0] * unit
        return max(ahead, self.seen) >= pays

    def __call__(self, layer: Any, x: Tensor, inputs: LayerInputs) -> Tensor:
        """`layer(x, inputs)` of a Layer, or of what stands around one. The first call of a kind compiles, and
        `options.say` is told."""
        if self.failed:  # at an earlier layer of this call
            return layer(x, inputs)
        key, first = (layer.span, torch.is_grad_enabled()), time.monotonic()
        run = self._made.get(key)
        data = inputs._replace(spans={layer.span: inputs.spans[layer.span]._replace(segments=None)})
        for each in (x, inputs.turn, inputs.flip):
            if each is not None:  # else rows and segments that happen to be as many would have to stay so
                torch._dynamo.mark_dynamic(each, 0)
        if run is not None:
            return run(layer, x, data)
        backend = "inductor" if self.options.compile == "auto" else self.options.compile
        assert backend is not None
        if isinstance(backend, str) and backend not in torch.compiler.list_backends(()):
            known = torch.compiler.list_backends()
            raise ConfigError(f"torch.compile has no backend {backend}", expected=known, got=backend)
        self._say(f"compiling the encoder's layers{' for training' if key[1] else ''}, once")
        # A code of its own: torch keeps at most 8 graphs of one code, and encoders are no concern of each other.
        own = FunctionType(_run.__code__.replace(), globals())
        run = torch.compile(own, dynamic=True, fullgraph=True, backend=backend)
        try:
            out = run(layer, x, data)
        except _failures() as e:
            if self.options.compile != "auto":
                raise
            self.failed = True
            self._say(f"the layers could not be compiled and run as they are: {_first_line(e)}")
            return layer(x, inputs)
        self._made[key] = run
        self._say(f"compiled the encoder's layers in {time.monotonic() - first:.0f} s")
        return out

    def _say(self, text: str) -> None:
        if self.options.say is not None:
            self.options.say(text)


def _run(layer: Any, x: Tensor, inputs: LayerInputs) -> Tensor:
    return layer(x, inputs)


def _failures() -> tuple[type[Exception], ...]:
    """What torch raises where it cannot compile: of its tracing and of its backend."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return (TorchDynamoException, FailOnRecompileLimitHit)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
