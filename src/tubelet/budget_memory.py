"""How much memory an encoder takes for given rows: every tensor that is alive, moment by moment, by formula.

    weights + input rows (with their places) + the largest of the moments    =    peak of `encoder(p)`

A moment is a place in the code at which memory may be highest; its bytes are written down from what is alive there:
`in_place_moments` follows tubelet.encoder.cpu (CPU inference), `plain_moments` tubelet.encoder.layers without
gradients (CUDA inference), `training_moments` the same with what autograd saves. Not counted: the interpreter and
torch themselves, what a matrix library packs for itself, and what an allocator keeps or wastes; leave room for those.
Letters: T rows, D width, M width of the MLP, H heads, K of one head, W values in an input row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tubelet.budget_flops import segment_lengths
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.grid import Grid

Dtype = Literal["float32", "bfloat16", "float16"]
Mode = Literal["inference", "training", "checkpointed"]
ITEM_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT = 4  # bytes of a float32
MARGIN = 1.08  # on training: in which order autograd frees is not ours to say; measured without it: 0.96 to 1.18
SMALL = 16_384  # bytes of cu_seqlens, biases and scalars, which no formula lists
POS_BYTES = 12  # (t, h, w) of a row, int32


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


@dataclass(frozen=True)
class Load:
    """What the formulas read: rows, the runs of segments (segments, rows of each), and bytes of a value.

    item: of a weight; work: of an activation (float32 where a CPU has no arithmetic of the weights' type); threads:
    of a CPU's attention, 0 on an accelerator. once: the attention of neighbours of equal length is one call.
    """

    rows: int
    runs: tuple[tuple[int, int], ...]
    item: int
    work: int
    threads: int

    @property
    def longest_run(self) -> int:
        return max((n * m for n, m in self.runs), default=0)


def runs_of(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(segments, rows of each) for each run of neighbours of equal length.

    >>> runs_of((5, 5, 3, 5))
    ((2, 5), (1, 3), (1, 5))
    """
    out: list[tuple[int, int]] = []
    for n in lengths:
        if out and out[-1][1] == n:
            out[-1] = (out[-1][0] + 1, n)
        else:
            out.append((1, n))
    return tuple(out)


# ---- weights


def parameter_count(config: EncoderConfig, *, pool: bool | None = None) -> int:
    """Values in all weights of an encoder; without a device or a module."""
    d, m = config.hidden, config.mlp
    norm = 2 * d if config.norm == "layer" else d
    total = config.pixels.width * d + (d if config.patch_bias else 0)
    total += norm * (config.pre_norm + config.post_norm) + config.layers * layer_parameters(config)
    if config.pool if pool is None else pool:
        total += d + 3 * (d * d + d) + (d * d + d) + d + (d * m + m) + (m * d + d)
    if config.merger is not None:
        wide = config.merger.merge**2 * d
        total += 2 * d + wide * wide + wide + wide * config.merger.out + config.merger.out
    return total


def layer_parameters(config: EncoderConfig) -> int:
    """Values in the weights of one layer."""
    d, m = config.hidden, config.mlp
    norm = 2 * d if config.norm == "layer" else d
    return 2 * norm + (3 * d * d + 3 * d) + (d * d + d) + (d * m + m) + (m * d + d)


# ---- moments


def tables_bytes(config: EncoderConfig, rows: int) -> int:
    """The rotary tables that all layers share: one or two float32 pairs for each pair of channels of a head."""
    return rows * config.head_dim * FLOAT * (2 if config.rope.mode == "onevision" else 1)


def _making_tables(config: EncoderConfig, rows: int) -> int:
    floats = 7.5 if config.rope.mode == "onevision" else 2.5  # angles, cos, sin, their sums and stacks
    return int(rows * config.head_dim * FLOAT * floats)


def attention_bytes(load: Load, config: EncoderConfig) -> int:
    """What one sdpa call makes: its result, a log-sum for each row and head, and blocks of scores of each thread."""
    longest = max((m for _, m in load.runs), default=0)
    q_block = min(longest, 256 if longest >= 768 else 64 if longest >= 192 else 32)
    scores = q_block * min(longest, 512)
    each = scores * (FLOAT + (load.work if load.work < FLOAT else 0)) + q_block * (2 + config.head_dim) * FLOAT
    return load.longest_run * (config.hidden * load.work + config.heads * FLOAT) + load.threads * each


def _stats(config: EncoderConfig, rows: int, item: int) -> int:
    """What a norm makes beside its result: mean and deviation, or for RMSNorm two more tensors."""
    if config.norm == "layer":
        return 2 * FLOAT * rows
    return rows * (config.hidden * max(item, FLOAT) + 2 * FLOAT)


def _folded(config: EncoderConfig, load: Load) -> int:
    """Bytes while mean and std are folded into the patch embedding: the scaled parts and the whole, float32."""
    one = config.hidden * config.pixels.width
    return one * (2 * FLOAT + (FLOAT if load.item < FLOAT else 0)) + 8 * config.hidden * FLOAT


def in_place_moments(config: EncoderConfig, load: Load, block: int, cached: int) -> dict[str, int]:
    """Inference on a CPU in blocks of at most `block` rows, small operations on `cached` rows."""
    t, d, m, w, a = load.rows, config.hidden, config.mlp, config.pixels.width, load.work
    count = -(-t // block)
    part = -(-t // count)
    tables, one = tables_bytes(config, t), d * w
    x = t * d * a
    widened = 0 if a == load.item else (layer_parameters(config)) * a
    buffers = tables + x + t * 4 * d * a + min(t, block) * m * a + widened
    few = min(cached, t) * 2 * d * FLOAT * (1 + (a < FLOAT))
    back = t * d * load.item if a != load.item else 0
    moments = {
        "rotary tables": _making_tables(config, t),
        "folding the patch weight": tables + _folded(config, load),
        "patch embedding": tables + d * FLOAT + one * max(a, FLOAT) + one * (a if a != FLOAT else 0) + x
        + part * w * a * min(count, 2),
        "norm before the layers": tables + 2 * x + _stats(config, t, a) if config.pre_norm else 0,
        "norm inside a layer": buffers + part * d * a + _stats(config, part, a),
        "rotary positions": buffers + few,
        "attention": buffers + attention_bytes(load, config),
        "result in the weights' type": buffers + back if back else 0,
    }  # fmt: skip
    return moments | _end_moments(config, load, tables) | _merging_in_place(config, load, block)


def _merging_in_place(config: EncoderConfig, load: Load, block: int) -> dict[str, int]:
    """The merger as tubelet.encoder.cpu runs it: in the type of the work, its weights widened to it."""
    if config.merger is None:
        return {}
    t, a = load.rows, load.work
    wide = config.merger.merge**2 * config.hidden
    out = t // config.merger.merge**2
    kept = t * config.hidden * load.item + t * 2 * POS_BYTES
    x, widened = t * config.hidden * a, a != load.item
    weights = (wide * wide + wide + wide * config.merger.out + config.merger.out) * a if widened else 0
    part = -(-out // max(1, -(-out // block)))
    last = out * config.merger.out * load.item if widened else 0
    return {
        "norm of the merger": kept + x * (1 + widened) + _stats(config, t, a),
        "merger": kept + x + weights + out * config.merger.out * a + part * wide * a + last,
    }


def _end_moments(config: EncoderConfig, load: Load, tables: int) -> dict[str, int]:
    """After the layers, without gradients: final norm and merger."""
    t, x = load.rows, load.rows * config.hidden * load.item
    moments = {"norm after the layers": tables + 2 * x + _stats(config, t, load.item) if config.post_norm else 0}
    if config.merger is not None:
        moments["merger"] = 3 * x + t * (POS_BYTES + 2 * FLOAT) + 3 * t
    return moments


def _rope_floats(config: EncoderConfig, half: bool) -> float:
    """float32 values for each channel while one of q and k is turned: partial products, and a copy of half types."""
    return (3.0 if config.rope.mode == "onevision" else 2.0) + half


def plain_moments(config: EncoderConfig, load: Load) -> dict[str, int]:
    """Inference by the plain modules: what CUDA runs, and a CPU with another backend."""
    t, d, m, w, a = load.rows, config.hidden, config.mlp, config.pixels.width, load.item
    tables, x, half = tables_bytes(config, t), t * d * a, a < FLOAT
    joined = x if len(load.runs) > 1 else 0
    first = x if config.layers > 1 else 0  # the call holds what went into the first layer
    moments = {
        "rotary tables": _making_tables(config, t),
        "folding the patch weight": tables + _folded(config, load),
        "patch embedding": tables
        + d * FLOAT
        + d * w * (FLOAT + (a if half else 0))
        + max(2 * t * w * a, t * w * a + x),
        "norm before the layers": tables + 2 * x + _stats(config, t, a) if config.pre_norm else 0,
        "rotary positions": tables + first + 5 * x + int(t * d * FLOAT * _rope_floats(config, half)),
        "attention": tables + first + 6 * x + joined + attention_bytes(load, config) + (t - load.longest_run) * d * a,
        "MLP": tables + first + 8 * x + t * max((4 if _quick(config) else 2) * m, m + d) * a + _stats(config, t, a),
        "sum after the MLP": tables + first + 10 * x,
    }
    return moments | _end_moments(config, load, tables)


def _quick(config: EncoderConfig) -> bool:
    """Whether the activation is x sigmoid(1.702 x), which keeps one tensor more than GELU."""
    return str(config.act) == "quick_gelu"


def saved_bytes(config: EncoderConfig, load: Load) -> int:
    """What autograd keeps of one layer until its backward: for each row

    norm1 D, qkv 3 D, turned q and k 2 D, attention D (twice where runs are joined), x D, norm2 D, fc1 M, gelu M,
    x D, and float32 statistics of two norms and of attention.
    """
    t, d, m, a = load.rows, config.hidden, config.mlp, load.item
    joined = d if len(load.runs) > 1 else 0
    return (
        t * a * (10 * d + joined + (3 if _quick(config) else 2) * m)
        + 2 * _stats(config, t, a)
        + t * config.heads * FLOAT
    )


def training_moments(config: EncoderConfig, load: Load, *, checkpointing: bool) -> dict[str, int]:
    """Forward and backward, gradients of all weights included (they come one by one, while activations go)."""
    t, d, m, w, a = load.rows, config.hidden, config.mlp, config.pixels.width, load.item
    x, layer = t * d * a, saved_bytes(config, load)
    before = tables_bytes(config, t) + t * w * a + (2 * x + _stats(config, t, a) if config.pre_norm else x)
    kept = x if checkpointing else layer  # of a layer whose backward has not begun
    tokens = x if config.merger is None else 0  # the caller has them
    gelu, fc1 = x + t * m * a + d * m * a, 2 * x - t * m * a + 2 * d * m * a
    back = tokens + layer - x + max(gelu, fc1, _attention_back(config, load))
    grads = parameter_count(config, pool=False) * a
    later = grads - (layer_parameters(config) + d * w) * a  # of what lies behind the first layer
    moments = {
        "backward of the last layer": before + (config.layers - 1) * kept + back,
        "backward of the first layer": before + back + later,
        "backward of the patch embedding": before + tokens + 2 * x + grads + 3 * d * w * FLOAT,
        "backward of what follows the layers": before + config.layers * kept + _end_back(config, load),
    }
    return {name: int(MARGIN * n) for name, n in moments.items()}


def _attention_back(config: EncoderConfig, load: Load) -> int:
    """What backward of attention adds to what the layer saved, less what backward of the MLP has freed by then."""
    t, d, m, a = load.rows, config.hidden, config.mlp, load.item
    parts = 4 if len(load.runs) > 1 else 3  # gradients of q, k and v, and of a part of the rows
    return t * (parts * d - 2 * m) * a + attention_bytes(load, config)


def _end_back(config: EncoderConfig, load: Load) -> int:
    """Backward of the final norm, or of the merger: what both saved, gradients, and a loss such as the mean square,
    which makes four tensors like the tokens."""
    x, a = load.rows * config.hidden * load.item, load.item
    if config.merger is None:
        return 5 * x + _stats(config, load.rows, a)
    group = config.merger.merge**2
    wide = group * config.hidden
    loss = 4 * (load.rows // group) * config.merger.out * a
    return 5 * x + 2 * _stats(config, load.rows, a) + loss + wide * (wide + config.merger.out) * a


# ---- the whole


def memory(
    config: EncoderConfig,
    grids: Sequence[Grid],
    *,
    dtype: Dtype = "float32",
    mode: Mode = "inference",
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    pixels: Literal["uint8", "float"] = "uint8",
) -> Memory:
    """Peak memory of one call of the encoder (training: forward and backward) for whole items of these grids.

    dtype: of the weights. device "cpu": in-place inference as on this machine's processor, with `threads` threads
    (None: torch's). pixels: "float" rows are normalised ones. Raises ConfigError for an unknown dtype or mode.

        >>> from tubelet.families.onevision import VARIANTS
        >>> small = memory(VARIANTS["llava_vit_packing_small"], [Grid(1, 54, 38)], device="cuda", dtype="bfloat16")
        >>> small.where, small.weights_bytes
        ('MLP', 25433856)
    """
    if dtype not in ITEM_BYTES or mode not in ("inference", "training", "checkpointed"):
        raise ConfigError(f"no plan for {mode} in {dtype}", expected=(*ITEM_BYTES,), got=(mode, dtype))
    rows, item = sum(g.rows for g in grids), ITEM_BYTES[dtype]
    work, torch_threads = _machine(dtype) if device == "cpu" else (item, 0)
    runs = runs_of(segment_lengths(config, grids))
    plain = mode != "inference" or device == "cuda"
    load = Load(rows, runs, item, item if plain else work, torch_threads if threads is None else threads)
    if rows == 0:
        moments = {"nothing": 0}
    elif mode != "inference":
        moments = training_moments(config, load, checkpointing=mode == "checkpointed")
    elif device == "cuda":
        moments = plain_moments(config, load)
    else:
        from tubelet.encoder.cpu import BLOCK, CACHED

        moments = in_place_moments(config, load, BLOCK, CACHED)
    weights = parameter_count(config) * item
    where = max(moments, key=lambda name: moments[name])
    input_bytes = rows * (config.pixels.width * (1 if pixels == "uint8" else item) + POS_BYTES)
    optimizer = 0 if mode == "inference" else 2 * weights
    return Memory(weights, input_bytes, moments[where] + SMALL, optimizer, where, moments)


def _machine(dtype: Dtype) -> tuple[int, int]:
    """Bytes of an activation on this CPU for weights of `dtype`, and torch's threads."""
    import torch

    from tubelet.encoder.cpu import work_dtype

    return work_dtype(getattr(torch, dtype)).itemsize, torch.get_num_threads()
