"""How much memory an encoder takes for given rows: every tensor that is alive, counted moment by moment.

    weights + input rows (with their places) + the largest of the moments    =    peak of `encoder(p)`

The moments are those of tubelet.inspect.budget.alive, which runs the encoder itself without values. What only
`Encoder.features` runs (a pooling head, mergers of deepstack) is in the weights and in no moment. Not counted: the
interpreter and torch themselves, what a matrix library packs for itself in float32, and what an allocator keeps or
wastes; leave room for those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.packed.grid import Grid

if TYPE_CHECKING:
    from tubelet.inspect.budget.scratch import Kernels

POS_BYTES = 12  # (t, h, w) of a row, int32
Dtype = Literal["float32", "bfloat16", "float16"]
Mode = Literal["inference", "training", "checkpointed"]
ITEM_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
SMALL = 16_384  # bytes of host data, which are made past the operators that are counted


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for. work: activations, buffers and gradients at their highest moment, `where`.

    optimizer: AdamW's two moments in the weights' type; 0 for inference. total: the sum.
    """

    weights_bytes: int
    rows_bytes: int
    work_bytes: int
    optimizer_bytes: int
    where: str
    moments_bytes: dict[str, int] = field(repr=False)

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.rows_bytes + self.work_bytes + self.optimizer_bytes


def memory(
    config: EncoderConfig,
    grids: Sequence[Grid],
    *,
    dtype: Dtype = "float32",
    mode: Mode = "inference",
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    pixels: Literal["uint8", "float"] = "uint8",
    plain: bool = False,
    scenes: Sequence[int] | None = None,
) -> Memory:
    """Peak memory of one call of the encoder (training: forward and backward) for whole items of these grids.

    dtype: of the weights. device "cpu": in-place inference as on this machine's processor, with `threads` threads
    (None: torch's). pixels: "float" rows are normalised ones. plain: inference on a CPU by the plain modules, which run
    where layers have hooks or adapters. scenes: how many consecutive items make each scene; None: an item each. Cost:
    30 to 300 ms of CPU, for training the most. Raises ConfigError for an unknown dtype or mode.

        >>> from tubelet.families.onevision import VARIANTS
        >>> small = memory(VARIANTS["llava_vit_packing_small"], [Grid(1, 54, 38)], device="cuda", dtype="bfloat16")
        >>> small.where, small.weights_bytes
        ('fc1 of a layer', 25433856)
    """
    check_asked(dtype, mode)
    import torch

    from tubelet.inspect.budget.alive import moments, parameter_count

    rows, item = sum(g.rows for g in grids), ITEM_BYTES[dtype]
    found = {"nothing": 0}
    if rows:
        found = moments(
            config,
            grids,
            getattr(torch, dtype),
            kernels_of(dtype, device, threads),
            training=mode != "inference",
            checkpointing=mode == "checkpointed",
            device=device,
            plain=plain,
            floats=pixels == "float",
            scenes=scenes,
        )
    weights = parameter_count(config) * item
    where = max(found, key=lambda name: found[name])
    input_bytes = rows * (config.pixels.width * (1 if pixels == "uint8" else item) + POS_BYTES)
    optimizer = 0 if mode == "inference" else 2 * weights
    return Memory(weights, input_bytes, found[where] + SMALL, optimizer, where, found)


def check_asked(dtype: str, mode: str) -> None:
    """Raises ConfigError for a type or a mode that nothing is planned for."""
    if dtype not in ITEM_BYTES or mode not in ("inference", "training", "checkpointed"):
        raise ConfigError(f"no plan for {mode} in {dtype}", expected=(*ITEM_BYTES,), got=(mode, dtype))


def beside_product(dtype: Dtype, rows: int, inner: int, out: int, *, device: str = "cpu") -> int:
    """Bytes beside the result of one product (rows x inner) (inner x out) while it is made, on this machine's CPU."""
    import torch

    return kernels_of(dtype, device).product(rows, inner, out, getattr(torch, dtype))


def kernels_of(dtype: Dtype, device: str, threads: int | None = None) -> "Kernels":
    """What computes on this device: this machine's CPU, by `threads` threads or as many as torch has.

    Without arithmetic of bfloat16, oneDNN adds a product up in a float32 tensor of its size and rounds that at the
    end, where it takes the product at all: not below AVX-512. Products of float16 are then not oneDNN's either, and
    round as they go.
    """
    import torch

    from tubelet.encoder.cpu import has_arithmetic
    from tubelet.inspect.budget.scratch import Kernels

    if device != "cpu":
        return Kernels(0)
    kind = getattr(torch, dtype)
    taken = kind == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    sums = taken and not has_arithmetic(kind)
    packs = kind != torch.float32 and has_arithmetic(kind)
    return Kernels(torch.get_num_threads() if threads is None else threads, sums, packs)
