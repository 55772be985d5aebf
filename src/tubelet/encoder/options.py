"""How an encoder runs, apart from what it computes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from tubelet.encoder.attention import Backend
from tubelet.encoder.kernels import Products
from tubelet.errors import ConfigError


@dataclass(frozen=True)
class RunOptions:
    """How an encoder runs; the features are the same up to rounding. Given to `Encoder` or to `set_run_options`. Raises
    ConfigError for words that mean nothing; of `compile`, which names torch's backends, the first call does.

    >>> encoder = tubelet.untrained("llava_vit_packing_small")
    >>> encoder.set_run_options(RunOptions(gradient_checkpointing=True)).options.backend
    'auto'
    """

    backend: Backend = "auto"  # attention: "auto", or one of tubelet.encoder.attention that must run
    gradient_checkpointing: bool = False  # each layer runs again in the backward pass instead of keeping activations
    # of matrices, on a CPU in inference: the faster one here, or one of kernels.Products; bfloat16 rows of "onednn"
    # also attend by its products
    products: Products = "auto"
    # "auto": layers are compiled where that pays: on CUDA, without gradients after enough rows, with them when
    # `rows_ahead` says so; never on a CPU, where the layers in place are faster (docs/record/log.md). Else a backend of
    # torch.compile for every call, such as "inductor", or None for none.
    compile: str | Callable[..., Any] | None = "auto"
    rows_ahead: int = 0  # rows that are to come, where that is known; "auto" waits for no others then
    say: Callable[[str], None] | None = field(default=None, compare=False, repr=False)  # is told of long first calls

    def __post_init__(self) -> None:
        for name, known in (("backend", get_args(Backend)), ("products", get_args(Products))):
            if (got := getattr(self, name)) not in known:
                raise ConfigError(f"{name} is one of {', '.join(known)}", expected=known, got=got)
        if not (self.compile is None or isinstance(self.compile, str) or callable(self.compile)):
            raise ConfigError("compile is auto, the name of a backend of torch.compile, or None", got=self.compile)
        if not isinstance(self.rows_ahead, int) or self.rows_ahead < 0:
            raise ConfigError("rows_ahead counts rows", expected="0 or more", got=self.rows_ahead)
